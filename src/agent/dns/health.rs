//! Which of several servers is asked first: the one that answers soonest, and one that does not
//! answer last.
//!
//! Values and arithmetic; the time is an argument. It must not send anything.

use std::time::{Duration, Instant};

/// How long a server that did not answer is asked last, at first and at most.
const SHUNNED: Duration = Duration::from_secs(5);
const SHUNNED_AT_MOST: Duration = Duration::from_mins(1);
/// What a server's answer may take before another is asked too.
const PATIENCE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(150)..=Duration::from_millis(1_200);
/// The patience with a server nobody knows yet.
const UNKNOWN: Duration = Duration::from_millis(400);
/// How often a server may be late or in trouble before it is taken for silent.
const MISSED: u32 = 3;
/// One question in so many probes another server.
const PROBED: u32 = 64;

/// What is known of one server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    /// Smoothed time to an answer and its deviation (RFC 6298 section 2).
    latency: Option<(Duration, Duration)>,
    /// How often it was late or in trouble, since its last good answer.
    missed: u32,
    /// How often it was taken for silent, since its last answer.
    silences: u32,
    /// Until when it is asked last.
    shunned: Option<Instant>,
}

impl Health {
    /// It has answered.
    pub(super) fn answered(&mut self, took: Duration) {
        (self.missed, self.silences, self.shunned) = (0, 0, None);
        self.latency = Some(match self.latency {
            None => (took, took / 2),
            Some((smoothed, deviation)) => {
                (smoothed * 7 / 8 + took / 8, deviation * 3 / 4 + smoothed.abs_diff(took) / 4)
            }
        });
    }

    /// Another's answer came first, or none, this long after it was asked. It may be looking far
    /// away for its own: only what happens again and again, or takes very long, tells.
    pub(super) fn missed(&mut self, waited: Duration, now: Instant) {
        if waited >= *PATIENCE.end() {
            self.failed(now);
        } else if waited >= self.patience() {
            self.count(now);
        }
    }

    /// It has answered that it cannot answer: a question may be to blame, many are not.
    pub(super) fn in_trouble(&mut self, now: Instant) {
        self.count(now);
    }

    fn count(&mut self, now: Instant) {
        self.missed = self.missed.saturating_add(1);
        if self.missed >= MISSED {
            self.failed(now);
        }
    }

    /// It does not answer. Of several questions that find that out at once, the first counts.
    pub(super) fn failed(&mut self, now: Instant) {
        if self.is_shunned(now) {
            return;
        }
        let shunned = SHUNNED.saturating_mul(1 << self.silences.min(8)).min(SHUNNED_AT_MOST);
        self.silences = self.silences.saturating_add(1);
        self.missed = 0;
        self.shunned = Some(now + shunned);
    }

    /// Whether it is asked last.
    pub(super) fn is_shunned(&self, now: Instant) -> bool {
        self.shunned.is_some_and(|until| now < until)
    }

    /// It was shunned for long enough, and has not shown yet that it answers again.
    fn is_on_trial(&self, now: Instant) -> bool {
        self.shunned.is_some_and(|until| now >= until)
    }

    /// It is on trial, with this question: others do not try it meanwhile.
    pub(super) fn tried(&mut self, now: Instant) {
        if self.is_on_trial(now) {
            self.shunned = Some(now + *PATIENCE.end());
        }
    }

    /// How long its answer may take before another server is asked too, or it again.
    pub(super) fn patience(&self) -> Duration {
        let patience = self.latency.map_or(UNKNOWN, |(smoothed, deviation)| smoothed * 2 + deviation * 4);
        patience.clamp(*PATIENCE.start(), *PATIENCE.end())
    }
}

/// Who is asked when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// All of them, by their places.
    pub(super) order: Vec<usize>,
    /// One that is asked besides, and whose answer nobody waits for: it comes back from being
    /// shunned, or it is to be known whether it has become the better one.
    pub(super) probe: Option<usize>,
}

