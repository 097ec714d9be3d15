//! What the host wants of one guest and knows of it.
//!
//! Values and queues only: no socket, no clock. A session feeds it what the guest says.

use std::sync::Arc;

use tether_wire::{
    message::{
        Apply, Failed, FromHost, Hello, Names, NamesApplied, NamesFailed, Phase, Signal, Stop, Verified,
        limit, names_digest, state_digest,
    },
    names::NameTables,
    state::DesiredState,
    status::{Stamp, Status},
};
use tokio::sync::oneshot;

use crate::{
    error::{ApplyError, NamesError},
    outbox::{Outbox, Waiting, outbox},
};

/// The highest number a guest may claim to have. Far beyond any honest one, and far enough below
/// the end of the numbers that counting on from it never gets there.
pub(crate) const MAX_GENERATION: u64 = 1 << 62;

/// The answer to somebody who waits.
type Answer<T, E> = oneshot::Sender<Result<T, E>>;

/// One guest.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// Its newest status.
    pub(crate) status: Option<Arc<Status>>,
    state: Wanted<DesiredState, Verified, ApplyError>,
    names: Wanted<NameTables, NamesApplied, NamesError>,
    /// What the guest has verified, and waits to be confirmed.
    unconfirmed: Option<Verified>,
    /// Its connection and the number that tells it from earlier ones.
    connection: Option<(u64, Outbox)>,
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

    /// Compares with what the guest says it `has` in force. The document to send, if that is not
    /// the wanted one and will not become it.
    ///
    /// The same content under another number (this host's memory is younger than the guest's)
    /// is under the guest's number from now on. Other content under a number that is not lower
    /// makes ours stale: it gets a number above both. A lower number means that ours is on its
    /// way, or was refused.
    fn compare(&mut self, has: Stamp) -> Option<(u64, D)> {
        self.highest = self.highest.max(has.generation);
        let (stamp, document) = self.document.as_mut()?;
        if has.digest == stamp.digest {
            if self.waiting.is_none() {
                stamp.generation = has.generation;
                return None;
            }
            // Somebody waits for the guest's word about this very number: it may be on its way,
            // unless the guest's is higher. Then it is asked for again, under that one.
            if has.generation <= stamp.generation {
                return None;
            }
            stamp.generation = has.generation;
            return Some((stamp.generation, document.clone()));
        }
        if has.generation < stamp.generation {
            return None;
        }
        self.highest += 1;
        stamp.generation = self.highest;
        Some((stamp.generation, document.clone()))
    }

    /// What a guest that has just connected with `has` in force is to be sent, if anything.
    fn resync(&mut self, has: Option<Stamp>) -> Option<(u64, D)> {
        if let Some(has) = has
            && let Some(renumbered) = self.compare(has)
        {
            return Some(renumbered);
        }
        let (stamp, document) = self.document.as_ref()?;
        // In force already: sent again only for somebody who waits for the guest's word.
        let in_force = has.is_some_and(|has| has.digest == stamp.digest);
        (!in_force || self.waiting.is_some()).then(|| (stamp.generation, document.clone()))
    }

    /// The guest's answer about the document with this stamp: who waits for it hears it.
    fn answered(&mut self, is_it: impl Fn(Stamp) -> bool, answer: Result<T, E>) {
        let wanted = self.document.as_ref().is_some_and(|(stamp, _)| is_it(*stamp));
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
        let apply = |generation| Apply { generation, state: state.clone() };
        fits(&apply(u64::MAX).into()).map_err(ApplyError::TooLong)?;
        let answer = self.state.set(|generation| Stamp { generation, digest }, state.clone());
        if let Some((_, outbox)) = &self.connection {
            outbox.state(apply(self.state.highest));
        }
        Ok(answer)
    }

    /// Gives this guest `tables` from now on, and sends them if there is a connection.
    pub(crate) fn want_names(
        &mut self,
        tables: &NameTables,
    ) -> Result<oneshot::Receiver<Result<NamesApplied, NamesError>>, NamesError> {
        let digest = names_digest(tables);
        let names = |version| Names { version, tables: tables.clone() };
        fits(&names(u64::MAX).into()).map_err(NamesError::TooLong)?;
        let answer = self.names.set(|generation| Stamp { generation, digest }, tables.clone());
        if let Some((_, outbox)) = &self.connection {
            outbox.names(names(self.names.highest));
        }
        Ok(answer)
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
        let (outbox, waiting) = outbox();
        if let Some((version, tables)) = self.names.resync(hello.names) {
            outbox.names(Names { version, tables });
        }
        if let Some((generation, state)) = self.state.resync(hello.applied) {
            outbox.state(Apply { generation, state });
        }
        self.connection = Some((number, outbox));
        waiting
    }

    /// Whether this is the guest's connection, and not one that another has replaced.
    pub(crate) fn is_current(&self, number: u64) -> bool {
        self.connection.as_ref().is_some_and(|(current, _)| *current == number)
    }

    /// Whether it has a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The end of its connection.
    pub(crate) fn disconnected(&mut self) {
        self.connection = None;
    }

    pub(crate) fn verified(&mut self, verified: Verified) {
        let stamp = verified.stamp;
        // It may have waited in a queue while the guest has given the document up.
        self.unconfirmed = None;
        if verified.confirm_within_s > 0 {
            self.unconfirmed = Some(verified);
            return;
        }
        self.state.answered(|wanted| wanted == stamp, Ok(verified));
    }

    /// The guest has heard that it was heard.
    pub(crate) fn confirmed(&mut self, generation: u64) {
        let this = |verified: &mut Verified| verified.stamp.generation == generation;
        if let Some(verified) = self.unconfirmed.take_if(this) {
            let stamp = verified.stamp;
            self.state.answered(|wanted| wanted == stamp, Ok(verified));
        }
    }

    pub(crate) fn failed(&mut self, failed: Failed) {
        // A number that is not newer says that this host counts wrong; the status that follows
        // has the guest's number, and the document goes out again above it.
        if failed.failure.phase != Phase::Generation {
            let generation = failed.generation;
            let failed = Err(ApplyError::Failed(Box::new(failed)));
            self.state.answered(|wanted| wanted.generation == generation, failed);
        }
    }

    pub(crate) fn names_applied(&mut self, applied: NamesApplied) {
        self.names.answered(|wanted| wanted == applied.stamp, Ok(applied));
    }

    pub(crate) fn names_failed(&mut self, failed: NamesFailed) {
        let stale = failed.problems.iter().any(|problem| problem.path == "generation");
        if !stale {
            let refused = Err(NamesError::Wrong(failed.problems));
            self.names.answered(|wanted| wanted.generation == failed.version, refused);
        }
    }

    /// Notes a status. A guest that turns out to have another document in force, put there by a
    /// message that overtook a reconnection, is sent the wanted one again.
    pub(crate) fn reported(&mut self, status: Arc<Status>) {
        if let Some((version, tables)) = status.names.filter(is_sane).and_then(|has| self.names.compare(has))
            && let Some((_, outbox)) = &self.connection
        {
            outbox.names(Names { version, tables });
        }
        if let Some((generation, state)) =
            status.applied.filter(is_sane).and_then(|has| self.state.compare(has))
            && let Some((_, outbox)) = &self.connection
        {
            outbox.state(Apply { generation, state });
        }
        self.status = Some(status);
    }
}

