//! Reading the kernel's networking into the planner's terms.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType},
};
use tether_wire::value::{MacAddr, Prefix};

use super::{Kernel, KernelError};
use crate::plan::{Address, KernelState, Link, Route};

const RT_TABLE_MAIN: u32 = 254;

impl Kernel {
    /// Reads everything tether looks at.
    pub async fn observe(&self) -> Result<KernelState, KernelError> {
        let links = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        let addresses = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?;
        let mut state = KernelState {
            links: links.iter().filter_map(read_link).collect(),
            addresses: addresses.iter().filter_map(read_address).collect(),
            routes: Vec::new(),
        };
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            let routes = self.dump(RouteNetlinkMessage::GetRoute(all)).await?;
            // Where IPv6 is off, its dump has the IPv4 routes again.
            let of_family = routes.iter().filter(
                |route| matches!(route, RouteNetlinkMessage::NewRoute(r) if r.header.address_family == family),
            );
            state.routes.extend(of_family.filter_map(read_route));
        }
        state.links.sort_by_key(|link| link.index);
        Ok(state)
    }
}

fn read_link(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(info) => link.stacked = info.iter().any(is_stacked),
            LinkAttribute::MinMtu(least) => link.mtu_range.0 = *least,
            LinkAttribute::MaxMtu(most) => link.mtu_range.1 = *most,
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(&bytes[..]).ok().and_then(MacAddr::from_bytes);
            }
            _ => {}
        }
    }
    Some(link)
}

fn is_stacked(info: &LinkInfo) -> bool {
    use InfoKind::{Bond, Bridge, IpVlan, MacVlan, MacVtap, Vlan};
    matches!(info, LinkInfo::Kind(Bond | Bridge | IpVlan | MacVlan | MacVtap | Vlan))
}

fn read_address(message: &RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let (mut local, mut address, mut protocol) = (None, None, 0);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // IPv4's own address is IFA_LOCAL; IFA_ADDRESS is the peer's on point-to-point
            // links. IPv6 has IFA_ADDRESS only, unless there is a peer.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::Protocol(number) => protocol = u8::from(*number),
            _ => {}
        }
    }
    let duplicate = flags.contains(AddressFlags::Dadfailed);
    // An optimistic address (RFC 4429) is usable while it is tentative.
    let tentative = flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    Some(Address {
        link: message.header.index,
        prefix: Prefix::new(local.or(address)?, message.header.prefix_len)?,
        protocol,
        permanent: flags.contains(AddressFlags::Permanent),
        nodad: flags.contains(AddressFlags::Nodad),
        tentative: tentative && !duplicate,
        duplicate,
    })
}

/// `None` for what the planner does not look at: other tables, other types than unicast, the
/// kernel's own routes, cached clones, several next hops.
fn read_route(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    if header.kind != RouteType::Unicast
        || header.protocol == RouteProtocol::Kernel
        || header.flags.contains(RouteFlags::Cloned)
        || header.source_prefix_length != 0
        || header.tos != 0
    {
        return None;
    }
    let (mut destination, mut gateway, mut source) = (unspecified, None, None);
    let (mut link, mut metric, mut table) = (None, 0, u32::from(header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = read_ip(address)?,
            RouteAttribute::Gateway(address) => gateway = Some(read_ip(address)?),
            RouteAttribute::PrefSource(address) => source = Some(read_ip(address)?),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    (table == RT_TABLE_MAIN).then_some(())?;
    Some(Route {
        destination: Prefix::new(destination, header.destination_prefix_length)?,
        gateway,
        link: link?,
        metric,
        protocol: u8::from(header.protocol),
        source,
        onlink: header.flags.contains(RouteFlags::Onlink),
        scope: u8::from(header.scope),
    })
}

fn read_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
