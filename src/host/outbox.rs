//! What waits to be sent to one guest: of everything the newest, of signals every one.
//!
//! A document that was not sent yet is replaced by its successor, so a burst of changes costs a
//! slow guest one message and the host no memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use tether_wire::{
    frame::Frame,
    message::{ExitSeen, FlushCache, FromHost, HostKey, Signal, Stop, limit},
};
use tokio::sync::Notify;

use crate::{
    guest::State,
    lock,
    tables::{Course, Due, Tables},
};

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
    closed: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    host_key: Option<HostKey>,
    names: Course,
    state: Option<(u64, State)>,
    exit_seen: Option<ExitSeen>,
    unsent: Unsent,
    closed: bool,
}

/// What is asked for once: where a connection ends before it was sent, the next one has it.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    flush_cache: Option<FlushCache>,
    stop: Option<Stop>,
    signals: VecDeque<Signal>,
}

/// What is sent next.
enum Next {
    Message(Frame),
    Names(Due),
    State(u64, State),
}

impl Slots {
    fn next(&mut self, documents: bool) -> Option<Next> {
        fn message(message: impl Into<FromHost>) -> Next {
            Next::Message(message.into().to_frame())
        }
        // Signals were asked for before a stop that may follow on them. Then stop: what comes after
        // it is not wanted any more. Names before the state: a workload starts when that is
        // verified, and may look up a name at once. The cache last: what it is to forget may have
        // come from servers that the state does away with.
        // The host's keys before everything: without them there may be no next connection.
        (self.host_key.take().map(message))
            .or_else(|| self.exit_seen.take().map(message))
            .or_else(|| self.unsent.signals.pop_front().map(message))
            .or_else(|| self.unsent.stop.take().map(message))
            .or_else(|| self.names.take_if(documents).map(Next::Names))
            .or_else(|| {
                self.state.take_if(|_| documents).map(|(generation, state)| Next::State(generation, state))
            })
            .or_else(|| self.unsent.flush_cache.take().map(message))
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }

    fn change(&self, change: impl FnOnce(&mut Slots)) {
        change(&mut self.slots());
        self.filled.notify_one();
    }
}

/// Both ends of a new connection's outbox, in which is what the connection before has not sent.
pub(crate) fn outbox(unsent: Unsent) -> (Outbox, Waiting) {
    let slots = Slots { unsent, ..Slots::default() };
    let shared = Arc::new(Shared { slots: Mutex::new(slots), ..Shared::default() });
    (Outbox(Arc::clone(&shared)), Waiting(shared))
}

impl Outbox {
    /// Sends these tables, as what has changed since the last ones where that is shorter.
    pub(crate) fn names(&self, version: u64, tables: Tables) {
        self.0.change(|slots| slots.names.send(version, tables));
    }

    /// The guest has these tables already.
    pub(crate) fn names_known(&self, version: u64, tables: Tables) {
        self.0.slots().names.known(version, tables);
    }

    /// The guest has not got the tables it was sent.
    pub(crate) fn names_unknown(&self) {
        self.0.slots().names.forget();
    }

    /// The guest could make nothing of the changes of this version. `false`: that is over already.
    pub(crate) fn names_gap(&self, version: u64) -> bool {
        self.0.slots().names.gap(version)
    }

    pub(crate) fn host_key(&self, host_key: HostKey) {
        self.0.change(|slots| slots.host_key = Some(host_key));
    }

    pub(crate) fn state(&self, generation: u64, state: State) {
        self.0.change(|slots| slots.state = Some((generation, state)));
    }

    pub(crate) fn flush_cache(&self) {
        self.0.change(|slots| slots.unsent.flush_cache = Some(FlushCache));
    }

    pub(crate) fn stop(&self, stop: Stop) {
        self.0.change(|slots| slots.unsent.stop = Some(stop));
    }

    pub(crate) fn exit_seen(&self) {
        self.0.change(|slots| slots.exit_seen = Some(ExitSeen));
    }

    /// `false` when too many are waiting already.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let mut fits = false;
        self.0.change(|slots| {
            fits = slots.unsent.signals.len() < SIGNALS;
            if fits {
                slots.unsent.signals.push_back(signal);
            }
        });
        fits
    }

    /// The end of the connection. What it has not sent.
    pub(crate) fn close(self) -> Unsent {
        std::mem::take(&mut self.0.slots().unsent)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.0.slots().closed = true;
        self.0.closed.notify_one();
    }
}

impl Waiting {
    /// The next message, with the generation of a desired state; names and states only where `documents`
    /// are wanted. Cancel-safe.
    pub(crate) async fn next(&self, documents: bool) -> (Frame, Option<u64>) {
        loop {
            let next = self.0.slots().next(documents);
            match next {
                // Large documents take their time: others may fill the slots meanwhile.
                Some(Next::State(generation, state)) => return (state.frame(generation), Some(generation)),
                Some(Next::Names(due)) => return (due.frame(), None),
                Some(Next::Message(frame)) => return (frame, None),
                None => {}
            }
            self.0.filled.notified().await;
        }
    }

    /// Waits until the connection is to end. Cancel-safe.
    pub(crate) async fn closed(&self) {
        while !self.0.slots().closed {
            self.0.closed.notified().await;
        }
    }
}

/// Whether the guest will take a message: it is decoded here as it will be there, since the
/// decoder's limit counts otherwise than bytes. How long it is, in either case.
pub(crate) fn fits(frame: &Frame) -> Result<usize, usize> {
    let length = frame.payload.len();
    let short = length <= limit(frame.kind);
    if short && FromHost::from_frame(frame).is_ok() { Ok(length) } else { Err(length) }
}
