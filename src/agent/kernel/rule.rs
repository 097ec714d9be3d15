//! Policy rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::{
    AddressFamily,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleHeader, RuleMessage},
};
use tether_wire::value::Prefix;

use super::attributes::{attributes, ip_of, text_of, u8_of, u32_of};
use crate::plan::Rule;

/// How long the header before the attributes is, `struct fib_rule_hdr`.
const HEADER: usize = 12;

/// A rule to be made or removed: the kernel removes the first that has everything it is told.
pub(super) fn whole(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::from(rule.action);
    // What does not fit into the header is in the attribute alone (RT_TABLE_UNSPEC).
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    if let Some(from) = rule.from {
        message.header.src_len = from.length();
        attributes.push(RuleAttribute::Source(from.address()));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.length();
        attributes.push(RuleAttribute::Destination(to.address()));
    }
    attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    attributes.extend(rule.oif.clone().map(RuleAttribute::Oifname));
    if rule.fwmark != 0 || rule.fwmask != 0 {
        attributes.push(RuleAttribute::FwMark(rule.fwmark));
        attributes.push(RuleAttribute::FwMask(rule.fwmask));
    }
    if rule.table != 0 {
        attributes.push(RuleAttribute::Table(rule.table));
    }
    attributes.extend(rule.suppress_prefix_length.map(RuleAttribute::SuppressPrefixLen));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)));
    message
}

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;

/// Reads an entry of the dump; `None` for the kernel's own.
pub(super) fn read(payload: &[u8]) -> Option<Rule> {
    let header = RuleHeader::parse(payload).ok()?;
    let (ipv6, unspecified): (bool, IpAddr) = match header.family {
        AddressFamily::Inet => (false, Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => (true, Ipv6Addr::UNSPECIFIED.into()),
        _ => return None,
    };
    let mut rule = Rule {
        ipv6,
        priority: 0,
        from: None,
        to: None,
        iif: None,
        oif: None,
        fwmark: 0,
        fwmask: 0,
        table: u32::from(header.table),
        suppress_prefix_length: None,
        protocol: 0,
        action: u8::from(header.action),
        opaque: header.tos != 0 || header.flags.contains(RuleFlags::Invert),
    };
    let (mut from, mut to) = (unspecified, unspecified);
    for (kind, value) in attributes(payload.get(HEADER..)?) {
        match kind {
            FRA_SRC => from = ip_of(value)?,
            FRA_DST => to = ip_of(value)?,
            FRA_IIFNAME => rule.iif = Some(text_of(value)),
            FRA_OIFNAME => rule.oif = Some(text_of(value)),
            FRA_PRIORITY => rule.priority = u32_of(value)?,
            FRA_FWMARK => rule.fwmark = u32_of(value)?,
            FRA_FWMASK => rule.fwmask = u32_of(value)?,
            FRA_TABLE => rule.table = u32_of(value)?,
            // The kernel tells -1 where there is none.
            FRA_SUPPRESS_PREFIXLEN => {
                rule.suppress_prefix_length = u32_of(value).filter(|length| *length != u32::MAX);
            }
            FRA_PROTOCOL => rule.protocol = u8_of(value)?,
            FRA_PAD => {}
            _ => rule.opaque = true,
        }
    }
    let prefix = |address, length| match length {
        0 => Some(None),
        _ => Prefix::new(address, length).map(Some),
    };
    rule.from = prefix(from, header.src_len)?;
    rule.to = prefix(to, header.dst_len)?;
    (!is_kernels(&rule)).then_some(rule)
}

/// Whether it is one of those every network namespace has from its beginning, for the tables
/// local, main and default.
fn is_kernels(rule: &Rule) -> bool {
    const RTPROT_KERNEL: u8 = 2;
    rule.protocol == RTPROT_KERNEL
        && matches!((rule.priority, rule.table), (0, 255) | (32766, 254) | (32767, 253))
}
