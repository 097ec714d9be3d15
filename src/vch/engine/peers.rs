//! Who can be found by name: what the guests are told of each other.

use std::{collections::HashMap, time::Duration};

use tether_host::{NamesError, Tables};
use tether_wire::names::{self, EndpointNames, MAX_PER_ENDPOINT, NameTables, NetworkNames};
use tokio::time::timeout;

use super::{
    Engine, State,
    guests::guest_id,
    publish::listened_on,
    record::{Container, Endpoint, Phase},
};
use crate::{reserved::Protocol, said::one_line};

/// How long peers may take to know a new name before whoever started it goes on.
const NAMES: Duration = Duration::from_secs(1);

impl Engine {
    /// Gives a container's guest the names that it may know now. They are kept until it dials in.
    pub(super) fn give_names(&self, state: &State, container: &Container) {
        if let (Ok(guest), Some(tables)) = (guest_id(container), self.tables(state, container)) {
            // They are wanted from this call on; nobody waits for them here.
            drop(self.shared.host.share_names(&guest, &tables));
        }
    }

    /// Tells every running container on these networks who can be found there now. Resolves when
    /// all have it, or after a second: who is slow gets it later.
    pub(super) async fn names_changed(&self, networks: &[String]) {
        // Given under the lock: of two changes the later one is given last.
        let updates: Vec<_> = {
            let state = self.state();
            let concerned = state.containers.values().map(|entry| &entry.record).filter(|container| {
                container.state.phase.is_up()
                    && container.endpoints.iter().any(|endpoint| networks.contains(&endpoint.network))
            });
            let (mut updates, mut common) = (Vec::new(), HashMap::new());
            for container in concerned {
                let make = || self.tables(&state, container);
                let tables = match with_its_peers(container) {
                    Some(networks) => common.entry(networks).or_insert_with(make).clone(),
                    None => make(),
                };
                if let (Ok(guest), Some(tables)) = (guest_id(container), tables) {
                    let update = self.shared.host.share_names(&guest, &tables);
                    updates.push((guest, update));
                }
            }
            updates
        };
        let updates = updates.into_iter().map(|(guest, update)| {
            // It goes on when nobody waits any more.
            tokio::spawn(async move {
                match update.await {
                    Ok(_) | Err(NamesError::Superseded | NamesError::Unknown) => {}
                    Err(error) => tracing::error!(%guest, "names: {}", one_line(&error.to_string())),
                }
            })
        });
        let _ = timeout(NAMES, futures_util::future::join_all(updates)).await;
    }

    fn tables(&self, state: &State, container: &Container) -> Option<Tables> {
        let tables = Tables::new(state.names(container, self.shared.settings.resolution.ttl_seconds));
        tables.inspect_err(|error| tracing::error!(container = container.name, "names: {error}")).ok()
    }
}

impl State {
    /// Who a container may find by name: its extra hosts, everybody whose workload runs on its
    /// networks, and itself.
    fn names(&self, container: &Container, ttl_seconds: u32) -> NameTables {
        let networks = container.endpoints.iter().filter(|endpoint| endpoint.active.is_some());
        let networks = networks.filter_map(|endpoint| {
            let network = self.networks.get(&endpoint.network)?;
            let others = self.on_network(&network.id).filter_map(|other| {
                let found = answers(other) || other.id == container.id;
                let its = other.endpoint(&network.id).filter(|_| found)?;
                endpoint_names(other, its, names_of(other, its))
            });
            Some(NetworkNames {
                network: network.name.clone(),
                links: self.links(endpoint),
                endpoints: others.collect(),
            })
        });
        NameTables {
            ttl_seconds,
            hosts: container.run.as_ref().map(|run| run.hosts.clone()).unwrap_or_default(),
            networks: networks.collect(),
        }
    }

    /// What this container alone calls others on an endpoint's network.
    fn links(&self, endpoint: &Endpoint) -> Vec<EndpointNames> {
        let links = endpoint.links.iter().filter_map(|(id, name)| {
            let other = &self.containers.get(id)?.record;
            let its = other.endpoint(&endpoint.network).filter(|_| answers(other))?;
            endpoint_names(other, its, vec![name.clone()])
        });
        links.collect()
    }
}

/// Whether a container's workload runs. One that has ended is not to be found any more, however
/// long its machine takes to end.
fn answers(container: &Container) -> bool {
    let over = container.run.as_ref().is_some_and(|run| run.exit.is_some());
    container.state.phase == Phase::Running && !over
}

/// The networks of a container that finds what everybody finds who is on just these. `None`: it
/// finds something of its own, or alone finds itself.
fn with_its_peers(container: &Container) -> Option<Vec<&str>> {
    let hosts = container.run.iter().any(|run| !run.hosts.is_empty());
    let links = container.endpoints.iter().any(|endpoint| !endpoint.links.is_empty());
    let networks = container.endpoints.iter().filter(|endpoint| endpoint.active.is_some());
    let networks = networks.map(|endpoint| endpoint.network.as_str());
    (answers(container) && !hosts && !links).then(|| networks.collect())
}

fn endpoint_names(container: &Container, endpoint: &Endpoint, names: Vec<String>) -> Option<EndpointNames> {
    let addresses = endpoint.active.as_ref()?.addresses.iter().map(|prefix| prefix.address().to_string());
    // A range of thousands may be exposed: tables take so many, and the first are told.
    let ports = listened_on(container).into_iter().take(MAX_PER_ENDPOINT).map(|(number, protocol)| {
        let protocol = match protocol {
            Protocol::Tcp => names::Protocol::Tcp,
            Protocol::Udp => names::Protocol::Udp,
            Protocol::Sctp => names::Protocol::Sctp,
        };
        names::Port { number, protocol, name: None }
    });
    (!names.is_empty()).then(|| EndpointNames {
        names,
        addresses: addresses.collect(),
        ports: ports.collect(),
    })
}

/// The names of a container on a network: its own, its aliases there, its short id, its host
/// name; each once, whatever its case.
pub fn names_of(container: &Container, endpoint: &Endpoint) -> Vec<String> {
    let own = [container.name.clone()];
    let rest = [container.short_id().to_owned(), container.hostname()];
    let mut names: Vec<String> = Vec::new();
    for name in own.into_iter().chain(endpoint.aliases.iter().cloned()).chain(rest) {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests;
