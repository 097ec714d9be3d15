//! What only a real kernel of the image's version has: VLANs, dummies, places on the PCI bus, and
//! links that have to be down to be renamed (before Linux 6.2).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tether_host::{
    message::{Phase, Verified},
    state::DesiredState,
};
use tether_tests::{Driven, Socket, on_site};
use tokio::time::sleep;

fn state(interfaces: &Value) -> DesiredState {
    serde_json::from_value(json!({ "interfaces": interfaces })).expect("a document")
}

/// Everything there is of networking in a machine, and what may change by itself is not in it.
async fn snapshot(machine: &Driven) -> Vec<String> {
    let said = machine
        .shell(
            "ip link; ip address; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; \
             tail -n +3 /proc/net/vlan/config 2>/dev/null; cd /proc/sys/net; grep -r . ipv4/conf ipv6/conf 2>/dev/null; hostname",
        )
        .await;
    assert!(said.lines().count() > 100, "{said}");
    let mut lines: Vec<String> = said
        .lines()
        .map(|line| line.split(" expires ").next().unwrap_or(line).replace(" tentative", ""))
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.sort();
    lines
}

/// Waits until every link, all of them up, has the link-local address that the kernel makes in its
/// own time, and every address has been checked (`flags 04` are the optimistic ones).
async fn quiet(machine: &Driven) {
    let checked = "! ip -6 address | grep -q 'tentative\\|flags 0'";
    let complete = "[ $(ip -6 address | grep -c 'inet6 fe80') = $(ip link | grep -c link/ether) ]";
    machine.shell(&format!("until {checked} && {complete}; do sleep 0.1; done")).await;
}

/// Waits until it is again as it was: addresses that were made anew are checked first.
async fn is_as_before(machine: &Driven, before: &[String]) {
    let end = Instant::now() + Duration::from_secs(6);
    loop {
        let now = snapshot(machine).await;
        let of = |one: &[String], other: &[String]| -> Vec<String> {
            one.iter().filter(|line| !other.contains(line)).cloned().collect()
        };
        if now == before {
            return;
        }
        assert!(Instant::now() < end, "gone: {:#?}\nnew: {:#?}", of(before, &now), of(&now, before));
        sleep(Duration::from_millis(200)).await;
    }
}

/// The name, MTU and MAC address of every interface but the loopback and the tether's.
fn links(verified: &Verified) -> Vec<(&str, u32, &str)> {
    let interfaces = verified.observed.interfaces.iter().filter(|interface| interface.name != "lo");
    interfaces.map(|interface| (&*interface.name, interface.mtu, &*interface.mac)).collect()
}

/// Waits for an answer. IPv6 asks for no neighbour as long as its own link-local address is being
/// checked (RFC 4429), so the first packets may be lost.
async fn pings(machine: &Driven, to: &str) {
    let once = format!("ping -c 1 -W 1 -s 1300 {to}");
    let said = machine.shell(&format!("for try in 1 2 3 4 5 6 7 8; do {once} && break; done")).await;
    assert!(said.contains("1 packets received"), "{to}: {said}\n{}", snapshot(machine).await.join("\n"));
}

const MACS: [&str; 2] = ["02:42:ac:1e:00:01", "02:42:ac:1e:00:02"];

/// VLAN 5 of `eth0`, VLAN 7 inside, and a dummy whose network leads over VLAN 5 from the other
/// machine. `own` and `other` are the two machines' numbers.
fn devices(own: usize, other: usize, mtu: u32) -> Value {
    json!([
        { "create": { "vlan": { "parent": "eth0.5", "id": 7 } }, "name": "inner", "mtu": 1350,
          "addresses": [{ "address": format!("10.7.0.{own}/24") }, { "address": format!("fd00:7::{own}/64") }] },
        { "create": { "vlan": { "parent": "eth0", "id": 5 } }, "name": "eth0.5",
          "addresses": [{ "address": format!("10.5.0.{own}/24") }, { "address": format!("fd00:5::{own}/64") }],
          "routes": [{ "destination": format!("10.50.{other}.0/24"), "gateway": format!("10.5.0.{other}") },
                     { "destination": "10.60.0.0/16", "metric": 9 },
                     { "destination": "fd00:60::/64", "gateway": "fd00:5::77" }] },
        { "match": { "mac": MACS[own - 1] }, "name": "eth0", "mtu": mtu,
          "addresses": [{ "address": format!("172.30.0.{own}/16") }] },
        { "create": { "dummy": {} }, "name": "dummy0", "mac": "02:42:00:00:00:99",
          "addresses": [{ "address": format!("10.50.{own}.1/24") }, { "address": format!("fd00:50::{own}/128") }] },
    ])
}

