//! The trunk: boot document → channel → desired state → plan → kernel → verify → report.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tether_wire::{
    boot::{Boot, Tether},
    message::{Confirm, Confirmed, EventKind, Exit, Failed, Failure, FromHost, Phase, Received, Verified},
    names::NameTables,
    problem::Problem,
    state::DesiredState,
    value::{GuestId, MacAddr},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    agent::{Agent, Happened, Lifeline, NamesNotChanged},
    boot::{self, DocumentError},
    channel::{Channel, Identity, IdentityError, Incoming},
    deadline::sleep_until_some,
    dns,
    files::Files,
    init::{self, Preparation, Supervisor},
    journal::{self, Journal},
    kernel::{Kernel, KernelError},
    management::{self, Namespace, NamespaceError},
    streams::Streams,
};

/// How often the status is sent when nothing changes.
const STATUS_PERIOD: Duration = Duration::from_secs(15);
/// How long changes of the kernel are gathered before the status is sent.
const STATUS_DELAY: Duration = Duration::from_millis(25);
/// How long the host may take to note the workload's end before the machine goes without: long
/// enough for a host to be restarted in between.
const EXIT_PATIENCE: Duration = Duration::from_secs(30);

/// Open files the agent may have.
const FILES: u64 = 4_096;

/// What `tether run` was told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The boot document.
    pub boot: Option<PathBuf>,
    /// The desired state, in place of a host.
    pub state: Option<PathBuf>,
    /// Where `hosts` and `resolv.conf` are, `/etc` when absent.
    pub etc: Option<PathBuf>,
    /// Where the journal and the guest's key are, `/run/tether` when absent.
    pub run: Option<PathBuf>,
    /// The network namespace of the management NIC, made where there is none. Absent: the one that
    /// the agent is in, but for process 1, whose is at [`management::NAMESPACE`].
    pub netns: Option<PathBuf>,
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no usable document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The boot document names no host and no file has the desired state.
    #[error(
        "nothing to do: the boot document names no host, and no desired state was given with --state FILE"
    )]
    NoHost,
    /// The kernel does not let itself be configured.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// The management NIC cannot be kept from the container.
    #[error("{0}")]
    Namespace(#[from] NamespaceError),
    /// The guest has nothing to show its host.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// Sockets, threads or signals are not to be had.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// What `--state FILE` holds. `docs/operations.md` describes it field by field.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// The desired state.
    pub state: DesiredState,
    /// The names, in the order of the networks they are searched on.
    #[serde(default)]
    pub names: NameTables,
}

/// Runs the agent until it is told to stop.
pub async fn run(options: Options) -> Result<(), RunError> {
    let boot = boot::load(options.boot.as_deref())?;
    let kernel = Kernel::open()?;
    #[cfg(debug_assertions)]
    kernel.set_fault(crate::kernel::Fault::from_environment());
    if init::is_process_1() {
        kernel.loopback_up().await?;
    }
    more_files();
    let dns = dns::Server::start(&dns::Settings::default())?;
    let files = if init::is_process_1() {
        Preparation::files()?;
        Files::shown(init::ETC.into())
    } else {
        Files::new(options.etc.unwrap_or_else(|| "/etc".into()))
    };
    // First of all: the disks have something to do while the network comes up.
    let privileged = boot.workload.as_ref().is_some_and(|workload| workload.privileged);
    let supervisor = Supervisor::new(boot.root.clone(), privileged)?;
    let has_host = options.state.is_none();
    let path = options.netns.or_else(|| init::is_process_1().then(|| management::NAMESPACE.into()));
    let network = boot.tether.as_ref().and_then(Tether::network);
    let namespace = match (path, network) {
        (Some(path), Some(network)) => Some(set_apart(&path, network.mac)?),
        _ => None,
    };
    let lifeline = network.map(|network| Lifeline {
        nic: network.mac,
        // In a namespace of its own it cannot be cut off by what is done in this one.
        host: (has_host && namespace.is_none()).then_some(network.host),
    });
    let own = options.run.unwrap_or_else(|| journal::DIRECTORY.into());
    let journal = Journal::open(own.clone());
    let mut agent = Agent::new(kernel, dns, files, journal, lifeline);
    // An agent that was killed has perhaps left something half done; a host may be away.
    agent.recover().await;
    // What there is to be seen so far; nobody is to be told yet.
    agent.look().await;
    match (options.state, &boot.tether) {
        (Some(path), _) => by_file(agent, supervisor, &boot, path).await,
        (None, Some(tether)) => {
            tracing::debug!(guest = %boot.guest, "waiting for the host");
            let identity = Identity::open(&own, &boot.guest, tether)?;
            let before = (boot.guest.clone(), tether.clone());
            let anew = move || copy(options.boot.as_deref(), &own, &before);
            let channel = Channel::start(identity, tether.way.clone(), namespace, anew)?;
            channel.in_force(agent.applied(), agent.names());
            by_host(agent, supervisor, &boot, channel).await
        }
        (None, None) => Err(RunError::NoHost),
    }
}

