//! Which link an interface of the document is.

use std::collections::HashMap;

use tether_wire::{
    check::{Desired, DesiredDevice},
    pci::PciPlace,
    problem::{Problem, Problems},
    value::{IfName, MacAddr},
};

use super::{Facts, Target};
use crate::plan::model::{KernelState, Link, LinkKind, PROTOCOL};

/// The index of each interface's link, `None` where it is left out. Links that are to be made
/// are put into the target under an index that is free, those that nobody wants any more are
/// taken out.
pub(super) fn find(
    desired: &Desired,
    observed: &KernelState,
    facts: Facts<'_>,
    target: &mut Target,
    problems: &mut Problems,
) -> Vec<Option<u32>> {
    target.state.links.retain(|link| !link.is_ours());
    let mut finder = Finder { desired, observed, facts, target, problems, found: HashMap::new() };
    for i in 0..desired.interfaces.len() {
        finder.find(i);
    }
    let found: Vec<Option<u32>> =
        (0..desired.interfaces.len()).map(|i| finder.found.get(&i).copied().flatten()).collect();
    refuse_one_device_twice(&found, problems);
    found
}

/// What is missing of the devices the document cannot do without: the first of them, for a
/// person.
pub fn missing(desired: &Desired, observed: &KernelState, facts: Facts<'_>) -> Option<String> {
    desired.interfaces.iter().filter(|interface| !interface.optional).find_map(|interface| {
        let DesiredDevice::Found { mac, pci, name } = &interface.device else { return None };
        let criteria = Criteria { mac: *mac, pci: pci.as_ref(), name: name.as_ref() };
        let there = observed.links.iter().any(|link| !link.is_ours() && criteria.fit(link, facts));
        (!there).then(|| criteria.to_string())
    })
}

/// Whether any device of the document is found by its place on the PCI bus.
pub fn needs_places(desired: &Desired) -> bool {
    let by_place = |device: &DesiredDevice| matches!(device, DesiredDevice::Found { pci: Some(_), .. });
    desired.interfaces.iter().any(|interface| by_place(&interface.device))
}

/// Whether the document has devices that tether makes.
pub fn makes_devices(desired: &Desired) -> bool {
    desired.interfaces.iter().any(|interface| !matches!(interface.device, DesiredDevice::Found { .. }))
}

struct Finder<'a> {
    desired: &'a Desired,
    observed: &'a KernelState,
    facts: Facts<'a>,
    target: &'a mut Target,
    problems: &'a mut Problems,
    found: HashMap<usize, Option<u32>>,
}