#[test]
fn vlans_and_dummies_are_made_carry_packets_and_go_again() {
    on_site(&super::image(), async |site| {
        let nic = |number: usize| Socket { mac: MACS[number - 1], place: "addr=5" };
        let one = site.machine(1, &[], &[nic(1)]).await;
        let two = site.machine(2, &[], &[nic(2)]).await;
        let plain = json!([{ "match": { "mac": MACS[0] }, "name": "eth0", "addresses": [{ "address": "172.30.0.1/16" }] }]);
        one.apply(state(&plain)).await.expect("no VLANs yet");
        // Nobody has asked for these yet, and dummy's own device is not wanted either.
        let modules = one.shell("cat /proc/modules").await;
        assert!(modules.contains("virtio_net") && !modules.contains("8021q") && !modules.contains("dummy"));
        quiet(&one).await;
        let bare = snapshot(&one).await;
        let verified = one.apply(state(&devices(1, 2, 1400))).await.expect("VLANs");
        let dummy = ("dummy0", 1500, "02:42:00:00:00:99");
        let mut made = links(&verified);
        made.sort_unstable();
        assert_eq!(
            made,
            [dummy, ("eth0", 1400, MACS[0]), ("eth0.5", 1400, MACS[0]), ("inner", 1350, MACS[0])]
        );
        two.apply(state(&devices(2, 1, 1400))).await.expect("VLANs");
        for address in ["172.30.0.2", "10.5.0.2", "fd00:5::2", "10.7.0.2", "fd00:7::2", "10.50.2.1"] {
            pings(&one, address).await;
        }
        let told = one.shell("cat /proc/net/vlan/config").await;
        let vlans: Vec<String> = told.lines().skip(2).map(|line| line.replace(' ', "")).collect();
        assert_eq!(vlans, ["eth0.5|5|eth0", "inner|7|eth0.5"]);
        assert_eq!(one.apply(state(&devices(1, 2, 1400))).await.expect("the same").operations, 0);

        // Up and down again: a VLAN's MTU is never above its parent's, the kernel says.
        for mtu in [1480, 1380] {
            let verified = one.apply(state(&devices(1, 2, mtu))).await.expect("another MTU");
            let mut now = links(&verified);
            now.sort_unstable();
            let expected =
                [dummy, ("eth0", mtu, MACS[0]), ("eth0.5", mtu, MACS[0]), ("inner", 1350, MACS[0])];
            assert_eq!(now, expected);
        }

        // The kernel refuses the last operation: the new devices go, what had to go comes back.
        let before = snapshot(&one).await;
        let mut refused = devices(1, 2, 1490);
        let interfaces = refused.as_array_mut().expect("a list");
        interfaces[1]["create"]["vlan"]["id"] = json!(6);
        interfaces[3]["name"] = json!("dummy1");
        interfaces.push(json!({
            "create": { "vlan": { "parent": "eth0", "id": 9 } }, "name": "nine",
            "addresses": [{ "address": "10.9.0.1/24" }],
            "routes": [{ "destination": "10.90.0.0/16", "gateway": "10.9.0.7", "scope": "link" }],
        }));
        let failure = one.refuse(state(&refused)).await;
        assert_eq!((failure.phase, failure.restored), (Phase::Apply, true), "{failure:?}");
        assert_eq!(failure.problems[0].path, "interfaces[4].routes[0]", "{failure:?}");
        is_as_before(&one, &before).await;
        for address in ["10.5.0.2", "10.7.0.2", "10.50.2.1"] {
            pings(&one, address).await;
        }

        let verified = one.apply(state(&plain)).await.expect("no VLANs any more");
        assert_eq!(links(&verified), [("eth0", 1500, MACS[0])]);
        is_as_before(&one, &bare).await;
    });
}

/// The NIC on the root bus, and the one behind two bridges.
const NEAR: &str = "02:42:ac:1e:00:0a";
const FAR: &str = "02:42:ac:1e:00:0b";

