//! The host's packet filter: one nftables table, made anew and put in place in one transaction.
//!
//! Only packets from or to the host's own bridges, and those to published ports, are judged:
//! every chain's policy is to accept. Other tables are never read or changed. What a rule is made
//! of are numbers, addresses and interface names, never anybody's text.

mod table;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nftables::{
    helper::{self, NftablesError},
    schema::Nftables,
};
use tether_wire::value::{IfName, Prefix};
use tokio::{task::spawn_blocking, time::timeout};

pub use crate::reserved::Protocol;

/// How long `nft` may take over a transaction.
const DEADLINE: Duration = Duration::from_secs(30);
/// The most of what `nft` says that is passed on.
const SHOWN: usize = 300;

/// Everything the table follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
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
    /// A bridge's name means something else to `nft`.
    #[error("the firewall cannot name the bridge {0}: use letters, digits, '_', '.' and '-' only")]
    Name(IfName),
    /// The kernel or `nft` refused.
    #[error("nft cannot {what}: {why}; vch needs CAP_NET_ADMIN in its network namespace")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What `nft` said, in one line.
        why: String,
    },
}

/// The transaction that puts the table in place, whether or not there is one already.
pub fn ruleset(rules: &Rules) -> Nftables<'static> {
    table::ruleset(rules)
}

/// Puts the table in place. Connections that go through it stay as they are.
pub async fn apply(rules: &Rules) -> Result<(), FirewallError> {
    let bridges = rules.bridges.iter().map(|bridge| &bridge.name);
    for name in bridges.chain([&rules.management.bridge]) {
        // `nft` reads `@x` as a set, `x*` as everything that begins with x.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if !name.as_str().bytes().all(plain) {
            return Err(FirewallError::Name(name.clone()));
        }
    }
    run("put its table in place", ruleset(rules)).await
}

/// Removes the table, if there is one.
pub async fn remove() -> Result<(), FirewallError> {
    run("remove its table", table::removal()).await
}

async fn run(what: &'static str, transaction: Nftables<'static>) -> Result<(), FirewallError> {
    let run = move || helper::apply_ruleset(&transaction);
    let failed = |why: String| FirewallError::Refused { what, why };
    let Some(done) = timeout(DEADLINE, spawn_blocking(run)).await.ok() else {
        return Err(failed(format!("it did not end in {} s", DEADLINE.as_secs())));
    };
    match done.map_err(|error| failed(error.to_string()))? {
        Err(NftablesError::NftExecution { inner, .. }) => Err(FirewallError::Missing(inner)),
        Err(NftablesError::NftFailed { stderr, stdout, .. }) => {
            // Errors come first, each with the whole transaction quoted after it.
            let said = [&stderr, &stdout].into_iter().flat_map(|text| text.lines());
            let first = said.map(str::trim).find(|line| !line.is_empty()).unwrap_or("it does not say why");
            Err(failed(first.chars().take(SHOWN).collect()))
        }
        other => other.map_err(|error| failed(error.to_string())),
    }
}
