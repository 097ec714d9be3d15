//! Where questions go: domains, interfaces, what stays inside, and what passes through.

use serde_json::json;
use tether_tests::Space;

use crate::{
    answers::Reply,
    packet::{A, AAAA, Edns, NOERROR, NXDOMAIN, PTR, Question, RD, SERVFAIL, reverse},
    server::Server,
    tables::two_networks,
    upstream::{Does, Upstream},
};

#[test]
fn the_longest_domain_that_fits_decides() {
    let dns = json!({ "upstreams": ["10.53.0.11"], "forward": [
        { "domains": ["example", "Corp.Example."], "servers": ["10.53.0.12"] },
        { "domains": ["deep.corp.example", "18.172.in-addr.arpa"], "servers": ["10.53.0.13"] },
    ]});
    let server = Server::new(&two_networks(), &dns);
    let upstreams = ["10.53.0.11", "10.53.0.12", "10.53.0.13"].map(|at| server.upstream(at));
    for (upstream, address) in upstreams.iter().zip(["192.0.2.11", "192.0.2.12", "192.0.2.13"]) {
        upstream.says(move |reply| reply.address(60, address));
    }
    for (name, address) in [
        ("www.test", "192.0.2.11"),
        ("www.example", "192.0.2.12"),
        ("example", "192.0.2.12"),
        ("a.b.CORP.example", "192.0.2.12"),
        ("deep.corp.example", "192.0.2.13"),
        ("x.Deep.corp.example", "192.0.2.13"),
        // Labels are whole.
        ("notexample", "192.0.2.11"),
        ("sodeep.corp.example", "192.0.2.12"),
    ] {
        assert_eq!(server.look_up(name, A).data(), [address], "{name}");
    }
    server.look_up(&reverse("172.18.99.99"), PTR);
    assert_eq!(upstreams[2].count(), 3);
    // A domain's servers that are silent are not replaced by others.
    upstreams[2].is_silent();
    let before = upstreams[0].count() + upstreams[1].count();
    assert_eq!(server.look_up("silent.deep.corp.example", A).code(), SERVFAIL);
    assert_eq!(upstreams[0].count() + upstreams[1].count(), before);
}

#[test]
fn a_server_is_asked_through_the_interface_it_is_given() {
    let dns = json!({ "upstreams": ["10.53.0.11"],
                      "forward": [{ "domains": ["corp.example"], "servers": ["10.53.0.11"], "interface": "eth1" }] });
    // Another network that has the same addresses; the routes lead to the first.
    let (space, outside) = crate::server::cable();
    let other = Space::new();
    space.run(&format!("ip link add eth1 type veth peer name eth0 netns {}", other.id()));
    for line in ["ip link set eth1 up", "ip address add 10.53.0.3/24 dev eth1 metric 999"] {
        space.run(line);
    }
    for line in ["ip link set eth0 up", "ip address add 10.53.0.11/24 dev eth0"] {
        other.run(line);
    }
    let server = Server::on(space, outside, &two_networks(), &dns);
    let (general, corp) = (server.upstream("10.53.0.11"), Upstream::new(&other, "10.53.0.11"));
    general.says(|reply| reply.address(60, "192.0.2.1"));
    corp.says(|reply| reply.address(60, "192.0.2.2"));
    assert_eq!(server.look_up("www.example", A).data(), ["192.0.2.1"]);
    assert_eq!(server.look_up("www.corp.example", A).data(), ["192.0.2.2"]);
    assert_eq!((general.count(), corp.count()), (1, 1));
    // And over TCP.
    corp.does(|asked| match asked.way {
        crate::upstream::Way::Udp => Does::say(&Reply::to(&asked.message).flags(crate::packet::TC)),
        crate::upstream::Way::Tcp => Does::say(&Reply::to(&asked.message).address(60, "192.0.2.3")),
    });
    assert_eq!(server.connection().ask(&Question::new("tcp.corp.example", A)).data(), ["192.0.2.3"]);
}

#[test]
fn private_addresses_do_not_come_from_general_servers_when_refused() {
    let dns = |refuse: bool| {
        json!({ "upstreams": ["10.53.0.11"], "refuse_private_answers": refuse, "cache_kib": 0,
                "forward": [{ "domains": ["corp.example"], "servers": ["10.53.0.12"] }] })
    };
    let mut server = Server::new(&two_networks(), &dns(true));
    let (general, corp) = (server.upstream("10.53.0.11"), server.upstream("10.53.0.12"));
    let four = ["10.1.2.3", "172.18.0.2", "192.168.0.1", "127.0.0.1", "169.254.1.1", "0.0.0.0", "100.64.0.1"];
    let six = ["::1", "::", "fd00::1", "fe80::1", "::ffff:10.0.0.1"];
    for (addresses, kind) in [(&four[..], A), (&six[..], AAAA)] {
        for address in addresses {
            let address = (*address).to_owned();
            let reply = address.clone();
            general.says(move |to| to.address(60, &reply));
            let answer = server.look_up("rebind.example", kind);
            assert!(answer.data().is_empty(), "{address}: {answer:?}");
            // Among others, too.
            let reply = address.clone();
            let public = if kind == A { "192.0.2.1" } else { "2001:db8::1" };
            general.says(move |to| to.address(60, public).address(60, &reply));
            let answer = server.look_up("mixed.example", kind);
            assert!(!answer.data().contains(&address.as_str()), "{address}: {answer:?}");
        }
    }
    general.says(|to| to.address(60, "192.0.2.1"));
    assert_eq!(server.look_up("public.example", A).data(), ["192.0.2.1"]);
    // A domain's own servers may say it, and our tables may.
    corp.says(|to| to.address(60, "10.1.2.3"));
    assert_eq!(server.look_up("www.corp.example", A).data(), ["10.1.2.3"]);
    assert_eq!(server.look_up("server", A).data(), ["172.18.0.2"]);
    // Where they are not refused, they pass.
    server.again(&two_networks(), &dns(false));
    general.says(|to| to.address(60, "10.1.2.3"));
    assert_eq!(server.look_up("rebind.example", A).data(), ["10.1.2.3"]);
}

