//! What changes of links.

use std::collections::HashSet;

use super::is_made;
use crate::plan::{
    model::{IPV6_LEAST_MTU, KernelState, Link, LinkKind},
    operation::{Named, Operation},
    setting::{Setting, Settings},
    target::Target,
};

/// What changes of links.
#[derive(Default)]
pub(super) struct Changes {
    /// Devices that are in the way of others.
    pub(super) first: Vec<Operation>,
    /// Everything else, in order.
    pub(super) then: Vec<Operation>,
    /// Devices that nobody wants any more.
    pub(super) last: Vec<Operation>,
    /// The links that go down on the way, even if they come up again.
    pub(super) down: HashSet<u32>,
    /// The links on which IPv6 is disabled.
    pub(super) without_ipv6: HashSet<u32>,
}

/// What changes of the links the target may touch.
pub(super) fn changes(from: &KernelState, target: &Target) -> Changes {
    let to = &target.state;
    let mut all = Changes::default();
    remove(from, target, &mut all);
    let made: Vec<&Link> = to
        .links
        .iter()
        .filter(|new| is_made(new.kind) && new.is_ours() && from.link(new.index).is_none())
        .collect();
    let pairs: Vec<(&Link, &Link)> = (from.links.iter())
        .filter(|old| target.touched.contains(&old.index))
        .filter_map(|old| Some((old, to.link(old.index)?)))
        .collect();
    for (old, new) in &pairs {
        let renamed = old.name != new.name && !from.renames_live;
        // Kernels before 6.2 rename only links that are down (EBUSY); a MAC address changes on a
        // running device only where its driver can (IFF_LIVE_ADDR_CHANGE).
        if old.up && (renamed || old.mac != new.mac && new.mac.is_some()) {
            all.down.insert(old.index);
        }
        let disabled = new.settings.get(Setting::DisableIpv6) == Some(1)
            && old.settings.get(Setting::DisableIpv6) == Some(0);
        let too_small = new.mtu < IPV6_LEAST_MTU && old.mtu >= IPV6_LEAST_MTU;
        if disabled || too_small {
            all.without_ipv6.insert(old.index);
        }
    }
    // A VLAN goes down with what it is on.
    while let Some(child) = from.links.iter().find(|link| {
        let on_one = matches!(link.kind, LinkKind::Vlan { parent, .. } if all.down.contains(&parent));
        on_one && link.up && !all.down.contains(&link.index)
    }) {
        all.down.insert(child.index);
    }
    for (old, _) in pairs.iter().filter(|(old, _)| all.down.contains(&old.index) && !is_child(old, &all.down))
    {
        all.then.push(Operation::LinkDown(Named::of(old)));
    }
    alternative_names_go(&pairs, &mut all.then);
    rename(&pairs, &mut all.then);
    for new in &made {
        all.then.push(Operation::CreateLink((*new).clone()));
    }
    for (old, new) in &pairs {
        set(Some(old), new, &old.settings, &mut all.then);
    }
    for new in &made {
        set(None, new, &from.default_settings, &mut all.then);
    }
    for (old, new) in &pairs {
        if new.up && (!old.up || all.down.contains(&old.index)) {
            all.then.push(Operation::LinkUp(Named::of(new)));
        }
    }
    for new in made.iter().filter(|new| new.up) {
        all.then.push(Operation::LinkUp(Named::of(new)));
    }
    // What is not needed any more is promoted no more once it is gone: others' addresses that are
    // secondary to ours would go with them.
    let demotes =
        |operation: &Operation| matches!(operation, Operation::Set(_, Setting::PromoteSecondaries, 0));
    let (last, then) = std::mem::take(&mut all.then).into_iter().partition(demotes);
    all.then = then;
    all.last.splice(..0, Vec::from_iter(last as Vec<Operation>));
    // What is not needed any more goes down when what takes its place is there.
    for (_, new) in pairs.iter().filter(|(old, new)| old.up && !new.up && !all.down.contains(&old.index)) {
        all.last.insert(0, Operation::LinkDown(Named::of(new)));
    }
    all
}

/// Whether a link goes down because what it is on does.
fn is_child(link: &Link, down: &HashSet<u32>) -> bool {
    matches!(link.kind, LinkKind::Vlan { parent, .. } if down.contains(&parent))
}

/// Devices of ours that are not in the target: before anything else where they are in the way.
fn remove(from: &KernelState, target: &Target, all: &mut Changes) {
    let to = &target.state;
    let is_gone =
        |link: &&Link| link.is_ours() && to.link(link.index).is_none_or(|new| new.kind != link.kind);
    for old in from.links.iter().filter(is_gone) {
        let in_the_way = to.links.iter().any(|new| {
            let named =
                std::iter::once(&new.name).chain(&new.alternative_names).any(|name| *name == old.name);
            named
                || new.index == old.index
                || matches!(old.kind, LinkKind::Vlan { .. }) && new.kind == old.kind
        });
        let list = if in_the_way { &mut all.first } else { &mut all.last };
        list.push(Operation::DeleteLink(Named::of(old)));
    }
}

/// Names in two phases: a link whose name another is to have steps aside first.
fn rename(pairs: &[(&Link, &Link)], operations: &mut Vec<Operation>) {
    let renamed = |(old, new): &&(&Link, &Link)| old.name != new.name;
    let mut second_phase = Vec::new();
    for (old, new) in pairs.iter().filter(renamed) {
        let wanted = pairs.iter().any(|(other, wish)| other.index != old.index && wish.name == old.name);
        let mut current = Named::of(old);
        if wanted {
            let aside = format!("tether{}", old.index);
            operations.push(Operation::Rename(current.clone(), aside.clone()));
            current.name = aside;
        }
        second_phase.push(Operation::Rename(current, new.name.clone()));
    }
    operations.extend(second_phase);
}

/// Before any link gets a name that another has.
fn alternative_names_go(pairs: &[(&Link, &Link)], operations: &mut Vec<Operation>) {
    for (old, new) in pairs {
        for name in old.alternative_names.iter().filter(|name| !new.alternative_names.contains(name)) {
            operations.push(Operation::RemoveAlternativeName(Named::of(old), name.clone()));
        }
    }
}

/// What is not its name and not up or down. Of a device that has just been made only its
/// `settings` are known: whatever else is said is set.
fn set(old: Option<&Link>, new: &Link, settings: &Settings, operations: &mut Vec<Operation>) {
    let link = || Named::of(new);
    if let Some(mac) = new.mac.filter(|mac| old.is_some_and(|old| old.mac != Some(*mac))) {
        operations.push(Operation::SetMac(link(), mac));
    }
    for name in &new.alternative_names {
        if old.is_none_or(|old| !old.alternative_names.contains(name)) {
            operations.push(Operation::AddAlternativeName(link(), name.clone()));
        }
    }
    if new.mtu != 0 && old.is_none_or(|old| old.mtu != new.mtu) {
        operations.push(Operation::SetMtu(link(), new.mtu));
    }
    if old.is_none_or(|old| old.tx_queue_length != new.tx_queue_length) {
        operations.push(Operation::SetTxQueueLength(link(), new.tx_queue_length));
    }
    for setting in Setting::ALL {
        let Some(value) = new.settings.get(setting) else { continue };
        if setting.is_ipv6() && new.mtu < IPV6_LEAST_MTU {
            // The kernel has taken IPv6 off it, and its settings with it.
            continue;
        }
        if settings.get(setting) != Some(value) {
            operations.push(Operation::Set(link(), setting, value));
        }
    }
}
