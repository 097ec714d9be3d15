//! What links were like before tether changed them.
//!
//! A document says what is to be, not what is to be undone: what an earlier one set and the next
//! leaves out goes back to the value it had. So the same document leads to the same kernel,
//! whatever was in force before it.

use serde::{Deserialize, Serialize};
use tether_wire::value::MacAddr;

use super::{
    model::{KernelState, Link, LinkKind},
    setting::{Setting, Settings},
};

/// The values tether has changed on links that were there before it, as they were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Originals(Vec<Original>);

/// One link's. `None`: tether has not changed that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Original {
    index: u32,
    kind: LinkKind,
    permanent_mac: Option<MacAddr>,
    name: Option<String>,
    mac: Option<MacAddr>,
    mtu: Option<u32>,
    tx_queue_length: Option<u32>,
    up: Option<bool>,
    settings: Settings,
    /// Alternative names that tether has given it.
    added_names: Vec<String>,
    /// Alternative names that tether has taken, to give it as its name.
    removed_names: Vec<String>,
}

impl Original {
    /// Whether this is the link's own, and not that of one gone whose index it has.
    fn is_of(&self, link: &Link) -> bool {
        self.index == link.index && self.kind == link.kind && self.permanent_mac == link.permanent_mac
    }

    fn is_empty(&self) -> bool {
        let Self { index, kind, permanent_mac, .. } = *self;
        *self == Self { index, kind, permanent_mac, ..Self::default() }
    }
}

impl Originals {
    fn of(&self, link: &Link) -> Option<&Original> {
        self.0.iter().find(|original| original.is_of(link))
    }

    /// The name a link had.
    pub fn name_of<'a>(&'a self, link: &'a Link) -> &'a str {
        self.of(link).and_then(|original| original.name.as_deref()).unwrap_or(&link.name)
    }

    /// The MAC address a link had.
    pub fn mac_of(&self, link: &Link) -> Option<MacAddr> {
        self.of(link).and_then(|original| original.mac).or(link.mac)
    }

    /// Gives a link back everything it had. Says whether there was anything.
    pub fn restore(&self, link: &mut Link) -> bool {
        let Some(original) = self.of(link) else { return false };
        if let Some(name) = &original.name {
            link.name.clone_from(name);
        }
        link.mac = original.mac.or(link.mac);
        link.mtu = original.mtu.unwrap_or(link.mtu);
        link.tx_queue_length = original.tx_queue_length.unwrap_or(link.tx_queue_length);
        link.up = original.up.unwrap_or(link.up);
        for setting in Setting::ALL {
            if let Some(value) = original.settings.get(setting) {
                link.settings.set(setting, Some(value));
            }
        }
        link.alternative_names.retain(|name| !original.added_names.contains(name));
        link.alternative_names.extend(original.removed_names.iter().cloned());
        link.alternative_names.sort_unstable();
        true
    }

    /// What has to be remembered once `observed` has become `target`.
    #[must_use]
    pub fn after(&self, observed: &KernelState, target: &KernelState) -> Self {
        let of_link = |new: &Link| {
            let old = observed.link(new.index).filter(|old| !old.is_ours())?;
            let known = self.of(old);
            let mut settings = Settings::default();
            for setting in Setting::ALL {
                let known = known.and_then(|known| known.settings.get(setting)).map(Some);
                settings.set(
                    setting,
                    kept(known, old.settings.get(setting), &new.settings.get(setting)).flatten(),
                );
            }
            let was_added = |name: &&String| {
                !old.alternative_names.contains(name)
                    || known.is_some_and(|known| known.added_names.contains(name))
            };
            let original = Original {
                index: old.index,
                kind: old.kind,
                permanent_mac: old.permanent_mac,
                name: kept(known.and_then(|known| known.name.clone()), old.name.clone(), &new.name),
                mac: kept(known.and_then(|known| known.mac).map(Some), old.mac, &new.mac).flatten(),
                mtu: kept(known.and_then(|known| known.mtu), old.mtu, &new.mtu),
                tx_queue_length: kept(
                    known.and_then(|known| known.tx_queue_length),
                    old.tx_queue_length,
                    &new.tx_queue_length,
                ),
                up: kept(known.and_then(|known| known.up), old.up, &new.up),
                settings,
                added_names: new.alternative_names.iter().filter(was_added).cloned().collect(),
                removed_names: old
                    .alternative_names
                    .iter()
                    .filter(|name| !known.is_some_and(|known| known.added_names.contains(name)))
                    .chain(known.iter().flat_map(|known| &known.removed_names))
                    .filter(|name| !new.alternative_names.contains(name))
                    .cloned()
                    .collect(),
            };
            (!original.is_empty()).then_some(original)
        };
        Self(target.links.iter().filter_map(of_link).collect())
    }

