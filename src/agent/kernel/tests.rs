//! What is sent, read as if the kernel told it: the crate writes, the modules beside read.

use netlink_packet_core::Emitable;
use proptest::{collection::vec, prelude::*};

use super::{address, link, neighbour, requests::Batch, route, rule, socket::messages};
use crate::plan::{
    Address, Hop, KernelState, Lifetime, Link, LinkKind, Neighbour, RTN_UNICAST, RawAttribute, Route, Rule,
    TABLE_MAIN,
};

fn bytes(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn route_to(destination: &str, hops: &[(u32, Option<&str>)]) -> Route {
    let hop = |(link, gateway): &(u32, Option<&str>)| Hop {
        link: *link,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        onlink: false,
        weight: 1,
    };
    Route {
        table: TABLE_MAIN,
        destination: destination.parse().unwrap(),
        tos: 0,
        metric: 0,
        kind: RTN_UNICAST,
        scope: 0,
        protocol: 116,
        source: None,
        mtu: 0,
        preference: 0,
        hops: hops.iter().map(hop).collect(),
        rest: Vec::new(),
    }
}

#[test]
fn routes_come_back_as_they_went() {
    let mut routes = vec![
        route_to("0.0.0.0/0", &[(2, Some("10.0.0.1"))]),
        route_to("10.1.0.0/16", &[(2, Some("fe80::1"))]),
        route_to("fd00::/8", &[(2, Some("fe80::1"))]),
        route_to("10.2.0.0/16", &[(2, Some("10.0.0.1")), (2, Some("fe80::1")), (3, None)]),
        Route { kind: 6, ..route_to("fd01::/16", &[]) },
        Route { table: 1000, metric: 7, mtu: 1400, tos: 8, ..route_to("10.3.0.0/16", &[(2, None)]) },
        Route { source: "10.0.0.5".parse().ok(), scope: 253, ..route_to("10.4.0.0/16", &[(2, None)]) },
        Route { preference: 3, metric: 1024, ..route_to("fd02::/16", &[(2, Some("fe80::1"))]) },
    ];
    routes[0].hops[0].onlink = true;
    routes[3].hops[1].weight = 256;
    routes[3].hops[2].onlink = true;
    routes[5].rest.push(RawAttribute { kind: 8, value: vec![8, 0, 10, 0, 64, 0, 0, 0] });
    routes[6].rest.push(RawAttribute { kind: 11, value: vec![1, 0, 2, 0] });
    for route in routes {
        assert_eq!(route::read(&bytes(&route::whole(&route))), Some(route));
    }
}

#[test]
fn several_hops_of_a_strange_kind_are_passed_on_without_their_state() {
    // A hop that is dead, with a realm.
    let hop = [16, 0, 1, 0, 2, 0, 0, 0, 8, 0, 11, 0, 1, 0, 0, 0];
    let mut route = route_to("10.0.0.0/8", &[]);
    route.rest.push(RawAttribute { kind: 9, value: hop.to_vec() });
    let read = route::read(&bytes(&route::whole(&route))).unwrap();
    assert!(read.hops.is_empty());
    assert_eq!(read.rest[0].value[2], 0);
    assert_eq!(read.rest[0].value[3..], hop[3..]);
}

#[test]
fn what_a_next_hop_object_resolves_to_is_not_kept() {
    let mut route = route_to("10.0.0.0/8", &[(2, Some("10.0.0.1"))]);
    route.rest.push(RawAttribute { kind: 30, value: vec![5, 0, 0, 0] });
    let read = route::read(&bytes(&route::whole(&route))).unwrap();
    assert!(read.hops.is_empty());
    assert_eq!(read.rest, route.rest);
}

#[test]
fn addresses_come_back_as_they_went() {
    let mut plain = Address::ours(3, "10.0.0.2/24".parse().unwrap());
    // Only the kernel's links tell whether it is the default.
    plain.label = Some("eth0:web".into());
    for address in [
        plain.clone(),
        Address { peer: "10.0.0.3".parse().ok(), scope: 253, ..plain.clone() },
        Address { nodad: true, ..Address::ours(3, "fd00::1/64".parse().unwrap()) },
        Address { home: true, optimistic: true, ..Address::ours(3, "fd00::1/64".parse().unwrap()) },
        Address {
            peer: "fd00::2".parse().ok(),
            no_prefix_route: true,
            ..Address::ours(3, "fd00::1/128".parse().unwrap())
        },
    ] {
        assert_eq!(address::read(&bytes(&address::whole(&address))), Some(address));
    }
    // How old it is was told by nobody.
    let lifetime = Some(Lifetime { valid: u32::MAX, preferred: 0 });
    let address = Address { lifetime, ..plain };
    assert_eq!(address::read(&bytes(&address::whole(&address))).unwrap().lifetime, lifetime);
}

#[test]
fn rules_come_back_as_they_went() {
    let plain = Rule {
        ipv6: false,
        priority: 100,
        from: "10.0.0.0/8".parse().ok(),
        to: None,
        iif: Some("eth0".into()),
        oif: None,
        fwmark: 0,
        fwmask: 0,
        table: 1000,
        suppress_prefix_length: Some(0),
        protocol: 116,
        action: 1,
        opaque: false,
    };
    for rule in [
        plain.clone(),
        Rule { fwmark: 7, fwmask: 0xff, table: TABLE_MAIN, suppress_prefix_length: None, ..plain.clone() },
        Rule {
            ipv6: true,
            from: None,
            to: "fd00::/8".parse().ok(),
            iif: None,
            oif: Some("lo".into()),
            ..plain.clone()
        },
        Rule { fwmask: 0xff, priority: 0, ..plain.clone() },
    ] {
        assert_eq!(rule::read(&bytes(&rule::whole(&rule))), Some(rule));
    }
    let kernels = Rule { from: None, iif: None, priority: 32766, table: TABLE_MAIN, protocol: 2, ..plain };
    assert_eq!(rule::read(&bytes(&rule::whole(&kernels))), None);
}

#[test]
fn neighbours_come_back_as_they_went() {
    for address in ["10.0.0.1", "fe80::1"] {
        let address = address.parse().unwrap();
        let neighbour =
            Neighbour { link: 2, address, mac: "02:00:00:00:00:01".parse().unwrap(), protocol: 116 };
        assert_eq!(neighbour::read(&bytes(&neighbour::whole(&neighbour))), Some(neighbour));
    }
}

#[test]
fn links_come_back_as_they_went() {
    let vlan = Link {
        index: 7,
        name: "vlan5".into(),
        kind: LinkKind::Vlan { parent: 2, id: 5 },
        group: 116,
        mac: "02:00:00:00:00:01".parse().ok(),
        ..Link::default()
    };
    let dummy = Link { kind: LinkKind::Dummy, mac: None, ..vlan.clone() };
    for link in [vlan, dummy] {
        assert_eq!(link::read(&bytes(&link::new(&link))), Some(link));
    }
}

#[test]
fn a_batch_is_a_chain_of_messages() {
    let mut batch = Batch::default();
    for index in 0..3 {
        batch.push(19, 0, &link::up_or_down(index, true));
        batch.push(19, 0, &link::alternative_name(index, "odd"));
    }
    assert_eq!(batch.count(), 6);
    let links = messages(batch.bytes()).filter_map(|message| link::read(message.payload()));
    assert_eq!(links.map(|link| link.index).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2]);
}

