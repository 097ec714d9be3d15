//! What the guests are told: boot documents, desired states, names.
//!
//! All of it follows from the records, so that a host that was killed tells its guests the same
//! again, and they find nothing to do.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tether_host::{ApplyError, GuestId, NamesError};
use tether_wire::{
    boot::{BootDocument, BootWorkload, HostAddress, Management, Root},
    message::NamesApplied,
    names::{EndpointNames, NameTables, NetworkNames},
    state::{DesiredState, Dns, HostEntry, Interface, Match, Route},
};
use tokio::time::timeout;

use super::{
    Engine, State,
    error::EngineError,
    record::{Container, Endpoint, Network, Phase},
    resolver,
};

/// The serial number of the disk with the image.
pub(super) const IMAGE_DISK: &str = "image";
/// The serial number of the disk that is written.
pub(super) const WRITABLE_DISK: &str = "writable";
/// How long a guest may take over a state while somebody waits. Its agent gives up after 10 s.
const APPLY: Duration = Duration::from_secs(30);
/// How long peers may take to know a new name before whoever started it goes on.
const NAMES: Duration = Duration::from_secs(1);

impl Engine {
    /// What a container's guest is to know before it has a channel.
    pub(super) fn boot_document(&self, container: &Container) -> Result<Vec<u8>, EngineError> {
        let config = &container.config;
        let size = container.host_config.console_size.as_deref().unwrap_or_default();
        let cells = |n: usize| size.get(n).and_then(|cells| u16::try_from(*cells).ok()).unwrap_or_default();
        let document = BootDocument {
            guest: container.id.clone(),
            management: Some(Management { mac: container.management_mac.to_string(), address: None }),
            host: Some(HostAddress {
                address: self.shared.settings.management_address.address().to_string(),
                port: self.shared.settings.port,
            }),
            workload: Some(BootWorkload {
                argv: container.argv.clone(),
                env: config.env.clone().unwrap_or_default(),
                cwd: config.working_dir.clone().unwrap_or_default(),
                user: config.user.clone().unwrap_or_default(),
                terminal: config.tty.unwrap_or_default(),
                rows: cells(0),
                columns: cells(1),
                stdin: config.open_stdin.unwrap_or_default(),
            }),
            root: Some(Root { image: IMAGE_DISK.to_owned(), writable: WRITABLE_DISK.to_owned() }),
        };
        if let Err(problems) = document.check() {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return Err(EngineError::invalid(problems.join("; ")));
        }
        serde_json::to_vec(&document).map_err(EngineError::internal)
    }

    /// Has a container's guest put in force what its record says, and waits until it has.
    pub(super) async fn apply(&self, container: &Container) -> Result<(), EngineError> {
        match timeout(APPLY, self.apply_without_limit(container)).await {
            Ok(applied) => applied,
            Err(_) => {
                Err(EngineError::internal(format!("the guest did not answer in {} s", APPLY.as_secs())))
            }
        }
    }

    /// As [`apply`](Self::apply), for as long as it takes.
    pub(super) async fn apply_without_limit(&self, container: &Container) -> Result<(), EngineError> {
        let state = desired_state(container, &self.state().networks);
        match self.shared.host.apply(&guest_id(container)?, state).await {
            // Superseded: somebody wants something newer, and waits for that.
            Ok(_) | Err(ApplyError::Superseded) => Ok(()),
            Err(ApplyError::Wrong(problems)) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(EngineError::invalid(problems.join("; ")))
            }
            Err(error) => Err(EngineError::internal(format!("the guest: {error}"))),
        }
    }

    /// Gives a container's guest the names that it may know now. They are kept until it dials in;
    /// the answer is for who waits.
    pub(super) fn give_names(
        &self,
        state: &State,
        container: &Container,
    ) -> Option<(GuestId, impl Future<Output = Result<NamesApplied, NamesError>> + Send + use<>)> {
        let guest = guest_id(container).ok()?;
        let update = self.shared.host.update_names(&guest, state.names(container));
        Some((guest, update))
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
            concerned.filter_map(|container| self.give_names(&state, container)).collect()
        };
        let updates = updates.into_iter().map(|(guest, update)| {
            // It goes on when nobody waits any more.
            tokio::spawn(async move {
                match update.await {
                    Ok(_) | Err(NamesError::Superseded | NamesError::Unknown) => {}
                    Err(error) => tracing::error!(%guest, "names: {error}"),
                }
            })
        });
        let _ = timeout(NAMES, futures_util::future::join_all(updates)).await;
    }
}

/// The name the host knows a container's guest by.
pub(super) fn guest_id(container: &Container) -> Result<GuestId, EngineError> {
    container.id.parse().map_err(EngineError::internal)
}

