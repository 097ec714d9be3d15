//! Driving the guests of a configuration, with or without starting their machines.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tether_host::{
    ApplyError, Event, EventKind, GuestId, Host, IdentityError, NamesError, Options, names::NameTables,
    state::DesiredState,
};
use tether_wire::problem::Problem;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, BufReader},
    process::Child,
    signal::unix::{SignalKind, signal},
    sync::broadcast::error::RecvError,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use vch::{
    config::{ConfigError, read_toml},
    machine::{Image, MachineError, accelerator, qemu::Accelerator},
    network::{NetworkError, Networks},
};

use crate::{
    acquaintance,
    machine::{self, StartError},
    output::{self, News, Output},
    plan::{Plan, PlannedNetwork},
};

/// How long workloads have to end when the host ends.
const GRACE: Duration = Duration::from_secs(2);
/// How long machines have to power off after that.
const POWER_OFF: Duration = Duration::from_secs(8);
/// The longest line of a console that is passed on, in bytes; the rest of it is dropped.
const CONSOLE_LINE: usize = 4 << 10;

/// Why the host does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The file is no configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration is wrong.
    #[error("{}", .problems.iter().map(|p| format!("{}: {p}", .path.display())).collect::<Vec<_>>().join("\n"))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong.
        problems: Vec<Problem>,
    },
    /// The host has no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A network could not be made.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A machine could not be started.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A machine could not be started.
    #[error(transparent)]
    Launch(#[from] StartError),
    /// The configuration has no such container.
    #[error("{path}: there is no container {name:?}")]
    NoContainer {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The host cannot listen.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Signals are not to be had.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// Reads a configuration and plans it.
pub(crate) fn read_plan(path: &Path) -> Result<Plan, ServeError> {
    let pin = acquaintance::identity()?.pin();
    Plan::new(&read_toml(path)?, pin)
        .map_err(|problems| ServeError::Wrong { path: path.to_owned(), problems })
}

/// Drives the guests of `config` until SIGINT or SIGTERM. With an image, their machines are
/// started too, and stopped at the end; it ends by itself when all of them have.
///
/// SIGHUP reads the configuration again and pushes what has changed to the guests.
pub(crate) async fn serve(config: &Path, image: Option<&Path>, output: &Output) -> Result<(), ServeError> {
    // First of all: a signal that comes while machines start waits until they can be stopped.
    let mut again = signal(SignalKind::hangup())?;
    let mut show = signal(SignalKind::user_defined1())?;
    let mut anew = signal(SignalKind::user_defined2())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut plan = read_plan(config)?;
    let image = image.map(Image::open).transpose()?;
    let networks = Networks::open()?;
    let management = make_networks(&plan, &networks).await?;
    let address = match plan.management_address.address() {
        IpAddr::V4(v4) => SocketAddr::from((v4, plan.port)),
        // The index says on which link a link-local address is; it does no harm to others.
        IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, plan.port, 0, management)),
    };
    let host = (Host::listen(Options::on(address, acquaintance::identity()?)).await)
        .map_err(|source| ServeError::Listen { address, source })?;
    output.tell("", &News::Listening { address: host.address().to_string() });

    let mut events = host.events();
    let mut guests = Guests::new(host, output.clone());
    guests.want(&plan);
    let mut machines = Machines::new(image, networks.clone(), output.clone()).await;
    machines.start_new(&plan).await?;

    let mut give_up = None;
    loop {
        let stop = tokio::select! {
            event = events.recv() => {
                match event {
                    Ok(event) => {
                        // Whoever was away when all were told to stop hears it now.
                        if give_up.is_some() && matches!(event.kind, EventKind::Connected(_)) {
                            guests.stop(&plan);
                        }
                        guests.heard(event, &plan);
                    }
                    Err(RecvError::Lagged(lost)) => {
                        output.tell("", &News::Trouble { message: format!("{lost} events lost") });
                    }
                    Err(RecvError::Closed) => return Ok(()),
                }
                false
            }
            _ = again.recv() => {
                match reload(config, &networks).await {
                    Ok(new) => {
                        plan = new;
                        guests.want(&plan);
                        machines.end_removed(&plan);
                        if let Err(error) = machines.start_new(&plan).await {
                            output.tell("", &News::Trouble { message: error.to_string() });
                        }
                    }
                    // What was before goes on.
                    Err(error) => output.tell("", &News::Trouble { message: error.to_string() }),
                }
                false
            }
            _ = show.recv() => {
                guests.show(&plan);
                false
            }
            _ = anew.recv() => {
                guests.admit_anew();
                false
            }
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            // Also with None: that is when the last one has ended.
            () = machines.one_ended() => machines.all_ended(),
            () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => {
                output.tell("", &News::Trouble { message: "machines did not power off; ending them".to_owned() });
                machines.kill().await;
                true
            }
        };
        if stop && machines.all_ended() {
            // What the guests said last is still to be told.
            while let Ok(event) = events.try_recv() {
                guests.heard(event, &plan);
            }
            return Ok(());
        }
        if stop {
            guests.stop(&plan);
            // Told twice is meant: no more patience.
            let patience = if give_up.is_none() { GRACE + POWER_OFF } else { Duration::ZERO };
            give_up = Some(Instant::now() + patience);
        }
    }
}

