//! What changes in name tables, in place of the whole of them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{EndpointNames, NameTables, Sum};

/// What changes on one network. Entries are told whole: one that is renamed is removed as it was
/// and added as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The network's name, as the tables have it.
    pub network: String,
    /// Links that go.
    pub links_removed: Vec<EndpointNames>,
    /// Links that come.
    pub links_added: Vec<EndpointNames>,
    /// Endpoints that go.
    pub removed: Vec<EndpointNames>,
    /// Endpoints that come.
    pub added: Vec<EndpointNames>,
}

/// What makes `new` of `old`, a change for each network that differs. `None` when that cannot be
/// said in changes: another time to live, other extra hosts, other networks or another order.
pub fn between(old: &NameTables, new: &NameTables) -> Option<Vec<Change>> {
    let names = |tables: &NameTables| tables.networks.len();
    if old.ttl_seconds != new.ttl_seconds || old.hosts != new.hosts || names(old) != names(new) {
        return None;
    }
    let mut changes = Vec::new();
    for (old, new) in old.networks.iter().zip(&new.networks) {
        if old.network != new.network {
            return None;
        }
        let (links_removed, links_added) = difference(&old.links, &new.links);
        let (removed, added) = difference(&old.endpoints, &new.endpoints);
        let change = Change { network: new.network.clone(), links_removed, links_added, removed, added };
        if (&change.links_removed, &change.links_added, &change.removed, &change.added)
            != (&vec![], &vec![], &vec![], &vec![])
        {
            changes.push(change);
        }
    }
    Some(changes)
}

/// What is only in `old` and what is only in `new`, an entry as often as it is there more often.
fn difference(old: &[EndpointNames], new: &[EndpointNames]) -> (Vec<EndpointNames>, Vec<EndpointNames>) {
    // Most of a table stays where it is: only what is not equal in its place is compared by value.
    let same_start = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[same_start..], &new[same_start..]);
    let same_end = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[..old.len() - same_end], &new[..new.len() - same_end]);
    let mut counts: HashMap<u64, i64> = HashMap::new();
    let key = |entry: &EndpointNames| Sum::of(entry).short();
    for entry in old {
        *counts.entry(key(entry)).or_default() += 1;
    }
    for entry in new {
        *counts.entry(key(entry)).or_default() -= 1;
    }
    let mut only = |entries: &[EndpointNames], sign: i64| {
        let mut take = |entry: &&EndpointNames| {
            let count = counts.entry(key(entry)).or_default();
            let surplus = *count * sign > 0;
            *count -= if surplus { sign } else { 0 };
            surplus
        };
        entries.iter().filter(|entry| take(entry)).cloned().collect()
    };
    (only(old, 1), only(new, -1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::{NetworkNames, Summary};

    fn tables(endpoints: &[u8]) -> NameTables {
        let endpoint = |n: &u8| EndpointNames { names: vec![format!("e{n}")], ..EndpointNames::default() };
        let endpoints = endpoints.iter().map(endpoint).collect();
        let network = NetworkNames { network: "net".into(), endpoints, ..NetworkNames::default() };
        NameTables { networks: vec![network], ..NameTables::default() }
    }

    proptest! {
        #[test]
        fn a_change_leads_from_one_table_to_the_other(
            old in prop::collection::vec(0_u8..6, 0..8),
            new in prop::collection::vec(0_u8..6, 0..8),
        ) {
            let (old, new) = (tables(&old), tables(&new));
            let mut summary = Summary::of(&old);
            let changes = between(&old, &new).unwrap();
            for change in &changes {
                summary.networks[0].2.subtract(Sum::of_all(&change.removed));
                summary.networks[0].2.add(Sum::of_all(&change.added));
            }
            prop_assert_eq!(summary.digest(), Summary::of(&new).digest());
            prop_assert_eq!(changes.is_empty(), Summary::of(&old) == Summary::of(&new));
        }
    }

    #[test]
    fn what_is_not_an_entry_needs_the_whole_tables() {
        let old = tables(&[1]);
        for new in [
            NameTables { ttl_seconds: 6, ..old.clone() },
            NameTables { networks: vec![], ..old.clone() },
            NameTables {
                networks: vec![NetworkNames { network: "other".into(), ..NetworkNames::default() }],
                ..old.clone()
            },
        ] {
            assert_eq!(between(&old, &new), None);
        }
    }
}
