//! Published ports, and the packet filter that follows from everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{
    Engine, State,
    error::EngineError,
    guests::gateway_endpoint,
    record::{Container, Network, NetworkKind, Published},
};
use crate::{
    firewall::{self, Bridge, Kind, Management, Rules},
    reserved::{Conflict, Port, Protocol, Taken},
};

/// A port as somebody asks for it to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedPort {
    /// Which protocol.
    pub protocol: Protocol,
    /// The container's port.
    pub port: u16,
    /// The address of the host it is to answer on, `None` for all.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub at: Port,
}

impl Engine {
    /// Takes the ports of the host that a container publishes, all of them or none.
    pub(super) fn take_ports(
        &self,
        container: &Container,
    ) -> Result<(Vec<Published>, Vec<Taken>), EngineError> {
        check_ports(container, &self.state().networks)?;
        let wanted = wanted_ports(container)?;
        if wanted.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let (network, address) = {
            let state = self.state();
            let endpoint = gateway_endpoint(container, &state.networks);
            let network = endpoint.and_then(|endpoint| state.networks.get(&endpoint.network)).cloned();
            let own =
                endpoint.and_then(|endpoint| endpoint.active.as_ref()).and_then(|own| own.addresses.first());
            (network, own.map(|own| own.address()))
        };
        let external = network.as_ref().is_some_and(Network::is_external);
        let (mut published, mut taken) = (Vec::new(), Vec::new());
        for WantedPort { protocol, port, address: host_address, at } in wanted {
            if external {
                let at = SocketAddr::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port);
                published.push(Published { protocol, port, at, forwarded: false });
                continue;
            }
            let held = self.shared.ports.take(protocol, host_address, at).map_err(|conflict| {
                let network = network.as_ref().map_or("bridge", |network| network.name.as_str());
                port_conflict(&conflict, container, network)
            })?;
            let at = SocketAddr::new(host_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), held.port());
            published.push(Published { protocol, port, at, forwarded: true });
            taken.push(held);
        }
        Ok((published, taken))
    }

    /// Takes a container's ports again as they were, after a restart of this process.
    pub(super) fn retake_ports(&self, container: &Container) -> Vec<Taken> {
        let ports = container.run.iter().flat_map(|run| &run.published).filter(|port| port.forwarded);
        let taken = ports.filter_map(|port| {
            let address = Some(port.at.ip()).filter(|address| !address.is_unspecified());
            let taken = self.shared.ports.take(port.protocol, address, Port::Exact(port.at.port()));
            // Somebody opened it while this process was away; the packets are forwarded all the same.
            taken.inspect_err(|error| tracing::error!("container {}: {error}", container.name)).ok()
        });
        taken.collect()
    }

    /// Brings the packet filter up to the records.
    pub(super) async fn filter(&self) -> Result<(), EngineError> {
        // One at a time; whoever waited may find that nothing is left to do.
        let mut in_place = self.shared.filter.lock().await;
        let rules = self.state().rules(&self.shared.settings);
        if in_place.as_ref() == Some(&rules) {
            return Ok(());
        }
        // Until both are done nobody knows what is in place.
        *in_place = None;
        // Nothing is forwarded before there are rules for it.
        firewall::apply(&rules).await?;
        self.shared.kernel.prepare(&rules).await?;
        *in_place = Some(rules);
        Ok(())
    }
}

impl State {
    /// Everything the packet filter follows from.
    fn rules(&self, settings: &super::Settings) -> Rules {
        let bridges = self.networks.values().filter_map(|network| {
            let kind = match &network.kind {
                NetworkKind::None => return None,
                NetworkKind::Bridge { internal: true } => Kind::Internal,
                NetworkKind::Bridge { internal: false } => Kind::Nat,
                NetworkKind::External { address, .. } => Kind::External { attached: address.is_some() },
            };
            let subnets = network.subnets.iter().map(crate::ipam::Subnet::subnet).collect();
            Some(Bridge { name: network.bridge.clone()?, subnets, kind })
        });
        let records = self.containers.values().map(|entry| &entry.record);
        let published = records.flat_map(|container| self.forwarded(container));
        Rules {
            management: Management {
                bridge: settings.management_bridge.clone(),
                address: settings.management_address,
                port: settings.port,
            },
            endpoint: settings.endpoint.clone(),
            bridges: bridges.collect(),
            published: published.collect(),
        }
    }

    /// What the filter is to forward to a container: to each of its addresses what comes by that
    /// family.
    fn forwarded(&self, container: &Container) -> Vec<firewall::Published> {
        let endpoint = gateway_endpoint(container, &self.networks);
        let Some((endpoint, run)) = endpoint.zip(container.run.as_ref()) else { return Vec::new() };
        let bridge = self.networks.get(&endpoint.network).and_then(|network| network.bridge.clone());
        let Some((active, bridge)) = endpoint.active.as_ref().zip(bridge) else { return Vec::new() };
        let ports = run.published.iter().filter(|port| port.forwarded);
        let each = ports.flat_map(|port| {
            let host_address = Some(port.at.ip()).filter(|address| !address.is_unspecified());
            let addresses = active.addresses.iter().map(|prefix| prefix.address());
            addresses
                .filter(move |to| host_address.is_none_or(|at| at.is_ipv4() == to.is_ipv4()))
                .map(move |to| (port, host_address, to))
        });
        each.map(|(port, host_address, to)| firewall::Published {
            protocol: port.protocol,
            host_address,
            host_port: port.at.port(),
            to: SocketAddr::new(to, port.port),
            bridge: bridge.clone(),
        })
        .collect()
    }
}

