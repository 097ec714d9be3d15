//! Machines of containers: started, watched, ended, found again.
//!
//! Whoever starts or ends a container holds its turn. Its keeper, one task for each machine,
//! hears the guest and the machine and does what their end asks for, also when nobody asked.

use std::{fs, io::Read as _, io::Seek as _, path::Path, sync::Arc, time::Duration};

use tether_host::{EventKind, Host};
use tether_wire::message::Exit;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at},
};

use super::{
    Engine, Entry, Life,
    containers::{STOP_SIGNAL, cpus, memory_mib, require_running},
    error::EngineError,
    guests::{IMAGE_DISK, WRITABLE_DISK, extra_hosts, guest_id},
    naming::signal_number,
    now,
    record::{Container, Phase, Run},
};
use crate::{
    firewall,
    machine::{CONSOLE, CONSOLE_LIMIT, Disk, Machine, Specification, qemu::bound_console},
    workload::streams,
};

/// How long a machine may take until its workload runs. A second with KVM; three with QEMU's
/// translator, and many times that when many start at once on few processors.
const START: Duration = Duration::from_mins(3);
/// How long a container has after its stop signal when nobody says how long.
const GRACE: Duration = Duration::from_secs(10);
/// How long for ever is.
const FOREVER: Duration = Duration::from_hours(365 * 24);
/// How long a guest may take to end its workload after SIGKILL.
const KILL: Duration = Duration::from_secs(5);
/// How long the last output may take after the workload's end: longer than those who are attached
/// may hold it up.
const LAST_OUTPUT: Duration = Duration::from_secs(15);
/// How long a machine may take to power off.
const POWER_OFF: Duration = Duration::from_secs(15);
/// How often consoles are kept from growing.
const CONSOLE_PERIOD: Duration = Duration::from_secs(5);
/// What process 1 says on the console of its workload's end.
const LAST_WORD: &str = "tether: workload ended: ";
/// How much of a console's end is looked at, in bytes.
const TAIL: u64 = 4 << 10;

/// How many events of a guest wait for its keeper.
const EVENTS: usize = 64;

const SIGKILL: i32 = 9;
/// Docker's exit codes for what was not started.
const CANNOT_RUN: i64 = 126;
const NOT_FOUND: i64 = 127;
const DAEMON_ERROR: i64 = 128;

/// How a container ended.
#[derive(Clone, Debug)]
struct End {
    code: i64,
    error: String,
}

impl Engine {
    /// Starts a container. Resolves when its workload runs, in a network that its guest has
    /// verified and under names its peers know.
    pub async fn start(&self, container: &str) -> Result<(), EngineError> {
        let (id, turn) = self.turn(container)?;
        let _turn = turn.lock().await;
        self.start_now(&id).await
    }

    async fn start_now(&self, id: &str) -> Result<(), EngineError> {
        if self.container(id)?.state.phase.is_up() {
            return Err(EngineError::not_modified());
        }
        // Of an earlier run everything has to be gone; that is told last.
        let mut life = self.life(id)?;
        let _ = timeout(POWER_OFF, life.wait_for(|life| !life.phase.is_up())).await;
        let started = match self.bring_up(id).await {
            Ok(()) => self.wait_until_running(id).await,
            Err(error) => Err(error),
        };
        let Err(error) = started else { return Ok(()) };
        // One that removes itself may be gone already.
        let Ok(record) = self.container(id) else { return Err(error) };
        if record.run.is_some() || record.state.phase.is_up() {
            self.end_now(id).await;
            if self.container(id).is_ok_and(|record| record.run.is_some()) {
                self.take_down(id, &End { code: DAEMON_ERROR, error: error.message.clone() }).await;
            }
            return Err(error);
        }
        // It did not come as far as a run, or its keeper has seen to everything.
        let _ = self.release_all(id).await;
        if let Ok((_, hub)) = self.streams(id) {
            hub.end();
        }
        if record.auto_remove() {
            let _ = self.erase(id);
        }
        Err(error)
    }

