//! The agent is killed in the middle of a change, at every operation in turn.

use std::os::unix::process::ExitStatusExt as _;

use nix::libc::SIGKILL;
use serde_json::{Value, json};

use crate::machine::{Machine, addresses, same, state};

/// Operations there are at most in a test: it ends when a change is not interrupted any more.
const MOST: usize = 120;

/// A state of everything.
fn one() -> Value {
    let eth0 = json!({ "mtu": 1450, "alternative_names": ["front"],
        "addresses": addresses(&["172.18.0.2/16", "172.18.0.3/16", "fd00:18::2/64"]),
        "routes": [
            { "destination": "0.0.0.0/0", "gateway": "172.18.0.1" },
            { "destination": "::/0", "gateway": "fd00:18::1" },
            { "destination": "10.0.0.0/8", "gateway": "172.18.0.7", "metric": 50 },
            { "destination": "10.1.0.0/16", "gateway": "172.18.0.1", "table": 100 }],
        "neighbours": [{ "address": "172.18.0.7", "mac": "02:00:00:00:00:77" }] });
    let eth1 = json!({ "addresses": addresses(&["172.19.0.2/16"]), "ipv4": { "rp_filter": 2 } });
    let rest = json!({ "hostname": "one", "domain": "one.example",
        "hosts": [{ "address": "10.0.0.9", "names": ["db"] }],
        "rules": [{ "priority": 1000, "from": "172.18.0.0/16", "table": 100 }] });
    state(&[(0, eth0), (1, eth1)], rest)
}

/// Another one, in which nothing is as in the first; the NICs have each other's names.
fn other() -> Value {
    let back = json!({ "name": "eth1", "mtu": 1400, "tx_queue_length": 500,
        "addresses": addresses(&["172.19.0.2/16", "172.19.0.3/16", "fd00:18::4/64"]),
        "routes": [{ "destination": "10.1.0.0/16", "gateway": "172.19.0.9", "table": 100 }],
        "neighbours": [{ "address": "172.19.0.7", "mac": "02:00:00:00:00:78" }] });
    let front = json!({ "name": "eth0", "alternative_names": ["front"], "ipv4": { "forwarding": true },
        "addresses": addresses(&["172.18.0.3/16", "172.18.0.2/16", "fd00:19::2/64"]),
        "routes": [{ "destination": "0.0.0.0/0", "gateway": "172.18.0.1" },
                   { "destination": "::/0", "gateway": "fd00:19::1" }] });
    let rest = json!({ "hostname": "other", "hosts": [],
        "routes": [
            { "destination": "10.0.0.0/8", "metric": 50, "hops": [
                { "interface": "eth0", "gateway": "172.18.0.7" },
                { "interface": "eth1", "gateway": "172.19.0.9", "weight": 2 }] },
            { "destination": "10.9.0.0/16", "type": "blackhole" }],
        "rules": [{ "priority": 1000, "from": "172.19.0.0/16", "table": 100 },
                  { "priority": 1001, "family": "ipv6", "fwmark": 7, "table": 254 }] });
    state(&[(0, back), (1, front)], rest)
}

/// A machine on which somebody else has made something of each kind.
fn machine_of_others(link_1_too: bool) -> Machine {
    let machine = Machine::new(2);
    for line in [
        "ip link set ens3 up",
        "ip address add 192.168.7.7/24 dev ens3",
        "ip address add fd00:77::7/64 dev ens3 nodad",
        "ip route add 192.168.9.0/24 via 192.168.7.1 metric 7",
        "ip rule add priority 500 from 192.168.7.0/24 lookup 77",
        "ip neigh add 192.168.7.9 lladdr 02:00:00:00:00:99 dev ens3 nud permanent",
    ] {
        machine.inside.run(line);
    }
    if link_1_too {
        for line in [
            "ip link set ens4 up",
            "ip address add 192.168.8.7/24 dev ens4",
            "ip address add fd00:78::7/64 dev ens4 nodad",
            "ip route add 192.168.10.0/24 via 192.168.8.1",
            "ip -6 route add fd00:79::/64 via fd00:78::1",
        ] {
            machine.inside.run(line);
        }
    }
    machine
}

