//! The interfaces of a desired state, each by itself.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{DesiredAddress, DesiredDevice, DesiredInterface, DesiredNeighbour, in_range};
use crate::{
    names::{host_address, refuse_mapped},
    problem::Problems,
    state::{Address, ConflictCheck, Create, Interface, Match, Neighbour, Scope},
    value::{IfName, MacAddr, Prefix, quoted},
};

/// The longest alternative name, the kernel's `ALTIFNAMSIZ` without the NUL byte.
const MAX_ALTERNATIVE_NAME: usize = 127;

/// An interface that has been looked at.
pub(super) struct Checked {
    /// The interface, if nothing about it is wrong.
    pub(super) wanted: Option<DesiredInterface>,
    /// Its name, where that is one.
    pub(super) name: Option<IfName>,
    /// It is kept down.
    pub(super) down: bool,
    /// Its good addresses, the wrong ones left out.
    pub(super) addresses: Vec<Prefix>,
    /// The networks they are in, or their peers: gateways are looked for there.
    pub(super) networks: HashSet<Prefix>,
}

/// Checks all interfaces. The result has as many, in the same order.
pub(super) fn check_interfaces(interfaces: &[Interface], problems: &mut Problems) -> Vec<Checked> {
    let places: HashMap<&str, usize> =
        interfaces.iter().enumerate().map(|(i, interface)| (interface.name.as_str(), i)).collect();
    let checked = interfaces.iter().enumerate().map(|(i, interface)| {
        let path = format!("interfaces[{i}]");
        check_interface(&path, interface, &places, problems)
    });
    let checked = checked.collect();
    refuse_loops(interfaces, &places, problems);
    checked
}

fn check_interface(
    path: &str,
    wanted: &Interface,
    places: &HashMap<&str, usize>,
    problems: &mut Problems,
) -> Checked {
    let name = problems.keep(format_args!("{path}.name"), interface_name(&wanted.name));
    let device = check_device(path, wanted, places, problems);
    let mac = (wanted.mac.as_ref())
        .and_then(|text| problems.keep(format_args!("{path}.mac"), text.parse::<MacAddr>()));
    check_alternative_names(path, wanted, problems);
    check_settings(path, wanted, problems);
    let parsed: Vec<Option<DesiredAddress>> = (wanted.addresses.iter().enumerate())
        .map(|(a, address)| check_address(&format!("{path}.addresses[{a}]"), address, &wanted.name, problems))
        .collect();
    refuse_mixtures(path, &parsed, problems);
    let complete = parsed.iter().all(Option::is_some);
    let addresses: Vec<DesiredAddress> = parsed.into_iter().flatten().collect();
    let prefixes: Vec<Prefix> = addresses.iter().map(|address| address.prefix).collect();
    let on_link = addresses.iter().filter(|address| !address.no_prefix_route);
    let networks = on_link.map(DesiredAddress::network).collect();
    if let Some(mtu) = wanted.mtu {
        problems.keep(format_args!("{path}.mtu"), check_mtu(mtu, &prefixes));
    }
    if wanted.ipv6.disable_ipv6 == Some(true)
        && let Some(at) = addresses.iter().position(|address| address.prefix.address().is_ipv6())
    {
        problems.add(
            format!("{path}.addresses[{at}].address"),
            format!("{} on an interface whose ipv6.disable_ipv6 is true", addresses[at].prefix),
        );
    }
    let neighbours: Vec<DesiredNeighbour> = (wanted.neighbours.iter().enumerate())
        .filter_map(|(n, neighbour)| check_neighbour(&format!("{path}.neighbours[{n}]"), neighbour, problems))
        .collect();
    if wanted.down {
        for (list, is_empty) in [
            ("addresses", wanted.addresses.is_empty()),
            ("routes", wanted.routes.is_empty()),
            ("neighbours", wanted.neighbours.is_empty()),
        ] {
            if !is_empty {
                problems.add(format!("{path}.{list}"), "an interface that is kept down has none");
            }
        }
    }
    let whole = complete && neighbours.len() == wanted.neighbours.len();
    let interface = |name: IfName| {
        Some(DesiredInterface {
            device: device?,
            name,
            optional: wanted.optional,
            alternative_names: wanted.alternative_names.clone(),
            mac,
            mtu: wanted.mtu,
            tx_queue_length: wanted.tx_queue_length,
            down: wanted.down,
            ipv4: wanted.ipv4,
            ipv6: wanted.ipv6,
            addresses,
            neighbours,
        })
    };
    let wanted_interface = name.clone().filter(|_| whole).and_then(interface);
    Checked { wanted: wanted_interface, name, down: wanted.down, addresses: prefixes, networks }
}

