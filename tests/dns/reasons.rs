//! Why an answer of ours is right though somebody else's is another. Each reason says of which
//! packets it is, and what ours has to be; what fits no reason is a fault of ours.

use crate::{
    answers::Message,
    packet::{A, ANY, CD, DO, Edns, FORMERR, IN, NOTIMP, NXDOMAIN, PTR, QR, RD, REFUSED, TC},
    questions::{NO_SERVICE, Sent, Twist, Whose},
};

/// Who answered otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Dnsmasq,
    Aardvark,
}

/// In what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aspect {
    Answered,
    Code,
    Aa,
    Tc,
    Rd,
    Ra,
    Ad,
    Cd,
    Reserved,
    Question,
    Records,
    Owner,
    Ttl,
    Authority,
    Additional,
    Opt,
}

/// One difference.
pub(crate) struct Difference<'a> {
    pub(crate) peer: Peer,
    pub(crate) sent: &'a Sent,
    pub(crate) aspect: Aspect,
    pub(crate) ours: &'a str,
    pub(crate) theirs: &'a str,
    /// Ours, when there is one.
    pub(crate) answer: Option<&'a Message>,
}

impl Difference<'_> {
    /// Whether somebody says another code than our `code`, or nothing at all.
    fn code(&self, code: u16) -> bool {
        self.whether() && self.answer.is_some_and(|answer| answer.code() == code)
    }

    /// Whether it is about being answered, and by what.
    fn whether(&self) -> bool {
        matches!(self.aspect, Aspect::Answered | Aspect::Code)
    }

    /// Whether it is about a flag, which ours has as the question has it.
    fn copied(&self, aspect: Aspect, flag: u16) -> bool {
        let asked = if self.sent.question.flags & flag == 0 { "0" } else { "1" };
        self.aspect == aspect && self.ours == asked
    }

    /// Whether it is not a whole question, or more than one.
    fn malformed(&self) -> bool {
        use Twist::{LabelType, Pointer, Questions, Trailing, Truncated, TwoOpts};
        matches!(self.sent.twist, Truncated | Trailing | Pointer | LabelType | Questions | TwoOpts)
    }

    fn kind(&self) -> u16 {
        self.sent.question.kind
    }

    fn local(&self) -> bool {
        self.sent.whose != Whose::Others
    }

    /// Whether ours has no records, and no complaint.
    fn nothing_of_the_type(&self) -> bool {
        self.answer.is_some_and(|answer| answer.code() == 0 && answer.answers.is_empty())
    }

    fn is(&self, peer: Peer, aspect: Aspect) -> bool {
        self.peer == peer && self.aspect == aspect
    }

    /// The most bytes the client takes over UDP.
    fn limit(&self) -> usize {
        self.sent.question.edns.as_ref().map_or(512, |edns| usize::from(edns.payload))
    }

    /// The OPT record our answer has to have.
    fn opt(&self) -> String {
        let ours =
            self.sent.question.edns.as_ref().map(|edns| Edns { flags: edns.flags & DO, ..Edns::of(1_232) });
        format!("{ours:?}")
    }
}

type Fits = fn(&Difference) -> bool;

const TRANSFERS: std::ops::RangeInclusive<u16> = 251..=252;

