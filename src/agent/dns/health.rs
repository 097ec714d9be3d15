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
/// How often others may be sooner, before a server that has not answered is taken for silent.
const MISSED: u32 = 3;

/// What is known of one server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    /// Smoothed time to an answer and its deviation (RFC 6298 section 2).
    latency: Option<(Duration, Duration)>,
    /// How often another's answer came before its own, since its last.
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

    /// Another's answer came first, this long after it was asked. It may be looking far away for
    /// its own: only what happens again and again, or takes very long, tells.
    pub(super) fn missed(&mut self, waited: Duration, now: Instant) {
        self.missed = self.missed.saturating_add(1);
        if self.missed >= MISSED || waited >= *PATIENCE.end() {
            self.failed(now);
        }
    }

    /// It does not answer.
    pub(super) fn failed(&mut self, now: Instant) {
        let shunned = SHUNNED.saturating_mul(1 << self.silences.min(8)).min(SHUNNED_AT_MOST);
        self.silences = self.silences.saturating_add(1);
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

    /// How long its answer may take before another server is asked too, or it again.
    pub(super) fn patience(&self) -> Duration {
        let patience = self.latency.map_or(UNKNOWN, |(smoothed, deviation)| smoothed * 2 + deviation * 4);
        patience.clamp(*PATIENCE.start(), *PATIENCE.end())
    }
}

/// The order in which servers are asked, by their places in `healths`, and how many of the first
/// are asked at once.
///
/// One that comes back from being shunned is asked beside another, so that nobody waits for it;
/// and so is the second now and then (`turn`), so that it is known whether it has become the
/// better one.
pub(super) fn order(healths: &[Health], turn: u32, now: Instant) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..healths.len()).collect();
    let rank = |n: &usize| {
        let health = &healths[*n];
        let class = u8::from(health.is_shunned(now)) * 2 + u8::from(health.is_on_trial(now));
        (class, health.latency.map_or(Duration::ZERO, |(smoothed, _)| smoothed), *n)
    };
    order.sort_by_key(rank);
    let on_trial = order.iter().position(|n| healths[*n].is_on_trial(now));
    if let Some(at) = on_trial.filter(|at| *at > 0) {
        let trial = order.remove(at);
        order.insert(1, trial);
        return (order, 2);
    }
    let also = healths.len() > 1 && turn.is_multiple_of(64) && !healths[order[1]].is_shunned(now);
    if also {
        // Each of the others in turn.
        let other = 1 + (turn / 64) as usize % (order.len() - 1);
        order.swap(1, other);
    }
    (order, if also { 2 } else { 1 })
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
        assert_eq!(order(&healths, 1, now), (vec![2, 0, 1], 1));
    }

    #[test]
    fn nobody_waits_for_one_that_comes_back() {
        let now = Instant::now();
        let mut silent = answering(1);
        silent.failed(now);
        let later = now + SHUNNED;
        assert_eq!(order(&[answering(30), silent, answering(10)], 1, later), (vec![2, 1, 0], 2));
        silent.failed(later);
        assert!(silent.is_shunned(later + SHUNNED), "twice as long the second time");
        silent.answered(Duration::from_millis(1));
        assert!(!silent.is_shunned(later));
    }

    #[test]
    fn others_are_tried_now_and_then() {
        let now = Instant::now();
        let healths = [answering(10), answering(20), answering(30)];
        let beside = |turn| order(&healths, turn, now);
        assert_eq!(beside(63).1, 1);
        assert_eq!((beside(64).0[1], beside(64).1), (2, 2));
        assert_eq!((beside(128).0[1], beside(128).1), (1, 2));
        assert_eq!(order(&healths[..1], 64, now).1, 1);
    }

    #[test]
    fn who_is_late_now_and_then_is_not_silent() {
        let now = Instant::now();
        let mut late = answering(10);
        late.missed(Duration::from_millis(50), now);
        late.missed(Duration::from_millis(50), now);
        assert!(!late.is_shunned(now));
        late.missed(Duration::from_millis(50), now);
        assert!(late.is_shunned(now));
        let mut dead = Health::default();
        dead.missed(*PATIENCE.end(), now);
        assert!(dead.is_shunned(now));
    }

    #[test]
    fn patience_follows_what_a_server_takes() {
        assert_eq!(answering(1).patience(), Duration::from_millis(150));
        assert_eq!(answering(100).patience(), Duration::from_millis(400));
        assert_eq!(answering(5_000).patience(), Duration::from_millis(1_200));
        assert_eq!(Health::default().patience(), UNKNOWN);
    }
}
