//! How much of what guests say may wait for a host program that does not listen: so much of each, and
//! what is more is dropped and counted. The other guests' events keep their places.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// How many events wait for a subscriber before it loses the oldest.
pub(crate) const PLACES: usize = 4_096;
/// How much of one guest waits at most, in bytes; the first always does.
const MOST: usize = 1 << 20;
/// The same while half of all places are taken.
const FEW: usize = 64 << 10;
/// How much of one guest is in memory at most for subscribers who have not heard what others have; the first
/// always is. All places with short events are less.
const HELD: usize = 4 << 20;
/// What an event counts for there at least.
const SHORT: usize = 256;
/// What an event counts for at least, so that one guest has no more than 256 of all places.
const LEAST: usize = 4 << 10;

/// What of one guest waits to be heard.
#[derive(Debug, Default)]
pub(crate) struct Unheard {
    waiting: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    /// How many events were dropped since the last that was not.
    dropped: u64,
}

/// How many events of all guests wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct All(Arc<AtomicUsize>);

/// An event's part of it, given back as soon as somebody has heard the event, or nobody can any more.
#[derive(Debug)]
pub(crate) struct Weight {
    /// None when it is given back.
    bytes: AtomicUsize,
    waiting: Arc<AtomicUsize>,
    all: All,
    /// Its memory, for as long as anybody may hear it.
    length: usize,
    held: Arc<AtomicUsize>,
}

impl Unheard {
    /// Has an event of so many bytes wait, if there is room. How many were dropped before it. For what
    /// is said only `once` there is as much room again.
    pub(crate) fn another(&mut self, bytes: usize, once: bool, all: &All) -> Option<(Weight, u64)> {
        let (length, bytes) = (bytes.max(SHORT), bytes.max(LEAST));
        let held = self.held.load(Relaxed);
        let waiting = self.waiting.load(Relaxed);
        let most = if all.0.load(Relaxed) < PLACES / 2 { MOST } else { FEW };
        let is_full = waiting > 0 && waiting + bytes > if once { 2 * most } else { most };
        if is_full || (held > 0 && held + length > HELD) {
            self.dropped += 1;
            return None;
        }
        self.waiting.fetch_add(bytes, Relaxed);
        all.0.fetch_add(1, Relaxed);
        self.held.fetch_add(length, Relaxed);
        let weight = Weight {
            bytes: bytes.into(),
            waiting: Arc::clone(&self.waiting),
            all: all.clone(),
            length,
            held: Arc::clone(&self.held),
        };
        Some((weight, std::mem::take(&mut self.dropped)))
    }
}

impl Weight {
    /// Somebody has heard it. That another subscriber has not is no reason to keep from the first what the
    /// guest says next.
    pub(crate) fn give_back(&self) {
        let bytes = self.bytes.swap(0, Relaxed);
        if bytes > 0 {
            self.waiting.fetch_sub(bytes, Relaxed);
            self.all.0.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.give_back();
        self.held.fetch_sub(self.length, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_has_a_limit_and_what_is_dropped_is_counted() {
        let (mut unheard, all) = (Unheard::default(), All::default());
        let mut waiting: Vec<_> = (0..1_000).filter_map(|_| unheard.another(10, false, &all)).collect();
        assert_eq!(waiting.len(), 256);
        let (once, dropped) = unheard.another(10, true, &all).unwrap();
        assert_eq!(dropped, 744);
        drop(once);
        waiting.pop();
        let (weight, dropped) = unheard.another(10, false, &all).unwrap();
        assert_eq!(dropped, 0);
        drop(waiting);
        assert!(unheard.another(4 << 20, false, &all).is_none());
        drop(weight);
        let (long, dropped) = unheard.another(4 << 20, false, &all).unwrap();
        assert_eq!(dropped, 1, "the longest has its turn");
        assert!(unheard.another(10, false, &all).is_none());
        // Heard by one, and kept by another.
        long.give_back();
        assert_eq!((unheard.waiting.load(Relaxed), all.0.load(Relaxed)), (0, 0));
        drop(long);
        assert_eq!((unheard.waiting.load(Relaxed), all.0.load(Relaxed)), (0, 0));
    }

    #[test]
    fn many_that_flood_leave_places_to_the_others() {
        let all = All::default();
        let mut floods: Vec<Unheard> = (0..100).map(|_| Unheard::default()).collect();
        let mut waiting = Vec::new();
        // One after the other: who comes first takes most.
        for unheard in &mut floods {
            waiting.extend((0..1_000).filter_map(|_| unheard.another(10, false, &all)));
        }
        let left = PLACES - waiting.len();
        assert!(left >= 512, "{left}");
        assert!(Unheard::default().another(10, false, &all).is_some());
    }

    #[test]
    fn what_one_has_heard_and_another_has_not_is_little_memory() {
        let (mut unheard, all) = (Unheard::default(), All::default());
        let mut heard = |bytes: usize| {
            let weight = unheard.another(bytes, false, &all).map(|(weight, _)| weight);
            weight.inspect(Weight::give_back)
        };
        let mut kept: Vec<_> = (0..PLACES).filter_map(|_| heard(10)).collect();
        assert_eq!(kept.len(), PLACES, "short ones");
        kept.extend((0..100).filter_map(|_| heard(1 << 20)));
        assert_eq!(kept.len(), PLACES + 3);
        kept.clear();
        assert!(heard(1 << 20).is_some());
    }
}
