//! What the host wants of one guest and knows of it.
//!
//! Values and queues only: no socket, no clock. A session feeds it what the guest says.

use std::sync::{Arc, Mutex};

use tether_wire::{
    codec,
    frame::Frame,
    message::{
        Apply, Failed, Hello, HostKey, NamesApplied, NamesFailed, NamesGap, Phase, Signal, Stop, Verified,
        state_digest,
    },
    state::DesiredState,
    status::{Digest, Stamp, Status},
};
use tokio::sync::oneshot;

use crate::{
    admission::{Admission, Enrolment},
    credit::Credit,
    error::{ApplyError, NamesError},
    event::Workload,
    outbox::{Outbox, Unsent, Waiting, fits, outbox},
    seldom::Seldom,
    tables::Tables,
    unheard::Unheard,
    wanted::Wanted,
};

/// The highest number a guest may claim to have. Far beyond any honest one, and far enough below
/// the end of the numbers that counting on from it never gets there.
pub(crate) const MAX_GENERATION: u64 = 1 << 62;

type WantedNames = Wanted<Tables, NamesApplied, NamesError>;

/// One guest.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// What it is let in by; `None`: it is not.
    pub(crate) enrolment: Option<Enrolment>,
    /// How much it may say. Its connection waits for that without holding this record.
    pub(crate) credit: Arc<Mutex<Credit>>,
    /// How many bytes of documents it is sent again for what it has said, and has no credit been spent
    /// for.
    pub(crate) sent_again: usize,
    /// What it has said that nobody has heard yet.
    pub(crate) unheard: Unheard,
    /// Those who say that they are it, and are not.
    pub(crate) reused: Seldom,
    /// Its newest status.
    pub(crate) status: Option<Arc<Status>>,
    /// Its newest word about its workload.
    pub(crate) workload: Option<Workload>,
    state: Wanted<State, Arc<Verified>, ApplyError>,
    names: WantedNames,
    /// The newest tables that it has said it has: when it comes back with them, it is sent what has
    /// changed since.
    had_names: Option<Tables>,
    /// The digest of what it says is in force.
    in_force: Option<Digest>,
    /// The digest of what it has said it cannot put in force.
    failed: Option<Digest>,
    /// What the guest has verified, and waits to be confirmed.
    unconfirmed: Option<Arc<Verified>>,
    /// Its connection and the number that tells it from earlier ones.
    connection: Option<(u64, Outbox)>,
    /// What its last connection has not sent, and that connection's `boot_id`: a machine that was started
    /// anew is not to hear a signal that was the one's before.
    unsent: Unsent,
    boot_id: String,
    /// Whether it has ever had one.
    was_there: bool,
}

/// How it stands with a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It is not there.
    Away,
    /// Nothing is wanted of it.
    Idle,
    /// What is wanted is on its way.
    Pending,
    /// What is wanted is in force.
    InForce,
    /// What is wanted cannot be put in force.
    Failed,
}

impl Condition {
    pub(crate) const ALL: [Self; 5] = [Self::Away, Self::Idle, Self::Pending, Self::InForce, Self::Failed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Idle => "idle",
            Self::Pending => "pending",
            Self::InForce => "in_force",
            Self::Failed => "failed",
        }
    }
}

/// A desired state that any guest will take, as a message has it. Clones are the same one: a long one is
/// encoded once, without a lock.
#[derive(Clone, Debug)]
pub(crate) struct State {
    digest: Digest,
    encoded: Arc<[u8]>,
}

impl State {
    /// Checks a state, or says everything that is wrong with it.
    pub(crate) fn new(state: &DesiredState) -> Result<Self, ApplyError> {
        state.check().map_err(ApplyError::Wrong)?;
        let encoded = codec::encode(state);
        fits(&Apply::frame(u64::MAX, &encoded)).map_err(ApplyError::TooLong)?;
        Ok(Self { digest: state_digest(state), encoded: encoded.into() })
    }

    /// How long it is in a message.
    fn length(&self) -> usize {
        self.encoded.len()
    }

    /// The message that has a guest put it in force.
    pub(crate) fn frame(&self, generation: u64) -> Frame {
        Apply::frame(generation, &self.encoded)
    }
}

#[cfg(test)]
mod tests;

impl Guest {
    /// Lets it in by this from now on. A connection that is there by another key ends.
    pub(crate) fn admit(&mut self, admission: Admission) {
        let key = |enrolment: &Option<Enrolment>| enrolment.as_ref().and_then(Enrolment::key);
        let before = key(&self.enrolment);
        self.enrolment = Some(admission.into());
        if key(&self.enrolment) != before {
            self.forget();
        }
    }

