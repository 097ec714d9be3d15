use proptest::prelude::*;

use super::*;
use crate::state::{
    Address, Create, DesiredState, Dns, DnsTls, Forward, Hop, Interface, Match, Neighbour, PathRoute, Route,
    Rule,
};

fn address(text: &str) -> Address {
    text.into()
}

fn route(destination: &str, gateway: &str) -> Route {
    let gateway = (!gateway.is_empty()).then(|| gateway.into());
    Route { destination: destination.into(), gateway, ..Route::default() }
}

fn interface(name: &str, mac: &str, addresses: &[&str]) -> Interface {
    Interface {
        matching: Some(Match { mac: Some(mac.into()), ..Match::default() }),
        name: name.into(),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        ..Interface::default()
    }
}

fn good() -> DesiredState {
    let mut eth0 = interface("eth0", "02:42:ac:12:00:02", &["172.18.0.2/16", "fd00:18::2/64"]);
    eth0.mtu = Some(1_500);
    eth0.routes = vec![route("0.0.0.0/0", "172.18.0.1")];
    DesiredState { hostname: "server".into(), interfaces: vec![eth0], ..DesiredState::default() }
}

fn second() -> Interface {
    interface("eth1", "02:42:ac:13:00:02", &["172.19.0.2/16"])
}

fn vlan(name: &str, parent: &str, id: u16) -> Interface {
    let create = Some(Create::Vlan { parent: parent.into(), id });
    Interface { create, name: name.into(), ..Interface::default() }
}

fn problems(change: impl FnOnce(&mut DesiredState)) -> Vec<String> {
    let mut state = good();
    change(&mut state);
    state.check().unwrap_err().iter().map(ToString::to_string).collect()
}

/// The paths of what is wrong.
fn paths(change: impl FnOnce(&mut DesiredState)) -> Vec<String> {
    problems(change).iter().filter_map(|p| Some(p.split_once(": ")?.0.to_owned())).collect()
}

#[test]
fn a_good_state_is_good() {
    let desired = good().check().unwrap();
    assert_eq!(desired.routes[0].metric, 0);
    assert!(DesiredState::default().check().is_ok());
}

#[test]
fn everything_there_is_may_be_wanted() {
    let mut state = good();
    state.domain = "example.org".into();
    let eth0 = &mut state.interfaces[0];
    eth0.alternative_names = vec!["front".into()];
    eth0.addresses.push(Address {
        label: Some("eth0:web".into()),
        scope: Some(Scope::Link),
        valid_s: Some(60),
        preferred_s: Some(30),
        no_prefix_route: true,
        conflicts: ConflictCheck::Strict,
        ..address("10.6.0.3/24")
    });
    eth0.addresses.push(Address { peer: Some("10.7.0.1".into()), ..address("10.7.0.2/32") });
    eth0.routes.push(Route { source: Some("10.6.0.3".into()), mtu: Some(1_400), ..route("10.0.0.0/8", "") });
    eth0.routes.push(route("10.1.0.0/16", "fe80::1"));
    eth0.neighbours = vec![Neighbour { address: "172.18.0.1".into(), mac: "02:42:ac:12:00:01".into() }];
    state.interfaces.push(second());
    state.interfaces.push(vlan("eth0.5", "eth0", 5));
    state.interfaces.push(vlan("inner", "eth0.5", 7));
    state.interfaces.push(Interface {
        create: Some(Create::Dummy {}),
        name: "dummy0".into(),
        addresses: vec![address("172.18.0.9/32")],
        ..Interface::default()
    });
    let mut lo = interface("lo", "", &["127.0.0.5/8", "10.9.0.1/32"]);
    lo.matching = Some(Match { name: Some("lo".into()), ..Match::default() });
    state.interfaces.push(lo);
    let hop = |interface: &str, gateway: &str, weight| Hop {
        interface: interface.into(),
        gateway: Some(gateway.into()),
        weight,
        ..Hop::default()
    };
    state.routes.push(PathRoute {
        destination: "192.168.0.0/16".into(),
        hops: vec![hop("eth0", "172.18.0.1", Some(2)), hop("eth1", "172.19.0.1", None)],
        table: Some(7),
        ..PathRoute::default()
    });
    state.routes.push(PathRoute {
        destination: "fd00:bad::/32".into(),
        kind: RouteType::Blackhole,
        ..PathRoute::default()
    });
    state.rules.push(Rule {
        priority: 100,
        from: Some("172.18.0.0/16".into()),
        table: 7,
        suppress_prefixlength: Some(0),
        ..Rule::default()
    });
    let desired = state.check().unwrap();
    assert_eq!(desired.routes.len(), 5);
    assert_eq!(desired.interfaces[4].device, DesiredDevice::Dummy);
    assert_eq!(desired.interfaces[3].device, DesiredDevice::Vlan { parent: 2, id: 7 });
}

