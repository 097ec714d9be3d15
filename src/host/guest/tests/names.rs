//! What a guest is sent when its names change.

use tether_wire::{
    message::{FlushCache, FromHost, Names, NamesDelta, limit},
    names::{EndpointNames, NameTables, NetworkNames, delta::Change},
    problem::Problem,
};

use super::*;
use crate::tables::Course;

/// Tables that are longer than a change of them: four endpoints, and these.
fn named(names: &[&str]) -> NameTables {
    let endpoint = |name: &str| EndpointNames {
        names: vec![name.to_owned()],
        addresses: vec!["172.18.0.2".into()],
        ports: vec![],
    };
    let always = ["a-first-endpoint", "a-second-endpoint", "a-third-endpoint", "a-fourth-endpoint"];
    let endpoints = always.iter().chain(names).map(|name| endpoint(name)).collect();
    let network = NetworkNames { network: "net".into(), endpoints, ..NetworkNames::default() };
    NameTables { networks: vec![network], ..NameTables::default() }
}

fn tables(names: &[&str]) -> Tables {
    Tables::new(named(names)).unwrap()
}

fn stamp(version: u64, names: &[&str]) -> Stamp {
    tables(names).stamp(version)
}

fn hello(has: Option<Stamp>) -> Hello {
    Hello { names: has, ..super::hello(None) }
}

fn gap(version: u64, has: Option<Stamp>) -> NamesGap {
    NamesGap { version, has }
}

/// What a message about names says in short.
#[derive(Debug, PartialEq)]
enum Said {
    /// There is none.
    Nothing,
    /// A version of the whole tables, and what of them is not always there.
    Whole(u64, Vec<String>),
    /// Base and version of a change, what goes and what comes.
    Delta(u64, u64, Vec<String>, Vec<String>),
}

fn whole(version: u64, names: &[&str]) -> Said {
    Said::Whole(version, names.iter().map(ToString::to_string).collect())
}

fn delta(base: u64, version: u64, removed: &[&str], added: &[&str]) -> Said {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Said::Delta(base, version, owned(removed), owned(added))
}

/// The next message about names, if there is one now.
fn said(queue: &Waiting) -> Said {
    let first = |entries: &[EndpointNames]| entries.iter().map(|entry| entry.names[0].clone()).collect();
    match next(queue) {
        None => Said::Nothing,
        Some(FromHost::Names(names)) => {
            Said::Whole(names.version, first(&names.tables.networks[0].endpoints[4..]))
        }
        Some(FromHost::NamesDelta(NamesDelta { base, stamp, changes })) => match changes.as_slice() {
            [Change { network, removed, added, links_removed, links_added }] => {
                assert_eq!((network.as_str(), links_removed, links_added), ("net", &vec![], &vec![]));
                Said::Delta(base, stamp.generation, first(removed), first(added))
            }
            [] => Said::Delta(base, stamp.generation, vec![], vec![]),
            more => panic!("{more:?}"),
        },
        Some(other) => panic!("{other:?}"),
    }
}

/// A guest that has been sent `b`, version 1, on this connection.
fn sent_b() -> (Guest, Waiting) {
    let mut guest = Guest::default();
    drop(guest.want_names(&tables(&["b"])));
    let queue = guest.connected(1, &hello(None));
    assert_eq!(said(&queue), whole(1, &["b"]));
    (guest, queue)
}

#[test]
fn what_changes_after_the_whole_goes_as_changes() {
    let (mut guest, queue) = sent_b();
    let mut answer = guest.want_names(&tables(&["b", "c"]));
    let Some(FromHost::NamesDelta(message)) = next(&queue) else { panic!("no delta") };
    assert_eq!((message.base, message.stamp), (1, stamp(2, &["b", "c"])));
    guest.names_applied(NamesApplied { stamp: message.stamp });
    assert!(answer.try_recv().unwrap().is_ok());
    drop(guest.want_names(&tables(&["c"])));
    assert_eq!(said(&queue), delta(2, 3, &["b"], &[]));
    assert_eq!(said(&queue), Said::Nothing);
}

