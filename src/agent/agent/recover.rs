//! Going on where an agent before this one has ended, or back to the last good document.

use std::sync::Arc;

use tether_wire::{
    check::Desired,
    message::{Failure, Phase},
};

use super::{
    Agent, InForce,
    apply::{Reads, reads, untouched},
};
use crate::{
    journal::Note,
    kernel,
    plan::{self, Others},
};

impl Agent {
    /// Puts the last good document in force, as the journal has it: with nothing to do where it
    /// is in force already, and without what has been begun since. Says whether it is.
    ///
    /// Where there never was one, what tether has made goes, and links are as they were. Nothing
    /// is waited for, and nothing undone: a cable that is out, or a NIC that was unplugged, is no
    /// reason to stay between two states. What is missing is mended when it can be.
    pub async fn recover(&mut self) -> bool {
        let Note { originals, under_way, others } = self.journal.note().clone();
        let good = self.journal.good();
        if good.is_none() && !under_way {
            return true;
        }
        self.originals = originals;
        let checked = good.as_ref().map(|good| good.state.check());
        let desired = match checked {
            None => Arc::new(Desired::nothing()),
            Some(Ok(desired)) => Arc::new(desired),
            // An older agent has thought otherwise of it.
            Some(Err(_)) => return false,
        };
        let since = good.as_ref().map_or_else(kernel::clock, |good| good.since);
        self.in_force = good.as_ref().map(|good| InForce {
            stamp: good.stamp,
            desired: Arc::clone(&desired),
            since,
            skipped: Vec::new(),
        });
        if !under_way {
            self.files.assume(&desired);
        }
        match self.put_back(&desired, since, good.is_some(), others).await {
            Ok(operations) => {
                if operations > 0 {
                    tracing::warn!(operations, under_way, "the last good state is in force again");
                }
                self.journal.abandon(self.originals.clone());
                true
            }
            Err(failure) => {
                for problem in &failure.problems {
                    tracing::error!("the last good state is not in force: {problem}");
                }
                false
            }
        }
    }

    async fn put_back(
        &mut self,
        desired: &Desired,
        since: u32,
        with_files: bool,
        others: Others,
    ) -> Result<u32, Failure> {
        let reads: Reads = reads(desired);
        let before = self.read(desired, Phase::Plan).await?;
        let mut target = plan::target(desired, &before, self.facts(since, true))
            .map_err(|problems| untouched(Phase::Plan, problems))?;
        target.put_back(others);
        let operations = plan::diff(&before, &target);
        if !operations.is_empty() {
            self.note_change(&before, &target, &operations);
        }
        let (operations, now) = self.converge(&mut target, before, operations, &reads).await?;
        self.originals = target.originals.clone();
        self.seen = now;
        if with_files {
            self.files.put_in_force(desired).map_err(|problems| untouched(Phase::Files, problems))?;
        }
        if let Some(in_force) = &mut self.in_force {
            in_force.skipped.clone_from(&target.skipped);
        }
        self.configure_dns();
        self.watch.forgive();
        self.hold_addresses(&target);
        Ok(operations)
    }
}