/// Makes every bridge of the plan with the host's addresses on it. Returns the index of the
/// management network's bridge.
async fn make_networks(plan: &Plan, networks: &Networks) -> Result<u32, NetworkError> {
    let own = [plan.management_address];
    let (bridge, mac) = (&plan.management_bridge, plan.management_mac());
    let management = networks.ensure_bridge(bridge, "management", mac, None, &own).await?;
    for network in &plan.networks {
        let PlannedNetwork { name, bridge, mac, mtu, gateways } = network;
        networks.ensure_bridge(bridge, name, *mac, *mtu, gateways).await?;
    }
    Ok(management)
}

/// Reads the configuration again and makes its networks.
async fn reload(config: &Path, networks: &Networks) -> Result<Plan, ServeError> {
    let plan = read_plan(config)?;
    make_networks(&plan, networks).await?;
    Ok(plan)
}

/// The machines of a plan, none where somebody else runs them.
struct Machines {
    image: Option<(Image, Accelerator)>,
    networks: Networks,
    output: Output,
    started: HashMap<GuestId, AbortHandle>,
    running: JoinSet<()>,
}

impl Machines {
    async fn new(image: Option<Image>, networks: Networks, output: Output) -> Self {
        let image = match image {
            Some(image) => {
                let accelerator = accelerator::find(&image).await;
                Some((image, accelerator))
            }
            None => None,
        };
        Self { image, networks, output, started: HashMap::new(), running: JoinSet::new() }
    }

    /// Starts the machine of every container that has had none yet.
    async fn start_new(&mut self, plan: &Plan) -> Result<(), ServeError> {
        let Some((image, accelerator)) = &self.image else {
            return Ok(());
        };
        for container in &plan.containers {
            if self.started.contains_key(&container.id) {
                continue;
            }
            let machine =
                machine::start(plan, container, image, *accelerator, &self.networks, Stdio::piped()).await?;
            let name = container.id.to_string();
            self.output.tell(&name, &News::MachineStarted { accelerator: accelerator.name() });
            let watching = self.running.spawn(watch(name, machine, self.output.clone()));
            self.started.insert(container.id.clone(), watching);
        }
        Ok(())
    }

    /// Ends the machines of containers that are not in `plan` any more.
    fn end_removed(&mut self, plan: &Plan) {
        self.started.retain(|id, watching| {
            let stays = plan.containers.iter().any(|container| container.id == *id);
            if !stays {
                // The machine goes with the task that watches it.
                watching.abort();
                let status = "removed from the configuration".to_owned();
                self.output.tell(&id.to_string(), &News::MachineEnded { status });
            }
            stays
        });
    }

