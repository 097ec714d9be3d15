//! The operations that lead from one kernel state to another, in a safe order.
//!
//! Order, by construction:
//! 1. routes that nothing replaces go;
//! 2. addresses go that would collide with one to come;
//! 3. links change: down only where a rename needs it, names in two phases, MTU, up;
//! 4. addresses come;
//! 5. routes come, those that replace another by one atomic "replace": a default route is never
//!    missing while its successor is on the way;
//! 6. the remaining addresses go.

use std::{collections::HashSet, fmt};

use super::model::{Address, KernelState, Link, Route};

/// One change to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Take a link down.
    LinkDown {
        /// Its index.
        link: u32,
        /// Its name, for messages.
        name: String,
    },
    /// Give a link another name. It is down.
    Rename {
        /// Its index.
        link: u32,
        /// The name it has.
        from: String,
        /// The name it gets.
        to: String,
    },
    /// Change a link's MTU.
    SetMtu {
        /// Its index.
        link: u32,
        /// Its name, for messages.
        name: String,
        /// Bytes.
        mtu: u32,
    },
    /// Bring a link up.
    LinkUp {
        /// Its index.
        link: u32,
        /// Its name, for messages.
        name: String,
    },
    /// Add an address.
    AddAddress(Address),
    /// Remove an address.
    RemoveAddress(Address),
    /// Add a route.
    AddRoute(Route),
    /// Put a route in the place of one with the same destination and metric.
    ReplaceRoute(Route),
    /// Remove a route.
    RemoveRoute(Route),
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkDown { name, .. } => write!(f, "set {name} down"),
            Self::Rename { from, to, .. } => write!(f, "rename {from} to {to}"),
            Self::SetMtu { name, mtu, .. } => write!(f, "set {name} mtu {mtu}"),
            Self::LinkUp { name, .. } => write!(f, "set {name} up"),
            Self::AddAddress(a) => write!(f, "add address {} to link {}", a.prefix, a.link),
            Self::RemoveAddress(a) => write!(f, "remove address {} from link {}", a.prefix, a.link),
            Self::AddRoute(r) => write!(f, "add route {r} through link {}", r.link),
            Self::ReplaceRoute(r) => write!(f, "replace route {r} through link {}", r.link),
            Self::RemoveRoute(r) => write!(f, "remove route {r} through link {}", r.link),
        }
    }
}

/// The operations that lead from `from` to `to`, none when they do not differ.
///
/// What the kernel makes by itself is in neither direction of the difference. Links that are
/// not in both states are left out with everything on them: a device cannot be made or unmade
/// here.
pub fn diff(from: &KernelState, to: &KernelState) -> Vec<Operation> {
    let links = link_changes(from, to);
    let from = &after_links_went_down(from, &links);
    let in_both: HashSet<u32> =
        (from.links.iter()).map(|link| link.index).filter(|index| to.link(*index).is_some()).collect();

    let (gone, come) = (addresses_without(from, to, &in_both), addresses_without(to, from, &in_both));
    let (first, last): (Vec<Address>, Vec<Address>) =
        gone.into_iter().partition(|old| come.iter().any(|new| collide(old, new)));

    let (gone_routes, come_routes) = (routes_without(from, to, &in_both), routes_without(to, from, &in_both));
    let key = |route: &Route| (route.destination, route.metric);
    let gone_keys: HashSet<_> = gone_routes.iter().map(key).collect();
    let come_keys: HashSet<_> = come_routes.iter().map(key).collect();

    let unreplaced = gone_routes.into_iter().filter(|route| !come_keys.contains(&key(route)));
    let mut operations: Vec<Operation> = unreplaced.map(Operation::RemoveRoute).collect();
    operations.extend(first.into_iter().map(Operation::RemoveAddress));
    operations.extend(links);
    operations.extend(come.into_iter().map(Operation::AddAddress));
    operations.extend(come_routes.into_iter().map(|route| {
        if gone_keys.contains(&key(&route)) {
            Operation::ReplaceRoute(route)
        } else {
            Operation::AddRoute(route)
        }
    }));
    operations.extend(last.into_iter().map(Operation::RemoveAddress));
    operations
}

/// The addresses of `a` that `b` has not.
fn addresses_without(a: &KernelState, b: &KernelState, links: &HashSet<u32>) -> Vec<Address> {
    let theirs: HashSet<_> = b.addresses.iter().map(|address| (address.link, address.prefix)).collect();
    (a.addresses.iter())
        .filter(|address| !address.is_kernels() && links.contains(&address.link))
        .filter(|address| !theirs.contains(&(address.link, address.prefix)))
        .copied()
        .collect()
}

