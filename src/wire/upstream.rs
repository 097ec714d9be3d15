//! Where DNS questions go that are not ours: a server's address, as people write it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
};

use crate::{
    names::host_address,
    value::{IfName, is_link_local, quoted},
};

/// The address tether's own DNS server listens on, and so never an upstream.
pub const EMBEDDED_DNS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// A DNS server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Its address.
    pub address: IpAddr,
    /// For a link-local IPv6 address: the interface it is on.
    pub scope: Option<IfName>,
    /// Its port.
    pub port: u16,
}

impl Upstream {
    /// The address to send to, `scope` being the index of the interface it is on (0 for none).
    pub fn socket_address(&self, scope: u32) -> SocketAddr {
        match self.address {
            IpAddr::V4(v4) => SocketAddr::from((v4, self.port)),
            IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, self.port, 0, scope)),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, &self.scope) {
            (IpAddr::V6(v6), Some(scope)) => write!(f, "[{v6}%{scope}]:{}", self.port),
            (IpAddr::V6(v6), None) => write!(f, "[{v6}]:{}", self.port),
            (IpAddr::V4(v4), _) => write!(f, "{v4}:{}", self.port),
        }
    }
}

impl std::str::FromStr for Upstream {
    type Err = String;

    /// As [`parse`](Upstream::parse), with port 53.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, 53)
    }
}

impl Upstream {
    /// Reads `10.0.0.53`, `10.0.0.53:5353`, `fd00::53`, `[fd00::53]:53`, `fe80::53%eth0` and
    /// `[fe80::53%eth0]:53`; `port` is that of those without.
    pub fn parse(text: &str, port: u16) -> Result<Self, String> {
        let default = port;
        let nonsense =
            || format!("{} is not a DNS server: write 10.0.0.53 or [fd00::53]:53, say", quoted(text));
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']').ok_or_else(nonsense)? {
                (host, "") => (host, None),
                (host, port) => (host, Some(port.strip_prefix(':').ok_or_else(nonsense)?)),
            },
            None => match text.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (text, None),
            },
        };
        let (host, scope) = match host.split_once('%') {
            Some((host, scope)) => (host, Some(scope.parse().map_err(|e| format!("{e}"))?)),
            None => (host, None),
        };
        let address: IpAddr = host.parse().map_err(|_| nonsense())?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(nonsense)?,
            None => default,
        };
        let link_local = is_link_local(address);
        match scope {
            _ if address == IpAddr::V4(EMBEDDED_DNS) => {
                Err(format!("{address} is tether's own server, which would ask itself for ever"))
            }
            None if link_local => Err(format!("{address} is on some link only: write {address}%eth0, say")),
            Some(_) if !link_local => Err(format!("{address} is not link-local: write it without %")),
            scope => {
                host_address(host)?;
                Ok(Self { address, scope, port })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_read_in_every_spelling() {
        for (text, shown) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("10.0.0.53:5353", "10.0.0.53:5353"),
            ("fd00::53", "[fd00::53]:53"),
            ("[fd00::53]:5353", "[fd00::53]:5353"),
            ("fe80::53%eth0", "[fe80::53%eth0]:53"),
            ("[fe80::53%eth0]:53", "[fe80::53%eth0]:53"),
        ] {
            assert_eq!(text.parse::<Upstream>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "dns.example",
            "10.0.0.53:0",
            "10.0.0.53:x",
            "[fd00::53",
            "[fd00::53]5",
            "fd00::53%eth0",
            "::ffff:127.0.0.11",
        ] {
            assert!(text.parse::<Upstream>().is_err(), "{text}");
        }
    }
}