impl Finder<'_> {
    /// The link of interface `i`, a VLAN's parent's before its own.
    fn find(&mut self, i: usize) -> Option<u32> {
        if let Some(known) = self.found.get(&i) {
            return *known;
        }
        let wanted = &self.desired.interfaces[i];
        let link = match &wanted.device {
            DesiredDevice::Found { mac, pci, name } => {
                self.existing(i, &Criteria { mac: *mac, pci: pci.as_ref(), name: name.as_ref() })
            }
            DesiredDevice::Dummy => {
                Some(self.made(&wanted.name, LinkKind::Dummy, |link| link.name == wanted.name.as_str()))
            }
            // Parents were checked not to go round in circles.
            DesiredDevice::Vlan { parent, id } => self.find(*parent).map(|parent| {
                let kind = LinkKind::Vlan { parent, id: *id };
                self.made(&wanted.name, kind, |_| true)
            }),
        };
        self.found.insert(i, link);
        link
    }

    /// A device of the machine.
    fn existing(&mut self, i: usize, criteria: &Criteria<'_>) -> Option<u32> {
        let fits = |link: &&Link| !link.is_ours() && criteria.fit(link, self.facts);
        // Who had the name before tether came is meant by it, not who got it since.
        let was_called = |link: &&Link| {
            criteria.name.is_some() && self.facts.originals.name_of(link) != link.name && fits(link)
        };
        let renamed = self.observed.links.iter().any(|link| was_called(&link));
        let fits = |link: &&Link| if renamed { was_called(link) } else { fits(link) };
        let mut candidates = self.observed.links.iter().filter(fits);
        let path = format!("interfaces[{i}].match");
        match (candidates.next(), candidates.next()) {
            (Some(link), None) if self.is_management(link) => {
                let message = format!("{} is the management NIC, which carries the tether only", link.name);
                self.problems.add(path, message);
                None
            }
            (Some(_), None)
                if self.desired.interfaces[i].mac.is_some_and(|mac| Some(mac) == self.facts.management) =>
            {
                let path = format!("interfaces[{i}].mac");
                self.problems.add(path, "is that of the management NIC: write another");
                None
            }
            (Some(link), None) => Some(link.index),
            (None, _) if self.desired.interfaces[i].optional || self.facts.may_be_missing => {
                let message = format!("{criteria} is not there; configured when it appears");
                self.target.skipped.push(Problem::new(path, message));
                None
            }
            (None, _) => {
                let message =
                    format!("no interface is {criteria}; there are {}", list(self.observed.links.iter()));
                self.problems.add(path, message);
                None
            }
            (Some(_), Some(_)) => {
                let all = self.observed.links.iter().filter(fits);
                let message = format!("more than one interface is {criteria}: {}; say more of it", list(all));
                self.problems.add(path, message);
                None
            }
        }
    }

    fn is_management(&self, link: &Link) -> bool {
        self.facts.management.is_some() && [link.mac, link.permanent_mac].contains(&self.facts.management)
    }

    /// A device that tether makes, or has made. Its index is said when it is made, so that
    /// everything else about it can be said in the same breath.
    fn made(&mut self, name: &IfName, kind: LinkKind, same: impl Fn(&Link) -> bool) -> u32 {
        let there = self.observed.links.iter().find(|link| link.is_ours() && link.kind == kind && same(link));
        let link = there.cloned().unwrap_or_else(|| {
            let highest = |links: &[Link]| links.last().map_or(0, |link| link.index);
            let highest = highest(&self.observed.links).max(highest(&self.target.state.links));
            let is_used = |index: &u32| {
                self.observed.link(*index).is_some() || self.target.state.link(*index).is_some()
            };
            // The kernel's numbers end with i32::MAX.
            let next = highest.checked_add(1).filter(|next| i32::try_from(*next).is_ok());
            let index = next.or_else(|| (1..u32::MAX).find(|index| !is_used(index))).unwrap_or(u32::MAX);
            let name = name.as_str().to_owned();
            Link { index, name, kind, group: u32::from(PROTOCOL), ..Link::default() }
        });
        let index = link.index;
        let links = &mut self.target.state.links;
        let place = links.partition_point(|other| other.index < index);
        links.insert(place, link);
        index
    }
}

/// What a device has to be; all that is given.
struct Criteria<'a> {
    mac: Option<MacAddr>,
    pci: Option<&'a PciPlace>,
    name: Option<&'a IfName>,
}

impl Criteria<'_> {
    fn fit(&self, link: &Link, facts: Facts<'_>) -> bool {
        // A VLAN or a bridge has the address of what it is on, and is not what is meant by it.
        let is_device = matches!(link.kind, LinkKind::Device);
        let mac = |mac| is_device && link.permanent_mac.or_else(|| facts.originals.mac_of(link)) == Some(mac);
        let name = |name: &IfName| facts.originals.name_of(link) == name.as_str();
        self.mac.is_none_or(mac)
            && self.pci.is_none_or(|place| !link.pci.is_empty() && place.is_at(&link.pci))
            && self.name.is_none_or(name)
    }
}

impl std::fmt::Display for Criteria<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut and = "";
        if let Some(mac) = self.mac {
            write!(f, "{mac}")?;
            and = " and ";
        }
        if let Some(place) = self.pci {
            write!(f, "{and}at PCI {place}")?;
            and = " and ";
        }
        self.name.map_or(Ok(()), |name| write!(f, "{and}called {name}"))
    }
}

/// Links, for a person who has to choose one: the first eight that could be meant.
fn list<'a>(links: impl Iterator<Item = &'a Link>) -> String {
    let shown = |link: &Link| {
        let mac = link.permanent_mac.or(link.mac).map(|mac| mac.to_string());
        let pci = link.pci.last().map(|address| format!("PCI {address}"));
        let facts: Vec<String> = mac.into_iter().chain(pci).collect();
        if facts.is_empty() { link.name.clone() } else { format!("{} ({})", link.name, facts.join(", ")) }
    };
    let all: Vec<String> = links.filter(|link| link.kind != LinkKind::Loopback).take(8).map(shown).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn refuse_one_device_twice(found: &[Option<u32>], problems: &mut Problems) {
    let mut first = HashMap::new();
    for (i, link) in found.iter().enumerate() {
        let Some(link) = link else { continue };
        if let Some(other) = first.insert(*link, i) {
            problems.add(format!("interfaces[{i}].match"), format!("the same device as interfaces[{other}]"));
        }
    }
}
