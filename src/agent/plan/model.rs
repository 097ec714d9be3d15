//! The kernel's networking as values: what is read from it and what is wanted of it.

use std::{fmt, net::IpAddr};

use tether_wire::value::{MacAddr, Prefix, is_link_local};

/// The protocol number on every route and address tether makes, and so the proof that it made
/// them. iproute2's `rt_protos` and `rt_addrprotos` leave it free (0x74 is a `t`).
pub const PROTOCOL: u8 = 0x74;

/// Everything tether looks at in one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// All links, by index.
    pub links: Vec<Link>,
    /// All addresses, in the kernel's order.
    pub addresses: Vec<Address>,
    /// Unicast routes of the main table with one next hop, without the kernel's own.
    pub routes: Vec<Route>,
}

impl KernelState {
    /// The link with this index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// How a link is called in messages to people.
    pub fn link_name(&self, index: u32) -> String {
        self.link(index).map_or_else(|| format!("link {index}"), |link| link.name.clone())
    }
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index, stable for the device's life.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// The least and greatest MTU the device takes; 0 where the kernel does not say.
    pub mtu_range: (u32, u32),
    /// Administratively up.
    pub up: bool,
    /// `IFF_LOWER_UP`: packets can pass.
    pub carrier: bool,
    /// A device on top of another (VLAN, bridge, bond …), which may share that one's address.
    pub stacked: bool,
}

/// An address on a link.
#[expect(clippy::struct_excessive_bools, reason = "each is one of the kernel's independent flags")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address and its prefix length.
    pub prefix: Prefix,
    /// Who made it: `IFA_PROTO`, [`PROTOCOL`] for ours, 0 for unknown.
    pub protocol: u8,
    /// It has no end of life (`IFA_F_PERMANENT`).
    pub permanent: bool,
    /// It is to be used without duplicate-address detection (`IFA_F_NODAD`).
    pub nodad: bool,
    /// Duplicate-address detection is not finished and it cannot be used yet.
    pub tentative: bool,
    /// Somebody else has it.
    pub duplicate: bool,
}

impl Address {
    /// An address tether is to make.
    pub fn ours(link: u32, prefix: Prefix) -> Self {
        Self {
            link,
            prefix,
            protocol: PROTOCOL,
            permanent: true,
            nodad: false,
            tentative: false,
            duplicate: false,
        }
    }

    /// Whether tether made it.
    pub fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }

    /// Whether the kernel makes, ages and removes this address by itself: IPv6 link-local ones,
    /// and those with an end of life (router advertisements).
    pub fn is_kernels(&self) -> bool {
        !self.is_ours() && (is_link_local(self.prefix.address()) || !self.permanent)
    }

    /// Same place, same value.
    pub fn same(&self, other: &Self) -> bool {
        self.link == other.link && self.prefix == other.prefix
    }
}

/// A unicast route with one next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network it leads to.
    pub destination: Prefix,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The index of the link it goes out of.
    pub link: u32,
    /// Smaller is preferred.
    pub metric: u32,
    /// Who made it: [`PROTOCOL`] for ours.
    pub protocol: u8,
    /// `RTA_PREFSRC`.
    pub source: Option<IpAddr>,
    /// `RTNH_F_ONLINK`.
    pub onlink: bool,
    /// The kernel's scope number.
    pub scope: u8,
}

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

    /// Whether the kernel takes both for one entry of the table: replacing one is replacing the
    /// other.
    pub fn same_key(&self, other: &Self) -> bool {
        self.destination == other.destination && self.metric == other.metric
    }

    /// Whether packets fare alike by both.
    pub fn same(&self, other: &Self) -> bool {
        self.same_key(other) && self.gateway == other.gateway && self.link == other.link
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}
