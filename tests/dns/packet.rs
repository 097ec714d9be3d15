//! Questions as bytes, by hand: what a well-behaved client sends, and what none would.

/// Record types by number (RFC 1035, RFC 3596, RFC 2782, RFC 9460).
pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const SOA: u16 = 6;
pub(crate) const PTR: u16 = 12;
pub(crate) const MX: u16 = 15;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;
pub(crate) const OPT: u16 = 41;
pub(crate) const HTTPS: u16 = 65;
pub(crate) const ANY: u16 = 255;

/// Classes.
pub(crate) const IN: u16 = 1;
pub(crate) const CHAOS: u16 = 3;

/// Response codes.
pub(crate) const NOERROR: u16 = 0;
pub(crate) const FORMERR: u16 = 1;
pub(crate) const SERVFAIL: u16 = 2;
pub(crate) const NXDOMAIN: u16 = 3;
pub(crate) const NOTIMP: u16 = 4;
pub(crate) const REFUSED: u16 = 5;
pub(crate) const BADVERS: u16 = 16;

/// Bits of a header's second 16 bits.
pub(crate) const QR: u16 = 0x8000;
pub(crate) const AA: u16 = 0x0400;
pub(crate) const TC: u16 = 0x0200;
pub(crate) const RD: u16 = 0x0100;
pub(crate) const RA: u16 = 0x0080;
pub(crate) const AD: u16 = 0x0020;
pub(crate) const CD: u16 = 0x0010;

/// Bit of an OPT record's flags (RFC 3225).
pub(crate) const DO: u16 = 0x8000;

/// An OPT record (RFC 6891 section 6.1), as sent or as received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) flags: u16,
    /// Options: code and content.
    pub(crate) options: Vec<(u16, Vec<u8>)>,
}

impl Edns {
    /// Nothing special, and this payload size.
    pub(crate) fn of(payload: u16) -> Self {
        Self { payload, ..Self::default() }
    }

    pub(crate) fn record(&self) -> Vec<u8> {
        let mut record = vec![0];
        record.extend(OPT.to_be_bytes());
        record.extend(self.payload.to_be_bytes());
        record.extend([0, self.version]);
        record.extend(self.flags.to_be_bytes());
        let mut options = Vec::new();
        for (code, content) in &self.options {
            options.extend(code.to_be_bytes());
            options.extend(length(content));
            options.extend(content);
        }
        record.extend(length(&options));
        record.extend(options);
        record
    }
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).expect("a record's length").to_be_bytes()
}

/// A question, to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    /// With dots between the labels; `\` and a character stands for that character.
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns>,
}

impl Question {
    /// What a stub resolver asks.
    pub(crate) fn new(name: &str, kind: u16) -> Self {
        Self { id: 0x4711, flags: RD, name: name.to_owned(), kind, class: IN, edns: None }
    }

    pub(crate) fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn class(mut self, class: u16) -> Self {
        self.class = class;
        self
    }

    pub(crate) fn edns(mut self, edns: Edns) -> Self {
        self.edns = Some(edns);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = header(self.id, self.flags, [1, 0, 0, u16::from(self.edns.is_some())]);
        bytes.extend(wire_name(&self.name));
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.class.to_be_bytes());
        bytes.extend(self.edns.iter().flat_map(Edns::record));
        bytes
    }
}

/// The twelve bytes every packet begins with.
pub(crate) fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags, counts[0], counts[1], counts[2], counts[3]].into_iter().flat_map(u16::to_be_bytes).collect()
}

/// A name without compression. The root is empty, or a dot.
pub(crate) fn wire_name(name: &str) -> Vec<u8> {
    let (mut bytes, mut label) = (Vec::new(), Vec::new());
    let mut characters = name.bytes();
    let mut close = |label: &mut Vec<u8>| {
        if !label.is_empty() {
            bytes.push(u8::try_from(label.len()).expect("a label is short"));
            bytes.append(label);
        }
    };
    while let Some(byte) = characters.next() {
        match byte {
            b'.' => close(&mut label),
            b'\\' => label.extend(characters.next()),
            other => label.push(other),
        }
    }
    close(&mut label);
    bytes.push(0);
    bytes
}

/// The name under which an address is looked up in reverse (RFC 1035 section 3.5, RFC 3596
/// section 2.5).
pub(crate) fn reverse(address: &str) -> String {
    use std::fmt::Write as _;
    match address.parse().expect("an address") {
        std::net::IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        std::net::IpAddr::V6(v6) => {
            let mut name = String::new();
            for octet in v6.octets().into_iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", octet & 15, octet >> 4);
            }
            name + "ip6.arpa"
        }
    }
}

/// Bytes in hexadecimal, for a person who has to send them again.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
