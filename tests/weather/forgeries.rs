//! Recorded, changed and forged sessions, a host that counts backwards, somebody on the same bridge who
//! has another's addresses: refused and reported, and the state in force stays.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tether_host::{
    EventKind, Pin,
    message::{Apply, FromGuest, FromHost, Names, Phase, Refused, Welcome},
};
use tether_tests::{Space, admission, host_identity, wait_for};

use crate::{
    place::{
        GUEST, HOST, HOST_MAC, HostProgram, ITSELF, MAC, Machine, PORT, Street, guest, names, state, web,
        within,
    },
    relay::{Plan, Relay},
    speaker::{FalseGuest, FalseHost, Key, connect, listen},
};

const HEARTBEAT: Duration = Duration::from_secs(1);

/// A guest on a street, with its host's place.
fn street() -> (Street, Machine, Space) {
    let (street, machine) = (Street::new(), Machine::new());
    street.joined_by(&machine.space, "ens9", MAC);
    let outside = street.neighbour(HOST_MAC, HOST);
    (street, machine, outside)
}

#[test]
fn a_host_that_counts_backwards_is_refused_and_the_state_stays() {
    let (_street, machine, outside) = street();
    let key = Key::new();
    let listener = listen(&outside, HOST, PORT);
    let tether = machine.agent_of(key.pin);
    let mut host = FalseHost::accept(&listener, &key).expect("a guest");
    assert!(matches!(host.hear(), FromGuest::Hello(_)));
    host.say(Welcome { protocol: 1, host_version: String::new(), heartbeat_ms: 1_000 });
    host.say(Apply { generation: 5, state: state("fifth", 10) });
    assert!(matches!(host.hear(), FromGuest::Received(_)));
    let FromGuest::Verified(verified) = host.hear() else { panic!("not verified") };
    assert_eq!(verified.stamp.generation, 5);
    // A lower number, the same with another digest, and the lowest.
    for generation in [4, 5, 0] {
        host.say(Apply { generation, state: state("another", 3) });
        assert!(matches!(host.hear(), FromGuest::Received(_)));
        let FromGuest::Failed(failed) = host.hear() else { panic!("not refused") };
        assert_eq!((failed.generation, failed.failure.phase), (generation, Phase::Generation));
        assert!(failed.failure.restored);
        assert_eq!((machine.space.run("hostname").trim(), machine.routes()), ("fifth", 10));
    }
    tether.wait_for_line("phase=Generation");
    host.say(Names { version: 3, tables: names(5, 3) });
    assert!(matches!(host.hear(), FromGuest::NamesApplied(_)));
    for version in [2, 3, 0] {
        host.say(Names { version, tables: names(5, 4) });
        let FromGuest::NamesFailed(failed) = host.hear() else { panic!("not refused") };
        assert_eq!((failed.version, failed.problems[0].path.as_str()), (version, "generation"));
        assert_eq!(machine.look_up("web"), web(3));
    }
}

#[test]
fn a_recorded_session_is_refused_by_both_ends_and_a_changed_one_ends() {
    let (_street, machine, outside) = street();
    let behind = PORT + 1;
    let relay = Relay::start(&outside, HOST, PORT, behind);
    let host = HostProgram::with(&outside, HOST, behind, host_identity(), HEARTBEAT, admission());
    let mut tether = machine.agent();
    host.drives(state("recorded", 100));
    host.names(names(10, 0));
    tether.kill();
    let gone = |kind: &EventKind| matches!(kind, EventKind::Disconnected { .. }).then_some(());
    host.hears("the end of the session", gone);
    let recorded = relay.kept(0);
    assert!(recorded.by_guest.len() > 500 && recorded.by_host.len() > 500);

    // To the host: it makes nothing of it, says so, and hears no guest.
    let (before, known) = (host.host.turned_away(), host.heard().len());
    let mut replayed = connect(&outside, HOST, behind);
    std::io::Write::write_all(&mut replayed, &recorded.by_guest).expect("the host reads");
    // It ends as soon as the host has judged it.
    let _ = std::io::copy(&mut replayed, &mut std::io::sink());
    wait_for("the host to count it", || (host.host.turned_away() > before).then_some(()));
    assert_eq!(host.heard().len(), known, "{:?}", host.heard());

    // To the guest.
    relay.plans(Plan::Play(recorded.by_host.clone()));
    let tether = machine.agent();
    tether.wait_for_line("no TLS with the host");
    assert_eq!(host.heard().len(), known, "{:?}", host.heard());

    // One bit of what the host says is changed, in the handshake, then in a new document. Each such
    // connection ends, and another is tried.
    let applying = thread::spawn(move || {
        host.drives(state("after", 500));
        host
    });
    for at in [100, 3_000] {
        let before = relay.connections();
        relay.plans(Plan::Change(at));
        wait_for("two connections more", || (relay.connections() >= before + 2).then_some(()));
    }
    tether.wait_for_line("the tether is lost: cannot decrypt peer's message; trying on");
    // All the time what was in force was.
    assert_eq!((machine.space.run("hostname").trim(), machine.routes()), ("recorded", 100));
    relay.plans(Plan::Pass);
    let host = applying.join().expect("it is in force in the end");
    assert_eq!((machine.space.run("hostname").trim(), machine.routes()), ("after", 500));
    assert_eq!(host.count(|kind| matches!(kind, EventKind::Enrolled { .. })), 1);
}

