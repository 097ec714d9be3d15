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

use super::{
    model::{Address, KernelState, Link, PROTOCOL, Route},
    target::Target,
};

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

impl Operation {
    /// Whether it takes something away, which the kernel may have done already: a secondary
    /// address goes with its primary, a route with its address.
    pub fn is_removal(&self) -> bool {
        matches!(self, Self::RemoveAddress(_) | Self::RemoveRoute(_))
    }

    /// Whether it adds an address, which the kernel may have kept or made already.
    pub fn is_new_address(&self) -> bool {
        matches!(self, Self::AddAddress(_))
    }

    /// The link from which the kernel may take more than it was told: the secondary addresses of
    /// one that goes, all routes with the last one, nearly everything when it goes down.
    pub fn disturbs(&self) -> Option<u32> {
        match self {
            Self::LinkDown { link, .. } => Some(*link),
            Self::RemoveAddress(address) => Some(address.link),
            _ => None,
        }
    }
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

/// The operations that lead from `from` to `target`, none when nothing of ours differs.
///
/// Only links the target names are touched, and only what tether made is removed: what others
/// do in the meantime is theirs. What others made comes back only where our own doing has taken
/// it along, or where the target is a state to be restored. What the document wants and others
/// supply is made by us once they no longer do.
pub fn diff(from: &KernelState, target: &Target) -> Vec<Operation> {
    let to = &target.state;
    let links = link_changes(from, target);
    let down: HashSet<u32> = (links.iter())
        .filter_map(|change| match change {
            Operation::LinkDown { link, .. } => Some(*link),
            _ => None,
        })
        .collect();
    let from = &after_links_went_down(from, &down);
    // Theirs comes back where our doing took it along, or where all of a state is to come back.
    let comes_back = |link: u32| target.restores || down.contains(&link) || target.disturbed.contains(&link);
    let exists = |link: u32| from.link(link).is_some();

    let gone: Vec<Address> = addresses_without(from, to).filter(Address::is_ours).collect();
    let come: Vec<Address> = addresses_without(to, from)
        .filter(|address| exists(address.link))
        .filter_map(|address| {
            if address.is_ours() || target.wants_address(&address) {
                return Some(Address::ours(address.link, address.prefix));
            }
            (!address.is_kernels() && comes_back(address.link)).then_some(address)
        })
        .collect();
    let (first, last): (Vec<Address>, Vec<Address>) =
        gone.into_iter().partition(|old| come.iter().any(|new| collide(old, new)));

    let gone_routes: Vec<Route> = routes_without(from, to).filter(Route::is_ours).collect();
    let mut come_routes: Vec<Route> = routes_without(to, from)
        .filter(|route| exists(route.link))
        .filter_map(|route| {
            if route.is_ours() || target.wants_route(&route) {
                return Some(Route { protocol: PROTOCOL, ..route });
            }
            (!route.is_kernels() && comes_back(route.link)).then_some(route)
        })
        .collect();
    // A gateway may be reached by a route to its own network.
    come_routes.sort_by_key(|route| route.gateway.is_some());
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
fn addresses_without<'a>(a: &'a KernelState, b: &KernelState) -> impl Iterator<Item = Address> + use<'a> {
    let theirs: HashSet<_> = b.addresses.iter().map(|address| (address.link, address.prefix)).collect();
    a.addresses.iter().filter(move |address| !theirs.contains(&(address.link, address.prefix))).copied()
}

/// The routes of `a` that `b` has not.
fn routes_without<'a>(a: &'a KernelState, b: &KernelState) -> impl Iterator<Item = Route> + use<'a> {
    let value = |route: &Route| (route.destination, route.metric, route.gateway, route.link);
    let theirs: HashSet<_> = b.routes.iter().map(value).collect();
    a.routes.iter().filter(move |route| !theirs.contains(&value(route))).copied()
}