/// What a container is to publish: `-p` and, with `-P`, every exposed port that has no `-p`.
pub(super) fn wanted_ports(container: &Container) -> Result<Vec<WantedPort>, EngineError> {
    let host_config = &container.host_config;
    let mut wanted = Vec::new();
    let mut bindings: BTreeMap<&String, _> = BTreeMap::new();
    for (port, list) in host_config.port_bindings.iter().flatten() {
        bindings.insert(port, list.as_deref().unwrap_or_default());
    }
    for (text, list) in &bindings {
        let (port, protocol) = exposed(text)?;
        let any = [bollard_stubs::models::PortBinding::default()];
        for binding in if list.is_empty() { &any[..] } else { list } {
            let address = binding.host_ip.as_deref().filter(|text| !text.is_empty());
            let address = address.map(|text| {
                text.parse::<IpAddr>()
                    .map_err(|_| EngineError::invalid(format!("invalid IP address in port binding: {text}")))
            });
            let address = address.transpose()?.filter(|address| !address.is_unspecified());
            let at = host_port(binding.host_port.as_deref().unwrap_or_default())?;
            wanted.push(WantedPort { protocol, port, address, at });
        }
    }
    if host_config.publish_all_ports.unwrap_or_default() {
        for text in container.config.exposed_ports.iter().flatten() {
            let (port, protocol) = exposed(text)?;
            if !wanted.iter().any(|other| (other.port, other.protocol) == (port, protocol)) {
                wanted.push(WantedPort { protocol, port, address: None, at: Port::Any });
            }
        }
    }
    Ok(wanted)
}

/// What a container listens on, as far as anybody has said: every exposed port, and every one of
/// `-p`; by number.
pub(super) fn listened_on(container: &Container) -> BTreeSet<(u16, Protocol)> {
    let exposes = container.config.exposed_ports.iter().flatten();
    let published = container.host_config.port_bindings.iter().flatten().map(|(port, _)| port);
    // What cannot be read was refused when the container was made.
    exposes.chain(published).filter_map(|port| exposed(port).ok()).collect()
}

/// Reads `80/tcp`, or `80` for TCP.
pub fn exposed(text: &str) -> Result<(u16, Protocol), EngineError> {
    let bad = || EngineError::invalid(format!("invalid port {text:?}: write 80/tcp, say"));
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(bad()),
    };
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
    Ok((port, protocol))
}

fn host_port(text: &str) -> Result<Port, EngineError> {
    let bad = || EngineError::invalid(format!("invalid port specification: {text:?}"));
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad());
    match text.split_once('-') {
        None if text.is_empty() || text == "0" => Ok(Port::Any),
        None => Ok(Port::Exact(number(text)?)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first == 0 || first > last { Err(bad()) } else { Ok(Port::Range(first, last)) }
        }
    }
}

/// Whether a container's published ports can be had on the networks it is on.
pub(super) fn check_ports(
    container: &Container,
    networks: &BTreeMap<String, Network>,
) -> Result<(), EngineError> {
    let wanted = wanted_ports(container)?;
    let Some(first) = wanted.first() else { return Ok(()) };
    let network = gateway_endpoint(container, networks).and_then(|endpoint| networks.get(&endpoint.network));
    let Some(network) = network else {
        return Err(EngineError::invalid(format!(
            "port {} cannot be published: the container is on no network that leads outside",
            first.port
        )));
    };
    if !network.is_external() {
        return Ok(());
    }
    for port in wanted {
        let other = match port.at {
            Port::Any => None,
            Port::Exact(at) if at == port.port => None,
            Port::Exact(at) => Some(at.to_string()),
            Port::Range(first, last) => Some(format!("{first}-{last}")),
        };
        if let Some(other) = other {
            return Err(EngineError::invalid(format!(
                "port {0} cannot be published as {other} on {1}: a container has an address of its own on an \
                 external network, where its ports are what they are. Write -p {0} or -p {0}:{0}",
                port.port, network.name
            )));
        }
        if port.address.is_some() {
            return Err(EngineError::invalid(format!(
                "port {0} cannot be published on an address of the host: on the external network {1} a \
                 container has its own. Write -p {0}",
                port.port, network.name
            )));
        }
    }
    Ok(())
}

/// Docker's words for a port that cannot be had.
fn port_conflict(conflict: &Conflict, container: &Container, network: &str) -> EngineError {
    let endpoint = container.endpoints.first().map_or("", |endpoint| endpoint.id.as_str());
    EngineError::internal(format!(
        "driver failed programming external connectivity on endpoint {} ({endpoint}) of network {network}: {conflict}",
        container.name
    ))
}
