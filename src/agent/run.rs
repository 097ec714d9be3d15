//! The trunk: boot document → channel → desired state → plan → kernel → verify → report.

use std::{io::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tether_wire::{
    boot::Boot,
    message::{EventKind, Exit, Failed, Failure, FromHost, Phase, Received, Verified},
    names::NameTables,
    problem::Problem,
    state::{DesiredState, Workload},
    upstream::EMBEDDED_DNS,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    agent::{Agent, sleep_until_some},
    boot::{self, DocumentError},
    channel::{Channel, Incoming},
    dns,
    files::Files,
    init::{self, Running},
    kernel::{Kernel, KernelError},
    management::Management,
};

/// How often the status is sent when nothing changes.
const STATUS_PERIOD: Duration = Duration::from_secs(15);
/// How long changes of the kernel are gathered before the status is sent.
const STATUS_DELAY: Duration = Duration::from_millis(25);
/// How long the host may take to note the workload's end before the machine goes without: long
/// enough for a host to be restarted in between.
const EXIT_PATIENCE: Duration = Duration::from_secs(30);
/// How long a workload has when the machine, and not the host, is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What `tether run` was told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The boot document.
    pub boot: Option<PathBuf>,
    /// The desired state, in place of a host.
    pub state: Option<PathBuf>,
    /// Where `hosts` and `resolv.conf` are, `/etc` when absent.
    pub etc: Option<PathBuf>,
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
    if init::is_process_1() {
        kernel.loopback_up().await?;
    }
    let dns = dns::Server::start(SocketAddr::from((EMBEDDED_DNS, 53)))?;
    let files = Files::new(options.etc.unwrap_or_else(|| "/etc".into()));
    let nic = boot.tether.map(|tether| tether.mac);
    match (options.state, boot.tether) {
        (Some(path), _) => by_file(Agent::new(kernel, dns, files, nic), &boot, path).await,
        (None, Some(tether)) => {
            tracing::info!(guest = %boot.guest, nic = %tether.mac, "waiting for the host");
            let channel = Channel::start(boot.guest.clone(), Management::new(tether)?);
            by_host(Agent::new(kernel, dns, files, nic), &boot, channel).await
        }
        (None, None) => Err(RunError::NoHost),
    }
}

/// What the file mode prints, one line of JSON for each time the file was read.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Verified(Verified),
    Failed(Failed),
    Unreadable { message: String },
}

/// Takes the desired state from a file, again at each SIGHUP.
async fn by_file(mut agent: Agent, boot: &Boot, path: PathBuf) -> Result<(), RunError> {
    let mut again = signal(SignalKind::hangup())?;
    let mut machine = Machine::new()?;
    let mut generation = 0;
    loop {
        generation += 1;
        let told = match boot::read_json::<StateFile>(&path) {
            Err(error) => Told::Unreadable { message: error.to_string() },
            Ok(file) => apply_file(&mut agent, generation, &file).await,
        };
        // Standard output is for a program to read: the result and nothing else.
        if let Ok(line) = serde_json::to_string(&told) {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        if matches!(told, Told::Verified(_)) {
            machine.start(agent.workload().or(boot.workload.as_ref()), &mut |_| {});
        }
        tokio::select! {
            _ = again.recv() => {}
            end = machine.ended() => match end {
                Ending::Terminated => return Ok(()),
                Ending::Workload(exit) => {
                    tracing::info!(?exit, "workload ended");
                    init::power_off();
                }
            },
        }
    }
}

/// Puts both parts of a file in force, or neither. Problems of both are told together, those of
/// the names under `names.`.
async fn apply_file(agent: &mut Agent, generation: u64, file: &StateFile) -> Told {
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
        Ok(verified) => match agent.set_names(generation, &file.names) {
            Ok(_) => Told::Verified(verified),
            Err(names) => failed(refused(Phase::Generation, names.problems)),
        },
        Err(failed) => Told::Failed(failed),
    }
}

