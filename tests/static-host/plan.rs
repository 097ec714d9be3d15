//! From the configuration to every address, name and document of it.
//!
//! Pure: the same file always gives the same plan, so a host that was restarted finds its
//! guests as it left them.

use sha2::{Digest, Sha256};
use tether_wire::{
    boot::{BootDocument, HostAddress, Management},
    identity::Pin,
    names::{EndpointNames, NameTables, NetworkNames},
    problem::{Problem, Problems},
    state::{DesiredState, Dns, Interface, Match, Route, Workload},
    value::{GuestId, IfName, MacAddr, Prefix},
};

use vch::{
    ipam::{Subnet, overlaps},
    mac,
    machine::NicModel,
};

use crate::{
    acquaintance,
    config::{Config, Container, Network},
};

/// The interface identifier of the host's link-local address on the management network.
const HOST_IDENTIFIER: u64 = 1;

/// Everything that follows from a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The management network's bridge.
    pub(crate) management_bridge: IfName,
    /// The host's address on it.
    pub(crate) management_address: Prefix,
    /// The TCP port guests dial.
    pub(crate) port: u16,
    /// What guests know the host by.
    pub(crate) pin: Pin,
    /// The bridge networks.
    pub(crate) networks: Vec<PlannedNetwork>,
    /// The containers.
    pub(crate) containers: Vec<PlannedContainer>,
}

/// A bridge network.
#[derive(Clone, Debug)]
pub(crate) struct PlannedNetwork {
    /// Its name.
    pub(crate) name: String,
    /// Its bridge, named as Docker names them: `br-` and 12 hexadecimal digits.
    pub(crate) bridge: IfName,
    /// The host's own addresses on it, the containers' gateways.
    pub(crate) gateways: Vec<Prefix>,
    /// The bridge's MAC address, so that it does not change with the ports'.
    pub(crate) mac: MacAddr,
    /// The MTU of everything on it.
    pub(crate) mtu: Option<u32>,
}

/// A container.
#[derive(Clone, Debug)]
pub(crate) struct PlannedContainer {
    /// Its guest's id.
    pub(crate) id: GuestId,
    /// Its management NIC.
    pub(crate) management_mac: MacAddr,
    /// That NIC's address, `None` for link-local.
    pub(crate) management_address: Option<Prefix>,
    /// Its attachments, the first giving the default route.
    pub(crate) endpoints: Vec<Endpoint>,
    /// All its names, its own first.
    pub(crate) names: Vec<String>,
    /// What it runs.
    pub(crate) workload: Option<Workload>,
    /// Its DNS servers.
    pub(crate) upstreams: Vec<String>,
    /// The model of its NICs on bridge networks.
    pub(crate) nic: NicModel,
    /// Its machine's memory in MiB.
    pub(crate) memory_mib: u32,
}

/// A container's attachment to a network.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// The network, an index into [`Plan::networks`].
    pub(crate) network: usize,
    /// Its NIC.
    pub(crate) mac: MacAddr,
    /// Its addresses.
    pub(crate) addresses: Vec<Prefix>,
}

