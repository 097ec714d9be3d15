//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
        RoutePreference, RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};
use nix::libc::{
    RTA_CACHEINFO, RTA_DST, RTA_ENCAP, RTA_ENCAP_TYPE, RTA_EXPIRES, RTA_FLOW, RTA_GATEWAY, RTA_METRICS,
    RTA_MULTIPATH, RTA_OIF, RTA_PAD, RTA_PREF, RTA_PREFSRC, RTA_PRIORITY, RTA_TABLE, RTA_VIA, RTN_BLACKHOLE,
    RTN_PROHIBIT, RTN_THROW, RTN_UNREACHABLE,
};
use tether_wire::value::Prefix;

use super::{
    address::family,
    attributes::{attributes, ip_of, raw_attributes, u8_of, u16_of, u32_of},
};
use crate::plan::{Hop, RawAttribute, Route};

/// How long the header before the attributes is, `struct rtmsg`.
const HEADER: usize = 12;
/// How long a next hop's header is, `struct rtnexthop`.
const HOP_HEADER: usize = 8;

/// A next-hop object; libc does not have it.
const RTA_NH_ID: u16 = 30;
/// The path's MTU, among the metrics.
const RTAX_MTU: u16 = 2;
const RT_TABLE_LOCAL: u32 = 255;

/// A route to be made, or put in another's place.
pub(super) fn whole(route: &Route) -> RouteMessage {
    let mut message = without_hops(route);
    match &route.hops[..] {
        [] => {}
        [hop] => {
            message.header.flags.set(RouteFlags::Onlink, hop.onlink);
            message.attributes.extend(hop.gateway.map(|gateway| gateway_of(route, gateway)));
            if hop.link != 0 {
                message.attributes.push(RouteAttribute::Oif(hop.link));
            }
        }
        hops => {
            let hops = hops.iter().map(|hop| next_hop(route, hop)).collect();
            message.attributes.push(RouteAttribute::MultiPath(hops));
        }
    }
    message
}

/// A route to be removed: IPv4 wants everything and compares it all. IPv6 takes several next hops
/// for several routes, each of which it would tell everybody of; without any it takes them all.
pub(super) fn to_remove(route: &Route) -> RouteMessage {
    let several = route.hops.len() > 1 && route.destination.address().is_ipv6();
    if several { without_hops(route) } else { whole(route) }
}

fn without_hops(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(route.destination.address()),
        destination_prefix_length: route.destination.length(),
        tos: route.tos,
        // What does not fit is in the attribute alone.
        table: u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        protocol: RouteProtocol::from(route.protocol),
        scope: RouteScope::from(route.scope),
        kind: RouteType::from(route.kind),
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.destination.length() > 0 {
        attributes.push(RouteAttribute::Destination(RouteAddress::from(route.destination.address())));
    }
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(RouteAddress::from(source))));
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if route.preference != 0 {
        attributes.push(RouteAttribute::Preference(RoutePreference::from(route.preference)));
    }
    let mut metrics = Vec::new();
    if route.mtu != 0 {
        metrics.extend([8_u16, RTAX_MTU].map(u16::to_ne_bytes).into_iter().flatten());
        metrics.extend(route.mtu.to_ne_bytes());
    }
    for raw in &route.rest {
        if masked(raw.kind) == RTA_METRICS {
            metrics.extend(&raw.value);
        } else {
            attributes.push(RouteAttribute::Other(DefaultNla::new(raw.kind, raw.value.clone())));
        }
    }
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Other(DefaultNla::new(RTA_METRICS, metrics)));
    }
    message
}

/// A gateway of the route's family, or of the other one.
fn gateway_of(route: &Route, gateway: IpAddr) -> RouteAttribute {
    if gateway.is_ipv4() == route.destination.address().is_ipv4() {
        RouteAttribute::Gateway(RouteAddress::from(gateway))
    } else {
        RouteAttribute::Via(RouteVia::from(gateway))
    }
}

fn next_hop(route: &Route, hop: &Hop) -> RouteNextHop {
    let mut next = RouteNextHop::default();
    next.flags.set(RouteNextHopFlags::Onlink, hop.onlink);
    next.hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
    next.interface_index = hop.link;
    next.attributes.extend(hop.gateway.map(|gateway| gateway_of(route, gateway)));
    next
}