/// Whether an address must go before another can come, or would take it along when it goes: the
/// same address, or the same network on the same link, where the kernel makes the second one
/// secondary to the first (IPv4) and removes it together with it.
fn collide(old: &Address, new: &Address) -> bool {
    old.prefix.address() == new.prefix.address()
        || (old.link == new.link
            && (old.prefix.contains(new.prefix.address()) || new.prefix.contains(old.prefix.address())))
}

/// What changes of the links the target names.
fn link_changes(from: &KernelState, target: &Target) -> Vec<Operation> {
    let named: HashSet<u32> = target.links.iter().map(|(link, _)| *link).collect();
    let pairs: Vec<(&Link, &Link)> = (from.links.iter())
        .filter(|old| named.contains(&old.index))
        .filter_map(|old| Some((old, target.state.link(old.index)?)))
        .collect();
    let renamed = |(old, new): &&(&Link, &Link)| old.name != new.name;
    let mut operations = Vec::new();
    for (old, _) in pairs.iter().filter(renamed).filter(|(old, _)| old.up) {
        // Kernels before 6.2 rename only links that are down (EBUSY).
        operations.push(Operation::LinkDown { link: old.index, name: old.name.clone() });
    }
    let mut second_phase = Vec::new();
    for (old, new) in pairs.iter().filter(renamed) {
        let wanted = pairs.iter().any(|(other, wish)| other.index != old.index && wish.name == old.name);
        let mut current = old.name.clone();
        if wanted {
            // Another link is to have this one's name, and this one perhaps the other's: step
            // aside first.
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
fn after_links_went_down(state: &KernelState, down: &HashSet<u32>) -> KernelState {
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

    #[test]
    fn what_others_supplied_is_made_when_they_no_longer_do() {
        let links = [link(2, "eth0", true)];
        let mut to = state(&links, &["10.0.0.50/8"], &[route("0.0.0.0/0", "10.0.0.1", 0)]);
        to.addresses[0].protocol = 0;
        to.routes[0].protocol = 9;
        let mut target = reach(&to);
        target.addresses.insert((2, to.addresses[0].prefix), String::new());
        target.routes.insert((to.routes[0].destination, 0), String::new());
        assert_eq!(diff(&to, &target), []);
        let operations = diff(&state(&links, &[], &[]), &target);
        assert_eq!(
            operations,
            [
                Operation::AddAddress(Address::ours(2, to.addresses[0].prefix)),
                Operation::AddRoute(Route { protocol: PROTOCOL, ..to.routes[0] }),
            ]
        );
    }

    fn state(links: &[Link], addresses: &[&str], routes: &[Route]) -> KernelState {
        KernelState {
            links: links.to_vec(),
            addresses: addresses.iter().map(|a| Address::ours(2, a.parse().unwrap())).collect(),
            routes: routes.to_vec(),
        }
    }

    /// A target that names every link.
    fn reach(to: &KernelState) -> Target {
        let links = to.links.iter().map(|link| (link.index, String::new())).collect();
        Target { state: to.clone(), links, ..Target::default() }
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
        from.addresses[1].permanent = false;
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
        let target = Target { links: vec![(2, String::new())], ..reach(&to) };
        assert_eq!(diff(&from, &target), []);
        assert_eq!(diff(&to, &Target { links: vec![(2, String::new())], ..reach(&from) }), []);
        // What went with a link of ours comes back, and all of it when a state is restored.
        let mut renamed = reach(&from);
        renamed.state.links[0].name = "net0".into();
        renamed.links.truncate(1);
        let told: Vec<String> = diff(&from, &renamed).iter().map(ToString::to_string).collect();
        let expected = [
            "set eth0 down",
            "rename eth0 to net0",
            "set net0 up",
            "add route 10.9.0.0/16 via 10.0.0.7 through link 2",
        ];
        assert_eq!(told, expected);
        let restored = diff(&to, &Target { restores: true, links: Vec::new(), ..reach(&from) });
        assert_eq!(restored.len(), 2, "{restored:?}");
    }
}
