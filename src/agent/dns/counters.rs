//! What the server has done so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tether_wire::status::DnsCounters;

/// One count.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counts of a [`DnsCounters`], which has what they mean.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) queries: Counter,
    pub(super) local: Counter,
    pub(super) cached: Counter,
    pub(super) stale: Counter,
    pub(super) forwarded: Counter,
    pub(super) coalesced: Counter,
    pub(super) failed: Counter,
    pub(super) dropped: Counter,
    pub(super) ignored: Counter,
}

impl Counters {
    /// For the status.
    pub(super) fn values(&self) -> DnsCounters {
        let stale = self.stale.value();
        DnsCounters {
            queries: self.queries.value(),
            local: self.local.value(),
            cached: self.cached.value() + stale,
            stale,
            forwarded: self.forwarded.value(),
            coalesced: self.coalesced.value(),
            failed: self.failed.value(),
            dropped: self.dropped.value(),
            ignored: self.ignored.value(),
        }
    }
}
