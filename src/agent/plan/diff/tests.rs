use tether_wire::{check::RoutePlace, state::ConflictCheck};

use super::*;
use crate::plan::model::{Address, Hop, Lifetime, Link, RTN_UNICAST, TABLE_MAIN};

fn link(index: u32, name: &str, up: bool) -> Link {
    Link { index, name: name.into(), mtu: 1_500, up, ..Link::default() }
}

fn route(destination: &str, gateway: &str, metric: u32) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        hops: vec![Hop { link: 2, gateway: gateway.parse().ok(), onlink: false, weight: 1 }],
        metric,
        table: TABLE_MAIN,
        tos: 0,
        kind: RTN_UNICAST,
        protocol: PROTOCOL,
        source: None,
        mtu: 0,
        preference: 0,
        scope: 0,
        rest: Vec::new(),
    }
}

#[test]
fn what_others_supplied_is_made_when_they_no_longer_do() {
    let links = [link(2, "eth0", true)];
    let mut to = state(&links, &["10.0.0.50/8"], &[route("0.0.0.0/0", "10.0.0.1", 0)]);
    to.addresses[0].protocol = 0;
    to.routes[0].protocol = 9;
    let mut target = reach(&to);
    target.addresses.insert(to.addresses[0].key(), ((0, 0), ConflictCheck::Off));
    target.routes.insert(to.routes[0].key(), RoutePlace::Document(0));
    assert_eq!(diff(&to, &target), []);
    let operations = diff(&state(&links, &[], &[]), &target);
    assert_eq!(
        operations,
        [
            Operation::AddAddress(Address::ours(2, to.addresses[0].prefix)),
            Operation::AddRoute(Route { protocol: PROTOCOL, ..to.routes[0].clone() }),
        ]
    );
}

fn state(links: &[Link], addresses: &[&str], routes: &[Route]) -> KernelState {
    KernelState {
        links: links.to_vec(),
        addresses: addresses.iter().map(|a| Address::ours(2, a.parse().unwrap())).collect(),
        routes: routes.to_vec(),
        ..KernelState::default()
    }
}

/// A target that names every link.
fn reach(to: &KernelState) -> Target {
    let links = to.links.iter().map(|link| (link.index, String::new())).collect();
    let touched = to.links.iter().map(|link| link.index).collect();
    Target { state: to.clone(), links, touched, ..Target::default() }
}

fn told(from: &KernelState, to: &KernelState) -> Vec<String> {
    diff(from, &reach(to)).iter().map(ToString::to_string).collect()
}

#[test]
fn no_difference_no_operation() {
    let one = state(&[link(2, "eth0", true)], &["10.0.0.2/8"], &[route("0.0.0.0/0", "10.0.0.1", 0)]);
    assert_eq!(told(&one, &one), [""; 0]);
}

#[test]
fn a_fresh_link_is_named_brought_up_addressed_routed() {
    let from = state(&[link(2, "ens3", false)], &[], &[]);
    let to = state(&[link(2, "eth0", true)], &["10.0.0.2/8"], &[route("0.0.0.0/0", "10.0.0.1", 0)]);
    assert_eq!(
        told(&from, &to),
        [
            "rename ens3 to eth0",
            "set eth0 up",
            "add address 10.0.0.2/8 to link 2",
            "add route 0.0.0.0/0 via 10.0.0.1 through link 2",
        ]
    );
}

#[test]
fn a_default_route_is_replaced_not_removed() {
    let links = [link(2, "eth0", true)];
    let from = state(&links, &["10.0.0.2/8"], &[route("0.0.0.0/0", "10.0.0.1", 0)]);
    let to = state(&links, &["10.0.0.2/8"], &[route("0.0.0.0/0", "10.0.0.9", 0)]);
    assert_eq!(told(&from, &to), ["replace route 0.0.0.0/0 via 10.0.0.9 through link 2"]);
}

