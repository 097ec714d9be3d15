//! Messages that are relayed: the client's question as an upstream is asked it, the upstream's
//! answer as the client gets it.
//!
//! Records, code and flags are passed on as they are; what belongs to one hop is made anew: id,
//! question's spelling, OPT, time to live, length. Bytes in, bytes out.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    packet::{Code, HEADER, Query, Record, counts, flag, kind, name_end, opt, question_end},
    writer::{longest, opt_length, write_opt},
};

/// Options that are between two neighbours and go no further: COOKIE (RFC 7873), edns-tcp-keepalive
/// (RFC 7828), Padding (RFC 7830).
const HOP_BY_HOP: [u16; 3] = [10, 11, 12];

/// A question as an upstream is asked it, with this id. Without EDNS it is as an upstream from
/// before RFC 6891 understands it.
pub(super) fn as_request(query: &Query<'_>, id: u16, with_edns: bool) -> Vec<u8> {
    let [flags0, flags1] = query.flags();
    let mut request = Vec::with_capacity(HEADER + query.question().len() + 32);
    request.extend_from_slice(&id.to_be_bytes());
    request.extend_from_slice(&[flags0 & flag::RD, flags1 & (flag::AD | flag::CD)]);
    request.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(with_edns)]);
    request.extend_from_slice(query.question());
    if with_edns {
        let options: Vec<u8> = query.edns.map(|edns| end_to_end(edns.options)).unwrap_or_default();
        let dnssec_ok = query.edns.is_some_and(|edns| edns.dnssec_ok);
        request.extend_from_slice(&opt(0, dnssec_ok, options.len()));
        request.extend_from_slice(&options);
    }
    request
}

/// The options that go to the other end, whole, in order. Those that are not whole do not.
fn end_to_end(mut options: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    while let Some((code, length)) = options
        .first_chunk::<4>()
        .map(|b| (u16::from_be_bytes([b[0], b[1]]), usize::from(u16::from_be_bytes([b[2], b[3]]))))
    {
        let Some((option, rest)) = options.split_at_checked(4 + length) else { break };
        if !HOP_BY_HOP.contains(&code) {
            kept.extend_from_slice(option);
        }
        options = rest;
    }
    kept
}

/// Whether a question has options of its own that go to the other end: its answer is for nobody
/// else.
pub(super) fn has_options(query: &Query<'_>) -> bool {
    query.edns.is_some_and(|edns| !end_to_end(edns.options).is_empty())
}

/// An upstream's answer, walked once: every record is whole, and inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer(Box<[u8]>);

/// Why bytes are not the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAnswer {
    /// Somebody else's, or nobody's: it is as if it had not come.
    Stray,
    /// It is the answer, and it is damaged, or cut where a record was: ask over TCP.
    Malformed,
}

impl Answer {
    /// Takes `bytes` for the answer to `request`, if they are: a response with its id and its
    /// question, whatever the letters' case. A server that cannot read a question may leave it out.
    pub(super) fn read(bytes: &[u8], request: &[u8]) -> Result<Self, NotAnswer> {
        let header = bytes.first_chunk::<HEADER>().ok_or(NotAnswer::Stray)?;
        if header[..2] != request[..2] || header[2] & (flag::QR | flag::OPCODE) != flag::QR {
            return Err(NotAnswer::Stray);
        }
        let question = question(request).ok_or(NotAnswer::Stray)?;
        let [questions, ..] = counts(header);
        let rest = &bytes[HEADER..];
        let asked = match questions {
            1 => rest.get(..question.len()).is_some_and(|theirs| is_same(theirs, question)),
            0 => header[3] & flag::RCODE != 0,
            _ => false,
        };
        if !asked {
            return Err(NotAnswer::Stray);
        }
        if questions == 0 {
            // The client's question is in every answer it gets; the rest is of no use.
            let mut bytes = header.to_vec();
            bytes[4..].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(question);
            return Ok(Self(bytes.into()));
        }
        let answer = Self(bytes.into());
        // After TC there may be half a record.
        if answer.is_truncated() || answer.records().last().is_none_or(|(_, record)| record.is_some()) {
            Ok(answer)
        } else {
            Err(NotAnswer::Malformed)
        }
    }

    /// The bytes it takes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// There is more, over TCP.
    pub(super) fn is_truncated(&self) -> bool {
        self.0[2] & flag::TC != 0
    }

    /// The lower four bits of its code.
    pub(super) fn code(&self) -> u8 {
        self.0[3] & flag::RCODE
    }

