//! Questions in great number: mostly what clients ask, partly what nobody should. The same seed
//! makes the same questions.

use crate::packet::{
    A, AAAA, AD, ANY, CD, CHAOS, DO, Edns, HTTPS, IN, MX, PTR, QR, Question, RA, RD, SOA, SRV, TC, TXT,
    header, reverse, wire_name,
};

/// Numbers as if by chance (the finaliser of `SplitMix64`).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// From 0 to one less than `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n.max(1)).expect("64 bits");
        usize::try_from(self.next() % n).expect("64 bits")
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// What is wrong with a packet, if anything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twist {
    None,
    /// A response, as its header says.
    Response,
    /// An operation that is no query.
    Operation,
    /// It ends early, though not before its header does.
    Truncated,
    /// It ends before its header does.
    NoHeader,
    /// There is something after its end.
    Trailing,
    /// The name in it points to itself, ahead, or into the header.
    Pointer,
    /// A label of a type there is not.
    LabelType,
    /// No question, or more than one.
    Questions,
    /// Two OPT records.
    TwoOpts,
    /// An option that is longer than its record.
    ShortOption,
    /// EDNS of a version to come.
    Version,
    /// A record in a section where questions have none.
    Records,
}

const TWISTS: [Twist; 12] = [
    Twist::Response,
    Twist::Operation,
    Twist::Truncated,
    Twist::NoHeader,
    Twist::Trailing,
    Twist::Pointer,
    Twist::LabelType,
    Twist::Questions,
    Twist::TwoOpts,
    Twist::ShortOption,
    Twist::Version,
    Twist::Records,
];

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// It is in the tables.
    Ours,
    /// It leads back to a name in the tables.
    OursReverse,
    /// It is not, and the upstream decides.
    Others,
}

/// A packet and how it came about.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) question: Question,
    pub(crate) whose: Whose,
    pub(crate) twist: Twist,
    pub(crate) bytes: Vec<u8>,
}

/// Who is in the tables: names, their IPv4 and their IPv6 addresses. The first is the PTR name.
pub(crate) const TABLE: [(&[&str], &[&str], &[&str]); 5] = [
    (&["server", "web"], &["172.18.0.2"], &["fd00:18::2"]),
    (&["four"], &["172.18.0.3"], &[]),
    (&["six"], &[], &["fd00:18::4"]),
    (&["under_score-1"], &["172.18.0.5"], &["fd00:18::5"]),
    (
        &["crowd"],
        &[
            "172.18.1.1",
            "172.18.1.2",
            "172.18.1.3",
            "172.18.1.4",
            "172.18.1.5",
            "172.18.1.6",
            "172.18.1.7",
            "172.18.1.8",
            "172.18.1.9",
            "172.18.1.10",
            "172.18.1.11",
            "172.18.1.12",
            "172.18.1.13",
            "172.18.1.14",
            "172.18.1.15",
            "172.18.1.16",
            "172.18.1.17",
            "172.18.1.18",
            "172.18.1.19",
            "172.18.1.20",
            "172.18.1.21",
            "172.18.1.22",
            "172.18.1.23",
            "172.18.1.24",
            "172.18.1.25",
            "172.18.1.26",
            "172.18.1.27",
            "172.18.1.28",
            "172.18.1.29",
            "172.18.1.30",
            "172.18.1.31",
            "172.18.1.32",
            "172.18.1.33",
            "172.18.1.34",
            "172.18.1.35",
            "172.18.1.36",
            "172.18.1.37",
            "172.18.1.38",
            "172.18.1.39",
            "172.18.1.40",
        ],
        &["fd00:18::6"],
    ),
];

/// The network they are on.
pub(crate) const NETWORK: &str = "front";

/// A service of a name of ours that nobody offers.
pub(crate) const NO_SERVICE: &str = "_80._tcp.server";

const OTHERS: [&str; 12] = [
    "nobody",
    "nobody.front",
    "www.example",
    "a.b.example",
    "example",
    "server.example",
    "front",
    "server.back",
    NO_SERVICE,
    "_x._y.example",
    ".",
    r"a\.b.example",
];
const KINDS: [u16; 20] =
    [A, A, A, A, AAAA, AAAA, AAAA, MX, TXT, PTR, SRV, HTTPS, ANY, SOA, 2, 5, 257, 251, 252, 4_711];
const PAYLOADS: [u16; 8] = [0, 100, 511, 512, 513, 1_232, 4_096, u16::MAX];

/// `count` packets; the id of each is its number.
pub(crate) fn questions(seed: u64, count: u16) -> Vec<Sent> {
    let mut dice = Dice::new(seed);
    (0..count).map(|id| one(&mut dice, id)).collect()
}

