//! What changes of addresses.

use std::collections::{HashMap, HashSet};

use tether_wire::value::Prefix;

use super::Scope;
use crate::plan::{
    model::{Address, AddressKey, KernelState, Lifetime, PROTOCOL},
    setting::Setting,
};

/// What changes of addresses.
pub(super) struct Changes {
    /// Those that would be in the way.
    pub(super) first: Vec<Address>,
    /// Those that stay and get other flags or another lifetime.
    pub(super) changed: Vec<Address>,
    /// Those that come, in the document's order.
    pub(super) come: Vec<Address>,
    /// Those that nothing replaces.
    pub(super) last: Vec<Address>,
}

/// What changes of addresses, from `from` on.
pub(super) fn changes(from: &KernelState, scope: &Scope<'_>) -> Changes {
    let to = &scope.target.state;
    let there: HashMap<AddressKey, &Address> = from.addresses.iter().map(|a| (a.key(), a)).collect();
    let wanted: HashMap<AddressKey, &Address> = to.addresses.iter().map(|a| (a.key(), a)).collect();
    let is_mine = |address: &Address| address.is_ours() || scope.target.wants_address(address);
    let misplaced = misplaced(from, scope, &there, &wanted);

    let (mut anew, mut changed) = (misplaced, Vec::new());
    for (key, new) in &wanted {
        let Some(old) = there.get(key).filter(|old| old.is_ours()) else { continue };
        if !same_for_good(old, new) {
            anew.insert(*key);
        } else if !same_for_now(old, new) {
            changed.push((*new).clone());
        }
    }
    let come: Vec<Address> = (to.addresses.iter())
        .filter(|new| scope.exists(new.link))
        .filter(|new| !there.contains_key(&new.key()) || anew.contains(&new.key()))
        .filter_map(|new| {
            if is_mine(new) {
                return Some(Address { protocol: PROTOCOL, ..new.clone() });
            }
            // It was checked before, and others' routes wait for it.
            let nodad = new.prefix.address().is_ipv6();
            let back = !new.is_kernels() && scope.comes_back(new.link);
            back.then(|| Address { nodad, ..new.clone() })
        })
        .collect();
    // Secondary ones before the one they are secondary to: the kernel would make each the next one
    // in turn, and look at all that are left each time.
    let gone = (from.addresses.iter().rev())
        .filter(|old| anew.contains(&old.key()) || old.is_ours() && !wanted.contains_key(&old.key()));
    // The same IPv6 address on two links of one network would find itself to be a duplicate.
    let is_ipv6 = |address: &std::net::IpAddr| address.is_ipv6();
    let moved: HashSet<_> = come.iter().map(|new| new.prefix.address()).filter(is_ipv6).collect();
    let mut networks: HashMap<(u32, Prefix), Vec<&Address>> = HashMap::new();
    for new in come.iter().filter(|new| new.prefix.address().is_ipv4()) {
        networks.entry((new.link, new.network())).or_default().push(new);
    }
    let (first, last) = gone.cloned().partition(|old| {
        let promotes =
            to.link(old.link).and_then(|link| link.settings.get(Setting::PromoteSecondaries)) == Some(1);
        // The kernel makes the second address of an IPv4 network secondary to the first: it shares
        // that one's route, has to be of its scope, and unless it is to be promoted goes with it.
        let takes_along = networks.get(&(old.link, old.network())).is_some_and(|come| {
            let alike = |new: &&Address| new.no_prefix_route == old.no_prefix_route && new.scope == old.scope;
            !promotes || !come.iter().all(alike)
        });
        anew.contains(&old.key()) || moved.contains(&old.prefix.address()) || takes_along
    });
    changed.sort_by_key(|address| (address.link, address.prefix));
    Changes { first, changed, come, last }
}

/// Whether the kernel could make one into the other: what it cannot change needs a new address.
fn same_for_good(old: &Address, new: &Address) -> bool {
    let is_ipv4 = new.prefix.address().is_ipv4();
    // Linux up to 6.18 at least gives the route to the address's network an end in the past then.
    let ends_now = !is_ipv4 && !new.no_prefix_route && old.lifetime.is_none() && new.lifetime.is_some();
    !ends_now
        && old.prefix == new.prefix
        && old.peer == new.peer
        && old.protocol == new.protocol
        && (!is_ipv4
            || old.scope == new.scope && old.label == new.label && old.no_prefix_route == new.no_prefix_route)
}

fn same_for_now(old: &Address, new: &Address) -> bool {
    let is_ipv4 = new.prefix.address().is_ipv4();
    same_lifetime(old.lifetime, new.lifetime)
        && (is_ipv4
            || old.no_prefix_route == new.no_prefix_route && old.home == new.home && old.nodad == new.nodad)
}

/// Lifetimes are told in whole seconds that are left, by a clock with ticks of its own; what is
/// about to end ends on its own.
fn same_lifetime(old: Option<Lifetime>, new: Option<Lifetime>) -> bool {
    let near = |a: u32, b: u32| a.abs_diff(b) <= 3;
    match (old, new) {
        (None, None) => true,
        (Some(old), Some(new)) => near(old.valid, new.valid) && near(old.preferred, new.preferred),
        _ => false,
    }
}

/// The addresses that stand in another order than the target's: of an IPv4 network on one link
/// the first is primary, and packets leave by it. They have to come anew, after those before
/// them. IPv6 chooses by other rules (RFC 6724), so that order means nothing there.
fn misplaced(
    from: &KernelState,
    scope: &Scope<'_>,
    there: &HashMap<AddressKey, &Address>,
    wanted: &HashMap<AddressKey, &Address>,
) -> HashSet<AddressKey> {
    let counts = |address: &&Address| {
        address.prefix.address().is_ipv4() && (address.is_ours() || scope.target.restores)
    };
    let group = |address: &Address| (address.link, address.network());
    let mut groups: HashMap<(u32, Prefix), Vec<AddressKey>> = HashMap::new();
    for new in scope.target.state.addresses.iter().filter(counts) {
        groups.entry(group(new)).or_default().push(new.key());
    }
    let mut places: HashMap<(u32, Prefix), usize> = HashMap::new();
    let mut misplaced = HashSet::new();
    // In the kernel's order, each of those that stay has to be the next one of its network.
    for old in from.addresses.iter().filter(counts).filter(|old| wanted.contains_key(&old.key())) {
        let Some(order) = groups.get(&group(old)) else { continue };
        let place = places.entry(group(old)).or_default();
        if order.get(*place) == Some(&old.key()) {
            *place += 1;
        } else {
            misplaced.insert(old.key());
        }
    }
    // Behind one that is new or misplaced nothing stands right.
    for (group, order) in &groups {
        let right = places.get(group).copied().unwrap_or_default();
        misplaced.extend(order.iter().skip(right).filter(|key| there.contains_key(key)));
    }
    misplaced
}
