//! The host's own DNS servers, which its containers use for names that are not theirs.

use std::{fs, net::IpAddr};

use tether_wire::upstream::Upstream;

/// Where systemd-resolved keeps the real servers, when `/etc/resolv.conf` names only itself.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What the host's resolver file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Servers a container can reach.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
}

/// What the host's resolver uses now.
pub fn of_host() -> Resolver {
    let read = |path: &str| parse(&fs::read_to_string(path).unwrap_or_default());
    let own = read("/etc/resolv.conf");
    if own.servers.is_empty() { Resolver { servers: read(RESOLVED).servers, ..own } } else { own }
}

/// Reads a resolver file, leniently: what is not known is passed over. A server on the host's
/// own loopback is nobody's in a container.
fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().unwrap_or_default();
                let reachable = server.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback());
                // A link-local server is on a link of the host's.
                if reachable && server.parse::<Upstream>().is_ok() {
                    resolver.servers.push(server.to_owned());
                }
            }
            Some("search") => {
                resolver.search = words.filter(|word| *word != ".").map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    resolver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_a_container_can_reach_are_used() {
        let resolver = parse(
            "# comment\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\n\
             nameserver\nnameserver nonsense\noptions edns0 odd:thing\nsearch a.example . b.example\n",
        );
        assert_eq!(resolver.servers, ["10.0.0.53"]);
        assert_eq!(resolver.search, ["a.example", "b.example"]);
    }
}