#[test]
fn an_unreachable_gateway_is_named_with_its_path() {
    let found = problems(|state| {
        let mut second = second();
        second.routes = vec![Route { metric: Some(5), ..route("0.0.0.0/0", "172.18.0.1") }];
        state.interfaces.push(second);
    });
    assert_eq!(found, ["interfaces[1].routes[0].gateway: 172.18.0.1 is not reachable through 172.19.0.2/16"]);
}

#[test]
fn a_gateway_on_the_link_is_understood() {
    let onlink = |addresses: &[&str], routes: Vec<Route>| {
        let mut eth0 = interface("eth0", "02:42:ac:12:00:02", addresses);
        eth0.routes = routes;
        DesiredState { interfaces: vec![eth0], ..DesiredState::default() }.check()
    };
    // A /32 and a router: the classic of clouds (kata-containers#7934).
    let desired = onlink(&["10.0.0.2/32"], vec![route("0.0.0.0/0", "10.0.0.1")]).unwrap();
    assert!(desired.routes[0].hops[0].onlink);
    // A route that leads to the router makes it reachable.
    let to_router = vec![route("10.9.0.1/32", ""), route("0.0.0.0/0", "10.9.0.1")];
    let desired = onlink(&["10.0.0.2/24"], to_router).unwrap();
    assert!(!desired.routes[1].hops[0].onlink);
    let said = Route { onlink: true, ..route("0.0.0.0/0", "10.9.0.1") };
    assert!(onlink(&["10.0.0.2/24"], vec![said]).unwrap().routes[0].hops[0].onlink);
    assert!(onlink(&["10.0.0.2/24"], vec![route("0.0.0.0/0", "10.9.0.1")]).is_err());
}

#[test]
fn every_problem_is_found_at_once() {
    let found = paths(|state| {
        state.hostname = "not a host".into();
        state.confirm_s = Some(0);
        let eth0 = &mut state.interfaces[0];
        eth0.matching = Some(Match { mac: Some("ff:ff:ff:ff:ff:ff".into()), ..Match::default() });
        eth0.name = "far-too-long-a-name".into();
        eth0.mtu = Some(576);
        eth0.ipv4.rp_filter = Some(3);
        eth0.addresses.push(address("224.0.0.1/24"));
        eth0.routes[0].destination = "10.0.0.1/8".into();
        state.rules.push(Rule { priority: 5, table: 77, ..Rule::default() });
        state.dns.upstreams = vec!["127.0.0.11".into(), "fe80::53".into()];
        state.dns.options = vec!["ndots:1\nnameserver 6.6.6.6".into()];
        state.workload = Some(Workload::default());
    });
    assert_eq!(
        found,
        [
            "hostname",
            "interfaces[0].name",
            "interfaces[0].match.mac",
            "interfaces[0].ipv4.rp_filter",
            "interfaces[0].addresses[2].address",
            "interfaces[0].mtu",
            "interfaces[0].routes[0].destination",
            "rules[0].table",
            "dns.upstreams[0]",
            "dns.upstreams[1]",
            "dns.options[0]",
            "confirm_s",
            "workload.argv",
        ]
    );
}