    /// Forgets what it has said: whoever comes next is another. What is wanted of it stays.
    fn forget(&mut self) {
        let Self { enrolment, unheard, state, names, reused, .. } = std::mem::take(self);
        *self =
            Self { enrolment, unheard, state: state.anew(), names: names.anew(), reused, ..Self::default() };
    }

    /// How it stands with it.
    pub(crate) fn condition(&self) -> Condition {
        let wanted = self.state.document.as_ref().map(|(stamp, _)| stamp.digest);
        match wanted {
            _ if self.connection.is_none() => Condition::Away,
            None => Condition::Idle,
            wanted if wanted == self.in_force => Condition::InForce,
            wanted if wanted == self.failed => Condition::Failed,
            Some(_) => Condition::Pending,
        }
    }

    /// Wants a state of this guest from now on, and sends it if there is a connection.
    pub(crate) fn want_state(
        &mut self,
        state: &State,
    ) -> oneshot::Receiver<Result<Arc<Verified>, ApplyError>> {
        self.failed = None;
        let answer = self.state.set(|generation| Stamp { generation, digest: state.digest }, state.clone());
        if let Some((_, outbox)) = &self.connection {
            outbox.state(self.state.highest, state.clone());
        }
        answer
    }

    /// Gives this guest `tables` from now on, and sends them if there is a connection.
    pub(crate) fn want_names(
        &mut self,
        tables: &Tables,
    ) -> oneshot::Receiver<Result<NamesApplied, NamesError>> {
        let answer = self.names.set(|generation| tables.stamp(generation), tables.clone());
        if let Some((_, outbox)) = &self.connection {
            outbox.names(self.names.highest, tables.clone());
        }
        answer
    }

    /// Has the guest forget what upstreams have answered. `false` when it is away.
    pub(crate) fn flush_cache(&self) -> bool {
        let outbox = self.connection.as_ref().map(|(_, outbox)| outbox.flush_cache());
        outbox.is_some()
    }

    /// Tells the guest which keys its host has, if it is there.
    pub(crate) fn host_key(&self, host_key: HostKey) {
        if let Some((_, outbox)) = &self.connection {
            outbox.host_key(host_key);
        }
    }

    /// Tells the guest to stop. `false` when it is away.
    pub(crate) fn stop(&self, stop: Stop) -> bool {
        let outbox = self.connection.as_ref().map(|(_, outbox)| outbox.stop(stop));
        outbox.is_some()
    }

