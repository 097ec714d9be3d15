//! A guest is whoever has redeemed its token, for as long as its machine lives.

use std::time::SystemTime;

use tether_host::{Admission, EventKind, JoinToken};
use tether_tests::wait_for;

use crate::place::{HostProgram, Place, admission, identity};

#[test]
fn a_guest_with_the_right_pin_and_token_is_driven_and_comes_back_as_itself() {
    let (place, admission) = (Place::new(), admission());
    let token = admission.token.clone();
    let host = HostProgram::start(&place, identity(), admission);
    let mut tether = place.agent(&host.host.pins(), &token);
    host.drives("driven");
    assert_eq!(place.inside.run("hostname").trim(), "driven");
    let key = host.enrols();
    assert_eq!(host.host.key(&"guest".parse().expect("an id")), Some(key));
    assert_eq!(place.inside.run("stat -c %a:%u /run/tether /run/tether/key"), "700:0\n600:0\n");
    // Killed, it comes back by the same key: there is nothing to redeem any more.
    tether.kill();
    let again = place.agent(&host.host.pins(), &token);
    host.lets_in(2);
    host.drives("again");
    let enrolled = host.heard().iter().filter(|kind| matches!(kind, EventKind::Enrolled { .. })).count();
    assert_eq!(enrolled, 1);
    // Nobody has heard of the token.
    let digits = token.to_secret().reveal().to_owned();
    let said = [tether.lines(), again.lines(), vec![format!("{:?}", host.heard())]].concat().concat();
    assert!(!said.contains(&digits));
}

#[test]
fn a_host_with_another_key_is_refused_before_it_hears_of_the_token() {
    let (place, admission) = (Place::new(), admission());
    let token = admission.token.clone();
    let host = HostProgram::start(&place, identity(), admission);
    let tether = place.agent(&[identity().pin()], &token);
    let pin = host.host.pins()[0];
    tether.wait_for_line(&format!("the host's key is not the pinned one: it has {pin}"));
    assert!(host.heard().is_empty(), "{:?}", host.heard());
}

#[test]
fn wrong_and_expired_tokens_are_refused() {
    let place = Place::new();
    let (right, wrong) = (admission(), JoinToken::from_bytes([9; 32]));
    let late = Admission { expires: SystemTime::UNIX_EPOCH, ..right.clone() };
    for (admission, token, reason) in [
        (right.clone(), &wrong, "its join token is not the one this host has given out"),
        (late, &right.token, "its join token has expired"),
    ] {
        let host = HostProgram::start(&place, identity(), admission);
        let tether = place.agent(&host.host.pins(), token);
        tether.wait_for_line(&format!("the host refuses this guest: {reason}; trying on"));
        let refused = host.hears("a refusal", |kind| match kind {
            EventKind::Refused { reason } => Some(reason.clone()),
            _ => None,
        });
        assert_eq!(refused, reason);
        let let_in = |kind: &EventKind| matches!(kind, EventKind::Enrolled { .. } | EventKind::Connected(_));
        assert!(!host.heard().iter().any(let_in), "{:?}", host.heard());
    }
}

#[test]
fn the_same_token_with_another_key_is_an_alarm() {
    let (place, admission) = (Place::new(), admission());
    let token = admission.token.clone();
    let host = HostProgram::start(&place, identity(), admission);
    let mut first = place.agent(&host.host.pins(), &token);
    let key = host.enrols();
    first.kill();
    let mut thief = place.agent_in("/run/thief", &host.host.pins(), &token);
    thief.wait_for_line("the host refuses this guest: another key has redeemed this guest's join token");
    let (peer, bound, shown) = host.hears("an alarm", |kind| match kind {
        EventKind::IdentityReuse { peer, bound, shown } => Some((peer.clone(), *bound, *shown)),
        _ => None,
    });
    assert!(peer.starts_with("10.99.0.2:"), "{peer}");
    assert_eq!(bound, key);
    assert_ne!(shown, key);
    thief.kill();
    let _first = place.agent(&host.host.pins(), &token);
    host.drives("the-first");
}

#[test]
fn a_host_that_has_noted_the_key_needs_no_token() {
    let (place, admission, identity) = (Place::new(), admission(), identity());
    let token = admission.token.clone();
    let host = HostProgram::start(&place, identity.clone(), admission);
    let tether = place.agent(&host.host.pins(), &token);
    let key = host.enrols();
    host.drives("before");
    drop(host);
    let text = identity.to_pem();
    let stored = tether_host::Identity::from_pem(text.reveal()).expect("what was stored");
    let host = HostProgram::start(&place, stored, Admission::known(key));
    host.drives("after");
    assert!(!host.heard().iter().any(|kind| matches!(kind, EventKind::Enrolled { .. })));
    drop(host);
    // One that has noted another key is no host of this guest.
    let host = HostProgram::start(&place, identity, Admission::known(crate::place::identity().pin()));
    tether.wait_for_line("another key has redeemed");
    host.hears("an alarm", |kind| matches!(kind, EventKind::IdentityReuse { .. }).then_some(()));
}

#[test]
fn a_machine_that_is_started_anew_is_enrolled_anew() {
    let (place, first) = (Place::new(), admission());
    let host = HostProgram::start(&place, identity(), first.clone());
    let mut tether = place.agent(&host.host.pins(), &first.token);
    let key = host.enrols();
    host.drives("first");
    // Another boot document is another occasion, though the old key's file is still there.
    let next = admission();
    host.host.admit(&"guest".parse().expect("an id"), next.clone());
    tether.wait_for_line("the host refuses this guest: its join token is not the one");
    tether.kill();
    let _tether = place.agent(&host.host.pins(), &next.token);
    host.drives("next");
    let other = wait_for("another key", || host.host.key(&"guest".parse().expect("an id")));
    assert_ne!(other, key);
}
