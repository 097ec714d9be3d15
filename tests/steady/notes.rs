//! What went wrong elsewhere, by number.

use std::fs;

use serde_json::{Value, json};

use crate::machine::{MACS, Machine, addresses, first, push, same, second, state};

#[test]
fn a_gateway_beyond_a_slash_32_is_on_the_link_kata_7934() {
    let machine = Machine::new(1);
    for onlink in [json!({}), json!({ "onlink": true })] {
        let mut route = json!({ "destination": "0.0.0.0/0", "gateway": "172.18.0.1" });
        if onlink["onlink"] == true {
            route["onlink"] = json!(true);
        }
        let eth0 = json!({ "addresses": addresses(&["172.18.0.2/32"]), "routes": [route] });
        machine.with_state(&state(&[(0, eth0)], json!({}))).verified();
        assert!(machine.shows("ip route", "default via 172.18.0.1 dev eth0 proto 116"));
        machine.inside.run("busybox ping -c 1 -W 5 172.18.0.1");
    }
}

#[test]
fn ipv6_that_is_disabled_is_left_out_and_told_kata_11227() {
    let machine = Machine::new(2);
    machine.inside.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let (_, mut eth0) = first();
    eth0["routes"] = json!([{ "destination": "0.0.0.0/0", "gateway": "172.18.0.1" },
                            { "destination": "::/0", "gateway": "fd00:18::1" }]);
    let mut agent = machine.with_state(&state(&[(0, eth0), second()], json!({})));
    let verified = agent.verified();
    let paths: Vec<&Value> =
        verified["skipped"].as_array().expect("a list").iter().map(|s| &s["path"]).collect();
    assert_eq!(paths, ["interfaces[0].addresses[1]", "interfaces[1].addresses[1]"]);
    assert!(machine.shows("ip address", "172.18.0.2/16"));
    assert_eq!(machine.inside.run("ip -6 address"), "");
    // Allowed later, it is there without another word of the host's.
    machine.inside.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0");
    machine.wait_for("ip -6 address", "fd00:18::2/64");
}

#[test]
fn two_nics_swap_their_names_kata_runtime_785() {
    let machine = Machine::new(2);
    for line in ["ip link set ens3 name eth1", "ip link set ens4 name eth0", "ip link set eth0 up"] {
        machine.inside.run(line);
    }
    let mut agent = machine.with_state(&state(&[first(), second()], json!({})));
    agent.verified();
    let named = |name: &str, mac: &str| machine.shows(&format!("ip -o link show {name}"), mac);
    assert!(named("eth0", MACS[0]) && named("eth1", MACS[1]));
    // And back, while both are up.
    let (mut one, mut two) = (first(), second());
    one.1["name"] = json!("eth1");
    two.1["name"] = json!("eth0");
    agent.again(&state(&[one, two], json!({})));
    assert!(named("eth1", MACS[0]) && named("eth0", MACS[1]));
    machine.inside.run("busybox ping -c 1 -W 5 172.18.0.1");
    machine.inside.run("busybox ping -c 1 -W 5 172.19.0.1");
}

#[test]
fn the_kernels_own_route_to_the_network_is_no_eexist_kata_runtime_736() {
    let machine = Machine::new(1);
    let (_, mut eth0) = first();
    let route = |metric: Value| {
        let mut route = json!([{ "destination": "172.18.0.0/16", "source": "172.18.0.2" }]);
        route[0]["metric"] = metric;
        route
    };
    // It is not for the document to say, which is told before anything is touched.
    eth0["routes"] = route(Value::Null);
    let mut agent = machine.with_state(&state(&[(0, eth0.clone())], json!({})));
    let failure = agent.failed();
    assert_eq!(
        (&failure["phase"], &failure["problems"][0]["path"]),
        (&json!("check"), &json!("interfaces[0].routes[0].destination"))
    );
    // One beside it is.
    eth0["routes"] = route(json!(7));
    let document = state(&[(0, eth0)], json!({}));
    agent.again(&document);
    assert_eq!(machine.inside.run("ip route").matches("172.18.0.0/16").count(), 2);
    assert_eq!(agent.again(&document)["operations"], 0);
    // Nor is one that somebody in the guest has made meanwhile, if it is the same.
    machine.inside.run("ip route add 10.0.0.0/8 via 172.18.0.1");
    let mut more = document.clone();
    push(
        &mut more["state"]["interfaces"][0]["routes"],
        json!({ "destination": "10.0.0.0/8", "gateway": "172.18.0.1" }),
    );
    agent.again(&more);
}

