//! Machines of containers: started and ended, and what belongs to them put up and taken down.
//!
//! Whoever starts or ends a container holds its turn. While its machine runs a
//! [`keeper`](super::keeper) looks after it.

use std::{fs, path::Path, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Engine, Entry, Life,
    containers::{STOP_SIGNAL, cpus, memory_mib, require_running},
    ending::{CANNOT_RUN, DAEMON_ERROR, End, NOT_FOUND, last_words},
    error::EngineError,
    guests::{IMAGE_DISK, WRITABLE_DISK, extra_hosts, guest_id},
    naming::signal_number,
    now,
    record::{Container, Join, Phase, Run},
};
use crate::{
    firewall,
    machine::{CONSOLE, Disk, Specification},
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
/// How long a machine may take to power off.
pub(super) const POWER_OFF: Duration = Duration::from_secs(15);

pub(super) const SIGKILL: i32 = 9;

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

    /// Does everything until the machine is on its way. What was reserved when it fails is the
    /// caller's to release.
    async fn bring_up(&self, id: &str) -> Result<(), EngineError> {
        let record = self.reserve_all(id)?;
        let (published, taken) = self.take_ports(&record)?;
        let record = {
            let mut state = self.state();
            let hosts = extra_hosts(&record, &state.networks)?;
            // As it is now: it may have another name since.
            let mut record = state.entry(id)?.record.clone();
            record.run = Some(Run { pid: 0, published, join: Some(Join::new()), hosts, exit: None });
            record.state = super::record::State {
                phase: Phase::Starting,
                started: Some(now()),
                finished: record.state.finished,
                ..Default::default()
            };
            state.commit(&self.shared.store, record.clone(), Vec::new())?;
            if let Some(entry) = state.containers.get_mut(id) {
                entry.taken = taken;
                entry.killed = false;
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
        let words = self.admit(&record)?;
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
        self.keep(id, machine, words, false);
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
    pub(super) fn admit(&self, record: &Container) -> Result<mpsc::Receiver<()>, EngineError> {
        // One word is as good as many: what was said is looked up.
        let (sender, words) = mpsc::channel(1);
        let guest = guest_id(record)?;
        let join = record.run.as_ref().and_then(|run| run.join.as_ref());
        let join =
            join.ok_or_else(|| EngineError::internal("its record has nothing to let its guest in by"))?;
        self.shared.host.admit(&guest, join.admission()?);
        {
            let mut state = self.state();
            if let Some(entry) = state.containers.get_mut(&record.id) {
                entry.keeper = Some(sender);
            }
            self.give_names(&state, record);
        }
        let (engine, record) = (self.clone(), record.clone());
        tokio::spawn(async move {
            if let Err(error) = engine.apply_for_start(&record).await {
                engine.fail(&record.id, &error);
            }
        });
        Ok(words)
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

    /// Gives back everything a container had while it ran, and tells everybody.
    pub(super) async fn take_down(&self, id: &str, end: &End) {
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
            entry.killed = true;
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
        if let Err(error) = firewall::remove().await {
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
}

impl Entry {
    /// Tells everybody who watches where in its life the container is.
    pub(super) fn tell(&self) {
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
