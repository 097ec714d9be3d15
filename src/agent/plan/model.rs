//! The kernel's networking as values: what is read from it and what is wanted of it.

use std::{collections::HashSet, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use tether_wire::{
    pci::PciAddress,
    value::{MacAddr, Prefix, is_link_local},
};

use super::setting::Settings;

/// The number on everything tether makes, and so the proof that it made it: the protocol of
/// routes, addresses, rules and neighbours, the group of devices. iproute2's `rt_protos`,
/// `rt_addrprotos` and `group` leave it free (0x74 is a `t`).
pub const PROTOCOL: u8 = 0x74;

/// The main routing table.
pub const TABLE_MAIN: u32 = 254;

/// The least MTU a link with IPv6 may have (RFC 8200 section 5).
pub const IPV6_LEAST_MTU: u32 = 1_280;

/// Everything tether looks at in one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// All links, by index.
    pub links: Vec<Link>,
    /// All addresses, in the kernel's order: of an IPv4 network on one link, the primary first.
    pub addresses: Vec<Address>,
    /// All routes but the kernel's own: those of protocol "kernel", cached clones, and the local
    /// table.
    pub routes: Vec<Route>,
    /// All policy rules but the kernel's own three.
    pub rules: Vec<Rule>,
    /// All permanent neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Links can be renamed while they are up (Linux 6.2 and later).
    pub renames_live: bool,
    /// The settings a new device begins with (`conf/default`); nothing where nobody asked.
    pub default_settings: Settings,
}

impl KernelState {
    /// The link with this index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        // Sorted by index wherever a state is made.
        self.links.binary_search_by_key(&index, |link| link.index).ok().map(|at| &self.links[at])
    }

    /// The link with this index, to be changed.
    pub fn link_mut(&mut self, index: u32) -> Option<&mut Link> {
        let at = self.links.binary_search_by_key(&index, |link| link.index).ok()?;
        Some(&mut self.links[at])
    }

    /// How a link is called in messages to people.
    pub fn link_name(&self, index: u32) -> String {
        self.link(index).map_or_else(|| format!("link {index}"), |link| link.name.clone())
    }
}

/// Things that others have made: what tether's own doing may take along, and puts back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Others {
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
}

impl Others {
    /// What others have on `links`, without what the kernel makes by itself.
    pub fn on(links: &HashSet<u32>, state: &KernelState) -> Self {
        let address = |a: &&Address| !a.is_ours() && !a.is_kernels() && links.contains(&a.link);
        let route = |r: &&Route| {
            !r.is_ours() && !r.is_kernels() && r.hops.iter().any(|hop| links.contains(&hop.link))
        };
        let neighbour = |n: &&Neighbour| !n.is_ours() && links.contains(&n.link);
        Self {
            addresses: state.addresses.iter().filter(address).cloned().collect(),
            routes: state.routes.iter().filter(route).cloned().collect(),
            neighbours: state.neighbours.iter().filter(neighbour).copied().collect(),
        }
    }
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's index, stable for the device's life.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// The MAC address it was made with (`IFLA_PERM_ADDRESS`); virtual devices have none.
    pub permanent_mac: Option<MacAddr>,
    /// Its address on the PCI bus and those of the bridges on the way to it, root first; empty
    /// where it is on no PCI bus, or where nobody asked.
    pub pci: Vec<PciAddress>,
    /// The names it is known by besides, sorted.
    pub alternative_names: Vec<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// The least and greatest MTU the device takes; 0 where the kernel does not say.
    pub mtu_range: (u32, u32),
    /// How many packets wait to be sent at most.
    pub tx_queue_length: u32,
    /// `IFLA_GROUP`: [`PROTOCOL`] on devices that tether has made.
    pub group: u32,
    /// Administratively up.
    pub up: bool,
    /// `IFF_LOWER_UP`: packets can pass.
    pub carrier: bool,
    /// Its settings.
    pub settings: Settings,
}

impl Link {
    /// Whether it is the device of its own that has this MAC address.
    pub fn is_device(&self, mac: MacAddr) -> bool {
        self.mac == Some(mac) && self.kind == LinkKind::Device
    }

    /// Whether tether made the device.
    pub fn is_ours(&self) -> bool {
        self.group == u32::from(PROTOCOL) && matches!(self.kind, LinkKind::Dummy | LinkKind::Vlan { .. })
    }
}

/// What kind of device a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkKind {
    /// A device of its own.
    #[default]
    Device,
    /// The loopback interface.
    Loopback,
    /// A dummy.
    Dummy,
    /// A VLAN of the link with index `parent`.
    Vlan {
        /// The index of the link it is on.
        parent: u32,
        /// Its number.
        id: u16,
    },
    /// Another device on top of one (bridge, bond, macvlan …), which may share that one's
    /// address.
    Stacked,
}