impl Plan {
    /// Works the plan out, or says everything that is wrong with the configuration.
    pub(crate) fn new(config: &Config, pin: Pin) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let mut management = plan_management(&config.management, &mut problems);
        let mut pools = Vec::new();
        let networks: Vec<_> = (config.networks.iter().enumerate())
            .filter_map(|(n, network)| {
                let (planned, pool) = plan_network(&format!("network[{n}]"), network, &mut problems)?;
                pools.push(pool);
                Some(planned)
            })
            .collect();
        refuse_twins("network", config.networks.iter().map(|network| &network.name), &mut problems);
        refuse_twins("container", config.containers.iter().map(|container| &container.name), &mut problems);
        refuse_overlaps(&networks, &mut problems);
        let containers = (config.containers.iter().enumerate())
            .filter_map(|(c, container)| {
                let management_address =
                    management.as_mut().and_then(|(_, pool)| next(pool, &container.name).first().copied());
                let path = format!("container[{c}]");
                let planned = plan_container(&path, container, &networks, &mut pools, &mut problems)?;
                Some(PlannedContainer { management_address, ..planned })
            })
            .collect();
        let plan = management.map(|(management, pool)| Self {
            management_bridge: management,
            management_address: pool
                .first()
                .and_then(gateway)
                .unwrap_or_else(|| Prefix::link_local(HOST_IDENTIFIER)),
            port: config.management.port,
            pin,
            networks,
            containers,
        });
        if let Some(plan) = &plan {
            plan.check_documents(&mut problems);
        }
        match (plan, problems.into_result(())) {
            (Some(plan), Ok(())) => Ok(plan),
            (_, Err(problems)) => Err(problems),
            // What made it `None` has been noted, so this is not reached.
            (None, Ok(())) => Err(vec![Problem::new("management", "missing")]),
        }
    }

    /// What the file says in a container's own words may be no good in a document: it is found
    /// here, and not when a guest is to have it.
    fn check_documents(&self, problems: &mut Problems) {
        for container in &self.containers {
            let documents = [
                self.boot_document(container).check().err(),
                self.desired_state(container).check().err(),
                self.names(container, |_| true).check().err(),
            ];
            for problem in documents.into_iter().flatten().flatten() {
                problems.add(format!("container {}", container.id), problem.to_string());
            }
        }
    }

    /// The container of this name.
    pub(crate) fn container(&self, name: &str) -> Option<&PlannedContainer> {
        self.containers.iter().find(|container| container.id.to_string() == name)
    }

    /// The MAC address of the management network's bridge.
    pub(crate) fn management_mac(&self) -> MacAddr {
        mac::of_name(&format!("bridge {}", self.management_bridge))
    }

    /// What a container's guest knows before it has a channel.
    pub(crate) fn boot_document(&self, container: &PlannedContainer) -> BootDocument {
        BootDocument {
            guest: container.id.to_string(),
            management: Some(Management {
                mac: container.management_mac.to_string(),
                address: container.management_address.map(|address| address.to_string()),
            }),
            host: Some(HostAddress::tcp(self.management_address.address(), self.port, &[self.pin])),
            token: Some(acquaintance::admission(&container.id).token.to_secret()),
            workload: None,
            root: None,
        }
    }

    /// What is wanted of a container's guest.
    pub(crate) fn desired_state(&self, container: &PlannedContainer) -> DesiredState {
        let interface = |(e, endpoint): (usize, &Endpoint)| {
            let network = &self.networks[endpoint.network];
            let default_route = |gateway: &Prefix| Route {
                destination: if gateway.address().is_ipv4() { "0.0.0.0/0" } else { "::/0" }.to_owned(),
                gateway: Some(gateway.address().to_string()),
                ..Route::default()
            };
            Interface {
                matching: Some(Match::of_mac(endpoint.mac.to_string())),
                name: format!("eth{e}"),
                mtu: network.mtu,
                addresses: endpoint.addresses.iter().map(|address| address.to_string().into()).collect(),
                routes: network.gateways.iter().filter(|_| e == 0).map(default_route).collect(),
                ..Interface::default()
            }
        };
        DesiredState {
            hostname: container.id.to_string(),
            interfaces: container.endpoints.iter().enumerate().map(interface).collect(),
            dns: Dns { upstreams: container.upstreams.clone(), ..Dns::default() },
            workload: container.workload.clone(),
            ..DesiredState::default()
        }
    }

    /// The names a container may look up: everybody on its networks for whom `alive` holds.
    pub(crate) fn names(&self, container: &PlannedContainer, alive: impl Fn(&GuestId) -> bool) -> NameTables {
        let endpoints = |network: usize| {
            self.containers.iter().filter(|other| alive(&other.id)).filter_map(move |other| {
                let endpoint = other.endpoints.iter().find(|endpoint| endpoint.network == network)?;
                Some(EndpointNames {
                    names: other.names.clone(),
                    addresses: endpoint.addresses.iter().map(|a| a.address().to_string()).collect(),
                    ..EndpointNames::default()
                })
            })
        };
        let network = |endpoint: &Endpoint| NetworkNames {
            network: self.networks[endpoint.network].name.clone(),
            endpoints: endpoints(endpoint.network).collect(),
            ..NetworkNames::default()
        };
        NameTables { networks: container.endpoints.iter().map(network).collect(), ..NameTables::default() }
    }
}