/// The routes of `a` that `b` has not.
fn routes_without(a: &KernelState, b: &KernelState, links: &HashSet<u32>) -> Vec<Route> {
    let value = |route: &Route| (route.destination, route.metric, route.gateway, route.link);
    let theirs: HashSet<_> = b.routes.iter().map(value).collect();
    (a.routes.iter())
        .filter(|route| !route.is_kernels() && links.contains(&route.link))
        .filter(|route| !theirs.contains(&value(route)))
        .copied()
        .collect()
}

/// Whether an address must go before another can come, or would take it along when it goes: the
/// same address, or the same network on the same link, where the kernel makes the second one
/// secondary to the first (IPv4) and removes it together with it.
fn collide(old: &Address, new: &Address) -> bool {
    old.prefix.address() == new.prefix.address()
        || (old.link == new.link
            && (old.prefix.contains(new.prefix.address()) || new.prefix.contains(old.prefix.address())))
}

/// What changes of the links themselves.
fn link_changes(from: &KernelState, to: &KernelState) -> Vec<Operation> {
    let pairs: Vec<(&Link, &Link)> =
        from.links.iter().filter_map(|old| Some((old, to.link(old.index)?))).collect();
    let renamed = |(old, new): &&(&Link, &Link)| old.name != new.name;
    let mut operations = Vec::new();
    for (old, _) in pairs.iter().filter(renamed).filter(|(old, _)| old.up) {
        // Kernels before 6.2 rename only links that are down (EBUSY).
        operations.push(Operation::LinkDown { link: old.index, name: old.name.clone() });
    }
    let mut second_phase = Vec::new();
    for (old, new) in pairs.iter().filter(renamed) {
        let taken = from.links.iter().any(|other| other.index != old.index && other.name == new.name);
        let mut current = old.name.clone();
        if taken {
            // Its holder is renamed too, perhaps to this link's name: step aside first.
            let aside = format!("tether{}", old.index);
            operations.push(Operation::Rename { link: old.index, from: current, to: aside.clone() });
            current = aside;
        }
        second_phase.push(Operation::Rename { link: old.index, from: current, to: new.name.clone() });
    }
    operations.extend(second_phase);
    for (old, new) in &pairs {
        if old.mtu != new.mtu {
            operations.push(Operation::SetMtu { link: old.index, name: new.name.clone(), mtu: new.mtu });
        }
        let went_down = old.up && old.name != new.name;
        if new.up && (!old.up || went_down) {
            operations.push(Operation::LinkUp { link: old.index, name: new.name.clone() });
        }
        if !new.up && old.up && !went_down {
            operations.push(Operation::LinkDown { link: old.index, name: new.name.clone() });
        }
    }
    operations
}

/// What is left of a state when some of its links go down: the kernel drops their IPv6
/// addresses (unless `keep_addr_on_down`) and all routes through them.
fn after_links_went_down(state: &KernelState, changes: &[Operation]) -> KernelState {
    let down: HashSet<u32> = (changes.iter())
        .filter_map(|change| match change {
            Operation::LinkDown { link, .. } => Some(*link),
            _ => None,
        })
        .collect();
    let mut left = state.clone();
    left.routes.retain(|route| !down.contains(&route.link));
    left.addresses.retain(|address| address.prefix.address().is_ipv4() || !down.contains(&address.link));
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, up: bool) -> Link {
        Link { index, name: name.into(), mtu: 1_500, up, ..Link::default() }
    }

    fn route(destination: &str, gateway: &str, metric: u32) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            link: 2,
            metric,
            protocol: super::super::model::PROTOCOL,
            source: None,
            onlink: false,
            scope: 0,
        }
    }

    fn state(links: &[Link], addresses: &[&str], routes: &[Route]) -> KernelState {
        KernelState {
            links: links.to_vec(),
            addresses: addresses.iter().map(|a| Address::ours(2, a.parse().unwrap())).collect(),
            routes: routes.to_vec(),
        }
    }

    fn told(from: &KernelState, to: &KernelState) -> Vec<String> {
        diff(from, to).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn no_difference_no_operation() {
        let one = state(&[link(2, "eth0", true)], &["10.0.0.2/8"], &[route("0.0.0.0/0", "10.0.0.1", 0)]);
        assert_eq!(diff(&one, &one), []);
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
        from.addresses[1].permanent = false;
        from.routes[0].protocol = 9;
        assert_eq!(diff(&from, &state(&links, &[], &[])), []);
    }
}
