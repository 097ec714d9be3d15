//! What waits to be sent to one guest: of everything the newest, of signals every one.
//!
//! A document that was not sent yet is replaced by its successor, so a burst of changes costs a
//! slow guest one message and the host no memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tether_wire::message::{Apply, ExitSeen, FromHost, Names, Signal, Stop};
use tokio::sync::Notify;

/// How many signals wait at most.
const SIGNALS: usize = 64;

/// The host's end: what is put in is sent. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Outbox(Arc<Shared>);

/// The session's end.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    slots: Mutex<Slots>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    names: Option<Names>,
    state: Option<Apply>,
    stop: Option<Stop>,
    exit_seen: Option<ExitSeen>,
    signals: VecDeque<Signal>,
    closed: bool,
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while it is held.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Slots)) {
        change(&mut self.slots());
        self.filled.notify_one();
    }
}

/// Both ends of a new connection's outbox.
pub(crate) fn outbox() -> (Outbox, Waiting) {
    let shared = Arc::new(Shared::default());
    (Outbox(Arc::clone(&shared)), Waiting(shared))
}

impl Outbox {
    pub(crate) fn names(&self, names: Names) {
        self.0.change(|slots| slots.names = Some(names));
    }

    pub(crate) fn state(&self, apply: Apply) {
        self.0.change(|slots| slots.state = Some(apply));
    }

    pub(crate) fn stop(&self, stop: Stop) {
        self.0.change(|slots| slots.stop = Some(stop));
    }

    pub(crate) fn exit_seen(&self) {
        self.0.change(|slots| slots.exit_seen = Some(ExitSeen));
    }

    /// `false` when too many are waiting already.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let mut fits = false;
        self.0.change(|slots| {
            fits = slots.signals.len() < SIGNALS;
            if fits {
                slots.signals.push_back(signal);
            }
        });
        fits
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.0.change(|slots| slots.closed = true);
    }
}

impl Waiting {
    /// The next message, `None` once the connection is to end. Cancel-safe.
    pub(crate) async fn next(&self) -> Option<FromHost> {
        loop {
            {
                let mut slots = self.0.slots();
                if slots.closed {
                    return None;
                }
                // Signals were asked for before a stop that may follow on them. Then stop: what comes
                // after it is not wanted any more. Names before the state: a workload starts when
                // that is verified, and may look up a name at once.
                let next = (slots.exit_seen.take().map(FromHost::from))
                    .or_else(|| slots.signals.pop_front().map(FromHost::from))
                    .or_else(|| slots.stop.take().map(FromHost::from))
                    .or_else(|| slots.names.take().map(FromHost::from))
                    .or_else(|| slots.state.take().map(FromHost::from));
                if next.is_some() {
                    return next;
                }
            }
            self.0.filled.notified().await;
        }
    }
}