/// Somebody who takes another's addresses, and talks all the time so that the bridge thinks it is where
/// they are.
struct Impostor {
    space: Space,
    talks: Arc<AtomicBool>,
    talking: Option<thread::JoinHandle<()>>,
}

impl Impostor {
    /// One that is `address` by `mac`, and talks to whoever has `victim`.
    fn new(street: &Street, mac: &str, address: &str, victim: &'static str) -> Self {
        let space = street.neighbour(mac, address);
        let talks = Arc::new(AtomicBool::new(true));
        let on = Arc::clone(&talks);
        let talking = within(&space, move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
            while on.load(Relaxed) {
                // Nobody listens there; the frame is what counts.
                let _ = socket.send_to(b"me", (victim, 9));
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { space, talks, talking: Some(talking) }
    }

    /// It goes away.
    fn leaves(mut self) {
        self.space.run("ip link set nic down");
        self.end();
    }

    fn end(&mut self) {
        self.talks.store(false, Relaxed);
        if let Some(talking) = self.talking.take() {
            let _ = talking.join();
        }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits for the alarm that somebody else says to be the guest. Where they are, their key.
fn alarm(host: &HostProgram, bound: Pin) -> (String, Pin) {
    let reuse = |kind: &EventKind| match kind {
        EventKind::IdentityReuse { peer, bound: of, shown } if *of == bound => Some((peer.clone(), *shown)),
        _ => None,
    };
    host.hears("an alarm", reuse).1
}

#[test]
fn somebody_with_the_hosts_addresses_is_refused_and_the_host_found_again() {
    let (street, machine, outside) = street();
    let host = HostProgram::start(&outside, HEARTBEAT);
    let tether = machine.agent();
    host.drives(state("before", 10));
    let bound = host.host.key(&guest()).expect("it has enrolled");
    // First she goes to the host as the guest, with a key that is not the guest's.
    let elsewhere = street.neighbour("02:7e:00:00:00:66", "10.99.0.66");
    let key = Key::new();
    let said = FalseGuest::new(connect(&elsewhere, HOST, PORT), &key).greet(GUEST, admission().token);
    assert!(matches!(said, Ok(FromHost::Refused(_))), "{said:?}");
    let (peer, shown) = alarm(&host, bound);
    assert!(peer.starts_with("10.99.0.66:") && shown == key.pin, "{peer} {shown}");
    let mallory = Impostor::new(&street, HOST_MAC, HOST, ITSELF);
    let listener = listen(&mallory.space, HOST, PORT);
    // The guest has to be asked to shake hands more than once: it may still reach its host at times.
    let over = Arc::new(AtomicBool::new(false));
    let (pin, stop) = (key.pin, Arc::clone(&over));
    listener.set_nonblocking(true).expect("a socket");
    let answering = thread::spawn(move || {
        let mut believed = 0;
        while !stop.load(Relaxed) {
            if let Ok(mut host) = FalseHost::accept(&listener, &key)
                && host.raw(b"believe me").is_ok()
                && matches!(std::io::Read::read(&mut host.stream, &mut [0; 64]), Ok(1..))
            {
                believed += 1;
            }
            thread::sleep(Duration::from_millis(10));
        }
        believed
    });
    tether.wait_for_line(&format!("the host's key is not the pinned one: it has {pin}; trying on"));
    assert_eq!((machine.space.run("hostname").trim(), machine.routes()), ("before", 10));
    over.store(true, Relaxed);
    assert_eq!(answering.join().expect("no panic"), 0, "nobody has said a word to her");
    mallory.leaves();
    host.drives(state("after", 10));
    assert_eq!(host.host.key(&guest()), Some(bound));
}

#[test]
fn somebody_with_the_guests_addresses_is_an_alarm_and_the_guest_comes_back() {
    let (street, machine, outside) = street();
    let host = HostProgram::start(&outside, HEARTBEAT);
    let _tether = machine.agent();
    host.drives(state("before", 10));
    let bound = host.host.key(&guest()).expect("it has enrolled");
    let mallory = Impostor::new(&street, MAC, ITSELF, HOST);
    let key = Key::new();
    // She has the token too.
    let said = wait_for("the host's word", || {
        let stream = connect(&mallory.space, HOST, PORT);
        FalseGuest::new(stream, &key).greet(GUEST, admission().token).ok()
    });
    let FromHost::Refused(Refused { reason }) = said else { panic!("{said:?}") };
    assert_eq!(reason, "another key has redeemed this guest's join token");
    let (peer, shown) = alarm(&host, bound);
    assert!(peer.starts_with(&format!("{ITSELF}:")) && shown == key.pin, "{peer} {shown}");
    assert_eq!((machine.space.run("hostname").trim(), machine.routes()), ("before", 10));
    mallory.leaves();
    host.drives(state("after", 10));
    assert_eq!(host.host.key(&guest()), Some(bound));
    assert_eq!(host.count(|kind| matches!(kind, EventKind::Enrolled { .. })), 1);
}
