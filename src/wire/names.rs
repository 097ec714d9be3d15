//! Name tables: who can be found by name on each of a guest's networks.
//!
//! They travel apart from the desired state, under a version of their own: names come and go
//! with other containers, and none of that needs the guest's kernel.

use std::{collections::HashMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::problem::{Problem, Problems};
use crate::value::quoted;

/// The most networks in one document.
pub const MAX_NETWORKS: usize = 1_024;
/// The most endpoints over all networks of one document.
pub const MAX_ENDPOINTS: usize = 100_000;
/// The most names, and the most addresses, of one endpoint.
pub const MAX_PER_ENDPOINT: usize = 64;
/// The longest time to live, in seconds, that a local name may have: a dead container must not
/// be found for longer than this.
pub const MAX_TTL: u32 = 60;

/// All names a guest may look up, by network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NameTables {
    /// The time to live of every answer, in seconds, 0 to 60.
    pub ttl_seconds: u32,
    /// The guest's networks in the order they are searched: the first that has the name wins.
    pub networks: Vec<NetworkNames>,
}

impl Default for NameTables {
    fn default() -> Self {
        Self { ttl_seconds: 5, networks: Vec::new() }
    }
}

/// The names on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkNames {
    /// The network's name; `name.network` finds an endpoint on this network only.
    pub network: String,
    /// Everybody on it, this guest included.
    #[serde(default)]
    pub endpoints: Vec<EndpointNames>,
}

/// One container's attachment to a network: how it is called, where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointNames {
    /// Container name, aliases, short id, host name. Case does not matter. The first is the
    /// answer to a reverse look-up.
    pub names: Vec<String>,
    /// Its addresses, without prefix length.
    pub addresses: Vec<String>,
}

/// Name tables whose every part has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedNames {
    /// Time to live in seconds, at most [`MAX_TTL`].
    pub ttl_seconds: u32,
    /// Networks in search order.
    pub networks: Vec<CheckedNetwork>,
}

/// A network of [`CheckedNames`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedNetwork {
    /// The network's name as it was given.
    pub network: String,
    /// Its endpoints.
    pub endpoints: Vec<CheckedEndpoint>,
}

/// An endpoint of [`CheckedNames`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedEndpoint {
    /// At least one name, each a domain name that fits in a DNS packet.
    pub names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl NameTables {
    /// Checks the whole document, or says everything that is wrong with it.
    pub fn check(&self) -> Result<CheckedNames, Vec<Problem>> {
        let mut problems = Problems::default();
        if self.ttl_seconds > MAX_TTL {
            problems
                .add("ttl_seconds", format!("{} is too long: {MAX_TTL} seconds at most", self.ttl_seconds));
        }
        let endpoints: usize = self.networks.iter().map(|network| network.endpoints.len()).sum();
        let many = [("networks", self.networks.len(), MAX_NETWORKS), ("endpoints", endpoints, MAX_ENDPOINTS)];
        if let Some((what, count, most)) = many.into_iter().find(|(_, count, most)| count > most) {
            problems.add("networks", format!("{count} {what}, {most} at most"));
            return problems.into_result(CheckedNames { ttl_seconds: 0, networks: Vec::new() });
        }
        let networks = (self.networks.iter().enumerate())
            .map(|(n, network)| check_network(&format!("networks[{n}]"), network, &mut problems))
            .collect();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (n, network) in self.networks.iter().enumerate() {
            let first = *seen.entry(network.network.to_ascii_lowercase()).or_insert(n);
            if first != n {
                problems.add(
                    format!("networks[{n}].network"),
                    format!("{} is networks[{first}] again: case does not matter", quoted(&network.network)),
                );
            }
        }
        problems.into_result(CheckedNames { ttl_seconds: self.ttl_seconds, networks })
    }
}