#[test]
fn what_others_made_survives_restarts_and_documents_systemd_25451_19106() {
    let machine = Machine::new(2);
    let document = state(&[first(), second()], json!({}));
    let mut agent = machine.with_state(&document);
    agent.verified();
    for line in [
        "ip address add 192.168.7.7/24 dev eth0",
        "ip route add 192.168.9.0/24 via 192.168.7.1 proto bird metric 7",
        "ip route add 192.168.10.0/24 via 172.18.0.9",
        "ip -6 route add fd00:99::/64 via fd00:18::9",
        "ip route add 10.5.0.0/16 via 172.18.0.9 table 500",
        "ip rule add priority 500 from 192.168.7.0/24 lookup 500",
        "ip -6 rule add priority 501 from fd00:99::/64 lookup 500",
        "ip neigh add 172.18.0.44 lladdr 02:00:00:00:00:44 dev eth0 nud permanent",
    ] {
        machine.inside.run(line);
    }
    let theirs = machine.state();
    agent.process.kill();
    let mut agent = machine.with_state(&document);
    assert_eq!(agent.verified()["operations"], 0);
    same("restarted", &machine.state(), &theirs);
    let mut other = document.clone();
    other["state"]["interfaces"][0]["mtu"] = json!(1300);
    agent.again(&other);
    agent.again(&document);
    same("there and back", &machine.state(), &theirs);
}

#[test]
fn only_what_differs_is_changed_kata() {
    let machine = Machine::new(2);
    let document = state(&[first(), second()], json!({}));
    let mut agent = machine.with_state(&document);
    agent.verified();
    let monitor = machine.monitor(&["link", "address", "route", "rule"]);
    // Links may still become ready, and addresses checked, but nothing may go.
    let routes = || {
        let seen = machine.seen(&monitor);
        let gone = |line: &&String| line.contains("Deleted") || line.contains("state DOWN");
        assert_eq!(seen.iter().find(gone), None, "{seen:?}");
        seen.into_iter().filter(|line| line.contains(" via ")).collect::<Vec<_>>()
    };
    let mut other = document.clone();
    other["state"]["interfaces"][1]["routes"] =
        json!([{ "destination": "10.0.0.0/8", "gateway": "172.19.0.9" }]);
    assert_eq!(agent.again(&other)["operations"], 1);
    let first = "10.0.0.0/8 via 172.19.0.9 dev eth1 proto 116";
    assert_eq!(routes(), [first]);
    // Another default route takes the place of the one before: it is never missing.
    other["state"]["interfaces"][0]["routes"][0]["gateway"] = json!("172.18.0.9");
    assert_eq!(agent.again(&other)["operations"], 1);
    assert_eq!(routes(), [first, "default via 172.18.0.9 dev eth0 proto 116"]);
}

#[test]
fn the_own_name_leads_to_the_bridge_address_and_others_lines_stay_vic_6271_6515() {
    let machine = Machine::new(1);
    let hosts = machine.inside.etc().join("hosts");
    let document = state(&[first()], json!({ "hostname": "steady", "domain": "example" }));
    let mut agent = machine.with_state(&document);
    agent.verified();
    assert!(machine.inside.run("getent ahostsv4 steady").starts_with("172.18.0.2"));
    assert!(machine.inside.run("getent ahostsv4 steady.example").starts_with("172.18.0.2"));
    let text = fs::read_to_string(&hosts).expect("hosts");
    fs::write(&hosts, format!("10.0.0.1 mine\n{text}10.0.0.2 also-mine")).expect("hosts");
    let mut other = document.clone();
    other["state"]["interfaces"][0]["addresses"] = addresses(&["172.18.0.7/16"]);
    agent.again(&other);
    agent.process.kill();
    machine.with_state(&other).verified();
    let text = fs::read_to_string(&hosts).expect("hosts");
    assert!(text.starts_with("10.0.0.1 mine\n") && text.ends_with("10.0.0.2 also-mine"), "{text}");
    assert!(text.contains("172.18.0.7 steady.example steady\n") && !text.contains("172.18.0.2"), "{text}");
}

#[test]
fn the_host_names_the_default_whichever_nic_came_first() {
    let route = |gateway: &str, metric: u32| json!([{ "destination": "0.0.0.0/0", "gateway": gateway, "metric": metric }]);
    for turn in 0..4 {
        let machine = Machine::new(0);
        for nic in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
            machine.plug(nic, &format!("ens{nic}"));
        }
        let (mut one, mut two) = (first(), second());
        one.1["routes"] = route("172.18.0.1", 20);
        two.1["routes"] = route("172.19.0.1", 10);
        let interfaces = if turn < 2 { [one, two] } else { [two, one] };
        machine.with_state(&state(&interfaces, json!({}))).verified();
        let way = machine.inside.run("ip route get 8.8.8.8");
        assert!(way.contains("via 172.19.0.1 dev eth1 src 172.19.0.2"), "{way}");
    }
}

#[test]
fn an_address_without_a_prefix_length_is_told_with_its_path_vic_5083_8309() {
    let machine = Machine::new(1);
    let eth0 = json!({ "addresses": addresses(&["172.18.0.2"]),
        "routes": [{ "destination": "0.0.0.0/0", "gateway": "172.20.0.1" }] });
    let before = machine.state();
    let failure = machine.with_state(&state(&[(0, eth0)], json!({}))).failed();
    assert_eq!(
        (&failure["phase"], &failure["problems"][0]["path"]),
        (&json!("check"), &json!("interfaces[0].addresses[0].address"))
    );
    same("refused", &machine.state(), &before);
}