/// The endpoint whose network gives a container its default route: the highest priority, and
/// among equals the one that was asked for first. An internal network gives none.
pub(super) fn gateway_endpoint<'a>(
    container: &'a Container,
    networks: &BTreeMap<String, Network>,
) -> Option<&'a Endpoint> {
    let leads_out = |endpoint: &&Endpoint| {
        networks
            .get(&endpoint.network)
            .is_some_and(|network| network.bridge.is_some() && !network.is_internal())
    };
    let mut out = container.endpoints.iter().filter(leads_out);
    let first = out.next()?;
    Some(
        out.fold(
            first,
            |best, other| if other.gateway_priority > best.gateway_priority { other } else { best },
        ),
    )
}

/// What is wanted of a container's guest.
pub(super) fn desired_state(container: &Container, networks: &BTreeMap<String, Network>) -> DesiredState {
    let gateway = gateway_endpoint(container, networks).map(|endpoint| endpoint.id.as_str());
    let interface = |endpoint: &Endpoint| {
        let (active, network) = (endpoint.active.as_ref()?, networks.get(&endpoint.network)?);
        let default_route = |address: IpAddr| Route {
            destination: if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.to_owned(),
            gateway: Some(address.to_string()),
            ..Route::default()
        };
        let routes = network.gateways().filter(|_| gateway == Some(endpoint.id.as_str()));
        Some(Interface {
            matching: Some(Match::of_mac(active.mac.to_string())),
            name: format!("eth{}", active.nic),
            mtu: network.mtu,
            addresses: active.addresses.iter().map(|address| address.to_string().into()).collect(),
            routes: routes.map(default_route).collect(),
            ..Interface::default()
        })
    };
    let host_config = &container.host_config;
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let host = resolver::of_host();
    let given = |mine: Vec<String>, theirs: &[String]| if mine.is_empty() { theirs.to_vec() } else { mine };
    let upstreams = match gateway {
        // The host's servers are not for a network that leads nowhere.
        None => list(&host_config.dns),
        Some(_) => given(list(&host_config.dns), &host.servers),
    };
    DesiredState {
        hostname: container.hostname(),
        domain: container.config.domainname.clone().unwrap_or_default(),
        interfaces: container.endpoints.iter().filter_map(interface).collect(),
        dns: Dns {
            upstreams,
            search: given(list(&host_config.dns_search), &host.search),
            options: list(&host_config.dns_options),
            ..Dns::default()
        },
        hosts: container.run.as_ref().map(|run| run.hosts.clone()).unwrap_or_default(),
        ..DesiredState::default()
    }
}

/// `--add-host`: `name:address`, the address also `host-gateway`.
pub(super) fn extra_hosts(
    container: &Container,
    networks: &BTreeMap<String, Network>,
) -> Result<Vec<HostEntry>, EngineError> {
    let gateway = || {
        let endpoint = gateway_endpoint(container, networks)?;
        networks.get(&endpoint.network)?.gateways().next()
    };
    let lines = container.host_config.extra_hosts.iter().flatten();
    lines
        .map(|line| {
            let bad =
                || EngineError::invalid(format!("invalid extra host {line:?}: write name:10.0.0.9, say"));
            let (name, address) = line.split_once(':').ok_or_else(bad)?;
            let address = match address.trim_start_matches('[').trim_end_matches(']') {
                "host-gateway" => gateway().ok_or_else(|| {
                    EngineError::invalid(format!("{line}: the container has no network with a gateway"))
                })?,
                text => text.parse().map_err(|_| bad())?,
            };
            super::containers::check_dns_name("extra host", name)?;
            Ok(HostEntry { address: address.to_string(), names: vec![name.to_owned()] })
        })
        .collect()
}

impl State {
    /// Who a container may find by name: everybody whose workload runs on its networks, and
    /// itself.
    pub(super) fn names(&self, container: &Container) -> NameTables {
        let networks = container.endpoints.iter().filter(|endpoint| endpoint.active.is_some());
        let networks = networks.filter_map(|endpoint| {
            let network = self.networks.get(&endpoint.network)?;
            let others = self.on_network(&network.id).filter_map(|other| {
                let found = other.state.phase == Phase::Running || other.id == container.id;
                let its = other.endpoint(&network.id).filter(|_| found)?;
                endpoint_names(its, names_of(other, its))
            });
            Some(NetworkNames {
                network: network.name.clone(),
                links: self.links(endpoint),
                endpoints: others.collect(),
            })
        });
        NameTables { networks: networks.collect(), ..NameTables::default() }
    }

    /// What this container alone calls others on an endpoint's network.
    fn links(&self, endpoint: &Endpoint) -> Vec<EndpointNames> {
        let links = endpoint.links.iter().filter_map(|(id, name)| {
            let other = &self.containers.get(id)?.record;
            let its = other.endpoint(&endpoint.network).filter(|_| other.state.phase == Phase::Running)?;
            endpoint_names(its, vec![name.clone()])
        });
        links.collect()
    }
}

fn endpoint_names(endpoint: &Endpoint, names: Vec<String>) -> Option<EndpointNames> {
    let addresses = endpoint.active.as_ref()?.addresses.iter().map(|prefix| prefix.address().to_string());
    (!names.is_empty()).then(|| EndpointNames { names, addresses: addresses.collect(), ports: Vec::new() })
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
