//! Name tables, prepared for answers: names as they are in packets, folded to lower case, their
//! addresses beside them, sorted and none twice.
//!
//! Whole tables are made once; a change touches what it names and who shares that, so that a name
//! among 100,000 comes and goes as quickly as one among ten. It must not know packets or sockets.

mod domain;
mod holders;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use tether_wire::{
    names::{
        CheckedChange, CheckedEndpoint, CheckedNames, EndpointNames, MAX_ENDPOINTS, Port, Protocol, Sum,
        Summary,
    },
    status::Digest,
};

pub(crate) use domain::{MAX_NAME, fold, is_at_or_below, wire};
use domain::{labels, reversed};
pub(crate) use holders::{Addresses, Place};
use holders::{Few, Holders};

/// All names a guest may look up.
#[derive(Debug, Default)]
pub struct Names {
    /// What stands for all of it.
    summary: Summary,
    /// The networks by folded name: their places in search order.
    networks: HashMap<Box<[u8]>, usize>,
    /// Endpoints, links and extra hosts, by the number the maps know them by.
    entries: Vec<Option<Entry>>,
    /// Numbers that are free.
    free: Vec<u32>,
    /// By folded name.
    by_name: HashMap<Box<[u8]>, Holders>,
    /// Who has an address.
    by_address: HashMap<IpAddr, Few>,
}

/// An endpoint, a link or an extra host.
#[derive(Debug)]
struct Entry {
    place: Place,
    /// What tells it from others of its place.
    short: u64,
    /// Its first name, spelled as it was given.
    first: Box<[u8]>,
    addresses: Addresses,
    ports: Box<[Port]>,
}

/// A change that does not fit the tables: they are not what its sender takes them for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap;

