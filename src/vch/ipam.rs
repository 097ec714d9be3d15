//! Which addresses are whose: subnets for new networks, addresses for containers.
//!
//! Pure: no clock, no kernel, no files. A [`Subnet`] is part of its network's record, which
//! somebody else keeps.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use tether_wire::value::Prefix;

/// Why there is no subnet or no address. The words are Docker's where it has any.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Every default pool overlaps something.
    #[error(
        "all predefined address pools have been fully subnetted: remove networks that are not used, \
         or name a subnet with --subnet"
    )]
    NoPool,
    /// The subnet has bits after the prefix.
    #[error("invalid subnet {subnet}: it should be {}", .subnet.network())]
    SubnetHostBits {
        /// As it was written.
        subnet: Prefix,
    },
    /// There is no room for a gateway and a container.
    #[error("invalid subnet {subnet}: write a prefix of 1 to {most}, with room for a gateway and containers")]
    SubnetSize {
        /// As it was written.
        subnet: Prefix,
        /// The longest prefix of its family.
        most: u8,
    },
    /// The gateway is not one of the subnet's hosts.
    #[error("invalid gateway {gateway}: {why}")]
    Gateway {
        /// As it was written.
        gateway: IpAddr,
        /// What is wrong.
        why: String,
    },
    /// The range is not part of the subnet.
    #[error("invalid ip-range {range}: {why}")]
    Range {
        /// As it was written.
        range: Prefix,
        /// What is wrong.
        why: String,
    },
    /// Another network or link has addresses of this subnet.
    #[error("invalid pool request: Pool overlaps with other one on this address space")]
    Overlaps,
    /// The wanted address is somebody's: a container's, the gateway's, the network's own.
    #[error("Address already in use")]
    InUse,
    /// The holder has another address of this subnet.
    #[error("{holder} has {address} already: disconnect it from the network first")]
    Holds {
        /// Who.
        holder: String,
        /// What it has.
        address: IpAddr,
    },
    /// The wanted address is in none of the network's subnets.
    #[error("invalid address {0}: It does not belong to any of this network's subnets")]
    Outside(IpAddr),
    /// Nothing is free.
    #[error("no available {} addresses on this network's address pools", if *.ipv6 { "IPv6" } else { "IPv4" })]
    Exhausted {
        /// Of which family.
        ipv6: bool,
    },
}

/// Whether two prefixes have an address in common.
pub fn overlaps(a: Prefix, b: Prefix) -> bool {
    a.contains(b.address()) || b.contains(a.address())
}

/// Subnets for networks whose creator names none.
#[derive(Clone, Copy, Debug)]
pub struct Pools;

impl Pools {
    /// The first of Docker's default subnets, 172.17.0.0/16 to 172.31.0.0/16 and then
    /// 192.168.0.0/20 to 192.168.240.0/20, that overlaps nothing in `taken`.
    pub fn next(taken: &[Prefix]) -> Result<Prefix, IpamError> {
        let _ = taken;
        todo!()
    }

    /// A /64 of a random unique local prefix (RFC 4193: `fd`, a random global id of 40 bits and a
    /// random subnet id of 16) that overlaps nothing in `taken`.
    pub fn next_v6(taken: &[Prefix]) -> Result<Prefix, IpamError> {
        let _ = taken;
        todo!()
    }
}

/// A subnet of a network, and who holds which of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Record", into = "Record")]
pub struct Subnet {
    subnet: Prefix,
    gateway: IpAddr,
    ip_range: Option<Prefix>,
    /// The address that was given out last, the gateway at first.
    last: Option<IpAddr>,
    taken: BTreeMap<IpAddr, String>,
    /// `taken` the other way round.
    holders: BTreeMap<String, IpAddr>,
}

impl Subnet {
    /// Checks what a network's creator asked for. Without a gateway it is the first address of
    /// the subnet, or of the range when there is one.
    pub fn new(subnet: Prefix, ip_range: Option<Prefix>, gateway: Option<IpAddr>) -> Result<Self, IpamError> {
        let _ = (subnet, ip_range, gateway);
        todo!()
    }

    /// The subnet.
    pub fn subnet(&self) -> Prefix {
        self.subnet
    }

    /// The host's own address on it, which containers have as their gateway.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Where addresses nobody asked for come from, if not from the whole subnet.
    pub fn ip_range(&self) -> Option<Prefix> {
        self.ip_range
    }

    /// Who holds which address.
    pub fn taken(&self) -> &BTreeMap<IpAddr, String> {
        &self.taken
    }

    /// The address of this holder.
    pub fn held_by(&self, holder: &str) -> Option<IpAddr> {
        self.holders.get(holder).copied()
    }

    /// Gives `holder` the wanted address, or the first free one after the one that was given out
    /// last, round and round: an address is not given again while a neighbour may still have its
    /// last holder's MAC address. A holder that has an address keeps it.
    pub fn reserve(&mut self, holder: &str, wanted: Option<IpAddr>) -> Result<IpAddr, IpamError> {
        let _ = (holder, wanted);
        todo!()
    }

    /// Takes back what `holder` has, and says what that was.
    pub fn release(&mut self, holder: &str) -> Option<IpAddr> {
        let address = self.holders.remove(holder)?;
        self.taken.remove(&address);
        Some(address)
    }
}

/// The subnet among a network's subnets that has the address.
pub fn subnet_of(subnets: &mut [Subnet], address: IpAddr) -> Result<&mut Subnet, IpamError> {
    let found = subnets.iter_mut().find(|subnet| subnet.subnet.contains(address));
    found.ok_or(IpamError::Outside(address))
}

/// A subnet as it is stored.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    subnet: String,
    gateway: IpAddr,
    ip_range: Option<String>,
    last: Option<IpAddr>,
    taken: BTreeMap<IpAddr, String>,
}

impl From<Subnet> for Record {
    fn from(subnet: Subnet) -> Self {
        Self {
            subnet: subnet.subnet.to_string(),
            gateway: subnet.gateway,
            ip_range: subnet.ip_range.map(|range| range.to_string()),
            last: subnet.last,
            taken: subnet.taken,
        }
    }
}

impl TryFrom<Record> for Subnet {
    type Error = String;

    fn try_from(record: Record) -> Result<Self, String> {
        let prefix = |text: &str| text.parse::<Prefix>().map_err(|error| error.to_string());
        let ip_range = record.ip_range.as_deref().map(prefix).transpose()?;
        let made = Self::new(prefix(&record.subnet)?, ip_range, Some(record.gateway));
        let mut subnet = made.map_err(|error| error.to_string())?;
        for (address, holder) in record.taken {
            subnet.reserve(&holder, Some(address)).map_err(|error| format!("{address}: {error}"))?;
        }
        subnet.last = record.last.filter(|last| subnet.subnet.contains(*last));
        Ok(subnet)
    }
}
