//! Name tables, ready to be searched: names folded to lower case, addresses beside them.
//!
//! A table is made once, when names change, and never changes afterwards; the DNS server swaps
//! whole tables.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tether_wire::names::{CheckedNames, CheckedNetwork};

/// All names a guest may look up.
#[derive(Debug, Default)]
pub struct Names {
    /// Time to live of every answer, in seconds.
    pub ttl: u32,
    networks: Vec<Network>,
    /// The one name an address leads back to.
    pointers: HashMap<IpAddr, Box<str>>,
}

#[derive(Debug)]
struct Network {
    /// Folded.
    name: Box<str>,
    /// By folded name: the addresses of everybody who has it, none twice.
    names: HashMap<Box<str>, Vec<IpAddr>>,
}

impl Names {
    /// Prepares checked tables.
    pub fn new(checked: &CheckedNames) -> Self {
        let mut pointers = HashMap::new();
        for endpoint in checked.networks.iter().flat_map(|network| &network.endpoints) {
            // The first name is the PTR name, bare: `name.network` broke Kerberos (moby#26298).
            for (address, name) in endpoint.addresses.iter().zip(endpoint.names.first().into_iter().cycle()) {
                pointers.entry(*address).or_insert_with(|| name.as_str().into());
            }
        }
        Self {
            ttl: checked.summary.ttl_seconds,
            networks: checked.networks.iter().map(Network::new).collect(),
            pointers,
        }
    }

    /// The addresses of `name`, which is folded and has no final dot: `name` on the first
    /// network that knows it, or `name.network`. Names of more parts are tried whole first,
    /// because Docker's names may have dots. `None` when nobody has the name.
    pub fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        let whole = self.networks.iter().find_map(|network| network.names.get(name));
        let qualified = || {
            self.networks.iter().find_map(|network| {
                let bare = name.strip_suffix(&*network.name)?.strip_suffix('.')?;
                network.names.get(bare)
            })
        };
        whole.or_else(qualified).map(Vec::as_slice)
    }

    /// The name of `address`.
    pub fn pointer(&self, address: IpAddr) -> Option<&str> {
        self.pointers.get(&address).map(|name| &**name)
    }
}

impl Network {
    fn new(network: &CheckedNetwork) -> Self {
        let mut names: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
        for endpoint in &network.endpoints {
            for name in &endpoint.names {
                let addresses = names.entry(name.to_ascii_lowercase().into()).or_default();
                addresses.extend(&endpoint.addresses);
            }
        }
        let mut seen = HashSet::new();
        for addresses in names.values_mut() {
            seen.clear();
            addresses.retain(|address| seen.insert(*address));
        }
        Self { name: network.network.to_ascii_lowercase().into(), names }
    }
}

/// The address a reverse name is about: `2.0.18.172.in-addr.arpa` (RFC 1035 section 3.5) or 32
/// nibbles under `ip6.arpa` (RFC 3596 section 2.5). Folded, without a final dot.
pub fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut parts = labels.rsplit('.');
        for octet in &mut octets {
            let part = parts.next()?;
            *octet = part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()))?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let mut bits: u128 = 0;
    let mut parts = name.strip_suffix(".ip6.arpa")?.rsplit('.');
    for _ in 0..32 {
        let part = parts.next().filter(|part| part.len() == 1)?;
        bits = bits << 4 | u128::from(part.chars().next()?.to_digit(16)?);
    }
    parts.next().is_none().then(|| Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use tether_wire::names::{EndpointNames, NameTables, NetworkNames};

    use super::*;

    fn names() -> Names {
        let endpoint = |names: &[&str], address: &str| EndpointNames {
            names: names.iter().map(ToString::to_string).collect(),
            addresses: vec![address.into()],
            ports: vec![],
        };
        let network = |name: &str, endpoints| NetworkNames {
            network: name.into(),
            endpoints,
            ..NetworkNames::default()
        };
        let tables = NameTables {
            networks: vec![
                network(
                    "Front",
                    vec![endpoint(&["Web", "www"], "10.1.0.2"), endpoint(&["api", "www"], "10.1.0.3")],
                ),
                network("back", vec![endpoint(&["web"], "10.2.0.2"), endpoint(&["db.v2"], "10.2.0.3")]),
            ],
            ..NameTables::default()
        };
        Names::new(&tables.check().unwrap())
    }

    fn found(name: &str) -> Vec<String> {
        names().addresses(name).unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_network_that_has_a_name_wins() {
        assert_eq!(found("web"), ["10.1.0.2"]);
        assert_eq!(found("web.back"), ["10.2.0.2"]);
        assert_eq!(found("web.front"), ["10.1.0.2"]);
        assert_eq!(found("db.v2"), ["10.2.0.3"]);
        assert_eq!(found("db.v2.back"), ["10.2.0.3"]);
        assert_eq!(found("db.v2.front"), [""; 0]);
        assert_eq!(found("nobody"), [""; 0]);
    }

    #[test]
    fn a_shared_alias_has_everybodys_addresses() {
        assert_eq!(found("www"), ["10.1.0.2", "10.1.0.3"]);
    }

    #[test]
    fn reverse_names_are_read_and_answered_by_the_first_name() {
        assert_eq!(reverse("2.0.1.10.in-addr.arpa"), Some("10.1.0.2".parse().unwrap()));
        let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(reverse(six), Some("fd00::1".parse().unwrap()));
        for name in
            ["0.1.10.in-addr.arpa", "1.2.0.1.10.in-addr.arpa", "+2.0.1.10.in-addr.arpa", "d.f.ip6.arpa", "x"]
        {
            assert_eq!(reverse(name), None, "{name}");
        }
        assert_eq!(names().pointer("10.1.0.2".parse().unwrap()), Some("Web"));
    }
}