    /// The records with their section (0 answer, 1 authority, 2 additional), and `None` in the
    /// place of one that is not whole, which ends it.
    pub(super) fn records(&self) -> impl Iterator<Item = (usize, Option<Record>)> {
        let header = self.0.first_chunk::<HEADER>();
        let [_, answers, authorities, additionals] = header.map(counts).unwrap_or_default().map(u32::from);
        let mut at = question(&self.0).map(|question| HEADER + question.len());
        (0..answers + authorities + additionals).map_while(move |n| {
            let section = usize::from(n >= answers) + usize::from(n >= answers + authorities);
            let record = Record::read(&self.0, at?);
            at = record.map(|record| record.end);
            Some((section, record))
        })
    }

    /// It says that there is no such name, or nothing of the type, which an alias may lead to
    /// (RFC 2308 section 2).
    pub(super) fn is_denial(&self) -> bool {
        let asked = question(&self.0).and_then(|question| question.split_last_chunk::<4>());
        let asked = asked.map(|(_, [high, low, ..])| u16::from_be_bytes([*high, *low]));
        let answers = |record: &Record| asked == Some(kind::ANY) || asked == Some(record.kind);
        match Code::of(self.code()) {
            Some(Code::NxDomain) => true,
            Some(Code::NoError) => {
                let mut answered = self.records().filter(|(section, _)| *section == 0);
                !answered.any(|(_, record)| record.as_ref().is_some_and(answers))
            }
            _ => false,
        }
    }

    /// How long it may be kept, in seconds: the least time to live of its records; of a denial,
    /// what its SOA record says (RFC 2308 section 5). `None` for what is not to be kept: a failure,
    /// a cut answer, a denial without SOA.
    pub(super) fn lifetime(&self) -> Option<u32> {
        let code = Code::of(self.code())?;
        if self.is_truncated() || !matches!(code, Code::NoError | Code::NxDomain) {
            return None;
        }
        let records = || self.records().filter_map(|(section, record)| Some((section, record?)));
        let times = records().filter(|(_, record)| record.kind != kind::OPT).map(|(_, r)| r.ttl(&self.0));
        let least = times.min()?;
        if !self.is_denial() {
            return Some(least);
        }
        let (_, soa) = records().find(|(section, record)| *section == 1 && record.kind == kind::SOA)?;
        // The last of the five numbers at the end of the record (RFC 1035 section 3.3.13).
        let minimum =
            self.0.get(soa.end.checked_sub(4)?..soa.end)?.try_into().ok().map(u32::from_be_bytes)?;
        Some(least.min(minimum))
    }

    /// Whether an address in the answers is one that only the guest's inside or neighbourhood has.
    pub(super) fn leads_inside(&self) -> bool {
        self.records().filter_map(|(_, record)| record).any(|record| {
            let data = &self.0[record.data..record.end];
            match record.kind {
                kind::A => <[u8; 4]>::try_from(data).is_ok_and(|octets| is_inside_v4(octets.into())),
                kind::AAAA => <[u8; 16]>::try_from(data).is_ok_and(|octets| is_inside_v6(octets.into())),
                kind::SVCB | kind::HTTPS => hints_lead_inside(data),
                _ => false,
            }
        })
    }

    /// Writes it to `out` as `query`'s reply, and returns its length.
    ///
    /// `age` changes each time to live. What does not fit the client is left out whole, and TC says
    /// so unless only additional records are missing (RFC 2181 section 9).
    pub(super) fn reply(&self, query: &Query<'_>, udp: bool, age: Age, out: &mut [u8]) -> usize {
        let question = query.question();
        out[..HEADER].copy_from_slice(&self.0[..HEADER]);
        let mut at = HEADER + question.len();
        out[HEADER..at].copy_from_slice(question);
        let limit = longest(query, udp).min(out.len());
        let theirs = self.records().filter_map(|(_, record)| record).find(|record| record.kind == kind::OPT);
        let options = theirs.filter(|_| query.edns.is_some()).map(|r| end_to_end(&self.0[r.data..r.end]));
        // Records before remarks.
        let options = options.filter(|options| options.len() <= limit / 4).unwrap_or_default();
        let room = limit - opt_length(query) - options.len();
        let mut truncated = self.is_truncated();
        let mut kept = [0_u16; 3];
        for (section, record) in self.records() {
            // Offsets have to stay as they are: names may point at one another. OPT is the last
            // nearly always, and what follows it is left out with it.
            let Some(record) = record.filter(|record| record.kind != kind::OPT || section != 2) else {
                break;
            };
            if record.end > room {
                truncated |= section != 2;
                break;
            }
            let into = &mut out[record.start..record.end];
            into.copy_from_slice(&self.0[record.start..record.end]);
            // An owner that is spelled out gets the client's spelling too.
            let name = query.name();
            if into.get(..name.len()).is_some_and(|owner| owner.eq_ignore_ascii_case(name)) {
                into[..name.len()].copy_from_slice(name);
            }
            let ttl = age.applied(record.ttl(&self.0));
            out[record.ttl_at..record.ttl_at + 4].copy_from_slice(&ttl.to_be_bytes());
            kept[section] += 1;
            at = record.end;
        }
        let upper_code = theirs.map_or(0, |record| self.0[record.ttl_at]);
        if upper_code != 0 && query.edns.is_none() {
            // Half of a code would be another one.
            out[3] = out[3] & !flag::RCODE | Code::ServFail as u8;
        }
        at += write_opt(query, upper_code, &options, &mut out[at..]);
        kept[2] += u16::from(query.edns.is_some());
        out[..2].copy_from_slice(&query.id());
        let [theirs, theirs_too] = query.flags();
        out[2] = out[2] & !(flag::TC | flag::RD) | theirs & flag::RD | if truncated { flag::TC } else { 0 };
        // Without RA, nslookup gives up (aardvark-dns#204).
        out[3] = out[3] & !flag::CD | theirs_too & flag::CD | flag::RA;
        for (count, place) in kept.into_iter().zip([6, 8, 10]) {
            out[place..place + 2].copy_from_slice(&count.to_be_bytes());
        }
        at
    }

