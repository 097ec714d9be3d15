//! How long to wait before dialling again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const CEILING: Duration = Duration::from_secs(10);

/// Doubles from 50 ms to 10 s. What is waited is anything between half of that and all of it,
/// so that a thousand guests do not come back at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: FIRST }
    }
}

impl Backoff {
    /// The next wait; `random` is any number, evenly spread.
    pub(super) fn next(&mut self, random: u32) -> Duration {
        let half = self.ceiling / 2;
        let jitter = half.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.ceiling = (self.ceiling * 2).min(CEILING);
        half + jitter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_ceiling_and_are_spread() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(0), FIRST / 2);
        assert_eq!(backoff.next(u32::MAX), FIRST * 2);
        for _ in 0..20 {
            backoff.next(0);
        }
        assert_eq!(backoff.next(0), CEILING / 2);
        assert_eq!(backoff.next(u32::MAX), CEILING);
    }
}