/// Takes the desired state from the host.
async fn by_host(mut agent: Agent, boot: &Boot, mut channel: Channel) -> Result<(), RunError> {
    let mut machine = Machine::new()?;
    let mut period = interval(STATUS_PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut status_due = None;
    let mut power_off_at = None;
    loop {
        tokio::select! {
            incoming = channel.recv() => {
                let Some(Incoming { connection, message }) = incoming else { return Ok(()) };
                match message {
                FromHost::Apply(apply) => {
                    channel.reply(connection, Received { generation: apply.generation }).await;
                    match agent.apply(apply.generation, &apply.state).await {
                        Ok(verified) => {
                            channel.in_force(agent.applied(), agent.names());
                            channel.reply(connection, verified).await;
                            let workload = agent.workload().or(boot.workload.as_ref());
                            machine.start(workload, &mut |event| channel.event(event));
                        }
                        Err(failed) => channel.reply(connection, failed).await,
                    }
                    status_due = Some(Instant::now());
                }
                FromHost::Names(names) => {
                    match agent.set_names(names.version, &names.tables) {
                    Ok(applied) => {
                        channel.in_force(agent.applied(), agent.names());
                        channel.reply(connection, applied).await;
                    }
                    Err(failed) => channel.reply(connection, failed).await,
                    }
                    status_due.get_or_insert_with(|| Instant::now() + STATUS_DELAY);
                }
                FromHost::Stop(stop) => machine.stop(Duration::from_millis(stop.grace_ms.into())),
                FromHost::ExitSeen(_) => {
                    channel.exit_seen();
                    if power_off_at.is_some() {
                        init::power_off();
                    }
                }
                // The session answers these itself, and a greeting comes once.
                FromHost::Welcome(_) | FromHost::Refused(_) | FromHost::Ping(_) | FromHost::Pong(_) => {}
                }
            }
            () = agent.changed() => {
                status_due.get_or_insert_with(|| Instant::now() + STATUS_DELAY);
            }
            _ = period.tick() => status_due = Some(Instant::now()),
            () = sleep_until_some(status_due) => {
                status_due = None;
                channel.report(agent.status(channel.skipped_frames()).await);
            }
            end = machine.ended(), if power_off_at.is_none() => match end {
                Ending::Terminated => return Ok(()),
                Ending::Workload(exit) => {
                    tracing::info!(?exit, "workload ended");
                    channel.exited(exit);
                    power_off_at = Some(Instant::now() + EXIT_PATIENCE);
                }
            },
            () = sleep_until_some(power_off_at) => {
                tracing::warn!("the host has not noted the workload's end");
                init::power_off();
            }
        }
    }
}

/// What process 1 has to look after besides the network; for an ordinary daemon, SIGTERM only.
struct Machine {
    workload: State,
    /// When a workload that was told to end is killed.
    kill_at: Option<Instant>,
    children: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

enum State {
    /// Nothing was started yet.
    Idle,
    Running(Running),
    /// It ended, and nobody was told yet.
    Ended(Exit),
    /// It ended, and that was told.
    Over,
}

/// What ends a run.
enum Ending {
    /// SIGTERM or SIGINT to an ordinary daemon. The network stays as it is.
    Terminated,
    /// The container's process is gone, or was never to be started.
    Workload(Exit),
}

impl Machine {
    fn new() -> Result<Self, RunError> {
        Ok(Self {
            workload: State::Idle,
            kill_at: None,
            children: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Starts `workload`, once in the machine's life and as process 1 only.
    fn start(&mut self, workload: Option<&Workload>, tell: &mut dyn FnMut(EventKind)) {
        let (Some(workload), State::Idle) = (workload, &self.workload) else {
            return;
        };
        if !init::is_process_1() {
            tracing::info!("the workload is not started: tether is not process 1 here");
            self.workload = State::Over;
            return;
        }
        self.workload = match Running::start(workload) {
            Ok(running) => {
                tracing::info!(pid = running.pid(), "workload started");
                tell(EventKind::WorkloadStarted { pid: running.pid() });
                State::Running(running)
            }
            Err(exit) => State::Ended(exit),
        };
    }

    /// Ends the workload: SIGTERM now, SIGKILL after `grace`. An ordinary daemon has none and
    /// goes on.
    fn stop(&mut self, grace: Duration) {
        match &self.workload {
            State::Running(running) => {
                running.signal(Signal::SIGTERM);
                self.kill_at.get_or_insert_with(|| Instant::now() + grace);
            }
            State::Idle if init::is_process_1() => self.workload = State::Ended(Exit::Code(0)),
            State::Idle | State::Ended(_) | State::Over => {}
        }
    }

    /// Waits until there is nothing more to run. Cancel-safe.
    async fn ended(&mut self) -> Ending {
        loop {
            if matches!(self.workload, State::Ended(_))
                && let State::Ended(exit) = std::mem::replace(&mut self.workload, State::Over)
            {
                return Ending::Workload(exit);
            }
            let told_to_stop = tokio::select! {
                _ = self.terminate.recv() => true,
                _ = self.interrupt.recv() => true,
                _ = self.children.recv() => {
                    self.reap();
                    false
                }
                () = sleep_until_some(self.kill_at) => {
                    self.kill_at = None;
                    if let State::Running(running) = &self.workload {
                        running.signal(Signal::SIGKILL);
                    }
                    false
                }
            };
            if told_to_stop && !init::is_process_1() {
                return Ending::Terminated;
            }
            if told_to_stop {
                self.stop(STOP_GRACE);
            }
        }
    }

    /// As process 1 everybody's end is ours to note; as a daemon there are no children.
    fn reap(&mut self) {
        let reaped = init::reap();
        if let State::Running(running) = &self.workload
            && let Some(exit) = running.exit(&reaped)
        {
            self.workload = State::Ended(exit);
        }
    }
}
