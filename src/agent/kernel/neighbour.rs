//! Neighbours that were made to stay.

use netlink_packet_route::{
    AddressFamily,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourMessage, NeighbourState},
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
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.address);
    message.header.ifindex = neighbour.link;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::from(neighbour.address))];
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