/// Links are called `tether` and a number on the way from one name to another.
fn interface_name(text: &str) -> Result<IfName, String> {
    let number = text.strip_prefix("tether");
    if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("{text} is a name that tether uses itself: write another"));
    }
    text.parse().map_err(|error: crate::value::ParseError| error.to_string())
}

fn check_device(
    path: &str,
    wanted: &Interface,
    places: &HashMap<&str, usize>,
    problems: &mut Problems,
) -> Option<DesiredDevice> {
    match (&wanted.matching, &wanted.create) {
        (Some(matching), None) => check_match(path, matching, &wanted.name, problems),
        (None, Some(create)) => {
            if wanted.name == LOOPBACK {
                problems.add(format!("{path}.name"), "lo is the loopback interface's name");
            }
            if wanted.optional {
                problems.add(format!("{path}.optional"), "a device that tether makes is never missing");
            }
            check_create(path, create, places, problems)
        }
        (Some(_), Some(_)) => {
            problems.add(format!("{path}.create"), "a device is either found or made: leave one out");
            None
        }
        (None, None) => {
            problems.add(format!("{path}.match"), "missing: write which device it is, {\"mac\": …} say");
            None
        }
    }
}

/// The loopback interface's name, which the kernel lets nobody change.
const LOOPBACK: &str = "lo";

fn check_match(path: &str, wanted: &Match, name: &str, problems: &mut Problems) -> Option<DesiredDevice> {
    let Match { mac, pci, name: old_name } = wanted;
    let interface = path;
    let path = format!("{path}.match");
    if mac.is_none() && pci.is_none() && old_name.is_none() {
        problems.add(&*path, "empty: write a mac, a pci place or a name");
        return None;
    }
    let is_loopback = old_name.as_deref() == Some(LOOPBACK);
    if is_loopback != (name == LOOPBACK) {
        problems.add(format!("{interface}.name"), "the loopback interface, and no other, is called lo");
    }
    let mac = mac.as_ref().map(|text| problems.keep(format_args!("{path}.mac"), text.parse()));
    let pci = pci.as_ref().map(|text| problems.keep(format_args!("{path}.pci"), text.parse()));
    let old_name = old_name.as_ref().map(|text| problems.keep(format_args!("{path}.name"), text.parse()));
    // A criterion that was given and is wrong is not one that was not given.
    Some(DesiredDevice::Found {
        mac: mac.map_or(Some(None), |mac| mac.map(Some))?,
        pci: pci.map_or(Some(None), |pci| pci.map(Some))?,
        name: old_name.map_or(Some(None), |name| name.map(Some))?,
    })
}

fn check_create(
    path: &str,
    wanted: &Create,
    places: &HashMap<&str, usize>,
    problems: &mut Problems,
) -> Option<DesiredDevice> {
    match wanted {
        Create::Dummy {} => Some(DesiredDevice::Dummy),
        Create::Vlan { parent, id } => {
            in_range(format_args!("{path}.create.vlan.id"), *id, 1..=4_094, problems);
            let found = places.get(parent.as_str()).copied();
            if found.is_none() || parent == LOOPBACK {
                problems.add(
                    format!("{path}.create.vlan.parent"),
                    format!("{} is no interface of this document that could have VLANs", quoted(parent)),
                );
            }
            Some(DesiredDevice::Vlan { parent: found?, id: *id })
        }
    }
}

