//! Network devices.

use std::sync::OnceLock;

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkInfo,
    LinkMessage, Prop, VlanProtocol,
};

use super::attributes::{attributes, i32_of, mac_of, text_of, u16_of, u32_of};
use crate::plan::{Link, LinkKind, Setting, Settings};

/// How long the header before the attributes is, `struct ifinfomsg`.
const HEADER: usize = 16;

/// The request for all links: without their counters, which are most of the answer.
pub(super) fn all() -> LinkMessage {
    with(0, LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
}

/// The link with an index.
pub(super) fn by_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// The link with an index, and one attribute to change.
pub(super) fn with(index: u32, attribute: LinkAttribute) -> LinkMessage {
    let mut message = by_index(index);
    message.attributes.push(attribute);
    message
}

pub(super) fn up_or_down(index: u32, up: bool) -> LinkMessage {
    let mut message = by_index(index);
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
    message
}

pub(super) fn alternative_name(index: u32, name: &str) -> LinkMessage {
    with(index, LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]))
}

/// A device to be made. It gets the index it has here, so that what follows in the same batch can
/// name it.
pub(super) fn new(link: &Link) -> LinkMessage {
    let mut message = by_index(link.index);
    let attributes = &mut message.attributes;
    attributes.push(LinkAttribute::IfName(link.name.clone()));
    attributes.push(LinkAttribute::Group(link.group));
    if let Some(mac) = link.mac {
        attributes.push(LinkAttribute::Address(mac.bytes().to_vec()));
    }
    match link.kind {
        LinkKind::Vlan { parent, id } => {
            let vlan = vec![InfoVlan::Id(id), InfoVlan::Protocol(VlanProtocol::Ieee8021Q)];
            attributes.push(LinkAttribute::Link(parent));
            attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vlan)),
            ]));
        }
        LinkKind::Dummy => {
            attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]));
        }
        // Nobody makes these; without a kind the kernel refuses.
        LinkKind::Device | LinkKind::Loopback | LinkKind::Stacked => {}
    }
    message
}

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_MIN_MTU: u16 = 50;
const IFLA_MAX_MTU: u16 = 51;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_PERM_ADDRESS: u16 = 54;

/// Reads an entry of the dump.
pub(super) fn read(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok()?;
    let mut link = Link {
        index: header.index,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    let (mut parent, mut info) = (None, None);
    for (kind, value) in attributes(payload.get(HEADER..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = mac_of(value),
            IFLA_PERM_ADDRESS => link.permanent_mac = mac_of(value),
            IFLA_IFNAME => link.name = text_of(value),
            IFLA_MTU => link.mtu = u32_of(value)?,
            IFLA_MIN_MTU => link.mtu_range.0 = u32_of(value)?,
            IFLA_MAX_MTU => link.mtu_range.1 = u32_of(value)?,
            IFLA_TXQLEN => link.tx_queue_length = u32_of(value)?,
            IFLA_GROUP => link.group = u32_of(value)?,
            IFLA_LINK => parent = u32_of(value),
            IFLA_LINKINFO => info = Some(value),
            IFLA_AF_SPEC => link.settings = read_settings(value),
            IFLA_PROP_LIST => {
                let names = attributes(value).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
                link.alternative_names = names.map(|(_, name)| text_of(name)).collect();
            }
            _ => {}
        }
    }
    // The number of a link in another namespace says nothing in this one.
    let elsewhere = attributes(payload.get(HEADER..)?).any(|(kind, _)| kind == IFLA_LINK_NETNSID);
    link.kind = match info {
        _ if header.flags.contains(LinkFlags::Loopback) => LinkKind::Loopback,
        Some(info) => read_kind(info, parent.filter(|_| !elsewhere)),
        None => LinkKind::Device,
    };
    link.alternative_names.sort();
    Some(link)
}

fn read_kind(info: &[u8], parent: Option<u32>) -> LinkKind {
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    let part = |wanted| attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    match part(IFLA_INFO_KIND).map(text_of).unwrap_or_default().as_str() {
        "dummy" => LinkKind::Dummy,
        "vlan" => match (parent, part(IFLA_INFO_DATA).and_then(read_vlan)) {
            (Some(parent), Some(id)) => LinkKind::Vlan { parent, id },
            _ => LinkKind::Stacked,
        },
        "batadv" | "bond" | "bridge" | "hsr" | "ipvlan" | "ipvtap" | "macsec" | "macvlan" | "macvtap"
        | "team" | "vrf" => LinkKind::Stacked,
        _ => LinkKind::Device,
    }
}

/// The number of an 802.1Q VLAN.
fn read_vlan(data: &[u8]) -> Option<u16> {
    const IFLA_VLAN_ID: u16 = 1;
    const IFLA_VLAN_PROTOCOL: u16 = 5;
    const ETH_P_8021Q: u16 = 0x8100;
    let part = |wanted| attributes(data).find(|(kind, _)| *kind == wanted).and_then(|(_, v)| u16_of(v));
    let protocol = part(IFLA_VLAN_PROTOCOL).map_or(ETH_P_8021Q, u16::from_be);
    part(IFLA_VLAN_ID).filter(|_| protocol == ETH_P_8021Q)
}

/// The settings, which the kernel gives as one array of numbers for each protocol. Where IPv6 is
/// off, by a parameter of the kernel or by an MTU below 1280, there is none for it.
fn read_settings(families: &[u8]) -> Settings {
    const AF_INET: u16 = 2;
    const IFLA_INET_CONF: u16 = 1;
    const AF_INET6: u16 = 10;
    const IFLA_INET6_CONF: u16 = 2;
    let array = |wanted_family, wanted| {
        let (_, family) = attributes(families).find(|(family, _)| *family == wanted_family)?;
        attributes(family).find(|(kind, _)| *kind == wanted).map(|(_, array)| array)
    };
    let (ipv4, ipv6) = (array(AF_INET, IFLA_INET_CONF), array(AF_INET6, IFLA_INET6_CONF));
    let mut settings = Settings::default();
    for setting in Setting::ALL {
        // The numbers of linux/ip.h, which begin with 1, and of linux/ipv6.h, which begin with 0.
        let (array, at) = match setting {
            Setting::Ipv4Forwarding => (ipv4, 0),
            Setting::RpFilter => (ipv4, 7),
            Setting::ArpAnnounce => (ipv4, 17),
            Setting::ArpIgnore => (ipv4, 18),
            Setting::PromoteSecondaries => (ipv4, 19),
            Setting::Ipv6Forwarding => (ipv6, 0),
            Setting::AcceptRa => (ipv6, 3),
            // A kernel without CONFIG_IPV6_OPTIMISTIC_DAD has a 0 here, and no file to write to.
            Setting::OptimisticDad if !has_optimistic_dad() => continue,
            Setting::OptimisticDad => (ipv6, 23),
            Setting::DisableIpv6 => (ipv6, 26),
        };
        settings.set(setting, array.and_then(|array| array.get(4 * at..)).and_then(i32_of));
    }
    settings
}

/// Whether this kernel has optimistic duplicate-address detection (RFC 4429) at all.
fn has_optimistic_dad() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| std::path::Path::new("/proc/sys/net/ipv6/conf/all/optimistic_dad").exists())
}
