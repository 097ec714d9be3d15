//! The rows of the field notes that are about servers behind ours: what they say is passed on as
//! it is, and what they do not say costs little.

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use serde_json::json;
use tether_tests::wait_for;

use crate::{
    answers::Reply,
    client::read,
    packet::{
        A, AA, AAAA, AD, CD, Edns, MX, NOERROR, NXDOMAIN, Question, RA, RD, REFUSED, SERVFAIL, SOA, TC, TXT,
        wire_name,
    },
    server::{OWN, OWN_SIX, Server},
    tables::two_networks,
    upstream::{Asked, Does, Upstream, Way},
};

/// A server with these upstreams.
fn with(upstreams: &[&str]) -> Server {
    Server::new(&two_networks(), &json!({ "upstreams": upstreams }))
}

fn with_one() -> (Server, Upstream) {
    let server = with(&["10.53.0.11"]);
    let upstream = server.upstream("10.53.0.11");
    (server, upstream)
}

#[test]
fn unknown_names_are_forwarded_and_what_the_upstream_says_is_relayed_whole() {
    let (server, upstream) = with_one();
    upstream.does(|asked| {
        let reply = Reply::to(&asked.message).flags(AA | AD).nothing_for("example", 77, 10);
        let reply = reply.record(TXT, 300, b"\x04text").other_record("else.example", A, 301, &[192, 0, 2, 1]);
        // A type nobody has heard of, whose content looks like a pointer.
        Does::say(&reply.record(4_711, 302, &[0xC0, 0x0C, 0xFF]))
    });
    let answer = server.look_up("a.Example", TXT);
    assert_eq!(answer.code(), NOERROR);
    assert_eq!(answer.data(), ["0474657874", "192.0.2.1", "c00cff"]);
    assert_eq!(answer.answers[0].owner, "a.Example.");
    assert_eq!(answer.answers[1].owner, "else.example.");
    assert_eq!(answer.authority.len(), 1);
    assert_eq!(answer.authority[0].kind, SOA);
    assert!(answer.has(RA) && answer.has(RD));
    let asked = &upstream.asked()[0].message;
    assert_eq!((asked.name().to_ascii_lowercase().as_str(), asked.kind()), ("a.example.", TXT));
    assert!(asked.has(RD));
}

#[test]
fn moby_44575_a_big_reply_to_a_question_without_edns_arrives() {
    let (server, upstream) = with_one();
    // 1,200 bytes over UDP, 40 kB over TCP.
    upstream.does(|asked| {
        let records = if asked.way == Way::Tcp { 2_500 } else { 70 };
        let reply = Reply::to(&asked.message);
        Does::say(&(0..records).fold(reply, |reply, n: u16| {
            let [high, low] = n.to_be_bytes();
            reply.record(A, 60, &[10, 0, high, low])
        }))
    });
    let cut = server.look_up("big.example", A);
    assert!(cut.has(TC) && cut.length <= 512, "{cut:?}");
    let answer = server.ask(&Question::new("big.example", A).edns(Edns::of(4_096)));
    assert!(!answer.has(TC));
    assert_eq!(answer.answers.len(), 70);
    // Over TCP there is all the server has.
    let answer = server.connection().ask(&Question::new("big.example", A));
    assert!(answer.answers.len() >= 70 && !answer.has(TC), "{} records", answer.answers.len());
}

#[test]
fn what_an_upstream_cuts_is_fetched_over_tcp() {
    let (server, upstream) = with_one();
    upstream.does(|asked| {
        let reply = Reply::to(&asked.message);
        if asked.way == Way::Udp {
            return Does::say(&reply.flags(TC));
        }
        Does::say(&(0..2_500_u16).fold(reply, |reply, n| {
            let [high, low] = n.to_be_bytes();
            reply.record(A, 60, &[10, 0, high, low])
        }))
    });
    let answer = server.connection().ask(&Question::new("big.example", A));
    assert_eq!((answer.answers.len(), answer.has(TC)), (2_500, false));
    let cut = server.look_up("other.example", A);
    assert!(cut.has(TC) && cut.length <= 512);
    let ways: Vec<Way> = upstream.asked().iter().map(|asked| asked.way).collect();
    assert!(ways.contains(&Way::Tcp), "{ways:?}");
}

