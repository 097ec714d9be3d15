//! The link is cut, and either end dies without a word: both notice, nothing is undone meanwhile,
//! and what comes back moves only what differs.

use std::{
    thread,
    time::{Duration, Instant},
};

use tether_host::EventKind;
use tether_tests::Process;

use crate::{
    air::{Way, Weather},
    place::{HostProgram, Place, names, state, web},
};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the link is cut for.
const MINUTE: Duration = Duration::from_mins(1);
/// Until an end has noticed: three intervals of silence, and what a busy machine takes.
const NOTICED: Duration = Duration::from_secs(3 + 3);
/// The longest wait between two attempts, the longest attempt, and what a busy machine takes.
const BACK: Duration = Duration::from_secs(10 + 4 + 5);
/// As in a storm.
const LITTLE: u64 = 2_000;

/// A guest with 1,000 routes and 1,000 names.
fn driven(seed: u64) -> (Place, HostProgram, Process) {
    let place = Place::new(1_500, seed);
    let host = HostProgram::start(&place.outside, HEARTBEAT);
    let tether = place.machine.agent();
    host.drives(state("before", 1_000));
    host.names(names(1_000, 0));
    (place, host, tether)
}

/// Waits until the guest's silence has ended its connection, and when that was.
fn hears_silence(host: &HostProgram) -> Instant {
    let silent = |kind: &EventKind| match kind {
        EventKind::Disconnected { reason } => Some(reason.clone()),
        _ => None,
    };
    let (at, reason) = host.hears("the end of a connection", silent);
    assert_eq!(reason, "the guest was silent for 3s");
    at
}

/// Waits until the host's silence has ended the connection, and when that was.
fn notices_silence(tether: &Process) -> Instant {
    const LINE: &str = "the tether is lost: the host was silent for 3s; trying on";
    tether.wait_for_line(LINE);
    tether.when(LINE).expect("it has said so")
}

#[test]
fn a_minute_without_a_link_costs_nothing_but_the_minute() {
    let (place, host, tether) = driven(11);
    let cut = Instant::now();
    place.air.turns(Weather::CUT);
    let (there, here) = (notices_silence(&tether) - cut, hears_silence(&host) - cut);
    println!("noticed after {there:?} by the guest, {here:?} by the host");
    assert!(there < NOTICED && here < NOTICED, "{there:?} {here:?}");
    // What is wanted meanwhile waits; what was wanted before stands.
    let (other, next) = (host.host.clone(), names(1_000, 1));
    let update = thread::spawn(move || {
        let wait = tether_tests::DEADLINE * 2;
        let update = other.update_names(&crate::place::guest(), next);
        crate::place::runtime().block_on(async { tokio::time::timeout(wait, update).await })
    });
    while cut.elapsed() < MINUTE {
        assert_eq!(place.machine.look_up("web"), web(0));
        assert_eq!(place.machine.routes(), 1_000);
        thread::sleep(Duration::from_secs(2));
    }
    let (before, restored) = (place.air.carried(Way::ToGuest), Instant::now());
    place.air.turns(Weather::CLEAR);
    update.join().expect("no panic").expect("an answer in time").expect("they are good");
    let back = host.lets_in(2) - restored;
    let moved = place.air.carried(Way::ToGuest).bytes - before.bytes;
    println!("back after {back:?}, {moved} bytes moved");
    assert!(back < BACK, "{back:?}");
    assert_eq!(place.machine.look_up("web"), web(1));
    assert!(moved < LITTLE, "{moved} bytes");
    assert_eq!(host.count(|kind| matches!(kind, EventKind::Received { .. })), 1, "the state was not sent");
}

#[test]
fn a_host_that_dies_without_a_word_is_noticed_and_its_successor_found() {
    let (place, host, tether) = driven(12);
    // Neither its farewell nor its kernel's word that nobody is there comes out.
    let died = Instant::now();
    place.air.turns_one_way(Way::ToGuest, Weather::CUT);
    let key = host.host.key(&crate::place::guest()).expect("it has enrolled");
    drop(host);
    let noticed = notices_silence(&tether) - died;
    assert!(noticed < NOTICED, "{noticed:?}");
    assert_eq!((place.machine.look_up("web"), place.machine.routes()), (web(0), 1_000));
    let host = HostProgram::knowing(&place.outside, HEARTBEAT, key);
    let before = place.air.carried(Way::ToGuest);
    let restored = Instant::now();
    place.air.turns(Weather::CLEAR);
    let back = host.lets_in(1) - restored;
    assert!(back < BACK, "{back:?}");
    // It knows nothing, and what it wants is what there is: nothing but digests moves.
    let moved = place.air.carried(Way::ToGuest).bytes - before.bytes;
    assert!(moved < LITTLE, "{moved} bytes");
    assert_eq!((place.machine.look_up("web"), place.machine.routes()), (web(0), 1_000));
}

#[test]
fn a_guest_that_dies_without_a_word_is_noticed_and_comes_back_as_itself() {
    let (place, host, mut tether) = driven(13);
    let died = Instant::now();
    place.air.turns_one_way(Way::ToHost, Weather::CUT);
    tether.kill();
    let noticed = hears_silence(&host) - died;
    assert!(noticed < NOTICED, "{noticed:?}");
    place.air.turns(Weather::CLEAR);
    let _tether = place.machine.agent();
    host.lets_in(2);
    host.drives(state("after", 1_000));
    assert_eq!(host.count(|kind| matches!(kind, EventKind::Enrolled { .. })), 1);
    assert_eq!(host.count(|kind| matches!(kind, EventKind::IdentityReuse { .. })), 0);
}
