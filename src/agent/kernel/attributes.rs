//! Reading netlink attributes in place: each a length, a type and a value padded to four bytes,
//! in the machine's byte order. What is cut off or of a wrong length is not there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLA_F_NESTED, NLA_F_NET_BYTEORDER, NLA_HEADER_SIZE, NlasIterator};
use tether_wire::value::MacAddr;

/// All attributes in `bytes`, by type without its two flags.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    raw_attributes(bytes).map(|(kind, value)| (kind & !(NLA_F_NESTED | NLA_F_NET_BYTEORDER), value))
}

/// All attributes in `bytes`, by type with its flags.
pub(super) fn raw_attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|attribute| {
        let nested = if attribute.nested_flag() { NLA_F_NESTED } else { 0 };
        let order = if attribute.network_byte_order_flag() { NLA_F_NET_BYTEORDER } else { 0 };
        let (kind, length) = (attribute.kind() | nested | order, usize::from(attribute.length()));
        (kind, attribute.into_inner().get(NLA_HEADER_SIZE..length).unwrap_or_default())
    })
}

pub(super) fn u8_of(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

pub(super) fn u16_of(value: &[u8]) -> Option<u16> {
    value.first_chunk().copied().map(u16::from_ne_bytes)
}

pub(super) fn u32_of(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

pub(super) fn i32_of(value: &[u8]) -> Option<i32> {
    value.first_chunk().copied().map(i32::from_ne_bytes)
}

/// The address of the family that its length says.
pub(super) fn ip_of(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(value).ok().map(|v6| Ipv6Addr::from(v6).into())
}

pub(super) fn mac_of(value: &[u8]) -> Option<MacAddr> {
    <[u8; 6]>::try_from(value).ok().and_then(MacAddr::from_bytes)
}

/// A text that ends with a zero byte or the value.
pub(super) fn text_of(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