#[test]
fn moby_46928_moby_32675_strange_names_and_trouble_are_answered_in_time() {
    // Nobody there at all, nobody who answers, and a port that is closed.
    let server = with(&["10.53.0.11", "10.53.0.12", "10.53.0.99"]);
    let silent = server.upstream("10.53.0.12");
    silent.is_silent();
    let strange =
        ["a.example", r"b\.\\c d.example", &format!("{}.example", "x".repeat(63)), "\u{1}\u{7f}.example"];
    let client = server.client();
    for (id, name) in (0..).zip(strange) {
        client.send(&Question::new(name, A).id(id).bytes());
    }
    let began = Instant::now();
    let mut ids: Vec<u16> = strange
        .map(|_| {
            let answer = read(&client.receive());
            assert_eq!(answer.code(), SERVFAIL);
            answer.id
        })
        .into();
    // glibc and musl give up after 5 s; how much sooner it is says this test nothing of.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3]);
    // The strangest names there are arrive as they are.
    silent.says(|reply| reply.address(60, "192.0.2.1"));
    let longest = [63, 63, 63, 61].map(|length| "y".repeat(length)).join(".");
    for name in [r"b\.\\c d.example", &longest, "_x._y.-.example", "."] {
        let answer = server.look_up(name, A);
        assert_eq!(answer.data(), ["192.0.2.1"], "{name}");
    }
}

#[test]
fn moby_46928_a_reply_that_cannot_be_read_is_no_reply() {
    let server = with(&["10.53.0.11", "10.53.0.12"]);
    let (broken, good) = (server.upstream("10.53.0.11"), server.upstream("10.53.0.12"));
    good.says(|reply| reply.address(60, "192.0.2.2"));
    for length in [0, 5, 11, 12, 20] {
        broken.does(move |asked| {
            let mut bytes = Reply::to(&asked.message).address(60, "192.0.2.1").bytes();
            bytes.truncate(length);
            vec![Does::Say(bytes)]
        });
        let name = format!("n{length}.example");
        assert_eq!(server.look_up(&name, A).data(), ["192.0.2.2"], "{length} bytes");
    }
}

#[test]
fn libnetwork_1664_aardvark_482_servfail_refused_and_silence_lead_to_the_next_server() {
    for trouble in [SERVFAIL, REFUSED, 0xFF] {
        let server = with(&["10.53.0.11", "10.53.0.12", "fd53::11"]);
        let bad = [server.upstream("10.53.0.11"), server.upstream("10.53.0.12")];
        for bad in &bad {
            match trouble {
                0xFF => bad.is_silent(),
                code => bad.says(move |reply| reply.code(code)),
            }
        }
        let good = server.upstream("fd53::11");
        good.says(|reply| reply.address(0, "192.0.2.3"));
        for n in 0..20 {
            assert_eq!(server.look_up(&format!("n{n}.example"), A).data(), ["192.0.2.3"], "{trouble}");
        }
        // They are remembered: not everybody is asked in vain every time.
        let wasted: usize = bad.iter().map(Upstream::count).sum();
        assert!(wasted <= 30, "{wasted} questions for 20");
        // And forgiven: it is asked again some time when it is the only one left.
        drop(good);
        bad[0].says(|reply| reply.address(0, "192.0.2.4"));
        wait_for("the first server to be asked again", || {
            (server.look_up("again.example", A).data() == ["192.0.2.4"]).then_some(())
        });
    }
}

#[test]
fn libnetwork_1664_the_last_word_is_relayed_when_nobody_has_a_better_one() {
    let server = with(&["10.53.0.11", "10.53.0.12"]);
    let upstreams = [server.upstream("10.53.0.11"), server.upstream("10.53.0.12")];
    for code in [SERVFAIL, REFUSED] {
        for upstream in &upstreams {
            upstream.says(move |reply| reply.code(code));
        }
        let answer = server.look_up(&format!("code{code}.example"), A);
        assert!([SERVFAIL, code].contains(&answer.code()), "{answer:?}");
    }
    assert!(upstreams.iter().all(|upstream| upstream.count() > 0));
}