#[test]
fn a_slow_guest_is_sent_one_change_for_a_burst() {
    let (mut guest, queue) = sent_b();
    for names in [&["b", "c"][..], &["c"], &["d"], &["b", "d"]] {
        drop(guest.want_names(&tables(names)));
    }
    assert_eq!(said(&queue), delta(1, 5, &[], &["d"]));
    assert_eq!(said(&queue), Said::Nothing);
    // The same tables again: the guest is asked for its word, and told no more than that.
    drop(guest.want_names(&tables(&["d", "b"])));
    assert_eq!(said(&queue), delta(5, 6, &[], &[]));
}

#[test]
fn what_cannot_be_said_in_changes_goes_whole() {
    let (mut guest, queue) = sent_b();
    let slow = NameTables { ttl_seconds: 60, ..named(&["c"]) };
    drop(guest.want_names(&Tables::new(slow).unwrap()));
    assert_eq!(said(&queue), whole(2, &["c"]));
    drop(guest.want_names(&tables(&["c"])));
    assert_eq!(said(&queue), whole(3, &["c"]));
    // From there on in changes again.
    drop(guest.want_names(&tables(&[])));
    assert_eq!(said(&queue), delta(3, 4, &["c"], &[]));
}

#[test]
fn changes_that_are_longer_than_the_whole_or_than_a_message_go_whole() {
    let (mut guest, queue) = sent_b();
    let long = |count: usize| {
        let names = |n| (0..60).map(|m| format!("{}-{m:02}-{n:03}", "x".repeat(50))).collect();
        let endpoint = |n| EndpointNames { names: names(n), ..EndpointNames::default() };
        let mut tables = named(&[]);
        tables.networks[0].endpoints = (0..count).map(endpoint).collect();
        Tables::new(tables).unwrap()
    };
    let mut next = |count| {
        drop(guest.want_names(&long(count)));
        next(&queue)
    };
    // What goes has to be told, and the digest.
    assert!(matches!(next(0), Some(FromHost::Names(_))));
    assert!(matches!(next(100), Some(FromHost::Names(_))));
    assert!(matches!(next(101), Some(FromHost::NamesDelta(_))));
    // 3,400 bytes each: three hundred are too many for a change, shorter though it is.
    assert!(matches!(next(420), Some(FromHost::Names(_))));
    assert!(matches!(next(421), Some(FromHost::NamesDelta(_))));
}

#[test]
fn the_same_number_again_is_no_change() {
    let mut course = Course::default();
    course.known(5, tables(&["b"]));
    course.send(5, tables(&["b"]));
    let frame = course.take().unwrap().frame();
    assert!(matches!(FromHost::from_frame(&frame), Ok(Some(FromHost::Names(_)))));
}

#[test]
fn a_gap_is_answered_by_the_whole_once() {
    let (mut guest, queue) = sent_b();
    let mut answer = guest.want_names(&tables(&["c"]));
    assert_eq!(said(&queue), delta(1, 2, &["b"], &["c"]));
    let has = Some(stamp(1, &["x"]));
    guest.names_gap(&gap(2, has));
    assert_eq!(said(&queue), whole(2, &["c"]), "under its number");
    for nonsense in [gap(2, has), gap(1, has), gap(3, has), gap(2, None)] {
        guest.names_gap(&nonsense);
        assert_eq!(said(&queue), Said::Nothing, "{nonsense:?}");
    }
    guest.names_applied(NamesApplied { stamp: stamp(2, &["c"]) });
    assert!(answer.try_recv().unwrap().is_ok());
    drop(guest.want_names(&tables(&["c", "d"])));
    assert_eq!(said(&queue), delta(2, 3, &[], &["d"]));
}