/// One change each, the path of what is wrong with it, and a word of what is said.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn bad_values_are_told_where_they_are() {
    type Change = fn(&mut DesiredState);
    let cases: &[(Change, &str, &str)] = &[
        (|s| s.interfaces[0].name = "a/b".into(), "interfaces[0].name", "'/'"),
        (|s| s.interfaces[0].name = "sixteen-bytes-xx".into(), "interfaces[0].name", "15 at most"),
        (
            |s| s.interfaces[0].addresses[0] = address("10.0.0.1/33"),
            "interfaces[0].addresses[0].address",
            "0 to 32",
        ),
        (
            |s| s.interfaces[0].addresses[0] = address("fd00::1/129"),
            "interfaces[0].addresses[0].address",
            "0 to 128",
        ),
        (
            |s| s.interfaces[0].addresses[0] = address("0.0.0.0/8"),
            "interfaces[0].addresses[0].address",
            "own",
        ),
        (|s| s.interfaces[0].mtu = Some(1_279), "interfaces[0].mtu", "1280"),
        (|s| s.interfaces.push(second()), "", ""),
        (|s| s.interfaces.push(interface("eth0", "02:00:00:00:00:05", &[])), "interfaces[1].name", "again"),
        (
            |s| s.interfaces.push(interface("eth1", "02:42:ac:12:00:02", &[])),
            "interfaces[1].match.mac",
            "again",
        ),
        (
            |s| s.interfaces.push(interface("eth1", "02:00:00:00:00:05", &["172.18.0.2/24"])),
            "interfaces[1].addresses[0].address",
            "again",
        ),
        (
            |s| s.interfaces.push(interface("eth1", "02:00:00:00:00:05", &["172.18.7.2/24"])),
            "interfaces[1].addresses[0].address",
            "part of 172.18.0.0/16",
        ),
        (
            |s| {
                let mut eth1 = second();
                eth1.routes = vec![route("0.0.0.0/0", "172.19.0.1")];
                s.interfaces.push(eth1);
            },
            "interfaces[1].routes[0]",
            "interfaces[0].routes[0] again",
        ),
        (
            |s| {
                s.interfaces.push(vlan("a", "b", 1));
                s.interfaces.push(vlan("b", "a", 2));
            },
            "interfaces[1].create.vlan.parent",
            "itself",
        ),
        (|s| s.interfaces.push(vlan("a", "a", 1)), "interfaces[1].create.vlan.parent", "itself"),
        (|s| s.interfaces.push(vlan("a", "eth9", 1)), "interfaces[1].create.vlan.parent", "eth9"),
        (|s| s.interfaces.push(vlan("a", "eth0", 4_095)), "interfaces[1].create.vlan.id", "1 to 4094"),
        (
            |s| {
                s.interfaces.push(vlan("a", "eth0", 9));
                s.interfaces.push(vlan("b", "eth0", 9));
            },
            "interfaces[2].create.vlan.id",
            "VLAN 9",
        ),
        (|s| s.interfaces[0].create = Some(Create::Dummy {}), "interfaces[0].create", "either"),
        (|s| s.interfaces[0].matching = None, "interfaces[0].match", "missing"),
        (|s| s.interfaces[0].matching = Some(Match::default()), "interfaces[0].match", "empty"),
        (
            |s| s.interfaces[0].matching = Some(Match { pci: Some("x".into()), ..Match::default() }),
            "interfaces[0].match.pci",
            "PCI",
        ),
        (|s| s.interfaces[0].name = "lo".into(), "interfaces[0].name", "loopback"),
        (
            |s| s.interfaces[0].alternative_names = vec!["eth0".into()],
            "interfaces[0].alternative_names[0]",
            "again",
        ),
        (
            |s| s.interfaces[0].alternative_names = vec!["x".repeat(128)],
            "interfaces[0].alternative_names[0]",
            "127",
        ),
        (|s| s.interfaces[0].mac = Some("01:00:00:00:00:00".into()), "interfaces[0].mac", "unicast"),
        (|s| s.interfaces[0].down = true, "interfaces[0].addresses", "kept down"),
        (
            |s| s.interfaces[0].ipv6.disable_ipv6 = Some(true),
            "interfaces[0].addresses[1].address",
            "disable_ipv6",
        ),
        (
            |s| s.interfaces[0].addresses[0].label = Some("web".into()),
            "interfaces[0].addresses[0].label",
            "label",
        ),
        (
            |s| s.interfaces[0].addresses[1].label = Some("eth0:x".into()),
            "interfaces[0].addresses[1].label",
            "IPv4",
        ),
        (|s| s.interfaces[0].addresses[0].home = true, "interfaces[0].addresses[0].home", "IPv6"),
        (|s| s.interfaces[0].addresses[0].valid_s = Some(0), "interfaces[0].addresses[0].valid_s", "never"),
        (
            |s| {
                let a = &mut s.interfaces[0].addresses[0];
                (a.valid_s, a.preferred_s) = (Some(5), Some(6));
            },
            "interfaces[0].addresses[0].preferred_s",
            "longer",
        ),
        (
            |s| s.interfaces[0].addresses[0].peer = Some("fd00::1".into()),
            "interfaces[0].addresses[0].peer",
            "family",
        ),
        (|s| s.interfaces[0].routes[0].table = Some(255), "interfaces[0].routes[0].table", "254"),
        (
            |s| s.interfaces[0].routes[0].source = Some("10.0.0.1".into()),
            "interfaces[0].routes[0].source",
            "no address of this document",
        ),
        (
            |s| s.interfaces[0].routes[0].gateway = Some("172.18.0.2".into()),
            "interfaces[0].routes[0].gateway",
            "own address",
        ),
        (
            |s| s.interfaces[0].routes.push(route("fd00:9::/64", "172.18.0.1")),
            "interfaces[0].routes[1].gateway",
            "family",
        ),
        (
            |s| s.interfaces[0].routes[0].preference = Some(Preference::High),
            "interfaces[0].routes[0].preference",
            "IPv6",
        ),
        (
            |s| s.interfaces[0].routes.push(route("224.0.0.0/4", "")),
            "interfaces[0].routes[1].destination",
            "multicast",
        ),
        (
            |s| s.routes.push(PathRoute { destination: "10.0.0.0/8".into(), ..PathRoute::default() }),
            "routes[0].hops",
            "at least one",
        ),
        (
            |s| {
                s.routes.push(PathRoute {
                    destination: "10.0.0.0/8".into(),
                    hops: vec![Hop { interface: "eth7".into(), ..Hop::default() }],
                    ..PathRoute::default()
                });
            },
            "routes[0].hops[0].interface",
            "eth7",
        ),
        (
            |s| {
                s.routes.push(PathRoute {
                    destination: "10.0.0.0/8".into(),
                    kind: RouteType::Throw,
                    hops: vec![Hop { interface: "eth0".into(), ..Hop::default() }],
                    ..PathRoute::default()
                });
            },
            "routes[0].hops",
            "no next hop",
        ),
        (
            |s| s.rules.push(Rule { priority: 32_766, table: 254, ..Rule::default() }),
            "rules[0].priority",
            "32765",
        ),
        (
            |s| s.rules.push(Rule { priority: 9, table: 254, fwmask: Some(1), ..Rule::default() }),
            "rules[0].fwmask",
            "fwmark",
        ),
        (
            |s| s.rules = vec![Rule { priority: 9, table: 254, ..Rule::default() }; 2],
            "rules[1].priority",
            "again",
        ),
        (
            |s| s.interfaces[0].routes = vec![Route::default(); 100_000],
            "interfaces[].routes and routes",
            "16384 at most",
        ),
    ];
    for (change, path, word) in cases {
        let mut state = good();
        change(&mut state);
        let found: Vec<String> =
            state.check().err().unwrap_or_default().iter().map(ToString::to_string).collect();
        let told = found.iter().any(|line| line.starts_with(&format!("{path}: ")) && line.contains(word));
        assert!(told || (path.is_empty() && found.is_empty()), "{path} {word}: {found:#?}");
    }
}

