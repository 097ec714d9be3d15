//! The rows of the field notes that are about packets and connections: what is too long, what is
//! no question, what TCP clients do.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use serde_json::json;
use tether_tests::wait_for;

use crate::{
    answers::flags_are_ours,
    client::{Client, frame, read},
    packet::{
        A, AAAA, AD, BADVERS, CHAOS, DO, Edns, FORMERR, NOERROR, NOTIMP, QR, Question, RA, RD, REFUSED,
        SERVFAIL, TC, header, wire_name,
    },
    server::Server,
    tables::two_networks,
};

fn server() -> Server {
    Server::new(&two_networks(), &json!({}))
}

#[test]
fn aardvark_2_0_vic_what_is_too_long_for_udp_has_tc_and_is_whole_over_tcp() {
    let server = server();
    let crowd = Question::new("crowd", A);
    // 60 addresses are 60 × 16 bytes and the question.
    for (edns, most) in [
        (None, 512),
        (Some(Edns::of(0)), 512),
        (Some(Edns::of(100)), 512),
        (Some(Edns::of(600)), 600),
        (Some(Edns::of(900)), 900),
    ] {
        let mut question = crowd.clone();
        question.edns = edns;
        let answer = server.ask(&question);
        assert!(answer.has(TC) && answer.length <= most, "{question:?}: {answer:?}");
        assert_eq!(answer.code(), NOERROR);
        flags_are_ours(&answer, RD);
    }
    // As much as fits is given.
    let cut = server.ask(&crowd);
    assert!(cut.answers.len() > 20, "{} addresses", cut.answers.len());
    for payload in [1_232, 4_096, u16::MAX] {
        let answer = server.ask(&crowd.clone().edns(Edns::of(payload)));
        assert!(!answer.has(TC), "{payload}");
        assert_eq!(answer.answers.len(), 60, "{payload}");
    }
    let answer = server.connection().ask(&crowd);
    assert!(!answer.has(TC));
    assert_eq!(answer.answers.len(), 60);
}

#[test]
fn aardvark_2_0_what_is_no_question_for_us_gets_its_code_or_nothing() {
    let server = server();
    let client = server.client();
    let good = Question::new("server", A);
    // Not questions: no answer, so that two servers cannot keep each other busy.
    client.is_ignored(&good.clone().flags(QR | RD).bytes(), &good.clone().id(1));
    for length in 0..12 {
        client.is_ignored(&good.bytes()[..length], &good.clone().id(2));
    }
    // Other operations, of whatever shape.
    for opcode in [1, 2, 3, 4, 5, 6, 15] {
        let answer = client.raw(&good.clone().flags(opcode << 11 | RD).bytes());
        assert_eq!((answer.code(), answer.opcode(), answer.id), (NOTIMP, opcode, good.id));
    }
    let notify = header(7, 4 << 11, [1, 1, 0, 0]);
    assert_eq!(client.raw(&notify).code(), NOTIMP);
    // Other classes: CHAOS, HESIOD, NONE, ANY, and what nobody has heard of.
    for class in [CHAOS, 4, 254, 255, 4_711, 0] {
        let answer = client.ask(&good.clone().class(class));
        assert_eq!(answer.code(), REFUSED, "class {class}");
        flags_are_ours(&answer, RD);
    }
    // No question, and more than one.
    for count in [0, 2, 65_535] {
        let mut packet = good.bytes();
        packet[4..6].copy_from_slice(&u16::to_be_bytes(count));
        let answer = client.raw(&packet);
        assert_eq!((answer.code(), answer.id), (FORMERR, good.id), "{count} questions");
    }
    assert_eq!(client.raw(&header(7, RD, [0, 0, 0, 0])).code(), FORMERR);
}

