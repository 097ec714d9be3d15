//! The routes of a desired state.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
};

use super::{DesiredHop, DesiredRoute, RoutePlace, in_range, interface::Checked, interface::check_mtu};
use crate::{
    names::host_address,
    problem::Problems,
    state::{DesiredState, Hop, MAX_HOPS_PER_ROUTE, PathRoute, Preference, Route, RouteType, Scope},
    value::{Prefix, is_link_local, quoted},
};

/// The main table.
const TABLE_MAIN: u32 = 254;
/// The kernel's own table: what this machine itself has.
const TABLE_LOCAL: u32 = 255;

/// Checks all routes, of interfaces and of the document. Those with problems are left out.
pub(super) fn check_routes(
    state: &DesiredState,
    interfaces: &[Checked],
    problems: &mut Problems,
) -> Vec<DesiredRoute> {
    let links: Vec<OnLink> = state
        .interfaces
        .iter()
        .zip(interfaces)
        .map(|(wanted, checked)| OnLink::of(&wanted.routes, checked))
        .collect();
    let names: HashMap<&str, usize> = (interfaces.iter().enumerate())
        .filter_map(|(i, interface)| Some((interface.name.as_ref()?.as_str(), i)))
        .collect();
    let own: HashSet<IpAddr> =
        interfaces.iter().flat_map(|i| &i.addresses).map(|prefix| prefix.address()).collect();
    let context = Context { links, names, own, interfaces };
    let mut routes = Vec::new();
    for (i, interface) in state.interfaces.iter().enumerate() {
        for (r, route) in interface.routes.iter().enumerate() {
            routes.extend(context.interface_route(RoutePlace::Interface(i, r), i, route, problems));
        }
    }
    for (r, route) in state.routes.iter().enumerate() {
        routes.extend(context.path_route(RoutePlace::Document(r), route, problems));
    }
    routes
}

/// What routes refer to.
struct Context<'a> {
    links: Vec<OnLink>,
    names: HashMap<&'a str, usize>,
    own: HashSet<IpAddr>,
    interfaces: &'a [Checked],
}

/// What can be reached on an interface's link without a router. A thousand addresses of one
/// network are one network here.
struct OnLink {
    networks: Vec<Prefix>,
    /// Its IPv4 addresses are all /32: there is no network a router could be in, so a router is
    /// taken to be on the link.
    hosts_only: bool,
}

impl OnLink {
    fn of(routes: &[Route], interface: &Checked) -> Self {
        let is_device_route =
            |route: &&Route| route.gateway.is_none() && route.table.is_none_or(|table| table == TABLE_MAIN);
        let device_routes = routes
            .iter()
            .filter(is_device_route)
            .filter_map(|route| route.destination.parse::<Prefix>().ok());
        let mut seen = HashSet::new();
        let networks = interface.networks.iter().copied().chain(device_routes);
        let networks = networks.filter(|network| network.length() > 0 && seen.insert(*network)).collect();
        let mut ipv4 = interface.addresses.iter().filter(|prefix| prefix.address().is_ipv4()).peekable();
        let hosts_only = ipv4.peek().is_some() && ipv4.all(|prefix| prefix.is_host());
        Self { networks, hosts_only }
    }
}

/// What both kinds of routes have.
struct Fields<'a> {
    destination: &'a str,
    metric: Option<u32>,
    table: Option<u32>,
    scope: Option<Scope>,
    source: Option<&'a str>,
    mtu: Option<u32>,
    preference: Option<Preference>,
}