    /// Does everything until the machine is on its way.
    async fn bring_up(&self, id: &str) -> Result<(), EngineError> {
        let record = self.reserve_all(id)?;
        let (published, taken) = match self.take_ports(&record) {
            Ok(ports) => ports,
            Err(error) => {
                self.release_all(id).await?;
                return Err(error);
            }
        };
        let record = {
            let mut state = self.state();
            let hosts = extra_hosts(&record, &state.networks)?;
            // As it is now: it may have another name since.
            let mut record = state.entry(id)?.record.clone();
            record.run = Some(Run { pid: 0, published, hosts, exit: None });
            record.state = super::record::State {
                phase: Phase::Starting,
                started: Some(now()),
                finished: record.state.finished,
                ..Default::default()
            };
            state.commit(&self.shared.store, record.clone(), Vec::new())?;
            if let Some(entry) = state.containers.get_mut(id) {
                entry.taken = taken;
                entry.killed = None;
                entry.tell();
            }
            record
        };
        // The rules, then the links, then the workload.
        self.filter().await?;
        let directory = self.machine_directory(id);
        // What an earlier machine has left.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)
            .map_err(|error| EngineError::internal(format!("{}: {error}", directory.display())))?;
        let machine = self.specification(&record, &directory).await?;
        let events = self.admit(&record)?;
        let machine = self.shared.hypervisor.start(machine).await?;
        let noted = self.update(id, |record| {
            if let Some(run) = &mut record.run {
                run.pid = machine.pid();
            }
        });
        if let Err(error) = noted {
            machine.kill().await;
            return Err(error);
        }
        self.keep(id, machine, events, false);
        Ok(())
    }

    async fn specification(
        &self,
        record: &Container,
        directory: &Path,
    ) -> Result<Specification, EngineError> {
        let mut nics = vec![self.management_nic(record).await?];
        for endpoint in &record.endpoints {
            let network = self.network(&endpoint.network)?;
            nics.extend(self.nic(record, &network).await?);
        }
        Ok(Specification {
            directory: directory.to_owned(),
            memory_mib: memory_mib(record)?,
            cpus: cpus(record)?,
            boot_document: self.boot_document(record)?,
            disks: vec![
                Disk { path: self.shared.images.root(&record.image), serial: IMAGE_DISK, read_only: true },
                Disk {
                    path: self.container_directory(&record.id).join("writable"),
                    serial: WRITABLE_DISK,
                    read_only: false,
                },
            ],
            nics,
        })
    }

    /// Lets a container's guest in, and gives it what it is to have.
    fn admit(&self, record: &Container) -> Result<mpsc::Receiver<EventKind>, EngineError> {
        let (sender, events) = mpsc::channel(EVENTS);
        let guest = guest_id(record)?;
        self.shared.host.admit(&guest);
        {
            let mut state = self.state();
            if let Some(entry) = state.containers.get_mut(&record.id) {
                entry.keeper = Some(sender);
            }
            drop(self.give_names(&state, record));
        }
        let (engine, record) = (self.clone(), record.clone());
        tokio::spawn(async move {
            if let Err(error) = engine.apply_for_start(&record).await {
                engine.fail(&record.id, &error);
            }
        });
        Ok(events)
    }

    async fn apply_for_start(&self, record: &Container) -> Result<(), EngineError> {
        match timeout(START, self.apply_without_limit(record)).await {
            Ok(applied) => applied,
            Err(_) => Err(EngineError::internal("the guest did not dial in")),
        }
    }

    /// A starting container cannot be started: its machine is ended with that as the reason.
    fn fail(&self, id: &str, error: &EngineError) {
        let machine = {
            let mut state = self.state();
            let Some(entry) = state.containers.get_mut(id) else { return };
            if entry.record.state.phase != Phase::Starting {
                tracing::error!("container {}: {error}", entry.record.name);
                return;
            }
            entry.record.state.error.clone_from(&error.message);
            entry.machine.clone()
        };
        if let Some(machine) = machine {
            tokio::spawn(async move { machine.kill().await });
        }
    }

