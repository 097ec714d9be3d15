//! Attachments of containers to networks: addresses, NICs, and both while a container runs.

use std::{collections::BTreeSet, net::IpAddr};

use tether_wire::value::Prefix;

use super::{
    Engine, State,
    error::EngineError,
    guests::gateway_endpoint,
    networks::{HOST, NO_NETWORK},
    new_id,
    record::{Active, Container, Endpoint, Network, Phase},
};
use crate::{
    ipam::IpamError,
    mac,
    machine::{Nic, NicModel, tap::Tap},
    store::Change,
};

/// An attachment as somebody asks for it.
#[derive(Clone, Debug, Default)]
pub struct WantedEndpoint {
    /// The network's name or id.
    pub network: String,
    /// Other names on this network.
    pub aliases: Vec<String>,
    /// `container` or `container:name`: names only this container uses.
    pub links: Vec<String>,
    /// Addresses, one of each family at most.
    pub addresses: Vec<String>,
    /// A MAC address.
    pub mac: Option<String>,
    /// Whose network gives the default route: the highest.
    pub gateway_priority: i64,
}

impl Engine {
    /// Attaches a container to a network; while it runs its machine gets a NIC.
    pub async fn connect(&self, container: &str, wanted: WantedEndpoint) -> Result<(), EngineError> {
        let (id, turn) = self.turn(container)?;
        let _turn = turn.lock().await;
        let (network, up) = {
            let mut state = self.state();
            let network = state.network(&wanted.network)?.clone();
            let entry = state.entry(&id)?;
            refuse_connection(&entry.record, &network, &state)?;
            let up = entry.record.state.phase == Phase::Running;
            let endpoint = state.endpoint(&wanted, &network)?;
            let mut record = entry.record.clone();
            record.endpoints.push(endpoint);
            super::containers::check_documents(&record, &state.networks, &self.shared.settings.resolution)?;
            super::publish::check_ports(&record, &state.networks)?;
            let mut networks = Vec::new();
            if up {
                networks.push(network.clone());
                reserve(&mut record, &mut networks)?;
            }
            state.commit(&self.shared.store, record, networks)?;
            (network, up)
        };
        if !up {
            return Ok(());
        }
        if let Err(error) = self.attach_running(&id, &network).await {
            // What went wrong first is what matters.
            let _ = self.detach(&id, &network, true).await;
            return Err(error);
        }
        self.names_changed(&[network.id]).await;
        // Its default route, and with it the address its ports lead to, may be another one now.
        self.filter().await
    }

    /// Detaches a container from a network; while it runs its machine loses the NIC.
    pub async fn disconnect(&self, container: &str, network: &str, force: bool) -> Result<(), EngineError> {
        let (id, turn) = self.turn(container)?;
        let _turn = turn.lock().await;
        let network = {
            let state = self.state();
            let record = &state.entry(&id)?.record;
            let network = match state.network(network) {
                Ok(network) => network.clone(),
                // A network that is gone can be left all the same.
                Err(_) if force && record.endpoint(network).is_some() => Network::none(network),
                Err(error) => return Err(error),
            };
            if record.endpoint(&network.id).is_none() {
                return Err(EngineError::forbidden(format!(
                    "container {} is not connected to network {}",
                    record.name, network.name
                )));
            }
            // Its published ports lead to an address that would be gone.
            let forwards = record.run.iter().flat_map(|run| &run.published).any(|port| port.forwarded);
            let to = gateway_endpoint(record, &state.networks).map(|endpoint| &endpoint.network);
            if !force && forwards && to == Some(&network.id) {
                return Err(EngineError::conflict(format!(
                    "{}'s published ports lead to its address on {}: stop it first, or use --force",
                    record.name, network.name
                )));
            }
            network
        };
        self.detach(&id, &network, force).await?;
        self.filter().await
    }

    /// Gives the machine of a running container its NIC on `network`, and waits until its guest
    /// has verified it.
    async fn attach_running(&self, id: &str, network: &Network) -> Result<(), EngineError> {
        let (record, machine) = {
            let state = self.state();
            let entry = state.entry(id)?;
            (entry.record.clone(), entry.machine.clone())
        };
        let machine = machine.ok_or_else(|| EngineError::conflict("the container is not running"))?;
        let Some(nic) = self.nic(&record, network).await? else { return Ok(()) };
        machine.plug(nic).await?;
        self.apply(&record).await
    }

