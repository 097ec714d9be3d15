//! Changes that were once found to go wrong, each thoroughly: from nothing and from another
//! document, twice, and refused at every operation.

use serde_json::{Value, json};
use tether::kernel::Fault;
use tether_wire::state::DesiredState;

use crate::{
    machine::{mac, on_machine},
    seen::{everything, same},
};

/// From `first` to `second` where others have made `foreign`.
fn try_change(foreign: &[&str], first: &Value, second: &Value) {
    assert!(restores(foreign, first, second), "not restored");
}

/// The same; whether everything was restored each time, which the agent has to say itself.
fn restores(foreign: &[&str], first: &Value, second: &Value) -> bool {
    let foreign: Vec<String> = foreign.iter().map(ToString::to_string).collect();
    let [first, second]: [DesiredState; 2] =
        [first, second].map(|state| serde_json::from_value(state.clone()).unwrap());
    let fresh = on_machine(&foreign, async |machine| {
        machine.apply(&second).await.unwrap();
        everything(&machine.observe().await)
    });
    on_machine(&foreign, async |machine| {
        machine.apply(&first).await.unwrap();
        let start = everything(&machine.observe().await);
        let (_, operations) = machine.plan(&second).await;
        for (at, operation) in operations.iter().enumerate() {
            machine.agent.kernel().set_fault(Some(Fault::Refuse(at)));
            let failure = machine.apply(&second).await.unwrap_err();
            let what = format!("before (-), after \"{operation}\" was refused (+)");
            let now = same(&what, &start, &everything(&machine.observe().await));
            // What cannot be put back is told.
            assert!(failure.restored == now.is_ok(), "restored: {}; {now:?}", failure.restored);
            if !failure.restored {
                return false;
            }
            now.unwrap();
        }
        machine.agent.kernel().set_fault(None);
        machine.apply(&second).await.unwrap();
        let now = everything(&machine.observe().await);
        same("fresh (-), after another (+)", &fresh, &now).unwrap();
        assert_eq!(machine.apply(&second).await.unwrap().operations, 0);
        true
    })
}

fn nothing() -> Value {
    json!({})
}

#[test]
fn an_mtu_below_ipv6s_least_takes_the_settings_of_ipv6_along() {
    let small = json!({"interfaces": [{"match": {"mac": mac(0)}, "name": "n1", "mtu": 1_000}]});
    try_change(&[], &nothing(), &small);
    try_change(&[], &small, &nothing());
    try_change(&["ipv6/conf/n1/accept_ra=0"], &small, &nothing());
}

#[test]
fn a_link_that_goes_back_down_keeps_the_ipv6_addresses_of_others() {
    let up = json!({"interfaces": [{
        "match": {"mac": mac(2)}, "name": "n3", "addresses": [{"address": "fd00:3::1/64", "conflicts": "off"}],
    }]});
    let foreign = ["link set n3 down", "address add fd00:3::200/64 dev n3 nodad"];
    try_change(&foreign, &nothing(), &up);
    try_change(&foreign, &up, &nothing());
}

#[test]
fn the_first_address_of_a_network_decides_on_the_route_to_it() {
    let with = |address: Value, routes: Value| {
        json!({"interfaces": [
            {"match": {"mac": mac(0)}, "name": "n1", "addresses": [address], "routes": routes},
        ]})
    };
    let without_route = with(json!({"address": "10.99.0.3/24", "no_prefix_route": true}), json!([]));
    let routes = json!([{"destination": "0.0.0.0/0", "gateway": "10.99.0.250"}]);
    try_change(&[], &without_route, &with(json!({"address": "10.99.0.1/24"}), routes));
}

#[test]
fn addresses_of_one_network_have_one_scope() {
    let of_scope = |address: &str, scope: &str| {
        json!({"interfaces": [
            {"match": {"mac": mac(0)}, "name": "n1", "addresses": [{"address": address, "scope": scope}]},
        ]})
    };
    try_change(&[], &of_scope("10.1.0.1/24", "site"), &of_scope("10.1.0.2/24", "global"));
}

#[test]
fn a_route_by_way_of_ipv6_goes_with_ipv6() {
    let without = json!({"interfaces": [
        {"match": {"mac": mac(1)}, "name": "n2", "mac": "02:00:00:00:aa:01", "ipv6": {"disable_ipv6": true}},
    ]});
    let foreign = ["route add 198.51.101.0/24 via inet6 fe80::77 dev n2 metric 701 proto static"];
    try_change(&foreign, &nothing(), &without);
}

#[test]
fn others_routes_through_a_link_that_is_down_are_put_back_or_missed() {
    let down = json!({"interfaces": [{"match": {"mac": mac(0)}, "name": "n1", "down": true}]});
    let other = json!({"interfaces": [
        {"match": {"mac": mac(1)}, "name": "n2", "addresses": [{"address": "10.2.0.1/24"}]},
    ], "rules": [{"priority": 100, "table": 254}]});
    let foreign =
        ["route add 198.51.103.0/24 metric 704 proto static nexthop via 10.1.0.254 dev n1 onlink nexthop \
         via 10.2.0.254 dev n2 onlink weight 3"];
    restores(&foreign, &down, &other);
}

/// Linux 6.18 takes the time for one long past when an address that was there for ever is given an
/// end, and the route to its network with it.
#[test]
fn a_lifetime_that_comes_later_leaves_the_route_to_the_network() {
    let with = |address: Value, routes: Value| {
        json!({"interfaces": [
            {"match": {"mac": mac(0)}, "name": "n1", "addresses": [address], "routes": routes},
        ]})
    };
    let for_ever = with(json!({"address": "fd00:1::1/64", "conflicts": "off"}), json!([]));
    let ending = with(
        json!({"address": "fd00:1::1/64", "conflicts": "off", "valid_s": 600}),
        json!([{"destination": "::/0", "gateway": "fd00:1::250"}]),
    );
    try_change(&[], &for_ever, &ending);
    try_change(&[], &ending, &for_ever);
}

#[test]
fn an_ipv6_route_of_others_with_a_dead_next_hop_is_no_obstacle() {
    let foreign = [
        "route add fd10:8::/48 metric 708 proto static nexthop via fe80::5 dev n1 nexthop via fe80::6 dev n2",
    ];
    let without = json!({"interfaces": [
        {"match": {"mac": mac(0)}, "name": "n1", "ipv6": {"disable_ipv6": true}},
    ]});
    let other_mac = json!({"interfaces": [
        {"match": {"mac": mac(1)}, "name": "n2", "mac": "02:00:00:00:aa:01"},
    ]});
    restores(&foreign, &without, &other_mac);
}