#[test]
fn states_are_compared_in_one_order() {
    let mut route = route_to("10.0.0.0/8", &[(3, None), (2, Some("10.0.0.2")), (2, Some("10.0.0.1"))]);
    route.sort_hops();
    let state = KernelState { routes: vec![route], ..KernelState::default() };
    let gateways = state.routes[0].hops.iter().map(|hop| hop.gateway.map(|gateway| gateway.to_string()));
    let gateways: Vec<_> = gateways.map(Option::unwrap_or_default).collect();
    assert_eq!(gateways, ["10.0.0.1", "10.0.0.2", ""]);
}

proptest! {
    /// Whatever comes, nothing panics: neither what is no message nor what is one with a few
    /// bytes changed.
    #[test]
    fn garbage_is_survived(noise in vec(any::<u8>(), 0..200), at in 0_usize..120, byte in any::<u8>()) {
        let mut hops = route_to("10.2.0.0/16", &[(2, Some("10.0.0.1")), (2, Some("fe80::1"))]);
        hops.rest.push(RawAttribute { kind: 8, value: vec![8, 0, 10, 0, 64, 0, 0, 0] });
        let mut damaged = bytes(&route::whole(&hops));
        if let Some(place) = damaged.get_mut(at) {
            *place = byte;
        }
        for bytes in [&noise, &damaged] {
            let _ = link::read(bytes);
            let _ = address::read(bytes);
            let _ = route::read(bytes);
            let _ = rule::read(bytes);
            let _ = neighbour::read(bytes);
            let _ = super::KernelError::from_answer(bytes);
            let _ = super::monitor::matters(bytes);
        }
    }
}