    /// Waits until one of them has ended; for ever where there are none of ours.
    async fn one_ended(&mut self) {
        if self.image.is_none() || self.running.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    fn all_ended(&self) -> bool {
        self.running.is_empty()
    }

    /// Ends them all at once.
    async fn kill(&mut self) {
        self.running.shutdown().await;
    }
}

/// Runs the machine of one container of `config` on the bridges that are there, its console on
/// standard output, until it ends.
///
/// `append` is for the kernel's command line.
pub(crate) async fn run_machine(
    config: &Path,
    name: &str,
    image: &Path,
    append: &str,
) -> Result<(), ServeError> {
    let plan = read_plan(config)?;
    let container = plan
        .container(name)
        .ok_or_else(|| ServeError::NoContainer { path: config.to_owned(), name: name.to_owned() })?;
    let image = Image { append: append.to_owned(), ..Image::open(image)? };
    let accelerator = accelerator::find(&image).await;
    let networks = Networks::open()?;
    let mut machine =
        machine::start(&plan, container, &image, accelerator, &networks, Stdio::inherit()).await?;
    machine.wait().await?;
    Ok(())
}

/// Passes a machine's console on, line by line, until the machine ends.
async fn watch(name: String, mut machine: Child, output: Output) {
    if let Some(console) = machine.stdout.take() {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while read_line(&mut console, &mut line).await {
            // A console ends its lines with CR LF, and programs draw on it with escapes.
            let line = output::clean(&String::from_utf8_lossy(&line));
            output.tell(&name, &News::Console { line });
        }
    }
    let status = match machine.wait().await {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    output.tell(&name, &News::MachineEnded { status });
}

/// Reads one line of at most [`CONSOLE_LINE`] bytes into `line`, dropping the rest of a longer
/// one. `false` at the end.
async fn read_line(from: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> bool {
    line.clear();
    let mut any = false;
    loop {
        let Ok(bytes) = from.fill_buf().await else { return any };
        if bytes.is_empty() {
            return any;
        }
        any = true;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        line.extend(part.iter().take(CONSOLE_LINE - line.len()));
        let used = end.map_or(bytes.len(), |end| end + 1);
        from.consume(used);
        if end.is_some() {
            return true;
        }
    }
}

/// The guests of a plan, and what each was last given.
struct Guests {
    host: Host,
    output: Output,
    given: HashMap<GuestId, (DesiredState, NameTables)>,
    /// Whose workload has ended: their names are withdrawn.
    gone: HashSet<GuestId>,
}

impl Guests {
    fn new(host: Host, output: Output) -> Self {
        Self { host, output, given: HashMap::new(), gone: HashSet::new() }
    }

    /// Gives every guest of `plan` what differs from what it was given before, and dismisses
    /// those that are not in it.
    fn want(&mut self, plan: &Plan) {
        let dismissed: Vec<GuestId> = (self.given.keys())
            .filter(|id| !plan.containers.iter().any(|container| container.id == **id))
            .cloned()
            .collect();
        for id in dismissed {
            self.host.dismiss(&id);
            self.given.remove(&id);
            self.gone.remove(&id);
        }
        for container in &plan.containers {
            let id = &container.id;
            if !self.given.contains_key(id) {
                self.host.admit(id, acquaintance::admission(id));
            }
            let state = plan.desired_state(container);
            // A container is found as soon as it is configured, up or not, so that a host that
            // was restarted never takes back a name it gave out.
            let names = plan.names(container, |other| !self.gone.contains(other));
            let before = self.given.insert(id.clone(), (state.clone(), names.clone()));
            let (old_state, old_names) = before.unzip();
            if old_names.as_ref() != Some(&names) {
                let (host, id, output) = (self.host.clone(), id.clone(), self.output.clone());
                tokio::spawn(async move {
                    match host.update_names(&id, names).await {
                        Ok(_) | Err(NamesError::Superseded) => {}
                        Err(error) => {
                            output.tell(&id.to_string(), &News::Trouble { message: error.to_string() });
                        }
                    }
                });
            }
            if old_state.as_ref() != Some(&state) {
                let (host, id, output) = (self.host.clone(), id.clone(), self.output.clone());
                tokio::spawn(async move {
                    match host.apply(&id, state).await {
                        // What the guest says of it comes as an event.
                        Ok(_) | Err(ApplyError::Superseded | ApplyError::Failed(_)) => {}
                        Err(error) => {
                            output.tell(&id.to_string(), &News::Trouble { message: error.to_string() });
                        }
                    }
                });
            }
        }
    }

    /// Lets every guest in by its token again, once.
    fn admit_anew(&self) {
        for id in self.given.keys() {
            self.host.admit(id, acquaintance::admission(id));
        }
    }

    /// Takes note of an event and tells it.
    fn heard(&mut self, event: Event, plan: &Plan) {
        let ended = match &event.kind {
            EventKind::WorkloadExited(_) => {
                // Nothing here outlives this program, so to have heard of it is to have noted it.
                self.host.exit_seen(&event.guest);
                self.gone.insert(event.guest.clone())
            }
            // It lives: the machine was started anew.
            EventKind::Guest(_) => self.gone.remove(&event.guest),
            _ => false,
        };
        self.output.event(event);
        if ended {
            self.want(plan);
        }
    }

    /// Tells every guest's newest status.
    fn show(&self, plan: &Plan) {
        for container in &plan.containers {
            let line = match self.host.status(&container.id) {
                Some(status) => output::status(&status),
                None => "no status yet".to_owned(),
            };
            self.output.tell(&container.id.to_string(), &News::Status { text: line });
        }
    }

    /// Tells every guest to stop.
    fn stop(&self, plan: &Plan) {
        for container in &plan.containers {
            self.host.stop(&container.id, GRACE);
        }
    }
}
