//! The routes of generated documents.

use std::collections::HashSet;

use proptest::{collection::vec, option::weighted, prelude::*, sample::select};
use tether_wire::state::{DesiredState, Hop, Interface, PathRoute, Preference, Route, RouteType, Scope};

use crate::interfaces::{has_ipv6, networks};

/// Where to.
const IPV4: [&str; 5] = ["0.0.0.0/0", "192.168.0.0/16", "192.168.5.0/24", "172.16.7.7/32", "172.16.0.0/12"];
const IPV6: [&str; 4] = ["::/0", "fd10::/16", "fd10:5::/32", "fd20::7/128"];

/// What a route is to be like.
#[derive(Clone, Debug)]
pub(crate) struct RouteWish {
    ipv6: bool,
    destination: usize,
    gateway: u8,
    metric: Option<u32>,
    table: Option<u32>,
    scope: Option<Scope>,
    source: Option<usize>,
    mtu: Option<u32>,
    preference: Option<Preference>,
}

/// What a route of several next hops or none is to be like.
#[derive(Clone, Debug)]
pub(crate) struct PathWish {
    route: RouteWish,
    kind: RouteType,
    hops: Vec<(usize, u8, Option<u16>)>,
}

pub(crate) fn route_wish() -> impl Strategy<Value = RouteWish> {
    let tables = weighted(0.3, select(vec![7, 253, 1_000]));
    let scopes = weighted(0.1, select(vec![Scope::Global, Scope::Site, Scope::Link]));
    let preferences = weighted(0.2, select(vec![Preference::Low, Preference::Medium, Preference::High]));
    let key = (any::<bool>(), 0..5_usize, 0..5_u8, weighted(0.3, select(vec![0, 5, 100])), tables);
    let rest = (scopes, weighted(0.2, 0..8_usize), weighted(0.2, select(vec![1_280, 1_400])), preferences);
    (key, rest).prop_map(|((ipv6, destination, gateway, metric, table), (scope, source, mtu, preference))| {
        RouteWish { ipv6, destination, gateway, metric, table, scope, source, mtu, preference }
    })
}

pub(crate) fn path_wish() -> impl Strategy<Value = PathWish> {
    use RouteType::{Blackhole, Prohibit, Throw, Unicast, Unreachable};
    let kinds = select(vec![Unicast, Unicast, Unicast, Unicast, Blackhole, Unreachable, Prohibit, Throw]);
    let hops = vec((0..3_usize, 0..5_u8, weighted(0.4, select(vec![1, 2, 256]))), 1..4);
    (route_wish(), kinds, hops).prop_map(|(route, kind, hops)| PathWish { route, kind, hops })
}

/// The tables a rule of the document may name.
pub(crate) fn tables(state: &DesiredState) -> Vec<u32> {
    let of_interfaces = state.interfaces.iter().flat_map(|i| &i.routes).filter_map(|route| route.table);
    let of_document = state.routes.iter().filter_map(|route| route.table);
    [254, 253].into_iter().chain(of_interfaces).chain(of_document).collect()
}

/// Adds the routes that are wished for to a document that has its interfaces: `nics` are the
/// wishes for its first ones.
pub(crate) fn write(state: &mut DesiredState, nics: &[&[RouteWish]], paths: &[PathWish]) {
    let sources = [false, true].map(|ipv6| sources(state, ipv6));
    let source = |wish: &RouteWish| {
        let all = &sources[usize::from(wish.ipv6)];
        wish.source.filter(|_| !all.is_empty()).map(|at| all[at % all.len()].clone())
    };
    let mut keys = HashSet::new();
    let mut is_new = |wish: &RouteWish| {
        let metric = match wish.metric {
            None | Some(0) if wish.ipv6 => 1_024,
            metric => metric.unwrap_or(0),
        };
        keys.insert((wish.table.unwrap_or(254), destination(wish), metric))
    };
    for (interface, wishes) in state.interfaces.iter_mut().zip(nics).filter(|(i, _)| !i.down) {
        for wish in *wishes {
            let (gateway, onlink) = gateway(interface, wish.ipv6, wish.gateway);
            if wish.ipv6 && !has_ipv6(interface) || !is_new(wish) {
                continue;
            }
            interface.routes.push(Route {
                destination: destination(wish).to_owned(),
                onlink,
                metric: wish.metric,
                table: wish.table,
                scope: scope(wish, gateway.is_some()),
                gateway,
                source: source(wish),
                mtu: wish.mtu,
                preference: wish.preference.filter(|_| wish.ipv6),
            });
        }
    }
    for path in paths {
        let wish = &path.route;
        let hops = if path.kind == RouteType::Unicast {
            hops(&state.interfaces[..nics.len()], path)
        } else {
            Vec::new()
        };
        let is_whole = path.kind != RouteType::Unicast || !hops.is_empty();
        if !is_whole || !is_new(wish) {
            continue;
        }
        state.routes.push(PathRoute {
            destination: destination(wish).to_owned(),
            kind: path.kind,
            metric: wish.metric,
            table: wish.table,
            scope: scope(wish, hops.iter().any(|hop| hop.gateway.is_some())),
            source: source(wish).filter(|_| path.kind == RouteType::Unicast),
            mtu: wish.mtu,
            preference: wish.preference.filter(|_| wish.ipv6 && path.kind == RouteType::Unicast),
            hops,
        });
    }
}

fn destination(wish: &RouteWish) -> &'static str {
    if wish.ipv6 { IPV6[wish.destination % IPV6.len()] } else { IPV4[wish.destination] }
}

/// The kernel has no gateway on the link's own scope.
fn scope(wish: &RouteWish, has_gateway: bool) -> Option<Scope> {
    wish.scope.filter(|scope| !(wish.ipv6 || has_gateway && *scope == Scope::Link))
}

/// Addresses that packets may be sent from.
fn sources(state: &DesiredState, ipv6: bool) -> Vec<String> {
    let all = state.interfaces.iter().flat_map(|interface| &interface.addresses);
    // Those of a link alone are no source on another.
    let of_family = all.filter(|a| a.address.contains(':') == ipv6 && !a.address.starts_with("fe80"));
    of_family.map(|address| address.address.split('/').next().unwrap().to_owned()).collect()
}

/// A router that the kernel finds on the interface's link, and whether it has to be told so.
fn gateway(interface: &Interface, ipv6: bool, wish: u8) -> (Option<String>, bool) {
    let inside = |ipv6| networks(interface, ipv6).next().map(|network| format!("{network}250"));
    match wish {
        0 | 1 => (inside(ipv6), false),
        // By way of IPv6 for both families.
        2 => (has_ipv6(interface).then(|| "fe80::250".to_owned()), false),
        3 if ipv6 => (Some("fd00:aaaa::1".to_owned()), true),
        3 => (Some("172.31.0.1".to_owned()), true),
        _ => (None, false),
    }
}

fn hops(interfaces: &[Interface], path: &PathWish) -> Vec<Hop> {
    let mut hops: Vec<Hop> = Vec::new();
    for (nic, wish, weight) in &path.hops {
        let Some(interface) = interfaces.get(*nic).filter(|interface| !interface.down) else { continue };
        let (gateway, onlink) = gateway(interface, path.route.ipv6, *wish);
        let again = hops.iter().any(|hop| hop.interface == interface.name && hop.gateway == gateway);
        // IPv6 has no several next hops without gateways.
        let may = !path.route.ipv6 || has_ipv6(interface) && gateway.is_some();
        if may && !again {
            hops.push(Hop { interface: interface.name.clone(), gateway, onlink, weight: *weight });
        }
    }
    hops
}