/// A document of both, found by their places, `near` and `far` being their names.
fn by_place(near: &str, far: &str) -> Value {
    json!([
        { "match": { "pci": "0000:00:05.0" }, "name": near, "alternative_names": ["near"],
          "addresses": [{ "address": "172.30.0.3/16" }, { "address": "fd00:30::3/64" }],
          "routes": [{ "destination": "0.0.0.0/0", "gateway": "172.30.0.254" },
                     { "destination": "::/0", "gateway": "fd00:30::fe" }] },
        // The number of the bus is the firmware's.
        { "match": { "pci": "06.0/00.0/03.0", "mac": FAR }, "name": far, "ipv4": { "rp_filter": 2 },
          "addresses": [{ "address": "172.31.0.3/16", "label": format!("{far}:0") }, { "address": "fd00:31::3/64" }],
          "routes": [{ "destination": "10.0.0.0/8", "gateway": "172.31.0.254", "metric": 5 },
                     { "destination": "fd00:32::/32", "gateway": "fd00:31::fe" }],
          "neighbours": [{ "address": "172.31.0.254", "mac": "02:00:00:00:00:77" }] },
        { "create": { "vlan": { "parent": near, "id": 5 } }, "name": "five",
          "addresses": [{ "address": "10.5.0.3/24" }, { "address": "fd00:5::3/64" }],
          "routes": [{ "destination": "10.50.0.0/16", "gateway": "10.5.0.2" }] },
    ])
}

#[test]
fn nics_are_found_by_their_place_on_the_bus_and_swap_their_names() {
    on_site(&super::image(), async |site| {
        site.space.run("ip address add 172.30.0.254/16 dev bridge");
        let bridges = ["pcie-root-port,id=rp0,chassis=1,addr=6", "pcie-pci-bridge,id=br0,bus=rp0"];
        let nics =
            [Socket { mac: FAR, place: "bus=br0,addr=3" }, Socket { mac: NEAR, place: "bus=pcie.0,addr=5" }];
        let machine = site.machine(3, &bridges, &nics).await;
        let verified = machine.apply(state(&by_place("eth0", "eth1"))).await.expect("two NICs");
        let mut found = links(&verified);
        found.sort_unstable();
        assert_eq!(found, [("eth0", 1500, NEAR), ("eth1", 1500, FAR), ("five", 1500, NEAR)]);
        pings(&machine, "172.30.0.254").await;

        // Names change hands while everything is in use; all else stays.
        quiet(&machine).await;
        let before = snapshot(&machine).await;
        machine.apply(state(&by_place("eth1", "eth0"))).await.expect("swapped");
        let swapped =
            |line: &String| line.replace("eth0", "ethX").replace("eth1", "eth0").replace("ethX", "eth1");
        let mut expected: Vec<String> = before.iter().map(swapped).collect();
        expected.sort();
        is_as_before(&machine, &expected).await;
        pings(&machine, "172.30.0.254").await;
        machine.apply(state(&by_place("eth0", "eth1"))).await.expect("swapped back");
        is_as_before(&machine, &before).await;

        // Wrong places, after the time in which a NIC may still be plugged in.
        let mut wrong = by_place("eth0", "eth1");
        wrong[0]["match"]["pci"] = json!("06.0/03.0");
        wrong[1]["match"]["mac"] = json!(NEAR);
        let failure = machine.refuse(state(&wrong)).await;
        assert_eq!((failure.phase, failure.restored), (Phase::Plan, true), "{failure:?}");
        let problems: Vec<String> = failure.problems.iter().map(ToString::to_string).collect();
        let there = problems[0].split_once("there are ").expect("who is there").1;
        assert!(
            problems[0].starts_with("interfaces[0].match: no interface is at PCI 06.0/03.0; "),
            "{problems:?}"
        );
        assert!(
            problems[1].starts_with(
                "interfaces[1].match: no interface is 02:42:ac:1e:00:0a and at PCI 06.0/00.0/03.0; "
            ),
            "{problems:?}"
        );
        for candidate in
            [format!("eth0 ({NEAR}, PCI 0000:00:05.0)"), format!("eth1 ({FAR}, PCI 0000:02:03.0)")]
        {
            assert!(there.contains(&candidate), "{problems:?}");
        }
        is_as_before(&machine, &before).await;
    });
}
