//! The tether from the guest's side: dial, greet, carry messages, notice silence, come back.
//!
//! It knows nothing of routes or names: messages come out of [`Channel::inbox`], and what goes
//! in is sent when there is a host to send it to. Everything above [`dial`] takes any byte
//! stream.

mod backoff;
mod dial;
mod session;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tether_wire::{
    boot::Tether,
    message::{Event, EventKind, Exit, FromGuest, FromHost},
    status::{Stamp, Status},
    value::GuestId,
};
use tokio::sync::{mpsc, watch};

use crate::report;
use backoff::Backoff;

/// How many messages wait in each direction. The host sends few and waits for answers; replies
/// are one for each of its messages.
const QUEUE: usize = 64;

/// The agent's end of the channel.
#[derive(Debug)]
pub struct Channel {
    /// What the host says, across reconnections.
    pub inbox: mpsc::Receiver<FromHost>,
    outbox: mpsc::Sender<FromGuest>,
    state: watch::Sender<State>,
    dropped_events: u64,
    skipped: Arc<AtomicU64>,
}

/// What the host is told at every connection, or as soon as it changes: the newest replaces
/// what was not sent yet.
#[derive(Clone, Debug, Default)]
struct State {
    applied: Option<Stamp>,
    names: Option<Stamp>,
    status: Option<Arc<Status>>,
    exit: Option<Exit>,
    exit_seen: bool,
}

impl Channel {
    /// Starts to dial `tether`, whose NIC has the index `nic`, for as long as the process lives.
    pub fn start(guest: GuestId, tether: Tether, nic: u32) -> Self {
        let (to_agent, inbox) = mpsc::channel(QUEUE);
        let (outbox, from_agent) = mpsc::channel(QUEUE);
        let (state, watched) = watch::channel(State::default());
        let skipped = Arc::new(AtomicU64::new(0));
        let session = session::Session {
            guest,
            boot_id: report::boot_id(),
            inbox: to_agent,
            outbox: from_agent,
            state: watched,
            skipped: Arc::clone(&skipped),
        };
        tokio::spawn(keep_connected(session, tether, nic));
        Self { inbox, outbox, state, dropped_events: 0, skipped }
    }

    /// Answers the host. Waits when the queue is full; a reply is never dropped while the
    /// session lives.
    pub async fn reply(&self, message: impl Into<FromGuest>) {
        // The session task lives as long as the process.
        let _ = self.outbox.send(message.into()).await;
    }

    /// Tells the host of something that happened. Dropped, and counted, when the host does not
    /// keep up.
    pub fn event(&mut self, kind: EventKind) {
        let event = Event { uptime_ms: report::uptime_ms(), dropped: self.dropped_events, kind };
        if self.outbox.try_send(event.into()).is_err() {
            self.dropped_events += 1;
        }
    }

    /// Reports the guest's status, in place of any that was not sent yet, and remembers what is
    /// in force for the next greeting.
    pub fn report(&self, status: Status) {
        self.state.send_modify(|state| {
            state.applied = status.applied;
            state.names = status.names;
            state.status = Some(Arc::new(status));
        });
    }

    /// Remembers what is in force for the next greeting.
    pub fn in_force(&self, applied: Option<Stamp>, names: Option<Stamp>) {
        self.state.send_if_modified(|state| {
            (state.applied, state.names) = (applied, names);
            false
        });
    }

    /// Tells the host how the workload ended, again at each connection until it has been seen.
    pub fn exited(&self, exit: Exit) {
        self.state.send_modify(|state| state.exit = Some(exit));
    }

    /// Notes that the host knows of the workload's end.
    pub fn exit_seen(&self) {
        self.state.send_modify(|state| state.exit_seen = true);
    }

    /// Frames of unknown type or version so far.
    pub fn skipped_frames(&self) -> u64 {
        self.skipped.load(Relaxed)
    }
}

async fn keep_connected(mut session: session::Session, tether: Tether, nic: u32) {
    let mut backoff = Backoff::default();
    let mut told = None;
    loop {
        let lost = match dial::dial(&tether, nic).await {
            Ok(stream) => {
                let end = session.run(stream).await;
                if end.was_welcome() {
                    backoff = Backoff::default();
                    told = None;
                }
                end.to_string()
            }
            Err(error) => format!("cannot reach {}: {error}", dial::peer(&tether, nic)),
        };
        // The same trouble again and again is one line on the console.
        if told.as_ref() != Some(&lost) {
            tracing::warn!("{lost}; trying on");
            told = Some(lost);
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}
