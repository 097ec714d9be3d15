//! Which addresses are whose: subnets for new networks, addresses for containers.
//!
//! Pure: no clock, no kernel, no files. A [`Subnet`] is part of its network's record, which
//! somebody else keeps.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

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
        let large = (17..=31).map(|b| (Ipv4Addr::new(172, b, 0, 0), 16));
        let small = (0..=240).step_by(16).map(|c| (Ipv4Addr::new(192, 168, c, 0), 20));
        let mut all = large.chain(small).filter_map(|(address, length)| Prefix::new(address.into(), length));
        all.find(|pool| free_of(*pool, taken)).ok_or(IpamError::NoPool)
    }

    /// A /64 of a random unique local prefix (RFC 4193: `fd`, a random global id of 40 bits and a
    /// random subnet id of 16) that overlaps nothing in `taken`.
    pub fn next_v6(taken: &[Prefix]) -> Result<Prefix, IpamError> {
        // Who has taken half of everything is met by some other draw; who has taken all, is not.
        let mut draws = std::iter::repeat_with(rand::random::<u64>).take(64);
        draws
            .find_map(|random| Some(unique_local(random)).filter(|pool| free_of(*pool, taken)))
            .ok_or(IpamError::NoPool)
    }
}

/// `fd` and the lower 56 bits of `random`.
fn unique_local(random: u64) -> Prefix {
    let high = 0xfd << 56 | random & (u64::MAX >> 8);
    // The lower half of the address is the same prefix's host part.
    Prefix::new(Ipv6Addr::from_bits(u128::from(high) << 64).into(), 64)
        .unwrap_or_else(|| unreachable!("64 is at most 128"))
}

fn free_of(pool: Prefix, taken: &[Prefix]) -> bool {
    !taken.iter().any(|other| overlaps(pool, *other))
}

/// A subnet of a network, and who holds which of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Record", into = "Record")]
#[expect(clippy::struct_field_names, reason = "it is the subnet's prefix, as Docker's IPAM names it")]
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
    /// the subnet.
    pub fn new(subnet: Prefix, ip_range: Option<Prefix>, gateway: Option<IpAddr>) -> Result<Self, IpamError> {
        let most = if subnet.address().is_ipv4() { 30 } else { 126 };
        if subnet.network() != subnet {
            return Err(IpamError::SubnetHostBits { subnet });
        }
        if subnet.length() == 0 || subnet.length() > most {
            return Err(IpamError::SubnetSize { subnet, most });
        }
        let hosts = hosts(subnet);
        let gateway = gateway.unwrap_or_else(|| address(subnet, *hosts.start()));
        if let Some(why) = wrong_gateway(subnet, gateway) {
            return Err(IpamError::Gateway { gateway, why });
        }
        if let Some((range, why)) = ip_range.and_then(|range| Some((range, wrong_range(subnet, range)?))) {
            return Err(IpamError::Range { range, why });
        }
        let (taken, holders) = Default::default();
        Ok(Self { subnet, gateway, ip_range, last: None, taken, holders })
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
        match (self.held_by(holder), wanted) {
            (Some(held), None) => return Ok(held),
            (Some(held), Some(wanted)) if held == wanted => return Ok(held),
            (Some(address), Some(_)) => return Err(IpamError::Holds { holder: holder.to_owned(), address }),
            (None, _) => {}
        }
        let given = match wanted {
            Some(wanted) if !self.subnet.contains(wanted) => return Err(IpamError::Outside(wanted)),
            Some(wanted) if !self.is_free(wanted) => return Err(IpamError::InUse),
            Some(wanted) => wanted,
            None => {
                let ipv6 = self.subnet.address().is_ipv6();
                *self.last.insert(self.next_free().ok_or(IpamError::Exhausted { ipv6 })?)
            }
        };
        self.taken.insert(given, holder.to_owned());
        self.holders.insert(holder.to_owned(), given);
        Ok(given)
    }

    fn is_free(&self, address: IpAddr) -> bool {
        hosts(self.subnet).contains(&number(address))
            && address != self.gateway
            && !self.taken.contains_key(&address)
    }

    /// The first free address after the last one, or else the first of all.
    fn next_free(&self) -> Option<IpAddr> {
        let hosts = hosts(self.subnet);
        let range = self.ip_range.unwrap_or(self.subnet);
        let first = number(range.address()).max(*hosts.start());
        let end = number(range.last()).min(*hosts.end());
        let last = self.last.map(number).filter(|last| (first..=end).contains(last));
        let Some(last) = last else { return self.free_in(first, end) };
        // `last` is below `u128::MAX` or the range's end, after which nothing is to be looked for.
        last.checked_add(1).and_then(|next| self.free_in(next, end)).or_else(|| self.free_in(first, last))
    }

    /// Looks at each taken address from `first` on only until one is missing.
    fn free_in(&self, first: u128, end: u128) -> Option<IpAddr> {
        if first > end {
            return None;
        }
        let [from, to] = [first, end].map(|number| address(self.subnet, number));
        let mut taken = self.taken.range(from..=to).map(|(address, _)| *address).peekable();
        (first..=end)
            .map(|number| address(self.subnet, number))
            .find(|candidate| taken.next_if_eq(candidate).is_none() && *candidate != self.gateway)
    }

    /// Takes back what `holder` has, and says what that was.
    pub fn release(&mut self, holder: &str) -> Option<IpAddr> {
        let address = self.holders.remove(holder)?;
        self.taken.remove(&address);
        Some(address)
    }
}

