//! Answers as read from bytes, and as written by a server of the test's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::{
    A, AA, AAAA, AD, CD, CNAME, Edns, IN, OPT, PTR, QR, RA, RD, SOA, SRV, TC, header, hex, wire_name,
};

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    /// As it is spelled in the packet.
    pub(crate) owner: String,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    /// An address, a name, or hexadecimal digits.
    pub(crate) data: String,
}

/// A whole packet, understood. Also a query, for who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    /// Name as spelled, type, class.
    pub(crate) question: Option<(String, u16, u16)>,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    /// Without the OPT record.
    pub(crate) additional: Vec<Record>,
    pub(crate) edns: Option<Edns>,
    extended_code: u8,
    pub(crate) length: usize,
}

impl Message {
    /// Reads a packet to its last byte, or says what is wrong with it.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, at: 0 };
        let (id, flags) = (reader.u16()?, reader.u16()?);
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let question = match counts[0] {
            0 => None,
            1 => Some((reader.name()?, reader.u16()?, reader.u16()?)),
            many => return Err(format!("{many} questions")),
        };
        let mut message = Self {
            id,
            flags,
            question,
            answers: vec![],
            authority: vec![],
            additional: vec![],
            edns: None,
            extended_code: 0,
            length: bytes.len(),
        };
        for (section, count) in counts.into_iter().enumerate().skip(1) {
            for _ in 0..count {
                message.read_record(section, &mut reader)?;
            }
        }
        if reader.at != bytes.len() {
            return Err(format!("{} bytes after the end", bytes.len() - reader.at));
        }
        Ok(message)
    }

    fn read_record(&mut self, section: usize, reader: &mut Reader) -> Result<(), String> {
        let owner = reader.name()?;
        let (kind, class, ttl) = (reader.u16()?, reader.u16()?, reader.u32()?);
        let end = usize::from(reader.u16()?) + reader.at;
        let content = reader.bytes.get(reader.at..end).ok_or("a record without its end")?;
        if kind == OPT {
            if section != 3 || self.edns.is_some() || owner != "." {
                return Err("an OPT record out of place".into());
            }
            let [extended, version, high, low] = ttl.to_be_bytes();
            self.extended_code = extended;
            let flags = u16::from_be_bytes([high, low]);
            self.edns = Some(Edns { payload: class, version, flags, options: options(content)? });
            reader.at = end;
            return Ok(());
        }
        let data = match kind {
            A if content.len() == 4 => {
                Ipv4Addr::from(<[u8; 4]>::try_from(content).expect("four bytes")).to_string()
            }
            AAAA if content.len() == 16 => {
                Ipv6Addr::from(<[u8; 16]>::try_from(content).expect("sixteen bytes")).to_string()
            }
            PTR | CNAME => reader.name()?,
            SRV => format!("{} {} {} {}", reader.u16()?, reader.u16()?, reader.u16()?, reader.name()?),
            SOA => {
                let (server, mailbox) = (reader.name()?, reader.name()?);
                let numbers = [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
                format!("{server} {mailbox} {numbers:?}")
            }
            _ => hex(content),
        };
        if matches!(kind, PTR | CNAME | SRV | SOA) && reader.at != end {
            return Err(format!("a record of type {kind} has another length than it says"));
        }
        reader.at = end;
        let record = Record { owner, kind, class, ttl, data };
        [&mut self.answers, &mut self.authority, &mut self.additional][section - 1].push(record);
        Ok(())
    }

    /// With the upper bits an OPT record has.
    pub(crate) fn code(&self) -> u16 {
        u16::from(self.extended_code) << 4 | self.flags & 15
    }

    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn opcode(&self) -> u16 {
        self.flags >> 11 & 15
    }

    /// The answer section's data, in its order.
    pub(crate) fn data(&self) -> Vec<&str> {
        self.answers.iter().map(|record| record.data.as_str()).collect()
    }

    /// The same, sorted.
    pub(crate) fn sorted(&self) -> Vec<&str> {
        let mut data = self.data();
        data.sort_unstable();
        data
    }

    /// The name that was asked for, as it was spelled.
    pub(crate) fn name(&self) -> &str {
        self.question.as_ref().map_or("", |(name, ..)| name)
    }

    pub(crate) fn kind(&self) -> u16 {
        self.question.as_ref().map_or(0, |(_, kind, _)| *kind)
    }
}