    /// Everything that is in either; what is in both is the same, for nothing but tether's own
    /// doing is in them. While a change is under way both its ends have to be remembered.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for theirs in &other.0 {
            let mine = all.0.iter_mut().find(|mine| {
                mine.index == theirs.index
                    && mine.kind == theirs.kind
                    && mine.permanent_mac == theirs.permanent_mac
            });
            let Some(mine) = mine else {
                all.0.push(theirs.clone());
                continue;
            };
            mine.name = mine.name.take().or_else(|| theirs.name.clone());
            mine.mac = mine.mac.or(theirs.mac);
            mine.mtu = mine.mtu.or(theirs.mtu);
            mine.tx_queue_length = mine.tx_queue_length.or(theirs.tx_queue_length);
            mine.up = mine.up.or(theirs.up);
            for setting in Setting::ALL {
                let value = mine.settings.get(setting).or(theirs.settings.get(setting));
                mine.settings.set(setting, value);
            }
            let more = theirs.added_names.iter().filter(|name| !mine.added_names.contains(name));
            let more: Vec<String> = more.cloned().collect();
            mine.added_names.extend(more);
            let more = theirs.removed_names.iter().filter(|name| !mine.removed_names.contains(name));
            let more: Vec<String> = more.cloned().collect();
            mine.removed_names.extend(more);
        }
        all
    }

    /// Remembers too that `links` were up, where tether has not brought them up itself.
    #[must_use]
    pub fn with_up<'a>(mut self, links: impl Iterator<Item = &'a Link>) -> Self {
        for link in links.filter(|link| link.up && !link.is_ours()) {
            match self.0.iter_mut().find(|original| original.is_of(link)) {
                Some(original) => original.up = original.up.or(Some(true)),
                None => self.0.push(Original {
                    index: link.index,
                    kind: link.kind,
                    permanent_mac: link.permanent_mac,
                    up: Some(true),
                    ..Original::default()
                }),
            }
        }
        self
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The value before tether, where it is not the one that is wanted.
fn kept<T: PartialEq>(known: Option<T>, old: T, new: &T) -> Option<T> {
    let original = known.unwrap_or(old);
    (original != *new).then_some(original)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, mtu: u32, names: &[&str]) -> KernelState {
        let link = Link {
            index: 2,
            name: name.into(),
            mtu,
            alternative_names: names.iter().map(ToString::to_string).collect(),
            ..Link::default()
        };
        KernelState { links: vec![link], ..KernelState::default() }
    }

    #[test]
    fn what_was_changed_comes_back_and_nothing_else() {
        let (before, first) = (state("ens3", 1_500, &["a"]), state("eth0", 1_400, &["a", "b"]));
        let originals = Originals::default().after(&before, &first);
        // Somebody else gives it a name.
        let mut now = state("eth0", 1_400, &["a", "b", "c"]).links.remove(0);
        assert_eq!(originals.name_of(&now), "ens3");
        assert!(originals.restore(&mut now));
        assert_eq!(now, state("ens3", 1_500, &["a", "c"]).links[0]);
        // The next document leaves the MTU alone, and the one after it everything.
        let second = state("eth0", 1_500, &["a"]);
        let originals = originals.after(&first, &second);
        assert!(!originals.is_empty());
        assert_eq!(originals.0[0].mtu, None);
        assert!(originals.after(&second, &before).is_empty());
    }

    #[test]
    fn another_link_of_the_same_index_has_nothing_to_restore() {
        let originals = Originals::default().after(&state("ens3", 1_500, &[]), &state("eth0", 1_400, &[]));
        let mut other =
            Link { permanent_mac: "02:00:00:00:00:01".parse().ok(), ..state("x", 9, &[]).links[0].clone() };
        assert!(!originals.restore(&mut other));
    }

    #[test]
    fn both_ends_of_a_change_are_remembered() {
        let (before, first, second) =
            (state("ens3", 1_500, &[]), state("ens3", 1_400, &[]), state("eth0", 1_500, &["n"]));
        let one = Originals::default().after(&before, &first);
        let two = one.after(&first, &second);
        let both = one.and(&two);
        assert_eq!((both.0[0].mtu, both.0[0].name.as_deref()), (Some(1_500), Some("ens3")));
        assert_eq!(both.0[0].added_names, ["n"]);
    }
}