#[test]
fn aardvark_2_0_what_cannot_be_read_is_formerr() {
    let server = server();
    let client = server.client();
    let name = wire_name("server");
    let (kind, class) = (A.to_be_bytes(), 1_u16.to_be_bytes());
    let question = [&name[..], &kind, &class].concat();
    let opt = Edns::of(1_232).record();
    let long: Vec<u8> = [[63].as_slice(), &[b'x'; 63]].concat().repeat(4);
    let mut half = Edns::of(1_232);
    half.options = vec![(10, vec![1; 8])];
    let half = half.record();
    let cases: [(&str, [u16; 4], Vec<u8>); 14] = [
        ("a byte after the end", [1, 0, 0, 0], [&question[..], &[0]].concat()),
        ("a question after the end", [1, 0, 0, 0], question.repeat(2)),
        ("a name that points to itself", [1, 0, 0, 0], [&[0xC0, 12][..], &kind, &class].concat()),
        ("a name that points ahead", [1, 0, 0, 0], [&[0xC0, 40][..], &kind, &class].concat()),
        ("a name that points into the header", [1, 0, 0, 0], [&[0xC0, 0][..], &kind, &class].concat()),
        ("a label of type 01", [1, 0, 0, 0], [&[0x41, 1, 0][..], &kind, &class].concat()),
        ("a label of type 10", [1, 0, 0, 0], [&[0x80, 0][..], &kind, &class].concat()),
        ("a name without its end", [1, 0, 0, 0], name[..3].to_vec()),
        ("a name of more than 255 bytes", [1, 0, 0, 0], [&long[..], &[0], &kind, &class].concat()),
        ("no class", [1, 0, 0, 0], [&name[..], &kind].concat()),
        ("two OPT records", [1, 0, 0, 2], [&question[..], &opt, &opt].concat()),
        ("an OPT record that is not there", [1, 0, 0, 1], question.clone()),
        ("an OPT record of somebody's name", [1, 0, 0, 1], [&question[..], &name, &opt[1..]].concat()),
        ("an option without its end", [1, 0, 0, 1], [&question[..], &half[..half.len() - 1]].concat()),
    ];
    for (what, counts, body) in cases {
        let answer = client.raw(&[header(9, RD, counts), body].concat());
        assert_eq!((answer.code(), answer.id), (FORMERR, 9), "{what}: {answer:?}");
    }
    assert_eq!(server.look_up("server", A).data(), ["172.18.0.2"]);
}

#[test]
fn aardvark_2_0_socktainer_329_the_opt_record_is_our_own() {
    let server = server();
    // None when there was none.
    assert_eq!(server.look_up("server", A).edns, None);
    // DO copied, everything else ours: size, version, no option, no other flag.
    for flags in [0, DO, 0xFFFF] {
        let mut edns = Edns::of(4_096);
        edns.flags = flags;
        edns.options = vec![(10, vec![1; 8]), (12, vec![0; 20]), (65_001, b"x".to_vec())];
        let answer = server.ask(&Question::new("server", A).flags(RD | AD).edns(edns));
        let ours = answer.edns.expect("an OPT record");
        assert_eq!((ours.payload, ours.version, ours.flags), (1_232, 0, flags & DO));
        assert_eq!(ours.options, []);
        assert_eq!(answer.flags & AD, 0);
        assert_eq!(answer.answers.len(), 1);
    }
    let mut newer = Edns::of(1_232);
    newer.version = 1;
    let answer = server.ask(&Question::new("server", A).edns(newer));
    assert_eq!((answer.code(), answer.answers.len()), (BADVERS, 0));
    assert_eq!(answer.edns.expect("an OPT record").version, 0);
    // In answers that are no answers either.
    let answer = server.ask(&Question::new("server", A).class(CHAOS).edns(Edns::of(512)));
    assert_eq!((answer.code(), answer.edns.map(|edns| edns.payload)), (REFUSED, Some(1_232)));
}

#[test]
fn aardvark_204_recursion_is_available_in_every_answer() {
    let server = server();
    for question in [
        Question::new("server", A),
        Question::new("server", AAAA).flags(0),
        Question::new("four", AAAA),
        Question::new("server", A).class(CHAOS),
        Question::new("nobody", A),
    ] {
        assert!(server.ask(&question).has(RA), "{question:?}");
    }
    assert_eq!(server.look_up("nobody", A).code(), SERVFAIL, "there is no upstream");
}

#[test]
fn aardvark_605_many_questions_on_one_connection_all_at_once() {
    let server = server();
    let mut connection = server.connection();
    let questions: Vec<Vec<u8>> = (0..500)
        .map(|n| frame(&Question::new(["server", "four", "crowd"][usize::from(n % 3)], A).id(n).bytes()))
        .collect();
    connection.send(&questions.concat());
    let mut seen: Vec<u16> = (0..500).map(|_| read(&connection.receive().expect("an answer")).id).collect();
    // Out of order is allowed (RFC 7766 section 7), twice or never is not.
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..500), "{seen:?}");
    // In pieces, too.
    for byte in frame(&Question::new("server", A).bytes()) {
        connection.send(&[byte]);
    }
    assert_eq!(read(&connection.receive().expect("an answer")).data(), ["172.18.0.2"]);
    // Who has said all still hears all.
    connection.send_frame(&Question::new("four", A).id(1).bytes());
    connection.send_frame(&Question::new("server", A).id(2).bytes());
    connection.finish();
    let mut ids = [(); 2].map(|()| read(&connection.receive().expect("an answer")).id);
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    assert_eq!(connection.receive(), None);
}