/// The host's own address on a subnet.
fn gateway(subnet: &Subnet) -> Option<Prefix> {
    Prefix::new(subnet.gateway(), subnet.subnet().length())
}

/// The next container's addresses, fewer than subnets when one has no more.
fn next(subnets: &mut [Subnet], container: &str) -> Vec<Prefix> {
    let next = |subnet: &mut Subnet| {
        let address = subnet.reserve(container, None).ok()?;
        Prefix::new(address, subnet.subnet().length())
    };
    subnets.iter_mut().filter_map(next).collect()
}

fn plan_management(
    management: &crate::config::Management,
    problems: &mut Problems,
) -> Option<(IfName, Vec<Subnet>)> {
    let bridge = problems.keep("management.bridge", management.bridge.parse::<IfName>());
    if management.port == 0 {
        problems.add("management.port", "0 is no port: write 1 to 65535");
    }
    let subnet = (management.subnet.as_ref())
        .and_then(|text| problems.keep("management.subnet", container_subnet(text)));
    Some((bridge?, subnet.into_iter().collect()))
}

fn plan_network(
    path: &str,
    network: &Network,
    problems: &mut Problems,
) -> Option<(PlannedNetwork, Vec<Subnet>)> {
    let mut subnets: Vec<Subnet> = Vec::new();
    for (s, text) in network.subnets.iter().enumerate() {
        let path = format!("{path}.subnets[{s}]");
        let Some(subnet) = problems.keep(&path, container_subnet(text)) else { continue };
        if subnets.iter().any(|other| other.gateway().is_ipv4() == subnet.gateway().is_ipv4()) {
            problems.add(path, format!("{text} is the second subnet of its family: one is enough"));
        } else {
            subnets.push(subnet);
        }
    }
    if network.subnets.is_empty() {
        problems.add(format!("{path}.subnets"), "none: write [\"172.18.0.0/16\"], say");
    }
    let digest = Sha256::digest(network.name.as_bytes());
    let [a, b, c, ..] = digest.as_chunks::<2>().0 else { return None };
    let [a, b, c] = [a, b, c].map(|pair| u16::from_be_bytes(*pair));
    let bridge = problems.keep(path, format!("br-{a:04x}{b:04x}{c:04x}").parse::<IfName>())?;
    let gateways = subnets.iter().filter_map(gateway).collect();
    let mac = mac::of_name(&format!("bridge {}", network.name));
    let planned = PlannedNetwork { name: network.name.clone(), bridge, gateways, mac, mtu: network.mtu };
    Some((planned, subnets))
}

/// A subnet with room for the host and at least one container.
fn container_subnet(text: &str) -> Result<Subnet, String> {
    let subnet: Prefix = text.parse().map_err(|error| format!("{error}"))?;
    Subnet::new(subnet, None, None).map_err(|error| error.to_string())
}

fn plan_container(
    path: &str,
    container: &Container,
    networks: &[PlannedNetwork],
    pools: &mut [Vec<Subnet>],
    problems: &mut Problems,
) -> Option<PlannedContainer> {
    let id = problems.keep(format_args!("{path}.name"), container.name.parse::<GuestId>());
    if container.networks.is_empty() {
        problems.add(format!("{path}.networks"), "none: write at least one network's name");
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (n, name) in container.networks.iter().enumerate() {
        let path = format!("{path}.networks[{n}]");
        let Some(network) = networks.iter().position(|network| network.name == *name) else {
            problems.add(path, format!("there is no network {name:?}"));
            continue;
        };
        if endpoints.iter().any(|endpoint| endpoint.network == network) {
            problems.add(path, format!("{name} is there already"));
            continue;
        }
        let pool = &mut pools[network];
        let addresses = next(pool, &container.name);
        if addresses.len() < pool.len() {
            problems.add(path, format!("{name} has no address left"));
            continue;
        }
        let mac = mac::of_endpoint(&addresses, &format!("{}/{name}", container.name));
        endpoints.push(Endpoint { network, mac, addresses });
    }
    let workload = (!container.command.is_empty()).then(|| Workload {
        argv: container.command.clone(),
        env: container.env.clone(),
        cwd: String::new(),
    });
    let names = [&container.name].into_iter().chain(&container.aliases).cloned().collect();
    Some(PlannedContainer {
        id: id?,
        management_mac: mac::of_name(&container.name),
        management_address: None,
        endpoints,
        names,
        workload,
        upstreams: container.dns.clone(),
        nic: container.nic,
        memory_mib: container.memory_mib,
    })
}

fn refuse_twins<'a>(what: &str, names: impl Iterator<Item = &'a String>, problems: &mut Problems) {
    let mut seen: Vec<String> = Vec::new();
    for (n, name) in names.enumerate() {
        let folded = name.to_ascii_lowercase();
        if let Some(first) = seen.iter().position(|other| *other == folded) {
            problems.add(format!("{what}[{n}].name"), format!("{name:?} is {what}[{first}] again"));
        }
        seen.push(folded);
    }
}