fn options(mut content: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, String> {
    let mut options = Vec::new();
    while !content.is_empty() {
        let mut reader = Reader { bytes: content, at: 0 };
        let (code, length) = (reader.u16()?, usize::from(reader.u16()?));
        let option = content.get(4..4 + length).ok_or("an option without its end")?;
        options.push((code, option.to_vec()));
        content = &content[4 + length..];
    }
    Ok(options)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk());
        self.at += N;
        taken.copied().ok_or_else(|| "it ends too early".to_owned())
    }

    fn u16(&mut self) -> Result<u16, String> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.take().map(u32::from_be_bytes)
    }

    /// A name as it is spelled, with its final dot, following pointers (RFC 1035 section 4.1.4).
    fn name(&mut self) -> Result<String, String> {
        let (mut name, mut end, mut total) = (String::new(), None, 0_usize);
        loop {
            let [length] = self.take()?;
            match length {
                0 => break,
                1..=63 => {
                    let label = self.bytes.get(self.at..self.at + usize::from(length));
                    for byte in label.ok_or("a label without its end")? {
                        if matches!(byte, b'.' | b'\\') {
                            name.push('\\');
                        }
                        name.push(char::from(*byte));
                    }
                    name.push('.');
                    self.at += usize::from(length);
                    total += usize::from(length) + 1;
                    if total > 254 {
                        return Err("a name that is too long".into());
                    }
                }
                0xC0.. => {
                    let [low] = self.take()?;
                    let to = usize::from(length & 0x3F) << 8 | usize::from(low);
                    if to >= self.at - 2 {
                        return Err("a pointer that does not lead back".into());
                    }
                    end.get_or_insert(self.at);
                    self.at = to;
                }
                _ => return Err(format!("a label of type {length:#x}")),
            }
        }
        self.at = end.unwrap_or(self.at);
        if name.is_empty() {
            name.push('.');
        }
        Ok(name)
    }
}

/// A reply of a server of the test's own, being written.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    id: u16,
    flags: u16,
    question: Vec<u8>,
    answers: Vec<Vec<u8>>,
    authority: Vec<Vec<u8>>,
    edns: Option<Edns>,
}

impl Reply {
    /// An answer without records to what was asked, RA set, with an OPT record if there was one.
    pub(crate) fn to(asked: &Message) -> Self {
        let (name, kind, class) = asked.question.clone().unwrap_or_default();
        let mut question = wire_name(&name);
        question.extend(kind.to_be_bytes());
        question.extend(class.to_be_bytes());
        Self {
            id: asked.id,
            flags: QR | RA | asked.flags & (RD | CD),
            question,
            answers: vec![],
            authority: vec![],
            edns: asked.edns.as_ref().map(|_| Edns::of(4096)),
        }
    }

    pub(crate) fn code(mut self, code: u16) -> Self {
        self.flags |= code;
        self
    }

    pub(crate) fn flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    pub(crate) fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn edns(mut self, edns: Option<Edns>) -> Self {
        self.edns = edns;
        self
    }

    /// Another question than was asked.
    pub(crate) fn question(mut self, name: &str, kind: u16) -> Self {
        self.question = wire_name(name);
        self.question.extend(kind.to_be_bytes());
        self.question.extend(IN.to_be_bytes());
        self
    }

    /// A record whose owner is the name that was asked for.
    pub(crate) fn record(mut self, kind: u16, ttl: u32, content: &[u8]) -> Self {
        self.answers.push(record(&[0xC0, 12], kind, ttl, content));
        self
    }

    /// A record of somebody else.
    pub(crate) fn other_record(mut self, owner: &str, kind: u16, ttl: u32, content: &[u8]) -> Self {
        self.answers.push(record(&wire_name(owner), kind, ttl, content));
        self
    }

    pub(crate) fn address(self, ttl: u32, address: &str) -> Self {
        match address.parse().expect("an address") {
            IpAddr::V4(v4) => self.record(A, ttl, &v4.octets()),
            IpAddr::V6(v6) => self.record(AAAA, ttl, &v6.octets()),
        }
    }

    /// The SOA record that says for how long there is nothing (RFC 2308).
    pub(crate) fn nothing_for(mut self, zone: &str, ttl: u32, minimum: u32) -> Self {
        let mut content = wire_name("ns.example");
        content.extend(wire_name("admin.example"));
        for number in [2026, 3_600, 600, 86_400, minimum] {
            content.extend(u32::to_be_bytes(number));
        }
        self.authority.push(record(&wire_name(zone), SOA, ttl, &content));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let count = |records: &Vec<Vec<u8>>| u16::try_from(records.len()).expect("not so many");
        let counts = [1, count(&self.answers), count(&self.authority), u16::from(self.edns.is_some())];
        let mut bytes = header(self.id, self.flags, counts);
        bytes.extend(&self.question);
        bytes.extend(self.answers.iter().chain(&self.authority).flatten());
        bytes.extend(self.edns.iter().flat_map(Edns::record));
        bytes
    }
}

fn record(owner: &[u8], kind: u16, ttl: u32, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a record's length");
    let fixed = [kind.to_be_bytes(), IN.to_be_bytes()].concat();
    [owner, &fixed, &ttl.to_be_bytes(), &length.to_be_bytes(), content].concat()
}

/// What a local answer's flags are, whatever it says: an answer, not authoritative, recursion
/// available, RD and CD as in the question, nothing else.
#[track_caller]
pub(crate) fn flags_are_ours(answer: &Message, asked: u16) {
    let copied = QR | RA | asked & (RD | CD | 0x7800);
    let flags = answer.flags & !15 & !TC;
    assert_eq!(flags, copied, "flags {flags:#06x} for {asked:#06x}: {answer:?}");
    assert!(!answer.has(AA) && !answer.has(AD));
}