#[test]
fn the_kernels_own_routes_are_left_to_it() {
    let found = paths(|state| {
        let with = |destination: &str, metric| Route { metric, ..route(destination, "") };
        let routes = &mut state.interfaces[0].routes;
        routes.push(with("172.18.0.0/16", None));
        routes.push(with("172.18.0.0/16", Some(7)));
        routes.push(with("fd00:18::/64", Some(256)));
        routes.push(with("fd00:18::/64", None));
    });
    assert_eq!(found, ["interfaces[0].routes[1].destination", "interfaces[0].routes[3].destination"]);
}

#[test]
fn network_and_broadcast_addresses_are_no_hosts() {
    for (text, good) in [
        ("172.18.0.0/16", false),
        ("172.18.255.255/16", false),
        ("10.0.0.0/31", true),
        ("10.0.0.0/32", true),
        ("255.255.255.255/32", false),
        ("127.0.0.1/8", false),
        ("::ffff:10.0.0.1/120", false),
        ("fe80::5/64", true),
    ] {
        let state = DesiredState {
            interfaces: vec![interface("eth0", "02:00:00:00:00:01", &[text])],
            ..DesiredState::default()
        };
        assert_eq!(state.check().is_ok(), good, "{text}");
    }
}

proptest! {
    /// Whatever is written in a document, it is checked and not choked on.
    #[test]
    fn no_text_is_too_strange(texts in prop::collection::vec("[a-f0-9:./%\\- ]{0,24}|\\PC{0,12}", 12), n in any::<u32>()) {
        let mut state = good();
        let text = |i: usize| texts[i].clone();
        let eth0 = &mut state.interfaces[0];
        eth0.matching = Some(Match { mac: Some(text(0)), pci: Some(text(1)), name: Some(text(2)) });
        eth0.addresses.push(Address { peer: Some(text(3)), label: Some(text(4)), ..address(&texts[5]) });
        eth0.routes.push(Route { metric: Some(n), table: Some(n), ..route(&texts[6], &texts[7]) });
        eth0.neighbours.push(Neighbour { address: text(8), mac: text(9) });
        state.interfaces.push(vlan(&texts[10], &texts[11], 7));
        state.rules.push(Rule { priority: n, from: Some(text(6)), iif: Some(text(10)), table: n, ..Rule::default() });
        let tls = DnsTls { name: text(0), ca: text(1) };
        let forward = Forward { domains: texts.clone(), servers: texts.clone(), interface: Some(text(2)), tls: Some(tls) };
        state.dns = Dns {
            upstreams: texts.clone(),
            forward: vec![forward],
            search: texts.clone(),
            options: texts.clone(),
            listen: texts[..8].to_vec(),
            cache_kib: Some(n),
            ..Dns::default()
        };
        let _ = state.check();
    }
}
