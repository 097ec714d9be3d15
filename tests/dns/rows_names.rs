//! What Docker's users expect of names (`field-notes.md`, the list under "Name resolution"), and
//! the rows of its table that are about names of the tables.

use std::fs;

use serde_json::{Value, json};

use crate::{
    answers::flags_are_ours,
    packet::{A, AAAA, AD, ANY, CD, HTTPS, MX, NOERROR, NXDOMAIN, PTR, Question, RA, RD, SRV, TXT, reverse},
    server::Server,
    tables::{endpoint, network, two_networks},
};

/// Two networks and one upstream, which knows nobody.
fn server() -> (Server, crate::upstream::Upstream) {
    let server = Server::new(&two_networks(), &json!({ "upstreams": ["10.53.0.11"] }));
    let upstream = server.upstream("10.53.0.11");
    upstream.says(|reply| reply.code(NXDOMAIN).nothing_for(".", 0, 0));
    (server, upstream)
}

#[test]
fn every_name_of_an_endpoint_is_found_and_the_first_is_its_ptr_name() {
    let (server, upstream) = server();
    for name in ["server", "web", "0123456789ab"] {
        assert_eq!(server.look_up(name, A).data(), ["172.18.0.2"], "{name}");
        assert_eq!(server.look_up(name, AAAA).data(), ["fd00:18::2"], "{name}");
    }
    for address in ["172.18.0.2", "fd00:18::2"] {
        assert_eq!(server.look_up(&reverse(address), PTR).data(), ["server."], "{address}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn a_name_is_found_bare_and_with_any_joined_network_after_it() {
    let (server, upstream) = server();
    for (name, address) in [
        ("server", "172.18.0.2"),
        ("server.front", "172.18.0.2"),
        ("server.back", "172.19.0.2"),
        ("SERVER.Back", "172.19.0.2"),
        ("v2.api", "172.18.0.5"),
        ("v2.api.front", "172.18.0.5"),
    ] {
        assert_eq!(server.look_up(name, A).data(), [address], "{name}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(server.look_up("v2.api.back", A).code(), NXDOMAIN);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn hosts_come_first_then_links_then_the_networks_in_order() {
    let (mut server, _upstream) = server();
    // A host before an endpoint of a network.
    assert_eq!(server.look_up("extra", A).data(), ["10.77.0.1"]);
    assert_eq!(server.look_up("extra", AAAA).data(), ["fd77::1"]);
    assert_eq!(server.look_up("extra.alias", A).data(), ["10.77.0.1"]);
    assert_eq!(server.look_up("extra.back", A).data(), ["172.19.0.8"]);
    // A link of the one network before an endpoint of the other, and before one of its own.
    assert_eq!(server.look_up("db", A).data(), ["172.18.0.9"]);
    assert_eq!(server.look_up("db.front", A).data(), ["172.18.0.9"]);
    assert_eq!(server.look_up("db.back", A).data(), ["172.19.0.7"]);
    assert_eq!(server.look_up("four", A).data(), ["172.18.0.9"]);
    // The other way round.
    let mut names = two_networks();
    names["networks"].as_array_mut().expect("a list").reverse();
    server.again(&names, &json!({}));
    assert_eq!(server.look_up("server", A).data(), ["172.19.0.2"]);
    assert_eq!(server.look_up("db", A).data(), ["172.18.0.9"]);
}

#[test]
fn all_addresses_of_a_name_are_given_once_and_in_turns() {
    let names = json!({ "networks": [network("front", &[
        endpoint(&["one", "all"], &["172.18.0.1", "172.18.0.2"]),
        endpoint(&["two", "all"], &["172.18.0.2", "172.18.0.3", "fd00::3"]),
    ])]});
    let server = Server::new(&names, &json!({}));
    let mut firsts = Vec::new();
    for _ in 0..30 {
        let answer = server.look_up("all", A);
        assert_eq!(answer.sorted(), ["172.18.0.1", "172.18.0.2", "172.18.0.3"]);
        firsts.push(answer.answers[0].data.clone());
    }
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 3, "everybody is first at some time");
    let any = server.look_up("all", ANY);
    assert_eq!(any.sorted(), ["172.18.0.1", "172.18.0.2", "172.18.0.3", "fd00::3"]);
}

#[test]
fn flags_are_aa_0_ra_1_rd_and_cd_as_asked_and_the_owner_is_spelled_as_asked() {
    let (server, _upstream) = server();
    for flags in [0, RD, CD, RD | CD, RD | AD, RA | RD, 0x0440 | RD] {
        let answer = server.ask(&Question::new("sErVeR.fRoNt", A).flags(flags));
        flags_are_ours(&answer, flags);
        assert_eq!(answer.answers[0].owner, "sErVeR.fRoNt.", "{flags:#06x}");
        assert_eq!(answer.answers[0].ttl, 5);
    }
}

#[test]
fn services_are_found_by_number_and_by_name() {
    let (server, upstream) = server();
    for service in ["_80._tcp.server", "_HTTP._TCP.server", "_http._tcp.server.front", "_53._udp.web"] {
        let answer = server.look_up(service, SRV);
        let (port, target) =
            (if service.contains("53") { 53 } else { 80 }, &service[service.find('.').expect("a dot") + 6..]);
        let data = answer.data();
        assert_eq!(data.len(), 1, "{service}: {answer:?}");
        let fields: Vec<_> = data[0].split(' ').collect();
        assert_eq!(fields[2..], [port.to_string().as_str(), &format!("{target}.")], "{service}");
        let mut additional: Vec<_> = answer.additional.iter().map(|r| r.data.as_str()).collect();
        additional.sort_unstable();
        assert_eq!(additional, ["172.18.0.2", "fd00:18::2"], "{service}");
        // The name exists, whatever else it is asked for.
        let answer = server.look_up(service, TXT);
        assert_eq!((answer.code(), answer.data().len()), (NOERROR, 0), "{service}");
    }
    assert_eq!(upstream.count(), 0);
    // The other server has no ports, and `server` alone no port 81.
    for service in ["_80._tcp.server.back", "_81._tcp.server", "_80._udp.server"] {
        assert!(server.look_up(service, SRV).data().is_empty(), "{service}");
    }
}

#[test]
fn resolv_conf_has_our_address_alone_search_without_dots_and_ndots_once() {
    let dns = |options: &[&str]| json!({ "search": ["corp.example", "."], "options": options, "upstreams": ["10.53.0.11"] });
    let mut server = Server::new(&two_networks(), &dns(&[]));
    let lines = |server: &Server| -> Vec<String> {
        let text = fs::read_to_string(server.space.etc().join("resolv.conf")).expect("resolv.conf");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(lines(&server), ["nameserver 127.0.0.11", "search corp.example", "options ndots:0"]);
    for (given, written) in [
        (&["ndots:2", "timeout:1"][..], "options ndots:2 timeout:1"),
        (&["ndots:x"][..], "options ndots:x ndots:0"),
    ] {
        server.again(&two_networks(), &dns(given));
        let written = written.to_owned();
        assert!(lines(&server).contains(&written), "{:?}", lines(&server));
    }
    // An edit by the container stands until there is something new to say.
    let path = server.space.etc().join("resolv.conf");
    fs::write(&path, "nameserver 127.0.0.11\n# mine\n").expect("it is the container's file");
    server.again(&json!({}), &dns(&["ndots:x"]));
    assert!(fs::read_to_string(&path).expect("resolv.conf").contains("# mine"));
}

#[test]
fn moby_46329_no_other_server_is_left_in_resolv_conf() {
    let (space, outside) = crate::server::cable();
    fs::write(space.etc().join("resolv.conf"), "nameserver fd53::99\nnameserver 10.9.9.9\n").expect("a file");
    let server = Server::on(space, outside, &two_networks(), &json!({}));
    let text = fs::read_to_string(server.space.etc().join("resolv.conf")).expect("resolv.conf");
    let servers: Vec<_> = text.lines().filter(|line| line.starts_with("nameserver")).collect();
    assert_eq!(servers, ["nameserver 127.0.0.11"]);
}

#[test]
fn libnetwork_1039_aardvark_679_every_type_of_a_name_that_exists_is_noerror() {
    let (server, upstream) = server();
    for kind in [AAAA, MX, TXT, HTTPS, PTR, SRV, 4711] {
        for name in ["four.front", "other", "db.back", "extra.alias"] {
            let answer = server.look_up(name, kind);
            assert_eq!((answer.code(), answer.data().len()), (NOERROR, 0), "{name} {kind}: {answer:?}");
        }
    }
    // So does the name that is asked for in reverse.
    let answer = server.look_up(&reverse("172.18.0.2"), TXT);
    assert_eq!((answer.code(), answer.data().len()), (NOERROR, 0), "{answer:?}");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn libnetwork_2394_aardvark_146_names_networks_and_aliases_have_no_case() {
    let (server, upstream) = server();
    for name in ["FOUR.FRONT", "Four.fronT"] {
        assert_eq!(server.look_up(name, A).data(), ["172.18.0.9"], "{name}");
    }
    for name in ["shared", "SHARED", "sHaReD.FRONT"] {
        assert_eq!(server.look_up(name, A).sorted(), ["172.18.0.3", "172.18.0.4"], "{name}");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn vic_aardvark_429_aardvark_511_netavark_1471_moby_24800_names_die_with_their_endpoint() {
    let (mut server, upstream) = server();
    let answer = server.look_up("server", A);
    assert!(answer.answers.iter().all(|record| record.ttl <= 60), "{answer:?}");
    let mut names = two_networks();
    names["ttl_seconds"] = json!(1);
    let front = &mut names["networks"][0]["endpoints"];
    front.as_array_mut().expect("a list").retain(|endpoint| endpoint["names"][0] != "server");
    server.again(&names, &json!({ "upstreams": ["10.53.0.11"] }));
    // At once, and in reverse too; what is left of the name is found.
    assert_eq!(server.look_up("web", A).code(), NXDOMAIN);
    assert_eq!(server.look_up(&reverse("172.18.0.2"), PTR).code(), NXDOMAIN);
    assert_eq!(upstream.count(), 2);
    let answer = server.look_up("server", A);
    assert_eq!((answer.data(), answer.answers[0].ttl), (vec!["172.19.0.2"], 1));
    // The same address, as a container that starts again may have it, under another name.
    let front = &mut names["networks"][0]["endpoints"];
    front.as_array_mut().expect("a list").push(endpoint(&["newcomer"], &["172.18.0.2"]));
    server.again(&names, &json!({}));
    assert_eq!(server.look_up(&reverse("172.18.0.2"), PTR).data(), ["newcomer."]);
}

#[test]
fn moby_26298_one_bare_ptr_name_and_unknown_ones_are_forwarded() {
    let (server, upstream) = server();
    for _ in 0..5 {
        assert_eq!(server.look_up(&reverse("172.18.0.4"), PTR).data(), ["other."]);
    }
    assert_eq!(upstream.count(), 0);
    for name in [
        &reverse("192.0.2.1"),
        &reverse("2001:db8::1"),
        "2.0.18.172.in-addr.arpa.example",
        "18.172.in-addr.arpa",
    ] {
        assert_eq!(server.look_up(name, PTR).code(), NXDOMAIN, "{name}");
    }
    let asked: Vec<_> = upstream.asked().into_iter().map(|asked| asked.message.name().to_owned()).collect();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked.contains(&"1.2.0.192.in-addr.arpa.".to_owned()), "{asked:?}");
}

#[test]
fn vic_2592_everybody_who_shares_an_alias_is_in_the_answer() {
    let (server, upstream) = server();
    assert_eq!(server.look_up("shared", A).sorted(), ["172.18.0.3", "172.18.0.4"]);
    let answer = server.look_up("shared", AAAA);
    assert_eq!((answer.code(), answer.data().len()), (NOERROR, 0));
    assert_eq!(upstream.count(), 0);
}

#[test]
fn vic_4375_a_renamed_container_is_found_by_its_new_name_at_once_and_not_by_the_old() {
    let (mut server, _upstream) = server();
    let renamed = |name: &str| -> Value {
        json!({ "networks": [network("front", &[endpoint(&[name, "alias"], &["172.18.0.2"])])] })
    };
    for (name, old) in [("one", "server"), ("two", "one"), ("three", "two")] {
        server.again(&renamed(name), &json!({ "upstreams": ["10.53.0.11"] }));
        assert_eq!(server.look_up(name, A).data(), ["172.18.0.2"]);
        assert_eq!(server.look_up("alias", A).data(), ["172.18.0.2"]);
        assert_eq!(server.look_up(&reverse("172.18.0.2"), PTR).data(), [format!("{name}.")]);
        assert_eq!(server.look_up(old, A).code(), NXDOMAIN);
        assert_eq!(server.look_up(&format!("{old}.front"), A).code(), NXDOMAIN);
    }
}

#[test]
fn vic_product_2448_local_names_never_leave_the_guest() {
    let (server, upstream) = server();
    for name in ["server", "server.back", "web", "shared", "db", "extra", "crowd", "_80._tcp.server"] {
        for kind in [A, AAAA, TXT, ANY, SRV, HTTPS] {
            assert_eq!(server.look_up(name, kind).code(), NOERROR, "{name} {kind}");
        }
    }
    assert_eq!(upstream.count(), 0, "{:?}", upstream.asked());
}
