//! Somebody in the guest changes what the host wants.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tether_tests::{Process, wait_for};

use crate::machine::{Machine, addresses, changes, holds, measured, same, state, until_within};

/// A state in which there is something to disturb.
fn wanted(policy: &str) -> Value {
    let eth0 = json!({ "mtu": 1450, "alternative_names": ["front"], "tx_queue_length": 900,
        "addresses": addresses(&["172.18.0.2/16", "172.18.0.3/16", "fd00:18::2/64"]),
        "routes": [
            { "destination": "0.0.0.0/0", "gateway": "172.18.0.1" },
            { "destination": "10.0.0.0/8", "gateway": "172.18.0.7", "metric": 50 },
            { "destination": "::/0", "gateway": "fd00:18::1" }],
        "neighbours": [{ "address": "172.18.0.7", "mac": "02:00:00:00:00:77" }],
        "ipv4": { "rp_filter": 2, "forwarding": false } });
    let eth1 = json!({ "mac": "02:42:ac:13:00:42", "addresses": addresses(&["172.19.0.2/16"]) });
    let rest = json!({ "drift": policy,
        "rules": [{ "priority": 1000, "from": "172.18.0.0/16", "table": 254 }] });
    state(&[(0, eth0), (1, eth1)], rest)
}

/// What somebody does, and the path and the words it is told with.
const DISTURBANCES: &[(&[&str], &str, &str)] = &[
    (&["ip route del default"], "interfaces[0].routes[0]", "the route to 0.0.0.0/0 via 172.18.0.1 is gone"),
    (&["ip -6 route del default via fd00:18::1"], "interfaces[0].routes[2]", "is gone"),
    (&["ip route del 10.0.0.0/8"], "interfaces[0].routes[1]", "the route to 10.0.0.0/8"),
    (&["ip address del 172.18.0.2/16 dev eth0"], "interfaces[0].addresses[0]", "172.18.0.2/16"),
    (&["ip address del fd00:18::2/64 dev eth0"], "interfaces[0].addresses[2]", "fd00:18::2/64"),
    (&["ip address flush dev eth0"], "interfaces[0].addresses[1]", "172.18.0.3/16"),
    (&["ip link set eth0 mtu 1300"], "interfaces[0].mtu", "eth0 has another MTU"),
    (&["ip link set eth0 txqueuelen 5"], "interfaces[0].tx_queue_length", "eth0 has another txqueuelen"),
    (&["ip link set eth0 down"], "interfaces[0]", "eth0 is down"),
    (&["ip link set eth0 name mine"], "interfaces[0].name", "mine"),
    (&["ip link property del dev eth0 altname front"], "interfaces[0].alternative_names", "front"),
    (&["ip rule del priority 1000"], "rules[0]", "is gone"),
    (&["ip neigh del 172.18.0.7 dev eth0"], "interfaces[0].neighbours[0]", "172.18.0.7"),
    (&["sysctl -qw net.ipv4.conf.eth0.rp_filter=1"], "interfaces[0].ipv4.rp_filter", "another"),
    (&["sysctl -qw net.ipv4.conf.eth0.forwarding=1"], "interfaces[0].ipv4.forwarding", "another"),
    (&["ip link set eth1 address 02:42:ac:13:00:99"], "interfaces[1].mac", "another MAC"),
];

fn do_all(machine: &Machine, lines: &[&str]) {
    for line in lines {
        // The agent may have been faster with the first of them.
        machine.inside.output(line);
    }
}

#[test]
fn what_somebody_changes_is_told_and_repaired() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&wanted("repair"));
    agent.verified();
    let right = machine.state();
    for (lines, path, what) in DISTURBANCES {
        // A new word of the host's: repairs are counted from here.
        agent.again(&wanted("repair"));
        do_all(&machine, lines);
        let (_, drift) = agent.drift(path, what);
        assert!(drift["outcome"]["repaired"]["operations"].as_u64() >= Some(1), "{lines:?}: {drift}");
        assert_eq!(drift["count"].as_u64(), Some(changes(&drift).count() as u64), "{drift}");
        machine.becomes(&format!("after {lines:?}"), &right, |state| state);
    }
    // At rest nothing more is done.
    let monitor = machine.monitor(&["link", "address", "route", "rule"]);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(machine.seen(&monitor), [""; 0]);
}

#[test]
fn what_somebody_changes_is_told_and_left_where_that_is_the_policy() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&wanted("report"));
    agent.verified();
    let right = machine.state();
    for (lines, path, what) in DISTURBANCES {
        do_all(&machine, lines);
        let (_, drift) = agent.drift(path, what);
        assert_eq!(drift["outcome"], "reported", "{lines:?}");
        thread::sleep(Duration::from_millis(100));
        assert_ne!(machine.state(), right, "{lines:?} is left alone");
        // The host's word puts it right.
        assert!(agent.again(&wanted("report"))["operations"].as_u64() >= Some(1), "{lines:?}");
        same(&format!("after {lines:?}"), &machine.state(), &right);
    }
}

#[test]
fn what_somebody_adds_is_told_once_and_left_alone() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&wanted("repair"));
    agent.verified();
    for (line, path, what) in [
        ("ip address add 10.77.0.1/24 dev eth0", "interfaces[0]", "10.77.0.1/24 was added to eth0"),
        ("ip route add 10.78.0.0/16 via 172.19.0.9", "interfaces[1]", "a route to 10.78.0.0/16"),
        ("ip rule add priority 77 from 10.77.0.0/24 lookup 7", "rules", "a rule was added"),
    ] {
        machine.inside.run(line);
        let (_, drift) = agent.drift(path, what);
        assert_eq!((&drift["outcome"], &drift["count"]), (&json!("left"), &json!(1)), "{drift}");
    }
    let with_theirs = machine.state();
    // Something else happens: theirs are not told again, and stay.
    machine.inside.run("ip route del default");
    let (_, drift) = agent.drift("interfaces[0].routes[0]", "is gone");
    assert_eq!(drift["count"], 1, "{drift}");
    machine.becomes("the default route", &with_theirs, |state| state);
    assert_eq!(agent.again(&wanted("repair"))["operations"], 0);
    same("after the host's word", &machine.state(), &with_theirs);
}

