//! What is found after a restart of this process: machines that run or have ended meanwhile, and
//! what belongs to nobody.

use std::fs;

use super::{
    Engine,
    ending::{End, end_by_console},
    error::EngineError,
    record::{Container, Phase},
};
use crate::machine::CONSOLE;

impl Engine {
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
            let running = machine.is_some() && record.state.phase == Phase::Running && noted.is_none();
            match (machine, running.then(|| self.admit(record))) {
                (Some(machine), Some(Ok(words))) => {
                    let taken = self.retake_ports(record);
                    if let Some(entry) = self.state().containers.get_mut(&record.id) {
                        entry.taken = taken;
                    }
                    self.keep(&record.id, machine, words, true);
                    tracing::info!("container {} goes on", record.name);
                }
                (machine, admitted) => {
                    if let Some(Err(error)) = admitted {
                        // An older vch started it, perhaps. The others are not to suffer for it.
                        tracing::error!("container {} cannot go on: {error}", record.name);
                    }
                    if let Some(machine) = machine {
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
}
