//! Containers as records: made, renamed, removed. What runs is [`lifecycle`](super::lifecycle)'s.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::Arc,
    time::Duration,
};

use bollard_stubs::models;
use tether_host::Seldom;
use tether_wire::names::{EndpointNames, NameTables, NetworkNames};
use tokio::{sync::watch, time::timeout};

use super::{
    Engine, Entry, Life, REPORTS, State,
    endpoints::{WantedEndpoint, refuse_mixture},
    error::{EngineError, Kind},
    guests::{desired_state, extra_hosts},
    naming::{random_name, signal_number},
    networks::{DEFAULT_NETWORK, NO_NETWORK},
    new_id, now,
    peers::names_of,
    publish::{check_ports, exposed},
    record::{Container, Network, Phase, State as ContainerState},
    resolver::Resolution,
};
use crate::{
    image::{Image, ImageId, InUse},
    mac,
    store::Change,
    workload::{log, streams::Hub},
};

/// The memory of a machine whose container asks for none, in MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 128;
/// The least memory a machine can do with, in MiB: Debian's kernel does not unpack the boot image
/// in 80; of 96 the workload has 27.
const LEAST_MEMORY_MIB: u32 = 96;
/// How long a machine may take to end, and what belongs to it to be given back.
const TAKE_DOWN: Duration = Duration::from_secs(20);
/// The most processors of a machine.
const MOST_CPUS: i64 = 64;
const NANO: i64 = 1_000_000_000;
/// The longest name of a container, in bytes: it is a label in domain names.
const LONGEST_NAME: usize = 63;
/// Docker's name for the stop signal when nobody names one.
pub const STOP_SIGNAL: &str = "SIGTERM";

/// A container as somebody asks for it.
#[derive(Clone, Debug, Default)]
pub struct WantedContainer {
    /// Its name, if it is to have one of its own.
    pub name: Option<String>,
    /// What it is to be.
    pub config: models::ContainerConfig,
    /// What it is to get from its host.
    pub host_config: models::HostConfig,
    /// What it wants of the networks it is to be on, the first being its main one.
    pub endpoints: Vec<WantedEndpoint>,
}

impl Engine {
    /// Makes a container. Besides its id, what should be told to whoever asked.
    pub async fn create_container(
        &self,
        wanted: WantedContainer,
    ) -> Result<(String, Vec<String>), EngineError> {
        let text = wanted.config.image.clone().unwrap_or_default();
        let images = self.images();
        let image =
            tokio::task::spawn_blocking(move || images.find(&text)).await.map_err(EngineError::internal)?;
        let image = image?;
        let mut warnings = Vec::new();
        let id = new_id();
        let mut config = wanted.config;
        let argv = fill_in(&mut config, &image, &mut warnings)?;
        let mut record = Container {
            created: now(),
            name: String::new(),
            image: image.id.clone(),
            config,
            host_config: wanted.host_config,
            argv,
            endpoints: Vec::new(),
            management_mac: mac::of_name(&id),
            state: ContainerState::default(),
            run: None,
            id,
        };
        check_limits(&record)?;
        let directory = self.container_directory(&record.id);
        let made = fs::create_dir(&directory).map_err(EngineError::internal);
        let made = made.and_then(|()| {
            self.shared.disks.make(&directory.join("writable")).map_err(EngineError::internal)
        });
        let added = made.and_then(|()| self.add_container(&mut record, wanted.name, &wanted.endpoints));
        if let Err(error) = added {
            // Nothing of it stays.
            let _ = fs::remove_dir_all(&directory);
            return Err(error);
        }
        Ok((record.id, warnings))
    }

    fn add_container(
        &self,
        record: &mut Container,
        name: Option<String>,
        endpoints: &[WantedEndpoint],
    ) -> Result<(), EngineError> {
        let mut state = self.state();
        record.name = state.free_name(name)?;
        for wanted in endpoints {
            // Not as something that is not found: a client takes that for the image.
            let network =
                state.network(&wanted.network).map_err(|error| EngineError::invalid(error.message))?;
            let network = network.clone();
            let endpoint = state.endpoint(wanted, &network)?;
            if record.endpoint(&network.id).is_some() {
                return Err(EngineError::invalid(format!("network {} is there twice", network.name)));
            }
            record.endpoints.push(endpoint);
        }
        let networks: Vec<&Network> =
            record.endpoints.iter().filter_map(|endpoint| state.networks.get(&endpoint.network)).collect();
        refuse_mixture(networks.iter().copied())?;
        if networks.first().is_some_and(|network| network.name == NO_NETWORK) {
            record.endpoints.truncate(1);
        }
        check_ports(record, &state.networks)?;
        check_documents(record, &state.networks, &self.shared.settings.resolution)?;
        // Another machine's management NIC must not have this one's address.
        while state.containers.values().any(|other| other.record.management_mac == record.management_mac) {
            record.management_mac = mac::of_name(&new_id());
        }
        self.shared.store.commit(&Change::default().container(record))?;
        state.containers.insert(record.id.clone(), Entry::new(record.clone()));
        Ok(())
    }

