//! Writing an answer of our own: header, question, records as far as they fit, OPT (RFC 1035
//! section 4, RFC 6891).
//!
//! It must not know where the records come from.

use super::packet::{BARE_OPT, Code, HEADER, IN, Query, flag, opt};

/// The longest answer over UDP, whatever the client takes: more goes over TCP.
pub(crate) const MAX_UDP: usize = 4_096;

/// An answer that is being written.
#[derive(Debug)]
pub(crate) struct Writer<'q, 'o> {
    query: &'q Query<'q>,
    out: &'o mut [u8],
    /// How much is written, the header's place included.
    at: usize,
    /// How long it may be, without its OPT.
    limit: usize,
    counts: [u16; 2],
    truncated: bool,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// What was asked for: an answer without one of these is cut.
    Answer,
    /// What may be useful besides.
    Additional,
}

/// A record's owner: the question's name from this byte on, which is where a label begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner(pub(crate) u8);

impl<'q, 'o> Writer<'q, 'o> {
    /// An answer to `query` in `out`, which has to have room for 512 bytes.
    pub(crate) fn new(query: &'q Query<'q>, udp: bool, out: &'o mut [u8]) -> Self {
        let question = query.question();
        let at = HEADER + question.len();
        out[HEADER..at].copy_from_slice(question);
        let limit = longest(query, udp).min(out.len()) - opt_length(query);
        Self { query, out, at, limit, counts: [0; 2], truncated: false }
    }

    /// Adds a record, its data in parts, if it fits. Of answers that do not, TC tells.
    pub(crate) fn record(
        &mut self,
        section: Section,
        Owner(owner): Owner,
        kind: u16,
        ttl: u32,
        data: &[&[u8]],
    ) -> bool {
        let length: usize = data.iter().map(|part| part.len()).sum();
        let data_length = u16::try_from(length).unwrap_or(u16::MAX);
        if self.truncated || self.at + 12 + usize::from(data_length) > self.limit {
            self.truncated |= section == Section::Answer;
            return false;
        }
        // A pointer (RFC 1035 section 4.1.4) behind the header's 12 bytes.
        let [high, low] = (0xc000 + 12 + u16::from(owner)).to_be_bytes();
        let [kind, class, length] = [kind, IN, data_length].map(u16::to_be_bytes);
        let ttl = ttl.to_be_bytes();
        self.put(&[high, low, kind[0], kind[1], class[0], class[1]]);
        self.put(&[ttl[0], ttl[1], ttl[2], ttl[3], length[0], length[1]]);
        for part in data {
            self.put(part);
        }
        self.counts[usize::from(section == Section::Additional)] += 1;
        true
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// Ends it with this code: how long it is.
    pub(crate) fn finish(self, code: Code) -> usize {
        let [theirs, theirs_too] = self.query.flags();
        let checking_disabled = theirs_too & flag::CD;
        let (lower_code, upper_code) = code.parts();
        let truncated = if self.truncated { flag::TC } else { 0 };
        let [answers, mut additionals] = self.counts;
        additionals += u16::from(self.query.edns.is_some());
        let [answers, additionals] = [answers, additionals].map(u16::to_be_bytes);
        let [id0, id1] = self.query.id();
        self.out[..HEADER].copy_from_slice(&[
            id0,
            id1,
            flag::QR | truncated | theirs & flag::RD,
            flag::RA | checking_disabled | lower_code,
            0,
            1,
            answers[0],
            answers[1],
            0,
            0,
            additionals[0],
            additionals[1],
        ]);
        self.at + write_opt(self.query, upper_code, &[], &mut self.out[self.at..])
    }
}

/// The longest answer a client takes.
pub(crate) fn longest(query: &Query<'_>, udp: bool) -> usize {
    if udp { query.udp_limit().min(MAX_UDP) } else { usize::from(u16::MAX) }
}

/// How long our OPT is, without options.
pub(crate) fn opt_length(query: &Query<'_>) -> usize {
    if query.edns.is_some() { BARE_OPT } else { 0 }
}

/// Writes our own OPT record, when the client sent one (RFC 6891 section 7): nothing of it is
/// echoed but the DO bit (RFC 3225). How long it is.
pub(crate) fn write_opt(query: &Query<'_>, upper_code: u8, options: &[u8], out: &mut [u8]) -> usize {
    let Some(edns) = query.edns else { return 0 };
    out[..BARE_OPT].copy_from_slice(&opt(upper_code, edns.dnssec_ok, options.len()));
    out[BARE_OPT..BARE_OPT + options.len()].copy_from_slice(options);
    BARE_OPT + options.len()
}