/// Puts `to` in force and kills the agent at its operation number `at`. `false` when it got
/// through.
fn killed(machine: &Machine, to: &Value, at: usize) -> bool {
    let mut agent = machine.with_fault(to, Some(&format!("kill:{at}")));
    let ended = tether_tests::wait_for("a result or an end", || {
        let results = agent.process.lines().iter().any(|line| line.starts_with("{\"verified\""));
        if agent.process.has_ended() { Some(true) } else { results.then_some(false) }
    });
    if ended {
        assert_eq!(agent.process.end().signal(), Some(SIGKILL), "{:?}", agent.process.lines());
    } else {
        agent.process.kill();
    }
    ended
}

/// Starts the agent with the host away and has it killed again at operation number `again`, starts
/// it once more and waits until it has done what it does.
fn recovered(machine: &Machine, again: usize) {
    drop(machine.with_host_away(Some(&format!("kill:{again}"))));
    let (mut process, lives) = machine.with_host_away(None);
    assert!(lives, "{:?}", process.lines());
    process.kill();
}

#[test]
fn killed_at_every_step_and_the_host_away_the_state_before_is_there() {
    let machine = machine_of_others(false);
    let (before, after) = (one(), other());
    machine.with_state(&after).verified();
    let wanted_after = machine.state();
    machine.with_state(&before).verified();
    let wanted = machine.state();
    assert_ne!(wanted, wanted_after);
    let mut steps = 0;
    while killed(&machine, &after, steps) {
        recovered(&machine, steps % 7);
        same(&format!("killed at {steps}"), &machine.state(), &wanted);
        steps += 1;
        assert!(steps < MOST, "the change never comes to its end");
    }
    assert!(steps > 25, "only {steps} steps");
    // It was verified, and written down as such.
    recovered(&machine, 0);
    same("after the last step", &machine.state(), &wanted_after);
}

#[test]
fn killed_at_every_step_and_given_the_state_again_it_is_there() {
    let machine = machine_of_others(false);
    let (before, after) = (one(), other());
    machine.with_state(&after).verified();
    let wanted = machine.state();
    machine.with_state(&before).verified();
    let mut steps = 0;
    while killed(&machine, &after, steps) {
        machine.with_state(&after).verified();
        same(&format!("killed at {steps}"), &machine.state(), &wanted);
        machine.with_state(&before).verified();
        steps += 1;
        assert!(steps < MOST, "the change never comes to its end");
    }
    assert!(steps > 25, "only {steps} steps");
}

#[test]
fn killed_in_its_first_document_the_machine_is_as_before_tether() {
    let machine = machine_of_others(false);
    machine.with_state(&json!({ "state": {} })).verified();
    machine.inside.run("rm -r /run/tether");
    let wanted = machine.state();
    let mut steps = 0;
    while killed(&machine, &one(), steps) {
        recovered(&machine, steps % 5);
        same(&format!("killed at {steps}"), &machine.state(), &wanted);
        steps += 1;
        assert!(steps < MOST, "the change never comes to its end");
    }
    assert!(steps > 12, "only {steps} steps");
}

#[test]
fn killed_while_a_link_was_down_what_others_made_on_it_is_not_lost() {
    let machine = machine_of_others(true);
    let before =
        state(&[(1, json!({ "addresses": addresses(&["172.19.0.2/16", "fd00:19::2/64"]) }))], json!({}));
    // Another MAC address takes the link down for a moment.
    let mut after = before.clone();
    after["state"]["interfaces"][0]["mac"] = json!("02:42:ac:13:00:09");
    machine.with_state(&before).verified();
    let wanted = machine.state();
    let mut steps = 0;
    while killed(&machine, &after, steps) {
        recovered(&machine, MOST);
        same(&format!("killed at {steps}"), &machine.state(), &wanted);
        steps += 1;
    }
    assert!(steps > 3, "only {steps} steps");
}
