//! The ways to the host: what carries the tether, exactly one.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{HostAddress, Management};
use crate::{
    message::DEFAULT_PORT,
    names::host_address,
    problem::Problems,
    serial, streams,
    value::{MacAddr, Prefix, is_link_local, quoted},
};

/// What carries the tether.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// TCP, by the management NIC.
    Network(Network),
    /// A vsock stream.
    Vsock(VsockAddress),
    /// The virtio-serial port of this name, or the serial device at this path.
    Serial(String),
    /// The Unix socket at this path.
    Unix(String),
}

/// The way by the management NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The management NIC.
    pub mac: MacAddr,
    /// Its static address; `None` for link-local IPv6.
    pub address: Option<Prefix>,
    /// The host's address, of the family of `address` or link-local.
    pub host: IpAddr,
    /// The host's port.
    pub port: u16,
}

/// Where a host listens on vsock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VsockAddress {
    /// The context id: 2, the machine's host, unless told otherwise.
    pub cid: u32,
    /// The port. Absent: [`DEFAULT_PORT`].
    pub port: u32,
}

impl Default for VsockAddress {
    fn default() -> Self {
        // VMADDR_CID_HOST
        Self { cid: 2, port: DEFAULT_PORT.into() }
    }
}

/// Exactly one way, and nothing that belongs to another.
pub(super) fn check_way(
    management: Option<&Management>,
    host: &HostAddress,
    problems: &mut Problems,
) -> Option<Way> {
    let ways = [
        ("address", host.address.is_some()),
        ("vsock", host.vsock.is_some()),
        ("serial", host.serial.is_some()),
        ("unix", host.unix.is_some()),
    ];
    let mut given = ways.iter().filter(|(_, given)| *given).map(|(name, _)| name);
    let Some(first) = given.next() else {
        problems.add(
            "host",
            "no way leads there: write one of address (with a management NIC), vsock, serial and unix",
        );
        return None;
    };
    let others: Vec<_> = given.collect();
    for other in &others {
        problems.add(
            format!("host.{other}"),
            format!("another way than host.{first}: write the one that is to be gone"),
        );
    }
    if let Some(address) = &host.address {
        let network = check_network(management, address, host.port.unwrap_or(DEFAULT_PORT), problems);
        return network.filter(|_| others.is_empty()).map(Way::Network);
    }
    for (path, there) in [("management", management.is_some()), ("host.port", host.port.is_some())] {
        if there {
            problems.add(path, format!("belongs to host.address, and the way is host.{first}: leave it out"));
        }
    }
    let way = if let Some(vsock) = host.vsock {
        check_vsock(vsock, problems).then_some(Way::Vsock(vsock))
    } else if let Some(port) = &host.serial {
        check_serial(port, problems).then(|| Way::Serial(port.clone()))
    } else {
        let path = host.unix.as_deref().unwrap_or_default();
        check_unix(path, problems).then(|| Way::Unix(path.to_owned()))
    };
    way.filter(|_| others.is_empty())
}

fn check_vsock(vsock: VsockAddress, problems: &mut Problems) -> bool {
    // VMADDR_CID_ANY and VMADDR_PORT_ANY
    for (path, number) in [("host.vsock.cid", vsock.cid), ("host.vsock.port", vsock.port)] {
        if number == u32::MAX {
            problems.add(path, format!("{number} means any: write the one where the host listens"));
        }
    }
    vsock.cid != u32::MAX && vsock.port != u32::MAX
}

fn check_serial(port: &str, problems: &mut Problems) -> bool {
    // What one line of a file in /sys can have, or a path.
    let good = (1..=255).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_graphic());
    if port == streams::PORT {
        problems.add("host.serial", format!("{port} is the port of the standard streams: name another"));
    } else if !good {
        problems.add(
            "host.serial",
            format!(
                "{} is no port: write a virtio-serial port's name, {}, or a path, /dev/ttyS1, say",
                quoted(port),
                serial::PORT
            ),
        );
    }
    good && port != streams::PORT
}

fn check_unix(path: &str, problems: &mut Problems) -> bool {
    // sockaddr_un has room for 107 bytes and a zero.
    let good = path.starts_with('/') && path.len() < 108 && !path.contains('\0');
    if !good {
        problems.add(
            "host.unix",
            format!("{} is no socket's path: write an absolute one of 107 bytes at most", quoted(path)),
        );
    }
    good
}

