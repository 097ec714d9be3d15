//! Who else was heard to have an address.

use std::collections::{HashMap, HashSet};

use tether_wire::value::MacAddr;

use super::{Claim, Heard, Place};

/// How many are remembered: more than a machine has conflicts, and little memory.
const LIMIT: usize = 4096;

/// The addresses that are watched, and who was heard.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    watched: HashSet<Place>,
    heard: HashMap<Place, MacAddr>,
}

impl Rivals {
    /// These are watched now, and only these. What was heard about one stays known when it is no
    /// longer watched, until it is tried again: a failed detection ends the watch.
    pub(super) fn watch(&mut self, tentative: impl Iterator<Item = Place>) {
        let watched: HashSet<_> = tentative.collect();
        for place in watched.difference(&self.watched) {
            self.heard.remove(place);
        }
        self.watched = watched;
    }

    /// Takes note of somebody else's packet on `link`.
    pub(super) fn heard(&mut self, link: u32, heard: &Heard) {
        if self.watched.contains(&(link, heard.address)) {
            self.note((link, heard.address), heard.mac);
        }
    }

    /// Somebody else has it.
    pub(super) fn note(&mut self, place: Place, mac: MacAddr) {
        if self.heard.len() < LIMIT || self.heard.contains_key(&place) {
            self.heard.insert(place, mac);
        }
    }

    /// It is claimed anew: what was heard before may be over.
    pub(super) fn forget(&mut self, place: Place) {
        self.heard.remove(&place);
    }

    /// Who has it.
    pub(super) fn get(&self, place: Place) -> Option<MacAddr> {
        self.heard.get(&place).copied()
    }

    /// The links that are watched, one for each address.
    pub(super) fn links(&self) -> impl Iterator<Item = u32> {
        self.watched.iter().map(|(link, _)| *link)
    }
}

/// The addresses of those that the kernel's duplicate-address detection is about.
pub(super) fn detected(claims: &[Claim]) -> impl Iterator<Item = Place> {
    claims.iter().filter(|claim| claim.address.is_ipv6()).map(Claim::place)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::claim::Sign;

    fn mac(last: u8) -> MacAddr {
        MacAddr::from_bytes([2, 0, 0, 0, 0, last]).unwrap()
    }

    fn place(last: u16) -> Place {
        (7, Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into())
    }

    fn heard(last: u16) -> Heard {
        Heard { address: place(last).1, mac: mac(2), sign: Sign::Uses }
    }

    #[test]
    fn what_is_watched_is_known_until_it_is_tried_again() {
        let mut rivals = Rivals::default();
        rivals.watch([place(1), place(2)].into_iter());
        rivals.heard(7, &heard(1));
        rivals.heard(7, &heard(3));
        rivals.heard(8, &heard(2));
        assert_eq!(
            (rivals.get(place(1)), rivals.get(place(2)), rivals.get(place(3))),
            (Some(mac(2)), None, None)
        );
        rivals.watch([place(1)].into_iter());
        assert_eq!(rivals.get(place(1)), Some(mac(2)), "it is the same watch");
        rivals.watch([].into_iter());
        assert_eq!(rivals.get(place(1)), Some(mac(2)), "the detection has failed");
        rivals.watch([place(1)].into_iter());
        assert_eq!(rivals.get(place(1)), None, "a new detection");
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut rivals = Rivals::default();
        for last in 0..=u16::MAX {
            rivals.note(place(last), mac(2));
        }
        assert_eq!(rivals.heard.len(), LIMIT);
        rivals.note(place(0), mac(3));
        assert_eq!(rivals.get(place(0)), Some(mac(3)));
        rivals.forget(place(0));
        assert_eq!(rivals.get(place(0)), None);
    }
}