    /// Waits for the workload of a container that was started.
    async fn wait_until_running(&self, id: &str) -> Result<(), EngineError> {
        let mut life = self.life(id)?;
        let ended = timeout(START, life.wait_for(|life| life.phase != Phase::Starting)).await;
        match ended {
            Ok(Ok(life)) if life.phase == Phase::Running => Ok(()),
            Ok(Ok(life)) => match life.error.as_str() {
                // It ran, and was fast.
                "" => Ok(()),
                error if matches!(life.exit_code, CANNOT_RUN | NOT_FOUND) => Err(EngineError::invalid(error)),
                error => Err(EngineError::internal(error)),
            },
            Ok(Err(_)) => Err(EngineError::internal("the container was removed while it started")),
            Err(_) => {
                let words = last_words(&self.machine_directory(id).join(CONSOLE));
                Err(EngineError::internal(format!(
                    "the container's machine did not come up in {} s{words}",
                    START.as_secs()
                )))
            }
        }
    }

    /// Has a task look after a machine from now on.
    fn keep(&self, id: &str, machine: Arc<dyn Machine>, events: mpsc::Receiver<EventKind>, again: bool) {
        let hub = {
            let mut state = self.state();
            let entry = state.containers.get_mut(id);
            // It was refused or killed before there was a machine to end.
            let unwanted = entry.as_ref().is_none_or(|entry| {
                entry.record.state.phase == Phase::Starting
                    && (entry.killed.is_some() || !entry.record.state.error.is_empty())
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
        let keeper = Keeper { engine: self.clone(), id: id.to_owned(), machine, events, said_everything };
        tokio::spawn(async move {
            let (end, Keeper { engine, id, .. }) = keeper.run().await;
            carried.abort();
            engine.take_down(&id, &end).await;
        });
    }

    /// Gives back everything a container had while it ran, and tells everybody.
    async fn take_down(&self, id: &str, end: &End) {
        let Ok(record) = self.container(id) else { return };
        if let Ok(guest) = guest_id(&record) {
            self.shared.host.dismiss(&guest);
        }
        let auto_remove = record.auto_remove();
        let networks: Vec<String> =
            record.endpoints.iter().map(|endpoint| endpoint.network.clone()).collect();
        // Its end and what it gives back in one: nobody finds it half.
        let noted = self.release_with(id, |record| {
            record.run = None;
            record.state.phase = Phase::Exited;
            record.state.exit_code = end.code;
            record.state.error.clone_from(&end.error);
            record.state.finished = Some(now());
        });
        if let Some(entry) = self.state().containers.get_mut(id) {
            entry.machine = None;
            entry.keeper = None;
            entry.taken.clear();
        }
        // All of it whatever fails: a name that leads nowhere is the worst.
        self.names_changed(&networks).await;
        for outcome in [noted.await, self.filter().await] {
            if let Err(error) = outcome {
                tracing::error!("container {}: {error}", record.name);
            }
        }
        let _ = fs::remove_dir_all(self.machine_directory(id));
        // Who waits for its turn to start it again waits for this.
        if let Some(entry) = self.state().containers.get(id) {
            entry.hub.end();
            if !auto_remove {
                entry.tell_end();
            }
        }
        if auto_remove && let Err(error) = self.erase(id) {
            tracing::error!("container {}: {error}", record.name);
        }
    }

    /// Stops a container: its stop signal, or the one that is given, and after `grace` SIGKILL.
    /// `None`: the container's own time, or ten seconds.
    pub async fn stop(
        &self,
        container: &str,
        signal: Option<&str>,
        grace: Option<Duration>,
    ) -> Result<(), EngineError> {
        let (id, turn) = self.turn(container)?;
        let _turn = turn.lock().await;
        self.stop_now(&id, signal, grace).await
    }

    async fn stop_now(
        &self,
        id: &str,
        signal: Option<&str>,
        grace: Option<Duration>,
    ) -> Result<(), EngineError> {
        let record = self.container(id)?;
        if !record.state.phase.is_up() {
            return Err(EngineError::not_modified());
        }
        // -1 is for ever.
        let own = record.config.stop_timeout;
        let own = own.map(|seconds| u64::try_from(seconds).map_or(FOREVER, Duration::from_secs));
        let grace = grace.or(own).unwrap_or(GRACE);
        let signal = signal.or(record.config.stop_signal.as_deref()).unwrap_or(STOP_SIGNAL);
        let signal = signal_number(signal)?;
        let (mut life, guest) = (self.life(id)?, guest_id(&record)?);
        let patient = async {
            // One that was found again after a restart has not dialled in yet, perhaps.
            while !self.shared.host.signal(&guest, signal) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let by = Instant::now() + grace;
        let ended = async {
            tokio::select! {
                _ = life.wait_for(|life| !life.phase.is_up()) => return,
                () = patient => {}
            }
            let _ = life.wait_for(|life| !life.phase.is_up()).await;
        };
        if timeout_at(by, ended).await.is_ok() {
            return Ok(());
        }
        self.end_now(id).await;
        if self.container(id).is_ok_and(|record| record.state.phase.is_up()) {
            return Err(EngineError::internal("its machine does not end; end its QEMU by hand"));
        }
        Ok(())
    }

    /// Stops a container, if it runs, and starts it.
    pub async fn restart(
        &self,
        container: &str,
        signal: Option<&str>,
        grace: Option<Duration>,
    ) -> Result<(), EngineError> {
        let (id, turn) = self.turn(container)?;
        let _turn = turn.lock().await;
        if self.container(&id)?.state.phase.is_up() {
            self.stop_now(&id, signal, grace).await?;
        }
        self.start_now(&id).await
    }

    /// Sends a container's process a signal; after SIGKILL it has ended when this resolves.
    pub async fn kill(&self, container: &str, signal: &str) -> Result<(), EngineError> {
        let record = self.container(container)?;
        let number = signal_number(signal)?;
        require_running(&record)?;
        if number == SIGKILL {
            // Also while somebody waits for a stop in peace, or for a start.
            self.end_now(&record.id).await;
        } else if !self.shared.host.signal(&guest_id(&record)?, number) {
            return Err(EngineError::internal("the guest is away: try again, or use SIGKILL"));
        }
        Ok(())
    }

    /// Ends what a container runs: SIGKILL, and if its guest does not do it the machine's end.
    pub(super) async fn end_now(&self, id: &str) {
        let (Ok(mut life), Ok(record)) = (self.life(id), self.container(id)) else { return };
        let machine = {
            let mut state = self.state();
            let Some(entry) = state.containers.get_mut(id) else { return };
            entry.killed = Some(SIGKILL);
            entry.machine.clone()
        };
        let Some(machine) = machine else { return };
        let signalled = record.state.phase == Phase::Running
            && guest_id(&record).is_ok_and(|guest| self.shared.host.signal(&guest, SIGKILL));
        if signalled && timeout(KILL, life.wait_for(|life| !life.phase.is_up())).await.is_ok() {
            return;
        }
        machine.kill().await;
        let _ = timeout(POWER_OFF, life.wait_for(|life| !life.phase.is_up())).await;
    }

    /// Ends every container and takes down what is in the kernel. The records stay, and with them
    /// the networks: the next run makes them again.
    pub async fn shut_down(&self) {
        let up = self.containers().into_iter().filter(|record| record.state.phase.is_up());
        let stops = up.map(|record| async move {
            if timeout(GRACE + KILL, self.stop(&record.id, None, None)).await.is_err() {
                self.end_now(&record.id).await;
            }
        });
        futures_util::future::join_all(stops).await;
        // Whoever starts a container now gets no rule for it.
        let mut in_place = self.shared.filter.lock().await;
        if let Err(error) = firewall::remove(self.shared.settings.table).await {
            tracing::error!("{error}");
        }
        *in_place = None;
        for network in self.networks() {
            self.dismantle(&network).await;
        }
        if let Err(error) = self.shared.kernel.remove_bridge(&self.shared.settings.management_bridge).await {
            tracing::error!("{error}");
        }
    }

    /// Takes up after a restart of this process: machines that run are looked after again, those
    /// that ended meanwhile are noted, and what belongs to nobody is removed.
    pub(super) async fn take_up(&self) -> Result<(), EngineError> {
        let containers = self.containers();
        for record in containers.iter().filter(|record| record.run.is_none() && !record.state.phase.is_up()) {
            // Killed between reserving and starting.
            self.release_all(&record.id).await?;
        }
        self.release_strangers()?;
        for record in containers.iter().filter(|record| record.run.is_some() || record.state.phase.is_up()) {
            let directory = self.machine_directory(&record.id);
            let machine = self.shared.hypervisor.find(&directory).await;
            let noted = record.run.as_ref().and_then(|run| run.exit);
            match machine {
                Some(machine) if record.state.phase == Phase::Running && noted.is_none() => {
                    let taken = self.retake_ports(record);
                    if let Some(entry) = self.state().containers.get_mut(&record.id) {
                        entry.taken = taken;
                    }
                    let events = self.admit(record)?;
                    self.keep(&record.id, machine, events, true);
                    tracing::info!("container {} goes on", record.name);
                }
                other => {
                    if let Some(machine) = other {
                        machine.kill().await;
                    }
                    let end = match noted {
                        Some(code) => End { code, error: String::new() },
                        None => end_by_console(&directory.join(CONSOLE)),
                    };
                    tracing::info!("container {} has ended: {}", record.name, end.code);
                    self.take_down(&record.id, &end).await;
                }
            }
        }
        for record in self.containers() {
            // Killed between its end and its removal.
            if record.auto_remove() && record.state.phase == Phase::Exited {
                self.erase(&record.id)?;
            }
        }
        self.remove_strangers().await;
        Ok(())
    }

    /// Removes machines, directories and bridges that no record knows: a crash came in between.
    async fn remove_strangers(&self) {
        let known: Vec<Container> = self.containers();
        let machines = self.shared.settings.run.join("machines");
        for entry in fs::read_dir(&machines).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !known.iter().any(|record| name == record.short_id() && record.state.phase.is_up()) {
                if let Some(machine) = self.shared.hypervisor.find(&entry.path()).await {
                    machine.kill().await;
                }
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        for entry in
            fs::read_dir(self.shared.settings.state.join("containers")).into_iter().flatten().flatten()
        {
            if !known.iter().any(|record| entry.file_name() == record.id.as_str()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let networks = self.networks();
        for (bridge, id) in self.shared.kernel.ours().await.unwrap_or_default() {
            let management = bridge == self.shared.settings.management_bridge;
            if !management && !networks.iter().any(|network| network.id == id) {
                let _ = self.shared.kernel.remove_bridge(&bridge).await;
            }
        }
    }

    /// Hands every guest's events to its keeper, for as long as this process runs.
    pub(super) async fn distribute(&self, host: Host) {
        let mut events = host.events();
        loop {
            match events.recv().await {
                Ok(event) => {
                    let keeper = {
                        let state = self.state();
                        state.containers.get(&event.guest.to_string()).and_then(|entry| entry.keeper.clone())
                    };
                    match (keeper, &event.kind) {
                        // What a keeper looks at. A guest that floods loses its own, nobody else's.
                        (Some(keeper), EventKind::Guest(_) | EventKind::WorkloadExited(_)) => {
                            let _ = keeper.try_send(event.kind);
                        }
                        (None, EventKind::Refused { reason }) => {
                            tracing::warn!(guest = %event.guest, "refused: {reason}");
                        }
                        _ => {}
                    }
                }
                Err(tokio::sync::broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::error!("{lost} events of guests are lost");
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

/// Looks after one machine.
struct Keeper {
    engine: Engine,
    id: String,
    machine: Arc<dyn Machine>,
    events: mpsc::Receiver<EventKind>,
    said_everything: watch::Receiver<bool>,
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
                event = self.events.recv() => match event {
                    Some(EventKind::Guest(event)) => match event.kind {
                        tether_wire::message::EventKind::WorkloadStarted { .. } => self.running().await,
                    },
                    Some(EventKind::WorkloadExited(how)) if exit.is_none() => {
                        self.exited(&how).await;
                        exit = Some(how);
                        deadline = Some(Instant::now() + POWER_OFF);
                    }
                    // Told again by a guest that has not heard that it is noted.
                    Some(EventKind::WorkloadExited(_)) => self.seen(),
                    Some(_) => {}
                    None => {
                        // Nobody knows this container any more.
                        self.machine.kill().await;
                        break;
                    }
                },
                _ = period.tick() => {
                    // There may be no console yet.
                    let _ = bound_console(&directory, CONSOLE_LIMIT);
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.machine.kill().await;
                }
            }
        }
        let killed = self.engine.state().containers.get(&self.id).and_then(|entry| entry.killed);
        let failed =
            self.engine.state().containers.get(&self.id).map(|entry| entry.record.state.error.clone());
        let end = match (exit, killed) {
            (Some(exit), _) => end_of(&exit),
            (None, killed) => match (failed.filter(|failed| !failed.is_empty()), killed) {
                (Some(error), _) => {
                    let words = last_words(&directory.join(CONSOLE));
                    End { code: DAEMON_ERROR, error: format!("{error}{words}") }
                }
                (None, Some(signal)) => End { code: 128 + i64::from(signal), error: String::new() },
                (None, None) => end_by_console(&directory.join(CONSOLE)),
            },
        };
        (end, self)
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
            record.auto_remove()
        });
        // What it said last is worth waiting for, but not for ever.
        let _ = timeout(LAST_OUTPUT, self.said_everything.wait_for(|over| *over)).await;
        match noted {
            // Its file system goes with it: nobody needs it written.
            Ok(true) => self.machine.kill().await,
            Ok(false) => self.seen(),
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

impl Entry {
    /// Tells everybody who watches where in its life the container is.
    fn tell(&self) {
        let state = &self.record.state;
        self.life.send_modify(|life| life.phase = state.phase);
    }

    /// Tells them of its end.
    pub(super) fn tell_end(&self) {
        let state = &self.record.state;
        self.life.send_modify(|life| {
            *life = Life {
                phase: state.phase,
                exits: life.exits + 1,
                exit_code: state.exit_code,
                error: state.error.clone(),
                removed: life.removed,
            };
        });
    }
}

/// A workload's end in Docker's terms.
fn end_of(exit: &Exit) -> End {
    match exit {
        Exit::Code(code) => End { code: i64::from(*code), error: String::new() },
        Exit::Signal(signal) => End { code: 128 + i64::from(*signal), error: String::new() },
        Exit::NotStarted(why) => {
            // The words Docker's client tells 127 and 126 by.
            let program = why.split(": ").next().unwrap_or_default();
            if why.ends_with("(os error 2)") {
                let reason = if program.contains('/') {
                    format!("exec: {program:?}: stat {program}: no such file or directory")
                } else {
                    format!("exec: {program:?}: executable file not found in $PATH")
                };
                End { code: NOT_FOUND, error: format!("unable to start container process: {reason}") }
            } else if why.ends_with("(os error 13)") {
                let reason = format!("exec: {program:?}: permission denied");
                End { code: CANNOT_RUN, error: format!("unable to start container process: {reason}") }
            } else {
                End { code: CANNOT_RUN, error: format!("unable to start container process: {why}") }
            }
        }
    }
}

/// How a machine ended whose guest had nobody to tell: its console has process 1's last word.
fn end_by_console(console: &Path) -> End {
    let text = tail(console);
    let word = text.lines().rev().find_map(|line| line.split_once(LAST_WORD).map(|(_, word)| word.trim()));
    let exit = word.and_then(|word| match word.split_once(' ') {
        Some(("exit", code)) => Some(Exit::Code(code.parse().ok()?)),
        Some(("signal", signal)) => Some(Exit::Signal(signal.parse().ok()?)),
        _ => word.strip_prefix("not started: ").map(|why| Exit::NotStarted(why.to_owned())),
    });
    match exit {
        Some(exit) => end_of(&exit),
        None => End {
            code: 255,
            error: format!("the container's machine ended before its workload did{}", last_words(console)),
        },
    }
}

/// The end of a console, for a person who has nothing but the error.
fn last_words(console: &Path) -> String {
    let text = tail(console);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.get(lines.len().saturating_sub(4)..) {
        Some(last) if !last.is_empty() => format!("; last on its console: {}", last.join(" | ")),
        _ => "; its console is empty: the boot image or QEMU is at fault".to_owned(),
    }
}

/// The end of a console, without what would do something to a terminal.
fn tail(console: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(console)?;
        let length = file.metadata()?.len();
        file.seek(std::io::SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
