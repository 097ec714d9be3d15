//! What is asked, ready to be sent, and what a right answer has.

use crate::{
    tables::{Container, Table},
    upstream,
};

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const NXDOMAIN: u8 = 3;
/// Where the digits of a fresh name are: behind the header and a label's length.
const DIGITS: std::ops::Range<usize> = 13..21;

/// Questions that are asked in turn, for ever.
pub(crate) struct Questions {
    pub(crate) list: Vec<Question>,
    /// Each time the name is another one.
    fresh: bool,
}

pub(crate) struct Question {
    name: String,
    packet: Vec<u8>,
    rcode: u8,
    answers: u16,
    /// What is somewhere in the answer.
    data: Vec<u8>,
}

impl Questions {
    /// Every container's IPv4 address.
    pub(crate) fn a(table: &Table) -> Self {
        Self::of(table, |container| vec![a(container)])
    }

    /// Every container's addresses, IPv4 and IPv6 in turn.
    pub(crate) fn mixed(table: &Table) -> Self {
        let aaaa = |container: &Container| Question::new(&container.name, AAAA, &container.v6.octets());
        Self::of(table, |container| vec![a(container), aaaa(container)])
    }

    /// Every container's name, by its IPv4 address.
    pub(crate) fn ptr(table: &Table) -> Self {
        Self::of(table, |container| {
            let [a, b, c, d] = container.v4.octets();
            let label = u8::try_from(container.name.len()).expect("a short name");
            let data = [&[label], container.name.as_bytes()].concat();
            vec![Question::new(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), PTR, &data)]
        })
    }

    /// Names below a server's own `suffix` that nobody has.
    pub(crate) fn nxdomain(suffix: &str) -> Self {
        let question = |n| {
            let question = Question::new(&format!("nobody{n}.{suffix}"), A, &[]);
            Question { rcode: NXDOMAIN, answers: 0, ..question }
        };
        Self { list: (0..1_000).map(question).collect(), fresh: false }
    }

    /// Names of the upstream server's that nobody has asked for before.
    pub(crate) fn fresh() -> Self {
        let question = Question::new("00000000.www.example.com", A, &upstream::ADDRESS);
        Self { list: vec![question], fresh: true }
    }

    /// A hundred names of the upstream server's.
    pub(crate) fn repeated() -> Self {
        let question = |n| Question::new(&format!("repeated{n}.www.example.com"), A, &upstream::ADDRESS);
        Self { list: (0..100).map(question).collect(), fresh: false }
    }

    fn of(table: &Table, questions: impl Fn(&Container) -> Vec<Question>) -> Self {
        Self { list: table.containers().iter().flat_map(questions).collect(), fresh: false }
    }

    /// Writes the question that is the `turn`-th to be asked to a packet, under this id, and
    /// returns its length.
    pub(crate) fn write(&self, turn: u64, id: u16, packet: &mut [u8]) -> usize {
        let question = self.at(turn);
        let length = question.packet.len();
        packet[..length].copy_from_slice(&question.packet);
        packet[..2].copy_from_slice(&id.to_be_bytes());
        if self.fresh {
            for (n, byte) in packet[DIGITS].iter_mut().enumerate() {
                *byte = b'a' + u8::try_from(turn >> (4 * n) & 15).expect("four bits");
            }
        }
        length
    }

    /// Whether an answer to the `turn`-th question looks right.
    pub(crate) fn is_answered(&self, turn: u64, packet: &[u8]) -> bool {
        let question = self.at(turn);
        packet.len() >= 12
            && packet[2] & 0x80 != 0
            && packet[3] & 15 == question.rcode
            && packet[6..8] == question.answers.to_be_bytes()
    }

    /// As [`is_answered`](Self::is_answered), and its data are right too; else what is wrong.
    pub(crate) fn verify(&self, turn: u64, packet: &[u8]) -> Result<(), String> {
        let question = self.at(turn);
        let data = &question.data;
        let has_data = data.is_empty() || packet.windows(data.len()).any(|window| window == data);
        if self.is_answered(turn, packet) && has_data {
            return Ok(());
        }
        let (rcode, answers) = packet.get(..8).map_or((0, 0), |head| (head[3] & 15, head[7]));
        let name = &question.name;
        Err(format!("{name} is answered with rcode {rcode} and {answers} records, not as it should be"))
    }

    fn at(&self, turn: u64) -> &Question {
        let count = self.list.len() as u64;
        &self.list[usize::try_from(turn % count).expect("less than there are")]
    }
}

impl Question {
    fn new(name: &str, kind: u16, data: &[u8]) -> Self {
        // No id yet, recursion desired, one question.
        let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(u8::try_from(label.len()).expect("a label"));
            packet.extend(label.as_bytes());
        }
        packet.push(0);
        packet.extend([kind, 1].map(u16::to_be_bytes).into_iter().flatten());
        Self { name: name.to_owned(), packet, rcode: 0, answers: 1, data: data.to_owned() }
    }
}

fn a(container: &Container) -> Question {
    Question::new(&container.name, A, &container.v4.octets())
}