#[test]
fn a_default_route_in_place_of_the_hosts_is_repaired() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&wanted("repair"));
    agent.verified();
    let right = machine.state();
    // As a DHCP client would.
    machine.inside.run("ip route replace default via 172.18.0.99");
    let (_, drift) = agent.drift("interfaces[0].routes[0]", "is another");
    assert!(drift["outcome"]["repaired"].is_object(), "{drift}");
    machine.becomes("repaired", &right, |state| state);
    // Beside it, theirs stays.
    machine.inside.run("ip route add default via 172.18.0.99 metric 5");
    agent.drift("interfaces[0]", "was added");
    assert!(machine.shows("ip route", "default via 172.18.0.99"));
}

/// Waits for the next line of a monitor from `from` on.
fn line_after(monitor: &Process, from: usize, text: &str) -> (usize, Instant) {
    wait_for(text, || {
        let lines = monitor.lines_at();
        let mut later = lines.iter().enumerate().skip(from);
        later.find(|(_, (_, line))| line.contains(text)).map(|(n, (at, _))| (n + 1, *at))
    })
}

#[test]
fn a_default_route_that_somebody_deletes_is_told_and_back_in_no_time() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&wanted("repair"));
    agent.verified();
    let monitor = machine.monitor(&["route"]);
    let (mut told, mut repaired, mut from) = (Vec::new(), Vec::new(), 0);
    for n in 0..24 {
        if n % 8 == 0 {
            agent.again(&wanted("repair"));
        }
        machine.inside.run("ip route del default");
        let (at, _) = agent.drift("interfaces[0].routes[0]", "is gone");
        // The kernel's own words to a third party, and the clock of one process for all.
        let (next, gone) = line_after(&monitor, from, "Deleted default via 172.18.0.1");
        let (next, back) = line_after(&monitor, next, "default via 172.18.0.1 dev eth0 proto 116");
        from = next;
        told.push(at.saturating_duration_since(gone));
        repaired.push(back.saturating_duration_since(gone));
    }
    let told = measured("deleted default route, kernel's word to agent's event", told);
    let repaired = measured("deleted default route, gone to back", repaired);
    assert!(told.max(repaired) < Duration::from_secs(2));
}

#[test]
fn a_link_that_somebody_sets_down_is_told_and_up_in_no_time() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&wanted("repair"));
    agent.verified();
    let right = machine.state();
    let (mut told, mut repaired) = (Vec::new(), Vec::new());
    for n in 0..21 {
        if n % 8 == 0 {
            agent.again(&wanted("repair"));
        }
        machine.inside.run("ip link set eth0 down");
        let down = Instant::now();
        let (at, _) = agent.drift("interfaces[0]", "eth0 is down");
        // The event comes after the repair, from `ip`'s end on.
        told.push(at.saturating_duration_since(down));
        machine.becomes("everything back", &right, |state| state);
        repaired.push(down.elapsed());
    }
    let told = measured("link set down, ip's end to agent's event", told);
    measured("link set down, ip's end to everything seen back by ip", repaired);
    assert!(told < Duration::from_secs(2));
}

/// Somebody who deletes the default route whenever there is one.
fn somebody_insists(machine: &Machine) -> Process {
    let mut command = machine.inside.command("sh");
    command.args(["-c", "while :; do ip route del default 2>/dev/null; sleep 0.05; done"]);
    Process::start(command)
}

#[test]
fn a_fight_is_given_up_and_taken_up_again() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&wanted("repair"));
    agent.verified();
    let mut somebody = somebody_insists(&machine);
    let (gave_up, told) = agent.outcome("gave_up");
    assert_eq!(told["outcome"]["gave_up"]["retry_s"], 30);
    assert_eq!(agent.events("\"repaired\"").len(), 10);
    // Left alone, and told once, whatever else happens.
    for n in 0..20 {
        machine.inside.output(&format!("ip address add 10.77.0.{}/32 dev lo", n + 1));
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(agent.events("gave_up").len(), 1);
    assert_eq!(agent.events("\"repaired\"").len(), 10);
    somebody.kill();
    holds("nobody repairs it", Duration::from_secs(1), || !machine.shows("ip route", "default"));
    let (again, _) = until_within(
        Duration::from_secs(40),
        || "a repair".to_owned(),
        || agent.process.lines_at().into_iter().filter(|(_, line)| line.contains("\"repaired\"")).nth(10),
    );
    let after = again.duration_since(gave_up);
    assert!(after > Duration::from_secs(25) && after < Duration::from_secs(40), "{after:?}");
    assert!(machine.shows("ip route", "default via 172.18.0.1"));
}

#[test]
fn after_a_fight_the_hosts_word_counts_at_once() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&wanted("repair"));
    agent.verified();
    let mut somebody = somebody_insists(&machine);
    agent.outcome("gave_up");
    somebody.kill();
    agent.again(&wanted("repair"));
    assert!(machine.shows("ip route", "default via 172.18.0.1"));
    // And from then on it is looked after as before.
    machine.inside.run("ip route del default");
    let (_, drift) = agent.drift("interfaces[0].routes[0]", "is gone");
    assert!(drift["outcome"]["repaired"].is_object(), "{drift}");
}