fn refuse_overlaps(networks: &[PlannedNetwork], problems: &mut Problems) {
    for (n, network) in networks.iter().enumerate() {
        for other in &networks[..n] {
            for (a, b) in network.gateways.iter().flat_map(|a| other.gateways.iter().map(move |b| (a, b))) {
                if overlaps(*a, *b) {
                    problems.add(
                        format!("network[{n}].subnets"),
                        format!("{} overlaps {} of {}", a.network(), b.network(), other.name),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, Vec<String>> {
        let config: Config = toml::from_str(text).unwrap();
        Plan::new(&config, Pin::from_bytes([1; 32]))
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    const TWO: &str = r#"
        [[network]]
        name = "my-bridge-network"
        subnets = ["172.18.0.0/16", "fd00:18::/64"]
        [[container]]
        name = "server"
        networks = ["my-bridge-network"]
        aliases = ["web"]
        command = ["server_app"]
        [[container]]
        name = "client"
        networks = ["my-bridge-network"]
    "#;

    #[test]
    fn addresses_follow_the_gateway_in_order() {
        let plan = plan(TWO).unwrap();
        let state = plan.desired_state(plan.container("server").unwrap());
        let eth0 = &state.interfaces[0];
        assert_eq!(eth0.matching, Some(Match::of_mac("02:42:ac:12:00:02")));
        assert_eq!(eth0.addresses, ["172.18.0.2/16", "fd00:18::2/64"].map(Into::into));
        assert_eq!(eth0.routes[0].gateway.as_deref(), Some("172.18.0.1"));
        assert_eq!(eth0.routes[1].gateway.as_deref(), Some("fd00:18::1"));
        for container in &plan.containers {
            plan.desired_state(container).check().unwrap();
            plan.boot_document(container).check().unwrap();
            plan.names(container, |_| true).check().unwrap();
        }
        assert_ne!(plan.containers[0].management_mac, plan.containers[1].management_mac);
    }

    #[test]
    fn names_are_those_of_the_living() {
        let plan = plan(TWO).unwrap();
        let client = plan.container("client").unwrap();
        let names = plan.names(client, |id| id.to_string() == "server");
        assert_eq!(names.networks[0].endpoints.len(), 1);
        assert_eq!(names.networks[0].endpoints[0].names, ["server", "web"]);
    }

    #[test]
    fn every_problem_is_found() {
        let problems = plan(
            r#"
            [[network]]
            name = "a"
            subnets = ["172.18.0.1/16", "172.19.0.0/16", "172.20.0.0/16", "fd00::/127"]
            [[network]]
            name = "A"
            subnets = ["172.19.128.0/30"]
            [[container]]
            name = "one two"
            networks = ["b"]
            [[container]]
            name = "three"
            networks = ["A"]
            [[container]]
            name = "four"
            networks = ["A", "A"]
            "#,
        )
        .unwrap_err();
        let paths: Vec<_> = problems.iter().filter_map(|p| p.split(": ").next()).collect();
        assert_eq!(
            paths,
            [
                "network[0].subnets[0]",
                "network[0].subnets[2]",
                "network[0].subnets[3]",
                "network[1].name",
                "network[1].subnets",
                "container[0].name",
                "container[0].networks[0]",
                "container[2].networks[0]",
                "container[2].networks[1]",
            ],
            "{problems:#?}"
        );
    }
}
