//! What links are to be like.

use std::collections::{HashMap, HashSet};

use tether_wire::{
    check::{Desired, DesiredDevice, DesiredInterface},
    problem::Problems,
    state::ConflictCheck,
};

use super::{Facts, Target, gets_ipv6};
use crate::plan::{
    model::{KernelState, Link, LinkKind},
    setting::{Setting, Settings},
};

/// `DEFAULT_TX_QUEUE_LEN`, what the kernel gives Ethernet devices.
const TX_QUEUE_LENGTH: u32 = 1_000;
/// What the kernel gives Ethernet devices.
const MTU: u32 = 1_500;

/// Makes the target's links as the document wants them, and gives back what they had to those
/// that it does not name any more.
pub(super) fn configure(
    desired: &Desired,
    found: &[Option<u32>],
    observed: &KernelState,
    facts: Facts<'_>,
    target: &mut Target,
    problems: &mut Problems,
) {
    let named: HashSet<u32> = found.iter().flatten().copied().collect();
    let mut released = Vec::new();
    for link in &mut target.state.links {
        if facts.originals.restore(link) && !named.contains(&link.index) {
            released.push(link.index);
        }
    }
    let defaults = observed.default_settings;
    let multi_homed = is_multi_homed(desired, found);
    // Parents come before their VLANs, whose MTU and MAC address follow theirs.
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by_key(|i| depth(desired, *i));
    for i in order {
        let Some(index) = found[i] else { continue };
        let wanted = &desired.interfaces[i];
        let parent = match wanted.device {
            DesiredDevice::Vlan { parent, .. } => {
                found[parent].and_then(|parent| target.state.link(parent)).cloned()
            }
            _ => None,
        };
        if let Some(link) = target.state.link_mut(index) {
            let may_get_ipv6 = observed.link(index).is_none_or(gets_ipv6);
            set(&format!("interfaces[{i}]"), link, wanted, parent.as_ref(), defaults, problems);
            set_settings(link, wanted, multi_homed, may_get_ipv6);
        }
    }
    leave_out_ipv6(target);
    target.links = (found.iter().enumerate())
        .filter_map(|(i, link)| link.map(|link| (link, format!("interfaces[{i}]"))))
        .collect();
    target.touched = named.iter().copied().chain(released.iter().copied()).collect();
    keep_names_that_are_free(&released, observed, target);
    refuse_taken_names(target, problems);
}

/// Where IPv6 is taken off an interface, by its setting or by an MTU that is too small for it,
/// whatever is IPv6 there goes too, others' things like ours.
fn leave_out_ipv6(target: &mut Target) {
    let lacks = |link: &&Link| gets_ipv6(link) || link.settings.get(Setting::DisableIpv6) == Some(1);
    let without: HashSet<u32> = target.state.links.iter().filter(lacks).map(|link| link.index).collect();
    let goes = |link: u32, ip: std::net::IpAddr| ip.is_ipv6() && without.contains(&link);
    let KernelState { links, addresses, routes, neighbours, .. } = &mut target.state;
    for link in links.iter_mut().filter(|link| gets_ipv6(link)) {
        for setting in Setting::ALL.into_iter().filter(|setting| setting.is_ipv6()) {
            link.settings.set(setting, None);
        }
    }
    addresses.retain(|address| !goes(address.link, address.prefix.address()));
    routes.retain(|route| !route.hops.iter().any(|hop| route.needs_ipv6(hop) && without.contains(&hop.link)));
    neighbours.retain(|neighbour| !goes(neighbour.link, neighbour.address));
}

/// How many parents a VLAN has above it.
fn depth(desired: &Desired, i: usize) -> usize {
    let parent = |i: &usize| match desired.interfaces[*i].device {
        DesiredDevice::Vlan { parent, .. } => Some(parent),
        _ => None,
    };
    std::iter::successors(Some(i), parent).count()
}

/// Whether several interfaces have IPv4 addresses others could ask for.
fn is_multi_homed(desired: &Desired, found: &[Option<u32>]) -> bool {
    let has_ipv4 = |interface: &DesiredInterface| {
        interface.name.as_str() != "lo"
            && interface.addresses.iter().any(|address| address.prefix.address().is_ipv4())
    };
    desired.interfaces.iter().zip(found).filter(|(i, link)| link.is_some() && has_ipv4(i)).count() > 1
}