/// A VLAN may be on a VLAN, but not in the end on itself; and it is up only if that is.
fn refuse_loops(interfaces: &[Interface], places: &HashMap<&str, usize>, problems: &mut Problems) {
    let parent = |i: usize| match &interfaces[i].create {
        Some(Create::Vlan { parent, .. }) => places.get(parent.as_str()).copied(),
        _ => None,
    };
    for start in 0..interfaces.len() {
        if !interfaces[start].down && parent(start).is_some_and(|parent| interfaces[parent].down) {
            problems.add(
                format!("interfaces[{start}].create.vlan.parent"),
                "is kept down, and its VLANs with it: keep this one down too",
            );
        }
        let way = std::iter::successors(parent(start), |i| parent(*i));
        if way.take(interfaces.len()).any(|i| i == start) {
            problems.add(
                format!("interfaces[{start}].create.vlan.parent"),
                format!("{} is on itself, by way of its parents", quoted(&interfaces[start].name)),
            );
        }
    }
}

fn check_alternative_names(path: &str, wanted: &Interface, problems: &mut Problems) {
    for (n, name) in wanted.alternative_names.iter().enumerate() {
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
        let length = 1..=MAX_ALTERNATIVE_NAME;
        let dots = name == "." || name == "..";
        if dots || !length.contains(&name.len()) || !name.bytes().all(legal) {
            problems.add(
                format!("{path}.alternative_names[{n}]"),
                format!(
                    "{} is no name: write up to {MAX_ALTERNATIVE_NAME} printable characters without '/', \
                     ':', '%' and spaces",
                    quoted(name)
                ),
            );
        }
    }
}

/// The ranges are the kernel's (`Documentation/networking/ip-sysctl.rst`).
fn check_settings(path: &str, wanted: &Interface, problems: &mut Problems) {
    for (name, value, most) in [
        ("ipv4.rp_filter", wanted.ipv4.rp_filter, 2),
        ("ipv4.arp_ignore", wanted.ipv4.arp_ignore, 8),
        ("ipv4.arp_announce", wanted.ipv4.arp_announce, 2),
        ("ipv6.accept_ra", wanted.ipv6.accept_ra, 2),
    ] {
        if let Some(value) = value {
            in_range(format_args!("{path}.{name}"), value, 0..=most, problems);
        }
    }
    // What the kernel takes is an int; a queue of that many packets is no queue any more.
    if let Some(length) = wanted.tx_queue_length {
        in_range(format_args!("{path}.tx_queue_length"), length, 0..=1_000_000, problems);
    }
}

/// The least MTUs are those of RFC 791 (68) and RFC 8200 section 5 (1280).
pub(super) fn check_mtu(mtu: u32, addresses: &[Prefix]) -> Result<(), String> {
    if !(68..=65_535).contains(&mtu) {
        return Err(format!("{mtu} is no MTU: write a number from 68 to 65535"));
    }
    if mtu < 1_280 && addresses.iter().any(|prefix| prefix.address().is_ipv6()) {
        return Err(format!("{mtu} is too small for IPv6: 1280 at least, or no IPv6 address"));
    }
    Ok(())
}

fn check_address(
    path: &str,
    wanted: &Address,
    interface: &str,
    problems: &mut Problems,
) -> Option<DesiredAddress> {
    let loopback = interface == LOOPBACK;
    let prefix = problems.keep(format_args!("{path}.address"), interface_address(wanted, loopback));
    let peer = (wanted.peer.as_ref())
        .map(|text| problems.keep(format_args!("{path}.peer"), check_peer(text, prefix)));
    let is_ipv6 = prefix.is_some_and(|prefix| prefix.address().is_ipv6());
    let mut only_for = |field: &str, is_given: bool, family: &str| {
        if is_given {
            problems.add(format!("{path}.{field}"), format!("only {family} addresses have one"));
        }
    };
    only_for("scope", is_ipv6 && wanted.scope.is_some(), "IPv4");
    only_for("label", is_ipv6 && wanted.label.is_some(), "IPv4");
    only_for("home", prefix.is_some() && !is_ipv6 && wanted.home, "IPv6");
    if let Some(label) = &wanted.label {
        problems.keep(format_args!("{path}.label"), check_label(label, interface));
    }
    let lifetime = check_lifetime(path, wanted, problems);
    let peer = match peer {
        Some(peer) => Some(peer?),
        None => None,
    };
    Some(DesiredAddress {
        prefix: prefix?,
        // The kernel does not tell an address that is its own peer from one without.
        peer: peer.filter(|peer| Some(*peer) != prefix.map(Prefix::address)),
        scope: wanted.scope,
        label: wanted.label.clone().filter(|label| label != interface),
        lifetime,
        no_prefix_route: wanted.no_prefix_route,
        home: wanted.home,
        // Nobody can have the same address on a loopback interface.
        conflicts: if loopback { ConflictCheck::Off } else { wanted.conflicts },
    })
}

