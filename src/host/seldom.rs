//! What anybody can cause as often as they like: each time is counted, and the log has a line about it now
//! and then. Whoever can reach the port could fill it otherwise.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::lock;

/// The least time between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// How often something happened that a log is not to be full of.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    /// How many of them no line has been about.
    untold: u64,
    told: Option<Instant>,
}

impl Seldom {
    /// Counts one. How many a line is to be about, if there is to be one now: the first is, and then one
    /// in 10 s at most.
    pub fn another(&self, now: Instant) -> Option<u64> {
        let mut inner = self.inner();
        inner.count += 1;
        inner.untold += 1;
        if inner.told.is_some_and(|told| now < told + PAUSE) {
            return None;
        }
        inner.told = Some(now);
        Some(std::mem::take(&mut inner.untold))
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.inner().count
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_one_line_and_none_is_forgotten() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let lines: Vec<u64> =
            (0..35_000).filter_map(|n| seldom.another(start + Duration::from_millis(n))).collect();
        assert_eq!(lines, [1, 10_000, 10_000, 10_000]);
        assert_eq!(seldom.count(), 35_000);
    }
}
