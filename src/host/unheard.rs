//! How much of what one guest says may wait for a host program that does not listen: so much, and what
//! is more is dropped and counted. The other guests' events keep their places.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// How much of one guest waits at most, in bytes; the first always does.
const MOST: usize = 1 << 20;
/// What an event counts for at least, so that one guest has no more than 256 of all places.
const LEAST: usize = 4 << 10;

/// What of one guest waits to be heard.
#[derive(Debug, Default)]
pub(crate) struct Unheard {
    waiting: Arc<AtomicUsize>,
    /// How many events were dropped since the last that was not.
    dropped: u64,
}

/// An event's part of it, given back when nobody waits for the event any more.
#[derive(Debug)]
pub(crate) struct Weight {
    bytes: usize,
    waiting: Arc<AtomicUsize>,
}

impl Unheard {
    /// Has an event of so many bytes wait, if there is room. How many were dropped before it. For what
    /// is said only once there is as much room again.
    pub(crate) fn another(&mut self, bytes: usize, once: bool) -> Option<(Weight, u64)> {
        let bytes = bytes.max(LEAST);
        let waiting = self.waiting.load(Relaxed);
        let most = if once { 2 * MOST } else { MOST };
        if waiting > 0 && waiting + bytes > most {
            self.dropped += 1;
            return None;
        }
        self.waiting.fetch_add(bytes, Relaxed);
        let weight = Weight { bytes, waiting: Arc::clone(&self.waiting) };
        Some((weight, std::mem::take(&mut self.dropped)))
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_has_a_limit_and_what_is_dropped_is_counted() {
        let mut unheard = Unheard::default();
        let mut waiting: Vec<_> = (0..1_000).filter_map(|_| unheard.another(10, false)).collect();
        assert_eq!(waiting.len(), 256);
        let (once, dropped) = unheard.another(10, true).unwrap();
        assert_eq!(dropped, 744);
        drop(once);
        waiting.pop();
        let (weight, dropped) = unheard.another(10, false).unwrap();
        assert_eq!(dropped, 0);
        drop(waiting);
        assert!(unheard.another(4 << 20, false).is_none());
        drop(weight);
        let (long, dropped) = unheard.another(4 << 20, false).unwrap();
        assert_eq!(dropped, 1, "the longest has its turn");
        assert!(unheard.another(10, false).is_none());
        drop(long);
        assert_eq!(unheard.waiting.load(Relaxed), 0);
    }
}
