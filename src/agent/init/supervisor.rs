//! Looking after the workload from its start to its end, and after signals.

use std::time::Duration;

use nix::sys::signal::Signal;
use tether_wire::{
    boot::BootWorkload,
    message::{EventKind, Exit},
};
use tokio::{
    signal::unix::{self, SignalKind},
    time::Instant,
};

use crate::deadline::sleep_until_some;

use super::{
    is_process_1,
    workload::{Running, reap},
};

/// How long a workload has when the machine, and not the host, is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What process 1 has to look after besides the network; for an ordinary daemon, SIGTERM and
/// SIGINT only.
#[derive(Debug)]
pub struct Supervisor {
    workload: State,
    /// When a workload that was told to end is killed.
    kill_at: Option<Instant>,
    children: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

#[derive(Debug)]
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
#[derive(Debug)]
pub enum Ending {
    /// SIGTERM or SIGINT to an ordinary daemon. The network stays as it is.
    Terminated,
    /// The container's process is gone, or was never to be started.
    Workload(Exit),
}

impl Supervisor {
    /// Listens for signals, on the current tokio runtime.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            workload: State::Idle,
            kill_at: None,
            children: unix::signal(SignalKind::child())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// Starts `workload`, once in the machine's life and as process 1 only.
    pub fn start(&mut self, workload: Option<&BootWorkload>, tell: &mut dyn FnMut(EventKind)) {
        let (Some(workload), State::Idle) = (workload, &self.workload) else {
            return;
        };
        if !is_process_1() {
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

    /// Sends a signal to the workload's first process, if there is one. As `docker kill` does it:
    /// whether its children hear of it is that process's own affair.
    pub fn signal(&self, number: i32) {
        if let State::Running(running) = &self.workload {
            running.signal_first(number);
        }
    }

    /// Ends the workload: SIGTERM now, SIGKILL after `grace`. An ordinary daemon has none and
    /// goes on.
    pub fn stop(&mut self, grace: Duration) {
        match &self.workload {
            State::Running(running) => {
                running.signal(Signal::SIGTERM);
                let at = Instant::now() + grace;
                self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
            }
            State::Idle if is_process_1() => self.workload = State::Ended(Exit::Code(0)),
            State::Idle | State::Ended(_) | State::Over => {}
        }
    }

    /// Waits until there is nothing more to run. Cancel-safe.
    pub async fn ended(&mut self) -> Ending {
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
            if told_to_stop && !is_process_1() {
                return Ending::Terminated;
            }
            if told_to_stop {
                self.stop(STOP_GRACE);
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
