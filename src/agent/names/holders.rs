//! Who has a name: in which place, under which addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a name is looked for: extra hosts, then the links of each network, then the endpoints of
/// each. Lower ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u32);

impl Place {
    /// The extra hosts.
    pub(crate) const HOSTS: Self = Self(0);

    /// The links of a network, by its number.
    pub(super) fn links_of(network: usize) -> Self {
        Self(u32::try_from(network).unwrap_or(u32::MAX).saturating_add(1))
    }
}

/// Addresses of both families, each sorted and none twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Box<[Ipv4Addr]>,
    pub(crate) v6: Box<[Ipv6Addr]>,
}

impl Addresses {
    /// These addresses, in order.
    pub(super) fn of(addresses: impl Iterator<Item = IpAddr>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        Self { v4: v4.into(), v6: v6.into() }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().map(|address| IpAddr::V4(*address));
        v4.chain(self.v6.iter().map(|address| IpAddr::V6(*address)))
    }
}

/// Numbers of entries: one, nearly always, which then takes no memory of its own.
#[derive(Debug)]
pub(super) enum Few {
    One(u32),
    // Rare, and so behind a pointer: it is the other that has to be small.
    #[expect(clippy::box_collection, reason = "a Vec would be half as large again in every one")]
    Many(Box<Vec<u32>>),
}

impl Few {
    pub(super) fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(number) => std::slice::from_ref(number),
            Self::Many(numbers) => numbers,
        }
    }

    /// One more.
    pub(super) fn add(&mut self, number: u32) {
        match self {
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, number])),
            Self::Many(numbers) => numbers.push(number),
        }
    }

    /// One less. `false` when none is left.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        match self {
            Self::One(only) => *only != number,
            Self::Many(numbers) => {
                numbers.retain(|other| *other != number);
                !numbers.is_empty()
            }
        }
    }
}

/// Who has a name, by the numbers of their entries.
#[derive(Debug)]
pub(super) enum Holders {
    /// One, as nearly always: the addresses are the entry's.
    One(u32),
    /// Several, in the order of their places.
    Many(Vec<Group>),
}

/// Those of one place who share a name.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) place: Place,
    pub(super) members: Vec<u32>,
    /// Everybody's, once settled.
    pub(super) addresses: Addresses,
}

impl Holders {
    /// All of them.
    pub(super) fn numbers(&self) -> Vec<u32> {
        match self {
            Self::One(number) => vec![*number],
            Self::Many(groups) => groups.iter().flat_map(|group| group.members.iter().copied()).collect(),
        }
    }

    /// One more. `place_of` knows the others' places.
    pub(super) fn add(&mut self, number: u32, place: Place, place_of: impl Fn(u32) -> Option<Place>) {
        if let Self::One(only) = *self {
            let place = place_of(only).unwrap_or(Place::HOSTS);
            *self = Self::Many(vec![Group { place, members: vec![only], addresses: Addresses::default() }]);
        }
        let Self::Many(groups) = self else { return };
        match groups.binary_search_by_key(&place, |group| group.place) {
            Ok(at) => {
                if groups[at].members.last() != Some(&number) {
                    groups[at].members.push(number);
                }
            }
            Err(at) => {
                groups.insert(at, Group { place, members: vec![number], addresses: Addresses::default() });
            }
        }
    }

    /// One less.
    pub(super) fn remove(&mut self, number: u32) {
        if let Self::Many(groups) = self {
            for group in groups.iter_mut() {
                group.members.retain(|member| *member != number);
            }
            groups.retain(|group| !group.members.is_empty());
        }
    }

    /// Gathers the addresses. `false` when nobody is left.
    pub(super) fn settle<'e>(&mut self, addresses_of: impl Fn(u32) -> Option<&'e Addresses>) -> bool {
        let Self::Many(groups) = self else { return true };
        if let [Group { members, .. }] = &groups[..]
            && let [only] = members[..]
        {
            *self = Self::One(only);
            return true;
        }
        for group in groups.iter_mut() {
            let members = group.members.iter().filter_map(|member| addresses_of(*member));
            group.addresses = Addresses::of(members.flat_map(Addresses::all));
        }
        !groups.is_empty()
    }
}
