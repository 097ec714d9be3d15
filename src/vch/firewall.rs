//! The host's packet filter: one nftables table, made anew and put in place in one transaction.
//!
//! Only packets from or to the host's own bridges, and those to published ports, are judged:
//! every chain's policy is to accept. Other tables are never read or changed. What a rule is made
//! of are numbers, addresses and interface names, never anybody's text.

use std::net::{IpAddr, SocketAddr};

use nftables::schema::Nftables;
use tether_wire::value::{IfName, Prefix};

pub use crate::reserved::Protocol;

/// The table's name, `vch` or, for one of several hosts in one network namespace, `vch-7`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table(Option<u32>);

impl Table {
    /// The table of one of several hosts in one network namespace.
    pub fn numbered(number: u32) -> Self {
        Self(Some(number))
    }

    /// Its name.
    pub fn name(self) -> String {
        self.0.map_or_else(|| "vch".to_owned(), |number| format!("vch-{number}"))
    }
}

/// Everything the table follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which table.
    pub table: Table,
    /// The network that carries the tether.
    pub management: Management,
    /// Where the Docker endpoint listens on TCP; `0.0.0.0` and `::` are every address. None of
    /// our bridges reaches it.
    pub endpoint: Vec<SocketAddr>,
    /// Every other bridge of ours.
    pub bridges: Vec<Bridge>,
    /// The published ports.
    pub published: Vec<Published>,
}

/// The management network: its guests reach one TCP port of the host and `ICMPv6`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Management {
    /// Its bridge.
    pub bridge: IfName,
    /// The host's address on it, with its subnet's length.
    pub address: Prefix,
    /// The port guests dial.
    pub port: u16,
}

/// A network's bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The interface.
    pub name: IfName,
    /// Its subnets, at most one of each family. Not looked at for an external network.
    pub subnets: Vec<Prefix>,
    /// What its containers may reach.
    pub kind: Kind,
}

/// What kind of network a bridge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary bridge network: out to everywhere but our other bridges, under the host's
    /// address; in through published ports.
    Nat,
    /// Nothing goes in or out.
    Internal,
    /// An administrator's link is on the bridge.
    External {
        /// Whether the host has an address on it: then it is the way out for the bridge networks
        /// and the way in for published ports.
        attached: bool,
    },
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Of which protocol.
    pub protocol: Protocol,
    /// On which of the host's addresses, `None` for all.
    pub host_address: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address and port.
    pub to: SocketAddr,
    /// The bridge the container is on.
    pub bridge: IfName,
}

/// Why the packet filter is not in place.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// There is no `nft`.
    #[error("cannot run nft: {0}; install it (Debian's package is nftables)")]
    Missing(std::io::Error),
    /// The kernel or `nft` refused.
    #[error("nft cannot {what}: {why}")]
    Refused {
        /// What was tried.
        what: String,
        /// What `nft` said, in one line.
        why: String,
    },
}

/// The transaction that puts the table in place, whether or not there is one already.
pub fn ruleset(rules: &Rules) -> Nftables<'static> {
    let _ = rules;
    todo!()
}

/// Puts the table in place. Connections that go through it stay as they are.
pub async fn apply(rules: &Rules) -> Result<(), FirewallError> {
    let _ = ruleset(rules);
    todo!()
}

/// Removes the table, if there is one.
pub async fn remove(table: Table) -> Result<(), FirewallError> {
    let _ = table;
    todo!()
}