    /// That the answer is not to be had: REFUSED, and nothing of what it said.
    pub(super) fn refused(mut self) -> Self {
        if let Some(end) = question_end(&self.0) {
            self.0 = self.0[..end].into();
        }
        self.0[3] = self.0[3] & !flag::RCODE | Code::Refused as u8;
        self.0[6..HEADER].fill(0);
        self
    }

    /// It comes out of a cache, and not from an authority.
    pub(super) fn kept(mut self) -> Self {
        self.0[2] &= !flag::AA;
        self
    }
}

/// What becomes of the times to live in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// It has just come.
    New,
    /// It was kept for so many seconds, and has so many left.
    Kept {
        /// Since it came.
        age: u32,
        /// Until its time is over.
        left: u32,
    },
    /// It is past its time, and given for want of a better one: 30 s (RFC 8767 section 4).
    Stale,
}

impl Age {
    fn applied(self, ttl: u32) -> u32 {
        match self {
            Self::New => ttl,
            Self::Kept { age, left } => ttl.saturating_sub(age).min(left),
            Self::Stale => 30,
        }
    }
}

/// Whether two questions are the same: names whatever their letters, type and class to the bit.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    match (one.split_last_chunk::<4>(), other.split_last_chunk::<4>()) {
        (Some((one, rest)), Some((other, other_rest))) => {
            rest == other_rest && one.eq_ignore_ascii_case(other)
        }
        _ => false,
    }
}

/// The question of a message that has one as its first.
fn question(message: &[u8]) -> Option<&[u8]> {
    let end = question_end(message)?;
    message.get(HEADER..end)
}

/// Addresses with which a name of the outside leads to a machine of the inside (RFC 6890).
fn is_inside_v4(address: Ipv4Addr) -> bool {
    let shared = address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64;
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.octets()[0] == 0
        || shared
}

/// Whether a service's record has an address of the inside among its hints (RFC 9460 section 2.2:
/// priority, target, parameters; 4 and 6 are addresses).
fn hints_lead_inside(data: &[u8]) -> bool {
    let mut rest = name_end(data, 2).and_then(|end| data.get(end..)).unwrap_or_default();
    while let Some((head, behind)) = rest.split_first_chunk::<4>() {
        let [key, length] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_be_bytes);
        let Some((value, next)) = behind.split_at_checked(length.into()) else { return false };
        let inside = match key {
            4 => value.as_chunks::<4>().0.iter().any(|octets| is_inside_v4((*octets).into())),
            6 => value.as_chunks::<16>().0.iter().any(|octets| is_inside_v6((*octets).into())),
            _ => false,
        };
        if inside {
            return true;
        }
        rest = next;
    }
    false
}

fn is_inside_v6(address: Ipv6Addr) -> bool {
    // Those that carry an IPv4 address: NAT64 (RFC 6052) and 6to4 (RFC 3056).
    let segments = address.segments();
    let carried = |high: u16, low: u16| is_inside_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    let nat64 = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] && carried(segments[6], segments[7]);
    let six_to_four = segments[0] == 0x2002 && carried(segments[1], segments[2]);
    nat64
        || six_to_four
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some_and(is_inside_v4)
}

#[cfg(test)]
mod tests;
