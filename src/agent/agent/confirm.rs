//! Changes that could cut the host off, and undo themselves unless it says that it is there.

use std::time::Duration;

use tether_wire::{
    message::{Failed, Failure, Phase},
    problem::Problem,
};
use tokio::time::Instant;

use super::Agent;
use crate::journal::Good;

/// How long until going back is tried again, where it could not be.
const AGAIN: Duration = Duration::from_secs(2);

/// A document in force that the host has to confirm.
#[derive(Debug)]
pub(super) struct Unconfirmed {
    /// When it is given up.
    pub(super) until: Instant,
    /// It, to be written down once it is confirmed.
    pub(super) good: Good,
}

impl Agent {
    /// The host has heard that `generation` is in force. Whether it is, and stays.
    pub fn confirm(&mut self, generation: u64) -> bool {
        let this = |unconfirmed: &mut Unconfirmed| unconfirmed.good.stamp.generation == generation;
        if let Some(unconfirmed) = self.unconfirmed.take_if(this) {
            tracing::debug!(generation, "confirmed");
            let originals = self.originals.clone();
            self.journal.settle(&unconfirmed.good, originals);
        }
        self.unconfirmed.is_none() && self.applied().is_some_and(|stamp| stamp.generation == generation)
    }

    /// The host has not confirmed in time: the last good document comes back. What it is to be
    /// told, once it can be.
    pub async fn give_up(&mut self) -> Option<Failed> {
        let mut unconfirmed = self.unconfirmed.take()?;
        let stamp = unconfirmed.good.stamp;
        let generation = stamp.generation;
        tracing::warn!(generation, "the host has not confirmed it; going back to the state before");
        let restored = self.recover().await;
        if !restored && self.applied() == Some(stamp) {
            // Nothing was changed, for a reason that may pass.
            unconfirmed.until = Instant::now() + AGAIN;
            self.unconfirmed = Some(unconfirmed);
            return None;
        }
        self.given_up = Some(stamp);
        let failure =
            Failure { phase: Phase::Confirm, problems: vec![not_confirmed()], operation: None, restored };
        Some(Failed { generation, failure })
    }
}

pub(super) fn not_confirmed() -> Problem {
    Problem::new(
        "confirm_s",
        "the host did not confirm in time that it can still be heard: it was cut off; send what leaves the \
         way to it alone",
    )
}