    /// Takes an endpoint away: the name first, then the address, then the NIC.
    async fn detach(&self, id: &str, network: &Network, force: bool) -> Result<(), EngineError> {
        let (record, active, machine) = {
            let mut state = self.state();
            let entry = state.entry(id)?;
            let machine = entry.machine.clone();
            let mut record = entry.record.clone();
            let Some(at) = record.endpoints.iter().position(|endpoint| endpoint.network == network.id) else {
                return Ok(());
            };
            let endpoint = record.endpoints.remove(at);
            // The address stays reserved until the guest has let go of it.
            state.commit(&self.shared.store, record.clone(), Vec::new())?;
            (record, endpoint, machine)
        };
        // Its peers do not find it any more, nor does it find them.
        self.names_changed(std::slice::from_ref(&network.id)).await;
        if record.state.phase.is_up() {
            self.give_names(&self.state(), &record);
        }
        let mut outcome = Ok(());
        if let Some(nic) = active.active.as_ref()
            && let Some(machine) = machine
        {
            outcome = match self.apply(&record).await {
                Ok(()) => machine.unplug(&nic_id(nic.nic)).await.map_err(EngineError::from),
                Err(error) if force => machine.unplug(&nic_id(nic.nic)).await.or(Err(error)),
                Err(error) => Err(error),
            };
        }
        if outcome.is_err() && !force {
            // The guest has it still: nobody else may get its address.
            {
                let mut state = self.state();
                let mut record = state.entry(id)?.record.clone();
                record.endpoints.push(active);
                state.commit(&self.shared.store, record, Vec::new())?;
            }
            self.names_changed(std::slice::from_ref(&network.id)).await;
            return outcome;
        }
        self.give_back(network, &active).await?;
        outcome
    }

    /// Releases the addresses of an endpoint that is out of use.
    async fn give_back(&self, network: &Network, endpoint: &Endpoint) -> Result<(), EngineError> {
        let released = {
            let mut state = self.state();
            // The network may be gone, and its addresses with it.
            let Some(mut now) = state.networks.get(&network.id).cloned() else { return Ok(()) };
            let released = release(&mut now, endpoint);
            self.shared.store.commit(&Change::default().network(&now))?;
            state.networks.insert(now.id.clone(), now);
            released
        };
        self.forget(network, &released).await;
        Ok(())
    }

    /// Has the host forget who had these addresses.
    async fn forget(&self, network: &Network, addresses: &[IpAddr]) {
        let Some(bridge) = &network.bridge else { return };
        for address in addresses {
            if let Err(error) = self.shared.kernel.forget_neighbour(bridge, *address).await {
                tracing::debug!("{address}: {error}");
            }
        }
    }

    /// Reserves the addresses of all of a container's endpoints, or none.
    pub(super) fn reserve_all(&self, id: &str) -> Result<Container, EngineError> {
        let mut state = self.state();
        let mut record = state.entry(id)?.record.clone();
        let mut networks = Vec::new();
        for endpoint in &record.endpoints {
            let network = state
                .networks
                .get(&endpoint.network)
                .ok_or_else(|| EngineError::not_found(format!("network {} not found", endpoint.network)))?;
            networks.push(network.clone());
        }
        reserve(&mut record, &mut networks)?;
        state.commit(&self.shared.store, record.clone(), networks)?;
        Ok(record)
    }

    /// Releases every address of a container.
    pub(super) async fn release_all(&self, id: &str) -> Result<(), EngineError> {
        self.release_with(id, |_| ()).await
    }

    /// Releases every address of a container and makes a change to its record, in one. That is
    /// done when this returns; what it returns has the host forget who had the addresses.
    pub(super) fn release_with(
        &self,
        id: &str,
        change: impl FnOnce(&mut Container),
    ) -> impl Future<Output = Result<(), EngineError>> {
        let released = || {
            let mut state = self.state();
            let mut record = state.entry(id)?.record.clone();
            let (networks, released) = state.released(&mut record);
            change(&mut record);
            state.commit(&self.shared.store, record, networks)?;
            Ok::<_, EngineError>(released)
        };
        let released = released();
        async move {
            for (network, addresses) in released? {
                self.forget(&network, &addresses).await;
            }
            Ok(())
        }
    }

