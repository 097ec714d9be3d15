//! The agent's netlink on the real kernel, each test in a network namespace of its own: needs root
//! and `ip`. Dummies and VLANs are tried only where the kernel has them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::IpAddr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use tether::{
    kernel::{Kernel, KernelError, Refusal, clock},
    plan::{
        Address, Hop, KernelState, Lifetime, Link, LinkKind, Named, Neighbour, Operation, PROTOCOL,
        RTN_UNICAST, Route, Rule, Setting, TABLE_MAIN,
    },
};
use tokio::time::{sleep, timeout};

/// Runs a test in a network namespace with two linked devices, `left` (index 2) and `right` (3).
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce(Kernel) -> F + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add left index 2 type veth peer name right index 3");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(Kernel::open().unwrap()).await });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

async fn carry_out(kernel: &Kernel, operations: &[Operation]) {
    if let Err(Refusal { at, error }) = kernel.carry_out(operations, |_, _| false).await {
        panic!("{at}: {}: {error}", operations[at]);
    }
}

async fn observe(kernel: &Kernel) -> KernelState {
    kernel.observe().await.unwrap()
}

fn left() -> Named {
    Named { index: 2, name: "left".into() }
}

fn both_up() -> [Operation; 2] {
    [Operation::LinkUp(left()), Operation::LinkUp(Named { index: 3, name: "right".into() })]
}

fn ours(prefix: &str) -> Address {
    // IPv4 has no duplicate-address detection to leave out, and forgets the flag.
    Address { nodad: prefix.contains(':'), ..Address::ours(2, prefix.parse().unwrap()) }
}

fn hop(link: u32, gateway: &str, weight: u16) -> Hop {
    let gateway = (!gateway.is_empty()).then(|| gateway.parse().unwrap());
    Hop { link, gateway, onlink: false, weight }
}

fn route(destination: &str, metric: u32, hops: &[Hop]) -> Route {
    let direct = hops.iter().any(|hop| hop.gateway.is_none()) && !destination.contains(':');
    let mut route = Route {
        table: TABLE_MAIN,
        destination: destination.parse().unwrap(),
        tos: 0,
        metric,
        kind: RTN_UNICAST,
        scope: if direct { 253 } else { 0 },
        protocol: PROTOCOL,
        source: None,
        mtu: 0,
        preference: 0,
        hops: hops.to_vec(),
        rest: Vec::new(),
    };
    route.sort_hops();
    route
}

