use proptest::prelude::*;
use tether_wire::{
    message::names_digest,
    names::{
        EndpointNames, NameTables, NetworkNames, Port, Protocol,
        delta::{self, Change},
    },
    state::HostEntry,
};

use super::*;

fn endpoint(names: &[&str], addresses: &[&str]) -> EndpointNames {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    EndpointNames { names: texts(names), addresses: texts(addresses), ports: Vec::new() }
}

fn tables() -> NameTables {
    NameTables {
        hosts: vec![HostEntry { address: "10.9.0.9".into(), names: vec!["Extra".into()] }],
        networks: vec![
            NetworkNames {
                network: "Front".into(),
                links: vec![],
                endpoints: vec![
                    EndpointNames {
                        ports: vec![
                            Port { number: 80, protocol: Protocol::Tcp, name: Some("HTTP".into()) },
                            Port { number: 53, protocol: Protocol::Udp, name: None },
                        ],
                        ..endpoint(&["Web", "www"], &["10.1.0.2", "fd00::2"])
                    },
                    EndpointNames {
                        ports: vec![Port { number: 80, protocol: Protocol::Tcp, name: None }],
                        ..endpoint(&["api", "www", "WWW"], &["10.1.0.3", "10.1.0.2"])
                    },
                ],
            },
            NetworkNames {
                network: "back".into(),
                links: vec![endpoint(&["api"], &["10.2.0.7"])],
                endpoints: vec![endpoint(&["web"], &["10.2.0.2"]), endpoint(&["db.v2"], &["10.2.0.3"])],
            },
        ],
        ..NameTables::default()
    }
}

fn names() -> Names {
    Names::new(&tables().check().unwrap())
}

/// What is found under a name as people write it.
fn found(names: &Names, name: &str) -> String {
    let list = |addresses: &Addresses| {
        let all: Vec<String> = addresses.all().map(|address| address.to_string()).collect();
        all.join(" ")
    };
    match names.find(&wire(name, true)) {
        Found::Name(addresses) => list(addresses),
        Found::Pointer(host) => format!("{} {}", host[0], String::from_utf8_lossy(&host[1..])),
        Found::Service { ports, host_at, addresses } => format!("{ports:?} {host_at} {}", list(addresses)),
        Found::Network => "network".to_owned(),
        Found::BelowNetwork => "below".to_owned(),
        Found::Foreign => "foreign".to_owned(),
    }
}

#[test]
fn the_first_place_that_has_a_name_wins() {
    let names = names();
    for (name, addresses) in [
        ("web", "10.1.0.2 fd00::2"),
        ("WEB", "10.1.0.2 fd00::2"),
        ("web.back", "10.2.0.2"),
        ("web.front", "10.1.0.2 fd00::2"),
        ("db.v2", "10.2.0.3"),
        ("db.v2.back", "10.2.0.3"),
        ("db.v2.front", "below"),
        ("extra", "10.9.0.9"),
        ("nobody", "foreign"),
        ("nobody.example", "foreign"),
        ("nobody.back", "below"),
        ("back", "network"),
    ] {
        assert_eq!(found(&names, name), addresses, "{name}");
    }
}

#[test]
fn a_link_comes_before_everybodys_names() {
    let names = names();
    assert_eq!(found(&names, "api"), "10.2.0.7");
    assert_eq!(found(&names, "api.back"), "10.2.0.7");
    assert_eq!(found(&names, "api.front"), "10.1.0.2 10.1.0.3");
}

#[test]
fn a_shared_alias_has_everybodys_addresses_once() {
    assert_eq!(found(&names(), "www"), "10.1.0.2 10.1.0.3 fd00::2");
}

#[test]
fn reverse_names_lead_to_the_first_name() {
    let names = names();
    // Two have the address; by which name it is found is always the same.
    assert_eq!(found(&names, "2.0.1.10.in-addr.arpa"), "3 Web");
    assert_eq!(found(&names, "7.0.2.10.in-addr.arpa"), "3 api");
    let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(found(&names, six), "3 Web");
    for name in ["1.10.in-addr.arpa", "02.0.1.10.in-addr.arpa", "1.2.0.1.10.in-addr.arpa", "d.f.ip6.arpa"] {
        assert_eq!(found(&names, name), "foreign", "{name}");
    }
}

