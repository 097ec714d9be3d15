//! What the host wants of one guest and knows of it.
//!
//! Values and queues only: no socket, no clock. A session feeds it what the guest says.

use std::sync::Arc;

use tether_wire::{
    message::{
        Apply, Failed, FromHost, Hello, Names, NamesApplied, NamesFailed, Verified, limit, names_digest,
        state_digest,
    },
    names::NameTables,
    state::DesiredState,
    status::{Stamp, Status},
};
use tokio::sync::{mpsc, oneshot};

use crate::error::{ApplyError, NamesError};

/// Messages that wait for one guest to read them. A guest that lets more gather is cut off; it
/// is brought up to date when it comes back.
const QUEUE: usize = 32;

/// The answer to somebody who waits.
type Answer<T, E> = oneshot::Sender<Result<T, E>>;

/// One guest.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// Its newest status.
    pub(crate) status: Option<Arc<Status>>,
    state: Wanted<DesiredState, Verified, ApplyError>,
    names: Wanted<NameTables, NamesApplied, NamesError>,
    connection: Option<mpsc::Sender<FromHost>>,
    /// Counts connections, so that an old one's end does not end a new one.
    connections: u64,
}

/// A document, wanted of a guest.
#[derive(Debug)]
struct Wanted<D, T, E> {
    /// The document and its stamp; the generation is the host's own count.
    document: Option<(Stamp, D)>,
    /// The highest number used or heard of.
    highest: u64,
    /// Who waits for it to be in force.
    waiting: Option<Answer<T, E>>,
}

impl<D, T, E> Default for Wanted<D, T, E> {
    fn default() -> Self {
        Self { document: None, highest: 0, waiting: None }
    }
}

impl<D: Clone, T, E> Wanted<D, T, E> {
    /// Wants another document. Whoever waited for the one before learns that it is superseded
    /// by the closing of their channel.
    fn set(&mut self, stamp_of: impl Fn(u64) -> Stamp, document: D) -> oneshot::Receiver<Result<T, E>> {
        self.highest += 1;
        self.document = Some((stamp_of(self.highest), document));
        let (answer, receiver) = oneshot::channel();
        self.waiting = Some(answer);
        receiver
    }

    /// What a guest that has just connected with `has` in force must be sent, if anything.
    ///
    /// The same content under another number (this host's memory is younger than the guest's)
    /// is the guest's number from now on; other content gets a number above both.
    fn resync(&mut self, has: Option<Stamp>) -> Option<(u64, D)> {
        self.highest = self.highest.max(has.map_or(0, |stamp| stamp.generation));
        let highest = self.highest;
        let (stamp, document) = self.document.as_mut()?;
        match has {
            Some(has) if has.digest == stamp.digest => {
                stamp.generation = has.generation;
                // Somebody waits for the guest's word that it is in force: ask for it again.
                self.waiting.is_some().then(|| (stamp.generation, document.clone()))
            }
            Some(has) if has.generation >= stamp.generation => {
                self.highest = highest + 1;
                stamp.generation = self.highest;
                Some((stamp.generation, document.clone()))
            }
            _ => Some((stamp.generation, document.clone())),
        }
    }

    /// The guest's answer about document `generation`: who waits for the wanted one hears it.
    fn answered(&mut self, generation: u64, answer: Result<T, E>) {
        let wanted = self.document.as_ref().is_some_and(|(stamp, _)| stamp.generation == generation);
        if wanted && let Some(waiting) = self.waiting.take() {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(answer);
        }
    }
}

impl Guest {
    /// Wants `state` of this guest from now on, and sends it if there is a connection.
    pub(crate) fn want_state(
        &mut self,
        state: &DesiredState,
    ) -> Result<oneshot::Receiver<Result<Verified, ApplyError>>, ApplyError> {
        let digest = state_digest(state);
        let message = |generation| FromHost::Apply(Apply { generation, state: state.clone() });
        fits(&message(u64::MAX)).map_err(ApplyError::TooLong)?;
        let answer = self.state.set(|generation| Stamp { generation, digest }, state.clone());
        self.send(message(self.state.highest));
        Ok(answer)
    }

    /// Gives this guest `tables` from now on, and sends them if there is a connection.
    pub(crate) fn want_names(
        &mut self,
        tables: &NameTables,
    ) -> Result<oneshot::Receiver<Result<NamesApplied, NamesError>>, NamesError> {
        let digest = names_digest(tables);
        let message = |version| FromHost::Names(Names { version, tables: tables.clone() });
        fits(&message(u64::MAX)).map_err(NamesError::TooLong)?;
        let answer = self.names.set(|generation| Stamp { generation, digest }, tables.clone());
        self.send(message(self.names.highest));
        Ok(answer)
    }

    /// Queues a message. `false` when the guest is away, or does not read: then it is cut off.
    pub(crate) fn send(&mut self, message: FromHost) -> bool {
        let sent = self.connection.as_ref().is_some_and(|connection| connection.try_send(message).is_ok());
        if !sent {
            self.connection = None;
        }
        sent
    }

