//! What upstreams have answered, for as long as they said (RFC 1035, RFC 2308), and a while longer
//! for the case that none of them answers (RFC 8767). Bounded in bytes.
//!
//! Two generations: what is used moves to the young one; when that has half of the room, the old
//! one is forgotten whole. That is close to "least recently used", without a list to keep up.
//! It must not ask anybody; the time is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    packet::{MAX_NAME, Query, flag},
    relayed::{Age, Answer},
};
use crate::names::fold;

/// The longest an answer is kept, and a denial (RFC 2308 section 5 has one to three hours).
const LONGEST: u32 = 86_400;
const LONGEST_DENIAL: u32 = 10_800;
/// What an entry takes besides its key and its answer, roughly, in bytes.
const OVERHEAD: usize = 96;

/// What makes two questions the same one: name in lower case, type, and the flags that change an
/// answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(Box<[u8]>);

/// A key that nothing was allocated for.
pub(super) struct KeyBuffer([u8; MAX_NAME + 3], usize);

impl KeyBuffer {
    /// The key of a question.
    pub(super) fn of(query: &Query<'_>) -> Self {
        let mut name = [0; MAX_NAME];
        let length = fold(query.name(), &mut name).len();
        let mut key = [0; MAX_NAME + 3];
        key[..length].copy_from_slice(&name[..length]);
        let [flags0, flags1] = query.flags();
        let dnssec_ok = query.edns.is_some_and(|edns| edns.dnssec_ok);
        let [kind0, kind1] = query.kind().to_be_bytes();
        let flags = flags0 & flag::RD | flags1 & (flag::AD | flag::CD) | u8::from(dnssec_ok) << 7;
        key[length..length + 3].copy_from_slice(&[kind0, kind1, flags]);
        Self(key, length + 3)
    }

    /// As a slice.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0[..self.1]
    }

    /// To be kept.
    pub(super) fn to_key(&self) -> Key {
        Key(self.as_slice().into())
    }
}

impl Key {
    /// As a slice.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Answers by question.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The most bytes, 0 for no cache.
    limit: usize,
    /// How long an answer may be given past its time.
    stale: Duration,
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
    /// How many bytes the young ones take: half of `limit` at most.
    young_bytes: usize,
    /// How often it was emptied: what was asked for before is not kept any more.
    generation: u64,
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    since: Instant,
    lifetime: Duration,
}