/// A change to tables, ready to be made.
#[derive(Debug)]
pub(crate) struct Steps<'c> {
    summary: Summary,
    removed: Vec<(u32, &'c EndpointNames)>,
    added: Vec<(Place, &'c CheckedEndpoint)>,
}

/// What the tables know of a name.
#[derive(Debug)]
pub(crate) enum Found<'t> {
    /// Somebody has it.
    Name(&'t Addresses),
    /// It is an address's, and this is the answer, spelled as it was given, without the root.
    Pointer(&'t [u8]),
    /// It is a service of somebody's.
    Service {
        /// Its ports, each once; none when nobody offers it.
        ports: Vec<u16>,
        /// Where the somebody's name begins in the name asked for.
        host_at: u8,
        /// The somebody's addresses.
        addresses: &'t Addresses,
    },
    /// Nobody has it, and it is a network's own name, below which there may be others.
    Network,
    /// Nobody has it, and it is below a network's own name.
    BelowNetwork,
    /// It is nothing of ours.
    Foreign,
}

impl Names {
    /// Prepares checked tables.
    pub fn new(checked: &CheckedNames) -> Self {
        let mut names = Self {
            summary: checked.summary.clone(),
            networks: (checked.networks.iter().enumerate())
                .map(|(n, network)| (wire(&network.network, true), n))
                .collect(),
            ..Self::default()
        };
        let mut touched = Vec::new();
        checked.hosts.iter().for_each(|host| names.add(Place::HOSTS, host, &mut touched));
        for (n, network) in checked.networks.iter().enumerate() {
            let (links, endpoints) = (Place::links_of(n), names.endpoints_of(n));
            network.links.iter().for_each(|link| names.add(links, link, &mut touched));
            network.endpoints.iter().for_each(|endpoint| names.add(endpoints, endpoint, &mut touched));
        }
        names.settle(touched);
        names
    }

    /// Their digest.
    pub fn digest(&self) -> Digest {
        self.summary.digest()
    }

    /// The time to live of every answer, in seconds.
    pub(crate) fn ttl(&self) -> u32 {
        self.summary.ttl_seconds
    }

    /// Makes these changes if they lead to tables of this digest, and none of them otherwise: both
    /// halves at once, where nobody looks names up meanwhile.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn change(&mut self, changes: &[CheckedChange], digest: &Digest) -> Result<(), Gap> {
        let steps = self.steps(changes, digest)?;
        self.step(steps);
        Ok(())
    }

    /// What these changes come to, if they lead to tables of this digest. Nothing is changed: names
    /// may be looked up meanwhile.
    pub(crate) fn steps<'c>(&self, changes: &'c [CheckedChange], digest: &Digest) -> Result<Steps<'c>, Gap> {
        let mut summary = self.summary.clone();
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        let mut taken = HashSet::new();
        for change in changes {
            let n = self.summary.networks.iter().position(|(name, ..)| *name == change.network).ok_or(Gap)?;
            let (_, links, endpoints) = summary.networks.get_mut(n).ok_or(Gap)?;
            for (place, sum, goes, comes) in [
                (Place::links_of(n), links, &change.links_removed, &change.links_added),
                (self.endpoints_of(n), endpoints, &change.removed, &change.added),
            ] {
                for entry in goes {
                    let its = Sum::of(entry);
                    let number = self.find_entry(place, entry, its.short(), &taken).ok_or(Gap)?;
                    taken.insert(number);
                    removed.push((number, entry));
                    sum.subtract(its);
                }
                for entry in comes {
                    sum.add(entry.sum);
                    added.push((place, entry));
                }
            }
        }
        let count = self.entries.len() - self.free.len() - removed.len() + added.len();
        if summary.digest() != *digest || count > MAX_ENDPOINTS {
            return Err(Gap);
        }
        Ok(Steps { summary, removed, added })
    }

    /// Takes steps that were found on these very tables.
    pub(crate) fn step(&mut self, Steps { summary, removed, added }: Steps<'_>) {
        let mut touched = Vec::new();
        for (number, names) in removed {
            self.remove(number, names, &mut touched);
        }
        for (place, entry) in added {
            self.add(place, entry, &mut touched);
        }
        self.settle(touched);
        self.summary = summary;
    }

    /// What is known of a name, folded, without its root.
    pub(crate) fn find(&self, name: &[u8]) -> Found<'_> {
        if let Some(addresses) = self.addresses(name) {
            return Found::Name(addresses);
        }
        if let Some(address) = reversed(name) {
            return self.pointer(address).map_or(Found::Foreign, Found::Pointer);
        }
        if let Some(service) = self.service(name) {
            return service;
        }
        if self.networks.contains_key(name) {
            return Found::Network;
        }
        let below = labels(name).any(|at| self.networks.contains_key(&name[at..]));
        if below { Found::BelowNetwork } else { Found::Foreign }
    }

    /// The addresses of `name`: the first place that has it, or `name.network`. Names of more
    /// parts are tried whole first, because Docker's names may have dots.
    fn addresses(&self, name: &[u8]) -> Option<&Addresses> {
        self.holders(name).map(|(_, addresses)| addresses)
    }

    /// Who has `name` in the first place that has it, and their addresses.
    fn holders(&self, name: &[u8]) -> Option<(Members<'_>, &Addresses)> {
        if let Some(holders) = self.by_name.get(name) {
            return self.in_place(holders, None);
        }
        for at in labels(name) {
            let Some(&n) = self.networks.get(&name[at..]) else { continue };
            if let Some(holders) = self.by_name.get(&name[..at]) {
                let in_place = |place| self.in_place(holders, Some(place));
                let there = in_place(Place::links_of(n)).or_else(|| in_place(self.endpoints_of(n)));
                if there.is_some() {
                    return there;
                }
            }
        }
        None
    }

    fn in_place<'t>(
        &'t self,
        holders: &'t Holders,
        place: Option<Place>,
    ) -> Option<(Members<'t>, &'t Addresses)> {
        match holders {
            Holders::One(number) => {
                let entry = self.entry(*number)?;
                let fits = place.is_none_or(|place| entry.place == place);
                fits.then_some((Members(std::slice::from_ref(number)), &entry.addresses))
            }
            Holders::Many(groups) => {
                let fits = |group: &&holders::Group| place.is_none_or(|place| group.place == place);
                groups.iter().find(fits).map(|group| (Members(&group.members), &group.addresses))
            }
        }
    }

    /// The ports of `_port._protocol.name` or `_service._protocol.name` (RFC 2782), and the name's
    /// addresses. `None` where nobody has the name: what is below a name of ours is ours, and a
    /// service nobody offers is no question for others.
    fn service(&self, name: &[u8]) -> Option<Found<'_>> {
        let (service, rest) = label(name)?;
        let (protocol, host) = label(rest)?;
        let (service, protocol) = (service.strip_prefix(b"_")?, protocol.strip_prefix(b"_")?);
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|known| known.as_str().as_bytes() == protocol)?;
        let (Members(members), addresses) = self.holders(host)?;
        // Written as every number is: no sign, and no zero in front.
        let plain = service.iter().all(u8::is_ascii_digit) && service.first() != Some(&b'0');
        let number = std::str::from_utf8(service).ok().filter(|_| plain).and_then(|text| text.parse().ok());
        let is_it = |port: &&Port| {
            let called =
                || port.name.as_ref().is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(service));
            port.protocol == protocol && (number == Some(port.number) || called())
        };
        let entries = members.iter().filter_map(|number| self.entry(*number));
        let mut ports: Vec<u16> =
            entries.flat_map(|entry| &*entry.ports).filter(is_it).map(|port| port.number).collect();
        ports.sort_unstable();
        ports.dedup();
        let host_at = u8::try_from(name.len() - host.len()).ok()?;
        Some(Found::Service { ports, host_at, addresses })
    }

    /// The one name an address leads back to, bare: `name.network` broke Kerberos (moby#26298).
    /// Networks come before links and extra hosts, whose names are another's only for this guest.
    fn pointer(&self, address: IpAddr) -> Option<&[u8]> {
        let entries =
            self.by_address.get(&address)?.as_slice().iter().filter_map(|number| self.entry(*number));
        let first_network = self.endpoints_of(0);
        let entry = entries.min_by_key(|entry| (entry.place < first_network, entry.place, &entry.first))?;
        Some(&entry.first)
    }

    fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number as usize)?.as_ref()
    }

    /// Where a network's endpoints are: behind everybody's links.
    fn endpoints_of(&self, network: usize) -> Place {
        Place::links_of(self.networks.len() + network)
    }

    /// The number of an entry, which is none of those in `taken`.
    fn find_entry(
        &self,
        place: Place,
        names: &EndpointNames,
        short: u64,
        taken: &HashSet<u32>,
    ) -> Option<u32> {
        let is_it = |number: &u32| {
            let entry = self.entry(*number);
            entry.is_some_and(|entry| entry.place == place && entry.short == short) && !taken.contains(number)
        };
        let holders = self.by_name.get(&*wire(names.names.first()?, true))?;
        holders.numbers().into_iter().find(is_it)
    }

    /// Adds an entry. The names it touches have to be settled.
    fn add(&mut self, place: Place, endpoint: &CheckedEndpoint, touched: &mut Vec<Box<[u8]>>) {
        let entry = Entry {
            place,
            short: endpoint.sum.short(),
            first: endpoint.names.first().map(|name| wire(name, false)).unwrap_or_default(),
            addresses: Addresses::of(endpoint.addresses.iter().copied()),
            ports: endpoint.ports.clone().into(),
        };
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        for name in &endpoint.names {
            let name = wire(name, true);
            match self.by_name.get_mut(&name) {
                None => {
                    self.by_name.insert(name, Holders::One(number));
                }
                // The same name twice, in other cases perhaps.
                Some(Holders::One(only)) if *only == number => {}
                Some(holders) => {
                    holders
                        .add(number, place, |other| self.entries[other as usize].as_ref().map(|e| e.place));
                    touched.push(name);
                }
            }
        }
        for address in entry.addresses.all() {
            self.by_address.entry(address).and_modify(|few| few.add(number)).or_insert(Few::One(number));
        }
        self.entries[number as usize] = Some(entry);
    }

    /// Removes an entry. The names it touches have to be settled.
    fn remove(&mut self, number: u32, names: &EndpointNames, touched: &mut Vec<Box<[u8]>>) {
        let Some(entry) = self.entries.get_mut(number as usize).and_then(Option::take) else {
            return;
        };
        for name in &names.names {
            let name = wire(name, true);
            match self.by_name.get_mut(&name) {
                Some(Holders::One(only)) if *only == number => {
                    self.by_name.remove(&name);
                }
                Some(holders) => {
                    holders.remove(number);
                    touched.push(name);
                }
                None => {}
            }
        }
        for address in entry.addresses.all() {
            if self.by_address.get_mut(&address).is_some_and(|few| !few.remove(number)) {
                self.by_address.remove(&address);
            }
        }
        self.free.push(number);
    }

    /// Gathers the addresses of shared names that have changed, each once however often it has.
    fn settle(&mut self, mut touched: Vec<Box<[u8]>>) {
        touched.sort_unstable();
        touched.dedup();
        for name in touched {
            let Some(holders) = self.by_name.get_mut(&name) else { continue };
            let entries = &self.entries;
            let settled = holders.settle(|number| {
                entries.get(number as usize).and_then(Option::as_ref).map(|entry| &entry.addresses)
            });
            if !settled {
                self.by_name.remove(&name);
            }
        }
    }
}

/// Numbers of entries.
#[derive(Clone, Copy, Debug)]
struct Members<'t>(&'t [u32]);

/// The first label of a name, without its length, and what follows.
fn label(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = name.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests;