/// The reasons; the first that fits is the one.
const REASONS: &[(&str, Fits)] = &[
    ("a response, or half a header, is no question: answering it could go on for ever", |it| {
        let no_question = it.sent.twist == Twist::NoHeader || it.sent.question.flags & QR != 0;
        no_question && it.aspect == Aspect::Answered && it.ours == "nothing"
    }),
    ("what is not one whole question is FORMERR: others drop it, guess, or pass it on", |it| {
        it.malformed() && it.code(FORMERR)
    }),
    ("operations that are no queries are NOTIMP: others drop them, or answer as if they were", |it| {
        it.sent.twist == Twist::Operation && it.code(NOTIMP)
    }),
    ("EDNS of a later version is BADVERS (RFC 6891 section 6.1.3): others take it for version 0", |it| {
        it.sent.twist == Twist::Version && it.code(16)
    }),
    ("names in other classes are none of ours: REFUSED; others drop them, or answer as if they were", |it| {
        it.sent.question.class != IN && it.code(REFUSED)
    }),
    ("a zone is not transferred to a container: NOTIMP; others pass the question on as it is", |it| {
        it.sent.whose == Whose::Others && TRANSFERS.contains(&it.kind()) && it.code(NOTIMP)
    }),
    (
        "an option longer than its record is left out, for nothing of ours reads it; others drop the question",
        |it| it.sent.twist == Twist::ShortOption && it.whether() && it.theirs != "code 1",
    ),
    (
        "a record beside a question changes nothing about it: others send it back, or pass the question on",
        |it| {
            let records = [Aspect::Records, Aspect::Owner, Aspect::Ttl, Aspect::Authority, Aspect::Tc];
            let plain = !it.ours.contains("192.0.2.99") && records.contains(&it.aspect);
            it.sent.twist == Twist::Records && (plain || it.local() && it.code(0))
        },
    ),
    ("a service nobody offers, below a name of ours, is nothing: others ask on about our name", |it| {
        it.sent.question.name.eq_ignore_ascii_case(NO_SERVICE) && it.nothing_of_the_type()
    }),
    ("there is no error for any type of a name that exists, in reverse too (moby/libnetwork#1039)", |it| {
        it.local() && it.whether() && it.nothing_of_the_type()
    }),
    ("aardvark: one label is forwarded too, and the answer relayed (aardvark-dns#523)", |it| {
        let one = !it.sent.question.name.contains('.');
        it.peer == Peer::Aardvark && it.sent.whose == Whose::Others && one && it.whether()
    }),
    ("aardvark: addresses are found in reverse in any case, and for IPv6 (aardvark-dns#146)", |it| {
        let found = it.answer.is_some_and(|answer| answer.code() == 0 && answer.answers.len() == 1);
        let reverse = it.sent.whose == Whose::OursReverse && [PTR, ANY].contains(&it.kind());
        it.peer == Peer::Aardvark && reverse && found && (it.whether() || it.aspect == Aspect::Records)
    }),
    (
        "dnsmasq: a network's own name is nobody's, and the upstream's NXDOMAIN is relayed (moby#45565)",
        |it| {
            let network = it.sent.question.name.eq_ignore_ascii_case("front");
            it.peer == Peer::Dnsmasq && network && it.code(NXDOMAIN)
        },
    ),
    ("dnsmasq: our answers are not authoritative, as Docker's are not", |it| {
        it.is(Peer::Dnsmasq, Aspect::Aa) && it.ours == "0"
    }),
    ("aardvark: AD is not copied into an answer nobody has validated", |it| {
        it.is(Peer::Aardvark, Aspect::Ad) && it.ours == "0"
    }),
    ("aardvark: recursion is available whether it is desired or not (aardvark-dns#204)", |it| {
        it.is(Peer::Aardvark, Aspect::Ra) && it.ours == "1"
    }),
    ("a reserved bit is zero in an answer (RFC 1035 section 4.1.1)", |it| {
        it.aspect == Aspect::Reserved && it.ours == "0"
    }),
    ("RD and CD are the question's (RFC 1035 section 4.1.1, RFC 4035 section 3.2.2), in errors too", |it| {
        it.copied(Aspect::Rd, RD) || it.copied(Aspect::Cd, CD)
    }),
    ("aardvark: what is too long for UDP is cut and has TC", |it| {
        let long = [A, ANY].contains(&it.kind()) && it.answer.is_some_and(|answer| answer.has(TC));
        it.peer == Peer::Aardvark && long && [Aspect::Tc, Aspect::Records].contains(&it.aspect)
    }),
    ("dnsmasq: of what is too long as much is given as fits, which is not always the same part", |it| {
        let cut = it.answer.is_some_and(|answer| answer.has(TC) && answer.length <= 512.max(it.limit()));
        it.is(Peer::Dnsmasq, Aspect::Records) && cut && it.local()
    }),
    ("aardvark: TC says something of the answer, and is not copied from the question", |it| {
        it.is(Peer::Aardvark, Aspect::Tc) && it.ours == "0" && it.sent.question.flags & TC != 0
    }),
    ("aardvark: ANY is answered by all addresses", |it| {
        it.is(Peer::Aardvark, Aspect::Records)
            && it.kind() == ANY
            && !it.ours.is_empty()
            && it.theirs.is_empty()
    }),
    ("a name is spelled as the client spelled it, for whoever compares (0x20)", |it| {
        let asked = it.answer.map(Message::name).unwrap_or_default();
        it.aspect == Aspect::Owner && it.ours == asked
    }),
    (
        "dnsmasq: a good question does not wait with an equal one that was broken when it was passed on",
        |it| it.is(Peer::Dnsmasq, Aspect::Answered) && it.theirs == "nothing" && it.sent.twist == Twist::None,
    ),
    ("dnsmasq: who asks hears its own question, not that of somebody else who asked the same", |it| {
        let spelled = format!("{}.", it.sent.question.name.trim_end_matches('.'));
        it.is(Peer::Dnsmasq, Aspect::Question) && it.answer.is_some_and(|answer| answer.name() == spelled)
    }),
    ("aardvark: a dead address is not remembered for a day (aardvark-dns#429)", |it| {
        it.is(Peer::Aardvark, Aspect::Ttl) && it.local() && it.ours == "5"
    }),
    ("dnsmasq: nobody is to remember that a name of ours has nothing of a type, so there is no SOA", |it| {
        it.is(Peer::Dnsmasq, Aspect::Authority) && it.local() && it.ours == "[]"
    }),
    ("aardvark: the upstream's SOA is relayed, which says for how long there is nothing", |it| {
        it.is(Peer::Aardvark, Aspect::Authority) && it.sent.whose == Whose::Others && it.ours == "[6]"
    }),
    (
        "the OPT record is our own: our size, DO copied, nothing echoed, none unasked (RFC 6891 section 7)",
        |it| it.aspect == Aspect::Opt && it.ours == it.opt(),
    ),
];

/// Why ours is right, `None` when it is not.
pub(crate) fn reason(difference: &Difference) -> Option<&'static str> {
    REASONS.iter().find(|(_, fits)| fits(difference)).map(|(why, _)| *why)
}
