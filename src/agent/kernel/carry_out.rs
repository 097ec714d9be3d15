//! Carrying out the planner's operations, one request each.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use tether_wire::value::Prefix;

use super::{Kernel, KernelError};
use crate::plan::{Address, Operation, Route};

impl Kernel {
    /// Brings up `lo`, which every network namespace has under index 1.
    pub async fn loopback_up(&self) -> Result<(), KernelError> {
        self.carry_out(&Operation::LinkUp { link: 1, name: "lo".to_owned() }).await
    }

    /// Carries out one operation and waits until the kernel has done it.
    pub async fn carry_out(&self, operation: &Operation) -> Result<(), KernelError> {
        let set_link = |message| self.request(RouteNetlinkMessage::SetLink(message), 0);
        match operation {
            Operation::LinkDown { link, .. } => set_link(up_or_down(*link, LinkFlags::empty())).await,
            Operation::LinkUp { link, .. } => set_link(up_or_down(*link, LinkFlags::Up)).await,
            Operation::Rename { link, to, .. } => {
                set_link(link_attribute(*link, LinkAttribute::IfName(to.clone()))).await
            }
            Operation::SetMtu { link, mtu, .. } => {
                set_link(link_attribute(*link, LinkAttribute::Mtu(*mtu))).await
            }
            Operation::AddAddress(address) => {
                let message = RouteNetlinkMessage::NewAddress(address_message(address));
                self.request(message, NLM_F_CREATE | NLM_F_EXCL).await
            }
            Operation::RemoveAddress(address) => {
                self.request(RouteNetlinkMessage::DelAddress(address_message(address)), 0).await
            }
            Operation::AddRoute(route) => {
                let message = RouteNetlinkMessage::NewRoute(route_message(route));
                self.request(message, NLM_F_CREATE | NLM_F_EXCL).await
            }
            Operation::ReplaceRoute(route) => {
                let message = RouteNetlinkMessage::NewRoute(route_message(route));
                self.request(message, NLM_F_CREATE | NLM_F_REPLACE).await
            }
            Operation::RemoveRoute(route) => {
                self.request(RouteNetlinkMessage::DelRoute(route_message(route)), 0).await
            }
        }
    }
}

fn up_or_down(link: u32, flags: LinkFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = link;
    message.header.flags = flags;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn link_attribute(link: u32, attribute: LinkAttribute) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = link;
    message.attributes.push(attribute);
    message
}

fn family(prefix: Prefix) -> AddressFamily {
    if prefix.address().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(address: &Address) -> AddressMessage {
    let prefix = address.prefix;
    let mut message = AddressMessage::default();
    message.header.family = family(prefix);
    message.header.prefix_len = prefix.length();
    message.header.index = address.link;
    if address.nodad {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes =
        vec![AddressAttribute::Local(prefix.address()), AddressAttribute::Address(prefix.address())];
    if let IpAddr::V4(broadcast) = prefix.last()
        && prefix.length() < 31
    {
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    if address.protocol != 0 {
        // Kernels before 5.18 ignore it.
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(address.protocol)));
    }
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(route.destination),
        destination_prefix_length: route.destination.length(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(route.protocol),
        scope: RouteScope::from(route.scope),
        kind: RouteType::Unicast,
        flags: if route.onlink { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    if route.destination.length() > 0 {
        attributes.push(RouteAttribute::Destination(RouteAddress::from(route.destination.address())));
    }
    if let Some(gateway) = route.gateway {
        attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
    }
    if let Some(source) = route.source {
        attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
    }
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    attributes.push(RouteAttribute::Oif(route.link));
    message
}
