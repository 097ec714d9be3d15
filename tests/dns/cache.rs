//! Answers of upstreams that are kept: for how long, how they age, and what is never kept.

use serde_json::{Value, json};
use tether_tests::wait_for;

use crate::{
    packet::{A, AAAA, CD, DO, Edns, NOERROR, NXDOMAIN, Question, RD, SERVFAIL},
    server::Server,
    tables::two_networks,
    upstream::Upstream,
};

fn with(more: &Value) -> (Server, Upstream) {
    let mut dns = json!({ "upstreams": ["10.53.0.11"] });
    for (key, value) in more.as_object().expect("an object") {
        dns[key] = value.clone();
    }
    let server = Server::new(&two_networks(), &dns);
    let upstream = server.upstream("10.53.0.11");
    (server, upstream)
}

#[test]
fn an_answer_is_asked_for_once_and_its_time_to_live_counts_down() {
    let (server, upstream) = with(&json!({}));
    upstream.says(|reply| reply.address(300, "192.0.2.1"));
    assert_eq!(server.look_up("a.example", A).answers[0].ttl, 300);
    // In any case, and another type is another answer.
    let answer = server.look_up("A.EXAMPLE", A);
    assert_eq!((answer.data(), answer.answers[0].owner.as_str()), (vec!["192.0.2.1"], "A.EXAMPLE."));
    assert_eq!(upstream.count(), 1);
    let ttl = wait_for("the time to live to count down", || {
        let ttl = server.look_up("a.example", A).answers[0].ttl;
        (ttl < 300).then_some(ttl)
    });
    assert!((1..300).contains(&ttl), "{ttl}");
    assert_eq!(upstream.count(), 1);
    upstream.says(|reply| reply.address(300, "2001:db8::1"));
    assert_eq!(server.look_up("a.example", AAAA).data(), ["2001:db8::1"]);
    assert_eq!(upstream.count(), 2);
}

#[test]
fn an_answer_is_asked_for_again_when_its_time_is_over() {
    let (server, upstream) = with(&json!({}));
    upstream.says(|reply| reply.address(1, "192.0.2.1"));
    assert_eq!(server.look_up("a.example", A).data(), ["192.0.2.1"]);
    upstream.says(|reply| reply.address(1, "192.0.2.2"));
    wait_for("the new answer", || (server.look_up("a.example", A).data() == ["192.0.2.2"]).then_some(()));
}

#[test]
fn what_is_not_there_is_remembered_for_as_long_as_its_soa_says() {
    let (server, upstream) = with(&json!({}));
    for (name, code) in [("nobody.example", NXDOMAIN), ("nothing.example", NOERROR)] {
        let before = upstream.count();
        // The smaller of the record's own time and the minimum in it (RFC 2308 section 5).
        upstream.says(move |reply| reply.code(code).nothing_for("example", 600, 300));
        let answer = server.look_up(name, A);
        assert_eq!((answer.code(), answer.authority.len()), (code, 1));
        let again = server.look_up(name, A);
        assert_eq!((again.code(), again.authority.len()), (code, 1));
        assert!(again.authority[0].ttl <= 300, "{again:?}");
        assert_eq!(upstream.count(), before + 1);
        // Without an SOA record there is nothing to go by.
        let name = format!("un{name}");
        upstream.says(move |reply| reply.code(code));
        server.look_up(&name, A);
        server.look_up(&name, A);
        assert_eq!(upstream.count(), before + 3, "{name}");
    }
}

#[test]
fn no_time_trouble_and_other_flags_are_not_kept_together() {
    let (server, upstream) = with(&json!({}));
    upstream.says(|reply| reply.address(0, "192.0.2.1"));
    for n in 1..=3 {
        assert_eq!(server.look_up("zero.example", A).data(), ["192.0.2.1"]);
        assert_eq!(upstream.count(), n);
    }
    let before = upstream.count();
    upstream.says(|reply| reply.code(SERVFAIL));
    assert_eq!(server.look_up("trouble.example", A).code(), SERVFAIL);
    upstream.says(|reply| reply.address(300, "192.0.2.2"));
    wait_for("the good answer", || {
        (server.look_up("trouble.example", A).data() == ["192.0.2.2"]).then_some(())
    });
    assert!(upstream.count() > before + 1);
    // Who wants signatures, or wants them unchecked, asks something else.
    let before = upstream.count();
    let mut secure = Edns::of(1_232);
    secure.flags = DO;
    for question in [
        Question::new("flags.example", A),
        Question::new("flags.example", A).flags(RD | CD),
        Question::new("flags.example", A).edns(secure),
    ] {
        server.ask(&question);
        server.ask(&question);
    }
    assert_eq!(upstream.count(), before + 3);
}

#[test]
fn a_stale_answer_is_better_than_none_for_a_while() {
    let (server, upstream) = with(&json!({ "stale_s": 3_600 }));
    upstream.says(|reply| reply.address(1, "192.0.2.1"));
    assert_eq!(server.look_up("a.example", A).data(), ["192.0.2.1"]);
    let before = upstream.count();
    upstream.is_silent();
    // Once its time is over it is asked for; without an answer the old one is good for 30 seconds.
    let answer = wait_for("a stale answer", || {
        let answer = server.look_up("a.example", A);
        (upstream.count() > before).then_some(answer)
    });
    assert_eq!((answer.data(), answer.answers[0].ttl), (vec!["192.0.2.1"], 30));
    assert_eq!(server.look_up("never.example", A).code(), SERVFAIL);
    // When the upstream is back, its word counts.
    upstream.says(|reply| reply.address(1, "192.0.2.2"));
    wait_for("the new answer", || (server.look_up("a.example", A).data() == ["192.0.2.2"]).then_some(()));
}

#[test]
fn no_stale_answer_is_given_where_none_is_wanted() {
    let (server, upstream) = with(&json!({ "stale_s": 0 }));
    upstream.says(|reply| reply.address(1, "192.0.2.1"));
    assert_eq!(server.look_up("a.example", A).data(), ["192.0.2.1"]);
    upstream.is_silent();
    wait_for("the end of the answer", || (server.look_up("a.example", A).code() == SERVFAIL).then_some(()));
}

#[test]
fn nothing_is_kept_where_there_is_no_room_for_it() {
    let (server, upstream) = with(&json!({ "cache_kib": 0 }));
    upstream.says(|reply| reply.address(300, "192.0.2.1"));
    for n in 1..=5 {
        assert_eq!(server.look_up("a.example", A).answers[0].ttl, 300);
        assert_eq!(upstream.count(), n);
    }
}

#[test]
fn a_small_room_takes_the_newest_and_never_grows() {
    let (server, upstream) = with(&json!({ "cache_kib": 16 }));
    upstream.says(|reply| (0..20).fold(reply, |reply, n| reply.address(300, &format!("192.0.2.{n}"))));
    let ask = |n: u32| server.ask(&Question::new(&format!("n{n}.example"), A).edns(Edns::of(1_232)));
    ask(0);
    let before = server.resident();
    for n in 1..2_000 {
        assert_eq!(ask(n).answers.len(), 20);
    }
    // 2,000 answers of 400 bytes are 800 KiB; the room is 16.
    assert!(server.resident() < before + 600, "{} KiB, {before} before", server.resident());
    let asked = upstream.count();
    assert_eq!(asked, 2_000);
    ask(1_999);
    assert_eq!(upstream.count(), asked, "the newest is kept");
    ask(0);
    assert_eq!(upstream.count(), asked + 1, "the oldest is not");
}
