//! Documents that are good in themselves, and not for this machine.

use serde_json::{Value, json};
use tether_wire::{message::Phase, state::DesiredState};

use crate::{
    machine::{Machine, mac, on_machine},
    seen::{everything, same},
};

/// A machine on which much is in the way.
fn others() -> Vec<String> {
    let all = [
        "tuntap add tap0 mode tap",
        // Two devices of one MAC address, neither of which has it for good.
        "link set far23 address 02:00:00:00:00:03",
        "link property add dev far21 altname theirs",
        "address add 10.1.0.200/24 dev n1",
        "route add 192.168.0.0/16 via 10.1.0.254 dev n1 proto static",
        "neigh add 10.1.0.240 lladdr 02:aa:00:00:00:01 dev n1 nud permanent protocol static",
    ];
    all.map(ToOwned::to_owned).to_vec()
}

fn document(interfaces: &Value) -> DesiredState {
    serde_json::from_value(json!({ "interfaces": interfaces })).unwrap()
}

/// A document is refused for what is told at these paths, by these words; nothing is touched.
async fn refused(machine: &mut Machine, interfaces: Value, expected: &[(&str, &str)]) {
    let start = machine.observe().await;
    let failure = machine.apply(&document(&interfaces)).await.unwrap_err();
    assert_eq!((failure.phase, failure.restored), (Phase::Plan, true), "{failure:#?}");
    let found: Vec<&str> = failure.problems.iter().map(|problem| &*problem.path).collect();
    let paths: Vec<&str> = expected.iter().map(|(path, _)| *path).collect();
    assert_eq!(found, paths, "{:#?}", failure.problems);
    for (problem, (_, words)) in failure.problems.iter().zip(expected) {
        assert!(problem.message.contains(words), "{problem}: {words}");
    }
    let now = machine.observe().await;
    if let Err(different) = same("before (-), after (+)", &everything(&start), &everything(&now)) {
        panic!("{different}");
    }
}

#[test]
fn every_problem_with_the_machine_is_told_at_once() {
    on_machine(&others(), async |machine| {
        machine.set_lifeline(1);
        let interfaces = json!([
            {"match": {"mac": "02:00:00:00:00:99"}, "name": "eth0"},
            {"match": {"mac": mac(2)}, "name": "eth1"},
            {"match": {"mac": mac(1)}, "name": "eth2"},
            {"match": {"name": "tap0"}, "name": "n3", "mtu": 65_535},
            {
                "match": {"mac": mac(0)}, "name": "eth3", "alternative_names": ["theirs"],
                "addresses": [{"address": "10.1.0.1/24"}],
                "routes": [{"destination": "192.168.0.0/16", "gateway": "10.1.0.250"}],
                "neighbours": [{"address": "10.1.0.240", "mac": "02:bb:00:00:00:01"}],
            },
        ]);
        let expected = [
            ("interfaces[0].match", "n1 (02:00:00:00:00:01), n2 (02:00:00:00:00:02)"),
            ("interfaces[1].match", "n3 (02:00:00:00:00:03), far23 (02:00:00:00:00:03)"),
            ("interfaces[2].match", "n2 is the management NIC"),
            ("interfaces[3].mtu", "it takes 68 to 65521"),
            ("interfaces[3].name", "n3 is the name of another interface"),
            ("interfaces[4].alternative_names", "theirs is the name of another interface"),
            ("interfaces[4].routes[0]", "192.168.0.0/16 via 10.1.0.254 dev n1 (protocol 4)"),
            ("interfaces[4].neighbours[0]", "10.1.0.240 on n1 is 02:aa:00:00:00:01"),
        ];
        refused(machine, interfaces, &expected).await;
    });
}

#[test]
fn each_problem_with_the_machine_is_enough() {
    on_machine(&others(), async |machine| {
        machine.set_lifeline(1);
        for (interface, path, words) in [
            (json!({"match": {"mac": mac(2)}, "name": "eth0"}), "match", "more than one interface is"),
            (json!({"match": {"mac": mac(1)}, "name": "n2"}), "match", "management"),
            (json!({"match": {"mac": mac(1), "name": "n2"}, "name": "n2"}), "match", "management"),
            (json!({"match": {"name": "tap0"}, "name": "tap0", "mtu": 65_535}), "mtu", "65521"),
            (json!({"match": {"name": "tap0"}, "name": "n2"}), "name", mac(1).as_str()),
            (json!({"match": {"name": "n1"}, "name": "theirs"}), "name", "02:ff:00:00:00:15"),
            (
                json!({"match": {"name": "n1"}, "name": "a", "alternative_names": ["n3"]}),
                "alternative_names",
                "n3",
            ),
        ] {
            refused(machine, json!([interface]), &[(&format!("interfaces[0].{path}"), words)]).await;
        }
        let twice = json!([{"match": {"mac": mac(0)}, "name": "a"}, {"match": {"name": "n1"}, "name": "b"}]);
        refused(machine, twice, &[("interfaces[1].match", "the same device as interfaces[0]")]).await;
        // All that is wrong is left out: this one does fit.
        machine.apply(&document(&json!([{"match": {"mac": mac(0)}, "name": "n1"}]))).await.unwrap();
    });
}
