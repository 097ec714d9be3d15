//! What a host program hears of its guests.

use std::sync::Arc;

use serde::Serialize;
use tether_wire::{
    identity::Pin,
    message::{Exit, Failed, Hello, Verified},
    status::{Stamp, Status},
    value::GuestId,
};

use crate::unheard::Weight;

/// Something that happened to a guest.
#[derive(Debug, Serialize)]
pub struct Event {
    /// To whom. For a stranger that was refused: who it said it was.
    pub guest: GuestId,
    /// How many events of this guest were dropped before this one: it said more than the host program
    /// listened to. 1 MiB of what one guest says waits until a first subscriber hears it, 256 events at
    /// most, or 16 while 2,048 of all guests wait; for [`EventKind::WorkloadExited`] there is as much room
    /// again. Of strangers that were refused 256 wait in all, and of alarms;
    /// [`EventKind::IdentityReuse`] is told of one guest every 10 s at most, and here is how many there were
    /// before the last.
    #[serde(skip_serializing_if = "is_none")]
    pub dropped: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
    /// Of what a guest or a stranger said: its part of what may wait.
    #[serde(skip)]
    pub(crate) weight: Option<Weight>,
}

impl Clone for Event {
    /// What a subscriber has does not wait any more, however long it is kept.
    fn clone(&self) -> Self {
        self.weight.iter().for_each(Weight::give_back);
        Self { guest: self.guest.clone(), dropped: self.dropped, kind: self.kind.clone(), weight: None }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's way")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// What a guest has said of its workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// It runs.
    Started {
        /// Its first process.
        pid: u32,
    },
    /// It has ended, or could not be started.
    Exited(Exit),
}

/// What can happen to a guest.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Its channel is up. The token is left out.
    Connected(Hello),
    /// Its channel is gone; it will come back by itself if it lives.
    Disconnected {
        /// Why, one line.
        reason: String,
    },
    /// A guest of this id was not let in.
    Refused {
        /// Why, one line.
        reason: String,
    },
    /// A guest has redeemed its join token: from now on it is whoever has this key. To be noted by a
    /// program that wants to know it again after a restart
    /// ([`Admission::key`](crate::Admission::key)).
    Enrolled {
        /// Its key.
        key: Pin,
    },
    /// Somebody else says it is this guest: with its join token perhaps, which has leaked then, but
    /// not with its key. They were not let in.
    IdentityReuse {
        /// Where they are.
        peer: String,
        /// The guest's key.
        bound: Pin,
        /// Theirs.
        shown: Pin,
    },
    /// The guest knows the host by these keys, after its agent's next start too.
    HostKeyKept {
        /// Their pins.
        pins: Vec<Pin>,
    },
    /// It has a desired state and begins to put it in force.
    Received {
        /// The state's number.
        generation: u64,
    },
    /// A desired state is in force.
    Verified(Arc<Verified>),
    /// A desired state is not in force.
    Failed(Arc<Failed>),
    /// Name tables are in force.
    NamesApplied(Stamp),
    /// Its newest status.
    Status(Arc<Status>),
    /// Something it reports.
    Guest(tether_wire::message::Event),
    /// Its workload has ended. Told again at each of its connections, until
    /// [`Host::exit_seen`](crate::Host::exit_seen) is called.
    WorkloadExited(Exit),
}
