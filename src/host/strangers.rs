//! Connections that have not said who they are: so many at one time, and so many from one address,
//! so that one machine cannot keep the others out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The most at one time.
const ALL: usize = 256;
/// The most from one address.
const FROM_ONE: usize = 16;

/// How many there are, by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strangers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place among them, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    strangers: Strangers,
    from: IpAddr,
}

impl Strangers {
    /// A place for one more, if there is one.
    pub(crate) fn enter(&self, from: IpAddr) -> Option<Place> {
        let mut counts = self.counts();
        let all: usize = counts.values().sum();
        let its = counts.get(&from).copied().unwrap_or_default();
        if all >= ALL || its >= FROM_ONE {
            return None;
        }
        counts.insert(from, its + 1);
        Some(Place { strangers: self.clone(), from })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.strangers.counts();
        if let Some(count) = counts.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_never_has_all_the_places() {
        let strangers = Strangers::default();
        let from = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut greedy: Vec<_> = (0..100).map_while(|_| strangers.enter(from(1))).collect();
        assert_eq!(greedy.len(), FROM_ONE);
        assert!(strangers.enter(from(2)).is_some());
        greedy.pop();
        assert!(strangers.enter(from(1)).is_some(), "a place is given back");
        drop(greedy);
        let many: Vec<_> = (0..=255).filter_map(|last| strangers.enter(from(last))).collect();
        assert_eq!((many.len(), strangers.enter(from(0)).is_none()), (ALL, true));
        drop(many);
        assert!(strangers.counts().is_empty());
    }
}
