//! What anybody can cause as often as they like: each time is counted, and the log has a line about it now
//! and then. Whoever can reach the port could fill it otherwise.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::lock;

/// The time in which there are so many lines at most.
const PERIOD: Duration = Duration::from_secs(10);

/// How often something happened that a log is not to be full of.
#[derive(Debug)]
pub struct Seldom {
    /// The most lines in one period.
    most: u32,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    /// How many of them no line has been about.
    untold: u64,
    /// When this period began, and the lines in it.
    since: Option<Instant>,
    lines: u32,
}

impl Default for Seldom {
    /// One line in 10 s.
    fn default() -> Self {
        Self::up_to(1)
    }
}

impl Seldom {
    /// So many lines in 10 s.
    pub fn up_to(most: u32) -> Self {
        Self { most, inner: Mutex::default() }
    }

    /// Counts one. How many a line is to be about, if there is to be one now.
    pub fn another(&self, now: Instant) -> Option<u64> {
        let mut inner = lock(&self.inner);
        inner.count += 1;
        inner.untold += 1;
        if inner.since.is_none_or(|since| now >= since + PERIOD) {
            (inner.since, inner.lines) = (Some(now), 0);
        }
        if inner.lines == self.most {
            return None;
        }
        inner.lines += 1;
        Some(std::mem::take(&mut inner.untold))
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        lock(&self.inner).count
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

    #[test]
    fn some_in_a_row_are_a_line_each() {
        let (seldom, start) = (Seldom::up_to(3), Instant::now());
        let lines: Vec<u64> =
            (0..25).filter_map(|n| seldom.another(start + Duration::from_secs(n))).collect();
        assert_eq!(lines, [1, 1, 1, 8, 1, 1, 8, 1, 1]);
    }
}