/// The addresses a container or the gateway may have: not the network's own (for IPv6 that of
/// any of its routers, RFC 4291 section 2.6.1) and not the broadcast address.
fn hosts(subnet: Prefix) -> RangeInclusive<u128> {
    let broadcast = u128::from(subnet.address().is_ipv4());
    number(subnet.address()) + 1..=number(subnet.last()) - broadcast
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address with this number, of the subnet's family.
fn address(subnet: Prefix, number: u128) -> IpAddr {
    match subnet.address() {
        // A number inside an IPv4 subnet has no more bits than that.
        #[expect(clippy::cast_possible_truncation, reason = "only numbers of addresses come here")]
        IpAddr::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

fn family(prefix: Prefix) -> &'static str {
    if prefix.address().is_ipv4() { "IPv4" } else { "IPv6" }
}

fn wrong_gateway(subnet: Prefix, gateway: IpAddr) -> Option<String> {
    if gateway.is_ipv4() != subnet.address().is_ipv4() {
        return Some(format!("parent subnet is an {} block", family(subnet)));
    }
    if !subnet.contains(gateway) {
        return Some(format!("parent subnet {subnet} doesn't contain this address"));
    }
    let own = if gateway == subnet.address() { "network" } else { "broadcast" };
    (!hosts(subnet).contains(&number(gateway)))
        .then(|| format!("it is the {own} address of {subnet}: write another one"))
}

fn wrong_range(subnet: Prefix, range: Prefix) -> Option<String> {
    if range.address().is_ipv4() != subnet.address().is_ipv4() {
        Some(format!("parent subnet is an {} block", family(subnet)))
    } else if range.length() < subnet.length() {
        Some(format!("CIDR block is bigger than its parent subnet {subnet}"))
    } else if range.network() != range {
        Some(format!("it should be {}", range.network()))
    } else if !subnet.contains(range.address()) {
        Some(format!("parent subnet {subnet} doesn't contain ip-range"))
    } else {
        None
    }
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn subnet(text: &str) -> Subnet {
        Subnet::new(prefix(text), None, None).unwrap()
    }

    #[test]
    fn pools_are_dockers_in_order() {
        let mut taken = Vec::new();
        while let Ok(pool) = Pools::next(&taken) {
            taken.push(pool);
        }
        let names: Vec<_> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), 31);
        assert_eq!(names[0], "172.17.0.0/16");
        assert_eq!(names[14..16], ["172.31.0.0/16", "192.168.0.0/20"]);
        assert_eq!(names[30], "192.168.240.0/20");
        assert_eq!(Pools::next(&taken), Err(IpamError::NoPool));
        let next = |taken: &[&str]| {
            Pools::next(&taken.iter().map(|text| prefix(text)).collect::<Vec<_>>()).unwrap().to_string()
        };
        assert_eq!(next(&["172.17.5.1/24", "fd00::/8"]), "172.18.0.0/16");
        assert_eq!(next(&["172.16.0.0/12", "192.168.0.1/24"]), "192.168.16.0/20");
    }

    #[test]
    fn pools_of_ipv6_are_unique_local() {
        let pool = Pools::next_v6(&[]).unwrap();
        assert!(prefix("fd00::/8").contains(pool.address()) && pool.length() == 64);
        assert_eq!(pool.network(), pool);
        assert_eq!(Pools::next_v6(&[prefix("fc00::/7")]), Err(IpamError::NoPool));
        assert_eq!(unique_local(u64::MAX).to_string(), "fdff:ffff:ffff:ffff::/64");
    }

    #[test]
    fn what_a_creator_may_not_ask_for() {
        for (wanted, range, gateway, says) in [
            ("172.18.0.1/16", "", "", "invalid subnet 172.18.0.1/16: it should be 172.18.0.0/16"),
            ("172.18.0.0/31", "", "", "1 to 30"),
            ("172.18.0.0/32", "", "", "1 to 30"),
            ("0.0.0.0/0", "", "", "1 to 30"),
            ("fd00::/127", "", "", "1 to 126"),
            ("172.18.0.0/16", "", "172.19.0.1", "172.18.0.0/16 doesn't contain this address"),
            ("172.18.0.0/16", "", "fd00::1", "parent subnet is an IPv4 block"),
            ("172.18.0.0/16", "", "172.18.0.0", "the network address"),
            ("172.18.0.0/16", "", "172.18.255.255", "the broadcast address"),
            ("fd00::/64", "", "fd00::", "the network address"),
            ("172.18.0.0/16", "172.18.0.0/12", "", "bigger than its parent subnet 172.18.0.0/16"),
            ("172.18.0.0/16", "172.18.5.1/24", "", "it should be 172.18.5.0/24"),
            ("172.18.0.0/16", "172.19.5.0/24", "", "doesn't contain ip-range"),
            ("172.18.0.0/16", "fd00::/120", "", "parent subnet is an IPv4 block"),
        ] {
            let error = Subnet::new(prefix(wanted), range.parse().ok(), gateway.parse().ok()).unwrap_err();
            assert!(error.to_string().contains(says), "{wanted} {range} {gateway}: {error}");
        }
    }

    #[test]
    fn addresses_go_round() {
        let mut net = subnet("172.18.0.0/29");
        assert_eq!(net.gateway(), ip("172.18.0.1"));
        for (holder, address) in [("a", 2), ("b", 3), ("c", 4)] {
            assert_eq!(net.reserve(holder, None), Ok(IpAddr::from([172, 18, 0, address])));
        }
        assert_eq!(net.reserve("a", None), Ok(ip("172.18.0.2")), "it keeps what it has");
        let held = IpamError::Holds { holder: "a".to_owned(), address: ip("172.18.0.2") };
        assert_eq!(net.reserve("a", Some(ip("172.18.0.6"))), Err(held));
        assert_eq!(net.release("b"), Some(ip("172.18.0.3")));
        assert_eq!(net.release("b"), None);
        assert_eq!(net.reserve("b", None), Ok(ip("172.18.0.5")), "not the one that was just left");
        assert_eq!(net.reserve("d", None), Ok(ip("172.18.0.6")));
        assert_eq!(net.reserve("e", None), Ok(ip("172.18.0.3")));
        let error = net.reserve("f", None).unwrap_err();
        assert_eq!(error.to_string(), "no available IPv4 addresses on this network's address pools");
    }

    #[test]
    fn wanted_addresses() {
        let mut net = subnet("172.18.0.0/16");
        assert_eq!(net.reserve("a", Some(ip("172.18.9.9"))), Ok(ip("172.18.9.9")));
        assert_eq!(net.reserve("b", None), Ok(ip("172.18.0.2")));
        for address in ["172.18.9.9", "172.18.0.1", "172.18.0.0", "172.18.255.255"] {
            let error = net.reserve("c", Some(ip(address))).unwrap_err();
            assert_eq!(error.to_string(), "Address already in use", "{address}");
        }
        let error = net.reserve("c", Some(ip("10.0.0.1"))).unwrap_err().to_string();
        let says = "invalid address 10.0.0.1: It does not belong to any of this network's subnets";
        assert_eq!(error, says);
    }

    #[test]
    fn a_range_is_for_those_who_want_nothing() {
        let range = prefix("172.18.5.0/30");
        let mut net = Subnet::new(prefix("172.18.0.0/16"), Some(range), Some(ip("172.18.5.2"))).unwrap();
        assert_eq!(net.reserve("out", Some(ip("172.18.7.7"))), Ok(ip("172.18.7.7")));
        for (holder, address) in [("a", "172.18.5.0"), ("b", "172.18.5.1"), ("c", "172.18.5.3")] {
            assert_eq!(net.reserve(holder, None), Ok(ip(address)));
        }
        assert_eq!(net.reserve("d", None), Err(IpamError::Exhausted { ipv6: false }));
        // A range at the subnet's edge does not give the edge itself.
        let mut edge = Subnet::new(prefix("10.0.0.0/24"), Some(prefix("10.0.0.252/30")), None).unwrap();
        let given = std::iter::from_fn(|| edge.reserve(&rand::random::<u64>().to_string(), None).ok());
        assert_eq!(given.last(), Some(ip("10.0.0.254")));
    }

    #[test]
    fn large_subnets_take_no_time() {
        let began = Instant::now();
        let mut net = subnet("172.18.0.0/16");
        for n in 0..65_533 {
            net.reserve(&n.to_string(), None).unwrap();
        }
        assert_eq!(net.reserve("more", None), Err(IpamError::Exhausted { ipv6: false }));
        let mut net = subnet("fd00::/64");
        for n in 0..10_000 {
            net.reserve(&n.to_string(), None).unwrap();
        }
        let mut whole = subnet("8000::/1");
        assert_eq!(
            whole.reserve("last", Some(Ipv6Addr::from_bits(u128::MAX).into())).unwrap().to_string().len(),
            39
        );
        whole.last = Some(Ipv6Addr::from_bits(u128::MAX).into());
        assert_eq!(whole.reserve("a", None), Ok(ip("8000::2")));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[test]
    fn a_record_is_read_as_it_was_written_or_refused() {
        let mut net = Subnet::new(prefix("172.18.0.0/16"), Some(prefix("172.18.5.0/24")), None).unwrap();
        net.reserve("a", None).unwrap();
        net.reserve("b", Some(ip("172.18.0.9"))).unwrap();
        let text = serde_json::to_string(&net).unwrap();
        assert_eq!(serde_json::from_str::<Subnet>(&text).unwrap(), net);
        let twice = text.replace(r#""b""#, r#""a""#);
        assert!(serde_json::from_str::<Subnet>(&twice).unwrap_err().to_string().contains("has 172.18"));
    }

    proptest! {
        #[test]
        fn an_address_has_one_holder_and_all_are_given(
            length in 26_u8..=30,
            steps in proptest::collection::vec((0_u8..80, proptest::option::of(0_u8..70)), 0..300),
        ) {
            let parent = Prefix::new(ip("10.0.0.0"), length).unwrap();
            let mut net = Subnet::new(parent, None, None).unwrap();
            let room = (1_usize << (32 - length)) - 3;
            let mut model: BTreeMap<String, IpAddr> = BTreeMap::new();
            for (holder, wanted) in steps {
                let holder = holder.to_string();
                if model.contains_key(&holder) {
                    prop_assert_eq!(net.release(&holder), model.remove(&holder));
                    continue;
                }
                let wanted = wanted.map(|n| IpAddr::from([10, 0, 0, n]));
                let full = model.len() == room;
                match net.reserve(&holder, wanted) {
                    Ok(given) => {
                        prop_assert!(wanted.is_none_or(|wanted| wanted == given));
                        prop_assert!(parent.contains(given) && given != net.gateway());
                        prop_assert!(given != parent.address() && given != parent.last());
                        prop_assert!(!model.values().any(|other| *other == given));
                        model.insert(holder, given);
                    }
                    Err(error) => {
                        prop_assert_eq!(full && wanted.is_none(), matches!(error, IpamError::Exhausted { .. }));
                        prop_assert!(full || wanted.is_some());
                    }
                }
                prop_assert_eq!(net.taken().len(), model.len());
            }
        }

        #[test]
        fn overlapping_is_mutual(a in any::<u32>(), b in any::<u32>(), m in 1_u8..=32, n in 1_u8..=32) {
            let [a, b] = [(a, m), (b, n)].map(|(bits, length)| {
                Prefix::new(Ipv4Addr::from_bits(bits).into(), length).unwrap().network()
            });
            prop_assert_eq!(overlaps(a, b), overlaps(b, a));
            let shared = number(a.address()).max(number(b.address())) <= number(a.last()).min(number(b.last()));
            prop_assert_eq!(overlaps(a, b), shared);
        }
    }
}
