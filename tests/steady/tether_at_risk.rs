//! Documents that cut the host off, or look as if they would.

use std::{
    fs::File,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tether_host::{
    ApplyError, Event, EventKind, Host, Options,
    message::{self, Phase, Verified},
    state::DesiredState,
};
use tether_tests::{DEADLINE, Process, admission, boot_document, host_identity, wait_for};

use crate::machine::{Machine, first, holds, measured, push, same, second, state, until};

const GUEST: &str = "steady";
const MANAGEMENT: &str = "02:7e:00:00:00:02";

/// How the tether is addressed.
#[derive(Clone, Copy, Debug)]
enum Way {
    LinkLocal,
    Ipv4,
    Ipv6,
}

impl Way {
    /// The host's address.
    fn host(self) -> &'static str {
        match self {
            Self::LinkLocal => "fe80::1",
            Self::Ipv4 => "10.99.0.1",
            Self::Ipv6 => "fd00:99::1",
        }
    }

    /// The guest's, with its prefix length; a link-local one is its own affair.
    fn guest(self) -> Option<&'static str> {
        match self {
            Self::LinkLocal => None,
            Self::Ipv4 => Some("10.99.0.2/24"),
            Self::Ipv6 => Some("fd00:99::2/64"),
        }
    }

    /// Where the host listens.
    fn listens(self, machine: &Machine) -> String {
        let shown = machine.outside.run("ip -o link show pm");
        let (link, _) = shown.split_once(':').expect("its number");
        match self {
            Self::Ipv4 => "10.99.0.1:7373".to_owned(),
            Self::Ipv6 => "[fd00:99::1]:7373".to_owned(),
            Self::LinkLocal => format!("[fe80::1%{link}]:7373"),
        }
    }

    /// Whether the guest takes itself for the host.
    fn is_cut(self, machine: &Machine) -> bool {
        machine.shows("ip -o address show dev eth0", &format!(" {}/", self.host()))
    }

    /// Whether packets that leave by the tether's NIC come back.
    fn echoes(self, machine: &Machine) -> bool {
        let ping = machine.inside.output(&format!("busybox ping -c 1 -W 1 -I tether0 {}", self.host()));
        ping.status.success()
    }
}

