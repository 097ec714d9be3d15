//! One change with every kind of operation that these devices allow, refused at each of them.

use std::collections::BTreeSet;

use serde_json::json;
use tether::{
    kernel::Fault,
    plan::{Operation, Setting},
};
use tether_wire::{
    message::{FailedOperation, Phase},
    state::DesiredState,
};

use crate::{
    foreign,
    machine::{Machine, mac, on_machine},
    seen::{everything, same},
};

fn before() -> DesiredState {
    serde_json::from_value(json!({
        "hostname": "before",
        "interfaces": [
            {
                "match": {"mac": mac(0)}, "name": "eth0", "alternative_names": ["front", "old"],
                "mtu": 1_400, "tx_queue_length": 500, "ipv4": {"rp_filter": 0, "forwarding": true},
                "addresses": [
                    {"address": "10.1.0.1/24", "conflicts": "off"},
                    {"address": "10.1.0.2/24", "label": "eth0:two"},
                    {"address": "10.1.1.1/24", "valid_s": 3_600, "preferred_s": 600},
                    {"address": "10.99.0.1/24"},
                    {"address": "fd00:1::1/64", "conflicts": "off"},
                    {"address": "fd00:1:1::1/64"},
                ],
                "routes": [
                    {"destination": "0.0.0.0/0", "gateway": "10.1.0.250"},
                    {"destination": "192.168.0.0/16", "gateway": "10.1.1.250", "mtu": 1_300},
                    {"destination": "172.16.0.0/12", "table": 7, "source": "10.1.0.2"},
                    {"destination": "fd10::/16", "gateway": "fe80::250", "preference": "high"},
                ],
                "neighbours": [
                    {"address": "10.1.0.240", "mac": "02:bb:00:00:00:01"},
                    {"address": "10.1.0.241", "mac": "02:bb:00:00:00:02"},
                ],
            },
            {
                "match": {"name": "n2"}, "name": "eth1", "mac": "02:00:00:00:aa:02",
                "addresses": [{"address": "10.2.0.1/24"}, {"address": "fd00:2::1/64", "conflicts": "off"}],
                "routes": [{"destination": "::/0", "gateway": "fe80::250"}],
            },
            {
                "match": {"mac": mac(2)}, "name": "eth2", "addresses": [{"address": "10.3.0.1/24"}],
                "neighbours": [{"address": "10.3.0.240", "mac": "02:bb:00:00:00:05"}],
            },
        ],
        "routes": [
            {"destination": "192.168.5.0/24", "hops": [
                {"interface": "eth0", "gateway": "10.1.0.250", "weight": 2}, {"interface": "eth1", "gateway": "10.2.0.250"},
            ]},
            {"destination": "fd20::/16", "type": "unreachable"},
        ],
        "rules": [
            {"priority": 100, "from": "10.1.0.0/16", "table": 7},
            {"priority": 101, "family": "ipv6", "fwmark": 1, "table": 254},
        ],
    }))
    .unwrap()
}

/// Names are swapped, an address moves to another link, networks change their first address.
fn after() -> DesiredState {
    serde_json::from_value(json!({
        "hostname": "after",
        "interfaces": [
            {
                "match": {"mac": mac(0)}, "name": "eth1", "alternative_names": ["old", "new"],
                "mtu": 1_300, "mac": "02:00:00:00:aa:01", "ipv6": {"accept_ra": 0},
                "addresses": [
                    {"address": "10.1.0.2/24"},
                    {"address": "10.1.0.1/24", "scope": "global"},
                    {"address": "10.1.1.1/24"},
                    {"address": "fd00:1::1/64", "conflicts": "off", "valid_s": 3_600},
                    {"address": "fd00:1:1::2/64", "conflicts": "off"},
                ],
                "routes": [
                    {"destination": "0.0.0.0/0", "gateway": "10.1.0.251"},
                    {"destination": "192.168.0.0/16", "gateway": "10.1.1.250"},
                    {"destination": "172.17.0.0/16", "gateway": "172.31.0.1", "onlink": true, "table": 8},
                ],
                "neighbours": [{"address": "10.1.0.240", "mac": "02:bb:00:00:00:03"}],
            },
            {
                "match": {"mac": mac(1)}, "name": "eth0", "alternative_names": ["front"], "tx_queue_length": 50,
                "ipv4": {"arp_ignore": 2},
                "addresses": [
                    {"address": "10.2.0.1/24"}, {"address": "10.99.0.1/24"}, {"address": "fd00:2::1/64"},
                ],
                "routes": [{"destination": "::/0", "gateway": "fd00:2::250"}],
                "neighbours": [{"address": "fd00:2::240", "mac": "02:bb:00:00:00:04"}],
            },
            {"match": {"mac": mac(2)}, "name": "eth2", "down": true},
        ],
        "routes": [
            {"destination": "192.168.5.0/24", "hops": [
                {"interface": "eth0", "gateway": "10.2.0.250"}, {"interface": "eth1", "gateway": "10.1.0.250"},
            ]},
            {"destination": "10.250.0.0/16", "type": "blackhole"},
        ],
        "rules": [
            {"priority": 100, "from": "10.1.0.0/16", "table": 8, "suppress_prefixlength": 0},
            {"priority": 102, "iif": "eth0", "table": 254},
        ],
    }))
    .unwrap()
}