/// An address on a link.
#[expect(clippy::struct_excessive_bools, reason = "each is one of the kernel's independent flags")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address (`IFA_LOCAL`) and its prefix length.
    pub prefix: Prefix,
    /// The other end's address, where there is one (`IFA_ADDRESS`).
    pub peer: Option<IpAddr>,
    /// The kernel's scope number.
    pub scope: u8,
    /// IPv4's label, `None` where it is the link's name.
    pub label: Option<String>,
    /// Who made it: `IFA_PROTO`, [`PROTOCOL`] for ours, 0 for unknown.
    pub protocol: u8,
    /// Until when it lives; `None` for ever.
    pub lifetime: Option<Lifetime>,
    /// The kernel makes no route to its network (`IFA_F_NOPREFIXROUTE`).
    pub no_prefix_route: bool,
    /// A mobile node's home address (`IFA_F_HOMEADDRESS`).
    pub home: bool,
    /// It is to be used without duplicate-address detection (`IFA_F_NODAD`).
    pub nodad: bool,
    /// It may be used before duplicate-address detection has finished (`IFA_F_OPTIMISTIC`). Only
    /// said to the kernel: it forgets the flag when it has finished, so a difference means nothing.
    pub optimistic: bool,
    /// Duplicate-address detection is not finished.
    pub tentative: bool,
    /// Somebody else has it.
    pub duplicate: bool,
    /// Attributes of somebody else's address that tether has no name for, as the kernel gave them:
    /// it is put back with them.
    pub rest: Vec<RawAttribute>,
}

/// Until when an address lives, in seconds of [`clock`](crate::kernel::clock): `u32::MAX` for
/// ever, 0 for a time that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// When it is removed.
    pub valid: u32,
    /// When it is no longer used for new connections.
    pub preferred: u32,
}

/// What makes an address one and not another to the kernel: two of one key cannot be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey {
    /// The link's index.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// IPv4's prefix length and peer. IPv6 has one address once, whatever its prefix.
    rest: Option<(u8, Option<IpAddr>)>,
}

impl Address {
    /// An address tether is to make, without anything special about it.
    pub fn ours(link: u32, prefix: Prefix) -> Self {
        Self {
            link,
            prefix,
            peer: None,
            scope: 0,
            label: None,
            protocol: PROTOCOL,
            lifetime: None,
            no_prefix_route: false,
            home: false,
            nodad: false,
            optimistic: false,
            tentative: false,
            duplicate: false,
            rest: Vec::new(),
        }
    }

    /// Whether tether made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// Whether the kernel makes, ages and removes this address by itself: IPv6 link-local ones,
    /// and those with an end of life (router advertisements).
    pub fn is_kernels(&self) -> bool {
        let is_ipv6 = self.prefix.address().is_ipv6();
        !self.is_ours() && is_ipv6 && (is_link_local(self.prefix.address()) || self.lifetime.is_some())
    }

    /// Its key.
    pub fn key(&self) -> AddressKey {
        let address = self.prefix.address();
        let rest = address.is_ipv4().then_some((self.prefix.length(), self.peer));
        AddressKey { link: self.link, address, rest }
    }

    /// The network the kernel takes it to be in: its peer's, where it has one.
    pub fn network(&self) -> Prefix {
        let inside = self.peer.and_then(|peer| Prefix::new(peer, self.prefix.length()));
        inside.unwrap_or(self.prefix).network()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix)?;
        self.peer.map_or(Ok(()), |peer| write!(f, " peer {peer}"))
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The table it is in.
    pub table: u32,
    /// The network it leads to.
    pub destination: Prefix,
    /// IPv4's type of service it is for; 0 for all.
    pub tos: u8,
    /// Smaller is preferred.
    pub metric: u32,
    /// What becomes of packets: `RTN_UNICAST` and so on.
    pub kind: u8,
    /// The kernel's scope number; 0 for IPv6, which has none.
    pub scope: u8,
    /// Who made it: [`PROTOCOL`] for ours.
    pub protocol: u8,
    /// `RTA_PREFSRC`.
    pub source: Option<IpAddr>,
    /// The path's MTU (`RTAX_MTU`), 0 for the link's.
    pub mtu: u32,
    /// IPv6's router preference: 0 medium, 1 high, 3 low (RFC 4191).
    pub preference: u8,
    /// The next hops. Empty for types that have none, and for what `rest` says in another way (a
    /// next-hop object).
    pub hops: Vec<Hop>,
    /// Attributes tether has no name for, as the kernel gave them: what others made is put back
    /// with them.
    pub rest: Vec<RawAttribute>,
}

/// A netlink attribute that is passed on as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawAttribute {
    /// Its type.
    pub kind: u16,
    /// Its value.
    pub value: Vec<u8>,
}

/// One of a route's next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The index of the link it goes out of; 0 for none (a blackhole's).
    pub link: u32,
    /// The next router, of either family.
    pub gateway: Option<IpAddr>,
    /// `RTNH_F_ONLINK`.
    pub onlink: bool,
    /// Its share, 1 to 256.
    pub weight: u16,
}