impl Context<'_> {
    fn interface_route(
        &self,
        place: RoutePlace,
        interface: usize,
        wanted: &Route,
        problems: &mut Problems,
    ) -> Option<DesiredRoute> {
        let fields = Fields {
            destination: &wanted.destination,
            metric: wanted.metric,
            table: wanted.table,
            scope: wanted.scope,
            source: wanted.source.as_deref(),
            mtu: wanted.mtu,
            preference: wanted.preference,
        };
        let mut route = self.fields(place, &fields, problems);
        let destination = route.as_ref().map(|route| route.destination);
        let hop =
            self.hop(place, interface, wanted.gateway.as_deref(), wanted.onlink, destination, problems)?;
        if let Some(route) = &mut route {
            self.refuse_connected(place, interface, wanted, route, problems);
            route.hops.push(hop);
        }
        route
    }

    fn path_route(
        &self,
        place: RoutePlace,
        wanted: &PathRoute,
        problems: &mut Problems,
    ) -> Option<DesiredRoute> {
        let fields = Fields {
            destination: &wanted.destination,
            metric: wanted.metric,
            table: wanted.table,
            scope: wanted.scope,
            source: wanted.source.as_deref(),
            mtu: wanted.mtu,
            preference: wanted.preference,
        };
        let mut route = self.fields(place, &fields, problems)?;
        route.kind = wanted.kind;
        if wanted.kind != RouteType::Unicast && wanted.preference.is_some() {
            problems.add(format!("{place}.preference"), "only routes with a next hop have one");
        }
        if route.destination.address().is_ipv6() && wanted.hops.len() > 1 {
            for (h, _) in wanted.hops.iter().enumerate().filter(|(_, hop)| hop.gateway.is_none()) {
                let message = "missing: the kernel takes no IPv6 route by several links without routers";
                problems.add(format!("{place}.hops[{h}].gateway"), message);
            }
        }
        match (wanted.kind, wanted.hops.is_empty()) {
            (RouteType::Unicast, true) => {
                problems.add(format!("{place}.hops"), "no next hop: write at least one");
            }
            (RouteType::Unicast, false) | (_, true) => {}
            (_, false) => problems.add(format!("{place}.hops"), "a route of this type has no next hop"),
        }
        if wanted.hops.len() > MAX_HOPS_PER_ROUTE {
            let message = format!("{} of them, {MAX_HOPS_PER_ROUTE} at most", wanted.hops.len());
            problems.add(format!("{place}.hops"), message);
        }
        let mut seen = HashSet::new();
        for (h, hop) in wanted.hops.iter().enumerate() {
            let path = format_args!("{place}.hops[{h}]").to_string();
            let Some(hop) = self.named_hop(&path, hop, route.destination, problems) else { continue };
            if !seen.insert((hop.interface, hop.gateway)) {
                problems.add(path, "the same next hop again: give it more weight instead");
            }
            route.hops.push(hop);
        }
        Some(route)
    }

    fn named_hop(
        &self,
        path: &str,
        wanted: &Hop,
        destination: Prefix,
        problems: &mut Problems,
    ) -> Option<DesiredHop> {
        let weight = wanted.weight.unwrap_or(1);
        in_range(format_args!("{path}.weight"), weight, 1..=256, problems);
        let Some(interface) = self.names.get(wanted.interface.as_str()).copied() else {
            problems.add(
                format!("{path}.interface"),
                format!("{} is no interface of this document", quoted(&wanted.interface)),
            );
            return None;
        };
        if self.interfaces[interface].down {
            problems.add(format!("{path}.interface"), "an interface that is kept down leads nowhere");
        }
        let gateway = wanted.gateway.as_deref();
        let hop = self.hop(path, interface, gateway, wanted.onlink, Some(destination), problems)?;
        Some(DesiredHop { weight, ..hop })
    }

    /// The next hop by `gateway`, if there is one, out of an interface.
    fn hop(
        &self,
        path: impl fmt::Display,
        interface: usize,
        gateway: Option<&str>,
        onlink: bool,
        destination: Option<Prefix>,
        problems: &mut Problems,
    ) -> Option<DesiredHop> {
        let Some(text) = gateway else {
            if onlink {
                problems.add(format!("{path}.onlink"), "means something with a gateway only");
            }
            return Some(DesiredHop { interface, gateway: None, onlink: false, weight: 1 });
        };
        let link = &self.links[interface];
        let found = host_address(text).and_then(|gateway| {
            let onlink = onlink || gateway.is_ipv4() && link.hosts_only;
            self.reachable(gateway, interface, onlink, destination).map(|()| (gateway, onlink))
        });
        let (gateway, onlink) = problems.keep(format_args!("{path}.gateway"), found)?;
        Some(DesiredHop { interface, gateway: Some(gateway), onlink, weight: 1 })
    }

    fn reachable(
        &self,
        gateway: IpAddr,
        interface: usize,
        onlink: bool,
        destination: Option<Prefix>,
    ) -> Result<(), String> {
        // RFC 8950 (and 5549 before it): IPv4 by way of an IPv6 router, never the other way.
        if let Some(destination) = destination
            && destination.address().is_ipv6()
            && gateway.is_ipv4()
        {
            return Err(format!("{gateway} is not of the family of {destination}"));
        }
        if self.own.contains(&gateway) {
            return Err(format!("{gateway} is this guest's own address"));
        }
        let networks = &self.links[interface].networks;
        if onlink || is_link_local(gateway) || networks.iter().any(|network| network.contains(gateway)) {
            return Ok(());
        }
        let of_family: Vec<String> = (self.interfaces[interface].addresses.iter())
            .filter(|prefix| prefix.address().is_ipv4() == gateway.is_ipv4())
            .map(ToString::to_string)
            .take(4)
            .collect();
        Err(if of_family.is_empty() {
            format!("{gateway} is not reachable: the interface has no address of its family")
        } else {
            format!("{gateway} is not reachable through {}", of_family.join(", "))
        })
    }

    /// Everything but type and next hops.
    fn fields(
        &self,
        place: RoutePlace,
        wanted: &Fields<'_>,
        problems: &mut Problems,
    ) -> Option<DesiredRoute> {
        let destination =
            problems.keep(format_args!("{place}.destination"), route_destination(wanted.destination));
        let is_ipv6 = destination.is_some_and(|destination| destination.address().is_ipv6());
        let table = wanted.table.unwrap_or(TABLE_MAIN);
        if table == 0 || table == TABLE_LOCAL {
            problems.add(
                format!("{place}.table"),
                format!("{table} is no table for routes: write 254 (main) or a number of your own"),
            );
        }
        if let Some(mtu) = wanted.mtu {
            let family = destination.filter(|_| is_ipv6);
            problems.keep(format_args!("{place}.mtu"), check_mtu(mtu, family.as_slice()));
        }
        if is_ipv6 && wanted.scope.is_some() {
            problems.add(format!("{place}.scope"), "only IPv4 routes have one");
        }
        if destination.is_some() && !is_ipv6 && wanted.preference.is_some() {
            problems.add(format!("{place}.preference"), "only IPv6 routes have one");
        }
        let source = (wanted.source)
            .map(|text| problems.keep(format_args!("{place}.source"), self.source(text, destination)));
        let source = match source {
            Some(source) => Some(source?),
            None => None,
        };
        // IP6_RT_PRIO_USER is what the kernel takes for an IPv6 route's metric when none is given,
        // and it reads 0 as "none".
        let default_metric = if is_ipv6 { 1_024 } else { 0 };
        Some(DesiredRoute {
            place,
            destination: destination?,
            kind: RouteType::Unicast,
            hops: Vec::new(),
            metric: wanted.metric.filter(|metric| *metric != 0).unwrap_or(default_metric),
            table,
            scope: wanted.scope,
            source,
            mtu: wanted.mtu,
            preference: wanted.preference,
        })
    }

    fn source(&self, text: &str, destination: Option<Prefix>) -> Result<IpAddr, String> {
        let source = host_address(text)?;
        if destination.is_some_and(|destination| destination.address().is_ipv4() != source.is_ipv4()) {
            return Err(format!("{source} is not of the destination's family"));
        }
        if !self.own.contains(&source) {
            return Err(format!("{source} is no address of this document"));
        }
        Ok(source)
    }

    /// The kernel gives its own routes to an interface's networks metric 0 (IPv4) or 256 (IPv6).
    fn refuse_connected(
        &self,
        place: RoutePlace,
        interface: usize,
        wanted: &Route,
        route: &DesiredRoute,
        problems: &mut Problems,
    ) {
        let destination = route.destination;
        let kernels_metric = if destination.address().is_ipv6() { Some(256) } else { None };
        if route.table == TABLE_MAIN
            && wanted.metric.filter(|metric| *metric != 0) == kernels_metric
            && !destination.is_host()
            && self.interfaces[interface].networks.contains(&destination)
        {
            problems.add(
                format!("{place}.destination"),
                format!(
                    "the kernel makes the route to {destination} itself: leave it out, or give it a metric"
                ),
            );
        }
    }
}

fn route_destination(text: &str) -> Result<Prefix, String> {
    let destination: Prefix = text.parse().map_err(|e| format!("{e}"))?;
    if destination.network() != destination {
        return Err(format!("{text} has bits after the prefix: write {}", destination.network()));
    }
    if destination.length() > 0 && destination.address().is_multicast() {
        return Err(format!("{text} is a multicast network, which has no unicast route"));
    }
    Ok(destination)
}
