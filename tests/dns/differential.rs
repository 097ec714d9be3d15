//! Ten thousand questions, to us and to others: every difference has a reason, or is a fault of
//! ours.

use std::{collections::BTreeMap, fmt::Write as _, fs, net::SocketAddr};

use serde_json::json;

use crate::{
    answers::{Message, Reply},
    client::SERVER,
    packet::{A, AA, AAAA, AD, CD, NXDOMAIN, RA, RD, TC, hex},
    peers::{Aardvark, Dnsmasq, Outcome, lives, outcomes, tables},
    questions::{Sent, questions},
    reasons::{Aspect, Difference, Peer, reason},
    server::Server,
};

/// The seed of the questions: another one asks others.
const SEED: u64 = 2_024;
const COUNT: u16 = 10_000;

/// What every upstream says: everything below `example` is somewhere, nothing else is.
fn upstream_says(asked: &Message) -> Reply {
    let reply = Reply::to(asked);
    let below = asked.name().to_ascii_lowercase().ends_with("example.");
    match asked.kind() {
        A if below => reply.address(60, "192.0.2.1"),
        AAAA if below => reply.address(60, "2001:db8::1"),
        _ if below => reply.nothing_for("example", 60, 60),
        _ => reply.code(NXDOMAIN).nothing_for(".", 60, 60),
    }
}

#[test]
fn ten_thousand_questions_to_us_to_dnsmasq_and_to_aardvark() {
    let server = Server::new(&tables(), &json!({ "upstreams": ["10.53.0.11"], "cache_kib": 0 }));
    // One for each, or what one of them asks would push out what another does.
    let _upstreams = ["10.53.0.11", "10.53.0.12", "10.53.0.13"].map(|address| {
        let upstream = server.upstream(address);
        upstream.does(|asked| crate::upstream::Does::say(&upstream_says(&asked.message)));
        upstream
    });
    let others = &server.outside;
    fs::write(others.etc().join("resolv.conf"), "nameserver 10.53.0.13\n").expect("resolv.conf");
    let (dnsmasq, _aardvark) = (Dnsmasq::start(others, "10.53.0.12"), Aardvark::start(others));
    let (to_dnsmasq, to_aardvark) = (SocketAddr::from(Dnsmasq::AT), SocketAddr::from(Aardvark::AT));
    lives(others, to_dnsmasq);
    lives(others, to_aardvark);

    let sent = questions(SEED, COUNT);
    let (ours, theirs) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| outcomes(&server.space, SERVER, &sent));
        let dnsmasq = scope.spawn(|| outcomes(others, to_dnsmasq, &sent));
        let aardvark = outcomes(others, to_aardvark, &sent);
        let dnsmasq = dnsmasq.join().expect("dnsmasq is asked");
        (ours.join().expect("we are asked"), [(Peer::Dnsmasq, dnsmasq), (Peer::Aardvark, aardvark)])
    });
    assert!(fs::exists(format!("/proc/{}", dnsmasq.id())).expect("/proc"), "dnsmasq has ended");

    let (mut reasons, mut faults) = (BTreeMap::new(), BTreeMap::new());
    for (peer, theirs) in &theirs {
        for ((sent, ours), theirs) in sent.iter().zip(&ours).zip(theirs) {
            for (aspect, our, their) in differences(ours, theirs) {
                let difference = Difference {
                    peer: *peer,
                    sent,
                    aspect,
                    ours: &our,
                    theirs: &their,
                    answer: message(ours),
                };
                if let Some(why) = reason(&difference) {
                    *reasons.entry(why).or_insert(0) += 1;
                } else {
                    let group = (format!("{aspect:?}"), format!("{peer:?}"), format!("{:?}", sent.twist));
                    faults.entry(group).or_insert_with(Vec::new).push(shown(&difference));
                }
            }
        }
    }
    for (why, times) in &reasons {
        println!("{times:6} {why}");
    }
    let mut text = String::new();
    for ((aspect, peer, twist), all) in &faults {
        let _ = writeln!(
            text,
            "{} × {aspect}, {peer}, {twist}:\n{}",
            all.len(),
            all[..all.len().min(4)].join("\n")
        );
    }
    assert!(faults.is_empty(), "differences without a reason:\n{text}");
    // Were everybody silent, there would be no difference either.
    let answered = ours.iter().filter(|outcome| matches!(outcome, Outcome::Answer(_))).count();
    assert!(answered > usize::from(COUNT) * 8 / 10, "only {answered} answers of ours");
}