/// Reads an entry of the dump; `None` for what the planner does not look at: the kernel's own
/// routes, cached clones, the local table, and IPv6 routes by source.
pub(super) fn read(payload: &[u8]) -> Option<Route> {
    let header = RouteHeader::parse(payload).ok()?;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    if header.protocol == RouteProtocol::Kernel
        || header.flags.contains(RouteFlags::Cloned)
        || header.source_prefix_length != 0
    {
        return None;
    }
    let mut read = Route {
        table: u32::from(header.table),
        destination: Prefix::new(unspecified, 0)?,
        tos: header.tos,
        metric: 0,
        kind: u8::from(header.kind),
        // IPv6 has none; what it tells is always 0.
        scope: u8::from(header.scope),
        protocol: u8::from(header.protocol),
        source: None,
        mtu: 0,
        preference: 0,
        hops: Vec::new(),
        rest: Vec::new(),
    };
    let (mut destination, mut way, mut multipath) = (unspecified, Way::default(), None);
    let payload = payload.get(HEADER..)?;
    let by_object = attributes(payload).any(|(kind, _)| kind == RTA_NH_ID);
    for (raw, value) in raw_attributes(payload) {
        match masked(raw) {
            RTA_TABLE => read.table = u32_of(value)?,
            RTA_DST => destination = ip_of(value)?,
            RTA_PRIORITY => read.metric = u32_of(value)?,
            RTA_PREFSRC => read.source = Some(ip_of(value)?),
            RTA_PREF => read.preference = u8_of(value)?,
            RTA_METRICS => read_metrics(&mut read, raw, value),
            RTA_CACHEINFO | RTA_EXPIRES | RTA_PAD => {}
            // What the object leads to is told too, and must not be sent with its number.
            RTA_OIF | RTA_GATEWAY | RTA_VIA | RTA_MULTIPATH | RTA_FLOW | RTA_ENCAP | RTA_ENCAP_TYPE
                if by_object => {}
            RTA_OIF => way.link = u32_of(value)?,
            RTA_GATEWAY | RTA_VIA => way.gateway = Some(read_gateway(masked(raw), value)?),
            RTA_MULTIPATH => multipath = Some((raw, value)),
            _ => read.rest.push(RawAttribute { kind: raw, value: value.to_vec() }),
        }
    }
    // Several next hops of a kind that has no name here are passed on as they are.
    let several = multipath.map(|(raw, value)| (raw, value, read_hops(value)));
    match several {
        _ if is_nowhere(read.kind) || by_object => {}
        Some((_, _, Some(hops))) => read.hops = hops,
        Some((kind, value, None)) => read.rest.push(RawAttribute { kind, value: without_state(value) }),
        None if way.link != 0 || way.gateway.is_some() => {
            let onlink = header.flags.contains(RouteFlags::Onlink);
            read.hops.push(Hop { link: way.link, gateway: way.gateway, onlink, weight: 1 });
        }
        None => {}
    }
    read.sort_hops();
    read.destination = Prefix::new(destination, header.destination_prefix_length)?;
    (read.table != RT_TABLE_LOCAL).then_some(read)
}

/// Where a route with one next hop leads.
#[derive(Default)]
struct Way {
    link: u32,
    gateway: Option<IpAddr>,
}

/// Whether routes of a type lead nowhere. IPv6's are told with the loopback interface.
fn is_nowhere(kind: u8) -> bool {
    matches!(kind, RTN_BLACKHOLE | RTN_UNREACHABLE | RTN_PROHIBIT | RTN_THROW)
}

/// The MTU, and the others as they are.
fn read_metrics(route: &mut Route, kind: u16, metrics: &[u8]) {
    let mut others = Vec::new();
    for (raw, value) in raw_attributes(metrics) {
        if masked(raw) == RTAX_MTU {
            route.mtu = u32_of(value).unwrap_or(0);
        } else {
            push_raw(&mut others, raw, value);
        }
    }
    if !others.is_empty() {
        route.rest.push(RawAttribute { kind, value: others });
    }
}

fn push_raw(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend([length, kind].map(u16::to_ne_bytes).into_iter().flatten());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The next hops; `None` when one has something [`Hop`] has no place for.
fn read_hops(bytes: &[u8]) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    for (header, rest) in next_hops(bytes) {
        let onlink = RouteNextHopFlags::from_bits_retain(header[2]).contains(RouteNextHopFlags::Onlink);
        let mut hop =
            Hop { link: u32_of(&header[4..])?, gateway: None, onlink, weight: u16::from(header[3]) + 1 };
        for (kind, value) in attributes(rest) {
            hop.gateway = Some(read_gateway(kind, value)?);
        }
        hops.push(hop);
    }
    Some(hops)
}

/// Several next hops without what the kernel tells of their state, which it does not take back.
fn without_state(bytes: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(bytes.len());
    for (header, rest) in next_hops(bytes) {
        let mut header = *header;
        header[2] &= RouteNextHopFlags::Onlink.bits();
        clean.extend(header);
        clean.extend(rest);
    }
    clean
}

/// The next hops in an `RTA_MULTIPATH`: the header (length, flags, weight - 1, link), and the
/// attributes after it.
fn next_hops(bytes: &[u8]) -> impl Iterator<Item = (&[u8; HOP_HEADER], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HOP_HEADER>()?;
        let length = usize::from(u16_of(header)?);
        let attributes = rest.get(HOP_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, attributes))
    })
}

/// The address in an `RTA_GATEWAY`, or after its family's number in an `RTA_VIA`.
fn read_gateway(kind: u16, value: &[u8]) -> Option<IpAddr> {
    match kind {
        RTA_GATEWAY => ip_of(value),
        RTA_VIA => ip_of(value.get(2..)?),
        _ => None,
    }
}

/// A type without its two flags.
fn masked(kind: u16) -> u16 {
    kind & netlink_packet_core::NLA_TYPE_MASK
}
