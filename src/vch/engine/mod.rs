//! The engine: networks and containers, from what somebody asks to what is so.
//!
//! [`record`] says what is kept. [`networks`] and [`containers`] change it, [`lifecycle`] starts
//! and ends machines, a [`keeper`] looks after each, [`ending`] says how it ended, [`recovery`]
//! finds them again; [`endpoints`] attaches them, [`publish`] lets the outside in, [`guests`]
//! tells the guests what to be, [`peers`] whom they can find. What is asked comes from the Docker endpoint and the administrator; nothing
//! here knows HTTP.

pub mod containers;
pub mod disks;
pub mod ending;
pub mod endpoints;
pub mod error;
pub mod guests;
pub mod keeper;
pub mod lifecycle;
pub mod naming;
pub mod networks;
pub mod peers;
pub mod publish;
pub mod record;
pub mod recovery;
pub mod resolver;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tether_host::{
    Host, Seldom,
    prometheus_client::{encoding::text, registry::Registry},
};
use tether_wire::value::{IfName, Prefix};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{mpsc, watch};

use self::{
    error::EngineError,
    record::{Container, Network, NetworkKind, Phase},
};
use crate::{
    firewall::Rules,
    identity,
    image::{ImageError, Images},
    mac,
    machine::{Hypervisor, Machine},
    network::Networks,
    reserved::{Ports, Taken},
    store::{Change, Store},
    workload::{
        log::{self, Record},
        streams::Hub,
    },
};

/// How many lines the log has in 10 s about what one guest reports.
const REPORTS: u32 = 20;
/// What the management network's bridge is marked with, in place of a network's id.
const MANAGEMENT: &str = "management";

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What outlives a restart of this machine: the database, images, containers' disks and logs.
    pub state: PathBuf,
    /// What does not: sockets, consoles. Short, because a socket's path may have 108 bytes.
    pub run: PathBuf,
    /// The management network's bridge.
    pub management_bridge: IfName,
    /// The host's address on it.
    pub management_address: Prefix,
    /// The port guests dial.
    pub port: u16,
    /// Where the Docker endpoint listens on TCP.
    pub endpoint: Vec<std::net::SocketAddr>,
    /// How containers resolve names.
    pub resolution: resolver::Resolution,
}

/// The engine. Clones are the same engine.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    store: Store,
    images: Arc<Images>,
    host: Host,
    kernel: Networks,
    hypervisor: Box<dyn Hypervisor>,
    ports: Ports,
    disks: disks::Disks,
    state: Mutex<State>,
    /// What the packet filter has.
    filter: tokio::sync::Mutex<Option<Rules>>,
}

/// What there is. The records in here are those in the database: they change together.
#[derive(Debug, Default)]
pub struct State {
    networks: BTreeMap<String, Network>,
    containers: BTreeMap<String, Entry>,
}

/// A container and what belongs to it while this process runs.
#[derive(Debug)]
struct Entry {
    record: Container,
    hub: Arc<Hub>,
    /// Held over every operation that changes what runs.
    turn: Arc<tokio::sync::Mutex<()>>,
    life: watch::Sender<Life>,
    machine: Option<Arc<dyn Machine>>,
    /// Has its keeper look at what its guest has said.
    keeper: Option<mpsc::Sender<()>>,
    /// What its guest reports, in the log.
    reports: Seldom,
    taken: Vec<Taken>,
    /// Somebody ends its machine by SIGKILL: its end is told as that.
    killed: bool,
}

/// What those who wait for a container watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Where in its life it is.
    pub phase: Phase,
    /// How often it has ended since this process runs.
    pub exits: u64,
    /// How it ended the last time.
    pub exit_code: i64,
    /// Why, where its workload did not end by itself.
    pub error: String,
    /// It is no more.
    pub removed: bool,
}