fn one(dice: &mut Dice, id: u16) -> Sent {
    let (mut name, whose) = name(dice);
    if dice.one_in(3) {
        let shout = |byte: u8, up: bool| if up { byte.to_ascii_uppercase() } else { byte };
        name = name.bytes().map(|byte| char::from(shout(byte, dice.one_in(2)))).collect();
    }
    let kind = if whose == Whose::OursReverse && !dice.one_in(3) { PTR } else { dice.of(&KINDS) };
    let mut question = Question::new(&name, kind).id(id);
    question.flags = 0;
    for (flag, rare) in [(RD, 0), (CD, 8), (AD, 8), (RA, 30), (TC, 30), (0x0040, 30)] {
        let set = if rare == 0 { !dice.one_in(10) } else { dice.one_in(rare) };
        question.flags |= if set { flag } else { 0 };
    }
    if dice.one_in(12) {
        question.class = dice.of(&[CHAOS, 4, 254, 255, 4_711, 0]);
    }
    if dice.one_in(2) {
        let mut edns = Edns::of(dice.of(&PAYLOADS));
        edns.flags = if dice.one_in(3) { DO } else { 0 };
        if dice.one_in(4) {
            edns.options.push((10, vec![7; 8]));
        }
        if dice.one_in(8) {
            edns.options.push((65_001, vec![1, 2, 3]));
        }
        question.edns = Some(edns);
    }
    let twist = if dice.one_in(4) { dice.of(&TWISTS) } else { Twist::None };
    let bytes = twisted(dice, &mut question, twist);
    Sent { question, whose, twist, bytes }
}

fn name(dice: &mut Dice) -> (String, Whose) {
    let (names, four, six) = dice.of(&TABLE);
    match dice.below(10) {
        0..4 => (dice.of(names).to_owned(), Whose::Ours),
        4 | 5 => (format!("{}.{NETWORK}", dice.of(names)), Whose::Ours),
        6 => {
            let addresses = [four, six].concat();
            (reverse(dice.of(&addresses)), Whose::OursReverse)
        }
        7 => (reverse(dice.of(&["192.0.2.7", "2001:db8::7"])), Whose::Others),
        _ => (dice.of(&OTHERS).to_owned(), Whose::Others),
    }
}

fn twisted(dice: &mut Dice, question: &mut Question, twist: Twist) -> Vec<u8> {
    let counts = |packet: &mut Vec<u8>, section: usize, count: u16| {
        packet[4 + 2 * section..6 + 2 * section].copy_from_slice(&count.to_be_bytes());
    };
    match twist {
        Twist::None => question.bytes(),
        Twist::Response => {
            question.flags |= QR;
            question.bytes()
        }
        Twist::Operation => {
            question.flags |= dice.of(&[1, 2, 3, 4, 5, 6, 9, 15]) << 11;
            question.bytes()
        }
        Twist::Truncated => {
            let mut packet = question.bytes();
            packet.truncate(12 + dice.below(packet.len() - 12));
            packet
        }
        Twist::NoHeader => question.bytes()[..2 + dice.below(10)].to_vec(),
        Twist::Trailing => {
            let mut packet = question.bytes();
            packet.extend((0..=dice.below(40)).map(|_| dice.byte()));
            packet
        }
        Twist::Pointer | Twist::LabelType => {
            question.edns = None;
            let mut packet = header(question.id, question.flags, [1, 0, 0, 0]);
            if dice.one_in(2) {
                packet.extend(b"\x03abc");
            }
            let own = u8::try_from(packet.len()).expect("a small number");
            let first = if twist == Twist::Pointer { 0xC0 } else { dice.of(&[0x40, 0x41, 0x80, 0xBF]) };
            packet.extend([first, dice.of(&[own, 12, own + 2, 200, 0, 4])]);
            packet.extend(question.kind.to_be_bytes());
            packet.extend(question.class.to_be_bytes());
            packet
        }
        Twist::Questions => {
            let mut packet = question.bytes();
            counts(&mut packet, 0, dice.of(&[0, 2, 3, u16::MAX]));
            packet
        }
        Twist::TwoOpts => {
            question.edns.get_or_insert_with(|| Edns::of(1_232));
            let mut packet = question.bytes();
            packet.extend(Edns::of(4_096).record());
            counts(&mut packet, 3, 2);
            packet
        }
        Twist::ShortOption => {
            let edns = question.edns.get_or_insert_with(|| Edns::of(1_232));
            edns.options = vec![(10, vec![1; 8])];
            let mut packet = question.bytes();
            // The option says more than its record has.
            let at = packet.len() - 9;
            packet[at] = 99;
            packet
        }
        Twist::Version => {
            question.edns.get_or_insert_with(|| Edns::of(1_232)).version = dice.of(&[1, 2, 255]);
            question.bytes()
        }
        Twist::Records => {
            let mut packet = question.bytes();
            let mut record = wire_name("x");
            record.extend(A.to_be_bytes());
            record.extend(IN.to_be_bytes());
            record.extend([0, 0, 0, 5, 0, 4, 192, 0, 2, 99]);
            // In front of the OPT record, in the answer or the authority section.
            let at = packet.len() - question.edns.as_ref().map_or(0, |edns| edns.record().len());
            packet.splice(at..at, record);
            counts(&mut packet, dice.of(&[1, 2]), 1);
            packet
        }
    }
}
