//! DNS packets as the bytes they are (RFC 1035 section 4): reading a query, walking the records
//! of an answer, writing flags. Nothing is allocated, and nothing is believed before it is checked.
//!
//! It must not know whose a name is or who is asked.

pub(crate) use crate::names::MAX_NAME;

/// The length of a header.
pub(crate) const HEADER: usize = 12;
/// What UDP takes without EDNS (RFC 1035 section 2.3.4).
pub(crate) const PLAIN_UDP: usize = 512;
/// The UDP payload size we offer: what fits an Ethernet packet without fragments (RFC 9715).
pub(crate) const OUR_PAYLOAD: u16 = 1_232;
/// The longest question that is read: a name, an OPT record and a good many options.
pub(crate) const LONGEST_QUESTION: usize = 4_096;
/// The length of an OPT record without options (RFC 6891 section 6.1.2).
pub(crate) const BARE_OPT: usize = 11;

/// An OPT record as a bare one begins, with what is given of it; `length` bytes of options follow.
pub(crate) fn opt(upper_code: u8, dnssec_ok: bool, length: usize) -> [u8; BARE_OPT] {
    let [kind0, kind1] = kind::OPT.to_be_bytes();
    let [payload0, payload1] = OUR_PAYLOAD.to_be_bytes();
    // Options are parts of packets, whose length fits.
    let [length0, length1] = u16::try_from(length).unwrap_or_default().to_be_bytes();
    let dnssec_ok = if dnssec_ok { 0x80 } else { 0 };
    [0, kind0, kind1, payload0, payload1, upper_code, 0, dnssec_ok, 0, length0, length1]
}

/// Flags of the header, in its bytes 2 and 3.
pub(crate) mod flag {
    /// Byte 2: a response.
    pub(crate) const QR: u8 = 0x80;
    /// Byte 2: from an authority.
    pub(crate) const AA: u8 = 0x04;
    /// Byte 2: the operation, 0 for a query.
    pub(crate) const OPCODE: u8 = 0x78;
    /// Byte 2: cut.
    pub(crate) const TC: u8 = 0x02;
    /// Byte 2: recursion is desired.
    pub(crate) const RD: u8 = 0x01;
    /// Byte 3: recursion is available.
    pub(crate) const RA: u8 = 0x80;
    /// Byte 3: authentic data (RFC 6840 section 5.7).
    pub(crate) const AD: u8 = 0x20;
    /// Byte 3: checking disabled.
    pub(crate) const CD: u8 = 0x10;
    /// Byte 3: the response code's lower four bits.
    pub(crate) const RCODE: u8 = 0x0f;
}

/// Record types that mean something here.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const SVCB: u16 = 64;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

/// The class of the internet, the only one there is.
pub(crate) const IN: u16 = 1;

/// Response codes (RFC 1035, RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    /// Its upper part is in the OPT record, and the header has 0.
    BadVers = 16,
}

impl Code {
    /// The part of it that the header has, and the part that OPT has (RFC 6891 section 6.1.3).
    pub(crate) fn parts(self) -> (u8, u8) {
        (self as u8 & flag::RCODE, self as u8 >> 4)
    }

    /// The code of these four bits, where it means something here.
    pub(crate) fn of(bits: u8) -> Option<Self> {
        use Code::{FormErr, NoError, NotImp, NxDomain, Refused, ServFail};
        [NoError, FormErr, ServFail, NxDomain, NotImp, Refused].into_iter().find(|code| *code as u8 == bits)
    }
}

/// A query of one question, well formed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'p> {
    /// All of it, 17 bytes at least: header, name, type, class.
    packet: &'p [u8],
    /// Where the question ends.
    end: usize,
    /// Its OPT record.
    pub(crate) edns: Option<Edns<'p>>,
}

/// The OPT record of a query (RFC 6891 section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns<'p> {
    /// How long a UDP answer its sender takes.
    pub(crate) payload: u16,
    /// 0 is the only version there is.
    pub(crate) version: u8,
    /// DNSSEC records are wanted (RFC 3225).
    pub(crate) dnssec_ok: bool,
    /// The options, whole, as they came.
    pub(crate) options: &'p [u8],
}

/// A packet that is not a query to be answered with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Not a question: no answer, so that two servers cannot keep each other busy.
    Ignore,
    /// A question nobody can answer: this code, and nothing of the packet but id and operation.
    Refuse(Code),
}

