//! What may stand only once in a document, or not beside another.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use super::{DesiredDevice, DesiredRoute, interface::Checked};
use crate::{
    problem::Problems,
    value::{Prefix, is_link_local},
};

/// Checks what interfaces and routes are to each other.
pub(super) fn check(interfaces: &[Checked], routes: &[DesiredRoute], problems: &mut Problems) {
    refuse_twins(interfaces, problems);
    refuse_twin_routes(routes, problems);
    refuse_overlaps(interfaces, problems);
}

/// Things of which there is one each, and where it was found first.
struct Once<K>(HashMap<K, String>);

impl<K: Hash + Eq> Once<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes `key` at `path`, or a problem when it was noted before.
    fn note(&mut self, key: K, what: impl FnOnce() -> String, path: String, problems: &mut Problems) {
        match self.0.entry(key) {
            Entry::Occupied(first) => problems.add(path, format!("{} is {} again", what(), first.get())),
            Entry::Vacant(place) => {
                place.insert(path);
            }
        }
    }
}

/// Names, devices, addresses, VLANs of one parent, neighbours.
fn refuse_twins(interfaces: &[Checked], problems: &mut Problems) {
    let (mut names, mut macs, mut vlans) = (Once::new(), Once::new(), Once::new());
    let (mut addresses, mut neighbours) = (Once::new(), Once::new());
    for (i, interface) in interfaces.iter().enumerate() {
        let path = format!("interfaces[{i}]");
        if let Some(name) = &interface.name {
            names.note(
                name.to_string(),
                || format!("{name:?}", name = name.as_str()),
                format!("{path}.name"),
                problems,
            );
        }
        for (a, prefix) in interface.addresses.iter().enumerate() {
            let address = prefix.address();
            // The same link-local address on two links is two addresses.
            let link = is_link_local(address).then_some(i);
            let path = format!("{path}.addresses[{a}].address");
            addresses.note((address, link), || address.to_string(), path, problems);
        }
        let Some(wanted) = &interface.wanted else { continue };
        for (n, name) in wanted.alternative_names.iter().enumerate() {
            names.note(
                name.clone(),
                || format!("{name:?}"),
                format!("{path}.alternative_names[{n}]"),
                problems,
            );
        }
        match &wanted.device {
            DesiredDevice::Found { mac: Some(mac), .. } => {
                macs.note(*mac, || mac.to_string(), format!("{path}.match.mac"), problems);
            }
            DesiredDevice::Vlan { parent, id } => {
                let path = format!("{path}.create.vlan.id");
                vlans.note((*parent, *id), || format!("VLAN {id} of that parent"), path, problems);
            }
            _ => {}
        }
        for (n, neighbour) in wanted.neighbours.iter().enumerate() {
            let (key, path) = ((i, neighbour.address), format!("{path}.neighbours[{n}].address"));
            neighbours.note(key, || neighbour.address.to_string(), path, problems);
        }
    }
}

/// Routes of one table, destination and metric: the kernel knows no difference.
fn refuse_twin_routes(routes: &[DesiredRoute], problems: &mut Problems) {
    let mut seen = HashMap::with_capacity(routes.len());
    for route in routes {
        if let Some(first) = seen.insert((route.table, route.destination, route.metric), route.place) {
            problems.add(
                route.place.to_string(),
                format!(
                    "{} of metric {} is {first} again: give one another metric",
                    route.destination, route.metric
                ),
            );
        }
    }
}

/// Networks of two interfaces of which one is a part of the other: packets for that part would
/// leave by the one, and answers come by the other. Two interfaces on one network are a choice,
/// and a single address of another interface's network is one too.
fn refuse_overlaps(interfaces: &[Checked], problems: &mut Problems) {
    // By first address: whatever a network contains follows it.
    let mut networks: Vec<(Prefix, usize, usize)> = Vec::new();
    for (i, interface) in interfaces.iter().enumerate() {
        let mut seen = std::collections::HashSet::new();
        for (a, prefix) in interface.addresses.iter().enumerate() {
            let counts = !prefix.is_host() && !is_link_local(prefix.address());
            if counts && seen.insert(prefix.network()) {
                networks.push((prefix.network(), i, a));
            }
        }
    }
    networks.sort_by_key(|(network, i, _)| (network.address(), network.length(), *i));
    let mut around: Vec<(Prefix, usize)> = Vec::new();
    for (network, i, a) in networks {
        while around.last().is_some_and(|(outer, _)| !outer.contains(network.address())) {
            around.pop();
        }
        if let Some((outer, other)) = around.iter().find(|(outer, other)| *other != i && *outer != network) {
            problems.add(
                format!("interfaces[{i}].addresses[{a}].address"),
                format!("{network} is a part of {outer}, a network of interfaces[{other}]"),
            );
        }
        around.push((network, i));
    }
}