#[test]
fn names_below_a_network_do_not_leave_when_they_are_kept() {
    let dns = |keep: bool| json!({ "upstreams": ["10.53.0.11"], "keep_own_names": keep });
    let mut server = Server::new(&two_networks(), &dns(true));
    let upstream = server.upstream("10.53.0.11");
    upstream.says(|reply| reply.address(0, "192.0.2.1"));
    for name in ["nobody.front", "a.b.BACK", "server2.front"] {
        for kind in [A, AAAA] {
            assert_eq!(server.look_up(name, kind).code(), NXDOMAIN, "{name}");
        }
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(server.look_up("server.front", A).data(), ["172.18.0.2"]);
    for name in ["nobody.upfront", "nobody", "front.example"] {
        assert_eq!(server.look_up(name, A).data(), ["192.0.2.1"], "{name}");
    }
    server.again(&two_networks(), &dns(false));
    assert_eq!(server.look_up("nobody.front", A).data(), ["192.0.2.1"]);
}

#[test]
fn options_pass_through_but_those_of_one_hop() {
    const HOP_BY_HOP: [u16; 3] = [10, 11, 12];
    let server = Server::new(&two_networks(), &json!({ "upstreams": ["10.53.0.11"], "cache_kib": 0 }));
    let upstream = server.upstream("10.53.0.11");
    upstream.does(|asked| {
        let mut edns = asked.message.edns.clone();
        if let Some(edns) = &mut edns {
            edns.options = vec![
                (15, vec![0, 18]),
                (10, vec![1; 16]),
                (11, vec![0, 9]),
                (12, vec![0; 9]),
                (65_002, vec![7]),
            ];
        }
        Does::say(&Reply::to(&asked.message).edns(edns).address(60, "192.0.2.1"))
    });
    let mut edns = Edns::of(1_232);
    edns.flags = crate::packet::DO;
    // COOKIE, TCP-KEEPALIVE and PADDING are of one hop; the client's subnet and the unknown are not.
    edns.options = vec![
        (10, vec![3; 8]),
        (11, vec![]),
        (12, vec![0; 5]),
        (8, vec![0, 1, 24, 0, 192, 0, 2]),
        (65_001, vec![9]),
    ];
    let answer = server.ask(&Question::new("a.example", A).flags(RD).edns(edns));
    assert_eq!((answer.code(), answer.data()), (NOERROR, vec!["192.0.2.1"]));
    let asked = upstream.asked().remove(0).message.edns.expect("an OPT record");
    let codes = |options: &[(u16, Vec<u8>)]| options.iter().map(|(code, _)| *code).collect::<Vec<_>>();
    assert!(asked.options.contains(&(8, vec![0, 1, 24, 0, 192, 0, 2])), "{asked:?}");
    assert!(asked.options.contains(&(65_001, vec![9])), "{asked:?}");
    assert!(!codes(&asked.options).iter().any(|code| HOP_BY_HOP.contains(code)), "{asked:?}");
    assert_ne!(asked.flags & crate::packet::DO, 0);
    let ours = answer.edns.expect("an OPT record");
    assert!(
        ours.options.contains(&(65_002, vec![7])) && ours.options.contains(&(15, vec![0, 18])),
        "{ours:?}"
    );
    assert!(!codes(&ours.options).iter().any(|code| HOP_BY_HOP.contains(code)), "{ours:?}");
}

#[test]
fn an_upstream_that_does_not_understand_edns_is_asked_without() {
    let server = Server::new(&two_networks(), &json!({ "upstreams": ["10.53.0.11"] }));
    let upstream = server.upstream("10.53.0.11");
    upstream.says(|reply| reply.edns(None).address(60, "192.0.2.1"));
    let answer = server.ask(&Question::new("a.example", A).edns(Edns::of(1_232)));
    assert_eq!(answer.data(), ["192.0.2.1"]);
    assert!(answer.edns.is_some(), "we understand it");
}

#[test]
fn upstreams_that_change_are_asked_from_then_on() {
    let to = |address: &str| json!({ "upstreams": [address], "cache_kib": 0 });
    let mut server = Server::new(&two_networks(), &to("10.53.0.11"));
    let upstreams = ["10.53.0.11", "10.53.0.12"].map(|at| server.upstream(at));
    upstreams[0].says(|reply| reply.address(60, "192.0.2.1"));
    upstreams[1].says(|reply| reply.address(60, "192.0.2.2"));
    assert_eq!(server.look_up("a.example", A).data(), ["192.0.2.1"]);
    server.again(&two_networks(), &to("10.53.0.12"));
    assert_eq!(server.look_up("a.example", A).data(), ["192.0.2.2"]);
    server.again(&two_networks(), &json!({}));
    assert_eq!(server.look_up("b.example", A).code(), SERVFAIL);
}