#[test]
fn cve_2024_8418_idle_connections_block_nobody_and_end() {
    let server = server();
    // Two bytes each, so that somebody waits for the rest.
    let idle: Vec<_> = (0..63)
        .map(|_| {
            let mut connection = server.connection();
            connection.send(&[0, 30]);
            connection
        })
        .collect();
    let mut last = server.connection();
    assert_eq!(last.ask(&Question::new("server", A)).data(), ["172.18.0.2"]);
    assert_eq!(server.look_up("server", A).data(), ["172.18.0.2"]);
    // The idle ones are given up, of which the first is enough to see; a good one that says
    // something now and then is not.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                last.ask(&Question::new("server", A));
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        let mut first = idle.into_iter().next().expect("63 of them");
        first.patience(tether_tests::DEADLINE);
        let ended = first.receive();
        over.store(true, Relaxed);
        assert_eq!(ended, None, "closed without an answer");
    });
    assert_eq!(last.ask(&Question::new("four.front", A)).data(), ["172.18.0.9"]);
}

#[test]
fn cve_2024_8418_more_connections_than_there_may_be_wait_and_udp_goes_on() {
    let server = server();
    let mut connections: Vec<_> = (0..64).map(|_| server.connection()).collect();
    for connection in &mut connections {
        assert_eq!(connection.ask(&Question::new("server", A)).data(), ["172.18.0.2"]);
    }
    // One too many: the kernel has it, or it is refused; nobody else is the worse for it.
    let mut extra = server.connection();
    extra.send_frame(&Question::new("server", A).bytes());
    assert_eq!(server.look_up("server", A).data(), ["172.18.0.2"]);
    assert_eq!(connections[0].ask(&Question::new("server", A)).data(), ["172.18.0.2"]);
    drop(connections);
    wait_for("a place for another connection", || {
        let mut connection = server.connection();
        connection.send_frame(&Question::new("server", A).bytes());
        connection.receive()
    });
}

#[test]
fn cve_2026_35406_a_broken_frame_ends_the_connection_and_costs_nothing() {
    let server = server();
    let spent = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", server.tether.id())).expect("it runs");
        let fields: Vec<_> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
    };
    // Frames that end early, that are too short for a header, and a response.
    let question = Question::new("server", A);
    let frames: [Vec<u8>; 5] = [
        vec![0],
        frame(&question.bytes())[..10].to_vec(),
        frame(&[]),
        frame(&question.bytes()[..11]),
        frame(&question.clone().flags(QR).bytes()),
    ];
    for broken in frames {
        let mut connection = server.connection();
        connection.send(&broken);
        connection.finish();
        assert_eq!(connection.receive(), None, "{broken:?}");
    }
    // Nothing turns in circles. That takes time to be seen, and is the only thing waited for here.
    let before = spent();
    std::thread::sleep(Duration::from_secs(1));
    assert!(spent() - before < 50, "the agent has used {} of 100 ticks", spent() - before);
    assert_eq!(server.look_up("server", A).data(), ["172.18.0.2"]);
}

#[test]
fn aardvark_389_449_new_tables_leave_the_sockets_and_the_connections_alone() {
    let mut server = server();
    let (before, mut connection) = (server.sockets(), server.connection());
    assert_eq!(connection.ask(&Question::new("server", A)).data(), ["172.18.0.2"]);
    for n in 0..20_u8 {
        let mut names = two_networks();
        names["networks"][0]["endpoints"][0]["addresses"] = json!([format!("172.18.7.{n}")]);
        server.again(&names, &json!({ "upstreams": [format!("10.53.0.{}", n + 1)] }));
        let address = format!("172.18.7.{n}");
        assert_eq!(connection.ask(&Question::new("server", A)).data(), [&address]);
        assert_eq!(server.look_up("server", A).data(), [&address]);
    }
    assert_eq!(server.sockets(), before);
    assert_eq!(before.len(), 2, "one for UDP, one for TCP");
}

#[test]
fn moby_35095_kubernetes_56903_no_packet_filter_is_in_the_way() {
    let server = server();
    let bound = server.space.run("ss -Hlnut");
    for protocol in ["udp", "tcp"] {
        let listens = |line: &str| line.starts_with(protocol) && line.contains(" 127.0.0.11:53 ");
        assert!(bound.lines().any(listens), "{protocol}: {bound}");
    }
    assert_eq!(server.space.run("nft list ruleset"), "");
    // Somebody in the container clears what there is.
    server.space.run("nft flush ruleset");
    assert_eq!(server.look_up("server", A).data(), ["172.18.0.2"]);
}

#[test]
fn aardvark_518_535_resolver_options_nobody_knows_are_passed_on() {
    let dns = json!({ "options": ["no-aaaa", "trust-ad", "mystery:7"], "upstreams": ["fe80::53%eth0"] });
    let server = Server::new(&two_networks(), &dns);
    let text = fs::read_to_string(server.space.etc().join("resolv.conf")).expect("resolv.conf");
    assert!(text.contains("options no-aaaa trust-ad mystery:7 ndots:0"), "{text}");
    assert_eq!(Client::new(&server.space).look_up("server", A).data(), ["172.18.0.2"]);
}