    /// Gives a container another name; who looks it up finds it by that at once.
    pub async fn rename(&self, container: &str, name: &str) -> Result<(), EngineError> {
        let networks = {
            let mut state = self.state();
            let mut record = state.entry(container)?.record.clone();
            let name = name.strip_prefix('/').unwrap_or(name);
            if name == record.name {
                return Err(EngineError::invalid(
                    "Renaming a container with the same name as its current name",
                ));
            }
            record.name = state.free_name(Some(name.to_owned()))?;
            check_documents(&record, &state.networks, &self.shared.settings.resolution)?;
            state.commit(&self.shared.store, record.clone(), Vec::new())?;
            record.endpoints.into_iter().map(|endpoint| endpoint.network).collect::<Vec<_>>()
        };
        self.names_changed(&networks).await;
        Ok(())
    }

    /// Removes a container; with `force` also one that runs.
    pub async fn remove_container(&self, container: &str, force: bool) -> Result<(), EngineError> {
        let (id, turn) = self.turn(container)?;
        if force && self.container(&id)?.state.phase.is_up() {
            // Whoever waits for its start or its stop has its turn back soon.
            self.end_now(&id).await;
        }
        let _turn = turn.lock().await;
        let record = match self.container(&id) {
            // It has removed itself.
            Err(_) if force => return Ok(()),
            found => found?,
        };
        if record.state.phase.is_up() {
            if !force {
                return Err(EngineError::conflict(format!(
                    "cannot remove container \"/{}\": container is running: stop the container before removing or \
                     force remove",
                    record.name
                )));
            }
            self.end_now(&id).await;
        }
        let mut life = self.life(&id)?;
        // Of its run everything has to be gone; that is told last.
        if timeout(TAKE_DOWN, life.wait_for(|life| !life.phase.is_up())).await.is_err() {
            return Err(EngineError::internal("its machine does not end; end its QEMU by hand"));
        }
        match self.container(&id) {
            Ok(_) => self.erase(&id),
            // It has removed itself.
            Err(_) => Ok(()),
        }
    }

