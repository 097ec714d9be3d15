//! Others have the guest's addresses.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tether_tests::wait_for;

use crate::machine::{Machine, OTHER_MACS, same, state};

/// The first NIC with these addresses.
fn with(addresses: &[(&str, &str)]) -> Value {
    let address = |(address, check): &(&str, &str)| json!({ "address": address, "conflicts": check });
    let addresses: Value = addresses.iter().map(address).collect();
    state(&[(0, json!({ "addresses": addresses }))], json!({}))
}

#[test]
fn an_address_that_another_has_is_told_with_its_mac_and_stays_vic_8405_7485() {
    let machine = Machine::new(1);
    machine.outside.run("ip address add 172.18.0.2/16 dev p0");
    let mut agent = machine.with_state(&with(&[("172.18.0.2/16", "optimistic")]));
    let started = Instant::now();
    let (at, conflict) = agent.conflict("172.18.0.2");
    assert!(at.duration_since(started) < Duration::from_secs(2), "{:?}", at.duration_since(started));
    assert_eq!(conflict["mac"], OTHER_MACS[0]);
    assert_eq!(conflict["interface"], "eth0");
    assert!(machine.shows("ip address", "172.18.0.2/16"));
    // Not checked, not told.
    let mut unchecked = Machine::new(1);
    unchecked.outside.run("ip address add 172.18.0.2/16 dev p0");
    let mut agent = unchecked.with_state(&with(&[("172.18.0.2/16", "off")]));
    agent.verified();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(agent.events("conflict"), [Value::Null; 0]);
    drop(std::mem::replace(&mut unchecked, machine));
}

#[test]
fn a_neighbour_that_does_not_hear_at_once_is_found_by_the_second_probe() {
    let machine = Machine::new(1);
    machine.outside.run("ip address add 172.18.0.2/16 dev p0");
    // As a link is whose carrier is there while the kernel's link watcher has not seen it.
    machine.outside.run("ip link set p0 arp off");
    let mut agent = machine.with_state(&with(&[("172.18.0.2/16", "optimistic")]));
    agent.verified();
    let verified = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    machine.outside.run("ip link set p0 arp on");
    let (at, conflict) = agent.conflict("172.18.0.2");
    assert!(at.duration_since(verified) < Duration::from_secs(2), "{:?}", at.duration_since(verified));
    assert_eq!(conflict["mac"], OTHER_MACS[0]);
}

#[test]
fn a_strict_address_that_another_has_is_refused_and_a_free_one_verified() {
    let machine = Machine::new(1);
    machine.inside.run("ip address add 192.168.7.7/24 dev ens3");
    machine.outside.run("ip address add 172.18.0.2/16 dev p0");
    let before = machine.state();
    let mut agent = machine.with_state(&with(&[("172.18.0.3/16", "strict"), ("172.18.0.2/16", "strict")]));
    let failure = agent.failed();
    assert_eq!(failure["phase"], "verify");
    assert_eq!(failure["problems"].as_array().map(Vec::len), Some(1), "{failure}");
    assert_eq!(failure["problems"][0]["path"], "interfaces[0].addresses[1]");
    let message = failure["problems"][0]["message"].as_str().expect("a message");
    assert!(message.contains("172.18.0.2") && message.contains(OTHER_MACS[0]), "{message}");
    // hosts and resolv.conf are as before too.
    same("rolled back", &machine.state(), &before);
    let started = Instant::now();
    agent.again(&with(&[("172.18.0.3/16", "strict")]));
    let took = started.elapsed();
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(10), "{took:?}");
    assert!(machine.shows("ip address", "172.18.0.3/16"));
    // It is known to be free: nothing is probed again.
    let started = Instant::now();
    assert_eq!(agent.again(&with(&[("172.18.0.3/16", "strict")]))["operations"], 0);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn an_ipv6_address_that_another_has_is_refused_where_strict() {
    let machine = Machine::new(1);
    machine.outside.run("ip address add fd00:18::2/64 dev p0 nodad");
    let before = machine.state();
    let mut agent = machine.with_state(&with(&[("172.18.0.2/16", "off"), ("fd00:18::2/64", "strict")]));
    let failure = agent.failed();
    assert_eq!(failure["phase"], "verify");
    assert_eq!(failure["problems"][0]["path"], "interfaces[0].addresses[1]");
    let message = failure["problems"][0]["message"].as_str().expect("a message");
    assert!(message.contains("fd00:18::2") && message.contains(OTHER_MACS[0]), "{message}");
    same("rolled back", &machine.state(), &before);
    // A free one is verified once it is known to be free.
    agent.again(&with(&[("fd00:18::3/64", "strict")]));
    let shown = machine.inside.run("ip -o -6 address show dev eth0 to fd00:18::3");
    assert!(!shown.contains("tentative") && shown.contains("fd00:18::3/64"), "{shown}");
}

#[test]
fn an_ipv6_address_that_another_has_is_told_with_its_mac_where_optimistic() {
    let machine = Machine::new(1);
    machine.outside.run("ip address add fd00:18::2/64 dev p0 nodad");
    // The kernel asks once, at once. The other end drops what it would answer until its link watcher
    // has had its turn, up to a second after the link came up.
    machine.inside.run("ip link set ens3 up");
    wait_for("both ends of the link", || {
        let up = |shown: String| shown.contains("state UP");
        (up(machine.outside.run("ip link show p0")) && up(machine.inside.run("ip link show ens3")))
            .then_some(())
    });
    let mut agent = machine.with_state(&with(&[("172.18.0.2/16", "off"), ("fd00:18::2/64", "optimistic")]));
    let started = Instant::now();
    let (at, conflict) = agent.conflict("fd00:18::2");
    println!("IPv6 conflict told {:?} after the start", at.duration_since(started));
    assert_eq!(conflict["mac"], OTHER_MACS[0]);
    // The rest is in force.
    assert!(machine.shows("ip address", "172.18.0.2/16"));
}

#[test]
fn neighbours_that_knew_another_machine_know_this_one_at_once_vic_2932() {
    let machine = Machine::new(1);
    let stale = |address: &str| {
        machine
            .outside
            .run(&format!("ip neigh replace {address} lladdr 02:00:00:00:00:99 dev p0 nud reachable"));
    };
    let corrected = |address: &str| {
        let started = Instant::now();
        wait_for(&format!("{address} to be known"), || {
            machine
                .outside
                .run(&format!("ip neigh show {address}"))
                .contains("02:42:ac:12:00:02")
                .then_some(())
        });
        assert!(started.elapsed() < Duration::from_secs(2), "{address}: {:?}", started.elapsed());
    };
    for address in ["172.18.0.2", "fd00:18::2"] {
        stale(address);
    }
    let mut agent =
        machine.with_state(&with(&[("172.18.0.2/16", "optimistic"), ("fd00:18::2/64", "optimistic")]));
    agent.verified();
    corrected("172.18.0.2");
    // That of IPv6 after duplicate-address detection.
    wait_for("the neighbour", || {
        machine.outside.run("ip neigh show fd00:18::2").contains("02:42:ac:12:00:02").then_some(())
    });
    // One that comes later, and moves here from somebody else.
    stale("172.18.0.5");
    agent.again(&with(&[("172.18.0.2/16", "optimistic"), ("172.18.0.5/16", "optimistic")]));
    corrected("172.18.0.5");
    // And after the link was down.
    stale("172.18.0.2");
    machine.inside.run("ip link set eth0 down");
    agent.drift("interfaces[0]", "eth0 is down");
    stale("172.18.0.2");
    machine.outside.run("busybox ping -c 1 -W 5 172.18.0.5");
}
