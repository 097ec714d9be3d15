//! Loss, disorder, doubles, a small MTU: documents arrive, and no wrong state is ever in force.

use std::time::Duration;

use tether_host::EventKind;
use tether_tests::wait_for;

use crate::{
    air::{Way, Weather},
    place::{HostProgram, Place, names, state, web},
};

/// How often the two make sure of each other. Of TCP's own attempts each doubles the wait, from 0.2 s.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How many times names are changed.
const CHANGES: usize = 20;
/// What a handshake, a greeting and one changed name are at most, in bytes to the guest.
const LITTLE: u64 = 2_000;

/// A guest is enrolled in this weather, is given documents, has its names changed, comes back.
fn endures(place: &Place, weather: Weather, routes: usize, endpoints: usize) {
    place.air.turns(weather);
    let host = HostProgram::start(&place.outside, HEARTBEAT);
    let _tether = place.machine.agent();
    host.drives(state("endures", routes));
    assert_eq!(place.machine.space.run("hostname").trim(), "endures");
    assert_eq!(place.machine.routes(), routes);
    for n in 0..CHANGES {
        host.names(names(endpoints, n));
        assert_eq!(place.machine.look_up("web"), web(n));
    }
    // Away and back, in clear air so that bytes can be counted: what is sent is what differs.
    let connections = host.connections();
    let silences =
        || host.count(|kind| matches!(kind, EventKind::Disconnected { reason } if reason.contains("silent")));
    // In the worst of weather there may have been some.
    let heard = silences();
    place.air.turns(Weather::CUT);
    wait_for("the guest's silence", || (silences() > heard).then_some(()));
    assert_eq!(place.machine.look_up("web"), web(CHANGES - 1));
    let before = place.air.carried(Way::ToGuest);
    let verified = host.count(|kind| matches!(kind, EventKind::Received { .. }));
    place.air.turns(Weather::CLEAR);
    host.names(names(endpoints, CHANGES));
    assert_eq!(place.machine.look_up("web"), web(CHANGES));
    assert!(host.connections() > connections);
    let after = place.air.carried(Way::ToGuest);
    let moved = after.bytes - before.bytes;
    println!(
        "moved after the reconnection: {moved} bytes; all of {routes} routes, {endpoints} names: {after:?}"
    );
    assert!(moved < LITTLE, "{moved} bytes");
    // The state was not sent again.
    assert_eq!(host.count(|kind| matches!(kind, EventKind::Received { .. })), verified);
    // Each answer was the guest's about what was wanted: nothing failed on the way.
    assert_eq!(host.count(|kind| matches!(kind, EventKind::Failed(_))), 0);
}

#[test]
fn with_three_frames_of_ten_lost_everything_arrives() {
    let place = Place::new(1_500, 1);
    endures(&place, Weather { lost: 30, ..Weather::CLEAR }, 30, 300);
    let (there, back) = (place.air.carried(Way::ToHost), place.air.carried(Way::ToGuest));
    assert!(there.lost * 5 > there.frames && back.lost * 5 > back.frames, "{there:?} {back:?}");
}

#[test]
fn frames_that_overtake_each_other_do_no_harm() {
    let place = Place::new(1_500, 2);
    endures(&place, Weather { late: 40, ..Weather::CLEAR }, 1_000, 1_000);
    assert!(place.air.carried(Way::ToGuest).late > 20);
}

#[test]
fn frames_that_come_twice_do_no_harm() {
    let place = Place::new(1_500, 3);
    endures(&place, Weather { doubled: 50, ..Weather::CLEAR }, 1_000, 1_000);
    assert!(place.air.carried(Way::ToGuest).doubled > 20);
}

#[test]
fn all_at_once_everything_arrives() {
    let place = Place::new(1_280, 4);
    endures(&place, Weather { lost: 10, doubled: 20, late: 30 }, 100, 500);
}

#[test]
fn long_documents_pass_a_link_of_1280_bytes() {
    let place = Place::new(1_280, 5);
    endures(&place, Weather::CLEAR, 4_000, 10_000);
    let carried = place.air.carried(Way::ToGuest);
    assert!((1_200..=1_294).contains(&carried.longest), "{carried:?}");
}

#[test]
fn a_slow_link_is_not_taken_for_one_that_takes_nothing() {
    let place = Place::new(1_500, 6);
    // As hosts have it unless told otherwise.
    let host = HostProgram::start(&place.outside, Duration::from_secs(5));
    let _tether = place.machine.agent();
    host.lets_in(1);
    // 4 KB in a second, behind a queue of four seconds.
    place.outside.run("tc qdisc add dev pm root tbf rate 32kbit burst 1600 limit 16000");
    let before = place.air.carried(Way::ToGuest);
    host.drives(state("slow", 2_000));
    let carried = place.air.carried(Way::ToGuest).bytes - before.bytes;
    assert!(carried > 60_000, "{carried} bytes");
    for (at, kind) in host.heard() {
        let mut t = format!("{kind:?}");
        t.truncate(120);
        println!("{at:?} {t}");
    }
    assert_eq!(host.connections(), 1);
}