/// Who a copy of this machine is: the boot document may be another one for it, with a token of its own.
/// The way to the host is the one there was.
fn copy(path: Option<&Path>, own: &Path, before: &(GuestId, Tether)) -> Result<Identity, IdentityError> {
    let now = match boot::load(path) {
        Ok(Boot { guest, tether: Some(tether), .. }) => Some((guest, tether)),
        Ok(_) => {
            tracing::warn!("the boot document names no host any more; taking what it said before");
            None
        }
        Err(error) => {
            tracing::warn!("{error}; taking what the boot document said before");
            None
        }
    };
    let (guest, tether) = now.as_ref().unwrap_or(before);
    Identity::make(own, guest, tether)
}

/// Takes the management NIC out of this network namespace, now and whenever it is plugged in again.
fn set_apart(path: &Path, mac: MacAddr) -> Result<Arc<Namespace>, RunError> {
    let (namespace, kernel) = (Arc::new(Namespace::open(path)?), Kernel::open()?);
    let its = Arc::clone(&namespace);
    tokio::spawn(async move { its.take(mac, &kernel).await });
    Ok(namespace)
}

/// Allows more open files, if the kernel lets this process have them: 512 questions at four upstreams
/// each want more than the usual 1,024.
fn more_files() {
    if let Ok((now, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, now.max(most.min(FILES)), most);
    }
}

/// What the file mode prints, one line of JSON for each time the file was read.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Verified(Verified),
    Failed(Failed),
    Event(EventKind),
    Unreadable { message: String },
}

/// Takes the desired state from a file, again at each SIGHUP.
async fn by_file(
    mut agent: Agent,
    mut supervisor: Supervisor,
    boot: &Boot,
    path: PathBuf,
) -> Result<(), RunError> {
    let mut again = signal(SignalKind::hangup())?;
    let mut generation = agent.applied().map_or(0, |stamp| stamp.generation);
    loop {
        generation += 1;
        let told = match boot::read_json::<StateFile>(&path) {
            Err(error) => Told::Unreadable { message: error.to_string() },
            Ok(file) => apply_file(&mut agent, generation, file).await,
        };
        say(&told);
        if matches!(told, Told::Verified(_)) {
            supervisor.start(agent.workload().as_ref().or(boot.workload.as_ref()));
        }
        loop {
            tokio::select! {
                _ = again.recv() => break,
                happened = agent.next() => match happened {
                    Happened::Kernel => agent.look().await.into_iter().for_each(|event| say(&Told::Event(event))),
                    Happened::Conflict(conflict) => say(&Told::Event(agent.conflict(&conflict))),
                    // There is no host to be cut off.
                    Happened::Dns | Happened::NotConfirmed => {}
                },
                happened = supervisor.next() => match happened {
                    init::Happened::Terminated => return Ok(()),
                    init::Happened::Started(pid) => tracing::info!(pid, "workload started"),
                    init::Happened::Ended(exit) => {
                        init::tell_ended(&exit);
                        if let Some(mut streams) = supervisor.streams().cloned() {
                            let _ = timeout(EXIT_PATIENCE, streams.over()).await;
                        }
                        init::power_off();
                    }
                },
            }
        }
    }
}

/// Standard output is for a program to read: one line of JSON each time.
fn say(told: &Told) {
    if let Ok(line) = serde_json::to_string(told) {
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

/// Puts both parts of a file in force, or neither. Problems of both are told together, those of
/// the names under `names.`.
async fn apply_file(agent: &mut Agent, generation: u64, file: StateFile) -> Told {
    let mut problems = file.state.check().err().unwrap_or_default();
    if let Err(wrong) = file.names.check() {
        problems.extend(
            wrong.into_iter().map(|problem| Problem { path: format!("names.{}", problem.path), ..problem }),
        );
    }
    let failed = |failure| Told::Failed(Failed { generation, failure });
    let refused = |phase, problems| Failure { phase, problems, operation: None, restored: true };
    if !problems.is_empty() {
        return failed(refused(Phase::Check, problems));
    }
    match agent.apply(generation, &file.state).await {
        Ok(verified) => match agent.set_names(generation, file.names) {
            Ok(_) => Told::Verified(verified),
            Err(names) => failed(refused(Phase::Generation, names.problems)),
        },
        Err(failed) => Told::Failed(failed),
    }
}

/// Takes the desired state from the host.
async fn by_host(
    agent: Agent,
    mut supervisor: Supervisor,
    boot: &Boot,
    channel: Channel,
) -> Result<(), RunError> {
    let mut guest =
        Guest { boot, agent, channel, status_due: None, power_off_at: None, exit_seen: false, streams: None };
    let mut period = interval(STATUS_PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // What the host has said counts before the time it had to say it in.
            biased;
            incoming = guest.channel.recv() => match incoming {
                Some(incoming) => guest.hear(incoming, &mut supervisor).await,
                None => return Ok(()),
            },
            happened = guest.agent.next() => guest.see_to(happened).await,
            // The kernel does not tell of every setting that is changed.
            _ = period.tick() => guest.see_to(Happened::Kernel).await,
            () = sleep_until_some(guest.status_due) => guest.report(),
            happened = supervisor.next() => match happened {
                init::Happened::Terminated => return Ok(()),
                init::Happened::Started(pid) => {
                    guest.channel.event(EventKind::WorkloadStarted { pid });
                    tracing::info!(pid, "workload started");
                }
                init::Happened::Ended(exit) => guest.workload_ended(exit, supervisor.streams().cloned()),
            },
            () = all_told(&mut guest.streams), if guest.exit_seen && guest.power_off_at.is_some() => {
                init::power_off();
            }
            () = sleep_until_some(guest.power_off_at) => {
                tracing::warn!("the host has not noted the workload's end, or not taken its output");
                init::power_off();
            }
        }
    }
}

/// A guest with a host.
struct Guest<'a> {
    boot: &'a Boot,
    agent: Agent,
    channel: Channel,
    /// When the next status is sent, if something has changed.
    status_due: Option<Instant>,
    /// When the machine powers off, once the workload has ended.
    power_off_at: Option<Instant>,
    /// The host has noted the workload's end.
    exit_seen: bool,
    /// The workload's streams, once it has ended.
    streams: Option<Streams>,
}