#[test]
fn of_several_gaps_the_last_counts() {
    let (mut guest, queue) = sent_b();
    drop(guest.want_names(&tables(&["c"])));
    assert_eq!(said(&queue), delta(1, 2, &["b"], &["c"]));
    drop(guest.want_names(&tables(&["d"])));
    assert_eq!(said(&queue), delta(2, 3, &["c"], &["d"]));
    guest.names_gap(&gap(2, None));
    assert_eq!(said(&queue), Said::Nothing, "there will be one of 3");
    // What is wanted meanwhile is what goes whole.
    drop(guest.want_names(&tables(&["e"])));
    guest.names_gap(&gap(3, None));
    assert_eq!(said(&queue), whole(4, &["e"]));
    assert_eq!(said(&queue), Said::Nothing);
}

#[test]
fn a_gap_of_a_guest_whose_number_is_higher_is_answered_above_it() {
    let (mut guest, queue) = sent_b();
    drop(guest.want_names(&tables(&["c"])));
    assert_eq!(said(&queue), delta(1, 2, &["b"], &["c"]));
    guest.names_gap(&gap(2, Some(stamp(9, &["x"]))));
    assert_eq!(said(&queue), whole(10, &["c"]));
    // One that is nobody's does not count.
    drop(guest.want_names(&tables(&["d"])));
    assert_eq!(said(&queue), delta(10, 11, &["c"], &["d"]));
    guest.names_gap(&gap(11, Some(stamp(u64::MAX, &["x"]))));
    assert_eq!(said(&queue), whole(11, &["d"]));
}

#[test]
fn after_a_refusal_the_next_goes_whole() {
    let (mut guest, queue) = sent_b();
    let mut answer = guest.want_names(&tables(&["c"]));
    assert_eq!(said(&queue), delta(1, 2, &["b"], &["c"]));
    // This one is on its way when the refusal comes, and will be a gap.
    drop(guest.want_names(&tables(&["d"])));
    assert_eq!(said(&queue), delta(2, 3, &["c"], &["d"]));
    guest.names_failed(NamesFailed { version: 2, problems: vec![Problem::new("x", "y")] });
    assert!(answer.try_recv().is_err(), "it was superseded");
    guest.names_gap(&gap(3, Some(stamp(1, &["b"]))));
    assert_eq!(said(&queue), whole(3, &["d"]));
    guest.names_failed(NamesFailed { version: 3, problems: vec![Problem::new("x", "y")] });
    drop(guest.want_names(&tables(&["e"])));
    assert_eq!(said(&queue), whole(4, &["e"]));
}

#[test]
fn a_new_connection_begins_with_the_whole() {
    let (mut guest, _queue) = sent_b();
    let queue = guest.connected(2, &hello(None));
    assert_eq!(said(&queue), whole(1, &["b"]));
    drop(guest.want_names(&tables(&["c"])));
    let queue = guest.connected(3, &hello(Some(stamp(1, &["b"]))));
    assert_eq!(said(&queue), whole(2, &["c"]));
}

#[test]
fn a_guest_that_has_the_names_is_sent_what_changes() {
    let (mut guest, _queue) = sent_b();
    guest.names_applied(NamesApplied { stamp: stamp(1, &["b"]) });
    // This host's memory is younger than the guest's: the guest's number counts.
    let queue = guest.connected(2, &hello(Some(stamp(41, &["b"]))));
    assert_eq!(said(&queue), Said::Nothing);
    drop(guest.want_names(&tables(&["b", "c"])));
    assert_eq!(said(&queue), delta(41, 42, &[], &["c"]));
    // Where somebody waits for its word, a change of nothing asks for that.
    let queue = guest.connected(3, &hello(Some(stamp(42, &["b", "c"]))));
    assert_eq!(said(&queue), delta(42, 43, &[], &[]));
}