#[test]
fn a_lost_question_is_asked_again() {
    let (server, upstream) = with_one();
    // The first of every name is lost.
    let mut seen = HashSet::new();
    let lossy =
        std::sync::Mutex::new(move |asked: &Asked| seen.insert(asked.message.name().to_ascii_lowercase()));
    upstream.does(move |asked| {
        let lost = lossy.lock().expect("no panic")(asked);
        if lost { vec![] } else { Does::say(&Reply::to(&asked.message).address(60, "192.0.2.1")) }
    });
    for name in ["a.example", "b.example"] {
        assert_eq!(server.look_up(name, A).data(), ["192.0.2.1"], "{name}");
    }
}

#[test]
fn moby_45565_nxdomain_is_relayed_with_its_soa_and_asked_of_nobody_else() {
    let server = with(&["10.53.0.11", "10.53.0.12"]);
    let upstreams = [server.upstream("10.53.0.11"), server.upstream("10.53.0.12")];
    for upstream in &upstreams {
        upstream.says(|reply| reply.code(NXDOMAIN).nothing_for("example", 600, 300));
    }
    let answer = server.look_up("nobody.example", AAAA);
    assert_eq!((answer.code(), answer.answers.len()), (NXDOMAIN, 0));
    let soa = &answer.authority[0];
    assert_eq!((soa.owner.as_str(), soa.kind), ("example.", SOA));
    assert_eq!(soa.data, "ns.example. admin.example. [2026, 3600, 600, 86400, 300]");
    // It is an answer: one server has the word, though both are compared now and then.
    for n in 0..20 {
        assert_eq!(server.look_up(&format!("n{n}.example"), AAAA).code(), NXDOMAIN);
    }
    let asked: usize = upstreams.iter().map(Upstream::count).sum();
    assert!(asked <= 26, "{asked} questions for 21");
    // Nothing of the type is another thing than no such name.
    for upstream in &upstreams {
        upstream.says(|reply| reply.nothing_for("example", 600, 300));
    }
    let answer = server.look_up("somebody.example", AAAA);
    assert_eq!((answer.code(), answer.answers.len(), answer.authority.len()), (NOERROR, 0, 1));
}

#[test]
fn moby_22185_sdns_470_a_reply_has_to_fit_by_id_question_and_peer() {
    let (server, upstream) = with_one();
    upstream.does(|asked| {
        let reply = Reply::to(&asked.message);
        let wrong = reply.clone().address(60, "192.0.2.66");
        vec![
            Does::Say(wrong.clone().id(asked.message.id ^ 1).bytes()),
            Does::Say(wrong.clone().question("else.example", A).bytes()),
            Does::Say(wrong.clone().question(asked.message.name(), AAAA).bytes()),
            Does::SayFromElsewhere(wrong.bytes()),
            // A question is no answer.
            Does::Say(Question::new(asked.message.name(), A).id(asked.message.id).bytes()),
            Does::Say(reply.address(60, "192.0.2.1").bytes()),
        ]
    });
    for name in ["a.example", "b.example", "c.example"] {
        assert_eq!(server.look_up(name, A).data(), ["192.0.2.1"], "{name}");
    }
}

#[test]
fn moby_22185_sdns_470_every_question_has_a_port_and_an_id_of_its_own() {
    let server = Server::new(&two_networks(), &json!({ "upstreams": ["10.53.0.11"], "cache_kib": 0 }));
    let upstream = server.upstream("10.53.0.11");
    upstream.says(|reply| reply.address(0, "192.0.2.1"));
    for n in 0..40 {
        server.ask(&Question::new(&format!("n{n}.example"), A).id(7));
    }
    let asked = upstream.asked();
    let ids: HashSet<u16> = asked.iter().map(|asked| asked.message.id).collect();
    let ports: HashSet<u16> = asked.iter().map(|asked| asked.from.port()).collect();
    // 40 of 65,536 and of some 28,000: more than two that meet by chance are no chance.
    assert!(ids.len() >= 38 && ports.len() >= 37, "{} ids, {} ports of 40", ids.len(), ports.len());
    let mut sorted: Vec<u16> = asked.iter().map(|asked| asked.message.id).collect();
    sorted.sort_unstable();
    let in_order = asked.iter().map(|asked| asked.message.id).eq(sorted);
    assert!(!in_order, "ids that only grow can be guessed");
}

