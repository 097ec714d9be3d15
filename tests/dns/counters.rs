//! What the status says of the server's work.

use serde_json::json;
use tether_host::status::DnsCounters;
use tether_tests::wait_for;

use crate::{
    answers::Reply,
    client::{Client, read},
    hosted::Hosted,
    packet::{A, CHAOS, FORMERR, MX, QR, Question, RD, SERVFAIL},
    tables::two_networks,
    upstream::{Does, Upstream},
};

#[test]
fn every_question_is_counted_by_what_became_of_it() {
    let hosted = Hosted::prepare().start();
    hosted.dns(&json!({ "upstreams": ["10.53.0.11"], "in_flight": 1 }));
    let before = hosted.counters(&two_networks());
    assert_eq!(before, DnsCounters::default());
    let upstream = Upstream::new(&hosted.outside, "10.53.0.11");
    upstream.says(|reply| reply.address(300, "192.0.2.1"));
    let client = Client::new(&hosted.space);

    for _ in 0..3 {
        client.look_up("server", A);
    }
    client.look_up("server", MX);
    let seen = hosted.counters(&two_networks());
    assert_eq!((seen.queries, seen.local, seen.forwarded), (4, 4, 0), "{seen:?}");

    // No DNS, not a question; and questions that are answered, though not with what was asked.
    client.send(&[0; 5]);
    client.is_ignored(&Question::new("server", A).flags(QR | RD).bytes(), &Question::new("four", A));
    let seen = hosted.counters(&two_networks());
    assert_eq!((seen.ignored, seen.local), (2, 5), "{seen:?}");
    client.ask(&Question::new("server", A).class(CHAOS));
    assert_eq!(client.raw(&[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]).code(), FORMERR);
    let seen = hosted.counters(&two_networks());
    assert_eq!((seen.ignored, seen.forwarded, seen.failed), (2, 0, 0), "{seen:?}");

    // One goes to the upstream, the next comes from the cache.
    client.look_up("a.example", A);
    client.look_up("a.example", A);
    let seen = hosted.counters(&two_networks());
    assert_eq!((seen.forwarded, seen.cached, seen.stale), (1, 1, 0), "{seen:?}");

    // Held back: one is out, nine have joined it; one waits; the others are dropped.
    upstream.does(|asked| vec![Does::Hold(Reply::to(&asked.message).address(300, "192.0.2.1").bytes())]);
    for id in 0..10 {
        client.send(&Question::new("held.example", A).id(id).bytes());
    }
    for id in 10..15 {
        client.send(&Question::new(&format!("n{id}.example"), A).id(id).bytes());
    }
    upstream.wait_for(2);
    for _ in 0..4 {
        assert_eq!(read(&client.receive()).code(), SERVFAIL);
    }
    upstream.says(|reply| reply.address(300, "192.0.2.1"));
    upstream.release();
    for _ in 0..11 {
        assert_eq!(read(&client.receive()).data(), ["192.0.2.1"]);
    }
    let now = hosted.counters(&two_networks());
    assert_eq!(now.coalesced - seen.coalesced, 9, "{now:?}");
    assert_eq!((now.dropped - seen.dropped, now.failed - seen.failed), (4, 4), "{now:?}");

    // Nobody answers: once with an old answer, once without.
    upstream.says(|reply| reply.address(1, "192.0.2.1"));
    client.look_up("short.example", A);
    upstream.is_silent();
    let asked = upstream.count();
    wait_for("a stale answer", || {
        client.look_up("short.example", A);
        (upstream.count() > asked).then_some(())
    });
    assert_eq!(client.look_up("never.example", A).code(), SERVFAIL);
    let last = hosted.counters(&two_networks());
    assert!(last.stale > now.stale, "{last:?}");
    assert!(last.cached >= last.stale, "{last:?}");
    assert_eq!(last.failed - now.failed, 1, "{last:?}");
}
