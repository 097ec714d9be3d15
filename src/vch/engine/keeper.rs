//! Keepers: one task for each machine, which hears the guest and the machine and does what their
//! end asks for, also when nobody asked.

use std::{sync::Arc, time::Duration};

use tether_host::{
    Event, EventKind, Workload,
    message::{EventKind as GuestEventKind, Exit},
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    Engine,
    ending::{DAEMON_ERROR, End, end_by_console, end_of, last_words},
    guests::guest_id,
    lifecycle::{POWER_OFF, SIGKILL},
    record::{Join, Phase},
};
use crate::{
    machine::{CONSOLE, CONSOLE_LIMIT, Machine, qemu::bound_console},
    said::one_line,
    workload::streams,
};

/// How long the last output may take after the workload's end: longer than those who are attached
/// may hold it up.
const LAST_OUTPUT: Duration = Duration::from_secs(15);
/// How often consoles are kept from growing.
const CONSOLE_PERIOD: Duration = Duration::from_secs(5);

impl Engine {
    /// Has a task look after a machine from now on.
    pub(super) fn keep(&self, id: &str, machine: Arc<dyn Machine>, words: mpsc::Receiver<()>, again: bool) {
        let hub = {
            let mut state = self.state();
            let entry = state.containers.get_mut(id);
            // It was refused or killed before there was a machine to end.
            let unwanted = entry.as_ref().is_none_or(|entry| {
                entry.record.state.phase == Phase::Starting
                    && (entry.killed || !entry.record.state.error.is_empty())
            });
            if unwanted {
                let machine = Arc::clone(&machine);
                tokio::spawn(async move { machine.kill().await });
            }
            let Some(entry) = entry else { return };
            entry.machine = Some(Arc::clone(&machine));
            Arc::clone(&entry.hub)
        };
        let (over, said_everything) = watch::channel(false);
        let (log, port) = (self.log_path(id), Arc::clone(&machine));
        let name = id.to_owned();
        let carried = tokio::spawn(async move {
            let mut again = again;
            // Until it is aborted: a full disk may have room again.
            loop {
                let carried = match port.streams().await {
                    Ok(port) => streams::carry(port, &hub, &log, again, &over).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = carried {
                    tracing::warn!(container = name, "its streams: {error}; trying again");
                }
                again = true;
                sleep(Duration::from_secs(1)).await;
            }
        });
        let keeper =
            Keeper { engine: self.clone(), id: id.to_owned(), machine, words, said_everything, noted: false };
        tokio::spawn(async move {
            let (end, Keeper { engine, id, .. }) = keeper.run().await;
            carried.abort();
            engine.take_down(&id, &end).await;
        });
    }

    /// Tells every guest's keeper that it has said something, for as long as this process runs.
    pub(super) async fn distribute(&self, mut events: broadcast::Receiver<Event>) {
        loop {
            match events.recv().await {
                Ok(event) => self.heard(&event.guest.to_string(), &event.kind),
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::error!("{lost} events of guests are lost");
                    self.note_keys();
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

impl Engine {
    fn heard(&self, id: &str, kind: &EventKind) {
        match kind {
            EventKind::Enrolled { key } => self.enrolled(id, *key),
            EventKind::WorkloadExited(_) => self.nudge(id),
            EventKind::Guest(event) => match &event.kind {
                GuestEventKind::WorkloadStarted { .. } => self.nudge(id),
                reported => self.report(id, reported),
            },
            // Whoever was not let in is in the log: the host library sees to it.
            _ => {}
        }
    }

    /// Has a keeper look at what its guest has said.
    fn nudge(&self, id: &str) {
        let state = self.state();
        if let Some(keeper) = state.containers.get(id).and_then(|entry| entry.keeper.as_ref()) {
            // Where one word waits already, that will do.
            let _ = keeper.try_send(());
        }
    }

    /// Has a line in the log about what a guest reports, now and then: it can do so as often as it likes.
    fn report(&self, id: &str, reported: &GuestEventKind) {
        let now = std::time::Instant::now();
        let count = self.state().containers.get(id).and_then(|entry| entry.reports.another(now));
        if let Some(count) = count {
            tracing::warn!(container = id, count, "{}", one_line(&reported.to_string()));
        }
    }

    /// Notes the keys of guests that have come, where nobody was told of it.
    fn note_keys(&self) {
        for record in self.containers() {
            let awaited =
                record.run.as_ref().is_some_and(|run| matches!(run.join, Some(Join::Awaited { .. })));
            let key = guest_id(&record).ok().and_then(|guest| self.shared.host.key(&guest));
            if let Some(key) = key.filter(|_| awaited) {
                self.enrolled(&record.id, key);
            }
        }
    }
}

/// Looks after one machine.
struct Keeper {
    engine: Engine,
    id: String,
    machine: Arc<dyn Machine>,
    words: mpsc::Receiver<()>,
    said_everything: watch::Receiver<bool>,
    /// The workload's end is in the database.
    noted: bool,
}

impl Keeper {
    /// Runs until the machine has ended. How, and itself.
    async fn run(mut self) -> (End, Self) {
        let mut exit: Option<Exit> = None;
        let mut deadline = None;
        let mut period = interval(CONSOLE_PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let directory = self.engine.machine_directory(&self.id);
        let machine = Arc::clone(&self.machine);
        let ended = machine.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => break,
                word = self.words.recv() => {
                    if word.is_none() {
                        // Nobody knows this container any more.
                        self.machine.kill().await;
                        break;
                    }
                    self.look(&mut exit).await;
                }
                _ = period.tick() => {
                    // There may be no console yet.
                    let _ = bound_console(&directory, CONSOLE_LIMIT);
                    // Its word may have been lost, where thousands said something at once.
                    self.look(&mut exit).await;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.machine.kill().await;
                }
            }
            if exit.is_some() && deadline.is_none() {
                deadline = Some(Instant::now() + POWER_OFF);
            }
        }
        // The machine's end may have come before its word was looked at.
        if exit.is_none()
            && let Some(Workload::Exited(how)) = self.word()
        {
            exit = Some(how);
        }
        let console = directory.join(CONSOLE);
        let (error, killed) = {
            let state = self.engine.state();
            let entry = state.containers.get(&self.id);
            entry.map(|entry| (entry.record.state.error.clone(), entry.killed)).unwrap_or_default()
        };
        let end = match exit {
            Some(exit) => end_of(&exit),
            None if !error.is_empty() => {
                End { code: DAEMON_ERROR, error: format!("{error}{}", last_words(&console)) }
            }
            None if killed => end_of(&Exit::Signal(SIGKILL)),
            None => end_by_console(&console),
        };
        (end, self)
    }

    /// The guest's newest word about its workload.
    fn word(&self) -> Option<Workload> {
        self.engine.shared.host.workload(&self.id.parse().ok()?)
    }

    /// Looks at what the guest has said of its workload.
    async fn look(&mut self, exit: &mut Option<Exit>) {
        match self.word() {
            Some(Workload::Started { .. }) => self.running().await,
            Some(Workload::Exited(how)) if exit.is_none() => {
                self.exited(&how).await;
                *exit = Some(how);
            }
            // The guest may not have heard that it is noted, or it could not be.
            Some(Workload::Exited(_)) if self.noted => self.seen(),
            Some(Workload::Exited(how)) => self.exited(&how).await,
            None => {}
        }
    }

    /// The workload runs: peers find it from now on.
    async fn running(&self) {
        // A guest may say it again; it is one start all the same.
        if !self.engine.container(&self.id).is_ok_and(|record| record.state.phase == Phase::Starting) {
            return;
        }
        let noted = self.engine.update(&self.id, |record| {
            record.state.phase = Phase::Running;
            record.endpoints.iter().map(|endpoint| endpoint.network.clone()).collect::<Vec<_>>()
        });
        match noted {
            Ok(networks) => self.engine.names_changed(&networks).await,
            Err(error) => tracing::error!(container = self.id, "{error}"),
        }
        if let Some(entry) = self.engine.state().containers.get(&self.id) {
            entry.tell();
        }
    }

    /// The workload has ended. That is written down before the guest is told that it is noted:
    /// the guest goes away then, and takes what it knows with it.
    async fn exited(&mut self, how: &Exit) {
        let code = end_of(how).code;
        let noted = self.engine.update(&self.id, |record| {
            if let Some(run) = &mut record.run {
                run.exit = Some(code);
            }
            let networks = record.endpoints.iter().map(|endpoint| endpoint.network.clone());
            (record.auto_remove(), networks.collect::<Vec<_>>())
        });
        // Nobody answers any more, though the machine may take its time: its name goes now.
        let noted = noted.map(|(auto_remove, networks)| {
            let engine = self.engine.clone();
            tokio::spawn(async move { engine.names_changed(&networks).await });
            auto_remove
        });
        // What it said last is worth waiting for, but not for ever.
        let _ = timeout(LAST_OUTPUT, self.said_everything.wait_for(|over| *over)).await;
        match noted {
            // Its file system goes with it: nobody needs it written.
            Ok(true) => self.machine.kill().await,
            Ok(false) => {
                self.noted = true;
                self.seen();
            }
            Err(error) => tracing::error!(container = self.id, "{error}"),
        }
    }

    fn seen(&self) {
        if let Ok(record) = self.engine.container(&self.id)
            && let Ok(guest) = guest_id(&record)
        {
            self.engine.shared.host.exit_seen(&guest);
        }
    }
}
