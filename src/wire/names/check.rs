//! Checking name tables: every part, all problems at once.

use std::{collections::HashMap, net::IpAddr};

use super::{
    EndpointNames, MAX_ENDPOINTS, MAX_NETWORKS, MAX_PER_ENDPOINT, MAX_TTL, NameTables, NetworkNames, Port,
    Sum, Summary, delta::Change,
};
use crate::{
    problem::{Problem, Problems},
    state::HostEntry,
    value::quoted,
};

/// Name tables whose every part has been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedNames {
    /// Extra hosts.
    pub hosts: Vec<CheckedEndpoint>,
    /// Networks in search order.
    pub networks: Vec<CheckedNetwork>,
    /// What their digest is made of; it has the time to live, at most [`MAX_TTL`].
    pub summary: Summary,
}

/// A network of [`CheckedNames`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedNetwork {
    /// The network's name as it was given.
    pub network: String,
    /// What this guest alone calls others there.
    pub links: Vec<CheckedEndpoint>,
    /// Its endpoints.
    pub endpoints: Vec<CheckedEndpoint>,
}

/// An endpoint, a link or an extra host of [`CheckedNames`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedEndpoint {
    /// At least one name, each a domain name that fits in a DNS packet.
    pub names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// What stands for it in sums.
    pub sum: Sum,
}

/// A [`Change`] whose added entries have been checked. What is removed is known by its sum, and
/// found by its first name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedChange {
    /// The network's name.
    pub network: String,
    /// Links that go.
    pub links_removed: Vec<EndpointNames>,
    /// Links that come.
    pub links_added: Vec<CheckedEndpoint>,
    /// Endpoints that go.
    pub removed: Vec<EndpointNames>,
    /// Endpoints that come.
    pub added: Vec<CheckedEndpoint>,
}

impl NameTables {
    /// Checks the whole document, or says everything that is wrong with it.
    pub fn check(&self) -> Result<CheckedNames, Vec<Problem>> {
        let mut problems = Problems::default();
        if self.ttl_seconds > MAX_TTL {
            problems
                .add("ttl_seconds", format!("{} is too long: {MAX_TTL} seconds at most", self.ttl_seconds));
        }
        let entries: usize =
            self.networks.iter().map(|network| network.links.len() + network.endpoints.len()).sum();
        let many = [
            ("networks", self.networks.len(), MAX_NETWORKS),
            ("endpoints, links and hosts", entries + self.hosts.len(), MAX_ENDPOINTS),
        ];
        if let Some((what, count, most)) = many.into_iter().find(|(_, count, most)| count > most) {
            problems.add("networks", format!("{count} {what}, {most} at most"));
            return problems.into_result(CheckedNames::default());
        }
        let hosts: Vec<_> = (self.hosts.iter().enumerate())
            .map(|(h, host)| check_host(&format!("hosts[{h}]"), host, &mut problems))
            .collect();
        let networks: Vec<_> = (self.networks.iter().enumerate())
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
        problems.into_result(())?;
        Ok(CheckedNames { summary: summary(self.ttl_seconds, &hosts, &networks), hosts, networks })
    }
}

impl Change {
    /// Checks what is added on all networks, or says everything that is wrong with it.
    pub fn check_all(changes: &[Self]) -> Result<Vec<CheckedChange>, Vec<Problem>> {
        let mut problems = Problems::default();
        let checked = changes.iter().enumerate().map(|(c, change)| CheckedChange {
            network: change.network.clone(),
            links_removed: change.links_removed.clone(),
            links_added: check_endpoints(
                &format!("changes[{c}].links_added"),
                &change.links_added,
                &mut problems,
            ),
            removed: change.removed.clone(),
            added: check_endpoints(&format!("changes[{c}].added"), &change.added, &mut problems),
        });
        let checked = checked.collect();
        problems.into_result(checked)
    }
}

fn summary(ttl_seconds: u32, hosts: &[CheckedEndpoint], networks: &[CheckedNetwork]) -> Summary {
    let sum = |entries: &[CheckedEndpoint]| {
        let mut sum = Sum::default();
        for entry in entries {
            sum.add(entry.sum);
        }
        sum
    };
    let network =
        |network: &CheckedNetwork| (network.network.clone(), sum(&network.links), sum(&network.endpoints));
    Summary { ttl_seconds, hosts: sum(hosts), networks: networks.iter().map(network).collect() }
}

