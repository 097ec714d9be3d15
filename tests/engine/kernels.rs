//! States of a kernel, possible or not.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use proptest::{
    collection::vec,
    option::{self, weighted},
    prelude::*,
    sample::select,
};
use tether::plan::{
    Address, Hop, KernelState, Lifetime, Link, LinkKind, Neighbour, PROTOCOL, Route, Rule, Setting,
};
use tether_wire::value::{MacAddr, Prefix};

use crate::machine::{first_name, mac};

/// Any state of a kernel, most of them with the NICs that documents name: also what no kernel would
/// show, such as things on links that are not there, VLANs on each other, names twice.
pub(crate) fn kernel() -> impl Strategy<Value = KernelState> {
    let lists = (vec(link().boxed(), 0..4), vec(address(), 0..8), vec(route(), 0..4), vec(rule(), 0..3));
    let nics = [0, 1, 2].map(|nic| weighted(0.9, link().prop_map(move |link| as_nic(nic, link)).boxed()));
    (nics, lists, vec(neighbour(), 0..3), any::<bool>()).prop_map(
        |(nics, (mut links, mut addresses, mut routes, rules), mut neighbours, renames_live)| {
            links.extend(nics.into_iter().flatten());
            let links: BTreeMap<u32, Link> = links.into_iter().map(|link| (link.index, link)).collect();
            // There is one of each.
            let (mut places, mut ways, mut known) = (HashSet::new(), HashSet::new(), HashSet::new());
            addresses.retain(|address| places.insert(address.key()));
            routes.retain(|route| ways.insert((route.key(), route.is_kernels())));
            neighbours.retain(|neighbour| known.insert(neighbour.key()));
            let links = links.into_values().collect();
            let settings = KernelState::default();
            KernelState { links, addresses, routes, rules, neighbours, renames_live, ..settings }
        },
    )
}

fn as_nic(nic: usize, link: Link) -> Link {
    let index = 2 + u32::try_from(nic).unwrap();
    Link {
        index,
        name: first_name(nic),
        kind: LinkKind::Device,
        mac: mac(nic).parse().ok(),
        group: 0,
        ..link
    }
}

fn any_mac() -> impl Strategy<Value = Option<MacAddr>> {
    weighted(0.8, (2..7_usize).prop_map(|nic| mac(nic).parse().unwrap()))
}

fn index() -> impl Strategy<Value = u32> {
    prop_oneof![9 => 0..8_u32, 1 => Just(i32::MAX.unsigned_abs())]
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![1 => select(vec![0, 2, 4, 9]), 2 => Just(PROTOCOL)]
}

fn ip() -> impl Strategy<Value = IpAddr> {
    let all = [
        "10.1.0.1",
        "10.1.0.2",
        "10.1.0.250",
        "10.99.0.1",
        "10.60.0.1",
        "127.0.0.1",
        "fd00:1::1",
        "fe80::1",
        "::1",
    ];
    select(all.to_vec()).prop_map(|text| text.parse().unwrap())
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (ip(), select(vec![0, 16, 24, 32, 64, 128]))
        .prop_map(|(ip, length)| Prefix::new(ip, length).unwrap_or_else(|| Prefix::new(ip, 24).unwrap()))
}

fn link() -> impl Strategy<Value = Link> {
    let kind = prop_oneof![
        5 => Just(LinkKind::Device),
        1 => Just(LinkKind::Loopback),
        2 => Just(LinkKind::Dummy),
        2 => (index(), 1..4_u16).prop_map(|(parent, id)| LinkKind::Vlan { parent, id }),
        1 => Just(LinkKind::Stacked),
    ];
    let names = || {
        prop_oneof![
            3 => "x[a-z]{2}",
            1 => select(vec!["n1", "n2", "n3", "eth0", "lo", "v", "tether2", "other0"]).prop_map(ToOwned::to_owned),
        ]
    };
    let numbers = (
        select(vec![0, 68, 1_279, 1_500, 65_535]),
        select(vec![(0, 0), (68, 65_535), (68, 1_500)]),
        0..3_u32,
    );
    let settings = vec(option::of(-1..3_i32), Setting::ALL.len());
    let who = (index(), names(), kind, any_mac(), weighted(0.2, any_mac()), vec(names(), 0..2));
    (who, numbers, settings, select(vec![0, u32::from(PROTOCOL)]), any::<(bool, bool)>()).prop_map(
        |(
            (index, name, kind, mac, permanent, mut alternative_names),
            (mtu, mtu_range, tx_queue_length),
            values,
            group,
            (up, carrier),
        )| {
            alternative_names.sort();
            alternative_names.dedup();
            let mut link = Link {
                index,
                name,
                kind,
                mac,
                permanent_mac: permanent.flatten(),
                alternative_names,
                mtu,
                mtu_range,
                tx_queue_length,
                group,
                up,
                carrier,
                ..Link::default()
            };
            for (setting, value) in Setting::ALL.into_iter().zip(values) {
                link.settings.set(setting, value);
            }
            link
        },
    )
}

fn address() -> impl Strategy<Value = Address> {
    let lifetime =
        option::of((0..1_000_u32, 0..1_000_u32).prop_map(|(valid, preferred)| Lifetime { valid, preferred }));
    let flags = any::<[bool; 6]>();
    (
        index(),
        prefix(),
        weighted(0.2, ip()),
        protocol(),
        lifetime,
        flags,
        weighted(0.1, Just("n1:web".to_owned())),
    )
        .prop_map(|(link, prefix, peer, protocol, lifetime, flags, label)| {
            let [no_prefix_route, home, nodad, optimistic, tentative, duplicate] = flags;
            Address {
                peer,
                protocol,
                lifetime,
                no_prefix_route,
                home,
                nodad,
                optimistic,
                tentative,
                duplicate,
                label,
                ..Address::ours(link, prefix)
            }
        })
}

fn route() -> impl Strategy<Value = Route> {
    let hop = (index(), option::of(ip()), any::<bool>(), 1..4_u16)
        .prop_map(|(link, gateway, onlink, weight)| Hop { link, gateway, onlink, weight });
    let destination = select(vec!["0.0.0.0/0", "192.168.0.0/16", "172.16.7.7/32", "::/0", "fd10::/16"]);
    (destination, select(vec![0, 5, 1_024]), select(vec![7, 253, 254]), vec(hop, 0..3), protocol(), 0..12_u8)
        .prop_map(|(destination, metric, table, hops, protocol, kind)| {
            let mut route = Route {
                table,
                destination: destination.parse().unwrap(),
                tos: 0,
                metric,
                kind,
                scope: 0,
                protocol,
                source: None,
                mtu: 0,
                preference: 0,
                hops,
                rest: Vec::new(),
            };
            route.sort_hops();
            route
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    (any::<bool>(), 100..103_u32, option::of(prefix()), protocol(), any::<bool>()).prop_map(
        |(ipv6, priority, from, protocol, opaque)| Rule {
            ipv6,
            priority,
            from,
            to: None,
            iif: None,
            oif: None,
            fwmark: 0,
            fwmask: 0,
            table: 254,
            suppress_prefix_length: None,
            protocol,
            action: 1,
            opaque,
        },
    )
}

fn neighbour() -> impl Strategy<Value = Neighbour> {
    (index(), ip(), any_mac(), protocol())
        .prop_filter_map("no MAC address", |(link, address, mac, protocol)| {
            Some(Neighbour { link, address, mac: mac?, protocol })
        })
}
