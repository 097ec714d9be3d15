//! Neighbours that were made to stay.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage,
        NeighbourState,
    },
    route::RouteProtocol,
};
use nix::libc::{NDA_DST, NDA_LLADDR};

use super::{
    address::family,
    attributes::{attributes, ip_of, mac_of, u8_of},
};
use crate::plan::Neighbour;

/// How long the header before the attributes is, `struct ndmsg`.
pub(super) const HEADER: usize = 12;

/// Who made a neighbour; libc does not have it.
pub(super) const NDA_PROTOCOL: u16 = 12;

/// A neighbour to be removed.
pub(super) fn key(neighbour: &Neighbour) -> NeighbourMessage {
    at(neighbour.link, neighbour.address)
}

fn at(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::from(address))];
    message
}

/// A neighbour whose MAC address is asked for as of any other, but whose place is kept: the kernel
/// collects none that were "learned externally" (`neigh_alloc` in `net/core/neighbour.c`, since
/// Linux 5.0).
pub(super) fn kept(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = at(link, address);
    message.header.flags = NeighbourFlags::ExtLearned;
    message
}

/// A neighbour to be made or changed.
pub(super) fn whole(neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = key(neighbour);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(neighbour.mac.bytes().to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(neighbour.protocol)));
    message
}

/// Reads an entry of the dump; `None` for those that come and go.
pub(super) fn read(payload: &[u8]) -> Option<Neighbour> {
    let header = NeighbourHeader::parse(payload).ok()?;
    if header.state != NeighbourState::Permanent
        || !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
    {
        return None;
    }
    let (mut address, mut mac, mut protocol) = (None, None, 0);
    for (kind, value) in attributes(payload.get(HEADER..)?) {
        match kind {
            NDA_DST => address = ip_of(value),
            NDA_LLADDR => mac = mac_of(value),
            NDA_PROTOCOL => protocol = u8_of(value)?,
            _ => {}
        }
    }
    Some(Neighbour { link: header.ifindex, address: address?, mac: mac?, protocol })
}
