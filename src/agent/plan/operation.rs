//! One change to the kernel.

use std::fmt;

use tether_wire::value::MacAddr;

use super::{
    model::{Address, IPV6_LEAST_MTU, Link, LinkKind, Neighbour, Route, Rule},
    setting::Setting,
};

/// One change to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make a device: its index, name, kind and group are said, the rest follows.
    CreateLink(Link),
    /// Remove a device that tether made.
    DeleteLink(Named),
    /// Take a link down.
    LinkDown(Named),
    /// Bring a link up.
    LinkUp(Named),
    /// Give a link another name: `name` is the one it has.
    Rename(Named, String),
    /// Give a link one more name.
    AddAlternativeName(Named, String),
    /// Take one of those away.
    RemoveAlternativeName(Named, String),
    /// Change a link's MAC address.
    SetMac(Named, MacAddr),
    /// Change a link's MTU, bytes.
    SetMtu(Named, u32),
    /// Change how many packets may wait to be sent.
    SetTxQueueLength(Named, u32),
    /// Change a setting.
    Set(Named, Setting, i32),
    /// Add an address.
    AddAddress(Address),
    /// Change the lifetime or flags of an address that is there.
    ChangeAddress(Address),
    /// Remove an address.
    RemoveAddress(Address),
    /// Add a route.
    AddRoute(Route),
    /// Put a route in the place of the one with its key.
    ReplaceRoute(Route),
    /// Remove a route.
    RemoveRoute(Route),
    /// Add a policy rule.
    AddRule(Rule),
    /// Remove a policy rule.
    RemoveRule(Rule),
    /// Add a permanent neighbour, or change its MAC address.
    SetNeighbour(Neighbour),
    /// Remove a permanent neighbour.
    RemoveNeighbour(Neighbour),
}

/// Which link an operation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its index.
    pub index: u32,
    /// Its name at that moment: settings are found by it, people know it by it.
    pub name: String,
}

impl Named {
    /// The link by its present name.
    pub fn of(link: &Link) -> Self {
        Self { index: link.index, name: link.name.clone() }
    }
}

impl Operation {
    /// Whether it takes something away, which the kernel may have done already: a secondary
    /// address goes with its primary, a route with its address.
    pub fn is_removal(&self) -> bool {
        matches!(
            self,
            Self::RemoveAddress(_)
                | Self::RemoveRoute(_)
                | Self::RemoveRule(_)
                | Self::RemoveNeighbour(_)
                | Self::DeleteLink(_)
        )
    }

    /// Whether it adds an address, which the kernel may have kept or made already.
    pub fn is_new_address(&self) -> bool {
        matches!(self, Self::AddAddress(_))
    }

    /// The link from which the kernel may take more than it was told: the secondary addresses of
    /// one that goes, all routes with the last one, nearly everything when it goes down.
    pub fn disturbs(&self) -> Option<u32> {
        match self {
            Self::LinkDown(link) | Self::DeleteLink(link) | Self::Set(link, Setting::DisableIpv6, 1) => {
                Some(link.index)
            }
            Self::SetMtu(link, mtu) if *mtu < IPV6_LEAST_MTU => Some(link.index),
            Self::RemoveAddress(address) => Some(address.link),
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hop = |f: &mut fmt::Formatter<'_>, route: &Route| match &route.hops[..] {
            [only] if only.link != 0 => write!(f, " through link {}", only.link),
            _ => Ok(()),
        };
        match self {
            Self::CreateLink(link) => match link.kind {
                LinkKind::Vlan { parent, id } => {
                    write!(f, "create {}, VLAN {id} of link {parent}", link.name)
                }
                _ => write!(f, "create {}", link.name),
            },
            Self::DeleteLink(link) => write!(f, "delete {}", link.name),
            Self::LinkDown(link) => write!(f, "set {} down", link.name),
            Self::LinkUp(link) => write!(f, "set {} up", link.name),
            Self::Rename(link, to) => write!(f, "rename {} to {to}", link.name),
            Self::AddAlternativeName(link, name) => write!(f, "call {} {name} too", link.name),
            Self::RemoveAlternativeName(link, name) => write!(f, "call {} no longer {name}", link.name),
            Self::SetMac(link, mac) => write!(f, "set {} mac {mac}", link.name),
            Self::SetMtu(link, mtu) => write!(f, "set {} mtu {mtu}", link.name),
            Self::SetTxQueueLength(link, length) => write!(f, "set {} txqueuelen {length}", link.name),
            Self::Set(link, setting, value) => write!(f, "set {} {setting} to {value}", link.name),
            Self::AddAddress(a) => write!(f, "add address {a} to link {}", a.link),
            Self::ChangeAddress(a) => write!(f, "change address {a} of link {}", a.link),
            Self::RemoveAddress(a) => write!(f, "remove address {a} from link {}", a.link),
            Self::AddRoute(r) => write!(f, "add route {r}").and_then(|()| hop(f, r)),
            Self::ReplaceRoute(r) => write!(f, "replace route {r}").and_then(|()| hop(f, r)),
            Self::RemoveRoute(r) => write!(f, "remove route {r}").and_then(|()| hop(f, r)),
            Self::AddRule(rule) => write!(f, "add rule {rule}"),
            Self::RemoveRule(rule) => write!(f, "remove rule {rule}"),
            Self::SetNeighbour(n) => write!(f, "set neighbour {} of link {} to {}", n.address, n.link, n.mac),
            Self::RemoveNeighbour(n) => write!(f, "remove neighbour {} of link {}", n.address, n.link),
        }
    }
}