#[test]
fn sdns_470_the_clients_spelling_is_restored_whatever_the_upstream_makes_of_it() {
    let (server, upstream) = with_one();
    upstream.does(|asked| {
        let name = asked.message.name().to_ascii_uppercase();
        let reply = Reply::to(&asked.message).question(&name, A);
        Does::say(&reply.address(60, "192.0.2.1"))
    });
    for name in ["a.example", "A.eXaMpLe", "a.EXAMPLE"] {
        let answer = server.look_up(name, A);
        assert_eq!(answer.answers[0].owner.trim_end_matches('.'), name);
    }
}

#[test]
fn moby_47744_aardvark_415_coredns_1712_own_addresses_are_never_asked() {
    let server = with(&[OWN, OWN_SIX, "127.0.0.1", "10.53.0.11"]);
    let upstream = server.upstream("10.53.0.11");
    upstream.says(|reply| reply.code(NXDOMAIN).nothing_for("example", 0, 0));
    // Somebody in the container listens there; nobody is to come.
    let own: Vec<Upstream> = [OWN, OWN_SIX, "127.0.0.1"].map(|own| Upstream::new(&server.space, own)).into();
    for n in 0..10 {
        assert_eq!(server.look_up(&format!("n{n}.example"), A).code(), NXDOMAIN);
    }
    assert_eq!(own.iter().map(Upstream::count).sum::<usize>(), 0);
    assert_eq!(upstream.count(), 10);
}

#[test]
fn coredns_1712_only_own_addresses_are_no_upstream_at_all() {
    let server = with(&[OWN, OWN_SIX]);
    assert_eq!(server.look_up("a.example", A).code(), SERVFAIL);
    assert_eq!(server.look_up("server", A).data(), ["172.18.0.2"]);
}

#[test]
fn cve_2024_29018_aardvark_447_moby_47822_an_internal_network_has_its_own_server_and_no_other() {
    // No upstreams: the host's are not for it. Whoever is on its network may be asked for a domain.
    let dns = json!({ "forward": [{ "domains": ["corp.example"], "servers": ["10.53.0.12"] }] });
    let server = Server::new(&two_networks(), &dns);
    fs::write(server.space.etc().join("resolv.conf.host"), "nameserver 10.53.0.11\n").expect("a file");
    let (hosts, own) = (server.upstream("10.53.0.11"), server.upstream("10.53.0.12"));
    hosts.says(|reply| reply.address(60, "192.0.2.66"));
    own.says(|reply| reply.address(60, "192.0.2.1"));
    assert_eq!(server.look_up("www.example", A).code(), SERVFAIL);
    assert_eq!(server.look_up("single", A).code(), SERVFAIL);
    assert_eq!(server.look_up("www.corp.example", A).data(), ["192.0.2.1"]);
    assert_eq!(hosts.count(), 0);
    assert_eq!(own.count(), 1);
}

#[test]
fn libnetwork_2082_2214_more_questions_than_may_be_out_wait_and_then_are_told() {
    let dns = json!({ "upstreams": ["10.53.0.11"], "in_flight": 4, "cache_kib": 0 });
    let server = Server::new(&two_networks(), &dns);
    let upstream = server.upstream("10.53.0.11");
    upstream.does(|asked| vec![Does::Hold(Reply::to(&asked.message).address(60, "192.0.2.1").bytes())]);
    let client = server.client();
    for n in 0..60 {
        client.send(&Question::new(&format!("n{n}.example"), A).id(n).bytes());
    }
    upstream.wait_for(4);
    // Four are out, four wait, and 52 are told so at once.
    for _ in 0..52 {
        assert_eq!(read(&client.receive()).code(), SERVFAIL);
    }
    // Our own names do not stand in that queue.
    assert_eq!(server.look_up("server", A).data(), ["172.18.0.2"]);
    upstream.says(|reply| reply.address(60, "192.0.2.1"));
    upstream.release();
    for _ in 0..8 {
        assert_eq!(read(&client.receive()).data(), ["192.0.2.1"]);
    }
}