/// An address an interface may carry.
fn interface_address(wanted: &Address, loopback: bool) -> Result<Prefix, String> {
    let text = &wanted.address;
    let prefix: Prefix = text.parse().map_err(|e| format!("{e}"))?;
    let address = prefix.address();
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast || address.is_loopback() && !loopback {
        return Err(format!("{address} cannot be an interface's own address"));
    }
    if prefix.length() == 0 {
        return Err(format!("{text} makes the whole address space one link: write a longer prefix"));
    }
    refuse_mapped(address)?;
    // RFC 3021: on a /31 both addresses are hosts; a /32 has no network or broadcast address.
    // With a peer the prefix is that one's.
    if address.is_ipv4() && prefix.length() < 31 && wanted.peer.is_none() {
        if address == prefix.network().address() {
            return Err(format!("{address} is the network's own address: write a host's, one higher say"));
        }
        if address == prefix.last() {
            return Err(format!("{address} is the network's broadcast address: write a host's"));
        }
    }
    Ok(prefix)
}

/// The addresses of one IPv4 network on one interface share the first one's route and scope.
fn refuse_mixtures(path: &str, addresses: &[Option<DesiredAddress>], problems: &mut Problems) {
    let mut first: HashMap<Prefix, &DesiredAddress> = HashMap::new();
    for (a, address) in addresses.iter().enumerate() {
        let Some(address) = address.as_ref().filter(|address| address.prefix.address().is_ipv4()) else {
            continue;
        };
        let network = address.network();
        let first = first.entry(network).or_insert(address);
        for (field, differs) in [
            ("scope", first.scope.unwrap_or(Scope::Global) != address.scope.unwrap_or(Scope::Global)),
            ("no_prefix_route", first.no_prefix_route != address.no_prefix_route),
        ] {
            if differs {
                problems.add(
                    format!("{path}.addresses[{a}].{field}"),
                    format!("is another than that of {}, of the same network", first.prefix),
                );
            }
        }
    }
}

fn check_peer(text: &str, prefix: Option<Prefix>) -> Result<IpAddr, String> {
    let peer = host_address(text)?;
    if prefix.is_some_and(|prefix| prefix.address().is_ipv4() != peer.is_ipv4()) {
        return Err(format!("{peer} is not of the address's family"));
    }
    Ok(peer)
}

/// The kernel keeps a label's 15 bytes, and renames those that begin with the interface's name
/// together with it.
fn check_label(label: &str, interface: &str) -> Result<(), String> {
    let word = label.strip_prefix(interface).and_then(|rest| rest.strip_prefix(':'));
    let good = label == interface
        || word.is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic()));
    if good && label.len() <= 15 {
        return Ok(());
    }
    Err(format!(
        "{} is no label: write the interface's name, ':' and a word, 15 bytes at most",
        quoted(label)
    ))
}

fn check_lifetime(path: &str, wanted: &Address, problems: &mut Problems) -> Option<(u32, u32)> {
    if wanted.valid_s.is_none() && wanted.preferred_s.is_none() {
        return None;
    }
    let Some(valid) = wanted.valid_s else {
        problems.add(format!("{path}.preferred_s"), "without valid_s: write how long it is valid, too");
        return None;
    };
    let preferred = wanted.preferred_s.unwrap_or(valid);
    if valid == 0 {
        problems.add(format!("{path}.valid_s"), "an address that is never valid: leave it out");
    }
    if preferred > valid {
        problems
            .add(format!("{path}.preferred_s"), format!("{preferred} is longer than it is valid, {valid}"));
    }
    Some((valid, preferred))
}

fn check_neighbour(path: &str, wanted: &Neighbour, problems: &mut Problems) -> Option<DesiredNeighbour> {
    let address = problems.keep(format_args!("{path}.address"), host_address(&wanted.address));
    let mac = problems.keep(format_args!("{path}.mac"), wanted.mac.parse::<MacAddr>());
    Some(DesiredNeighbour { address: address?, mac: mac? })
}
