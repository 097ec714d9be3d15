//! From observed state to what the host is told.

use std::{collections::HashMap, fs, net::IpAddr};

use tether_wire::{
    status::{
        AddressState, MAX_ADDRESSES, MAX_INTERFACES, MAX_ROUTES, MAX_RULES, Observed, ObservedAddress,
        ObservedInterface, ObservedPathRoute, ObservedRoute, ObservedRule,
    },
    value::MacAddr,
};

use crate::plan::{Hop, KernelState, Link, RTN_UNICAST, Route};

/// The most conditions of one part in a status.
pub const MAX_CONDITIONS: usize = 16;
/// The most next hops of a route and the most alternative names of a link that are shown: there
/// is a limit to how long a report may be.
const MAX_LISTED: usize = 16;

/// The kernel's state as the host sees it: everything but the management NIC, which is the
/// tether's own business.
pub fn observed(state: &KernelState, management: Option<MacAddr>) -> Observed {
    let theirs = |link: &&Link| management.is_none() || link.mac != management;
    let links = state.links.iter().filter(theirs).take(MAX_INTERFACES);
    let mut interfaces: Vec<ObservedInterface> = links.map(interface).collect();
    let places: HashMap<u32, usize> =
        interfaces.iter().enumerate().map(|(i, link)| (link.index, i)).collect();
    let shown = |link: u32| places.get(&link).copied();
    for (place, address) in
        state.addresses.iter().filter_map(|a| Some((shown(a.link)?, a))).take(MAX_ADDRESSES)
    {
        interfaces[place].addresses.push(ObservedAddress {
            address: address.prefix.to_string(),
            state: match (address.duplicate, address.tentative) {
                (true, _) => AddressState::Duplicate,
                (false, true) if !address.optimistic => AddressState::Tentative,
                _ => AddressState::Usable,
            },
            ours: address.is_ours(),
        });
    }
    let mut routes = Vec::new();
    for route in state.routes.iter().take(MAX_ROUTES) {
        match &route.hops[..] {
            [only] if route.kind == RTN_UNICAST => {
                if let Some(place) = shown(only.link) {
                    interfaces[place].routes.push(observed_route(route, only.gateway));
                }
            }
            _ => routes.push(path_route(route, state)),
        }
    }
    let rules = state.rules.iter().take(MAX_RULES);
    let rules = rules.map(|rule| ObservedRule { rule: rule.to_string(), ours: rule.is_ours() }).collect();
    Observed { interfaces, routes, rules }
}

fn observed_route(route: &Route, gateway: Option<IpAddr>) -> ObservedRoute {
    ObservedRoute {
        destination: route.destination.to_string(),
        gateway: gateway.map(|gateway| gateway.to_string()),
        metric: route.metric,
        table: route.table,
        ours: route.is_ours(),
    }
}

fn path_route(route: &Route, state: &KernelState) -> ObservedPathRoute {
    let hop = |hop: &Hop| {
        let gateway = hop.gateway.map(|gateway| format!("{gateway} ")).unwrap_or_default();
        format!("{gateway}{} weight {}", state.link_name(hop.link), hop.weight)
    };
    ObservedPathRoute {
        destination: route.destination.to_string(),
        kind: route.kind_name().to_owned(),
        hops: route.hops.iter().take(MAX_LISTED).map(hop).collect(),
        metric: route.metric,
        table: route.table,
        ours: route.is_ours(),
    }
}

fn interface(link: &Link) -> ObservedInterface {
    ObservedInterface {
        index: link.index,
        name: link.name.clone(),
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: link.mtu,
        up: link.up,
        carrier: link.carrier,
        alternative_names: link.alternative_names.iter().take(MAX_LISTED).cloned().collect(),
        addresses: Vec::new(),
        routes: Vec::new(),
    }
}

/// Milliseconds since the kernel started.
pub fn uptime_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(0, |now| {
        let (seconds, nanos) = (u64::try_from(now.tv_sec()), u64::try_from(now.tv_nsec()));
        seconds.unwrap_or(0) * 1_000 + nanos.unwrap_or(0) / 1_000_000
    })
}

/// This process's resident memory in KiB (`VmRSS`), 0 when `/proc` is not there.
pub fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

/// The kernel's random id of this boot, empty when `/proc` is not there.
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}
