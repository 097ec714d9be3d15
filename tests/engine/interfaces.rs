//! The interfaces of generated documents, and their addresses.

use std::collections::HashSet;

use proptest::{
    collection::vec,
    option::{self, weighted},
    prelude::*,
};
use tether_wire::state::{
    Address, ConflictCheck, Interface, Ipv4Settings, Ipv6Settings, Match, Neighbour, Scope,
};

use crate::{
    machine::{first_name, mac},
    ways::{self, RouteWish},
};

/// What is wished of one NIC; what does not go together is left out when the document is written.
#[derive(Clone, Debug)]
pub(crate) struct NicWish {
    by_name: bool,
    mtu: Option<u32>,
    tx_queue_length: Option<u32>,
    other_mac: bool,
    down: bool,
    ipv4: Ipv4Settings,
    ipv6: Ipv6Settings,
    addresses: Vec<AddressWish>,
    neighbours: Vec<(bool, u8)>,
    pub(crate) routes: Vec<RouteWish>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is wished for by itself")]
#[derive(Clone, Debug)]
pub(crate) struct AddressWish {
    pub(crate) ipv6: bool,
    /// Which network it is in.
    network: u8,
    pub(crate) host: u8,
    scope: Option<Scope>,
    labelled: bool,
    lifetime: Option<(u32, Option<u32>)>,
    no_prefix_route: bool,
    home: bool,
    unchecked: bool,
}

pub(crate) fn nic() -> impl Strategy<Value = NicWish> {
    let flag = || option::weighted(0.15, any::<bool>());
    let small = |most: u8| option::weighted(0.15, 0..=most);
    let ipv4 = (flag(), small(2), small(3), small(2)).prop_map(
        |(forwarding, rp_filter, arp_ignore, arp_announce)| Ipv4Settings {
            forwarding,
            rp_filter,
            arp_ignore,
            arp_announce,
        },
    );
    let ipv6 = (flag(), flag(), small(2)).prop_map(|(disable_ipv6, forwarding, accept_ra)| Ipv6Settings {
        disable_ipv6,
        forwarding,
        accept_ra,
    });
    let mtus = weighted(0.3, prop::sample::select(vec![68, 1_000, 1_280, 1_400, 9_000]));
    let lengths = weighted(0.2, prop::sample::select(vec![0, 1, 500, 1_000]));
    let device =
        (prop::bool::weighted(0.3), mtus, lengths, prop::bool::weighted(0.2), prop::bool::weighted(0.08));
    let lists = (vec(address(), 0..5), vec((any::<bool>(), 0..3_u8), 0..3), vec(ways::route_wish(), 0..4));
    (device, ipv4, ipv6, lists).prop_map(|(device, ipv4, ipv6, (addresses, neighbours, routes))| {
        let (by_name, mtu, tx_queue_length, other_mac, down) = device;
        NicWish { by_name, mtu, tx_queue_length, other_mac, down, ipv4, ipv6, addresses, neighbours, routes }
    })
}

pub(crate) fn address() -> impl Strategy<Value = AddressWish> {
    let lifetime = weighted(
        0.15,
        (prop::sample::select(vec![600, 3_600]), option::of(prop::sample::select(vec![0, 500]))),
    );
    let scopes = prop::sample::select(vec![Scope::Global, Scope::Site, Scope::Link, Scope::Host]);
    let flags = [0.1, 0.15, 0.1, 0.5].map(prop::bool::weighted);
    (any::<bool>(), 0..7_u8, 1..5_u8, weighted(0.15, scopes), lifetime, flags).prop_map(
        |(ipv6, network, host, scope, lifetime, [labelled, no_prefix_route, home, unchecked])| AddressWish {
            ipv6,
            network,
            host,
            scope,
            labelled,
            lifetime,
            no_prefix_route,
            home,
            unchecked,
        },
    )
}

/// The device with this name.
pub(crate) fn called(name: &str) -> Match {
    Match { name: Some(name.to_owned()), ..Match::default() }
}

/// The interface that grants what goes together of a wish, without its routes.
pub(crate) fn interface(nic: usize, name: String, wish: &NicWish, taken: &mut HashSet<String>) -> Interface {
    let mut interface = Interface {
        matching: Some(if wish.by_name { called(&first_name(nic)) } else { Match::of_mac(mac(nic)) }),
        mac: wish.other_mac.then(|| format!("02:00:00:00:aa:{nic:02x}")),
        mtu: wish.mtu,
        tx_queue_length: wish.tx_queue_length,
        down: wish.down,
        ipv4: wish.ipv4,
        ipv6: wish.ipv6,
        name,
        ..Interface::default()
    };
    if wish.down {
        return interface;
    }
    for address in &wish.addresses {
        let address = granted(nic, &interface.name, address);
        let ip = address.address.split('/').next().unwrap().to_owned();
        let may = !ip.contains(':') || has_ipv6(&interface);
        if may && taken.insert(ip) {
            interface.addresses.push(address);
        }
    }
    for (ipv6, host) in &wish.neighbours {
        let networks: HashSet<String> = networks(&interface, *ipv6).collect();
        let network = format!("{}{}", if *ipv6 { "fd00:" } else { "10." }, nic + 1);
        let Some(network) = networks.into_iter().filter(|n| n.starts_with(&network)).min() else { continue };
        let neighbour =
            Neighbour { address: format!("{network}{}", 240 + host), mac: "02:bb:00:00:00:01".to_owned() };
        if !interface.neighbours.contains(&neighbour) {
            interface.neighbours.push(neighbour);
        }
    }
    interface
}

/// Whether an interface of a document may have IPv6 addresses.
pub(crate) fn has_ipv6(interface: &Interface) -> bool {
    !interface.down
        && interface.mtu.is_none_or(|mtu| mtu >= 1_280)
        && interface.ipv6.disable_ipv6 != Some(true)
}

fn granted(nic: usize, name: &str, wish: &AddressWish) -> Address {
    let (k, host) = (nic + 1, wish.host);
    let (text, peer) = match (wish.ipv6, wish.network) {
        (false, 0 | 1) => (format!("10.{k}.0.{host}/24"), None),
        (false, 2) => (format!("10.{k}.1.{host}/24"), None),
        (false, 3) => (format!("10.{k}.2.{host}/16"), None),
        (false, 4) => (format!("10.99.0.{host}/24"), None),
        (false, 5) => (format!("10.50.0.{host}/32"), None),
        (false, _) => (format!("10.60.0.{host}/32"), Some(format!("10.60.1.{host}"))),
        (true, 0 | 1) => (format!("fd00:{k}::{host}/64"), None),
        (true, 2) => (format!("fd00:{k}:1::{host}/64"), None),
        (true, 3) => (format!("fe80::{k}:{host}/64"), None),
        (true, 4) => (format!("fd00:99::{host}/64"), None),
        (true, 5) => (format!("fd00:50::{host}/128"), None),
        (true, _) => (format!("fd00:60::{host}/128"), Some(format!("fd00:61::{host}"))),
    };
    Address {
        address: text,
        peer,
        // The kernel wants one scope for all addresses of a network: here each has its own.
        scope: wish.scope.filter(|_| !wish.ipv6 && wish.network >= 5),
        label: (wish.labelled && !wish.ipv6).then(|| format!("{name}:web")),
        valid_s: wish.lifetime.map(|(valid, _)| valid),
        preferred_s: wish.lifetime.and_then(|(_, preferred)| preferred),
        // The kernel asks the first of an IPv4 network only: here all of one want it, or none.
        no_prefix_route: if wish.ipv6 || wish.network >= 5 {
            wish.no_prefix_route
        } else {
            wish.network == 4
        },
        home: wish.home && wish.ipv6,
        conflicts: if wish.unchecked { ConflictCheck::Off } else { ConflictCheck::Optimistic },
    }
}

/// The networks of an interface that the kernel makes a route to, up to their last part. It makes
/// none where the first address of a network does not want it.
pub(crate) fn networks(interface: &Interface, ipv6: bool) -> impl Iterator<Item = String> {
    let network = |address: &Address| {
        let end = address.address.rfind([':', '.']).unwrap();
        let network = &address.address[..=end];
        // fe80::K:HOST is not of a network of its own.
        if network.starts_with("fe80") { "fe80::".to_owned() } else { network.to_owned() }
    };
    let is_host = |address: &Address| address.address.ends_with("/32") || address.address.ends_with("/128");
    let of_family = move |address: &&Address| address.address.contains(':') == ipv6;
    let without: HashSet<String> =
        interface.addresses.iter().filter(|address| address.no_prefix_route).map(network).collect();
    let with =
        interface.addresses.iter().filter(of_family).filter(move |address| !is_host(address)).map(network);
    with.filter(move |network| !without.contains(network))
}