fn set(
    path: &str,
    link: &mut Link,
    wanted: &DesiredInterface,
    parent: Option<&Link>,
    defaults: Settings,
    problems: &mut Problems,
) {
    if link.is_ours() {
        // A device tether has made has nothing to go back to but what the kernel makes it with.
        link.mtu = parent.map_or(MTU, |parent| parent.mtu);
        link.tx_queue_length = TX_QUEUE_LENGTH;
        if let Some(parent) = parent {
            link.mac = parent.mac;
        }
        link.alternative_names.clear();
        link.settings = defaults;
    }
    if let Some(mtu) = wanted.mtu {
        let (least, most) = link.mtu_range;
        if mtu < least || (most != 0 && mtu > most) {
            problems.add(
                format!("{path}.mtu"),
                format!("{mtu} is not possible on {}: it takes {least} to {most}", link.name),
            );
        }
        if let Some(parent) = parent.filter(|parent| mtu > parent.mtu) {
            let message =
                format!("{mtu} is more than that of {}, which it is on: {}", parent.name, parent.mtu);
            problems.add(format!("{path}.mtu"), message);
        }
        link.mtu = mtu;
    }
    link.mac = wanted.mac.or(link.mac);
    link.tx_queue_length = wanted.tx_queue_length.unwrap_or(link.tx_queue_length);
    wanted.name.as_str().clone_into(&mut link.name);
    link.up = !wanted.down;
    for name in &wanted.alternative_names {
        if !link.alternative_names.contains(name) {
            link.alternative_names.push(name.clone());
        }
    }
    // The kernel gives no name twice, not even to one link.
    link.alternative_names.retain(|name| *name != link.name);
    link.alternative_names.sort_unstable();
}

fn set_settings(link: &mut Link, wanted: &DesiredInterface, multi_homed: bool, may_get_ipv6: bool) {
    let is_loopback = link.kind == LinkKind::Loopback;
    let has_ipv4 = wanted.addresses.iter().any(|address| address.prefix.address().is_ipv4()) && !is_loopback;
    let is_optimistic = wanted
        .addresses
        .iter()
        .any(|address| address.prefix.address().is_ipv6() && address.conflicts == ConflictCheck::Optimistic);
    // Each interface speaks for its own addresses only: the others' neighbours would learn the
    // wrong MAC address (vic#8556).
    let alone = |value: u8| (multi_homed && has_ipv4).then_some(value);
    let number = |flag: Option<bool>| flag.map(i32::from);
    let small = |value: Option<u8>| value.map(i32::from);
    for (setting, value) in [
        (Setting::Ipv4Forwarding, number(wanted.ipv4.forwarding)),
        (Setting::RpFilter, small(wanted.ipv4.rp_filter)),
        (Setting::ArpIgnore, small(wanted.ipv4.arp_ignore.or(alone(1)))),
        (Setting::ArpAnnounce, small(wanted.ipv4.arp_announce.or(alone(2)))),
        // Replacing a primary address does not take the secondary ones, and routes, along.
        (Setting::PromoteSecondaries, has_ipv4.then_some(1)),
        (Setting::DisableIpv6, number(wanted.ipv6.disable_ipv6)),
        (Setting::Ipv6Forwarding, number(wanted.ipv6.forwarding)),
        (Setting::AcceptRa, small(wanted.ipv6.accept_ra)),
        (Setting::OptimisticDad, is_optimistic.then_some(1)),
    ] {
        // Where the kernel has no such setting, and will not have it, there is nothing to set.
        if value.is_some() && (link.settings.get(setting).is_some() || may_get_ipv6) {
            link.settings.set(setting, value);
        }
    }
}

/// A link that gets its old name back keeps the present one where somebody else has that by now.
fn keep_names_that_are_free(released: &[u32], observed: &KernelState, target: &mut Target) {
    for index in released {
        let links = &target.state.links;
        let name = target.state.link_name(*index);
        if links.iter().any(|other| other.index != *index && other.name == name) {
            let present = observed.link_name(*index);
            if let Some(link) = target.state.link_mut(*index) {
                link.name = present;
            }
        }
    }
}

/// A name belongs to one link: to two wanted ones never (the document was checked), to a link
/// the document does not name neither.
fn refuse_taken_names(target: &Target, problems: &mut Problems) {
    let mut holders: HashMap<&str, u32> = HashMap::new();
    for link in
        target.state.links.iter().filter(|link| !target.links.iter().any(|(named, _)| *named == link.index))
    {
        let names = std::iter::once(&link.name).chain(&link.alternative_names);
        holders.extend(names.map(|name| (name.as_str(), link.index)));
    }
    for (index, path) in &target.links {
        let Some(link) = target.state.link(*index) else { continue };
        for (field, name) in std::iter::once(("name", &link.name))
            .chain(link.alternative_names.iter().map(|n| ("alternative_names", n)))
        {
            if let Some(holder) = holders.get(name.as_str()).and_then(|holder| target.state.link(*holder)) {
                problems.add(
                    format!("{path}.{field}"),
                    format!(
                        "{name} is the name of another interface, which this document does not have: {}",
                        describe(holder)
                    ),
                );
            }
        }
    }
}

fn describe(link: &Link) -> String {
    link.permanent_mac.or(link.mac).map_or_else(|| link.name.clone(), |mac| mac.to_string())
}