fn check_network(path: &str, network: &NetworkNames, problems: &mut Problems) -> CheckedNetwork {
    problems.keep(format_args!("{path}.network"), domain_name(&network.network));
    let endpoints = (network.endpoints.iter().enumerate())
        .map(|(e, endpoint)| check_endpoint(&format!("{path}.endpoints[{e}]"), endpoint, problems))
        .collect();
    CheckedNetwork { network: network.network.clone(), endpoints }
}

fn check_endpoint(path: &str, endpoint: &EndpointNames, problems: &mut Problems) -> CheckedEndpoint {
    if endpoint.names.is_empty() {
        problems.add(format!("{path}.names"), "no name: write at least one");
    }
    for (field, count) in [("names", endpoint.names.len()), ("addresses", endpoint.addresses.len())] {
        if count > MAX_PER_ENDPOINT {
            problems.add(format!("{path}.{field}"), format!("{count} of them, {MAX_PER_ENDPOINT} at most"));
        }
    }
    for (n, name) in endpoint.names.iter().enumerate().take(MAX_PER_ENDPOINT) {
        problems.keep(format_args!("{path}.names[{n}]"), domain_name(name));
    }
    let addresses = (endpoint.addresses.iter().enumerate().take(MAX_PER_ENDPOINT))
        .filter_map(|(a, text)| problems.keep(format_args!("{path}.addresses[{a}]"), host_address(text)))
        .collect();
    CheckedEndpoint { names: endpoint.names.clone(), addresses }
}

/// An address a container may have: not unspecified, not a group.
pub(crate) fn host_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = (text.parse())
        .map_err(|_| format!("{} is not an IP address: write 172.18.0.2, say", quoted(text)))?;
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(format!("{address} is no single machine's address"));
    }
    refuse_mapped(address)?;
    Ok(address)
}

/// Refuses `::ffff:10.0.0.1`: the kernel takes it for IPv4 where it connects and for IPv6 where it
/// is compared, and so it slips through rules about either.
pub(crate) fn refuse_mapped(address: IpAddr) -> Result<(), String> {
    if address.to_canonical() == address {
        return Ok(());
    }
    Err(format!("{address} is an IPv4 address in IPv6 dress: write {}", address.to_canonical()))
}

/// A name as hosts have them: labels of 1 to 63 letters, digits, `-` and `_`, with dots between,
/// 253 bytes at most (RFC 1035 section 2.3.4; `_` because Docker's users write it).
pub(crate) fn domain_name(text: &str) -> Result<(), String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(legal);
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(());
    }
    Err(format!(
        "{} is not a name: write letters, digits, '-' and '_', dots between parts of at most 63",
        quoted(text)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_found_with_its_path() {
        let tables = NameTables {
            ttl_seconds: 86_400,
            networks: vec![
                NetworkNames {
                    network: "Front".into(),
                    endpoints: vec![EndpointNames {
                        names: vec!["good".into(), "not good".into(), "x".repeat(64)],
                        addresses: vec!["172.18.0.2".into(), "172.18.0.2/16".into(), "0.0.0.0".into()],
                    }],
                },
                NetworkNames { network: "front".into(), endpoints: vec![EndpointNames::default()] },
            ],
        };
        let paths: Vec<_> = tables.check().unwrap_err().into_iter().map(|p| p.path).collect();
        assert_eq!(
            paths,
            [
                "ttl_seconds",
                "networks[0].endpoints[0].names[1]",
                "networks[0].endpoints[0].names[2]",
                "networks[0].endpoints[0].addresses[1]",
                "networks[0].endpoints[0].addresses[2]",
                "networks[1].endpoints[0].names",
                "networks[1].network",
            ]
        );
    }

    #[test]
    fn docker_names_are_names() {
        for name in ["server", "my_app-1", "web.v2", "0123456789ab"] {
            assert!(domain_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "a..b", "a.", "sp ace", "new\nline"] {
            assert!(domain_name(name).is_err(), "{name:?}");
        }
    }
}
