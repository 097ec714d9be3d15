//! Claiming addresses, with the Linux kernel as the neighbour: two machines on one cable.

#![allow(clippy::expect_used, reason = "a test fails by panicking, and says what it expected")]

use std::{
    fs,
    net::IpAddr,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use tether::claim::{Claim, Claims, Conflict};
use tether_tests::{DEADLINE, Space, wait_for};
use tether_wire::value::MacAddr;
use tokio::time::timeout;

const OUR_MAC: &str = "02:00:00:00:00:01";
const THEIR_MAC: &str = "02:00:00:00:00:02";
const OUR_OTHER_MAC: &str = "02:00:00:00:00:03";
const FORMER_MAC: &str = "02:00:00:00:00:99";
const FOUR: &str = "172.18.0.2";
const SIX: &str = "fd00:18::2";

/// Two machines, each with its end of a cable, called `eth0`.
struct Two {
    ours: Space,
    theirs: Space,
}

impl Two {
    fn new() -> Self {
        let two = Self { ours: Space::new(), theirs: Space::new() };
        let them = two.theirs.id();
        two.ours.run(&format!(
            "ip link add eth0 address {OUR_MAC} type veth peer name eth0 address {THEIR_MAC} netns {them}"
        ));
        for space in [&two.ours, &two.theirs] {
            space.run("ip link set eth0 up");
        }
        two.theirs.run("ip address add 172.18.0.1/16 dev eth0");
        two.theirs.run("ip address add fd00:18::1/64 dev eth0 nodad");
        for space in [&two.ours, &two.theirs] {
            wait_for("a carrier", || space.run("ip link show eth0").contains("LOWER_UP").then_some(()));
        }
        two
    }
}

fn claim(space: &Space, link: &str, mac: &str, address: &str) -> Claim {
    let shown = space.run(&format!("ip -o link show {link}"));
    let (index, _) = shown.split_once(':').expect("an index");
    Claim { link: index.parse().expect("an index"), mac: mac_of(mac), address: ip(address) }
}

fn mac_of(text: &str) -> MacAddr {
    text.parse().expect("a MAC address")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Runs `what` in the network of `space` as the agent runs: on one thread.
fn within<T: Send>(space: &Space, what: impl AsyncFnOnce() -> T + Send) -> T {
    let id = space.id();
    let inside = move || {
        let namespace = fs::File::open(format!("/proc/{id}/ns/net")).expect("its namespace");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("allowed");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { timeout(DEADLINE, what()).await.expect("in time") })
    };
    thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Drives `claims` for a while, in which there is to be no conflict.
async fn undisturbed(claims: &mut Claims, time: Duration) {
    if let Ok(conflict) = timeout(time, claims.conflict()).await {
        panic!("{conflict:?}");
    }
}

/// Whether a packet socket is open in `space`.
fn listens(space: &Space) -> bool {
    space.run("cat /proc/net/packet").lines().count() > 1
}

#[test]
fn neighbours_that_knew_another_machine_know_ours_at_once() {
    let two = Two::new();
    two.ours.run(&format!("ip address add {FOUR}/16 dev eth0"));
    two.ours.run(&format!("ip address add {SIX}/64 dev eth0 nodad"));
    for address in [FOUR, SIX] {
        two.theirs.run(&format!("ip neigh replace {address} lladdr {FORMER_MAC} dev eth0 nud reachable"));
    }
    let claims = [FOUR, SIX].map(|address| claim(&two.ours, "eth0", OUR_MAC, address));
    within(&two.ours, async || {
        let mut held = Claims::new();
        held.hold(&claims);
        undisturbed(&mut held, Duration::from_millis(500)).await;
        for address in [FOUR, SIX] {
            let known = two.theirs.run(&format!("ip neigh show {address}"));
            assert!(known.contains(OUR_MAC), "{known}");
        }
        // When all is said and nobody has answered, nothing is open.
        assert!(listens(&two.ours));
        undisturbed(&mut held, Duration::from_secs(10)).await;
        assert!(!listens(&two.ours));
    });
}

#[test]
fn hundreds_of_addresses_are_known_to_neighbours() {
    let two = Two::new();
    // Half of them of each family: the kernel's neighbour tables hold 512 without complaint.
    let addresses = (0..600).map(|n| match n % 2 {
        0 => format!("172.18.{}.{}", 1 + n / 250, n % 250),
        _ => format!("fd00:18::1:{n:x}"),
    });
    let first = claim(&two.ours, "eth0", OUR_MAC, FOUR);
    let claims: Vec<_> = addresses.map(|address| Claim { address: ip(&address), ..first }).collect();
    let stale =
        |claim: &Claim| format!("neigh replace {} lladdr {FORMER_MAC} dev eth0 nud stale", claim.address);
    let batch: Vec<_> = claims.iter().map(stale).collect();
    let file = two.theirs.etc().join("batch");
    fs::write(&file, batch.join("\n")).expect("a file");
    two.theirs.run(&format!("ip -batch {}", file.display()));
    within(&two.ours, async || {
        let mut held = Claims::new();
        let started = Instant::now();
        held.hold(&claims);
        loop {
            undisturbed(&mut held, Duration::from_millis(100)).await;
            let known = two.theirs.run("ip neigh show");
            let right = known.lines().filter(|line| line.contains(OUR_MAC)).count();
            if right >= claims.len() {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(5), "only {right} are known");
        }
    });
}

#[test]
fn another_machine_with_an_address_that_is_held_is_told_once() {
    let two = Two::new();
    for space in [&two.theirs, &two.ours] {
        space.run(&format!("ip address add {FOUR}/16 dev eth0"));
    }
    let claim = claim(&two.ours, "eth0", OUR_MAC, FOUR);
    within(&two.ours, async || {
        let mut held = Claims::new();
        let started = Instant::now();
        held.hold(&[claim]);
        let conflict = held.conflict().await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(conflict, Conflict { link: claim.link, address: ip(FOUR), mac: Some(mac_of(THEIR_MAC)) });
        assert_eq!(held.rival(claim.link, ip(FOUR)), Some(mac_of(THEIR_MAC)));
        held.hold(&[claim]);
        // They ask for somebody by ARP, from the address.
        let _ = two.theirs.output(&format!("busybox ping -c 1 -W 1 -I {FOUR} 172.18.0.99"));
        undisturbed(&mut held, Duration::from_millis(500)).await;
        // Given up and held again it is a claim of its own.
        held.hold(&[]);
        held.hold(&[claim]);
        assert_eq!(held.conflict().await, conflict);
    });
}

#[test]
fn two_nics_of_one_machine_on_one_network_are_no_conflict() {
    let two = Two::new();
    let them = two.theirs.id();
    two.ours.run(&format!("ip link add eth1 address {OUR_OTHER_MAC} type veth peer name eth1 netns {them}"));
    two.ours.run("ip link set eth1 up");
    two.theirs.run("ip link add br0 type bridge");
    for port in ["eth0", "eth1"] {
        two.theirs.run(&format!("ip link set {port} up master br0"));
    }
    two.theirs.run("ip link set br0 up");
    two.ours.run(&format!("ip address add {FOUR}/16 dev eth0"));
    wait_for("the bridge", || {
        let ports = two.theirs.run("bridge link show");
        (ports.matches("state forwarding").count() == 2).then_some(())
    });
    let first = claim(&two.ours, "eth0", OUR_MAC, FOUR);
    let second = claim(&two.ours, "eth1", OUR_OTHER_MAC, "172.18.0.3");
    within(&two.ours, async || {
        let mut held = Claims::new();
        held.hold(&[first, second]);
        undisturbed(&mut held, Duration::from_secs(1)).await;
        // The other NIC does answer for the address: not knowing that it is ours, it is a conflict.
        held.hold(&[]);
        held.hold(&[first]);
        assert_eq!(held.conflict().await.mac, Some(mac_of(OUR_OTHER_MAC)));
    });
}

#[test]
fn an_address_is_probed_for_before_it_is_used() {
    let two = Two::new();
    let free = claim(&two.ours, "eth0", OUR_MAC, FOUR);
    let taken = Claim { address: ip("172.18.0.1"), ..free };
    let conflict = Conflict { link: free.link, address: taken.address, mac: Some(mac_of(THEIR_MAC)) };
    within(&two.ours, async || {
        let mut claims = Claims::new();
        let started = Instant::now();
        assert_eq!(claims.probe(&[taken]).await.expect("a carrier"), std::slice::from_ref(&conflict));
        assert!(started.elapsed() < Duration::from_secs(2), "an answer ends it: {:?}", started.elapsed());
        let started = Instant::now();
        assert_eq!(claims.probe(&[free, taken]).await.expect("a carrier"), [conflict]);
        assert!(started.elapsed() >= Duration::from_secs(4), "{:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        assert!(!listens(&two.ours));
        // Where nothing can be heard there is no answer.
        two.theirs.run("ip link set eth0 down");
        let error = claims.probe(&[free]).await.expect_err("no carrier");
        assert_eq!(error.to_string(), "eth0: no carrier");
        let error = claims.probe(&[Claim { link: 9_999, ..free }]).await.expect_err("no link");
        assert!(error.to_string().starts_with("link 9999: No such device"), "{error}");
        assert!(!listens(&two.ours));
    });
}

#[test]
fn of_two_that_probe_for_one_address_neither_gets_it() {
    let two = Two::new();
    let together = Barrier::new(2);
    let probe = |space: &Space, mac: &str| {
        let claim = claim(space, "eth0", mac, FOUR);
        within(space, async || {
            together.wait();
            Claims::new().probe(&[claim]).await.expect("a carrier")
        })
    };
    let macs = |conflicts: Vec<Conflict>| conflicts.iter().map(|c| c.mac).collect::<Vec<_>>();
    thread::scope(|scope| {
        let ours = scope.spawn(|| probe(&two.ours, OUR_MAC));
        assert_eq!(macs(probe(&two.theirs, THEIR_MAC)), [Some(mac_of(OUR_MAC))]);
        assert_eq!(macs(ours.join().expect("no panic")), [Some(mac_of(THEIR_MAC))]);
    });
}

#[test]
fn who_makes_the_kernels_duplicate_address_detection_fail_is_known() {
    let two = Two::new();
    two.theirs.run(&format!("ip address add {SIX}/64 dev eth0 nodad"));
    detection_fails(&two, || {});
}

#[test]
fn who_detects_at_the_same_time_is_known_too() {
    let two = Two::new();
    // They ask at once, and ours waits: what it hears is a question from no address.
    two.ours.run("sysctl -qw net.ipv6.conf.eth0.router_solicitation_delay=100");
    two.theirs.run("sysctl -qw net.ipv6.conf.eth0.router_solicitation_delay=0");
    detection_fails(&two, || drop(two.theirs.run(&format!("ip address add {SIX}/64 dev eth0"))));
}

/// Adds an address that is watched, then does something, and is told who has the address too.
fn detection_fails(two: &Two, then: impl Fn() + Sync) {
    let claim = claim(&two.ours, "eth0", OUR_MAC, SIX);
    within(&two.ours, async || {
        let mut claims = Claims::new();
        claims.watch(&[claim]);
        two.ours.run(&format!("ip address add {SIX}/64 dev eth0"));
        then();
        wait_for("the detection", || {
            two.ours.run("ip address show dev eth0").contains("dadfailed").then_some(())
        });
        // It is no longer under detection; and nobody has driven the sockets in between.
        claims.watch(&[]);
        assert_eq!(claims.rival(claim.link, ip(SIX)), Some(mac_of(THEIR_MAC)));
        assert!(!listens(&two.ours));
        assert_eq!(claims.rival(claim.link, ip("fd00:18::1")), None);
    });
}