/// The order in which servers are asked. Every so many questions (`turn` counts them) another is
/// probed.
pub(super) fn turn(healths: &[Health], turn: u32, now: Instant) -> Turn {
    let mut order: Vec<usize> = (0..healths.len()).collect();
    let rank = |n: &usize| {
        let health = &healths[*n];
        let class = u8::from(health.is_shunned(now)) * 2 + u8::from(health.is_on_trial(now));
        (class, health.latency.map_or(Duration::ZERO, |(smoothed, _)| smoothed), *n)
    };
    order.sort_by_key(rank);
    let others = order.get(1..).unwrap_or_default();
    let on_trial = others.iter().find(|n| healths[**n].is_on_trial(now));
    let in_turn = || {
        let n = others.get((turn / PROBED) as usize % others.len().max(1))?;
        (turn.is_multiple_of(PROBED) && !healths[*n].is_shunned(now)).then_some(n)
    };
    let probe = on_trial.or_else(in_turn).copied();
    Turn { order, probe }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answering(ms: u64) -> Health {
        let mut health = Health::default();
        health.answered(Duration::from_millis(ms));
        health
    }

    #[test]
    fn the_quickest_is_asked_first_and_the_silent_last() {
        let now = Instant::now();
        let mut silent = answering(1);
        silent.failed(now);
        let healths = [answering(30), silent, answering(10)];
        assert_eq!(turn(&healths, 1, now), Turn { order: vec![2, 0, 1], probe: None });
    }

    #[test]
    fn nobody_waits_for_one_that_comes_back() {
        let now = Instant::now();
        let mut silent = answering(1);
        silent.failed(now);
        silent.failed(now);
        let later = now + SHUNNED;
        assert!(!silent.is_shunned(later), "two that find out at once are one");
        let probed = |silent, at| turn(&[answering(30), silent, answering(10)], 1, at);
        assert_eq!(probed(silent, later), Turn { order: vec![2, 0, 1], probe: Some(1) });
        silent.tried(later);
        assert_eq!(probed(silent, later).probe, None, "one trial at a time");
        let trial_over = later + *PATIENCE.end();
        silent.failed(trial_over);
        assert!(silent.is_shunned(trial_over + SHUNNED), "twice as long the second time");
        silent.answered(Duration::from_millis(1));
        assert!(!silent.is_shunned(later));
        // Alone, it is asked.
        silent.failed(now);
        assert_eq!(turn(&[silent], 64, now), Turn { order: vec![0], probe: None });
    }

    #[test]
    fn others_are_tried_now_and_then() {
        let now = Instant::now();
        let healths = [answering(10), answering(20), answering(30)];
        let probe = |n| turn(&healths, n, now).probe;
        assert_eq!([probe(63), probe(64), probe(65), probe(128)], [None, Some(2), None, Some(1)]);
    }

    #[test]
    fn who_is_late_now_and_then_is_not_silent() {
        let now = Instant::now();
        let mut late = answering(10);
        for waited in [50, 200, 50, 200] {
            late.missed(Duration::from_millis(waited), now);
        }
        assert!(!late.is_shunned(now), "sooner than it usually answers is not late");
        late.missed(Duration::from_millis(200), now);
        assert!(late.is_shunned(now));
        let mut dead = Health::default();
        dead.missed(*PATIENCE.end(), now);
        assert!(dead.is_shunned(now));
        let mut refusing = answering(1);
        for _ in 0..MISSED {
            refusing.in_trouble(now);
        }
        assert!(refusing.is_shunned(now));
    }

    #[test]
    fn patience_follows_what_a_server_takes() {
        assert_eq!(answering(1).patience(), Duration::from_millis(150));
        assert_eq!(answering(100).patience(), Duration::from_millis(400));
        assert_eq!(answering(5_000).patience(), Duration::from_millis(1_200));
        assert_eq!(Health::default().patience(), UNKNOWN);
    }
}
