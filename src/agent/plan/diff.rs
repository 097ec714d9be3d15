//! The operations that lead from one kernel state to another, in a safe order.
//!
//! Order, by construction:
//! 1. what would be in the way of something to come goes: a device of the same name, an address
//!    that is to be elsewhere;
//! 2. links change: down only where that is needed, names in two phases, and what tether makes is
//!    made;
//! 3. addresses come, then neighbours, then routes (those that replace another by one atomic
//!    "replace": a default route is never missing while its successor is on the way), then rules;
//! 4. what nothing replaces goes, in the opposite order: rules, routes, neighbours, addresses,
//!    devices.

mod addresses;
mod links;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{
    model::{
        Address, Hop, IPV6_LEAST_MTU, KernelState, Link, LinkKind, Neighbour, PROTOCOL, Route, RouteKey, Rule,
    },
    operation::Operation,
    setting::Setting,
    target::Target,
};

/// The operations that lead from `from` to `target`, none when nothing of ours differs.
///
/// Only links the target names are touched, and only what tether made is removed: what others
/// do in the meantime is theirs. What others made comes back only where our own doing has taken
/// it along, or where the target is a state to be restored. What the document wants and others
/// supply is made by us once they no longer do.
pub fn diff(from: &KernelState, target: &Target) -> Vec<Operation> {
    let links = links::changes(from, target);
    // What goes with the links that go down is planned for as if it were gone already.
    let left;
    let left = if links.down.is_empty() && links.without_ipv6.is_empty() {
        from
    } else {
        left = after_links_went_down(from, &links.down, &links.without_ipv6);
        &left
    };
    let scope = Scope { target, links: &links };
    let addresses = addresses::changes(left, &scope);
    let (come_neighbours, gone_neighbours) = neighbours(left, &scope);
    let (come_routes, gone_routes) = routes(from, left, &addresses.come, &scope);
    let rules = rules(from, target);

    let mut operations = links.first;
    operations.extend(addresses.first.into_iter().map(Operation::RemoveAddress));
    operations.extend(links.then);
    operations.extend(addresses.changed.into_iter().map(Operation::ChangeAddress));
    operations.extend(addresses.come.into_iter().map(Operation::AddAddress));
    operations.extend(come_neighbours.into_iter().map(Operation::SetNeighbour));
    operations.extend(come_routes);
    operations.extend(rules.first.into_iter().map(Operation::RemoveRule));
    operations.extend(rules.come.into_iter().map(Operation::AddRule));
    operations.extend(rules.last.into_iter().map(Operation::RemoveRule));
    operations.extend(gone_routes.into_iter().map(Operation::RemoveRoute));
    operations.extend(gone_neighbours.into_iter().map(Operation::RemoveNeighbour));
    operations.extend(addresses.last.into_iter().map(Operation::RemoveAddress));
    operations.extend(links.last);
    operations
}

/// What may be changed, and for whose sake.
struct Scope<'a> {
    target: &'a Target,
    links: &'a links::Changes,
}

impl Scope<'_> {
    /// Whether what others made on a link is to be put back: our own doing has taken it along.
    fn comes_back(&self, link: u32) -> bool {
        self.target.restores || self.links.down.contains(&link) || self.target.disturbed.contains(&link)
    }

    fn exists(&self, link: u32) -> bool {
        self.target.state.link(link).is_some()
    }

    /// Whether a next hop of somebody else's route can be one.
    fn carries(&self, route: &Route, hop: &Hop) -> bool {
        let has_ipv6 =
            |link: &Link| link.settings.get(Setting::DisableIpv6) != Some(1) && link.mtu >= IPV6_LEAST_MTU;
        let link = self.target.state.link(hop.link);
        self.is_up(hop.link) && link.is_none_or(|link| !route.needs_ipv6(hop) || has_ipv6(link))
    }

    /// Whether there can be routes and neighbours on a link: it is there and up.
    fn is_up(&self, link: u32) -> bool {
        link == 0 || self.target.state.link(link).is_some_and(|link| link.up)
    }
}

fn neighbours(from: &KernelState, scope: &Scope<'_>) -> (Vec<Neighbour>, Vec<Neighbour>) {
    let to = &scope.target.state;
    let there: HashMap<_, &Neighbour> = from.neighbours.iter().map(|n| (n.key(), n)).collect();
    let wanted: HashSet<_> = to.neighbours.iter().map(Neighbour::key).collect();
    let come = to.neighbours.iter().filter(|new| {
        let stands = there.get(&new.key()).is_some_and(|old| old.mac == new.mac);
        let mine = new.is_ours() || scope.target.neighbours.contains_key(&new.key());
        !stands && scope.is_up(new.link) && (mine || scope.comes_back(new.link))
    });
    let gone = from.neighbours.iter().filter(|old| old.is_ours() && !wanted.contains(&old.key()));
    (come.copied().collect(), gone.copied().collect())
}