    /// Releases addresses whose holders no record knows: a crash came between taking an endpoint
    /// away and giving its addresses back.
    pub(super) fn release_strangers(&self) -> Result<(), EngineError> {
        let mut state = self.state();
        let endpoints = state.containers.values().flat_map(|entry| &entry.record.endpoints);
        let known: BTreeSet<String> =
            endpoints.map(|endpoint| endpoint.id.clone()).chain([HOST.to_owned()]).collect();
        let mut changed = Vec::new();
        for network in state.networks.values_mut() {
            for pool in &mut network.subnets {
                let strangers: Vec<String> =
                    pool.taken().values().filter(|holder| !known.contains(*holder)).cloned().collect();
                for holder in strangers {
                    pool.release(&holder);
                    changed.push(network.id.clone());
                }
            }
        }
        let networks = state.networks.values().filter(|network| changed.contains(&network.id));
        Ok(self.shared.store.commit(&networks.fold(Change::default(), Change::network))?)
    }

    /// A NIC on a network's bridge for a container; `None` where the network is none.
    pub(super) async fn nic(
        &self,
        container: &Container,
        network: &Network,
    ) -> Result<Option<Nic>, EngineError> {
        let active = container.endpoint(&network.id).and_then(|endpoint| endpoint.active.as_ref());
        let (Some(bridge), Some(active)) = (&network.bridge, active) else { return Ok(None) };
        let (tap, index) = tap()?;
        self.shared.kernel.attach(index, bridge, network.mtu).await?;
        let (id, model) = (nic_id(active.nic), NicModel::VirtioNet);
        Ok(Some(Nic { id, mac: active.mac, tap, model }))
    }

    /// The NIC of a container on the management network, where it reaches the host and nobody
    /// else.
    pub(super) async fn management_nic(&self, container: &Container) -> Result<Nic, EngineError> {
        let (tap, index) = tap()?;
        let bridge = &self.shared.settings.management_bridge;
        self.shared.kernel.attach_guest(index, bridge, container.management_mac).await?;
        let (id, model) = ("management".to_owned(), NicModel::VirtioNet);
        Ok(Nic { id, mac: container.management_mac, tap, model })
    }
}

impl State {
    /// A container's networks without its addresses, which these were, and its record without
    /// them. Nothing that counts has changed yet.
    pub(super) fn released(&self, record: &mut Container) -> (Vec<Network>, Vec<(Network, Vec<IpAddr>)>) {
        let (mut networks, mut released) = (Vec::new(), Vec::new());
        for endpoint in &mut record.endpoints {
            if let Some(mut network) = self.networks.get(&endpoint.network).cloned() {
                let addresses = release(&mut network, endpoint);
                released.push((network.clone(), addresses));
                networks.push(network);
            }
            endpoint.active = None;
        }
        (networks, released)
    }

