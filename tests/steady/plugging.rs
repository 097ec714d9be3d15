//! NICs come and go.

use serde_json::{Value, json};

use crate::machine::{MACS, Machine, addresses, same, state};

/// Two NICs, and routes over both of them.
fn two(optional: bool) -> Value {
    let eth0 = json!({ "addresses": addresses(&["172.18.0.2/16", "fd00:18::2/64"]),
        "routes": [{ "destination": "0.0.0.0/0", "gateway": "172.18.0.1" }] });
    let eth1 = json!({ "optional": optional, "mtu": 1400,
        "addresses": addresses(&["172.19.0.2/16", "fd00:19::2/64"]),
        "routes": [{ "destination": "10.19.0.0/16", "gateway": "172.19.0.1" },
                   { "destination": "10.20.0.0/16", "gateway": "172.19.0.1", "table": 100 }] });
    let hops = |family: &str| {
        let gateway = |net: &str| match family {
            "ipv4" => format!("172.{net}.0.9"),
            _ => format!("fd00:{net}::9"),
        };
        json!([{ "interface": "eth0", "gateway": gateway("18") },
               { "interface": "eth1", "gateway": gateway("19"), "weight": 3 }])
    };
    let rest = json!({
        "routes": [{ "destination": "10.30.0.0/16", "hops": hops("ipv4") },
                   { "destination": "fd00:30::/64", "hops": hops("ipv6") }],
        "rules": [{ "priority": 900, "iif": "eth1", "table": 100 }] });
    state(&[(0, eth0), (1, eth1)], rest)
}

/// What is left of a state, without what names the number of an interface: a NIC that is plugged
/// in again has another one.
fn without_numbers(mut state: Vec<String>) -> Vec<String> {
    let number = |line: &String| match line.strip_prefix("address: ").and_then(|rest| rest.split_once(": ")) {
        Some((_, rest)) => format!("address: {rest}"),
        None => line.clone(),
    };
    state.retain(|line| !line.contains(": eth1@"));
    let mut lines: Vec<String> = state.iter().map(number).collect();
    lines.sort();
    lines
}

/// Whether a monitor's line says that something of the other NIC went.
fn is_loss_on_eth0(line: &str) -> bool {
    line.contains(": eth0") && (line.contains("Deleted") || line.contains("state DOWN"))
}

#[test]
fn a_nic_that_comes_later_is_configured_vic_743_kata_12962() {
    let machine = Machine::new(1);
    let mut agent = machine.with_state(&two(true));
    let verified = agent.verified();
    let skipped = verified["skipped"].as_array().expect("a list");
    assert!(skipped.iter().any(|s| s["path"] == "interfaces[1].match"), "{verified}");
    assert!(machine.shows("ip route", "10.30.0.0/16 via 172.18.0.9 dev eth0"), "the hop that is there");
    let monitor = machine.monitor(&["link", "address"]);
    machine.plug(1, "ens4");
    let (_, drift) = agent.drift("interfaces[1].mtu", "MTU");
    assert!(drift["outcome"]["repaired"].is_object(), "{drift}");
    machine.wait_for("ip route", "nexthop via 172.19.0.9 dev eth1");
    assert!(machine.shows("ip -o address", "eth1    inet 172.19.0.2/16"));
    assert!(machine.shows("ip route show table 100", "10.20.0.0/16"));
    // Only it: nothing has happened to the other.
    let seen = machine.seen(&monitor);
    assert_eq!(seen.iter().find(|line| is_loss_on_eth0(line)), None, "{seen:?}");
    // The same document over again has nothing left to do, nor to leave out.
    let verified = agent.again(&two(true));
    assert_eq!((&verified["operations"], &verified["skipped"]), (&json!(0), &json!([])), "{verified}");
}

#[test]
fn a_nic_that_leaves_is_told_and_leaves_nothing_behind_vic_4158() {
    for optional in [true, false] {
        let machine = Machine::new(2);
        let mut agent = machine.with_state(&two(optional));
        agent.verified();
        let whole = without_numbers(machine.state());
        let monitor = machine.monitor(&["link", "address"]);
        for name in ["ens9", "eth7", "eth1", "nic0"] {
            machine.unplug(1);
            let (_, drift) = agent.drift("interfaces[1].match", MACS[1]);
            assert_ne!(drift["outcome"], "failed", "{drift}");
            machine.wait_for("ip route", "10.30.0.0/16 via 172.18.0.9 dev eth0");
            machine.wait_for("ip -6 route", "fd00:30::/64 via fd00:18::9 dev eth0");
            let left = machine.inside.run("ip route show table all");
            assert!(
                !left.contains("10.19.") && !left.contains("10.20.") && !left.contains("172.19."),
                "{left}"
            );
            assert!(machine.shows("ip route", "default via 172.18.0.1 dev eth0"));
            machine.plug(1, name);
            machine.becomes(&format!("everything back, plugged in as {name}"), &whole, without_numbers);
            // One more repair each time: the host's word, lest it is taken for a fight.
            assert_eq!(agent.again(&two(optional))["operations"], 0);
        }
        let seen = machine.seen(&monitor);
        assert_eq!(seen.iter().find(|line| is_loss_on_eth0(line)), None, "{seen:?}");
    }
}

#[test]
fn nics_that_come_and_go_often_are_no_fight() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&two(true));
    agent.verified();
    let whole = without_numbers(machine.state());
    for n in 0..8 {
        machine.unplug(1);
        agent.drift("interfaces[1].match", MACS[1]);
        machine.plug(1, &format!("ens{n}"));
        machine.becomes(&format!("everything back, time {n}"), &whole, without_numbers);
    }
    assert_eq!(agent.events("gave_up"), [Value::Null; 0]);
}

#[test]
fn a_nic_that_leaves_where_drift_is_only_reported_is_told_and_configured_when_it_is_back() {
    let machine = Machine::new(2);
    let mut report = two(true);
    report["state"]["drift"] = json!("report");
    let mut agent = machine.with_state(&report);
    agent.verified();
    let whole = without_numbers(machine.state());
    machine.unplug(1);
    agent.drift("interfaces[1].match", MACS[1]);
    machine.plug(1, "ens8");
    machine.becomes("everything back", &whole, without_numbers);
}

#[test]
fn a_nic_that_left_while_the_agent_was_away_leaves_nothing_behind() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&two(false));
    agent.verified();
    let whole = without_numbers(machine.state());
    agent.process.kill();
    machine.unplug(1);
    let (mut process, lives) = machine.with_host_away(None);
    assert!(lives);
    let left = machine.inside.run("ip route show table all");
    assert!(left.contains("10.30.0.0/16 via 172.18.0.9 dev eth0"), "{left}");
    assert!(!left.contains("10.19.") && !left.contains("10.20."), "{left}");
    machine.plug(1, "ens8");
    machine.becomes("everything back", &whole, without_numbers);
    process.kill();
    let mut agent = machine.with_state(&two(false));
    assert_eq!(agent.verified()["operations"], 0);
    same("after all", &without_numbers(machine.state()), &whole);
}