/// A difference for a person, with the packet.
fn shown(difference: &Difference) -> String {
    let Difference { peer, sent: Sent { question, whose, bytes, .. }, aspect, ours, theirs, .. } = difference;
    let crate::packet::Question { name, kind, class, flags, edns, .. } = question;
    format!(
        "  {:?} {aspect:?}: we {ours}, {peer:?} {theirs}; {name} ({whose:?}) type {kind} class {class} flags {flags:04x} {edns:?}\n    {}",
        difference.sent.twist,
        hex(bytes)
    )
}

fn message(outcome: &Outcome) -> Option<&Message> {
    match outcome {
        Outcome::Answer(message) => Some(message),
        _ => None,
    }
}

/// In what two outcomes differ, and what each is.
fn differences(ours: &Outcome, theirs: &Outcome) -> Vec<(Aspect, String, String)> {
    let (ours, theirs) = match (ours, theirs) {
        (Outcome::Silence, Outcome::Silence) => return vec![],
        (Outcome::Answer(ours), Outcome::Answer(theirs)) => (ours, theirs),
        _ => return vec![(Aspect::Answered, told(ours), told(theirs))],
    };
    let codes = (ours.code(), theirs.code());
    if codes.0 != codes.1 {
        // Who says something else altogether says it with other records and flags.
        return vec![(Aspect::Code, codes.0.to_string(), codes.1.to_string())];
    }
    let mut both = vec![
        (Aspect::Aa, flag(ours, AA), flag(theirs, AA)),
        (Aspect::Tc, flag(ours, TC), flag(theirs, TC)),
        (Aspect::Rd, flag(ours, RD), flag(theirs, RD)),
        (Aspect::Ra, flag(ours, RA), flag(theirs, RA)),
        (Aspect::Ad, flag(ours, AD), flag(theirs, AD)),
        (Aspect::Cd, flag(ours, CD), flag(theirs, CD)),
        (Aspect::Reserved, flag(ours, 0x0040), flag(theirs, 0x0040)),
        (Aspect::Question, format!("{:?}", ours.question), format!("{:?}", theirs.question)),
        (Aspect::Records, records(ours), records(theirs)),
        (Aspect::Authority, kinds(ours), kinds(theirs)),
        (Aspect::Additional, ours.additional.len().to_string(), theirs.additional.len().to_string()),
        (Aspect::Opt, format!("{:?}", ours.edns), format!("{:?}", theirs.edns)),
    ];
    if records(ours) == records(theirs) {
        both.push((Aspect::Owner, owners(ours), owners(theirs)));
        both.push((Aspect::Ttl, ttl(ours), ttl(theirs)));
    }
    both.retain(|(_, ours, theirs)| ours != theirs);
    both
}

fn flag(message: &Message, flag: u16) -> String {
    u16::from(message.has(flag)).to_string()
}

fn records(message: &Message) -> String {
    let records = message.answers.iter().map(|r| format!("{} {} {}", r.kind, r.class, r.data));
    let mut records: Vec<String> = records.collect();
    records.sort_unstable();
    records.join(", ")
}

fn owners(message: &Message) -> String {
    let mut owners: Vec<&str> = message.answers.iter().map(|record| record.owner.as_str()).collect();
    owners.sort_unstable();
    owners.dedup();
    owners.join(", ")
}

fn ttl(message: &Message) -> String {
    message.answers.iter().map(|record| record.ttl).max().unwrap_or(0).to_string()
}

fn kinds(message: &Message) -> String {
    format!("{:?}", message.authority.iter().map(|record| record.kind).collect::<Vec<_>>())
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Silence => "nothing".to_owned(),
        Outcome::Answer(message) => format!("code {}", message.code()),
        Outcome::Unreadable(wrong) => format!("what cannot be read: {wrong}"),
    }
}
