//! What waits to be sent to one guest: of everything the newest.
//!
//! A document that was not sent yet is replaced by its successor, so a burst of changes costs a
//! slow guest one message and the host no memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tether_wire::message::{Apply, FromHost, Names, Stop};
use tokio::sync::Notify;

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
                // Stop first: what comes after it is not wanted any more. Names before the state: a
                // workload starts when that is verified, and may look up a name at once.
                let next = (slots.stop.take().map(FromHost::from))
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