/// Whether a guest's number is one to count on from.
pub(crate) fn is_sane(stamp: &Stamp) -> bool {
    stamp.generation <= MAX_GENERATION
}

/// Whether the guest will take a message: it is decoded here as it will be there, since the
/// decoder's limit counts otherwise than bytes. How long it is when not.
fn fits(message: &FromHost) -> Result<(), usize> {
    let frame = message.to_frame();
    let short = frame.payload.len() <= limit(frame.kind);
    if short && FromHost::from_frame(&frame).is_ok() { Ok(()) } else { Err(frame.payload.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str) -> DesiredState {
        DesiredState { hostname: name.into(), ..DesiredState::default() }
    }

    fn stamp(generation: u64, name: &str) -> Stamp {
        Stamp { generation, digest: state_digest(&state(name)) }
    }

    fn verified(stamp: Stamp) -> Verified {
        Verified {
            stamp,
            operations: 0,
            took_us: 1,
            skipped: vec![],
            confirm_within_s: 0,
            observed: tether_wire::status::Observed::default(),
        }
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

    fn status(applied: Stamp) -> Arc<Status> {
        Arc::new(Status { applied: Some(applied), ..Status::default() })
    }

    /// The next state that is sent, if there is one now.
    fn sent(waiting: &Waiting) -> Option<(u64, String)> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(waiting.next()).poll(&mut context) {
            std::task::Poll::Ready(Some(FromHost::Apply(apply))) => {
                Some((apply.generation, apply.state.hostname))
            }
            _ => None,
        }
    }

    #[test]
    fn a_guest_that_has_it_already_is_left_alone() {
        let mut guest = Guest::default();
        drop(guest.want_state(&state("a")).unwrap());
        guest.state.waiting = None;
        let queue = guest.connected(1, &hello(Some(stamp(41, "a"))));
        assert_eq!(sent(&queue), None);
        drop(guest.want_state(&state("b")).unwrap());
        assert_eq!(sent(&queue), Some((42, "b".to_owned())));
    }

    #[test]
    fn a_host_without_memory_counts_on_from_what_the_guest_has() {
        let mut guest = Guest::default();
        let mut answer = guest.want_state(&state("new")).unwrap();
        let queue = guest.connected(1, &hello(Some(stamp(41, "old"))));
        assert_eq!(sent(&queue), Some((42, "new".to_owned())));
        guest.verified(verified(stamp(42, "new")));
        assert_eq!(answer.try_recv().unwrap().unwrap(), verified(stamp(42, "new")));
    }

    #[test]
    fn who_waits_is_answered_after_a_reconnection() {
        let mut guest = Guest::default();
        let _answer = guest.want_state(&state("a")).unwrap();
        let queue = guest.connected(1, &hello(Some(stamp(1, "a"))));
        assert_eq!(sent(&queue), Some((1, "a".to_owned())));
    }

    #[test]
    fn the_word_about_another_document_of_the_same_number_is_not_taken() {
        // The host before this one sent "a" as 1; this one means "b" by it.
        let mut guest = Guest::default();
        let mut answer = guest.want_state(&state("b")).unwrap();
        let queue = guest.connected(1, &hello(None));
        assert_eq!(sent(&queue), Some((1, "b".to_owned())));
        guest.verified(verified(stamp(1, "a")));
        assert!(answer.try_recv().is_err(), "b is not in force");
        let stale = Failed {
            generation: 1,
            failure: tether_wire::message::Failure {
                phase: Phase::Generation,
                problems: vec![],
                operation: None,
                restored: true,
            },
        };
        guest.failed(stale);
        assert!(answer.try_recv().is_err(), "and may well come into force");
        guest.reported(status(stamp(1, "a")));
        assert_eq!(sent(&queue), Some((2, "b".to_owned())));
        guest.verified(verified(stamp(2, "b")));
        assert!(answer.try_recv().unwrap().is_ok());
    }

    #[test]
    fn a_document_that_overtook_a_reconnection_is_found_out() {
        let mut guest = Guest::default();
        drop(guest.want_state(&state("a")).unwrap());
        drop(guest.want_state(&state("b")).unwrap());
        let mut answer = guest.want_state(&state("a")).unwrap();
        // The guest is still busy with "b", number 2, which this hello does not show.
        let queue = guest.connected(1, &hello(Some(stamp(1, "a"))));
        assert_eq!(sent(&queue), Some((3, "a".to_owned())));
        guest.reported(status(stamp(1, "a")));
        guest.reported(status(stamp(2, "b")));
        assert_eq!(sent(&queue), None, "it is on its way");
        guest.verified(verified(stamp(3, "a")));
        assert!(answer.try_recv().unwrap().is_ok());
        // Where nobody waits, too, the guest is brought back.
        guest.reported(status(stamp(9, "b")));
        assert_eq!(sent(&queue), Some((10, "a".to_owned())));
        guest.reported(status(stamp(9, "b")));
        assert_eq!(sent(&queue), None);
    }

    #[test]
    fn who_waits_is_answered_though_the_guest_has_it_under_a_higher_number() {
        let mut guest = Guest::default();
        let mut answer = guest.want_state(&state("a")).unwrap();
        let queue = guest.connected(1, &hello(None));
        assert_eq!(sent(&queue), Some((1, "a".to_owned())));
        guest.reported(status(stamp(2, "a")));
        assert_eq!(sent(&queue), Some((2, "a".to_owned())));
        guest.verified(verified(stamp(2, "a")));
        assert!(answer.try_recv().unwrap().is_ok());
    }

    #[test]
    fn a_newer_wish_supersedes_an_older_one_sent_or_not() {
        let mut guest = Guest::default();
        let queue = guest.connected(1, &hello(None));
        let mut first = guest.want_state(&state("a")).unwrap();
        let _second = guest.want_state(&state("b")).unwrap();
        assert_eq!(first.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert_eq!(sent(&queue), Some((2, "b".to_owned())));
        assert_eq!(sent(&queue), None);
    }

    #[test]
    fn a_replaced_connection_ends_and_is_not_current() {
        let mut guest = Guest::default();
        let old = guest.connected(1, &hello(None));
        let new = guest.connected(2, &hello(None));
        assert!(guest.is_current(2) && !guest.is_current(1));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(matches!(std::pin::pin!(old.next()).poll(&mut context), std::task::Poll::Ready(None)));
        assert!(guest.stop(Stop { grace_ms: 1 }));
        assert!(matches!(
            std::pin::pin!(new.next()).poll(&mut context),
            std::task::Poll::Ready(Some(FromHost::Stop(_)))
        ));
    }

    #[test]
    fn signals_wait_in_order_and_none_is_lost() {
        let mut guest = Guest::default();
        assert!(!guest.signal(Signal { number: 1 }), "it is away");
        let queue = guest.connected(1, &hello(None));
        for number in [1, 15, 15, 9] {
            assert!(guest.signal(Signal { number }));
        }
        assert!(guest.exit_seen());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut next = || match std::pin::pin!(queue.next()).poll(&mut context) {
            std::task::Poll::Ready(message) => message,
            std::task::Poll::Pending => None,
        };
        assert!(matches!(next(), Some(FromHost::ExitSeen(_))));
        for expected in [1, 15, 15, 9] {
            assert_eq!(next(), Some(FromHost::Signal(Signal { number: expected })));
        }
        assert_eq!(next(), None);
        let fits = (0..1_000).take_while(|number| guest.signal(Signal { number: *number })).count();
        assert_eq!(fits, 64);
    }

    #[test]
    fn a_number_from_a_guest_never_overflows() {
        let mut guest = Guest::default();
        let _queue = guest.connected(1, &hello(Some(stamp(MAX_GENERATION, "a"))));
        guest.reported(status(stamp(u64::MAX, "x")));
        let _answer = guest.want_state(&state("b")).unwrap();
        assert_eq!(guest.state.highest, MAX_GENERATION + 1);
    }

    #[test]
    fn names_the_guests_decoder_would_refuse_are_refused_here() {
        let endpoint =
            tether_wire::names::EndpointNames { names: vec!["abc".into(); 64], ..Default::default() };
        let network = tether_wire::names::NetworkNames {
            network: "n".into(),
            endpoints: vec![endpoint; 55_000],
            ..Default::default()
        };
        let tables = NameTables { networks: vec![network], ..NameTables::default() };
        assert!(matches!(Guest::default().want_names(&tables), Err(NamesError::TooLong(_))));
    }
}