fn check_network(
    management: Option<&Management>,
    host: &str,
    port: u16,
    problems: &mut Problems,
) -> Option<Network> {
    let Some(management) = management else {
        problems.add(
            "management",
            "missing: write which NIC leads to the host, {\"mac\": \"02:7e:00:00:00:02\"}, say",
        );
        return None;
    };
    let mac = problems.keep("management.mac", management.mac.parse::<MacAddr>());
    let address =
        (management.address.as_ref()).map(|text| problems.keep("management.address", text.parse::<Prefix>()));
    let to = problems.keep("host.address", host_address(host));
    if port == 0 {
        problems.add("host.port", "0 is no port: write 1 to 65535");
    }
    let link_local = to.is_some_and(is_link_local);
    match (to, address) {
        (Some(to), None) if !link_local => {
            problems.add(
                "management.address",
                format!("missing: {to} is not link-local, so the NIC needs an address beside it"),
            );
        }
        (Some(to), Some(Some(address))) if !link_local && !address.contains(to) => {
            problems.add("host.address", format!("{to} is not reachable through {address}"));
        }
        _ => {}
    }
    Some(Network {
        mac: mac?,
        address: match address {
            Some(address) => Some(address?),
            None => None,
        },
        host: to?,
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Boot, BootDocument},
        *,
    };

    /// A document with this way to the host, in JSON.
    fn by(way: &str) -> Result<Boot, Vec<String>> {
        let (pin, token) = ("ab".repeat(32), "17".repeat(32));
        let way = way.replace("PIN", &format!(r#""pins": ["{pin}"]"#));
        let document = format!(r#"{{"guest": "a", {way}, "token": "{token}"}}"#);
        let document: BootDocument = serde_json::from_str(&document).unwrap();
        document.check().map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_way_leads_to_the_host() {
        let way = |way| by(way).unwrap().tether.unwrap().way;
        let vsock = |cid, port| Way::Vsock(VsockAddress { cid, port });
        assert_eq!(way(r#""host": {"vsock": {}, PIN}"#), vsock(2, 7373));
        assert_eq!(way(r#""host": {"vsock": {"cid": 7, "port": 99}, PIN}"#), vsock(7, 99));
        assert_eq!(way(r#""host": {"serial": "tether.channel", PIN}"#), Way::Serial(serial::PORT.into()));
        assert_eq!(way(r#""host": {"serial": "/dev/ttyS1", PIN}"#), Way::Serial("/dev/ttyS1".into()));
        assert_eq!(way(r#""host": {"unix": "/run/host.sock", PIN}"#), Way::Unix("/run/host.sock".into()));
    }

    #[test]
    fn there_is_exactly_one_way() {
        let nic = r#""management": {"mac": "02:7e:00:00:00:02"}"#;
        for (way, expected) in [
            (r#""host": {PIN}"#.to_owned(), &["host"][..]),
            (format!(r#"{nic}, "host": {{PIN}}"#), &["host"]),
            (format!(r#"{nic}, "host": {{"address": "fe80::1", "unix": "/a", PIN}}"#), &["host.unix"]),
            (
                r#""host": {"vsock": {}, "serial": "a", "unix": "/a", PIN}"#.into(),
                &["host.serial", "host.unix"],
            ),
            (format!(r#"{nic}, "host": {{"serial": "a", "port": 1, PIN}}"#), &["management", "host.port"]),
            (
                r#""host": {"vsock": {"cid": 4294967295, "port": 4294967295}, PIN}"#.into(),
                &["host.vsock.cid", "host.vsock.port"],
            ),
            (r#""host": {"serial": "", PIN}"#.into(), &["host.serial"]),
            (r#""host": {"serial": "two words", PIN}"#.into(), &["host.serial"]),
            (r#""host": {"serial": "tether.streams", PIN}"#.into(), &["host.serial"]),
            (r#""host": {"unix": "run/a", PIN}"#.into(), &["host.unix"]),
            (format!(r#""host": {{"unix": "/{}", PIN}}"#, "a".repeat(107)), &["host.unix"]),
        ] {
            let problems = by(&way).unwrap_err();
            let paths: Vec<_> = problems.iter().filter_map(|p| p.split(": ").next()).collect();
            assert_eq!(paths, expected, "{way}");
        }
    }
}