fn check_network(path: &str, network: &NetworkNames, problems: &mut Problems) -> CheckedNetwork {
    problems.keep(format_args!("{path}.network"), domain_name(&network.network));
    CheckedNetwork {
        network: network.network.clone(),
        links: check_endpoints(&format!("{path}.links"), &network.links, problems),
        endpoints: check_endpoints(&format!("{path}.endpoints"), &network.endpoints, problems),
    }
}

fn check_endpoints(path: &str, endpoints: &[EndpointNames], problems: &mut Problems) -> Vec<CheckedEndpoint> {
    let check = |(e, endpoint)| check_endpoint(&format!("{path}[{e}]"), endpoint, problems);
    endpoints.iter().enumerate().map(check).collect()
}

fn check_endpoint(path: &str, endpoint: &EndpointNames, problems: &mut Problems) -> CheckedEndpoint {
    for (field, count) in [("addresses", endpoint.addresses.len()), ("ports", endpoint.ports.len())] {
        if count > MAX_PER_ENDPOINT {
            problems.add(format!("{path}.{field}"), format!("{count} of them, {MAX_PER_ENDPOINT} at most"));
        }
    }
    check_names(path, &endpoint.names, problems);
    let addresses = (endpoint.addresses.iter().enumerate().take(MAX_PER_ENDPOINT))
        .filter_map(|(a, text)| problems.keep(format_args!("{path}.addresses[{a}]"), host_address(text)))
        .collect();
    for (p, port) in endpoint.ports.iter().enumerate().take(MAX_PER_ENDPOINT) {
        problems.keep(format_args!("{path}.ports[{p}]"), check_port(port));
    }
    CheckedEndpoint {
        names: endpoint.names.clone(),
        addresses,
        ports: endpoint.ports.clone(),
        sum: Sum::of(endpoint),
    }
}

fn check_host(path: &str, host: &HostEntry, problems: &mut Problems) -> CheckedEndpoint {
    let address = problems.keep(format_args!("{path}.address"), host_address(&host.address));
    check_names(path, &host.names, problems);
    CheckedEndpoint {
        names: host.names.clone(),
        addresses: address.into_iter().collect(),
        ports: Vec::new(),
        sum: Sum::of(host),
    }
}

fn check_names(path: &str, names: &[String], problems: &mut Problems) {
    if names.is_empty() {
        problems.add(format!("{path}.names"), "no name: write at least one");
    }
    if names.len() > MAX_PER_ENDPOINT {
        problems.add(format!("{path}.names"), format!("{} of them, {MAX_PER_ENDPOINT} at most", names.len()));
    }
    for (n, name) in names.iter().enumerate().take(MAX_PER_ENDPOINT) {
        problems.keep(format_args!("{path}.names[{n}]"), domain_name(name));
    }
}

fn check_port(port: &Port) -> Result<(), String> {
    let legal = |name: &String| {
        (1..=15).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match &port.name {
        _ if port.number == 0 => Err("0 is no port: write 1 to 65535".to_owned()),
        Some(name) if !legal(name) => {
            Err(format!("{} is not a service: write 1 to 15 letters, digits and '-'", quoted(name)))
        }
        _ => Ok(()),
    }
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
    use crate::names::Protocol;

    #[test]
    fn every_problem_is_found_with_its_path() {
        let tables = NameTables {
            ttl_seconds: 86_400,
            hosts: vec![HostEntry { address: "10.0.0".into(), names: vec![] }],
            networks: vec![
                NetworkNames {
                    network: "Front".into(),
                    endpoints: vec![EndpointNames {
                        names: vec!["good".into(), "not good".into(), "x".repeat(64)],
                        addresses: vec!["172.18.0.2".into(), "172.18.0.2/16".into(), "0.0.0.0".into()],
                        ports: vec![Port { number: 0, protocol: Protocol::Tcp, name: None }],
                    }],
                    links: vec![],
                },
                NetworkNames {
                    network: "front".into(),
                    endpoints: vec![EndpointNames::default()],
                    ..NetworkNames::default()
                },
            ],
        };
        let paths: Vec<_> = tables.check().unwrap_err().into_iter().map(|p| p.path).collect();
        assert_eq!(
            paths,
            [
                "ttl_seconds",
                "hosts[0].address",
                "hosts[0].names",
                "networks[0].endpoints[0].names[1]",
                "networks[0].endpoints[0].names[2]",
                "networks[0].endpoints[0].addresses[1]",
                "networks[0].endpoints[0].addresses[2]",
                "networks[0].endpoints[0].ports[0]",
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