impl Engine {
    /// Takes up where the last run of it ended, and from then on looks after everything.
    ///
    /// `configured` are the external networks of the configuration file.
    pub async fn open(
        settings: Settings,
        hypervisor: Box<dyn Hypervisor>,
        configured: Vec<networks::WantedExternal>,
    ) -> Result<Self, EngineError> {
        for directory in [settings.state.join("containers"), settings.run.join("machines")] {
            fs::create_dir_all(&directory)
                .map_err(|error| EngineError::internal(format!("{}: {error}", directory.display())))?;
        }
        let store = Store::open(&settings.state.join("vch.redb"))?;
        let images = Images::open(&settings.state, store.database()).map_err(EngineError::from)?;
        let disks = disks::Disks::open(&settings.state).map_err(EngineError::internal)?;
        let kernel = Networks::open()?;
        let (bridge, address) = (&settings.management_bridge, settings.management_address);
        let mac = mac::of_name(&format!("bridge {bridge}"));
        let management = kernel.ensure_bridge(bridge, MANAGEMENT, mac, None, &[address]).await?;
        let listen = match address.address() {
            IpAddr::V4(v4) => SocketAddr::from((v4, settings.port)),
            // The index says on which link a link-local address is; it does no harm to others.
            IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, settings.port, 0, management)),
        };
        let state = State::read(&store)?;
        let identity = identity::keep(&settings.state).map_err(EngineError::internal)?;
        let host = Host::listen(tether_host::Options::on(listen, identity)).await;
        let host = host.map_err(|error| {
            EngineError::internal(format!(
                "cannot listen for guests on {listen}: {error}; is another vch running?"
            ))
        })?;
        let engine = Self {
            shared: Arc::new(Shared {
                store,
                images: Arc::new(images),
                host: host.clone(),
                kernel,
                hypervisor,
                ports: Ports::new(),
                disks,
                state: Mutex::new(state),
                filter: tokio::sync::Mutex::default(),
                settings,
            }),
        };
        for network in engine.networks() {
            if let Err(error) = engine.bridge_up(&network).await {
                // An administrator's link may be gone; everybody else's network is not.
                tracing::error!("network {}: {error}", network.name);
            }
        }
        // What is forwarded is so again before anything else: connections are waiting.
        engine.filter().await?;
        // From before the first guest is let in: who has come with which key is not to be missed.
        let events = host.events();
        tokio::spawn({
            let engine = engine.clone();
            async move { engine.distribute(events).await }
        });
        engine.take_up().await?;
        engine.ensure_built_in().await?;
        engine.configure(configured).await?;
        Ok(engine)
    }

    /// Brings the external networks of the configuration file up to it.
    async fn configure(&self, wanted: Vec<networks::WantedExternal>) -> Result<(), EngineError> {
        for network in self.networks() {
            let configured = matches!(network.kind, NetworkKind::External { configured: true, .. });
            if configured && !wanted.iter().any(|wanted| wanted.is(&network)) {
                self.remove_network(&network.id, true).await?;
            }
        }
        for wanted in wanted {
            let there = self.networks().iter().any(|network| wanted.is(network));
            if !there {
                let name = wanted.name.clone();
                self.add_external(wanted, true)
                    .await
                    .map_err(|error| error.at(format!("external {name}")))?;
            }
        }
        Ok(())
    }
}

impl State {
    fn read(store: &Store) -> Result<Self, EngineError> {
        let networks = store.networks()?.into_iter().map(|network| (network.id.clone(), network)).collect();
        let containers =
            store.containers()?.into_iter().map(|record| (record.id.clone(), Entry::new(record))).collect();
        Ok(Self { networks, containers })
    }
}

impl Engine {
    /// The fleet in numbers ([`Host::register`]), in the text format of `OpenMetrics`.
    pub fn metrics(&self) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        self.shared.host.register(&mut registry);
        // It is written to memory.
        let _ = text::encode(&mut text, &registry);
        text
    }

    /// What is kept, to be read. Held for moments only.
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; if it did, the records are whole all the same.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The images.
    pub fn images(&self) -> Arc<Images> {
        Arc::clone(&self.shared.images)
    }

    /// Where everything is.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Every network, by name.
    pub fn networks(&self) -> Vec<Network> {
        let mut networks: Vec<_> = self.state().networks.values().cloned().collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks
    }

    /// Every container, the newest first.
    pub fn containers(&self) -> Vec<Container> {
        let mut containers: Vec<_> =
            self.state().containers.values().map(|entry| entry.record.clone()).collect();
        containers.sort_by(|a, b| b.created.cmp(&a.created));
        containers
    }

    /// The network of this name, id or beginning of an id.
    pub fn network(&self, text: &str) -> Result<Network, EngineError> {
        self.state().network(text).cloned()
    }

    /// The container of this name, id or beginning of an id.
    pub fn container(&self, text: &str) -> Result<Container, EngineError> {
        Ok(self.state().entry(text)?.record.clone())
    }

    /// The container with its streams.
    pub fn streams(&self, text: &str) -> Result<(Container, Arc<Hub>), EngineError> {
        let state = self.state();
        let entry = state.entry(text)?;
        Ok((entry.record.clone(), Arc::clone(&entry.hub)))
    }

    /// The container's life, to be watched.
    pub fn life(&self, text: &str) -> Result<watch::Receiver<Life>, EngineError> {
        Ok(self.state().entry(text)?.life.subscribe())
    }

    /// What is kept of a container's output, oldest first.
    pub async fn output(&self, id: &str) -> Result<Vec<Record>, EngineError> {
        let path = self.log_path(id);
        tokio::task::spawn_blocking(move || log::read(&path)).await.map_err(EngineError::internal)
    }

    /// The file with a container's log.
    pub fn log_path(&self, id: &str) -> PathBuf {
        self.container_directory(id).join("output")
    }

    /// A container's directory, that outlives restarts. `id` is one of ours, never a stranger's
    /// text.
    fn container_directory(&self, id: &str) -> PathBuf {
        self.shared.settings.state.join("containers").join(id)
    }

    /// The directory of a container's machine.
    fn machine_directory(&self, id: &str) -> PathBuf {
        self.shared.settings.run.join("machines").join(id.get(..12).unwrap_or(id))
    }

    /// Changes a container's record, in the database first.
    fn update<T>(&self, id: &str, change: impl FnOnce(&mut Container) -> T) -> Result<T, EngineError> {
        let mut state = self.state();
        let entry = state.containers.get_mut(id).ok_or_else(|| no_such_container(id))?;
        let mut record = entry.record.clone();
        let result = change(&mut record);
        self.shared.store.commit(&Change::default().container(&record))?;
        entry.record = record;
        Ok(result)
    }
}