    /// Sends a signal to the workload. `false` when the guest is away or too many are waiting.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        self.connection.as_ref().is_some_and(|(_, outbox)| outbox.signal(signal))
    }

    /// Tells the guest that its workload's end is noted. `false` when it is away.
    pub(crate) fn exit_seen(&self) -> bool {
        let outbox = self.connection.as_ref().map(|(_, outbox)| outbox.exit_seen());
        outbox.is_some()
    }

    /// A connection of this guest, which takes the place of any other. `number` is this host's
    /// own for it.
    pub(crate) fn connected(&mut self, number: u64, hello: &Hello) -> Waiting {
        self.disconnected();
        let unsent = std::mem::take(&mut self.unsent);
        let same = self.boot_id == hello.boot_id;
        let (outbox, waiting) = outbox(if same { unsent } else { Unsent::default() });
        self.boot_id.clone_from(&hello.boot_id);
        let mut known = false;
        if let Some(has) = hello.names
            && let Some(tables) = self.known_names(has)
        {
            // Whoever waits for its word about what it has gets it about a change of nothing.
            self.names.renumber(has);
            outbox.names_known(has.generation, tables);
            known = true;
        }
        let whole = resync_names(&mut self.names, &outbox, hello.names);
        // What is known to be there is changed, and not sent.
        let mut length = if known { 0 } else { whole };
        if let Some((generation, state)) = self.state.resync(hello.applied) {
            length += state.length();
            outbox.state(generation, state);
        }
        if self.was_there {
            self.sent_again += length;
        }
        self.in_force = hello.applied.map(|stamp| stamp.digest);
        self.connection = Some((number, outbox));
        self.was_there = true;
        waiting
    }

    /// The tables that a guest has which says it `has` these, where they are still known.
    fn known_names(&self, has: Stamp) -> Option<Tables> {
        let wanted = self.names.document.as_ref().map(|(_, tables)| tables);
        wanted.into_iter().chain(&self.had_names).find(|tables| tables.stamp(has.generation) == has).cloned()
    }

    /// Whether this is the guest's connection, and not one that another has replaced.
    pub(crate) fn is_current(&self, number: u64) -> bool {
        self.connection.as_ref().is_some_and(|(current, _)| *current == number)
    }

    /// Whether it has ever had a connection.
    pub(crate) fn was_there(&self) -> bool {
        self.was_there
    }

    /// Whether it has a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The end of its connection.
    pub(crate) fn disconnected(&mut self) {
        if let Some((_, outbox)) = self.connection.take() {
            self.unsent = outbox.close();
        }
    }

    pub(crate) fn verified(&mut self, verified: Arc<Verified>) {
        let stamp = verified.stamp;
        // It may have waited in a queue while the guest has given the document up.
        self.unconfirmed = None;
        if verified.confirm_within_s > 0 {
            self.unconfirmed = Some(verified);
            return;
        }
        self.in_force = Some(stamp.digest);
        self.state.answered(|wanted| wanted == stamp, Ok(verified));
    }

    /// The guest has heard that it was heard.
    pub(crate) fn confirmed(&mut self, generation: u64) {
        let this = |verified: &mut Arc<Verified>| verified.stamp.generation == generation;
        if let Some(verified) = self.unconfirmed.take_if(this) {
            let stamp = verified.stamp;
            self.in_force = Some(stamp.digest);
            self.state.answered(|wanted| wanted == stamp, Ok(verified));
        }
    }

    pub(crate) fn failed(&mut self, failed: Arc<Failed>) {
        // A number that is not newer says that this host counts wrong; the status that follows
        // has the guest's number, and the document goes out again above it.
        if failed.failure.phase != Phase::Generation {
            let generation = failed.generation;
            let wanted = self.state.document.as_ref().map(|(stamp, _)| stamp);
            if let Some(wanted) = wanted.filter(|wanted| wanted.generation == generation) {
                self.failed = Some(wanted.digest);
            }
            let failed = Err(ApplyError::Failed(failed));
            self.state.answered(|wanted| wanted.generation == generation, failed);
        }
    }

    pub(crate) fn names_applied(&mut self, applied: NamesApplied) {
        if let Some((wanted, tables)) = &self.names.document
            && *wanted == applied.stamp
        {
            self.had_names = Some(tables.clone());
        }
        self.names.answered(|wanted| wanted == applied.stamp, Ok(applied));
    }

    pub(crate) fn names_failed(&mut self, failed: NamesFailed) {
        if let Some((_, outbox)) = &self.connection {
            outbox.names_unknown();
        }
        let stale = failed.problems.iter().any(|problem| problem.path == "generation");
        if !stale {
            let refused = Err(NamesError::Wrong(failed.problems));
            self.names.answered(|wanted| wanted.generation == failed.version, refused);
        }
    }

    /// What was sent as changes does not fit what the guest has: it gets the whole.
    pub(crate) fn names_gap(&mut self, gap: &NamesGap) {
        if let Some((_, outbox)) = &self.connection
            && outbox.names_gap(gap.version)
        {
            self.sent_again += resync_names(&mut self.names, outbox, gap.has.filter(is_sane));
        }
    }

    /// Notes a status. A guest that turns out to have another document in force, put there by a
    /// message that overtook a reconnection, is sent the wanted one again.
    pub(crate) fn reported(&mut self, status: Arc<Status>) {
        if let Some((version, tables)) = status.names.filter(is_sane).and_then(|has| self.names.compare(has))
            && let Some((_, outbox)) = &self.connection
        {
            self.sent_again += tables.length();
            outbox.names_unknown();
            outbox.names(version, tables);
        }
        if let Some((generation, state)) =
            status.applied.filter(is_sane).and_then(|has| self.state.compare(has))
            && let Some((_, outbox)) = &self.connection
        {
            self.sent_again += state.length();
            outbox.state(generation, state);
        }
        self.in_force = status.applied.map(|stamp| stamp.digest);
        self.status = Some(status);
    }
}

/// Whether a guest's number is one to count on from.
pub(crate) fn is_sane(stamp: &Stamp) -> bool {
    stamp.generation <= MAX_GENERATION
}

/// Sends a guest the names wanted of it, unless it `has` them. How many bytes that is at most.
fn resync_names(names: &mut WantedNames, outbox: &Outbox, has: Option<Stamp>) -> usize {
    if let Some((version, tables)) = names.resync(has) {
        let length = tables.length();
        outbox.names(version, tables);
        return length;
    }
    if let Some((stamp, tables)) = &names.document {
        outbox.names_known(stamp.generation, tables.clone());
    }
    0
}