#[test]
fn services_have_ports() {
    let names = names();
    assert_eq!(found(&names, "_80._tcp.web"), "[80] 9 10.1.0.2 fd00::2");
    assert_eq!(found(&names, "_http._tcp.WEB.front"), "[80] 11 10.1.0.2 fd00::2");
    assert_eq!(found(&names, "_80._tcp.www"), "[80] 9 10.1.0.2 10.1.0.3 fd00::2");
    assert_eq!(found(&names, "_53._udp.web"), "[53] 9 10.1.0.2 fd00::2");
    for name in ["_81._tcp.web", "_80._udp.web", "_+80._tcp.web", "_080._tcp.web"] {
        assert!(found(&names, name).starts_with("[] "), "{name}");
    }
    for name in ["_80._tcp.nobody", "80.tcp.web", "_80"] {
        assert_eq!(found(&names, name), "foreign", "{name}");
    }
}

#[test]
fn a_change_that_does_not_fit_changes_nothing() {
    let mut names = names();
    let before = names.digest();
    let change = |change: Change| Change::check_all(&[change]).unwrap();
    let gone = Change {
        network: "back".into(),
        removed: vec![endpoint(&["web"], &["10.2.0.99"])],
        ..Change::default()
    };
    assert_eq!(names.change(&change(gone), &before), Err(Gap), "nobody is like that");
    let elsewhere = Change { network: "other".into(), ..Change::default() };
    assert_eq!(names.change(&change(elsewhere), &before), Err(Gap), "no such network");
    let more = Change {
        network: "back".into(),
        added: vec![endpoint(&["more"], &["10.2.0.4"])],
        ..Change::default()
    };
    assert_eq!(names.change(&change(more), &before), Err(Gap), "another digest");
    assert_eq!((names.digest(), found(&names, "more")), (before, "foreign".to_owned()));
}

/// A table of few names, addresses and ports, so that they are shared often.
fn some_tables() -> impl Strategy<Value = NameTables> {
    let name = prop::sample::select(vec!["a", "b", "A", "c", "a.net1", "x.y"]);
    let address = prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let endpoint = (prop::collection::vec(name, 1..4), prop::collection::vec(address, 0..3));
    let endpoint = endpoint.prop_map(|(names, addresses)| super::tests::endpoint(&names, &addresses));
    let some = || prop::collection::vec(endpoint.clone(), 0..5);
    (some(), some(), some(), some()).prop_map(|(l0, e0, l1, e1)| NameTables {
        networks: vec![
            NetworkNames { network: "net0".into(), links: l0, endpoints: e0 },
            NetworkNames { network: "net1".into(), links: l1, endpoints: e1 },
        ],
        ..NameTables::default()
    })
}

proptest! {
    /// Names that were changed, and names that were made anew of the same tables, know the same.
    #[test]
    fn changed_names_are_as_good_as_new_ones(all in prop::collection::vec(some_tables(), 2..5)) {
        let mut names = Names::new(&all[0].check().unwrap());
        for step in all.windows(2) {
            let changes = delta::between(&step[0], &step[1]).unwrap();
            let changes = Change::check_all(&changes).unwrap();
            prop_assert_eq!(names.change(&changes, &names_digest(&step[1])), Ok(()));
            let new = Names::new(&step[1].check().unwrap());
            prop_assert_eq!(names.digest(), names_digest(&step[1]));
            for name in ["a", "b", "c", "a.net0", "a.net1", "b.net1", "x.y", "x.y.net0", "y", "net0",
                         "1.0.0.10.in-addr.arpa", "2.0.0.10.in-addr.arpa", "_1._tcp.a"] {
                prop_assert_eq!(found(&names, name), found(&new, name), "{}", name);
            }
        }
    }
}
