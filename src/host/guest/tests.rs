mod names;

use tether_wire::{
    identity::{JoinToken, Pin},
    message::FromHost,
    state::DesiredState,
};

use super::*;

fn document(name: &str) -> DesiredState {
    DesiredState { hostname: name.into(), ..DesiredState::default() }
}

fn state(name: &str) -> State {
    State::new(&document(name)).unwrap()
}

fn stamp(generation: u64, name: &str) -> Stamp {
    Stamp { generation, digest: state_digest(&document(name)) }
}

fn verified(stamp: Stamp) -> Arc<Verified> {
    Arc::new(Verified {
        stamp,
        operations: 0,
        took_us: 1,
        skipped: vec![],
        confirm_within_s: 0,
        observed: tether_wire::status::Observed::default(),
    })
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
        token: JoinToken::from_bytes([7; 32]),
    }
}

fn status(applied: Stamp) -> Arc<Status> {
    Arc::new(Status { applied: Some(applied), ..Status::default() })
}

/// The next message, if there is one now.
fn next(waiting: &Waiting) -> Option<FromHost> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(waiting.next(true)).poll(&mut context) {
        std::task::Poll::Ready(frame) => FromHost::from_frame(&frame.0).unwrap(),
        std::task::Poll::Pending => None,
    }
}

/// The next state that is sent, if there is one now.
fn sent(waiting: &Waiting) -> Option<(u64, String)> {
    match next(waiting) {
        Some(FromHost::Apply(apply)) => Some((apply.generation, apply.state.hostname)),
        _ => None,
    }
}

#[test]
fn a_guest_that_has_it_already_is_left_alone() {
    let mut guest = Guest::default();
    drop(guest.want_state(&state("a")));
    guest.state.waiting = None;
    let queue = guest.connected(1, &hello(Some(stamp(41, "a"))));
    assert_eq!(sent(&queue), None);
    drop(guest.want_state(&state("b")));
    assert_eq!(sent(&queue), Some((42, "b".to_owned())));
}

#[test]
fn a_host_without_memory_counts_on_from_what_the_guest_has() {
    let mut guest = Guest::default();
    let mut answer = guest.want_state(&state("new"));
    let queue = guest.connected(1, &hello(Some(stamp(41, "old"))));
    assert_eq!(sent(&queue), Some((42, "new".to_owned())));
    guest.verified(verified(stamp(42, "new")));
    assert_eq!(answer.try_recv().unwrap().unwrap(), verified(stamp(42, "new")));
}

#[test]
fn who_waits_is_answered_after_a_reconnection() {
    let mut guest = Guest::default();
    let _answer = guest.want_state(&state("a"));
    let queue = guest.connected(1, &hello(Some(stamp(1, "a"))));
    assert_eq!(sent(&queue), Some((1, "a".to_owned())));
}

#[test]
fn the_word_about_another_document_of_the_same_number_is_not_taken() {
    // The host before this one sent "a" as 1; this one means "b" by it.
    let mut guest = Guest::default();
    let mut answer = guest.want_state(&state("b"));
    let queue = guest.connected(1, &hello(None));
    assert_eq!(sent(&queue), Some((1, "b".to_owned())));
    guest.verified(verified(stamp(1, "a")));
    assert!(answer.try_recv().is_err(), "b is not in force");
    let stale = Arc::new(Failed {
        generation: 1,
        failure: tether_wire::message::Failure {
            phase: Phase::Generation,
            problems: vec![],
            operation: None,
            restored: true,
        },
    });
    guest.failed(stale);
    assert!(answer.try_recv().is_err(), "and may well come into force");
    guest.reported(status(stamp(1, "a")));
    assert_eq!(sent(&queue), Some((2, "b".to_owned())));
    guest.verified(verified(stamp(2, "b")));
    assert!(answer.try_recv().unwrap().is_ok());
}

#[test]
fn what_was_not_sent_goes_by_the_next_connection_of_the_same_boot() {
    for (boot_id, goes) in [("one", true), ("other", false)] {
        let mut guest = Guest::default();
        let first = guest.connected(1, &Hello { boot_id: "one".into(), ..hello(None) });
        assert!(guest.signal(Signal { number: 1 }));
        assert!(matches!(next(&first), Some(FromHost::Signal(_))));
        assert!(guest.signal(Signal { number: 15 }) && guest.stop(Stop { grace_ms: 7 }));
        guest.disconnected();
        assert!(!guest.signal(Signal { number: 3 }), "nobody is there");
        let second = guest.connected(2, &Hello { boot_id: boot_id.into(), ..hello(None) });
        let signal = FromHost::from(Signal { number: 15 });
        assert_eq!(next(&second), goes.then_some(signal));
        assert_eq!(next(&second), goes.then_some(FromHost::from(Stop { grace_ms: 7 })));
        assert_eq!(next(&second), None);
    }
}

#[test]
fn what_a_guest_has_said_is_not_its_successors_word() {
    let admission = |key| Admission {
        token: JoinToken::from_bytes([7; 32]),
        expires: std::time::SystemTime::UNIX_EPOCH,
        key,
    };
    let mut guest = Guest::default();
    guest.admit(admission(Some(Pin::from_bytes([1; 32]))));
    let mut answer = guest.want_state(&state("a"));
    drop(guest.connected(1, &hello(Some(stamp(MAX_GENERATION, "x")))));
    guest.reported(status(stamp(MAX_GENERATION, "x")));
    // The same key: nothing has changed.
    guest.admit(admission(Some(Pin::from_bytes([1; 32]))));
    assert!(guest.is_connected() && guest.status.is_some());
    guest.admit(admission(None));
    assert!(!guest.is_connected() && guest.status.is_none());
    assert!(answer.try_recv().is_err(), "who waits goes on");
    let queue = guest.connected(2, &hello(None));
    assert_eq!(sent(&queue), Some((1, "a".to_owned())));
    guest.verified(verified(stamp(1, "a")));
    assert!(answer.try_recv().unwrap().is_ok());
}

#[test]
fn a_document_that_overtook_a_reconnection_is_found_out() {
    let mut guest = Guest::default();
    drop(guest.want_state(&state("a")));
    drop(guest.want_state(&state("b")));
    let mut answer = guest.want_state(&state("a"));
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
    let mut answer = guest.want_state(&state("a"));
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
    let mut first = guest.want_state(&state("a"));
    let _second = guest.want_state(&state("b"));
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
    assert!(matches!(std::pin::pin!(old.closed()).poll(&mut context), std::task::Poll::Ready(())));
    assert!(guest.stop(Stop { grace_ms: 1 }));
    assert!(matches!(next(&new), Some(FromHost::Stop(_))));
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
    assert!(matches!(next(&queue), Some(FromHost::ExitSeen(_))));
    for expected in [1, 15, 15, 9] {
        assert_eq!(next(&queue), Some(FromHost::Signal(Signal { number: expected })));
    }
    assert_eq!(next(&queue), None);
    let fits = (0..1_000).take_while(|number| guest.signal(Signal { number: *number })).count();
    assert_eq!(fits, 64);
}

#[test]
fn a_number_from_a_guest_never_overflows() {
    let mut guest = Guest::default();
    let _queue = guest.connected(1, &hello(Some(stamp(MAX_GENERATION, "a"))));
    guest.reported(status(stamp(u64::MAX, "x")));
    let _answer = guest.want_state(&state("b"));
    assert_eq!(guest.state.highest, MAX_GENERATION + 1);
}