/// What others have made there: all that goes with it.
fn others() -> Vec<String> {
    let all = foreign::ALL.iter().filter(|line| !line.starts_with("link set"));
    all.map(ToString::to_string).collect()
}

#[test]
fn whichever_operation_is_refused_everything_is_as_before() {
    let refused = on_machine(&others(), async |machine| {
        machine.apply(&before()).await.unwrap();
        let start = everything(&machine.observe().await);
        let (target, operations) = machine.plan(&after()).await;
        assert_eq!(kinds(&operations), KINDS.into_iter().collect());
        for (at, operation) in operations.iter().enumerate() {
            machine.agent.kernel().set_fault(Some(Fault::Refuse(at)));
            let failure = machine.apply(&after()).await.unwrap_err();
            assert_eq!(failure.phase, Phase::Apply, "{operation}");
            assert_eq!(failure.problems.len(), 1);
            assert_eq!(failure.problems[0].path, target.path_of(operation));
            assert!(failure.problems[0].message.starts_with(&format!("{operation}: ")));
            // A request of an unknown type, and a file that is not there.
            let errno = if matches!(operation, Operation::Set(..)) { "ENOENT" } else { "EOPNOTSUPP" };
            let (operation, kernel) = (operation.to_string(), String::new());
            let told = FailedOperation { operation: operation.clone(), errno: errno.to_owned(), kernel };
            assert_eq!(failure.operation, Some(told));
            assert!(failure.restored, "{operation}");
            is_as(&start, machine, &format!("\"{operation}\" was refused")).await;
        }
        machine.agent.kernel().set_fault(None);
        machine.apply(&after()).await.unwrap();
        assert_eq!(machine.apply(&after()).await.unwrap().operations, 0);
        operations.len()
    });
    assert!(refused > 40, "{refused}");
}

async fn is_as(start: &[String], machine: &Machine, what: &str) {
    let now = everything(&machine.observe().await);
    if let Err(different) = same(&format!("before (-), after {what} (+)"), start, &now) {
        panic!("{different}");
    }
}

/// The kinds of operations; devices cannot be made on every kernel.
const KINDS: [&str; 19] = [
    "LinkDown",
    "LinkUp",
    "Rename",
    "AddAlternativeName",
    "RemoveAlternativeName",
    "SetMac",
    "SetMtu",
    "SetTxQueueLength",
    "Set",
    "AddAddress",
    "ChangeAddress",
    "RemoveAddress",
    "AddRoute",
    "ReplaceRoute",
    "RemoveRoute",
    "AddRule",
    "RemoveRule",
    "SetNeighbour",
    "RemoveNeighbour",
];

fn kinds(operations: &[Operation]) -> BTreeSet<&'static str> {
    let kind = |operation: &Operation| {
        let text = format!("{operation:?}");
        KINDS.into_iter().find(|kind| text.strip_prefix(kind).is_some_and(|rest| rest.starts_with('(')))
    };
    operations.iter().filter_map(kind).collect()
}

#[test]
fn the_kernels_own_words_are_told() {
    let state: DesiredState = serde_json::from_value(json!({
        "interfaces": [{
            "match": {"mac": mac(0)}, "name": "eth0",
            "addresses": [{"address": "10.1.0.1/24"}],
            "routes": [
                {"destination": "192.168.0.0/16"},
                {"destination": "0.0.0.0/0", "gateway": "10.1.0.250", "scope": "link"},
            ],
        }],
    }))
    .unwrap();
    on_machine(&[], async |machine| {
        let start = everything(&machine.observe().await);
        let failure = machine.apply(&state).await.unwrap_err();
        let operation = failure.operation.unwrap();
        assert_eq!(operation.operation, "add route 0.0.0.0/0 via 10.1.0.250 through link 11");
        assert_eq!((&*operation.errno, &*operation.kernel), ("ENETUNREACH", "Nexthop has invalid gateway"));
        assert_eq!(failure.problems[0].path, "interfaces[0].routes[1]");
        assert!(failure.problems[0].message.ends_with("(Nexthop has invalid gateway)"));
        assert!(failure.restored);
        is_as(&start, machine, "the kernel refused").await;
        assert_eq!(
            machine.observe().await.link(11).unwrap().settings.get(Setting::PromoteSecondaries),
            Some(0)
        );
    });
}