/// Waits until the host has all of the workload's output.
async fn all_told(streams: &mut Option<Streams>) {
    if let Some(streams) = streams {
        streams.over().await;
    }
}

impl Guest<'_> {
    /// Does what the host says.
    async fn hear(&mut self, incoming: Incoming, supervisor: &mut Supervisor) {
        let Incoming { connection, message } = incoming;
        match message {
            FromHost::Apply(apply) => {
                self.channel.reply(connection, Received { generation: apply.generation }).await;
                match self.agent.apply(apply.generation, &apply.state).await {
                    Ok(verified) => {
                        self.in_force();
                        let (operations, took_us) = (verified.operations, verified.took_us);
                        self.channel.reply(connection, verified).await;
                        // The host hears of it before the console, which may be a slow one.
                        tracing::info!(
                            generation = apply.generation,
                            operations,
                            took_us,
                            "network verified"
                        );
                        supervisor.start(self.agent.workload().as_ref().or(self.boot.workload.as_ref()));
                    }
                    Err(failed) => {
                        self.in_force();
                        self.channel.reply(connection, failed).await;
                    }
                }
                self.report_soon();
            }
            FromHost::Names(names) => {
                match self.agent.set_names(names.version, names.tables) {
                    Ok(applied) => {
                        self.in_force();
                        self.channel.reply(connection, applied).await;
                    }
                    Err(failed) => self.channel.reply(connection, failed).await,
                }
                self.report_soon();
            }
            FromHost::NamesDelta(delta) => {
                match self.agent.change_names(&delta) {
                    Ok(applied) => {
                        self.in_force();
                        self.channel.reply(connection, applied).await;
                    }
                    Err(NamesNotChanged::Gap(gap)) => self.channel.reply(connection, gap).await,
                    Err(NamesNotChanged::Failed(failed)) => self.channel.reply(connection, failed).await,
                }
                self.report_soon();
            }
            FromHost::FlushCache(_) => self.agent.flush_cache(),
            FromHost::Confirm(Confirm { generation }) => {
                if self.agent.confirm(generation) {
                    self.channel.reply(connection, Confirmed { generation }).await;
                }
            }
            FromHost::Stop(stop) => supervisor.stop(Duration::from_millis(stop.grace_ms.into())),
            FromHost::Signal(signal) => supervisor.signal(signal.number),
            FromHost::ExitSeen(_) => {
                self.channel.exit_seen();
                self.exit_seen = true;
            }
            // The session answers these itself, and a greeting comes once.
            FromHost::Welcome(_)
            | FromHost::Refused(_)
            | FromHost::Ping(_)
            | FromHost::Pong(_)
            | FromHost::HostKey(_) => {}
        }
    }

    /// Does what the agent has to see to.
    async fn see_to(&mut self, happened: Happened) {
        match happened {
            Happened::Kernel => {
                for event in self.agent.look().await {
                    self.channel.event(event);
                }
            }
            Happened::Conflict(conflict) => self.channel.event(self.agent.conflict(&conflict)),
            Happened::Dns => {}
            Happened::NotConfirmed => {
                if let Some(failed) = self.agent.give_up().await {
                    self.in_force();
                    self.channel.tell(failed);
                }
            }
        }
        self.report_soon();
    }

    /// The next greeting says what is in force now.
    fn in_force(&self) {
        self.channel.in_force(self.agent.applied(), self.agent.names());
    }

    /// Something has changed: more may follow in a moment.
    fn report_soon(&mut self) {
        self.status_due.get_or_insert_with(|| Instant::now() + STATUS_DELAY);
    }

    fn report(&mut self) {
        self.status_due = None;
        let status = self.agent.status(self.channel.skipped_frames());
        self.channel.report(status);
    }

    /// Tells the host, which the machine waits for before it powers off.
    fn workload_ended(&mut self, exit: Exit, streams: Option<Streams>) {
        init::tell_ended(&exit);
        self.streams = streams;
        self.channel.exited(exit);
        self.power_off_at = Some(Instant::now() + EXIT_PATIENCE);
    }
}