    /// Removes every trace of a container that does not run. One that is gone already is no
    /// error: it may have removed itself.
    pub(super) fn erase(&self, id: &str) -> Result<(), EngineError> {
        {
            let mut state = self.state();
            let record = state.containers.get(id).map(|entry| entry.record.clone());
            let networks = record.map(|mut record| state.released(&mut record).0).unwrap_or_default();
            let change = networks.iter().fold(Change::default().without_container(id), Change::network);
            self.shared.store.commit(&change)?;
            for network in networks {
                state.networks.insert(network.id.clone(), network);
            }
            if let Some(entry) = state.containers.remove(id) {
                entry.hub.end();
                if entry.life.borrow().phase.is_up() {
                    // It removes itself: its end and its removal are one.
                    entry.tell_end();
                }
                entry.life.send_modify(|life| life.removed = true);
            }
        }
        log::remove(&self.log_path(id));
        let _ = fs::remove_dir_all(self.machine_directory(id));
        match fs::remove_dir_all(self.container_directory(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::internal(format!("the container's directory: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Removes every container that does not run. Their ids.
    pub async fn prune_containers(&self) -> Vec<String> {
        let ended = self.containers().into_iter().filter(|container| !container.state.phase.is_up());
        let mut removed = Vec::new();
        for container in ended {
            // Somebody may have been faster, either way.
            if self.remove_container(&container.id, false).await.is_ok() {
                removed.push(container.id);
            }
        }
        removed
    }

    /// The container's id, and the lock that whoever changes what it runs holds.
    pub(super) fn turn(&self, container: &str) -> Result<(String, Arc<tokio::sync::Mutex<()>>), EngineError> {
        let state = self.state();
        let entry = state.entry(container)?;
        Ok((entry.record.id.clone(), Arc::clone(&entry.turn)))
    }

    /// Which container uses an image, one that runs before others.
    pub fn user_of(&self, image: &ImageId) -> Option<InUse> {
        let state = self.state();
        let users = state.containers.values().filter(|entry| entry.record.image == *image);
        let one = users.max_by_key(|entry| entry.record.state.phase.is_up())?;
        Some(InUse { container: one.record.short_id().to_owned(), running: one.record.state.phase.is_up() })
    }
}

impl Entry {
    pub(super) fn new(record: Container) -> Self {
        let life = Life {
            phase: record.state.phase,
            exit_code: record.state.exit_code,
            error: record.state.error.clone(),
            ..Life::default()
        };
        Self {
            record,
            hub: Arc::new(Hub::default()),
            turn: Arc::default(),
            life: watch::channel(life).0,
            machine: None,
            keeper: None,
            reports: Seldom::up_to(REPORTS),
            taken: Vec::new(),
            killed: false,
        }
    }
}

impl State {
    /// The name somebody asks for, if it is good and nobody has it; one of ours otherwise.
    fn free_name(&self, wanted: Option<String>) -> Result<String, EngineError> {
        // Names are looked up without regard to case.
        let holder = |name: &str| {
            let mut entries = self.containers.values();
            entries
                .find(|entry| entry.record.name.eq_ignore_ascii_case(name))
                .map(|entry| entry.record.id.clone())
        };
        let Some(name) = wanted else {
            let free = (0..100).map(random_name).find(|name| holder(name).is_none());
            return free.ok_or_else(|| EngineError::internal("there is no free name"));
        };
        let name = name.strip_prefix('/').unwrap_or(&name).to_owned();
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !starts || name.len() < 2 || !name.bytes().all(good) {
            return Err(EngineError::invalid(format!(
                "Invalid container name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
                name.escape_debug()
            )));
        }
        check_dns_name("container name", &name)?;
        if let Some(id) = holder(&name) {
            return Err(EngineError::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container {id:?}. You have to remove \
                 (or rename) that container to be able to reuse that name."
            )));
        }
        Ok(name)
    }
}

/// Whether something can be found by this name.
pub(super) fn check_dns_name(what: &str, name: &str) -> Result<(), EngineError> {
    if name.len() > LONGEST_NAME {
        return Err(EngineError::invalid(format!(
            "{what} {name:?} is too long to be found by: {LONGEST_NAME} characters at most"
        )));
    }
    let endpoint = EndpointNames { names: vec![name.to_owned()], ..EndpointNames::default() };
    let network =
        NetworkNames { network: "n".to_owned(), endpoints: vec![endpoint], ..NetworkNames::default() };
    let tables = NameTables { networks: vec![network], ..NameTables::default() };
    match tables.check() {
        Ok(_) => Ok(()),
        Err(problems) => {
            let first = problems.first().map(|problem| problem.message.clone()).unwrap_or_default();
            Err(EngineError::invalid(format!("{what} {name:?}: {first}")))
        }
    }
}

/// Fills in what the image says and the user does not. The program and its arguments.
fn fill_in(
    config: &mut models::ContainerConfig,
    image: &Image,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>, EngineError> {
    let theirs = &image.config;
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    // An entrypoint of one empty string is how Docker says: none.
    let reset = config.entrypoint.as_deref() == Some(&[String::new()]);
    if config.entrypoint.is_none() || (empty(&config.entrypoint) && !reset) {
        if empty(&config.cmd) {
            config.cmd.clone_from(&theirs.cmd);
        }
        config.entrypoint.clone_from(&theirs.entrypoint);
    } else if reset {
        config.entrypoint = None;
    }
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for variable in theirs.env.iter().chain(config.env.iter().flatten()) {
        let (name, value) = match variable.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            // Without a value it is taken away.
            None => (variable.as_str(), None),
        };
        order.retain(|other| other != name);
        if let Some(value) = value {
            order.push(name.to_owned());
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    let env = order.iter().filter_map(|name| Some(format!("{name}={}", env.get(name)?)));
    config.env = Some(env.collect());
    let unset = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    if unset(&config.user) {
        config.user = Some(theirs.user.clone());
    }
    if unset(&config.working_dir) {
        config.working_dir = Some(theirs.working_dir.clone());
    }
    config.stop_timeout = config.stop_timeout.or(theirs.stop_timeout);
    if unset(&config.stop_signal) {
        config.stop_signal.clone_from(&theirs.stop_signal);
    }
    let ports = config.exposed_ports.get_or_insert_default();
    for port in theirs.exposed_ports.keys() {
        if !ports.contains(port) {
            ports.push(port.clone());
        }
    }
    ports.sort();
    for port in ports.iter() {
        exposed(port)?;
    }
    let mut labels: HashMap<String, String> = theirs.labels.clone().into_iter().collect();
    labels.extend(config.labels.take().unwrap_or_default());
    config.labels = Some(labels);
    if !theirs.volumes.is_empty() {
        warnings.push("the image's volumes are directories of the container's own writable layer".to_owned());
    }
    let argv: Vec<String> =
        config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).cloned().collect();
    if argv.is_empty() {
        return Err(EngineError::invalid("no command specified"));
    }
    Ok(argv)
}

fn check_limits(container: &Container) -> Result<(), EngineError> {
    memory_mib(container)?;
    cpus(container)?;
    signal_number(container.config.stop_signal.as_deref().unwrap_or(STOP_SIGNAL))?;
    if let Some(hostname) = container.config.hostname.as_deref().filter(|name| !name.is_empty()) {
        check_dns_name("hostname", hostname)?;
    }
    Ok(())
}

/// A machine's memory in MiB.
pub(super) fn memory_mib(container: &Container) -> Result<u32, EngineError> {
    let bytes = container.host_config.memory.unwrap_or_default();
    if bytes == 0 {
        return Ok(DEFAULT_MEMORY_MIB);
    }
    let mib = u32::try_from(bytes >> 20).ok().filter(|mib| *mib >= LEAST_MEMORY_MIB);
    mib.ok_or_else(|| {
        EngineError::invalid(format!(
            "Minimum memory limit allowed is {LEAST_MEMORY_MIB}MB: a container here is a machine, its kernel included"
        ))
    })
}

/// A machine's processors.
pub(super) fn cpus(container: &Container) -> Result<u32, EngineError> {
    let nano = container.host_config.nano_cpus.unwrap_or_default();
    if nano == 0 {
        return Ok(1);
    }
    let whole = nano / NANO;
    if nano % NANO != 0 || !(1..=MOST_CPUS).contains(&whole) {
        return Err(EngineError::invalid(format!(
            "--cpus takes whole numbers from 1 to {MOST_CPUS} here: a container is a machine with that many processors"
        )));
    }
    u32::try_from(whole).map_err(EngineError::internal)
}

/// Whether a guest will take what is going to be said of and to this container: it is found here,
/// and not when it starts.
pub(super) fn check_documents(
    container: &Container,
    networks: &BTreeMap<String, Network>,
    resolution: &Resolution,
) -> Result<(), EngineError> {
    let hosts = extra_hosts(container, networks)?;
    let mut problems = desired_state(container, networks, resolution).check().err().unwrap_or_default();
    let tables = container.endpoints.iter().filter_map(|endpoint| {
        let network = networks.get(&endpoint.network)?;
        let endpoints =
            vec![EndpointNames { names: names_of(container, endpoint), ..EndpointNames::default() }];
        Some(NetworkNames { network: network.name.clone(), endpoints, ..NetworkNames::default() })
    });
    let tables = NameTables { hosts, networks: tables.collect(), ..NameTables::default() };
    problems.extend(tables.check().err().unwrap_or_default());
    if problems.is_empty() {
        return Ok(());
    }
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Err(EngineError::invalid(problems.join("; ")))
}

/// The network a container is on that asks for none.
pub fn main_network(mode: Option<&str>) -> Result<String, EngineError> {
    match mode {
        None | Some("" | "default" | "bridge") => Ok(DEFAULT_NETWORK.to_owned()),
        Some("host") => Err(EngineError::unsupported(
            "network mode host is not supported: a container is a machine with a network of its own",
        )),
        Some(mode) if mode.starts_with("container:") => Err(EngineError::unsupported(
            "network mode container:… is not supported: a container is a machine with a network of its own",
        )),
        Some(mode) => Ok(mode.to_owned()),
    }
}

/// Whether what a container's phase allows was asked of it.
pub(super) fn require_running(container: &Container) -> Result<(), EngineError> {
    if container.state.phase == Phase::Running {
        return Ok(());
    }
    Err(EngineError { kind: Kind::Conflict, message: format!("container {} is not running", container.id) })
}
