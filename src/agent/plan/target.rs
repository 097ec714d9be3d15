//! What the kernel should look like when a desired state is in force.
//!
//! The target is the observed state with only tether's own things changed: what others made is
//! in it too, so that nothing of theirs is ever in the difference.

use std::collections::{HashMap, HashSet};

use tether_wire::{
    check::{Desired, DesiredInterface},
    problem::{Problem, Problems},
    value::{MacAddr, Prefix},
};

use super::model::{Address, KernelState, Link, PROTOCOL, Route};

/// A kernel state to reach.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The state.
    pub state: KernelState,
    /// The links the desired state names, in its order: index and path in the document.
    pub links: Vec<(u32, String)>,
    /// Whether what others made is to be put back too: the state was there before, and tether's
    /// own doing has disturbed it.
    pub restores: bool,
    /// Links from which an address was removed or that went down on the way here: the kernel may
    /// have taken things of others along.
    pub disturbed: HashSet<u32>,
    /// Where an address of ours stands in the document, by link and value.
    pub(super) addresses: HashMap<(u32, Prefix), String>,
    /// Where a route of ours stands in the document, by destination and metric.
    pub(super) routes: HashMap<(Prefix, u32), String>,
}

impl Target {
    /// The target that undoes what was done towards `self`, from `before`.
    #[must_use]
    pub fn back_to(&self, before: KernelState) -> Self {
        Self { state: before, links: self.links.clone(), restores: true, ..Self::default() }
    }

    /// Whether the document wants this address, whoever makes it.
    pub fn wants_address(&self, address: &Address) -> bool {
        self.addresses.contains_key(&(address.link, address.prefix))
    }

    /// Whether the document wants a route of this destination and metric, whoever makes it.
    pub fn wants_route(&self, route: &Route) -> bool {
        self.routes.contains_key(&(route.destination, route.metric))
    }

    /// Every wanted address and its path, whoever made it.
    pub fn wanted_addresses(&self) -> impl Iterator<Item = ((u32, Prefix), &str)> {
        self.addresses.iter().map(|(wanted, path)| (*wanted, path.as_str()))
    }

    /// The path in the document of what is wanted of a link.
    pub fn link_path(&self, index: u32) -> String {
        let found = self.links.iter().find(|(link, _)| *link == index);
        found.map_or_else(|| "interfaces".to_owned(), |(_, path)| path.clone())
    }

    /// The path in the document of an address.
    pub fn address_path(&self, address: &Address) -> String {
        let found = self.addresses.get(&(address.link, address.prefix));
        found.cloned().unwrap_or_else(|| self.link_path(address.link))
    }

    /// The path in the document of a route.
    pub fn route_path(&self, route: &Route) -> String {
        let found = self.routes.get(&(route.destination, route.metric));
        found.cloned().unwrap_or_else(|| self.link_path(route.link))
    }
}

/// The kernel state that puts `desired` in force, starting from `observed`.
///
/// `management` is the NIC that carries the tether, which no document may name.
pub fn target(
    desired: &Desired,
    observed: &KernelState,
    management: Option<MacAddr>,
) -> Result<Target, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut target = Target { state: observed.clone(), ..Target::default() };
    target.state.addresses.retain(|address| !address.is_ours());
    target.state.routes.retain(|route| !route.is_ours());
    for (i, interface) in desired.interfaces.iter().enumerate() {
        let path = format!("interfaces[{i}]");
        if Some(interface.mac) == management {
            problems.add(
                format!("{path}.mac"),
                format!("{} is the management NIC, which carries the tether only", interface.mac),
            );
            continue;
        }
        let Some(index) = problems.keep(&format!("{path}.mac"), find(interface.mac, observed)) else {
            continue;
        };
        target.links.push((index, path.clone()));
        set_link(&path, index, interface, &mut target.state.links, &mut problems);
        add_addresses(&path, index, interface, &mut target);
        add_routes(&path, index, interface, observed, &mut target, &mut problems);
    }
    refuse_taken_names(&target, &mut problems);
    problems.into_result(target)
}

/// The index of the one link with this MAC address. Devices stacked on another (VLANs, bridges,
/// bonds) take over its address and are not meant.
fn find(mac: MacAddr, observed: &KernelState) -> Result<u32, String> {
    let mut found = observed.links.iter().filter(|link| link.mac == Some(mac) && !link.stacked);
    match (found.next(), found.next()) {
        (Some(link), None) => Ok(link.index),
        (None, _) => Err(format!("no interface has {mac}; there are {}", candidates(observed))),
        (Some(first), Some(second)) => {
            Err(format!("both {} and {} have {mac}: give each its own", first.name, second.name))
        }
    }
}

