//! Which routes and policy rules there are to be.

use std::collections::{HashMap, HashSet};

use tether_wire::{
    check::{Desired, DesiredRoute},
    problem::Problems,
    state::{Family, Preference, RouteType},
};

use super::{Target, lacks_ipv6, scope_number};
use crate::plan::model::{Hop, KernelState, PROTOCOL, RTN_UNICAST, Route, RouteKey, Rule};

/// Adds the document's routes. Those out of links that are left out are left out with them.
pub(super) fn add_routes(
    desired: &Desired,
    found: &[Option<u32>],
    observed: &KernelState,
    held: Option<&Desired>,
    target: &mut Target,
    problems: &mut Problems,
) {
    // What somebody has put in the place of one that was wanted up to now is no obstacle.
    let key = |route: &DesiredRoute| (route.table, route.destination, route.metric);
    let held: HashSet<_> = held.iter().flat_map(|held| &held.routes).map(key).collect();
    let wanted: HashSet<_> = desired.routes.iter().map(key).filter(|key| held.contains(key)).collect();
    target.state.routes.retain(|route| {
        let taken = !route.is_kernels() && route.tos == 0;
        !(taken && wanted.contains(&(route.table, route.destination, route.metric)))
    });
    // Only others' are in the target up to here.
    let theirs: HashMap<RouteKey, Route> =
        target.state.routes.iter().map(|route| (route.key(), route.clone())).collect();
    let ours: HashMap<RouteKey, &Route> = if theirs.is_empty() {
        HashMap::new()
    } else {
        observed.routes.iter().filter(|route| route.is_ours()).map(|route| (route.key(), route)).collect()
    };
    target.state.routes.reserve(desired.routes.len());
    target.routes.reserve(desired.routes.len());
    for wanted in &desired.routes {
        let Some(route) = route(wanted, found, &target.state, observed) else { continue };
        let key = route.key();
        target.routes.insert(key, wanted.place);
        let Some(other) = theirs.get(&key) else {
            target.state.routes.push(route);
            continue;
        };
        // A router's advertisement that came later stands beside ours, which is there already.
        let stands = other.is_kernels() && ours.get(&key).is_some_and(|ours| ours.same(&route));
        if stands {
            target.state.routes.push(route);
        } else if !other.same(&route) {
            // The kernel's "replace" would take it away from whoever made it.
            let through = other.hops.first().map(|hop| format!(" dev {}", observed.link_name(hop.link)));
            problems.add(
                wanted.place.to_string(),
                format!(
                    "a route that tether did not make is in the way: {other}{} (protocol {}); give this one \
                     another metric or remove that one",
                    through.unwrap_or_default(),
                    other.protocol
                ),
            );
        }
    }
}

/// The route that is wanted, unless no link of it is there.
fn route(
    wanted: &DesiredRoute,
    found: &[Option<u32>],
    state: &KernelState,
    observed: &KernelState,
) -> Option<Route> {
    let is_ipv6 = wanted.destination.address().is_ipv6();
    let usable = |link: u32, gateway: Option<std::net::IpAddr>| {
        let needs_ipv6 = is_ipv6 || gateway.is_some_and(|gateway| gateway.is_ipv6());
        !(needs_ipv6 && lacks_ipv6(state, observed, link))
    };
    let mut hops: Vec<Hop> = (wanted.hops.iter())
        .filter_map(|hop| {
            let link = found[hop.interface].filter(|link| usable(*link, hop.gateway))?;
            Some(Hop { link, gateway: hop.gateway, onlink: hop.onlink, weight: hop.weight })
        })
        .collect();
    if hops.is_empty() && !wanted.hops.is_empty() {
        return None;
    }
    if let [only] = &mut hops[..] {
        only.weight = 1;
    }
    let has_gateway = hops.iter().any(|hop| hop.gateway.is_some());
    let link_scope = wanted.kind == RouteType::Unicast && !has_gateway;
    // IPv4 routes without a gateway are of scope link (ip-route(8)); IPv6 has no scopes.
    let scope = match wanted.scope {
        _ if is_ipv6 => 0,
        Some(scope) => scope_number(scope),
        None if link_scope => scope_number(tether_wire::state::Scope::Link),
        None => 0,
    };
    let mut route = Route {
        table: wanted.table,
        destination: wanted.destination,
        tos: 0,
        metric: wanted.metric,
        kind: type_number(wanted.kind),
        scope,
        protocol: PROTOCOL,
        source: wanted.source,
        mtu: wanted.mtu.unwrap_or(0),
        // RFC 4191 section 2.1: the two bits' values.
        preference: match wanted.preference {
            None | Some(Preference::Medium) => 0,
            Some(Preference::High) => 1,
            Some(Preference::Low) => 3,
        },
        hops,
        rest: Vec::new(),
    };
    route.sort_hops();
    Some(route)
}

/// `RTN_…`.
fn type_number(kind: RouteType) -> u8 {
    match kind {
        RouteType::Unicast => RTN_UNICAST,
        RouteType::Blackhole => 6,
        RouteType::Unreachable => 7,
        RouteType::Prohibit => 8,
        RouteType::Throw => 9,
    }
}

/// Adds the document's rules.
pub(super) fn add_rules(desired: &Desired, target: &mut Target) {
    const FR_ACT_TO_TBL: u8 = 1;
    let theirs: HashSet<Rule> =
        target.state.rules.iter().map(|rule| Rule { protocol: PROTOCOL, ..rule.clone() }).collect();
    for (r, wanted) in desired.rules.iter().enumerate() {
        let wanted_mark = wanted.fwmark.unwrap_or_default();
        let rule = Rule {
            ipv6: wanted.family == Family::Ipv6,
            priority: wanted.priority,
            from: wanted.from,
            to: wanted.to,
            iif: wanted.iif.as_ref().map(ToString::to_string),
            oif: wanted.oif.as_ref().map(ToString::to_string),
            fwmark: wanted_mark.0,
            fwmask: wanted_mark.1,
            table: wanted.table,
            suppress_prefix_length: wanted.suppress_prefix_length.map(u32::from),
            protocol: PROTOCOL,
            action: FR_ACT_TO_TBL,
            opaque: false,
        };
        target.rules.insert(rule.clone(), r);
        // Somebody else's rule of the same content serves as well, and stays theirs.
        if !theirs.contains(&rule) {
            target.state.rules.push(rule);
        }
    }
}