/// A host program of one guest, in the place outside.
struct HostProgram {
    host: Host,
    events: Arc<Mutex<Vec<(Instant, Event)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl HostProgram {
    fn start(machine: &Machine, way: Way) -> Self {
        let address = way.listens(machine).parse().expect("an address");
        let (ready, host) = mpsc::channel();
        let (events, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (gathered, flag, id) = (Arc::clone(&events), Arc::clone(&stop), machine.outside.id());
        let work = async move || {
            let options =
                Options { heartbeat: Duration::from_secs(2), ..Options::on(address, host_identity()) };
            let host = Host::listen(options).await.expect("a port");
            host.admit(&GUEST.parse().expect("an id"), admission());
            let mut news = host.events();
            ready.send(host).expect("somebody waits");
            while !flag.load(Relaxed) {
                let next = tokio::time::timeout(Duration::from_millis(50), news.recv()).await;
                if let Ok(Ok(event)) = next {
                    gathered.lock().expect("no panic").push((Instant::now(), event));
                }
            }
        };
        let thread = thread::spawn(move || {
            let namespace = File::open(format!("/proc/{id}/ns/net")).expect("its namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("allowed");
            runtime().block_on(work());
        });
        let host = host.recv_timeout(DEADLINE).expect("the host listens");
        Self { host, events, stop, thread: Some(thread) }
    }

    /// Wants a state and waits for what comes of it.
    fn apply(&self, state: &Value) -> Result<Verified, ApplyError> {
        let state: DesiredState = serde_json::from_value(state["state"].clone()).expect("a state");
        let guest = GUEST.parse().expect("an id");
        let answer = tokio_timeout(self.host.apply(&guest, state));
        answer.unwrap_or_else(|| panic!("no answer; heard: {:#?}", self.heard()))
    }

    /// Everything heard so far, without the status.
    fn heard(&self) -> Vec<(Instant, EventKind)> {
        let events = self.events.lock().expect("no panic");
        let told = events.iter().filter(|(_, event)| !matches!(event.kind, EventKind::Status(_)));
        told.map(|(at, event)| (*at, event.kind.clone())).collect()
    }

    /// Waits for the first thing heard that is wanted, from `from` on.
    fn hears<T>(&self, what: &str, from: usize, wanted: impl Fn(&EventKind) -> Option<T>) -> (Instant, T) {
        wait_for(what, || {
            let heard = self.heard();
            heard.iter().skip(from).find_map(|(at, kind)| wanted(kind).map(|found| (*at, found)))
        })
    }

    fn hears_failed(&self, from: usize) -> message::Failed {
        let failed = |kind: &EventKind| match kind {
            EventKind::Failed(failed) => Some((**failed).clone()),
            _ => None,
        };
        self.hears("a failure", from, failed).1
    }
}

impl Drop for HostProgram {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What comes of something in time.
fn tokio_timeout<T>(what: impl Future<Output = T>) -> Option<T> {
    runtime().block_on(async { tokio::time::timeout(Duration::from_secs(20), what).await.ok() })
}

/// A machine with two NICs and a way to its host by another.
fn tethered(way: Way) -> Machine {
    let machine = Machine::new(2);
    let (id, host) = (machine.inside.id(), way.host());
    let (prefix, nodad) = if host.contains(':') { (64, "nodad") } else { (24, "") };
    for line in [
        format!("ip link add pm type veth peer name ens9 address {MANAGEMENT} netns {id}"),
        format!("ip address add {host}/{prefix} dev pm {nodad}"),
        "ip link set pm up".into(),
    ] {
        machine.outside.run(&line);
    }
    machine
}

/// Starts the agent.
fn agent(machine: &Machine, way: Way) -> Process {
    let management = json!({ "mac": MANAGEMENT, "address": way.guest() });
    let boot = boot_document(GUEST, &management, json!({ "address": way.host() }));
    Process::start(machine.tether(&boot, None))
}

fn good() -> Value {
    state(&[first(), second()], json!({ "confirm_s": 2 }))
}

/// A state under which packets to the host do not leave: its address is the guest's own.
fn cuts(way: Way) -> Value {
    let mut state = good();
    let addresses = &mut state["state"]["interfaces"][0]["addresses"];
    let length = if way.host().contains(':') { 128 } else { 32 };
    push(addresses, json!({ "address": format!("{}/{length}", way.host()), "conflicts": "off" }));
    state
}

/// Cut off in one way, and back.
fn comes_back(way: Way) {
    let machine = tethered(way);
    let host = HostProgram::start(&machine, way);
    let mut tether = agent(&machine, way);
    let verified = host.apply(&good()).expect("it is good");
    let (generation, right) = (verified.stamp.generation, machine.state());
    let from = host.heard().len();
    let started = Instant::now();
    let applying = thread::scope(|scope| {
        let applying = scope.spawn(|| host.apply(&cuts(way)));
        wait_for("the cut", || way.is_cut(&machine).then_some(()));
        assert!(!way.echoes(&machine), "it is cut off");
        wait_for("the way back", || (!way.is_cut(&machine)).then_some(()));
        let took = started.elapsed();
        println!("cut off, {way:?}: back after {took:?}");
        assert!(took > Duration::from_millis(1_500) && took < Duration::from_secs(8), "{took:?}");
        applying.join().expect("no panic")
    });
    let failed = host.hears_failed(from);
    assert_eq!((failed.failure.phase, failed.failure.restored), (Phase::Confirm, true), "{failed:?}");
    assert_eq!(failed.failure.problems[0].path, "confirm_s");
    machine.becomes("the state before", &right, |state| state);
    // Nothing goes round in circles: it stays so.
    let monitor = machine.monitor(&["link", "address", "route", "rule"]);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(machine.seen(&monitor), [""; 0]);
    assert_eq!(
        host.heard().iter().skip(from).filter(|(_, kind)| matches!(kind, EventKind::Failed(_))).count(),
        1
    );
    let applied = host.host.status(&GUEST.parse().expect("an id")).and_then(|status| status.applied);
    assert_eq!(applied.map(|stamp| stamp.generation), Some(generation), "{applied:?}");
    // The host comes with something else, and that is put in force as ever.
    let mut other = good();
    other["state"]["interfaces"][0]["mtu"] = json!(1300);
    host.apply(&other).expect("it is good");
    assert!(machine.shows("ip link show eth0", "mtu 1300"));
    assert!(!tether.has_ended());
    // Whoever waited for it was not told that it is in force.
    assert!(matches!(applying, Err(ApplyError::Failed(_))), "{applying:?}");
}

#[test]
fn an_ipv4_address_that_cuts_the_host_off_is_taken_back() {
    comes_back(Way::Ipv4);
}

#[test]
fn the_hosts_ipv6_address_never_locks_it_out_for_good() {
    let way = Way::Ipv6;
    let machine = tethered(way);
    let host = HostProgram::start(&machine, way);
    let mut tether = agent(&machine, way);
    host.apply(&good()).expect("it is good");
    // Refused, taken back or harmless: whatever it is, the next connection has to be possible. (The
    // one that is there keeps its way where the kernel has it in its cache, and is confirmed by.)
    let applied = host.apply(&cuts(way)).map(|verified| verified.confirm_within_s);
    thread::sleep(Duration::from_secs(3));
    let from = host.heard().len();
    tether.kill();
    let _tether = agent(&machine, way);
    until(
        || format!("the guest's return, after {applied:?}"),
        || {
            host.heard()
                .iter()
                .skip(from)
                .any(|(_, kind)| matches!(kind, EventKind::Connected(_)))
                .then_some(())
        },
    );
}

/// A state that is harmless and does not look so.
fn suspicious() -> Value {
    let mut state = good();
    // Less specific than the management network's own.
    let routes = &mut state["state"]["interfaces"][0]["routes"];
    push(routes, json!({ "destination": "10.0.0.0/8", "gateway": "172.18.0.1" }));
    state["state"]["rules"] = json!([{ "priority": 100, "from": "172.18.0.0/16", "table": 254 }]);
    state
}

#[test]
fn what_the_host_does_not_confirm_is_taken_back_whatever_the_reason() {
    let way = Way::Ipv4;
    let machine = tethered(way);
    let host = HostProgram::start(&machine, way);
    let _tether = agent(&machine, way);
    host.apply(&good()).expect("it is good");
    let right = machine.state();
    let from = host.heard().len();
    // The guest hears the host from now on, and the host not the guest.
    machine.inside.run("ip neigh replace 10.99.0.1 lladdr 02:00:00:00:00:99 dev tether0 nud permanent");
    let applying = thread::scope(|scope| {
        let applying = scope.spawn(|| host.apply(&suspicious()));
        machine.wait_for("ip route", "10.0.0.0/8");
        let (begun, started) = (host.heard().len(), Instant::now());
        until(|| "the way back".to_owned(), || (!machine.shows("ip route", "10.0.0.0/8")).then_some(()));
        let took = started.elapsed();
        println!("not confirmed: back after {took:?}");
        assert!(took > Duration::from_millis(1_500) && took < Duration::from_secs(6), "{took:?}");
        assert_eq!(host.heard().len(), begun, "the host has heard nothing of it");
        machine.inside.run("ip neigh del 10.99.0.1 dev tether0");
        let failed = host.hears_failed(from);
        assert_eq!((failed.failure.phase, failed.failure.restored), (Phase::Confirm, true), "{failed:?}");
        machine.becomes("the state before", &right, |state| state);
        applying.join().expect("no panic")
    });
    // The same once more is a wish of its own, and is granted now.
    let verified = host.apply(&suspicious()).expect("the way is free");
    assert_eq!(verified.confirm_within_s, 2);
    holds("it stays", Duration::from_secs(3), || machine.shows("ip route", "10.0.0.0/8"));
    // Whoever waited the first time was not told that it is in force.
    assert!(matches!(applying, Err(ApplyError::Failed(_))), "{applying:?}");
}

#[test]
fn an_agent_killed_while_the_host_was_cut_off_comes_back_with_the_state_before() {
    let way = Way::Ipv4;
    let machine = tethered(way);
    let host = HostProgram::start(&machine, way);
    let mut tether = agent(&machine, way);
    let mut slow = cuts(way);
    slow["state"]["confirm_s"] = json!(60);
    host.apply(&good()).expect("it is good");
    let right = machine.state();
    thread::scope(|scope| {
        let applying = scope.spawn(|| host.apply(&slow));
        wait_for("the cut", || way.is_cut(&machine).then_some(()));
        thread::sleep(Duration::from_millis(300));
        tether.kill();
        // The host is not there while the next agent looks at what it has found.
        let (mut away, lives) = machine.with_host_away(None);
        assert!(lives);
        same("the next agent", &machine.state(), &right);
        away.kill();
        host.host.dismiss(&GUEST.parse().expect("an id"));
        let _ = applying.join();
    });
}

/// The connection is bound to its NIC: Linux takes the host for a neighbour there whatever an IPv4
/// route says, and passes over IPv6 routes that do not lead out of it.
fn stays(way: Way, change: impl Fn(&mut Value)) {
    let machine = tethered(way);
    let host = HostProgram::start(&machine, way);
    let mut tether = agent(&machine, way);
    let mut detour = good();
    change(&mut detour["state"]);
    let verified = host.apply(&detour).expect("it is good");
    assert_eq!(verified.confirm_within_s, 2);
    let right = machine.state();
    let others = machine.inside.output(&format!("ip route get {}", way.host()));
    assert!(!String::from_utf8_lossy(&others.stdout).contains("dev tether0"), "{others:?}");
    assert!(way.echoes(&machine));
    thread::sleep(Duration::from_secs(3));
    same("confirmed", &machine.state(), &right);
    // A connection that is made anew leaves by the right NIC too.
    let from = host.heard().len();
    tether.kill();
    let _tether = agent(&machine, way);
    let connected = |kind: &EventKind| matches!(kind, EventKind::Connected(_)).then_some(());
    host.hears("the guest's return", from, connected);
    same("a new connection", &machine.state(), &right);
}

#[test]
fn a_route_to_the_host_by_another_nic_does_not_take_the_tether_along() {
    stays(Way::Ipv4, |state| {
        let routes = &mut state["interfaces"][0]["routes"];
        push(routes, json!({ "destination": "10.99.0.1/32", "gateway": "172.18.0.99" }));
    });
}

#[test]
fn a_rule_that_loses_everything_does_not_take_the_tether_along() {
    stays(Way::LinkLocal, |state| {
        state["routes"] = json!([{ "destination": "::/0", "type": "blackhole", "table": 100 }]);
        state["rules"] = json!([{ "priority": 100, "family": "ipv6", "table": 100 }]);
    });
}

#[test]
fn what_only_looks_dangerous_is_confirmed_and_stays() {
    let way = Way::Ipv4;
    let machine = tethered(way);
    let host = HostProgram::start(&machine, way);
    let mut tether = agent(&machine, way);
    host.apply(&good()).expect("it is good");
    let verified = host.apply(&suspicious()).expect("it is good");
    assert_eq!(verified.confirm_within_s, 2);
    let right = machine.state();
    thread::sleep(Duration::from_millis(3_500));
    same("confirmed", &machine.state(), &right);
    let failures = host.heard().iter().filter(|(_, kind)| matches!(kind, EventKind::Failed(_))).count();
    assert_eq!(failures, 0);
    // It is the last good document from now on.
    tether.kill();
    let (mut away, lives) = machine.with_host_away(None);
    assert!(lives);
    same("killed", &machine.state(), &right);
    away.kill();
    let _tether = agent(&machine, way);
    let connected = |kind: &EventKind| match kind {
        EventKind::Connected(hello) => hello.applied,
        _ => None,
    };
    let (_, applied) = host.hears("the guest's return", 0, connected);
    assert_eq!(applied.generation, verified.stamp.generation);
    holds("it stays", Duration::from_secs(1), || machine.shows("ip route", "10.0.0.0/8 via 172.18.0.1"));
}

#[test]
fn a_default_route_that_somebody_deletes_is_told_to_the_host_at_once() {
    let way = Way::LinkLocal;
    let machine = tethered(way);
    let host = HostProgram::start(&machine, way);
    let _tether = agent(&machine, way);
    let mut times = Vec::new();
    for n in 0..21 {
        if n % 7 == 0 {
            // Something new each time: the host's word ends all counting.
            let mut next = good();
            next["state"]["interfaces"][0]["mtu"] = json!(1300 + n);
            host.apply(&next).expect("it is good");
        }
        let from = host.heard().len();
        machine.inside.run("ip route del default");
        let gone = Instant::now();
        let (at, drift) = host.hears("a drift", from, |kind| match kind {
            EventKind::Guest(message::Event { kind: message::EventKind::Drift(drift), .. }) => {
                Some(drift.clone())
            }
            _ => None,
        });
        assert_eq!(drift.changes[0].path, "interfaces[0].routes[0]", "{drift:?}");
        times.push(at.saturating_duration_since(gone));
    }
    assert!(measured("deleted default route, ip's end to host's event", times) < Duration::from_secs(2));
}
