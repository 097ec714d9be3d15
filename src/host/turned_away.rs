//! Whoever was turned away: each is counted, and the log has a line of them now and then. Whoever can
//! reach the port could fill it otherwise.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::lock;

/// The least time between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// How many there were.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    /// How many of them no line has been about.
    untold: u64,
    told: Option<Instant>,
}

impl TurnedAway {
    /// Counts one. How many a line is to be about, if there is to be one now.
    pub(crate) fn another(&self, now: Instant) -> Option<u64> {
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
    pub(crate) fn count(&self) -> u64 {
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
        let (turned_away, start) = (TurnedAway::default(), Instant::now());
        let lines: Vec<u64> =
            (0..35_000).filter_map(|n| turned_away.another(start + Duration::from_millis(n))).collect();
        assert_eq!(lines, [1, 10_000, 10_000, 10_000]);
        assert_eq!(turned_away.count(), 35_000);
    }
}
