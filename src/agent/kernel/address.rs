//! Addresses.

use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    AddressFamily,
    address::{
        AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressProtocol, AddressScope,
        CacheInfo,
    },
};
use nix::libc::{IFA_ADDRESS, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS, IFA_LABEL, IFA_LOCAL};
use nix::time::{ClockId, clock_gettime};
use tether_wire::value::Prefix;

use super::attributes::{attributes, ip_of, text_of, u8_of, u32_of};
use crate::plan::{Address, Lifetime, PROTOCOL, RawAttribute};

/// How long the header before the attributes is, `struct ifaddrmsg`.
const HEADER: usize = 8;

/// The family of an address, as netlink has it.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// An address to be removed: nothing but what tells it from others.
pub(super) fn key(address: &Address) -> AddressMessage {
    let prefix = address.prefix;
    let mut message = AddressMessage::default();
    message.header.family = family(prefix.address());
    message.header.prefix_len = prefix.length();
    message.header.index = address.link;
    message.attributes = vec![
        AddressAttribute::Local(prefix.address()),
        AddressAttribute::Address(address.peer.unwrap_or(prefix.address())),
    ];
    message
}

/// An address to be made or changed.
pub(super) fn whole(address: &Address) -> AddressMessage {
    let mut message = key(address);
    message.header.scope = AddressScope::from(address.scope);
    let attributes = &mut message.attributes;
    if let (IpAddr::V4(broadcast), None) = (address.prefix.last(), address.peer)
        && address.prefix.length() < 31
        && address.is_ours()
    {
        attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    let other = |raw: &RawAttribute| AddressAttribute::Other(DefaultNla::new(raw.kind, raw.value.clone()));
    attributes.extend(address.rest.iter().map(other));
    // Without one the kernel takes the link's name.
    attributes.extend(address.label.clone().map(AddressAttribute::Label));
    attributes.push(AddressAttribute::Flags(flags(address)));
    // Without one it lives for ever.
    attributes.extend(address.lifetime.map(|lifetime| {
        let mut info = CacheInfo::default();
        // One that has run out on the way here does so a second later: 0 would be refused.
        info.ifa_valid = left_until(lifetime.valid).max(1);
        info.ifa_preferred = left_until(lifetime.preferred);
        AddressAttribute::CacheInfo(info)
    }));
    if address.protocol != 0 {
        // Kernels before 5.18 ignore it.
        attributes.push(AddressAttribute::Protocol(AddressProtocol::from(address.protocol)));
    }
    message
}

fn flags(address: &Address) -> AddressFlags {
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Nodad, address.nodad);
    flags.set(AddressFlags::Optimistic, address.optimistic);
    flags.set(AddressFlags::Noprefixroute, address.no_prefix_route);
    flags.set(AddressFlags::Homeaddress, address.home);
    flags
}

/// Who made an address; libc does not have it.
const IFA_PROTO: u16 = 11;
/// The metric of the route to its network; libc does not have it either.
const IFA_RT_PRIORITY: u16 = 9;

/// Reads an entry of the dump. A label is there even where it is the link's name.
pub(super) fn read(payload: &[u8]) -> Option<Address> {
    let header = AddressHeader::parse(payload).ok()?;
    let (mut local, mut other, mut label, mut protocol) = (None, None, None, 0);
    let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    let (mut info, mut rest) = (None, Vec::new());
    for (kind, value) in attributes(payload.get(HEADER..)?) {
        match kind {
            // IPv4's own address is IFA_LOCAL; IFA_ADDRESS is the peer's, or the same. IPv6 has
            // IFA_ADDRESS only, unless there is a peer.
            IFA_LOCAL => local = ip_of(value),
            IFA_ADDRESS => other = ip_of(value),
            IFA_LABEL => label = Some(text_of(value)),
            IFA_FLAGS => flags = AddressFlags::from_bits_retain(u32_of(value)?),
            IFA_CACHEINFO => info = CacheInfo::parse(value).ok(),
            IFA_PROTO => protocol = u8_of(value)?,
            IFA_BROADCAST | IFA_RT_PRIORITY => rest.push(RawAttribute { kind, value: value.to_vec() }),
            _ => {}
        }
    }
    if protocol == PROTOCOL {
        // Ours follow from the rest of it.
        rest.clear();
    }
    let address = local.or(other)?;
    let duplicate = flags.contains(AddressFlags::Dadfailed);
    if family(address) != header.family {
        return None;
    }
    Some(Address {
        link: header.index,
        prefix: Prefix::new(address, header.prefix_len)?,
        peer: other.filter(|other| *other != address),
        scope: u8::from(header.scope),
        label,
        protocol,
        lifetime: info.and_then(|info| lifetime(flags, &info, clock())),
        no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
        home: flags.contains(AddressFlags::Homeaddress),
        nodad: flags.contains(AddressFlags::Nodad),
        optimistic: flags.contains(AddressFlags::Optimistic),
        tentative: flags.contains(AddressFlags::Tentative) && !duplicate,
        duplicate,
        rest,
    })
}

/// The kernel's "for ever".
const FOR_EVER: u32 = u32::MAX;

/// Until when an address lives. The kernel tells how many whole seconds are left, in ticks of its
/// own: two readings of one address may differ by a second or two.
fn lifetime(flags: AddressFlags, info: &CacheInfo, now: u32) -> Option<Lifetime> {
    // What has run out cannot be told from what never was: 0.
    let until = |left| if left == 0 || left == FOR_EVER { left } else { now.saturating_add(left) };
    let mut lifetime = Lifetime { valid: until(info.ifa_valid), preferred: until(info.ifa_preferred) };
    if flags.contains(AddressFlags::Permanent) {
        lifetime.valid = FOR_EVER;
        // IPv4 says nothing more of an address that is permanent.
        if flags.contains(AddressFlags::Deprecated) {
            lifetime.preferred = 0;
        }
    }
    (lifetime != Lifetime { valid: FOR_EVER, preferred: FOR_EVER }).then_some(lifetime)
}

/// How many seconds there are until then.
fn left_until(until: u32) -> u32 {
    if until == FOR_EVER { until } else { until.saturating_sub(clock()) }
}

/// The clock that lifetimes are counted by, in seconds: `CLOCK_MONOTONIC`, which stands still
/// while the machine sleeps, as the kernel's ticks do.
pub fn clock() -> u32 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec());
    u32::try_from(now).unwrap_or(FOR_EVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_end_when_they_were_to_end() {
        let info = |valid, preferred| {
            let mut info = CacheInfo::default();
            (info.ifa_valid, info.ifa_preferred) = (valid, preferred);
            info
        };
        let read = |flags: AddressFlags, info| lifetime(flags, &info, 250).map(|l| (l.valid, l.preferred));
        let none = AddressFlags::empty();
        assert_eq!(read(none, info(98, 48)), Some((348, 298)));
        assert_eq!(read(none, info(98, 0)), Some((348, 0)));
        let for_ever = info(u32::MAX, u32::MAX);
        assert_eq!(read(AddressFlags::Permanent, for_ever), None);
        let deprecated = AddressFlags::Permanent | AddressFlags::Deprecated;
        assert_eq!(read(deprecated, for_ever), Some((u32::MAX, 0)));
        assert_eq!((left_until(u32::MAX), left_until(0)), (u32::MAX, 0));
    }
}