/// `left` is `from` without what goes with its links.
fn routes(
    from: &KernelState,
    left: &KernelState,
    come_addresses: &[Address],
    scope: &Scope<'_>,
) -> (Vec<Operation>, Vec<Route>) {
    let to = &scope.target.state;
    let mut there: HashMap<RouteKey, Vec<&Route>> = HashMap::with_capacity(left.routes.len());
    for route in &left.routes {
        there.entry(route.key()).or_default().push(route);
    }
    // The kernel takes no IPv6 address for a route's source that is still being checked. It comes
    // when that is over.
    let unusable: HashSet<IpAddr> = (left.addresses.iter())
        .filter(|address| address.tentative && !address.optimistic)
        .chain(come_addresses.iter().filter(|address| !address.optimistic && !address.nodad))
        .map(|address| address.prefix.address())
        .filter(IpAddr::is_ipv6)
        .collect();
    let mut come: Vec<Operation> = Vec::new();
    for new in &to.routes {
        let mine = new.is_ours() || scope.target.routes.contains_key(&new.key());
        let old = there.get(&new.key()).map_or(&[][..], Vec::as_slice);
        if old.iter().any(|old| old.same(new)) {
            continue;
        }
        let protocol = if mine { PROTOCOL } else { new.protocol };
        let mut new = Route { protocol, ..new.clone() };
        if !mine {
            // A next hop that was dead before cannot be given back to somebody's route.
            let hops = new.hops.len();
            let alive: Vec<Hop> = new.hops.iter().filter(|hop| scope.carries(&new, hop)).copied().collect();
            new.hops = alive;
            if let ([only], true) = (&mut new.hops[..], hops > 1) {
                only.weight = 1;
            }
            let comes_back = new.hops.iter().any(|hop| scope.comes_back(hop.link)) || scope.target.restores;
            let is_there = new.hops.len() < hops && old.iter().any(|old| old.same(&new));
            if new.is_kernels() || !comes_back || is_there || new.hops.is_empty() != (hops == 0) {
                continue;
            }
        } else if !new.hops.iter().all(|hop| scope.is_up(hop.link)) {
            continue;
        }
        if new.source.is_some_and(|source| unusable.contains(&source)) {
            continue;
        }
        // One with several next hops may be half there when a link goes down.
        let half = !std::ptr::eq(from, left) && from.routes.iter().any(|old| old.key() == new.key());
        // A router's advertisement may stand beside ours; anything else of this key is replaced.
        let replaces = old.iter().any(|old| !old.is_kernels() || scope.target.restores) || half;
        come.push(if replaces { Operation::ReplaceRoute(new) } else { Operation::AddRoute(new) });
    }
    // A gateway may be reached by a route to its own network.
    come.sort_by_key(|operation| match operation {
        Operation::AddRoute(route) | Operation::ReplaceRoute(route) => {
            route.hops.iter().any(|hop| hop.gateway.is_some())
        }
        _ => false,
    });
    let wanted: HashSet<RouteKey> = to.routes.iter().map(Route::key).collect();
    let gone = left.routes.iter().filter(|old| old.is_ours() && !wanted.contains(&old.key()));
    (come, gone.cloned().collect())
}

/// What changes of rules.
struct Rules {
    /// Those that would be taken for others.
    first: Vec<Rule>,
    come: Vec<Rule>,
    /// Those that nothing replaces.
    last: Vec<Rule>,
}

