//! The fleet in numbers, for Prometheus and whoever reads its format.
//!
//! What is counted is counted where it happens; what is so now, guests by their condition, is looked at
//! when somebody asks, so that it cannot be wrong for longer.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{Host, Shared, guest::Condition, lock};

/// What every name begins with.
const PREFIX: &str = "tether";

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) reconnects: Counter,
    pub(crate) refused: Family<Refused, Counter>,
    pub(crate) events_dropped: Counter,
    /// From a document's being sent to its being verified, in seconds.
    pub(crate) apply: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconnects: Counter::default(),
            refused: Family::default(),
            events_dropped: Counter::default(),
            // 1 ms to 65 s.
            apply: Histogram::new(exponential_buckets(0.001, 2.0, 17)),
        }
    }
}

/// Those who were refused, by the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
}

/// Why somebody was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// What it says it is, is no id.
    Id,
    /// No guest of this host.
    Unknown,
    /// No version in common.
    Protocol,
    /// A number that no host has given out.
    Generation,
    /// A wrong token.
    Token,
    /// One that came too late.
    Expired,
    /// Another key than the guest's.
    Key,
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder) -> fmt::Result {
        let name = match self {
            Self::Id => "id",
            Self::Unknown => "unknown",
            Self::Protocol => "protocol",
            Self::Generation => "generation",
            Self::Token => "token",
            Self::Expired => "expired",
            Self::Key => "key",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

impl Metrics {
    pub(crate) fn refuse(&self, reason: Reason) {
        self.refused.get_or_create(&Refused { reason }).inc();
    }
}

impl Host {
    /// Adds the numbers of this host and its guests to a program's registry. They are those of this
    /// host's life, and may be in several registries.
    ///
    /// | name | type | what |
    /// |---|---|---|
    /// | `tether_guests{state}` | gauge | guests that are admitted: `away`; there and `idle`, nothing being wanted of them; `pending`, `in_force` or `failed`, by the state that is wanted |
    /// | `tether_apply_seconds` | histogram | from a desired state's being sent to its being verified |
    /// | `tether_reconnects_total` | counter | connections of guests that had been there before |
    /// | `tether_refused_total{reason}` | counter | guests that were refused: `id`, `unknown`, `protocol`, `generation`, `token`, `expired`, `key` |
    /// | `tether_turned_away_total` | counter | [`Host::turned_away`] |
    /// | `tether_events_dropped_total` | counter | events that had no place ([`Event::dropped`](crate::Event::dropped)) |
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix(PREFIX);
        let metrics = &self.shared.metrics;
        let help = "From a desired state's being sent to its being verified";
        registry.register_with_unit("apply", help, Unit::Seconds, metrics.apply.clone());
        let help = "Connections of guests that had been there before";
        registry.register("reconnects", help, metrics.reconnects.clone());
        registry.register("refused", "Guests that were refused, by the reason", metrics.refused.clone());
        let help = "What guests have said and no program of the host has heard in time";
        registry.register("events_dropped", help, metrics.events_dropped.clone());
        registry.register_collector(Box::new(Fleet(Arc::downgrade(&self.shared))));
    }
}

/// What is looked at when somebody asks.
#[derive(Debug)]
struct Fleet(Weak<Shared>);

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let mut counts = [0_u64; Condition::ALL.len()];
        // Nobody waits for all of them while one is waited for.
        let guests: Vec<_> = shared.guests().values().cloned().collect();
        for guest in guests {
            counts[lock(&guest).condition() as usize] += 1;
        }
        let help = "Guests that are admitted, by how it stands with them";
        let mut guests = encoder.encode_descriptor("guests", help, None, MetricType::Gauge)?;
        for (condition, count) in Condition::ALL.into_iter().zip(counts) {
            ConstGauge::new(count).encode(guests.encode_family(&[("state", condition.name())])?)?;
        }
        let help = "Connections that ended before it was known who they are";
        let turned_away = encoder.encode_descriptor("turned_away", help, None, MetricType::Counter)?;
        ConstCounter::new(shared.turned_away.count()).encode(turned_away)
    }
}
