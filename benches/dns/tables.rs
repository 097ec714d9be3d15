//! Who there is, and how each server wants to be told.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde_json::{Value, json};
use tether_host::names::{EndpointNames, NameTables, NetworkNames};

/// The network everybody is on; the own suffix.
pub(crate) const NETWORK: &str = "net";
/// The first address of everybody's network, and its prefix length.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
pub(crate) const PREFIX: u8 = 10;
/// The network's own address, where aardvark-dns listens.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
/// How far the address of a container that is replaced is from its old one.
const ELSEWHERE: u32 = 1 << 20;

/// Containers, each with one name, one IPv4 and one IPv6 address.
#[derive(Clone)]
pub(crate) struct Table(Vec<Container>);

#[derive(Clone)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Table {
    pub(crate) fn new(count: u32) -> Self {
        Self((0..count).map(|n| container(n, n + 2)).collect())
    }

    pub(crate) fn containers(&self) -> &[Container] {
        &self.0
    }

    /// The next one, round by round, is replaced by one of the same name with other addresses.
    pub(crate) fn replace_one(&mut self, round: u32) {
        let count = u32::try_from(self.0.len()).expect("they are few");
        let n = round % count;
        let away = (round / count).is_multiple_of(2);
        self.0[n as usize] = container(n, n + 2 + if away { ELSEWHERE } else { 0 });
    }

    /// For dnsmasq: lines as in `/etc/hosts`.
    pub(crate) fn hosts(&self) -> String {
        let mut text = String::new();
        for Container { name, v4, v6 } in &self.0 {
            let _ = writeln!(text, "{v4} {name}\n{v6} {name}");
        }
        text
    }

    /// For aardvark-dns: where it listens, then a line for each container.
    pub(crate) fn aardvark(&self) -> String {
        let mut text = format!("{GATEWAY}\n");
        for (n, Container { name, v4, v6 }) in self.0.iter().enumerate() {
            let _ = writeln!(text, "{n:064x} {v4} {v6} {name}");
        }
        text
    }

    /// For dnsperf: what it is to ask.
    pub(crate) fn questions(&self) -> String {
        let mut text = String::new();
        for Container { name, .. } in &self.0 {
            let _ = writeln!(text, "{name} A");
        }
        text
    }

    /// For tether, as its host says it.
    pub(crate) fn names(&self) -> NameTables {
        let endpoint = |container: &Container| EndpointNames {
            names: vec![container.name.clone()],
            addresses: vec![container.v4.to_string(), container.v6.to_string()],
            ..EndpointNames::default()
        };
        let network = NetworkNames {
            network: NETWORK.to_owned(),
            endpoints: self.0.iter().map(endpoint).collect(),
            ..NetworkNames::default()
        };
        NameTables { networks: vec![network], ..NameTables::default() }
    }

    /// For tether, in its file.
    pub(crate) fn tether(&self, dns: &Value) -> String {
        json!({ "state": { "dns": dns }, "names": self.names() }).to_string()
    }
}

fn container(n: u32, host: u32) -> Container {
    let v4 = Ipv4Addr::from(u32::from(FIRST) + host);
    let [_, b, c, d] = v4.octets().map(u16::from);
    Container { name: format!("c{n}"), v4, v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, b, c, d) }
}