#[test]
fn libnetwork_2082_equal_questions_on_their_way_are_one_question() {
    let (server, upstream) = with_one();
    upstream.does(|asked| vec![Does::Hold(Reply::to(&asked.message).address(60, "192.0.2.1").bytes())]);
    let client = server.client();
    for n in 0..100 {
        let name = ["same.example", "SAME.example"][usize::from(n % 2)];
        client.send(&Question::new(name, A).id(n).bytes());
    }
    client.send(&Question::new("same.example", MX).id(100).bytes());
    // The last is another question, so that all of them have come when it has.
    wait_for("the other question", || {
        upstream.asked().iter().any(|asked| asked.message.kind() == MX).then_some(())
    });
    let asked = upstream.asked();
    let same: HashSet<u16> = asked.iter().filter(|a| a.message.kind() == A).map(|a| a.message.id).collect();
    assert_eq!(same.len(), 1, "{} questions that are one", same.len());
    upstream.release();
    let mut answers: Vec<_> = (0..101).map(|_| read(&client.receive())).collect();
    answers.sort_by_key(|answer| answer.id);
    for (n, answer) in answers.iter().enumerate().take(100) {
        assert_eq!(usize::from(answer.id), n);
        assert_eq!(answer.name(), ["same.example.", "SAME.example."][n % 2]);
        assert_eq!(answer.data(), ["192.0.2.1"]);
    }
}

#[test]
fn aardvark_2_0_ad_comes_from_upstream_and_the_opt_record_from_us() {
    let (server, upstream) = with_one();
    upstream.does(|asked| {
        let ad = if asked.message.name().starts_with('s') { AD } else { 0 };
        let mut edns = Edns::of(4_000);
        edns.options = vec![(10, vec![2; 16])];
        let reply = Reply::to(&asked.message).flags(ad).address(60, "192.0.2.1");
        // It answers with an OPT record whatever it was asked.
        Does::say(&reply.edns(Some(edns)))
    });
    let secure = server.ask(&Question::new("signed.example", A).flags(RD | AD));
    assert!(secure.has(AD));
    assert_eq!(secure.edns, None, "there was none in the question");
    assert!(!server.ask(&Question::new("plain.example", A).flags(RD | AD)).has(AD));
    let answer = server.ask(&Question::new("plain2.example", A).flags(RD | CD).edns(Edns::of(1_400)));
    assert!(answer.has(CD));
    let ours = answer.edns.expect("an OPT record");
    assert_eq!((ours.payload, ours.options), (1_232, vec![]));
}

#[test]
fn aardvark_535_a_link_local_upstream_is_asked_on_its_link() {
    let server = with(&["fe80::53%eth0"]);
    server.outside.run("ip address add fe80::53/64 dev eth0 nodad");
    // The kernel's own link-local address may be tentative for a while, and nothing is sent by it.
    let shown = server.outside.run("ip -o link show eth0");
    let index = shown.split(':').next().and_then(|index| index.parse().ok()).expect("an index");
    let upstream = Upstream::on_link(&server.outside, "fe80::53", index);
    upstream.says(|reply| reply.address(0, "192.0.2.1"));
    wait_for("an answer over the link", || {
        (server.look_up("a.example", A).data() == ["192.0.2.1"]).then_some(())
    });
    assert!(upstream.count() > 0);
}

#[test]
fn moby_53104_aardvark_523_single_labels_are_forwarded() {
    let (server, upstream) = with_one();
    upstream.says(|reply| reply.address(60, "192.0.2.1"));
    for name in ["nobody", "com", "wpad"] {
        assert_eq!(server.look_up(name, A).data(), ["192.0.2.1"], "{name}");
    }
    assert_eq!(upstream.count(), 3);
}

#[test]
fn aardvark_a_replaced_resolv_conf_changes_nothing_about_the_upstreams() {
    let (server, upstream) = with_one();
    upstream.says(|reply| reply.address(0, "192.0.2.1"));
    let other = server.upstream("10.53.0.12");
    other.says(|reply| reply.address(0, "192.0.2.66"));
    assert_eq!(server.look_up("a.example", A).data(), ["192.0.2.1"]);
    let etc = server.space.etc();
    for _ in 0..3 {
        fs::write(etc.join("new"), "nameserver 10.53.0.12\n").expect("a file");
        fs::rename(etc.join("new"), etc.join("resolv.conf")).expect("replaced");
        assert_eq!(server.look_up("b.example", A).data(), ["192.0.2.1"]);
    }
    assert_eq!(other.count(), 0);
}

/// A name on the wire is at most 255 bytes, and these tests have one of exactly that.
#[test]
fn the_longest_name_is_the_longest() {
    assert_eq!(wire_name(&[63, 63, 63, 61].map(|length| "y".repeat(length)).join(".")).len(), 255);
}