    /// An endpoint of a new or running container, as somebody asks for it.
    pub(super) fn endpoint(
        &self,
        wanted: &WantedEndpoint,
        network: &Network,
    ) -> Result<Endpoint, EngineError> {
        let addresses = wanted.addresses.iter().filter(|text| !text.is_empty());
        let addresses = addresses
            .map(|text| {
                let address: IpAddr =
                    text.parse().map_err(|_| EngineError::invalid(format!("invalid IP address: {text}")))?;
                let inside = network.subnets.iter().any(|pool| pool.subnet().contains(address));
                if inside { Ok(address) } else { Err(EngineError::invalid(IpamError::Outside(address))) }
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        let mac = wanted.mac.as_deref().filter(|text| !text.is_empty());
        let mac = mac.map(|text| text.parse().map_err(EngineError::invalid)).transpose()?;
        let links = wanted.links.iter().map(|text| {
            let (other, name) = text.split_once(':').unwrap_or((text, text));
            let other = self.entry(other).map_err(|_| {
                EngineError::invalid(format!(
                    "could not get container for {other}: No such container: {other}"
                ))
            })?;
            Ok((other.record.id.clone(), name.trim_start_matches('/').to_owned()))
        });
        for name in
            wanted.aliases.iter().chain(wanted.links.iter().filter_map(|l| l.split_once(':').map(|_| l)))
        {
            let name = name.split_once(':').map_or(name.as_str(), |(_, name)| name);
            super::containers::check_dns_name("alias", name)?;
        }
        Ok(Endpoint {
            id: new_id(),
            network: network.id.clone(),
            aliases: wanted.aliases.clone(),
            links: links.collect::<Result<_, EngineError>>()?,
            wanted: addresses,
            wanted_mac: mac,
            gateway_priority: wanted.gateway_priority,
            active: None,
        })
    }

    /// Changes a container and networks together, in the database first.
    pub(super) fn commit(
        &mut self,
        store: &crate::store::Store,
        container: Container,
        networks: Vec<Network>,
    ) -> Result<(), EngineError> {
        let change = networks.iter().fold(Change::default().container(&container), Change::network);
        store.commit(&change)?;
        for network in networks {
            self.networks.insert(network.id.clone(), network);
        }
        if let Some(entry) = self.containers.get_mut(&container.id) {
            entry.record = container;
        }
        Ok(())
    }
}

fn refuse_connection(container: &Container, network: &Network, state: &State) -> Result<(), EngineError> {
    if container.endpoint(&network.id).is_some() {
        return Err(EngineError::forbidden(format!(
            "endpoint with name {} already exists in network {}",
            container.name, network.name
        )));
    }
    let others: Vec<&Network> =
        container.endpoints.iter().filter_map(|endpoint| state.networks.get(&endpoint.network)).collect();
    refuse_mixture(others.into_iter().chain([network]))?;
    if container.state.phase == Phase::Starting {
        return Err(EngineError::conflict(format!("container {} is starting: try again", container.name)));
    }
    Ok(())
}

/// Whether a container may be on these networks together.
pub(super) fn refuse_mixture<'a>(
    networks: impl Iterator<Item = &'a Network> + Clone,
) -> Result<(), EngineError> {
    if networks.clone().count() > 1 && networks.clone().any(|network| network.name == NO_NETWORK) {
        return Err(EngineError::forbidden(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ));
    }
    let external: Vec<_> =
        networks.filter(|network| network.is_external()).map(|network| network.name.as_str()).collect();
    if let [one, another, ..] = external.as_slice() {
        return Err(EngineError::forbidden(format!(
            "{one} and {another} are both external networks: a container can be on one of them"
        )));
    }
    Ok(())
}

/// Gives every endpoint without one its addresses, MAC address and NIC number. `networks` has
/// each endpoint's network. On an error nothing that counts has changed.
fn reserve(container: &mut Container, networks: &mut [Network]) -> Result<(), EngineError> {
    let mut used: Vec<usize> =
        container.endpoints.iter().filter_map(|endpoint| Some(endpoint.active.as_ref()?.nic)).collect();
    for endpoint in container.endpoints.iter_mut().filter(|endpoint| endpoint.active.is_none()) {
        let Some(network) = networks.iter_mut().find(|network| network.id == endpoint.network) else {
            continue;
        };
        if network.bridge.is_none() {
            continue;
        }
        let mut addresses = Vec::new();
        for pool in &mut network.subnets {
            let wanted = endpoint.wanted.iter().copied().find(|wanted| pool.subnet().contains(*wanted));
            let address = pool.reserve(&endpoint.id, wanted).map_err(|error| match error {
                IpamError::InUse => EngineError::forbidden(error),
                IpamError::Exhausted { .. } => EngineError::internal(error),
                other => EngineError::invalid(other),
            })?;
            addresses.extend(Prefix::new(address, pool.subnet().length()));
        }
        let nic = (0..=used.len()).find(|number| !used.contains(number)).unwrap_or_default();
        used.push(nic);
        let mac = endpoint.wanted_mac.unwrap_or_else(|| mac::of_endpoint(&addresses, &endpoint.id));
        endpoint.active = Some(Active { nic, mac, addresses });
    }
    Ok(())
}

/// Takes the addresses of an endpoint back; which these were.
fn release(network: &mut Network, endpoint: &Endpoint) -> Vec<IpAddr> {
    network.subnets.iter_mut().filter_map(|pool| pool.release(&endpoint.id)).collect()
}

/// What a NIC is called towards the hypervisor.
fn nic_id(number: usize) -> String {
    format!("eth{number}")
}

fn tap() -> Result<(Tap, u32), EngineError> {
    let no_tap = |error: std::io::Error| {
        EngineError::internal(format!(
            "/dev/net/tun: {error}; vch needs it, and CAP_NET_ADMIN in its network namespace"
        ))
    };
    let tap = Tap::new().map_err(no_tap)?;
    let index = nix::net::if_::if_nametoindex(tap.name.as_str()).map_err(|error| no_tap(error.into()))?;
    Ok((tap, index))
}
