//! Looking after the workload from its start to its end, and after signals.

use std::time::Duration;

use nix::libc;
use tether_wire::{
    boot::{BootWorkload, Root},
    message::Exit,
};
use tokio::{
    signal::unix::{self, SignalKind},
    task::JoinHandle,
    time::Instant,
};

use crate::{deadline::sleep_until_some, streams::Streams};

use super::{
    console::tell_cannot_run,
    is_process_1,
    preparation::Preparation,
    root::Container,
    workload::{Running, reap},
};

/// How long a workload has when the machine, and not the host, is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What process 1 has to look after besides the network; for an ordinary daemon, SIGTERM and
/// SIGINT only.
#[derive(Debug)]
pub struct Supervisor {
    workload: State,
    /// What it needs, while that is being made.
    preparing: Option<JoinHandle<Preparation>>,
    container: Option<Container>,
    streams: Option<Streams>,
    /// When a workload that was told to end is killed.
    kill_at: Option<Instant>,
    children: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

#[derive(Debug)]
enum State {
    /// Nothing was to be started yet.
    Idle,
    /// It is to be started as soon as it has what it needs.
    Wanted(BootWorkload),
    Running(Running),
    /// It ended, and nobody was told yet.
    Ended(Exit),
    /// It ended, and that was told.
    Over,
}

/// What happens to a run.
#[derive(Debug)]
pub enum Happened {
    /// SIGTERM or SIGINT to an ordinary daemon. The network stays as it is.
    Terminated,
    /// The container's process runs, under this id.
    Started(u32),
    /// The container's process is gone, or was never to be started.
    Ended(Exit),
}

impl Supervisor {
    /// Listens for signals and prepares for a workload, on the current tokio runtime.
    pub fn new(root: Option<Root>, privileged: bool) -> std::io::Result<Self> {
        Ok(Self {
            workload: State::Idle,
            preparing: Some(tokio::spawn(Preparation::make(root, privileged))),
            container: None,
            streams: None,
            kill_at: None,
            children: unix::signal(SignalKind::child())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// Wants `workload` started, once in the machine's life and as process 1 only.
    pub fn start(&mut self, workload: Option<&BootWorkload>) {
        let (Some(workload), State::Idle) = (workload, &self.workload) else {
            return;
        };
        if is_process_1() {
            self.workload = State::Wanted(workload.clone());
        } else {
            tracing::info!("the workload is not started: tether is not process 1 here");
            self.workload = State::Over;
        }
    }

    /// The workload's streams, where they have a port.
    pub fn streams(&self) -> Option<&Streams> {
        self.streams.as_ref()
    }

    /// Sends a signal to the workload's first process, if there is one. As `docker kill` does it:
    /// whether its children hear of it is that process's own affair.
    pub fn signal(&self, number: i32) {
        if let State::Running(running) = &self.workload {
            running.signal(number);
        }
    }

    /// Ends the workload: SIGTERM now, SIGKILL after `grace`, both to its first process, as
    /// `docker stop` does it. An ordinary daemon has none and goes on.
    pub fn stop(&mut self, grace: Duration) {
        match &self.workload {
            State::Running(running) => {
                running.signal(libc::SIGTERM);
                let at = Instant::now() + grace;
                self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
            }
            State::Idle | State::Wanted(_) if is_process_1() => self.workload = State::Ended(Exit::Code(0)),
            State::Idle | State::Wanted(_) | State::Ended(_) | State::Over => {}
        }
    }

    /// Waits for the next thing to happen. Cancel-safe.
    pub async fn next(&mut self) -> Happened {
        loop {
            if let Some(happened) = self.go_on() {
                return happened;
            }
            let told_to_stop = tokio::select! {
                _ = self.terminate.recv() => true,
                _ = self.interrupt.recv() => true,
                _ = self.children.recv() => {
                    self.reap();
                    false
                }
                prepared = join(&mut self.preparing) => {
                    self.prepared(prepared);
                    false
                }
                () = sleep_until_some(self.kill_at) => {
                    self.kill_at = None;
                    if let State::Running(running) = &self.workload {
                        running.signal(libc::SIGKILL);
                    }
                    false
                }
            };
            if told_to_stop && !is_process_1() {
                return Happened::Terminated;
            }
            if told_to_stop {
                self.stop(STOP_GRACE);
            }
        }
    }

    /// What can be told or done at once.
    fn go_on(&mut self) -> Option<Happened> {
        let streams_may_come = self.preparing.is_some();
        match std::mem::replace(&mut self.workload, State::Over) {
            // The port may still be on its way, and wants to be told, too.
            State::Ended(exit) if !streams_may_come => {
                if let Some(streams) = &self.streams {
                    streams.finish();
                }
                Some(Happened::Ended(exit))
            }
            State::Wanted(workload) if !streams_may_come => {
                match Running::start(&workload, self.container.as_ref(), self.streams.is_some()) {
                    Ok((running, ends)) => {
                        if let (Some(streams), Some(ends)) = (&self.streams, ends) {
                            streams.carry(ends);
                        }
                        let pid = running.pid();
                        self.workload = State::Running(running);
                        Some(Happened::Started(pid))
                    }
                    Err(exit) => {
                        self.workload = State::Ended(exit);
                        self.go_on()
                    }
                }
            }
            other => {
                self.workload = other;
                None
            }
        }
    }

    fn prepared(&mut self, prepared: Result<Preparation, String>) {
        self.preparing = None;
        let container = prepared.and_then(|preparation| {
            self.streams = preparation.streams;
            preparation.container
        });
        match container {
            Ok(container) => self.container = container,
            Err(why) => {
                let why = format!("the container's file system: {why}");
                tell_cannot_run(&why);
                self.workload = State::Ended(Exit::NotStarted(why));
            }
        }
    }

    /// As process 1 everybody's end is ours to note; as a daemon there are no children.
    fn reap(&mut self) {
        let reaped = reap();
        if let State::Running(running) = &self.workload
            && let Some(exit) = running.exit(&reaped)
        {
            self.workload = State::Ended(exit);
        }
    }
}

/// Waits for a task, for ever when there is none. Cancel-safe.
async fn join<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, String> {
    match task {
        Some(task) => task.await.map_err(|error| error.to_string()),
        None => std::future::pending().await,
    }
}