#[test]
fn links_are_changed_and_read_back() {
    in_namespace(|kernel| async move {
        let mut state = observe(&kernel).await;
        assert_eq!(state.links.iter().map(|link| link.index).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(state.link(1).unwrap().kind, LinkKind::Loopback);
        let before = state.link(2).unwrap().clone();
        assert_eq!((before.kind, before.up, before.carrier), (LinkKind::Device, false, false));
        assert!(before.mtu_range.1 > 1500 && before.pci.is_empty() && before.group == 0);
        kernel.locate(&mut state);
        assert!(state.link(2).unwrap().pci.is_empty());
        kernel.loopback_up().await.unwrap();

        let new = Named { index: 2, name: "new".into() };
        let mut operations = vec![
            Operation::Rename(left(), "new".into()),
            Operation::AddAlternativeName(new.clone(), "second-name-that-is-long".into()),
            Operation::AddAlternativeName(new.clone(), "first".into()),
            Operation::AddAlternativeName(new.clone(), "third".into()),
            Operation::RemoveAlternativeName(new.clone(), "third".into()),
            Operation::SetMac(new.clone(), "02:11:22:33:44:55".parse().unwrap()),
            Operation::SetMtu(new.clone(), 1400),
            Operation::SetTxQueueLength(new.clone(), 77),
        ];
        operations.extend(Setting::ALL.map(|setting| Operation::Set(new.clone(), setting, 1)));
        operations.extend(both_up());
        carry_out(&kernel, &operations).await;
        let state = observe(&kernel).await;
        assert!(state.link(1).unwrap().up);
        let mut expected = Link {
            name: "new".into(),
            mac: "02:11:22:33:44:55".parse().ok(),
            alternative_names: vec!["first".into(), "second-name-that-is-long".into()],
            mtu: 1400,
            tx_queue_length: 77,
            up: true,
            carrier: true,
            ..before
        };
        for setting in Setting::ALL {
            assert!(before.settings.get(setting).is_some(), "{setting}");
            expected.settings.set(setting, Some(1));
        }
        assert_eq!(state.link(2), Some(&expected));

        // IPv6 that is off has settings; where the MTU does not allow it there are none.
        carry_out(&kernel, &[Operation::SetMtu(new.clone(), 1000), Operation::LinkDown(new)]).await;
        let state = observe(&kernel).await;
        let link = state.link(2).unwrap();
        assert!(!link.up);
        assert_eq!(link.settings.get(Setting::DisableIpv6), None);
        assert_eq!(link.settings.get(Setting::Ipv4Forwarding), Some(1));
    });
}

#[test]
fn links_that_are_up_are_renamed_where_the_kernel_says_so() {
    in_namespace(|kernel| async move {
        carry_out(&kernel, &both_up()).await;
        let rename = kernel.carry_out(&[Operation::Rename(left(), "new".into())], |_, _| false).await;
        assert_eq!(rename.is_ok(), observe(&kernel).await.renames_live);
    });
}

#[test]
fn devices_are_made_and_removed() {
    in_namespace(|kernel| async move {
        let dummy = Link {
            index: 50,
            name: "dummy5".into(),
            kind: LinkKind::Dummy,
            group: u32::from(PROTOCOL),
            mac: "02:11:22:33:44:55".parse().ok(),
            ..Link::default()
        };
        let vlan = Link {
            index: 51,
            name: "vlan5".into(),
            kind: LinkKind::Vlan { parent: 2, id: 5 },
            mac: None,
            ..dummy.clone()
        };
        for link in [dummy, vlan] {
            match kernel.carry_out(&[Operation::CreateLink(link.clone())], |_, _| false).await {
                Err(refusal) if refusal.error.name() == "EOPNOTSUPP" => {
                    // "Unknown device type": nothing is there of it.
                    assert!(!refusal.error.words().is_empty(), "{}", refusal.error);
                    assert_eq!(observe(&kernel).await.link(link.index), None);
                    continue;
                }
                made => made.unwrap(),
            }
            let state = observe(&kernel).await;
            let made = state.link(link.index).unwrap();
            assert!(made.is_ours() && !made.up);
            assert_eq!((&made.name, made.kind, made.group), (&link.name, link.kind, link.group));
            assert!(link.mac.is_none() || made.mac == link.mac);
            carry_out(&kernel, &[Operation::DeleteLink(Named::of(&link))]).await;
            assert_eq!(observe(&kernel).await.link(link.index), None);
        }
        // Any device can be deleted; its other end goes with it.
        carry_out(&kernel, &[Operation::DeleteLink(left())]).await;
        assert_eq!(observe(&kernel).await.links.len(), 1);
    });
}

#[test]
fn addresses_are_made_changed_and_removed() {
    in_namespace(|kernel| async move {
        let at = |seconds: u32| clock() + seconds;
        let lifetime = Some(Lifetime { valid: at(1000), preferred: at(500) });
        let peer = |address: &str| address.parse().ok();
        let mut addresses = vec![
            ours("10.0.0.2/24"),
            ours("10.0.0.1/24"),
            Address { label: Some("left:web".into()), ..ours("10.1.0.1/16") },
            Address { peer: peer("10.2.0.2"), scope: 253, ..ours("10.2.0.1/32") },
            Address { no_prefix_route: true, lifetime, ..ours("10.3.0.1/24") },
            Address { lifetime: Some(Lifetime { valid: u32::MAX, preferred: 0 }), ..ours("10.4.0.1/24") },
            ours("fd00::1/64"),
            Address { no_prefix_route: true, home: true, lifetime, ..ours("fd01::1/64") },
            Address { peer: peer("fd02::2"), ..ours("fd02::1/128") },
            Address { lifetime: Some(Lifetime { valid: at(1000), preferred: 0 }), ..ours("fd03::1/64") },
            Address {
                lifetime: Some(Lifetime { valid: u32::MAX, preferred: at(700) }),
                ..ours("fd04::1/64")
            },
        ];
        let mut operations = both_up().to_vec();
        operations.extend(addresses.iter().cloned().map(Operation::AddAddress));
        carry_out(&kernel, &operations).await;
        check_addresses(&kernel, &addresses).await;
        sleep(Duration::from_millis(2500)).await;
        check_addresses(&kernel, &addresses).await;

        // One that is there is refused by its name, also where it is only tolerated.
        let again = [Operation::AddAddress(addresses[0].clone()), Operation::AddAddress(ours("10.9.0.1/16"))];
        let refusal = kernel.carry_out(&again, |_, _| false).await.unwrap_err();
        assert!(refusal.at == 0 && refusal.error.says_exists(), "{}", refusal.error);
        kernel.carry_out(&again, |_, error| error.says_exists()).await.unwrap();
        addresses.push(ours("10.9.0.1/16"));

        addresses[0].lifetime = lifetime;
        addresses[4].lifetime = None;
        addresses[6].lifetime = lifetime;
        addresses[7].lifetime = None;
        addresses[7].home = false;
        let changed = [0, 4, 6, 7].map(|at| Operation::ChangeAddress(addresses[at].clone()));
        carry_out(&kernel, &changed).await;
        check_addresses(&kernel, &addresses).await;

        let removed = addresses.drain(1..).map(Operation::RemoveAddress).collect::<Vec<_>>();
        carry_out(&kernel, &removed).await;
        check_addresses(&kernel, &addresses).await;
        let refusal = kernel.carry_out(&removed[..1], |_, _| false).await.unwrap_err();
        assert!(refusal.error.says_gone(), "{}", refusal.error);

        // Without NODAD an address is tentative for a while; optimistic ones are both.
        let waiting = Address { nodad: false, ..ours("fd05::1/64") };
        carry_out(&kernel, &[Operation::AddAddress(waiting.clone())]).await;
        let state = observe(&kernel).await;
        assert!(state.addresses.iter().any(|a| a.key() == waiting.key() && a.tentative && !a.duplicate));
    });
}

async fn check_addresses(kernel: &Kernel, expected: &[Address]) {
    let state = observe(kernel).await;
    let found: Vec<_> = state.addresses.iter().filter(|address| address.is_ours()).collect();
    let expected: Vec<_> = expected.iter().collect();
    // The order is the kernel's; of one network it is the one of creation.
    let first = found.iter().position(|a| a.prefix.to_string() == "10.0.0.2/24");
    let second = found.iter().position(|a| a.prefix.to_string() == "10.0.0.1/24");
    assert!(second.is_none() || first < second);
    let mut expected: Vec<Address> = expected.into_iter().cloned().collect();
    let mut found: Vec<Address> = found.into_iter().cloned().collect();
    found.sort_by_key(|address| address.prefix);
    expected.sort_by_key(|address| address.prefix);
    // What is left is told in whole seconds.
    for (found, expected) in found.iter_mut().zip(&expected) {
        let near = |a: u32, b: u32| a.abs_diff(b) <= 2;
        if let (Some(one), Some(other)) = (found.lifetime, expected.lifetime)
            && near(one.valid, other.valid)
            && near(one.preferred, other.preferred)
        {
            found.lifetime = expected.lifetime;
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn routes_are_made_replaced_and_removed() {
    in_namespace(|kernel| async move {
        let mut operations = both_up().to_vec();
        operations.extend(["10.0.0.1/24", "fd00::1/64"].map(|prefix| Operation::AddAddress(ours(prefix))));
        let right = Address { link: 3, ..ours("10.5.0.1/24") };
        operations.push(Operation::AddAddress(right));
        carry_out(&kernel, &operations).await;
        let onlink = Hop { onlink: true, ..hop(2, "192.0.2.1", 1) };
        let mut routes = vec![
            route("0.0.0.0/0", 0, &[hop(2, "10.0.0.9", 1)]),
            route("0.0.0.0/0", 50, &[hop(2, "10.0.0.8", 1)]),
            route("10.10.0.0/16", 0, &[hop(2, "", 1)]),
            route("10.11.0.0/16", 0, &[onlink]),
            route("10.12.0.0/16", 0, &[hop(2, "fe80::1", 1)]),
            route("10.13.0.0/16", 0, &[hop(3, "10.5.0.9", 3), hop(2, "10.0.0.9", 256)]),
            route("10.14.0.0/16", 0, &[hop(2, "fe80::1", 1), hop(2, "10.0.0.9", 2)]),
            Route { tos: 8, mtu: 1300, ..route("10.15.0.0/16", 9, &[hop(2, "10.0.0.9", 1)]) },
            Route {
                source: "10.0.0.1".parse().ok(),
                table: 1000,
                ..route("10.16.0.0/16", 0, &[hop(2, "", 1)])
            },
            Route { table: 100, ..route("10.16.0.0/16", 0, &[hop(2, "", 1)]) },
            route("::/0", 1024, &[hop(2, "fe80::9", 1)]),
            route("fd10::/16", 1024, &[hop(2, "", 1)]),
            route("fd11::/16", 9, &[hop(2, "fe80::9", 2), hop(3, "fe80::8", 7), hop(2, "fe80::3", 1)]),
            Route { preference: 1, mtu: 1300, ..route("fd12::/16", 7, &[hop(2, "fe80::9", 1)]) },
            Route { source: "fd00::1".parse().ok(), table: 1000, ..route("fd13::/16", 7, &[hop(2, "", 1)]) },
        ];
        // Blackhole, unreachable, prohibit, throw.
        for kind in 6..=9 {
            routes.push(Route { kind, ..route(&format!("10.2{kind}.0.0/16"), 0, &[]) });
            routes.push(Route { kind, ..route(&format!("fd2{kind}::/16"), 1024, &[]) });
        }
        let add: Vec<_> = routes.iter().cloned().map(Operation::AddRoute).collect();
        carry_out(&kernel, &add).await;
        check_routes(&kernel, &routes).await;
        for (at, operation) in add.iter().enumerate() {
            let refusal = kernel.carry_out(std::slice::from_ref(operation), |_, _| false).await.unwrap_err();
            assert!(refusal.error.says_exists(), "{at}: {operation}: {}", refusal.error);
        }

        routes[0].hops[0].gateway = "10.0.0.77".parse().ok();
        routes[2] = route("10.10.0.0/16", 0, &[hop(2, "10.0.0.9", 1), hop(3, "10.5.0.9", 1)]);
        routes[5] = route("10.13.0.0/16", 0, &[hop(2, "", 1)]);
        routes[7].mtu = 0;
        routes[10] = route("::/0", 1024, &[hop(2, "fe80::9", 1), hop(3, "fe80::9", 1)]);
        routes[12] = route("fd11::/16", 9, &[hop(2, "fe80::4", 1)]);
        routes[11] = Route { kind: 7, ..route("fd10::/16", 1024, &[]) };
        let replace: Vec<_> = routes.iter().cloned().map(Operation::ReplaceRoute).collect();
        carry_out(&kernel, &replace).await;
        check_routes(&kernel, &routes).await;

        while let Some(route) = routes.pop() {
            carry_out(&kernel, &[Operation::RemoveRoute(route.clone())]).await;
            check_routes(&kernel, &routes).await;
            let again = kernel.carry_out(&[Operation::RemoveRoute(route)], |_, _| false).await;
            // With metric 0 IPv4 takes the next one of the same network, if it has the same hops.
            assert!(again.unwrap_err().error.says_gone());
        }
    });
}

async fn check_routes(kernel: &Kernel, expected: &[Route]) {
    let state = observe(kernel).await;
    let sorted = |routes: &[Route]| {
        let mut routes = routes.to_vec();
        routes.sort_by_key(|r| (r.table, r.destination, r.metric, r.tos));
        routes
    };
    let (found, expected) = (sorted(&state.routes), sorted(expected));
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn routes_of_others_are_put_back_as_they_were() {
    in_namespace(|kernel| async move {
        carry_out(&kernel, &both_up()).await;
        carry_out(&kernel, &[Operation::AddAddress(ours("10.0.0.1/24"))]).await;
        carry_out(&kernel, &[Operation::AddAddress(ours("fd00::1/64"))]).await;
        ip("nexthop add id 7 via 10.0.0.9 dev left");
        ip("nexthop add id 8 via fe80::9 dev left");
        ip("route add 10.20.0.0/16 nhid 7");
        ip("route add 10.21.0.0/16 via 10.0.0.9 advmss 1000 hoplimit 9 mtu lock 1200 initcwnd 20 realms 3/4");
        ip("route add 10.22.0.0/16 nexthop via 10.0.0.9 realms 3/4 nexthop via 10.0.0.8 realms 5");
        ip("-6 route add fd20::/16 nhid 8");
        ip("-6 route add fd21::/16 via fe80::9 dev left hoplimit 9 expires 300");
        ip("route add local 10.23.0.0/16 dev lo table 77");
        let routes = observe(&kernel).await.routes;
        assert_eq!(routes.len(), 6);
        let remove: Vec<_> = routes.iter().cloned().map(Operation::RemoveRoute).collect();
        carry_out(&kernel, &remove).await;
        assert!(observe(&kernel).await.routes.is_empty());
        let add: Vec<_> = routes.iter().cloned().map(Operation::AddRoute).collect();
        carry_out(&kernel, &add).await;
        assert_eq!(observe(&kernel).await.routes, routes);
    });
}

#[test]
fn rules_and_neighbours_are_made_and_removed() {
    in_namespace(|kernel| async move {
        carry_out(&kernel, &both_up()).await;
        assert_eq!(observe(&kernel).await.rules, []);
        let plain = Rule {
            ipv6: false,
            priority: 100,
            from: "10.0.0.0/8".parse().ok(),
            to: None,
            iif: Some("left".into()),
            oif: None,
            fwmark: 0,
            fwmask: 0,
            table: 1000,
            suppress_prefix_length: None,
            protocol: PROTOCOL,
            action: 1,
            opaque: false,
        };
        let rules = [
            plain.clone(),
            Rule { priority: 101, suppress_prefix_length: Some(0), table: TABLE_MAIN, ..plain.clone() },
            Rule { priority: 101, fwmark: 5, fwmask: 0xff, iif: None, ..plain.clone() },
            Rule {
                priority: 102,
                from: None,
                to: "10.1.2.3/32".parse().ok(),
                oif: Some("x".into()),
                ..plain.clone()
            },
            Rule { ipv6: true, priority: 0, from: "fd00::/8".parse().ok(), table: 7, ..plain.clone() },
            Rule { ipv6: true, priority: 1, from: None, suppress_prefix_length: Some(8), ..plain.clone() },
        ];
        let add: Vec<_> = rules.iter().cloned().map(Operation::AddRule).collect();
        carry_out(&kernel, &add).await;
        ip("rule add priority 55 from 10.0.0.0/8 ipproto tcp table 9");
        ip("rule add priority 56 not from 10.0.0.0/8 unreachable");
        let state = observe(&kernel).await;
        let strange: Vec<_> =
            state.rules.iter().filter(|rule| rule.opaque).map(|rule| rule.priority).collect();
        assert_eq!(strange, [55, 56]);
        let mut found: Vec<_> = state.rules.iter().filter(|rule| rule.is_ours()).cloned().collect();
        let mut expected = rules.to_vec();
        found.sort_by_key(|rule| (rule.ipv6, rule.priority, rule.table));
        expected.sort_by_key(|rule| (rule.ipv6, rule.priority, rule.table));
        assert_eq!(found, expected);
        for operation in &add {
            let refusal = kernel.carry_out(std::slice::from_ref(operation), |_, _| false).await.unwrap_err();
            assert!(refusal.error.says_exists(), "{operation}: {}", refusal.error);
        }
        for rule in rules {
            carry_out(&kernel, &[Operation::RemoveRule(rule.clone())]).await;
            assert!(!observe(&kernel).await.rules.contains(&rule));
            let again = kernel.carry_out(&[Operation::RemoveRule(rule)], |_, _| false).await.unwrap_err();
            assert!(again.error.says_gone());
        }

        let neighbours = ["10.0.0.9", "fe80::9"].map(|address| Neighbour {
            link: 2,
            address: address.parse().unwrap(),
            mac: "02:11:22:33:44:55".parse().unwrap(),
            protocol: PROTOCOL,
        });
        carry_out(&kernel, &neighbours.map(Operation::SetNeighbour)).await;
        ip("neigh add 10.0.0.8 lladdr 02:11:22:33:44:66 dev left nud reachable");
        assert_eq!(observe(&kernel).await.neighbours, neighbours);
        let other = neighbours.map(|n| Neighbour { mac: "02:11:22:33:44:77".parse().unwrap(), ..n });
        carry_out(&kernel, &other.map(Operation::SetNeighbour)).await;
        assert_eq!(observe(&kernel).await.neighbours, other);
        carry_out(&kernel, &other.map(Operation::RemoveNeighbour)).await;
        assert_eq!(observe(&kernel).await.neighbours, []);
        let refused =
            kernel.carry_out(&other.map(Operation::RemoveNeighbour), |_, _| false).await.unwrap_err();
        assert!(refused.error.says_gone());
    });
}

/// 300 operations: addresses, with a setting among them.
fn many() -> Vec<Operation> {
    let mut operations = both_up().to_vec();
    operations.extend((0..147).map(|n| Operation::AddAddress(ours(&format!("10.0.{n}.1/16")))));
    operations.push(Operation::Set(left(), Setting::RpFilter, 2));
    operations.extend((0..150).map(|n| Operation::AddAddress(ours(&format!("10.1.{n}.1/16")))));
    operations
}

#[test]
fn the_operation_that_is_refused_is_named() {
    in_namespace(|kernel| async move {
        let mut operations = many();
        operations[200] = Operation::AddRoute(route("10.9.0.0/16", 0, &[hop(2, "192.0.2.1", 1)]));
        // This one comes later and does not matter.
        operations[250] = operations[200].clone();
        let refusal = kernel.carry_out(&operations, |_, _| false).await.unwrap_err();
        assert_eq!((refusal.at, refusal.error.name().as_str()), (200, "ENETUNREACH"));
        assert_eq!(refusal.error.words(), "Nexthop has invalid gateway");
        let state = observe(&kernel).await;
        assert_eq!(state.link(2).unwrap().settings.get(Setting::RpFilter), Some(2));
        let there = state.addresses.iter().filter(|address| address.is_ours()).count();
        assert!((197..=298).contains(&there), "{there}");

        operations[149] = Operation::Set(Named { index: 9, name: "nobody".into() }, Setting::RpFilter, 1);
        let refusal = kernel.carry_out(&operations[149..], |_, _| false).await.unwrap_err();
        assert_eq!((refusal.at, refusal.error.name().as_str()), (0, "ENOENT"));
        assert!(refusal.error.to_string().contains("/nobody/"), "{}", refusal.error);
        let everything = kernel.carry_out(&operations, |_, _| true).await;
        assert!(everything.is_ok());
    });
}

#[cfg(debug_assertions)]
#[test]
fn a_fault_refuses_one_operation() {
    use tether::kernel::Fault;
    for at in [0, 1, 127, 128, 129, 149, 299] {
        in_namespace(move |kernel| async move {
            kernel.set_fault(Some(Fault::Refuse(at)));
            let operations = many();
            let refusal = kernel.carry_out(&operations, |_, _| false).await.unwrap_err();
            let name = if at == 149 { "ENOENT" } else { "EOPNOTSUPP" };
            assert_eq!((refusal.at, refusal.error.name().as_str()), (at, name));
            // It comes once.
            kernel.carry_out(&operations, |_, error| error.says_exists()).await.unwrap();
        });
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_fault_kills_after_what_is_before_it() {
    use tether::kernel::Fault;
    const NAME: &str = "a_fault_kills_after_what_is_before_it";
    if let Some(fault) = Fault::from_environment() {
        // The process that is to die, in its parent's namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let kernel = Kernel::open().unwrap();
            kernel.set_fault(Some(fault));
            carry_out(&kernel, &many()).await;
        });
        return;
    }
    in_namespace(|kernel| async move {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program);
        let status = child.args(["--exact", NAME]).env("TETHER_FAULT", "kill:140").status().unwrap();
        assert!(!status.success());
        let state = observe(&kernel).await;
        assert_eq!(state.addresses.iter().filter(|address| address.is_ours()).count(), 138);
    });
}

#[test]
fn a_call_that_is_dropped_leaves_no_answers_behind() {
    in_namespace(|kernel| async move {
        let operations = many();
        for _ in 0..20 {
            // Polled a few times and dropped where it waits.
            let _ = timeout(Duration::ZERO, kernel.carry_out(&operations, |_, _| true)).await;
            let _ = timeout(Duration::ZERO, kernel.observe()).await;
            let nobody = [Operation::DeleteLink(Named { index: 99, name: "x".into() })];
            let refusal = kernel.carry_out(&nobody, |_, _| false);
            assert_eq!(refusal.await.unwrap_err().error.name(), "ENODEV");
        }
        assert_eq!(observe(&kernel).await.links.len(), 3);
    });
}

#[test]
fn changes_are_told_and_noise_is_not() {
    in_namespace(|kernel| async move {
        async fn told(kernel: &Kernel) -> bool {
            timeout(Duration::from_millis(300), kernel.changed()).await.is_ok()
        }
        carry_out(&kernel, &both_up()).await;
        while timeout(Duration::from_millis(2500), kernel.changed()).await.is_ok() {}
        let address: IpAddr = "10.0.0.9".parse().unwrap();
        let neighbour =
            Neighbour { link: 2, address, mac: "02:11:22:33:44:55".parse().unwrap(), protocol: PROTOCOL };
        for change in [
            Operation::Set(left(), Setting::Ipv4Forwarding, 1),
            Operation::Set(left(), Setting::RpFilter, 1),
            Operation::Set(left(), Setting::Ipv6Forwarding, 1),
            Operation::SetNeighbour(neighbour),
            Operation::RemoveNeighbour(neighbour),
            Operation::AddAddress(ours("10.0.0.1/24")),
            Operation::SetMtu(left(), 1400),
        ] {
            carry_out(&kernel, std::slice::from_ref(&change)).await;
            assert!(told(&kernel).await, "{change}");
            while told(&kernel).await {}
        }
        ip("rule add priority 5 table 5");
        assert!(told(&kernel).await);
        while told(&kernel).await {}
        ip("neigh add 10.0.0.8 lladdr 02:11:22:33:44:66 dev left nud reachable");
        ip("neigh del 10.0.0.8 dev left");
        assert!(!told(&kernel).await);
        for silent in
            [Setting::ArpIgnore, Setting::ArpAnnounce, Setting::AcceptRa, Setting::PromoteSecondaries]
        {
            carry_out(&kernel, &[Operation::Set(left(), silent, 1)]).await;
            println!("{silent}: told {}", told(&kernel).await);
        }
    });
}

/// 1,000 addresses and 1,000 routes, for a look at how long it takes.
#[test]
fn two_thousand_operations_take_no_time() {
    in_namespace(|kernel| async move {
        carry_out(&kernel, &both_up()).await;
        let mut operations = Vec::new();
        for n in 0..1000 {
            operations.push(Operation::AddAddress(ours(&format!("10.0.{}.{}/16", n / 250, n % 250 + 1))));
        }
        for n in 0..1000 {
            let destination = format!("10.{}.{}.0/24", 100 + n / 250, n % 250);
            operations.push(Operation::AddRoute(route(&destination, 0, &[hop(2, "10.0.100.1", 1)])));
        }
        let started = Instant::now();
        carry_out(&kernel, &operations).await;
        let carried_out = started.elapsed();
        let started = Instant::now();
        let state = observe(&kernel).await;
        println!("carried out in {carried_out:?}, read in {:?}", started.elapsed());
        assert_eq!(state.routes.len(), 1000);
        assert!(carried_out < Duration::from_secs(5));
        let error = kernel.carry_out(&operations, |_, error: &KernelError| error.says_exists()).await;
        assert!(error.is_ok());
    });
}
