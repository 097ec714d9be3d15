//! Another key of the host.

use tether_host::Admission;

use crate::place::{HostProgram, Place, admission, identity};

#[test]
fn guests_that_were_told_follow_to_the_next_key() {
    let (place, admission, old, next) = (Place::new(), admission(), identity(), identity());
    let token = admission.token.clone();
    let host = HostProgram::start(&place, old.clone(), admission);
    let boot = [old.pin()];
    let mut tether = place.agent(&boot, &token);
    host.drives("old");
    host.host.announce(next.pin());
    host.is_known_by(&[old.pin(), next.pin()]);
    host.host.rotate(next.clone());
    // The connection that is there stays.
    host.drives("between");
    host.lets_in(1);
    // Started again, the agent knows what its boot document does not.
    tether.kill();
    let tether = place.agent(&boot, &token);
    host.lets_in(2);
    host.drives("next");
    // And that the old key is over.
    host.is_known_by(&[next.pin()]);
    let key = host.enrols();
    drop(host);
    let host = HostProgram::start(&place, next, Admission::known(key));
    host.drives("restarted");
    drop(host);
    let host = HostProgram::start(&place, old.clone(), Admission::known(key));
    tether.wait_for_line(&format!("the host's key is not the pinned one: it has {}", old.pin()));
    assert!(host.heard().is_empty(), "{:?}", host.heard());
}

#[test]
fn a_guest_that_was_away_is_told_when_it_comes_and_one_that_was_not_told_stays_out() {
    let (place, admission, old, next) = (Place::new(), admission(), identity(), identity());
    let token = admission.token.clone();
    let host = HostProgram::start(&place, old.clone(), admission);
    host.host.announce(next.pin());
    // Its boot document is of before that.
    let mut tether = place.agent(&[old.pin()], &token);
    host.is_known_by(&[old.pin(), next.pin()]);
    tether.kill();
    // A key that nobody was told of, while the guest is away.
    let unknown = identity();
    host.host.rotate(unknown.clone());
    let tether = place.agent(&[old.pin()], &token);
    tether.wait_for_line(&format!("the host's key is not the pinned one: it has {}", unknown.pin()));
    host.host.rotate(next);
    host.lets_in(2);
    host.drives("next");
}

#[test]
fn a_boot_document_with_both_pins_is_good_before_and_after() {
    let (place, admission, old, next) = (Place::new(), admission(), identity(), identity());
    let token = admission.token.clone();
    let both = [next.pin(), old.pin()];
    let host = HostProgram::start(&place, old, admission);
    let _tether = place.agent(&both, &token);
    host.drives("old");
    let key = host.enrols();
    drop(host);
    let host = HostProgram::start(&place, next, Admission::known(key));
    host.drives("next");
}
