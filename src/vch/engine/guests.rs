//! What the guests are told: boot documents, desired states. Names are [`peers`](super::peers)'.
//!
//! All of it follows from the records, so that a host that was killed tells its guests the same
//! again, and they find nothing to do.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tether_host::{Admission, ApplyError, GuestId, Pin};
use tether_wire::{
    boot::{BootDocument, BootWorkload, HostAddress, Management, Root},
    state::{DesiredState, HostEntry, Interface, Match, Route},
};
use tokio::time::timeout;

use super::{
    Engine,
    error::EngineError,
    record::{Container, Endpoint, Join, Network},
    resolver::{self, Resolution},
};
use crate::said::one_line;

/// The serial number of the disk with the image.
pub(super) const IMAGE_DISK: &str = "image";
/// The serial number of the disk that is written.
pub(super) const WRITABLE_DISK: &str = "writable";
/// How long a guest may take from its machine's start until it has redeemed its join token: longer
/// than any that is waited for.
const JOIN: Duration = Duration::from_mins(10);
/// How long a guest may take over a state while somebody waits. Its agent gives up after 10 s.
const APPLY: Duration = Duration::from_secs(30);

impl Engine {
    /// What a container's guest is to know before it has a channel.
    pub(super) fn boot_document(&self, container: &Container) -> Result<Vec<u8>, EngineError> {
        let config = &container.config;
        let size = container.host_config.console_size.as_deref().unwrap_or_default();
        let cells = |n: usize| size.get(n).and_then(|cells| u16::try_from(*cells).ok()).unwrap_or_default();
        let document = BootDocument {
            guest: container.id.clone(),
            management: Some(Management { mac: container.management_mac.to_string(), address: None }),
            host: Some(HostAddress::tcp(
                self.shared.settings.management_address.address(),
                self.shared.settings.port,
                &self.shared.host.pins(),
            )),
            token: match container.run.as_ref().and_then(|run| run.join.as_ref()) {
                Some(Join::Awaited { token, .. }) => Some(token.clone()),
                Some(Join::Bound(_)) | None => None,
            },
            workload: Some(BootWorkload {
                argv: container.argv.clone(),
                env: config.env.clone().unwrap_or_default(),
                cwd: config.working_dir.clone().unwrap_or_default(),
                user: config.user.clone().unwrap_or_default(),
                terminal: config.tty.unwrap_or_default(),
                rows: cells(0),
                columns: cells(1),
                stdin: config.open_stdin.unwrap_or_default(),
                privileged: container.host_config.privileged.unwrap_or_default(),
            }),
            root: Some(Root { image: IMAGE_DISK.to_owned(), writable: WRITABLE_DISK.to_owned() }),
        };
        if let Err(problems) = document.check() {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return Err(EngineError::invalid(problems.join("; ")));
        }
        serde_json::to_vec(&document).map_err(EngineError::internal)
    }

    /// Notes the key of a guest that has redeemed its join token, in the database: it is let in by
    /// that after a restart of this process too.
    pub(super) fn enrolled(&self, id: &str, key: Pin) {
        // It may be an earlier machine's, told late.
        if id.parse().ok().and_then(|guest| self.shared.host.key(&guest)) != Some(key) {
            return;
        }
        let noted = self.update(id, |record| {
            if let Some(run) = &mut record.run {
                run.join = Some(Join::Bound(key));
            }
        });
        if let Err(error) = noted {
            tracing::error!(container = id, "its guest's key is not noted: {error}");
        }
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
        let resolution = &self.shared.settings.resolution;
        let state = desired_state(container, &self.state().networks, resolution);
        match self.shared.host.apply(&guest_id(container)?, state).await {
            // Superseded: somebody wants something newer, and waits for that.
            Ok(_) | Err(ApplyError::Superseded) => Ok(()),
            Err(ApplyError::Wrong(problems)) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(EngineError::invalid(problems.join("; ")))
            }
            Err(error) => Err(EngineError::internal(format!("the guest: {}", one_line(&error.to_string())))),
        }
    }
}

impl Join {
    /// For a machine that is started now.
    pub(super) fn new() -> Self {
        let admission = Admission::new(JOIN);
        let until = admission.expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self::Awaited { token: admission.token.to_secret(), until }
    }

    /// What the host is told of it.
    pub(super) fn admission(&self) -> Result<Admission, EngineError> {
        match self {
            Self::Awaited { token, until } => Ok(Admission {
                token: token.reveal().parse().map_err(EngineError::internal)?,
                // A time that cannot be said is one that has passed.
                expires: UNIX_EPOCH
                    .checked_add(Duration::from_secs(*until))
                    .unwrap_or(SystemTime::UNIX_EPOCH),
                key: None,
            }),
            Self::Bound(key) => Ok(Admission::known(*key)),
        }
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
pub(super) fn desired_state(
    container: &Container,
    networks: &BTreeMap<String, Network>,
    resolution: &Resolution,
) -> DesiredState {
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
    DesiredState {
        hostname: container.hostname(),
        domain: container.config.domainname.clone().unwrap_or_default(),
        interfaces: container.endpoints.iter().filter_map(interface).collect(),
        dns: resolution.of(&container.host_config, gateway.is_some(), resolver::of_host()),
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