#[test]
fn an_address_elsewhere_goes_last_one_in_the_way_first() {
    let links = [link(2, "eth0", true)];
    let from = state(&links, &["10.0.0.2/8", "192.168.0.2/24"], &[]);
    let to = state(&links, &["10.0.0.3/8"], &[]);
    assert_eq!(
        told(&from, &to),
        [
            "remove address 10.0.0.2/8 from link 2",
            "add address 10.0.0.3/8 to link 2",
            "remove address 192.168.0.2/24 from link 2",
        ]
    );
}

#[test]
fn names_swap_in_two_phases_and_what_went_down_comes_back() {
    let from = state(&[link(2, "eth0", true), link(3, "eth1", true)], &["fd00::2/64", "10.0.0.2/8"], &[]);
    let to = state(&[link(2, "eth1", true), link(3, "eth0", true)], &["fd00::2/64", "10.0.0.2/8"], &[]);
    assert_eq!(
        told(&from, &to),
        [
            "set eth0 down",
            "set eth1 down",
            "rename eth0 to tether2",
            "rename eth1 to tether3",
            "rename tether2 to eth1",
            "rename tether3 to eth0",
            "set eth1 up",
            "set eth0 up",
            "add address fd00::2/64 to link 2",
        ]
    );
}

#[test]
fn what_the_kernel_makes_is_left_to_it() {
    let links = [link(2, "eth0", true)];
    let mut from = state(&links, &["fe80::1/64", "fd00::5/64"], &[route("::/0", "fe80::9", 1_024)]);
    from.addresses[0].protocol = 3;
    from.addresses[1].protocol = 2;
    from.addresses[1].lifetime = Some(Lifetime { valid: 9, preferred: 9 });
    from.routes[0].protocol = 9;
    assert_eq!(told(&from, &state(&links, &[], &[])), [""; 0]);
}

#[test]
fn names_move_up_and_down_a_chain() {
    let names = |a: &str, b: &str| state(&[link(2, a, false), link(3, b, false)], &[], &[]);
    let down = told(&names("eth0", "eth1"), &names("eth1", "eth2"));
    assert_eq!(down[..3], ["rename eth1 to tether3", "rename eth0 to eth1", "rename tether3 to eth2"]);
    let up = told(&names("eth1", "eth2"), &names("eth0", "eth1"));
    assert_eq!(up[..3], ["rename eth1 to tether2", "rename tether2 to eth0", "rename eth2 to eth1"]);
}

#[test]
fn what_others_do_in_the_meantime_is_theirs() {
    let links = [link(2, "eth0", true), link(3, "wg0", false)];
    let to = state(&links, &["10.0.0.2/8"], &[]);
    let mut from = to.clone();
    from.links[1].up = true;
    from.addresses.push(Address { protocol: 0, ..Address::ours(2, "192.168.0.9/24".parse().unwrap()) });
    from.routes.push(Route { protocol: 4, ..route("10.9.0.0/16", "10.0.0.7", 0) });
    let target = Target { links: vec![(2, String::new())], touched: [2].into(), ..reach(&to) };
    assert_eq!(diff(&from, &target), []);
    assert_eq!(
        diff(&to, &Target { links: vec![(2, String::new())], touched: [2].into(), ..reach(&from) }),
        []
    );
    // What went with a link of ours comes back, and all of it when a state is restored.
    let mut renamed = reach(&from);
    renamed.state.links[0].name = "net0".into();
    renamed.links.truncate(1);
    renamed.touched = [2].into();
    let told: Vec<String> = diff(&from, &renamed).iter().map(ToString::to_string).collect();
    let expected = [
        "set eth0 down",
        "rename eth0 to net0",
        "set net0 up",
        "replace route 10.9.0.0/16 via 10.0.0.7 through link 2",
    ];
    assert_eq!(told, expected);
    let restored =
        diff(&to, &Target { restores: true, links: Vec::new(), touched: HashSet::new(), ..reach(&from) });
    assert_eq!(restored.len(), 2, "{restored:?}");
}