impl State {
    fn network(&self, text: &str) -> Result<&Network, EngineError> {
        let by_name = self.networks.values().find(|network| network.name == text);
        let found = self.networks.get(text).or(by_name);
        match found {
            Some(network) => Ok(network),
            None => match beginning_with(&self.networks, text) {
                Prefixed::One(network) => Ok(network),
                Prefixed::Many(n) => Err(EngineError::invalid(format!(
                    "network {text} is ambiguous ({n} matches found based on ID prefix)"
                ))),
                Prefixed::None => Err(EngineError::not_found(format!("network {text} not found"))),
            },
        }
    }

    fn entry(&self, text: &str) -> Result<&Entry, EngineError> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let by_name = self.containers.values().find(|entry| entry.record.name == text);
        match self.containers.get(text).or(by_name) {
            Some(entry) => Ok(entry),
            None => match beginning_with(&self.containers, text) {
                Prefixed::One(entry) => Ok(entry),
                Prefixed::Many(_) => {
                    Err(EngineError::invalid(format!("multiple IDs found with provided prefix: {text}")))
                }
                Prefixed::None => Err(no_such_container(text)),
            },
        }
    }

    /// The containers with an endpoint on a network.
    fn on_network<'a>(&'a self, network: &'a str) -> impl Iterator<Item = &'a Container> {
        let records = self.containers.values().map(|entry| &entry.record);
        records.filter(move |record| record.endpoint(network).is_some())
    }
}

enum Prefixed<'a, T> {
    None,
    One(&'a T),
    Many(usize),
}

fn beginning_with<'a, T>(all: &'a BTreeMap<String, T>, text: &str) -> Prefixed<'a, T> {
    if text.is_empty() {
        return Prefixed::None;
    }
    let mut found = all.range(text.to_owned()..).take_while(|(id, _)| id.starts_with(text));
    match (found.next(), found.count()) {
        (None, _) => Prefixed::None,
        (Some((_, one)), 0) => Prefixed::One(one),
        (Some(_), more) => Prefixed::Many(more + 1),
    }
}

fn no_such_container(text: &str) -> EngineError {
    EngineError::not_found(format!("No such container: {text}"))
}

/// A new id: 64 random hexadecimal digits, never all decimal, as Docker's.
pub fn new_id() -> String {
    loop {
        let [a, b]: [u128; 2] = rand::random();
        let id = format!("{a:032x}{b:032x}");
        // A short id that is a number would be taken for one.
        if id.bytes().take(12).any(|digit| digit.is_ascii_alphabetic()) {
            return id;
        }
    }
}

/// The time now, RFC 3339 with nanoseconds, UTC.
pub fn now() -> String {
    // It fails for years of five digits only.
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

impl From<crate::store::StoreError> for EngineError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::internal(error)
    }
}

impl From<crate::network::NetworkError> for EngineError {
    fn from(error: crate::network::NetworkError) -> Self {
        Self::internal(error)
    }
}

impl From<crate::machine::MachineError> for EngineError {
    fn from(error: crate::machine::MachineError) -> Self {
        Self::internal(error)
    }
}

impl From<crate::firewall::FirewallError> for EngineError {
    fn from(error: crate::firewall::FirewallError) -> Self {
        Self::internal(error)
    }
}

impl From<ImageError> for EngineError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::NotFound(_) => Self::not_found(error),
            ImageError::Conflict(_) => Self::conflict(error),
            ImageError::Table(_) | ImageError::Directory { .. } => Self::internal(error),
            _ => Self::invalid(error),
        }
    }
}
