//! How much one guest may say: what it says beyond that waits in its own kernel.
//!
//! Values only: the time is an argument.

use std::time::{Duration, Instant};

/// What a guest may say in a second, in bytes.
const EACH_SECOND: u64 = 4 << 20;
/// What one that has been quiet may say at once: two of the longest messages.
const AT_ONCE: usize = 8 << 20;
/// What a message counts for at least: a short one costs the host more than its bytes.
const LEAST: usize = 4 << 10;
/// The part of a thread's time that one guest may take: a message can be made to cost far more than
/// its bytes.
const SHARE: u32 = 16;
/// The most that counts at once: a thread may have been kept from going on by others.
const ONE: Duration = Duration::from_millis(20);
/// The longest it is made to wait.
const LONGEST: Duration = Duration::from_secs(10);

/// How much a guest may still say before it is made to wait. It is the guest's, whatever connection it
/// comes by.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    /// When all of it will be there again, unless more is spent; `None` before anything is.
    full: Option<Instant>,
}

impl Credit {
    /// The guest has said a message of so many bytes.
    pub(crate) fn said(&mut self, bytes: usize, now: Instant) {
        self.spend(earned(bytes.max(LEAST)), now);
    }

    /// So many bytes are sent once more for what the guest has said.
    pub(crate) fn sent_again(&mut self, bytes: usize, now: Instant) {
        self.spend(earned(bytes), now);
    }

    /// It took so long to read what the guest says, and to take note of it.
    pub(crate) fn took(&mut self, time: Duration, now: Instant) {
        self.spend(time.min(ONE) * SHARE, now);
    }

    fn spend(&mut self, time: Duration, now: Instant) {
        let full = self.full.map_or(now, |full| full.max(now)) + time;
        self.full = Some(full.min(now + earned(AT_ONCE) + LONGEST));
    }

    /// Until when it is not listened to, and sent no documents, where it has said too much.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        let wait = self.full?.saturating_duration_since(now).saturating_sub(earned(AT_ONCE));
        (!wait.is_zero()).then(|| now + wait)
    }
}

/// The time in which one may say so much.
fn earned(bytes: usize) -> Duration {
    Duration::from_nanos(bytes as u64 * 1_000_000_000 / EACH_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many messages of this length, which take so long, a guest can say in so many seconds.
    fn said(length: usize, took: Duration, seconds: u64) -> usize {
        let mut now = Instant::now();
        let (mut credit, end, mut said) = (Credit::default(), now + Duration::from_secs(seconds), 0);
        while now < end {
            if let Some(until) = credit.until(now) {
                now = until;
            } else {
                credit.said(length, now);
                credit.took(took, now);
                said += 1;
            }
        }
        said
    }

    #[test]
    fn a_flood_is_slowed_down_and_what_guests_say_is_not() {
        // Two seconds' worth at once, one more for each second.
        for (length, took, each_second, more) in [
            (10, Duration::ZERO, 1_024, 10),
            (4 << 20, Duration::ZERO, 1, 2),
            (10, Duration::from_millis(20), 3, 2),
        ] {
            let said = said(length, took, 10);
            assert!(said.abs_diff(12 * each_second) <= more, "{length} {took:?}: {said}");
        }
        let start = Instant::now();
        let mut credit = Credit::default();
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            for _ in 0..1_000 {
                assert_eq!(credit.until(now), None);
                credit.said(100, now);
            }
        }
    }

    #[test]
    fn nobody_waits_longer_than_10_s() {
        let now = Instant::now();
        let mut credit = Credit::default();
        for _ in 0..100 {
            credit.sent_again(16 << 20, now);
        }
        assert_eq!(credit.until(now), Some(now + LONGEST));
    }
}
