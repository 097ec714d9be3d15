//! The digest of name tables: kept up with changes without looking at what does not change.

use serde::{Deserialize, Serialize};

use super::NameTables;
use crate::{codec, status::Digest};

/// What stands for a set of entries, whatever their order: the sum of the entries' digests.
///
/// A digest of 32 bytes is taken for four numbers of 64 bits, little endian, and each is added
/// for itself, without carry. Two honest sets of the same sum are the same set; it is no defence
/// against somebody who makes tables to collide, and the host that sends them is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum([u64; 4]);

impl Sum {
    /// The sum of one entry: an endpoint's names or an extra host.
    pub fn of<T: Serialize>(entry: &T) -> Self {
        let Digest(bytes) = codec::digest(entry);
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *lane = u64::from_le_bytes(*bytes);
        }
        Self(lanes)
    }

    /// The sum of all of `entries`.
    pub fn of_all<T: Serialize>(entries: &[T]) -> Self {
        let mut sum = Self::default();
        for entry in entries {
            sum.add(Self::of(entry));
        }
        sum
    }

    /// With `other`'s entries.
    pub fn add(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(lane, other)| *lane = lane.wrapping_add(other));
    }

    /// Without `other`'s entries.
    pub fn subtract(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(lane, other)| *lane = lane.wrapping_sub(other));
    }

    /// A short form, that tells the entries of one table from each other.
    pub fn short(self) -> u64 {
        self.0[0]
    }
}

/// What name tables' digest is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The time to live, in seconds.
    pub ttl_seconds: u32,
    /// The extra hosts.
    pub hosts: Sum,
    /// The networks in search order: name, links, endpoints.
    pub networks: Vec<(String, Sum, Sum)>,
}

impl Summary {
    /// The summary of whole tables.
    pub fn of(tables: &NameTables) -> Self {
        let networks = tables.networks.iter().map(|network| {
            (network.network.clone(), Sum::of_all(&network.links), Sum::of_all(&network.endpoints))
        });
        Self {
            ttl_seconds: tables.ttl_seconds,
            hosts: Sum::of_all(&tables.hosts),
            networks: networks.collect(),
        }
    }

    /// The digest a [`Stamp`](crate::status::Stamp) of name tables has: the SHA-256 of the
    /// summary's encoding.
    pub fn digest(&self) -> Digest {
        codec::digest(self)
    }
}