impl<'p> Query<'p> {
    /// Reads a packet.
    ///
    /// FORMERR: another number of questions than one (nobody has ever agreed on what they mean,
    /// RFC 9619), a name that is compressed or too long, records that are not whole, two OPT
    /// records (RFC 6891 section 6.1.1), bytes after the end. NOTIMP: another operation.
    pub(crate) fn read(packet: &'p [u8]) -> Result<Self, Unfit> {
        let header = packet.first_chunk::<HEADER>().ok_or(Unfit::Ignore)?;
        if header[2] & flag::QR != 0 {
            return Err(Unfit::Ignore);
        }
        if header[2] & flag::OPCODE != 0 {
            return Err(Unfit::Refuse(Code::NotImp));
        }
        let malformed = Unfit::Refuse(Code::FormErr);
        let [questions, answers, authorities, additionals] = counts(header);
        if questions != 1 {
            return Err(malformed);
        }
        let end = question_end(packet).ok_or(malformed)?;
        let mut query = Self { packet, end, edns: None };
        let mut at = end;
        for n in 0..u32::from(answers) + u32::from(authorities) + u32::from(additionals) {
            let record = Record::read(packet, at).ok_or(malformed)?;
            at = record.end;
            if record.kind == kind::OPT {
                let additional = n >= u32::from(answers) + u32::from(authorities);
                if !additional || query.edns.is_some() || packet[record.start] != 0 {
                    return Err(malformed);
                }
                query.edns = Some(Edns {
                    payload: record.class,
                    version: packet[record.ttl_at + 1],
                    dnssec_ok: packet[record.ttl_at + 2] & 0x80 != 0,
                    options: &packet[record.data..record.end],
                });
            }
        }
        if at == packet.len() { Ok(query) } else { Err(malformed) }
    }

    /// The packet as it came.
    pub(crate) fn packet(&self) -> &'p [u8] {
        self.packet
    }

    /// Its id.
    pub(crate) fn id(&self) -> [u8; 2] {
        [self.packet[0], self.packet[1]]
    }

    /// Bytes 2 and 3 of the header.
    pub(crate) fn flags(&self) -> [u8; 2] {
        [self.packet[2], self.packet[3]]
    }

    /// The question as it came: name, type, class.
    pub(crate) fn question(&self) -> &'p [u8] {
        &self.packet[HEADER..self.end]
    }

    /// The name asked for, root included, spelled as it came.
    pub(crate) fn name(&self) -> &'p [u8] {
        &self.packet[HEADER..self.end - 4]
    }

    /// The type asked for.
    pub(crate) fn kind(&self) -> u16 {
        u16::from_be_bytes([self.packet[self.end - 4], self.packet[self.end - 3]])
    }

    /// The class asked for.
    pub(crate) fn class(&self) -> u16 {
        u16::from_be_bytes([self.packet[self.end - 2], self.packet[self.end - 1]])
    }

    /// The longest answer the client takes over UDP.
    pub(crate) fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_UDP, |edns| usize::from(edns.payload).max(PLAIN_UDP))
    }
}

/// A resource record within a packet: offsets into it, in order and inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where its owner's name begins.
    pub(crate) start: usize,
    /// Its type.
    pub(crate) kind: u16,
    /// Its class; OPT has a payload size there.
    pub(crate) class: u16,
    /// Where its time to live is, four bytes; OPT has code, version and flags there.
    pub(crate) ttl_at: usize,
    /// Where its data begins.
    pub(crate) data: usize,
    /// Where it ends.
    pub(crate) end: usize,
}

impl Record {
    /// The record at `start`, if there is a whole one.
    pub(crate) fn read(packet: &[u8], start: usize) -> Option<Self> {
        let fixed = name_end(packet, start)?;
        let bytes: &[u8; 10] = packet.get(fixed..fixed + 10)?.try_into().ok()?;
        let data = fixed + 10;
        let end = data + usize::from(u16::from_be_bytes([bytes[8], bytes[9]]));
        (end <= packet.len()).then_some(Self {
            start,
            kind: u16::from_be_bytes([bytes[0], bytes[1]]),
            class: u16::from_be_bytes([bytes[2], bytes[3]]),
            ttl_at: fixed + 4,
            data,
            end,
        })
    }

    /// Its time to live in seconds. More than 2^31 counts as none (RFC 2181 section 8).
    pub(crate) fn ttl(&self, packet: &[u8]) -> u32 {
        let bytes = packet.get(self.ttl_at..self.ttl_at + 4).and_then(|bytes| bytes.try_into().ok());
        let ttl = bytes.map_or(0, u32::from_be_bytes);
        if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl }
    }
}

/// How many questions, answers, authorities and additional records a header claims.
pub(crate) fn counts(header: &[u8; HEADER]) -> [u16; 4] {
    [4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]))
}

/// Where the first question of a message ends, if it is whole.
pub(crate) fn question_end(message: &[u8]) -> Option<usize> {
    Some(name_end(message, HEADER)? + 4).filter(|end| *end <= message.len())
}

/// Where the name at `start` ends. A name ends at its root or with a pointer (RFC 1035 section
/// 4.1.4), which is not followed: nothing here needs the names of records. The question is the
/// first name of a packet and has nothing to point to.
pub(crate) fn name_end(packet: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match *packet.get(at)? {
            0 => return (at + 1 - start <= MAX_NAME).then_some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. if start != HEADER => {
                packet.get(at + 1)?;
                return Some(at + 2);
            }
            _ => return None,
        }
    }
}
