//! What others have changed of what a desired state wants, and added to it.

use std::collections::HashSet;

use tether_wire::problem::Problem;

use super::{
    diff::diff,
    model::{Address, AddressKey, KernelState, Route, RouteKey, Rule},
    operation::Operation,
    target::Target,
};

/// What is different now.
#[derive(Clone, Debug, Default)]
pub struct Drift {
    /// What it takes to put the desired state in force again.
    pub repair: Vec<Operation>,
    /// What is different, each with its path in the document.
    pub changes: Vec<Problem>,
}

/// What is different in `now`, where `before` is what was last seen.
///
/// What others add is told when it appears, and left alone: only what tether made is its own.
pub fn drift(target: &Target, before: &KernelState, now: &KernelState) -> Drift {
    let repair = diff(now, target);
    let mut changes: Vec<Problem> = repair
        .iter()
        .filter_map(|operation| {
            describe(operation, now).map(|what| Problem::new(target.path_of(operation), what))
        })
        .collect();
    let links: HashSet<u32> = target.links.iter().map(|(link, _)| *link).collect();
    let known: HashSet<AddressKey> = before.addresses.iter().map(Address::key).collect();
    let added = now.addresses.iter().filter(|address| {
        let theirs = !address.is_ours() && !address.is_kernels() && !target.wants_address(address);
        theirs && links.contains(&address.link) && !known.contains(&address.key())
    });
    changes.extend(added.map(|address| {
        let link = now.link_name(address.link);
        Problem::new(target.link_path(address.link), format!("{address} was added to {link}"))
    }));
    let known: HashSet<RouteKey> = before.routes.iter().map(Route::key).collect();
    let added = now.routes.iter().filter(|route| {
        let theirs = !route.is_ours() && !route.is_kernels() && !target.wants_route(route);
        theirs && !known.contains(&route.key()) && route.hops.iter().any(|hop| links.contains(&hop.link))
    });
    changes.extend(added.map(|route| {
        let link =
            route.hops.iter().map(|hop| hop.link).find(|link| links.contains(link)).unwrap_or_default();
        Problem::new(target.link_path(link), format!("a route to {route} was added"))
    }));
    let known: HashSet<&Rule> = before.rules.iter().collect();
    let added = now.rules.iter().filter(|rule| !rule.is_ours() && !known.contains(rule));
    changes.extend(added.map(|rule| Problem::new("rules", format!("a rule was added: {rule}"))));
    Drift { repair, changes }
}

/// What somebody has done that `operation` would undo, `None` for a step on the way.
fn describe(operation: &Operation, now: &KernelState) -> Option<String> {
    let link_was = |index: u32| now.link(index).map(|link| link.name.as_str());
    Some(match operation {
        Operation::CreateLink(link) => format!("{} is gone", link.name),
        Operation::DeleteLink(link) => format!("{} is there", link.name),
        // Taken down so that it can be renamed, and given its own name in two steps.
        Operation::LinkDown(link) if now.link(link.index).is_some_and(|link| link.up) => return None,
        Operation::LinkDown(link) => format!("{} is up", link.name),
        Operation::LinkUp(link) if now.link(link.index).is_some_and(|link| link.up) => return None,
        Operation::LinkUp(link) => format!("{} is down", link.name),
        Operation::Rename(link, to) if link_was(link.index) == Some(&link.name) => {
            format!("{to} is called {}", link.name)
        }
        Operation::Rename(..) => return None,
        Operation::AddAlternativeName(link, name) => format!("{} is not called {name} any more", link.name),
        Operation::RemoveAlternativeName(link, name) => format!("{} is called {name} too", link.name),
        Operation::SetMac(link, _) => format!("{} has another MAC address", link.name),
        Operation::SetMtu(link, _) => format!("{} has another MTU", link.name),
        Operation::SetTxQueueLength(link, _) => format!("{} has another txqueuelen", link.name),
        Operation::Set(link, setting, _) => format!("{} has another {setting}", link.name),
        Operation::AddAddress(address) => format!("{address} is gone"),
        Operation::ChangeAddress(address) => format!("{address} is another"),
        Operation::RemoveAddress(address) => format!("{address} was added as one of tether's"),
        Operation::AddRoute(route) => format!("the route to {route} is gone"),
        Operation::ReplaceRoute(route) => format!("the route to {route} is another"),
        Operation::RemoveRoute(route) => format!("the route to {route} was added as one of tether's"),
        Operation::AddRule(rule) => format!("the rule of {rule} is gone"),
        Operation::RemoveRule(rule) => format!("the rule of {rule} was added as one of tether's"),
        Operation::SetNeighbour(neighbour) => format!("the neighbour {} is gone", neighbour.address),
        Operation::RemoveNeighbour(neighbour) => {
            format!("the neighbour {} was added as one of tether's", neighbour.address)
        }
    })
}