    /// A connection of this guest: what it is to be sent, in order, and a number to end it by.
    /// It takes the place of any other.
    pub(crate) fn connected(&mut self, hello: &Hello) -> (u64, mpsc::Receiver<FromHost>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.connection = Some(sender);
        self.connections += 1;
        // Names first: a workload starts when the state is verified, and may look up a name at
        // once.
        if let Some((version, tables)) = self.names.resync(hello.names) {
            self.send(FromHost::Names(Names { version, tables }));
        }
        if let Some((generation, state)) = self.state.resync(hello.applied) {
            self.send(FromHost::Apply(Apply { generation, state }));
        }
        (self.connections, receiver)
    }

    /// The end of the connection with this number.
    pub(crate) fn disconnected(&mut self, number: u64) {
        if self.connections == number {
            self.connection = None;
        }
    }

    pub(crate) fn verified(&mut self, verified: Verified) {
        self.state.answered(verified.stamp.generation, Ok(verified));
    }

    pub(crate) fn failed(&mut self, failed: Failed) {
        self.state.answered(failed.generation, Err(ApplyError::Failed(Box::new(failed))));
    }

    pub(crate) fn names_applied(&mut self, applied: NamesApplied) {
        self.names.answered(applied.stamp.generation, Ok(applied));
    }

    pub(crate) fn names_failed(&mut self, failed: NamesFailed) {
        self.names.answered(failed.version, Err(NamesError::Wrong(failed.problems)));
    }
}

/// Whether a message may be sent, or how long it is.
fn fits(message: &FromHost) -> Result<(), usize> {
    let frame = message.to_frame();
    if frame.payload.len() > limit(frame.kind) { Err(frame.payload.len()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str) -> DesiredState {
        DesiredState { hostname: name.into(), ..DesiredState::default() }
    }

    fn hello(applied: Option<Stamp>) -> Hello {
        Hello {
            protocol_min: 1,
            protocol_max: 1,
            guest: "g".into(),
            agent_version: String::new(),
            capabilities: vec![],
            boot_id: String::new(),
            applied,
            names: None,
        }
    }

    fn sent(queue: &mut mpsc::Receiver<FromHost>) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        while let Ok(message) = queue.try_recv() {
            if let FromHost::Apply(apply) = message {
                all.push((apply.generation, apply.state.hostname));
            }
        }
        all
    }

    #[test]
    fn a_guest_that_has_it_already_is_left_alone() {
        let mut guest = Guest::default();
        drop(guest.want_state(&state("a")).unwrap());
        guest.state.waiting = None;
        let has = Stamp { generation: 41, digest: state_digest(&state("a")) };
        let (_, mut queue) = guest.connected(&hello(Some(has)));
        assert_eq!(sent(&mut queue), []);
        drop(guest.want_state(&state("b")).unwrap());
        assert_eq!(sent(&mut queue), [(42, "b".to_owned())]);
    }

    #[test]
    fn a_host_without_memory_counts_on_from_what_the_guest_has() {
        let mut guest = Guest::default();
        let mut answer = guest.want_state(&state("new")).unwrap();
        let has = Stamp { generation: 41, digest: state_digest(&state("old")) };
        let (_, mut queue) = guest.connected(&hello(Some(has)));
        assert_eq!(sent(&mut queue), [(42, "new".to_owned())]);
        let stamp = Stamp { generation: 42, digest: state_digest(&state("new")) };
        let verified =
            Verified { stamp, operations: 0, took_us: 1, observed: tether_wire::status::Observed::default() };
        guest.verified(verified.clone());
        assert_eq!(answer.try_recv().unwrap().unwrap(), verified);
    }

    #[test]
    fn who_waits_is_answered_after_a_reconnection() {
        let mut guest = Guest::default();
        let _answer = guest.want_state(&state("a")).unwrap();
        let has = Stamp { generation: 1, digest: state_digest(&state("a")) };
        let (_, mut queue) = guest.connected(&hello(Some(has)));
        assert_eq!(sent(&mut queue), [(1, "a".to_owned())]);
    }

    #[test]
    fn a_newer_wish_supersedes_an_older_one() {
        let mut guest = Guest::default();
        let mut first = guest.want_state(&state("a")).unwrap();
        let _second = guest.want_state(&state("b")).unwrap();
        assert_eq!(first.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        let (_, mut queue) = guest.connected(&hello(None));
        assert_eq!(sent(&mut queue), [(2, "b".to_owned())]);
    }

    #[test]
    fn a_guest_that_does_not_read_is_cut_off_and_an_old_end_does_not_matter() {
        let mut guest = Guest::default();
        let (old, _queue) = guest.connected(&hello(None));
        let stop = FromHost::ExitSeen(tether_wire::message::ExitSeen);
        assert_eq!((0..100).filter(|_| guest.send(stop.clone())).count(), QUEUE);
        let (new, _queue) = guest.connected(&hello(None));
        guest.disconnected(old);
        assert!(guest.send(stop.clone()));
        guest.disconnected(new);
        assert!(!guest.send(stop));
    }
}