fn rules(from: &KernelState, target: &Target) -> Rules {
    let to = &target.state;
    let there: HashSet<&Rule> = from.rules.iter().collect();
    let wanted: HashSet<&Rule> = to.rules.iter().collect();
    // What the document wants and others supplied is made by us once they no longer do.
    let served: HashSet<Rule> =
        from.rules.iter().map(|rule| Rule { protocol: PROTOCOL, ..rule.clone() }).collect();
    let come = to.rules.iter().filter_map(|new| {
        let ours = Rule { protocol: PROTOCOL, ..new.clone() };
        let mine = new.is_ours() || target.rules.contains_key(&ours);
        if there.contains(new) || (mine && served.contains(&ours)) {
            return None;
        }
        if mine { Some(ours) } else { (target.restores && !new.opaque).then(|| new.clone()) }
    });
    let mut come: Vec<Rule> = come.collect();
    let gone = from.rules.iter().filter(|old| old.is_ours() && !wanted.contains(old));

    // The kernel looks at what a rule says, not at what it leaves open: of two of one priority it
    // takes the one that says less for the other, when it is added and when it is removed. So all
    // of ours of such a priority go, those that say more first, before any comes.
    let place = |rule: &Rule| (rule.ipv6, rule.priority);
    let mut ours: HashMap<_, usize> = HashMap::new();
    for rule in from.rules.iter().filter(|rule| rule.is_ours()) {
        *ours.entry(place(rule)).or_default() += 1;
    }
    let coming: HashSet<_> = come.iter().map(place).collect();
    let contested: HashSet<_> = gone
        .clone()
        .map(place)
        .filter(|place| coming.contains(place) || ours.get(place) > Some(&1))
        .collect();
    let (mut first, last): (Vec<Rule>, Vec<Rule>) =
        gone.cloned().partition(|rule| contested.contains(&place(rule)));
    let again = |rule: &&Rule| rule.is_ours() && wanted.contains(rule) && contested.contains(&place(rule));
    for rule in from.rules.iter().filter(again) {
        first.push(rule.clone());
        come.push(rule.clone());
    }
    first.sort_by_key(|rule| std::cmp::Reverse(says(rule)));
    Rules { first, come, last }
}

/// How much a rule says of the packets it is for.
fn says(rule: &Rule) -> u32 {
    let said = [
        rule.from.is_some(),
        rule.to.is_some(),
        rule.iif.is_some(),
        rule.oif.is_some(),
        rule.fwmask != 0,
        rule.suppress_prefix_length.is_some(),
    ];
    said.into_iter().map(u32::from).sum()
}

/// What is left of a state when some of its links go down: the kernel drops their IPv6
/// addresses (unless `keep_addr_on_down`), their neighbours and all routes through them. IPv6
/// being disabled takes what is IPv6.
fn after_links_went_down(
    state: &KernelState,
    down: &HashSet<u32>,
    without_ipv6: &HashSet<u32>,
) -> KernelState {
    let goes = |link: u32, is_ipv6: bool| down.contains(&link) || (is_ipv6 && without_ipv6.contains(&link));
    let mut left = state.clone();
    left.routes.retain(|route| !route.hops.iter().any(|hop| goes(hop.link, route.needs_ipv6(hop))));
    left.neighbours.retain(|neighbour| !goes(neighbour.link, neighbour.address.is_ipv6()));
    left.addresses.retain(|address| {
        let is_ipv6 = address.prefix.address().is_ipv6();
        !(is_ipv6 && goes(address.link, true))
    });
    left
}

/// What others had in `before` and have not in `now`, each for a person: what cannot be put back.
pub fn lost(before: &KernelState, now: &KernelState) -> Vec<String> {
    let addresses: HashSet<_> = now.addresses.iter().map(Address::key).collect();
    let gone = |address: &&Address| {
        // Those with an end of their own may have come to it.
        let stays = !address.is_ours() && !address.is_kernels() && address.lifetime.is_none();
        stays && !addresses.contains(&address.key())
    };
    let addresses = before.addresses.iter().filter(gone).map(|address| format!("address {address}"));
    let routes: HashMap<RouteKey, usize> =
        now.routes.iter().map(|route| (route.key(), route.hops.len())).collect();
    let gone = |route: &&Route| {
        let is_there = routes.get(&route.key()).is_some_and(|hops| *hops >= route.hops.len());
        !route.is_ours() && !route.is_kernels() && !is_there
    };
    let routes = before.routes.iter().filter(gone).map(|route| format!("route {route}"));
    let neighbours: HashSet<_> = now.neighbours.iter().map(Neighbour::key).collect();
    let gone = |neighbour: &&Neighbour| !neighbour.is_ours() && !neighbours.contains(&neighbour.key());
    let neighbours = before.neighbours.iter().filter(gone).map(|n| format!("neighbour {}", n.address));
    addresses.chain(routes).chain(neighbours).collect()
}

/// Whether a kind of device is one that tether makes.
fn is_made(kind: LinkKind) -> bool {
    matches!(kind, LinkKind::Dummy | LinkKind::Vlan { .. })
}

#[cfg(test)]
mod tests;