/// An answer that was found.
#[derive(Debug)]
pub(super) enum Kept<'c> {
    /// It is good.
    Fresh(&'c Answer, Age),
    /// Its time is over; it will do when nobody answers.
    Stale(&'c Answer),
}

impl Cache {
    /// Changes how much is kept, and how long.
    pub(super) fn bound(&mut self, limit: usize, stale: Duration) {
        if limit < self.limit {
            // Everything fits the new limit, or nothing is kept.
            self.turn();
            self.turn();
        }
        (self.limit, self.stale) = (limit, stale);
    }

    /// Forgets everything.
    pub(super) fn flush(&mut self) {
        self.turn();
        self.turn();
        self.generation += 1;
    }

    /// Changes whenever everything is forgotten.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The answer to the question with this key.
    pub(super) fn find(&mut self, key: &[u8], now: Instant) -> Option<Kept<'_>> {
        if self.limit == 0 {
            return None;
        }
        if let Some((key, entry)) = self.old.remove_entry(key) {
            self.put(key, entry);
        }
        let entry = self.young.get(key)?;
        let age = now.saturating_duration_since(entry.since);
        if age < entry.lifetime {
            let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
            // Not longer for anybody than here: a denial's SOA may have more than it gives.
            let left = seconds(entry.lifetime).saturating_sub(seconds(age));
            Some(Kept::Fresh(&entry.answer, Age::Kept { age: seconds(age), left }))
        } else {
            (age < entry.lifetime + self.stale).then_some(Kept::Stale(&entry.answer))
        }
    }

    /// Keeps an answer that was asked for in this generation, if it is one to be kept.
    pub(super) fn insert(&mut self, key: Key, answer: &Answer, generation: u64, now: Instant) {
        if generation != self.generation {
            return;
        }
        let Some(lifetime) = answer.lifetime().filter(|seconds| *seconds > 0) else { return };
        let longest = if answer.is_denial() { LONGEST_DENIAL } else { LONGEST };
        let lifetime = Duration::from_secs(lifetime.min(longest).into());
        if key.0.len() + answer.len() + OVERHEAD > self.limit / 2 {
            return;
        }
        self.old.remove(&key);
        self.put(key, Entry { answer: answer.clone().kept(), since: now, lifetime });
    }

    fn put(&mut self, key: Key, entry: Entry) {
        let size = |key: &Key, entry: &Entry| key.0.len() + entry.answer.len() + OVERHEAD;
        let bytes = size(&key, &entry);
        if self.young_bytes + bytes > self.limit / 2 {
            self.turn();
        }
        if let Some(before) = self.young.remove(&key) {
            self.young_bytes -= size(&key, &before);
        }
        self.young_bytes += bytes;
        self.young.insert(key, entry);
    }

    /// The young ones are the old ones from now on.
    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.young_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::relayed::as_request;

    /// A question for a name of one label.
    fn packet(label: &str, kind: u8) -> Vec<u8> {
        let length = u8::try_from(label.len()).unwrap();
        let header = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        [&header[..], &[length], label.as_bytes(), &[0, 0, kind, 0, 1]].concat()
    }

    /// The key of a question, and an answer of `bytes` bytes of data to it that is good for 60 s.
    fn answered(label: &str, bytes: u8) -> (Key, Answer) {
        let packet = packet(label, 16);
        let query = Query::read(&packet).unwrap();
        let request = as_request(&query, 1, false);
        let mut answer = request.clone();
        answer[2] |= 0x84;
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, bytes]);
        answer.extend(std::iter::repeat_n(0, bytes.into()));
        (KeyBuffer::of(&query).to_key(), Answer::read(&answer, &request).unwrap())
    }

    fn cache(limit: usize) -> Cache {
        let mut cache = Cache::default();
        cache.bound(limit, Duration::from_mins(1));
        cache
    }

    #[test]
    fn answers_are_fresh_then_stale_then_gone() {
        let mut cache = cache(10_000);
        let ((key, answer), now) = (answered("a", 4), Instant::now());
        cache.insert(key.clone(), &answer, 0, now);
        let mut at = |seconds| match cache.find(&key.0, now + Duration::from_secs(seconds)) {
            Some(Kept::Fresh(_, Age::Kept { age, left })) => format!("{age} {left}"),
            Some(Kept::Fresh(..)) => unreachable!(),
            Some(Kept::Stale(_)) => "stale".to_owned(),
            None => "none".to_owned(),
        };
        assert_eq!([at(0), at(59), at(60), at(119)], ["0 60", "59 1", "stale", "stale"]);
        assert_eq!(at(120), "none");
    }

    #[test]
    fn questions_are_the_same_whatever_their_letters_and_not_whatever_their_flags() {
        let key = |packet: &[u8]| KeyBuffer::of(&Query::read(packet).unwrap()).to_key();
        let asked = packet("name", 1);
        assert_eq!(key(&asked), key(&packet("NaMe", 1)));
        assert_ne!(key(&asked), key(&packet("name", 28)));
        for (byte, flag) in [(2, 0x01), (3, flag::AD), (3, flag::CD)] {
            let mut other = asked.clone();
            other[byte] ^= flag;
            assert_ne!(key(&asked), key(&other), "{byte} {flag}");
        }
    }

    #[test]
    fn what_is_used_stays_within_bounds() {
        let mut cache = cache(8_000);
        let now = Instant::now();
        let (used, answer) = answered("used", 100);
        cache.insert(used.clone(), &answer, 0, now);
        for n in 0..1_000 {
            let (key, answer) = answered(&format!("n{n}"), 100);
            cache.insert(key, &answer, 0, now);
            assert!(cache.find(&used.0, now).is_some(), "after {n}");
            let bytes: usize = cache
                .young
                .iter()
                .chain(&cache.old)
                .map(|(k, e)| k.0.len() + e.answer.len() + OVERHEAD)
                .sum();
            assert!(bytes <= 8_000, "{bytes}");
        }
        assert!(cache.find(&answered("n1", 100).0.0, now).is_none());
    }

    #[test]
    fn what_is_flushed_or_has_no_room_is_not_kept() {
        let mut cache = cache(10_000);
        let ((key, answer), now) = (answered("a", 4), Instant::now());
        cache.insert(key.clone(), &answer, 0, now);
        cache.flush();
        assert!(cache.find(&key.0, now).is_none());
        cache.insert(key.clone(), &answer, 0, now);
        assert!(cache.find(&key.0, now).is_none(), "it was asked for before");
        cache.insert(key.clone(), &answer, cache.generation(), now);
        assert!(cache.find(&key.0, now).is_some());
        cache.bound(0, Duration::ZERO);
        cache.insert(key.clone(), &answer, cache.generation(), now);
        assert!(cache.find(&key.0, now).is_none());
    }
}