/// The machine's interfaces, for a person who has to choose one: the first eight.
fn candidates(observed: &KernelState) -> String {
    let list: Vec<String> = (observed.links.iter())
        .filter_map(|link| link.mac.map(|mac| format!("{} ({mac})", link.name)))
        .take(8)
        .collect();
    if list.is_empty() { "none with a MAC address".to_owned() } else { list.join(", ") }
}

fn set_link(path: &str, index: u32, wanted: &DesiredInterface, links: &mut [Link], problems: &mut Problems) {
    let Some(link) = links.iter_mut().find(|link| link.index == index) else {
        return;
    };
    if let Some(mtu) = wanted.mtu {
        let (least, most) = link.mtu_range;
        if mtu < least || (most != 0 && mtu > most) {
            problems.add(
                format!("{path}.mtu"),
                format!("{mtu} is not possible on {}: it takes {least} to {most}", link.name),
            );
        }
        link.mtu = mtu;
    }
    wanted.name.as_str().clone_into(&mut link.name);
    link.up = true;
}

fn add_addresses(path: &str, index: u32, wanted: &DesiredInterface, target: &mut Target) {
    for (a, prefix) in wanted.addresses.iter().enumerate() {
        let address = Address::ours(index, *prefix);
        target.addresses.insert((index, *prefix), format!("{path}.addresses[{a}]"));
        // Somebody else's address of the same value serves as well, and stays theirs.
        if !target.state.addresses.iter().any(|other| other.same(&address)) {
            target.state.addresses.push(address);
        }
    }
}

fn add_routes(
    path: &str,
    index: u32,
    wanted: &DesiredInterface,
    observed: &KernelState,
    target: &mut Target,
    problems: &mut Problems,
) {
    for (r, route) in wanted.routes.iter().enumerate() {
        let path = format!("{path}.routes[{r}]");
        let route = Route {
            destination: route.destination,
            gateway: route.gateway,
            link: index,
            metric: route.metric,
            protocol: PROTOCOL,
            source: None,
            onlink: false,
            scope: scope(route.destination, route.gateway.is_some()),
        };
        // Only ours are retained in the target, so a route of this key is somebody else's. The
        // kernel's "replace" would take it away from them.
        let in_the_way = target.state.routes.iter().find(|other| !other.is_ours() && other.same_key(&route));
        // A router's advertisement that came later stands beside ours, which is there already.
        let stands = observed.routes.iter().any(|other| other.is_ours() && other.same(&route));
        let in_the_way = in_the_way.filter(|other| !(stands && other.is_kernels()));
        match in_the_way {
            Some(other) if other.same(&route) => {}
            Some(other) => problems.add(
                &path,
                format!(
                    "a route that tether did not make is in the way: {other} dev {} (protocol {}); \
                     give this one another metric or remove that one",
                    observed.link_name(other.link),
                    other.protocol
                ),
            ),
            None => target.state.routes.push(route),
        }
        target.routes.insert((route.destination, route.metric), path);
    }
}

/// IPv4 routes without a gateway are of scope link (`ip-route(8)`), all others universal.
fn scope(destination: Prefix, has_gateway: bool) -> u8 {
    const RT_SCOPE_UNIVERSE: u8 = 0;
    const RT_SCOPE_LINK: u8 = 253;
    if destination.address().is_ipv4() && !has_gateway { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE }
}

/// A name belongs to one link: to two wanted ones never (the document was checked), to a link
/// the document does not name neither.
fn refuse_taken_names(target: &Target, problems: &mut Problems) {
    for (index, path) in &target.links {
        let Some(link) = target.state.link(*index) else { continue };
        let holder =
            (target.state.links.iter()).find(|other| other.index != link.index && other.name == link.name);
        if let Some(holder) = holder
            && !target.links.iter().any(|(other, _)| *other == holder.index)
        {
            let mac = holder.mac.map(|mac| format!(" ({mac})")).unwrap_or_default();
            problems.add(
                format!("{path}.name"),
                format!("{} is another interface's name{mac}: choose another", link.name),
            );
        }
    }
}