#[test]
fn a_guest_that_was_away_is_sent_what_has_changed_meanwhile() {
    let (mut guest, _queue) = sent_b();
    guest.names_applied(NamesApplied { stamp: stamp(1, &["b"]) });
    guest.disconnected();
    let mut answer = guest.want_names(&tables(&["c"]));
    drop(guest.want_names(&tables(&["b", "d"])));
    assert!(answer.try_recv().is_err());
    let queue = guest.connected(2, &hello(Some(stamp(1, &["b"]))));
    assert_eq!(said(&queue), delta(1, 3, &[], &["d"]));
    // Sent, but never heard of again.
    let queue = guest.connected(3, &hello(Some(stamp(1, &["b"]))));
    assert_eq!(said(&queue), delta(1, 3, &[], &["d"]));
    // It has lost them, or has others.
    let queue = guest.connected(4, &hello(None));
    assert_eq!(said(&queue), whole(3, &["b", "d"]));
    let queue = guest.connected(5, &hello(Some(stamp(1, &["x"]))));
    assert_eq!(said(&queue), whole(3, &["b", "d"]));
}

#[test]
fn a_gap_of_a_guest_that_has_the_names_needs_no_answer() {
    let (mut guest, queue) = sent_b();
    drop(guest.want_names(&tables(&["c"])));
    assert_eq!(said(&queue), delta(1, 2, &["b"], &["c"]));
    guest.names.waiting = None;
    guest.names_gap(&gap(2, Some(stamp(7, &["c"]))));
    assert_eq!(said(&queue), Said::Nothing);
    drop(guest.want_names(&tables(&["d"])));
    assert_eq!(said(&queue), delta(7, 8, &["c"], &["d"]));
}

#[test]
fn a_guest_with_other_names_in_force_is_sent_the_whole() {
    let (mut guest, queue) = sent_b();
    let status = |names| Arc::new(Status { names: Some(names), ..Status::default() });
    guest.reported(status(stamp(9, &["x"])));
    assert_eq!(said(&queue), whole(10, &["b"]));
    guest.reported(status(stamp(9, &["x"])));
    assert_eq!(said(&queue), Said::Nothing, "they are on their way");
    // The same under a higher number, and somebody waits: asked for again, the whole of them.
    guest.reported(status(stamp(12, &["b"])));
    assert_eq!(said(&queue), whole(12, &["b"]));
}

#[test]
fn names_the_guests_decoder_would_refuse_are_refused_here() {
    let endpoint = EndpointNames { names: vec!["abc".into(); 64], ..Default::default() };
    let network =
        NetworkNames { network: "n".into(), endpoints: vec![endpoint; 55_000], ..Default::default() };
    let tables = NameTables { networks: vec![network], ..NameTables::default() };
    let length = fits(&FromHost::from(Names { version: 1, tables }).to_frame()).unwrap_err();
    assert!(length < limit(32), "{length}: it is not for its bytes");
}

#[test]
fn a_thousand_guests_share_one_copy() {
    let tables = tables(&["b"]);
    let mut guests: Vec<Guest> = (0..1_000).map(|_| Guest::default()).collect();
    for guest in &mut guests {
        drop(guest.want_names(&tables));
        assert_eq!(said(&guest.connected(1, &hello(None))), whole(1, &["b"]));
    }
    // As what is wanted and as what was sent.
    assert_eq!(tables.copies(), 1 + 2 * 1_000);
}

#[test]
fn what_has_changed_is_found_out_once_for_all() {
    let (old, new) = (tables(&["b"]), tables(&["b", "c"]));
    let changes = new.since(&old).unwrap();
    assert!(Arc::ptr_eq(&changes, &new.since(&tables(&["b"])).unwrap()), "the same tables, made again");
    // Another guest has others; each is told what it lacks.
    let others = new.since(&tables(&["c"])).unwrap();
    assert_eq!((changes[0].added.len(), others[0].added.len()), (1, 1));
    assert_ne!(changes, others);
}

#[test]
fn a_cache_is_flushed_after_the_state_that_was_wanted_before() {
    let mut guest = Guest::default();
    assert!(!guest.flush_cache(), "it is away");
    let queue = guest.connected(1, &hello(None));
    drop(guest.want_state(&state("a")));
    assert!(guest.flush_cache() && guest.flush_cache());
    assert!(matches!(next(&queue), Some(FromHost::Apply(_))));
    assert_eq!(next(&queue), Some(FromHost::FlushCache(FlushCache)));
    assert_eq!(next(&queue), None);
}