/// What makes a route one entry of the table and not another: replacing one is replacing the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// The table.
    pub table: u32,
    /// The network it leads to.
    pub destination: Prefix,
    /// Its metric.
    pub metric: u32,
    /// IPv4's type of service.
    pub tos: u8,
}

/// `RTN_UNICAST`: packets go to a next hop.
pub const RTN_UNICAST: u8 = 1;

impl Route {
    /// Whether tether made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// Whether the kernel makes and ages this route by itself (router advertisements, redirects).
    pub fn is_kernels(&self) -> bool {
        const RTPROT_REDIRECT: u8 = 1;
        const RTPROT_RA: u8 = 9;
        matches!(self.protocol, RTPROT_REDIRECT | RTPROT_RA)
    }

    /// Its key.
    pub fn key(&self) -> RouteKey {
        RouteKey { table: self.table, destination: self.destination, metric: self.metric, tos: self.tos }
    }

    /// Whether packets fare alike by both, whoever made them.
    pub fn same(&self, other: &Self) -> bool {
        self.key() == other.key()
            && self.kind == other.kind
            && self.scope == other.scope
            && self.source == other.source
            && self.mtu == other.mtu
            && self.preference == other.preference
            && self.hops == other.hops
            && self.rest == other.rest
    }

    /// Puts the next hops in the order in which they are compared. The kernel keeps IPv4's as they
    /// were given, and IPv6's as it likes.
    pub fn sort_hops(&mut self) {
        self.hops.sort_by_key(|hop| (hop.link, hop.gateway, hop.weight));
    }

    /// Whether a next hop is one only as long as its link has IPv6.
    pub fn needs_ipv6(&self, hop: &Hop) -> bool {
        self.destination.address().is_ipv6() || hop.gateway.is_some_and(|gateway| gateway.is_ipv6())
    }

    /// What becomes of packets, as ip-route(8) calls it.
    pub fn kind_name(&self) -> &'static str {
        const NAMES: [&str; 10] = [
            "unspec",
            "unicast",
            "local",
            "broadcast",
            "anycast",
            "multicast",
            "blackhole",
            "unreachable",
            "prohibit",
            "throw",
        ];
        NAMES.get(usize::from(self.kind)).copied().unwrap_or("strange")
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != RTN_UNICAST {
            write!(f, "{} ", self.kind_name())?;
        }
        write!(f, "{}", self.destination)?;
        for hop in self.hops.iter().take(4) {
            if let Some(gateway) = hop.gateway {
                write!(f, " via {gateway}")?;
            }
            if hop.link != 0 && self.hops.len() > 1 {
                write!(f, " through link {}", hop.link)?;
            }
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        if self.table != TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// For IPv6, not IPv4.
    pub ipv6: bool,
    /// Smaller is looked at first.
    pub priority: u32,
    /// Where packets come from.
    pub from: Option<Prefix>,
    /// Where they go.
    pub to: Option<Prefix>,
    /// The link they arrive on.
    pub iif: Option<String>,
    /// The link their socket is bound to.
    pub oif: Option<String>,
    /// Their mark.
    pub fwmark: u32,
    /// Which bits of it count.
    pub fwmask: u32,
    /// The table that is looked up.
    pub table: u32,
    /// Routes of prefixes up to this length do not count.
    pub suppress_prefix_length: Option<u32>,
    /// Who made it: [`PROTOCOL`] for ours.
    pub protocol: u8,
    /// `FR_ACT_TO_TBL` (1) for ours; anything else is somebody else's.
    pub action: u8,
    /// It has more to it that tether has no name for; somebody else's.
    pub opaque: bool,
}

impl Rule {
    /// Whether tether made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL && !self.opaque
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}priority {}", if self.ipv6 { "IPv6 " } else { "" }, self.priority)?;
        for (word, prefix) in [("from", self.from), ("to", self.to)] {
            if let Some(prefix) = prefix {
                write!(f, " {word} {prefix}")?;
            }
        }
        for (word, name) in [("iif", &self.iif), ("oif", &self.oif)] {
            if let Some(name) = name {
                write!(f, " {word} {name}")?;
            }
        }
        if self.fwmask != 0 {
            write!(f, " fwmark {:#x}/{:#x}", self.fwmark, self.fwmask)?;
        }
        write!(f, " table {}", self.table)?;
        self.suppress_prefix_length.map_or(Ok(()), |length| write!(f, " suppress_prefixlength {length}"))
    }
}

/// A neighbour whose MAC address is known for good (`NUD_PERMANENT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Neighbour {
    /// The link's index.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Who made it: [`PROTOCOL`] for ours.
    pub protocol: u8,
}

impl Neighbour {
    /// Whether tether made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// There is one of each address on a link.
    pub fn key(&self) -> (u32, IpAddr) {
        (self.link, self.address)
    }
}
