//! How long it takes to put a desired state in force, beside `ip -batch` and beside the kernel's
//! own share.
//!
//! The agent is the real binary in a namespace of its own, and its times are its own: from a
//! document received to the document verified. `ip -batch` is timed as a process, from start to
//! end; the floor is a bare loop that sends prepared messages. They take turns, each in a
//! namespace of the same kind with the NIC up and nothing on it, so that whatever else the machine
//! does hits all of them alike. Medians; `name=value` lines come last.

#![allow(clippy::expect_used, reason = "a benchmark without its namespaces says so and ends")]

#[path = "apply_floor.rs"]
mod floor;

use std::{
    fs::{self, File},
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use floor::{Batches, Floor, Listener};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tether::{
    kernel::Kernel,
    plan::{Facts, KernelState, Operation, Originals, Target, diff, target},
};
use tether_tests::{Process, Space, binary};
use tether_wire::{check::Desired, state::DesiredState};
use tokio::runtime::{Builder, Runtime};

const ROUNDS: usize = 21;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 254);
/// How long the agent is given to look at what it has done before others are timed.
const QUIET: Duration = Duration::from_millis(150);
/// How long new addresses are announced and conflicts listened for.
const CLAIMED: Duration = Duration::from_secs(11);

fn main() {
    let directory = TempDir::new().expect("a temporary directory");
    let outside = Space::new();
    let mut results = Results::default();
    thousand(&outside, directory.path(), &mut results);
    typical(&outside, &mut results);
    ten_thousand(&outside, &mut results);
    results.print();
}

/// Times by name, and what is no time.
#[derive(Default)]
struct Results {
    times: Vec<(&'static str, Vec<f64>)>,
    others: Vec<(&'static str, f64)>,
}

impl Results {
    fn add(&mut self, name: &'static str, milliseconds: f64) {
        match self.times.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(milliseconds),
            None => self.times.push((name, vec![milliseconds])),
        }
    }

    fn merge(&mut self, other: Self) {
        for (name, times) in other.times {
            for time in times {
                self.add(name, time);
            }
        }
    }

    fn median(&self, name: &str) -> f64 {
        let (_, times) = self.times.iter().find(|(known, _)| *known == name).expect("it was measured");
        let mut times = times.clone();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    fn print(&self) {
        for (name, _) in &self.times {
            println!("apply.{name}_ms={:.2}", self.median(name));
        }
        for (name, value) in &self.others {
            println!("apply.{name}={value:.0}");
        }
        for (name, of, to) in [
            ("vs_ip_batch", "tether_1000", "ip_batch_1000"),
            ("writes_vs_floor", "writes_1000", "floor_1000"),
            ("writes_vs_floor_heard", "writes_1000", "floor_heard_1000"),
            ("routes_10000_vs_1000", "routes_10000", "routes_1000"),
        ] {
            println!("apply.{name}={:.2}", self.median(of) / self.median(to));
        }
    }
}

/// 1,000 addresses and 1,000 routes: the agent, `ip -batch`, the floor, and the agent's own steps
/// one by one.
fn thousand(outside: &Space, directory: &Path, results: &mut Results) {
    eprintln!("1,000 addresses and 1,000 routes, by tether, by ip -batch, by a bare netlink loop ...");
    let state = addresses_and_routes(1_000, 1_000);
    let places: [Space; 5] = [(); 5].map(|()| {
        let space = Space::new();
        add_nic(&space, outside, "eth0");
        space.run("ip link set eth0 up");
        space
    });
    let [ours, batch, bare, heard, steps] = &places;
    let mut agent = Agent::start(ours);
    let file = directory.join("batch");
    fs::write(&file, ip_batch(1_000)).expect("a file");
    // Whatever `ip` has made, messages remove.
    let mut after_ip = enter(batch, Floor::open);
    let mut bare_floor = enter(bare, Floor::open);
    let (mut heard_floor, listener) = enter(heard, || (Floor::open(), Listener::open()));
    let link =
        |space: &Space| enter(space, || Batches::pair(index("eth0"), &own(1_000), &to(1_000), GATEWAY));
    let (_, ip_gone) = link(batch);
    let (bare_come, bare_gone) = link(bare);
    let (heard_come, heard_gone) = link(heard);
    let mut steps = enter(steps, || Steps::new(&state));

    for round in 0..=ROUNDS {
        let mut round_results = Results::default();
        let applied = agent.apply(&state);
        assert!(applied.operations >= 2_000, "one each, from nothing");
        round_results.add("tether_1000", applied.took_ms);
        round_results.add("tether_1000_from_file", applied.wall_ms);
        let there = |space: &Space| (round == 0).then(|| assert_there(space, 1_000));
        there(ours);
        round_results.add("tether_1000_gone", agent.apply(&nothing()).took_ms);
        sleep(QUIET);

        round_results.add("ip_batch_1000", enter(batch, || run_ip_batch(&file)));
        there(batch);
        after_ip.run(&ip_gone);

        let began = Instant::now();
        bare_floor.run(&bare_come);
        round_results.add("floor_1000", ms(began));
        there(bare);
        bare_floor.run(&bare_gone);

        let began = Instant::now();
        heard_floor.run(&heard_come);
        round_results.add("floor_heard_1000", ms(began));
        listener.drain();
        heard_floor.run(&heard_gone);
        listener.drain();

        enter(&places[4], || steps.there(&mut round_results));
        there(&places[4]);
        enter(&places[4], || steps.back());

        // The first one warms caches.
        if round > 0 {
            results.merge(round_results);
        }
        if round % 5 == 0 && round > 0 {
            eprintln!(
                "  {round} of {ROUNDS}: tether {:.1} ms, ip -batch {:.1} ms, floor {:.1} ms, writes {:.1} ms",
                results.median("tether_1000"),
                results.median("ip_batch_1000"),
                results.median("floor_1000"),
                results.median("writes_1000")
            );
        }
    }
    eprintln!("the same again, which is no operation ...");
    agent.apply(&state);
    sleep(CLAIMED);
    for _ in 0..ROUNDS {
        results.add("noop_1000", agent.again());
    }
}

/// A guest as they usually are: its NICs are down and have other names.
fn typical(outside: &Space, results: &mut Results) {
    eprintln!("a typical guest: 3 NICs, 4 addresses, 6 routes, 1 rule ...");
    let space = Space::new();
    for n in 0..3 {
        add_nic(&space, outside, &format!("nic{n}"));
        space.run(&format!("ip link set nic{n} address 02:42:ac:12:00:1{n}"));
    }
    let state = typical_state();
    let mut agent = Agent::start(&space);
    for round in 0..=ROUNDS {
        let applied = agent.apply(&state);
        agent.apply(&nothing());
        sleep(QUIET);
        if round == 0 {
            eprintln!("  {} operations", applied.operations);
        } else {
            results.add("typical", applied.took_ms);
        }
    }
    agent.apply(&state);
    sleep(CLAIMED);
    for _ in 0..ROUNDS {
        results.add("noop_typical", agent.again());
    }
}

/// 1,000 and 10,000 routes in turn, and what is left of the memory they took.
fn ten_thousand(outside: &Space, results: &mut Results) {
    eprintln!("10,000 routes, and 1,000 in turn ...");
    let space = Space::new();
    add_nic(&space, outside, "eth0");
    space.run("ip link set eth0 up");
    let (few, many) = (addresses_and_routes(1, 1_000), addresses_and_routes(1, 10_000));
    let mut agent = Agent::start(&space);
    agent.apply(&addresses_and_routes(1, 1));
    agent.apply(&nothing());
    let before = agent.settled_kib();
    let (mut with, mut after) = (0, 0);
    for round in 0..=ROUNDS {
        let applied = agent.apply(&many);
        if round == 0 {
            with = agent.settled_kib();
        } else {
            results.add("routes_10000", applied.took_ms);
        }
        agent.apply(&nothing());
        if round == 0 {
            after = agent.settled_kib();
            eprintln!("  {before} KiB before, {with} KiB with 10,000 routes, {after} KiB after");
        }
        sleep(QUIET);
        let applied = agent.apply(&few);
        results.add("routes_1000", applied.took_ms);
        agent.apply(&nothing());
        sleep(QUIET);
        if round % 5 == 0 && round > 0 {
            let (many, few) = (results.median("routes_10000"), results.median("routes_1000"));
            eprintln!("  {round} of {ROUNDS}: 10,000 in {many:.0} ms, 1,000 in {few:.1} ms");
        }
    }
    let last = agent.settled_kib();
    results.others.extend([
        ("rss_before_kib", f64::from(before)),
        ("rss_with_10000_kib", f64::from(with)),
        ("rss_after_kib", f64::from(after)),
        ("rss_growth_kib", f64::from(after) - f64::from(before)),
        ("rss_growth_22_rounds_kib", f64::from(last) - f64::from(before)),
    ]);
}

/// An agent in a space, its desired state in a file.
struct Agent {
    process: Process,
    state: PathBuf,
    _directory: TempDir,
}

struct Applied {
    /// From received to verified, by the agent's own clock.
    took_ms: f64,
    /// From "read it again" to the line that says so: the file and the report are in it too.
    wall_ms: f64,
    operations: u64,
}

impl Agent {
    /// Starts one that has nothing to do.
    fn start(space: &Space) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let (boot, state) = (directory.path().join("boot.json"), directory.path().join("state.json"));
        fs::write(&boot, r#"{"guest": "bench"}"#).expect("a file");
        fs::write(&state, document(&nothing())).expect("a file");
        let mut command = space.command(binary("tether"));
        command.arg("run").arg("--boot").arg(boot).arg("--state").arg(&state);
        command.arg("--run").arg(directory.path().join("run"));
        let mut agent = Self { process: Process::start(command), state, _directory: directory };
        agent.told(Instant::now());
        agent
    }

    /// Puts a state in force.
    fn apply(&mut self, state: &Value) -> Applied {
        fs::write(&self.state, document(state)).expect("a file");
        let began = Instant::now();
        self.process.signal(Signal::SIGHUP);
        self.told(began)
    }

    /// The same state again, which is no operation: how long it took, in milliseconds.
    fn again(&mut self) -> f64 {
        let began = Instant::now();
        self.process.signal(Signal::SIGHUP);
        let applied = self.told(began);
        assert_eq!(applied.operations, 0, "it is in force already");
        sleep(Duration::from_millis(50));
        applied.took_ms
    }

    fn told(&mut self, began: Instant) -> Applied {
        let (at, told) = self.process.next_json_at("a result", |told| told["event"].is_null());
        let verified = &told["verified"];
        let number = |name: &str| verified[name].as_u64().unwrap_or_else(|| panic!("{told}"));
        Applied {
            took_ms: Duration::from_micros(number("took_us")).as_secs_f64() * 1e3,
            wall_ms: at.saturating_duration_since(began).as_secs_f64() * 1e3,
            operations: number("operations"),
        }
    }

    /// Its resident memory in KiB, when it has nothing to do any more.
    fn settled_kib(&self) -> u32 {
        sleep(Duration::from_secs(2));
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }
}

/// What the agent does, step by step, in this process: the same code on the same kernel.
struct Steps {
    runtime: Runtime,
    kernel: Kernel,
    state: Desired,
    nothing: Desired,
    originals: Originals,
}

impl Steps {
    fn new(state: &Value) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let kernel = runtime.block_on(async { Kernel::open() }).expect("netlink");
        Self {
            runtime,
            kernel,
            state: checked(state),
            nothing: checked(&nothing()),
            originals: Originals::default(),
        }
    }

    /// From nothing to the state, each step timed.
    fn there(&mut self, results: &mut Results) {
        let now = self.timed(results, "read_nothing", Self::observe);
        let target = self.timed(results, "target_1000", |steps| steps.target(&steps.state, &now));
        let operations = self.timed(results, "diff_1000", |_| diff(&now, &target));
        assert!(operations.len() >= 2_000, "one each, from nothing");
        self.timed(results, "writes_1000", |steps| steps.carry_out(&operations));
        let now = self.timed(results, "read_1000", Self::observe);
        let left = self.timed(results, "diff_of_none_1000", |_| diff(&now, &target));
        assert!(left.is_empty(), "{left:?}");
        self.originals = target.originals;
    }

    /// Back to nothing.
    fn back(&mut self) {
        let now = self.observe();
        let target = self.target(&self.nothing, &now);
        self.carry_out(&diff(&now, &target));
    }

    fn timed<T>(&self, results: &mut Results, name: &'static str, step: impl FnOnce(&Self) -> T) -> T {
        let began = Instant::now();
        let outcome = step(self);
        results.add(name, ms(began));
        outcome
    }

    fn observe(&self) -> KernelState {
        self.runtime.block_on(self.kernel.observe()).expect("it can be read")
    }

    fn target(&self, desired: &Desired, now: &KernelState) -> Target {
        let facts = Facts {
            host: None,
            management: None,
            originals: &self.originals,
            since: 0,
            now: 0,
            held: None,
            may_be_missing: false,
        };
        target(desired, now, facts).expect("it fits")
    }

    fn carry_out(&self, operations: &[Operation]) {
        self.runtime.block_on(self.kernel.carry_out(operations, |_, _| false)).expect("nothing is refused");
    }
}

fn checked(state: &Value) -> Desired {
    let state: DesiredState = serde_json::from_value(state.clone()).expect("a state");
    state.check().expect("nothing is wrong with it")
}

/// Runs `what` in the network namespace of `space`.
fn enter<T>(space: &Space, what: impl FnOnce() -> T) -> T {
    let namespace = |id: &str| File::open(format!("/proc/{id}/ns/net")).expect("its namespace");
    let (here, there) = (namespace("thread-self"), namespace(&space.id().to_string()));
    setns(there, CloneFlags::CLONE_NEWNET).expect("allowed");
    let outcome = what();
    setns(here, CloneFlags::CLONE_NEWNET).expect("allowed");
    outcome
}

/// Gives `space` a NIC; its other end is `outside`.
fn add_nic(space: &Space, outside: &Space, name: &str) {
    let port = format!("{name}-{}", space.id());
    space.run(&format!("ip link add {name} type veth peer name {port} netns {}", outside.id()));
    outside.run(&format!("ip link set {port} up"));
}

/// The index of a link of this thread's namespace.
fn index(name: &str) -> u32 {
    let output = Command::new("ip").args(["-o", "link", "show", "dev", name]).output().expect("ip runs");
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    line.split(':').next().and_then(|index| index.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

/// That there are as many addresses and routes as there should be.
fn assert_there(space: &Space, count: usize) {
    let lines = |command: &str| space.run(command).lines().count();
    assert_eq!(lines("ip -o -4 addr show dev eth0"), count, "addresses");
    assert_eq!(lines("ip -4 route show proto 116"), count, "routes");
}

/// How long `ip -batch` takes, in milliseconds.
fn run_ip_batch(file: &Path) -> f64 {
    let mut command = Command::new("ip");
    command.arg("-batch").arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status().expect("ip can be started");
    let took = ms(began);
    assert!(status.success(), "ip -batch: {status}");
    took
}

/// The addresses, in one /16 with the gateway.
fn own(count: u16) -> Vec<Ipv4Addr> {
    let octets = (1..=count).map(u16::to_be_bytes);
    octets.map(|[high, low]| Ipv4Addr::new(10, 77, high, low)).collect()
}

/// The destinations, each a /24.
fn to(count: u16) -> Vec<Ipv4Addr> {
    let octets = (0..count).map(u16::to_be_bytes);
    octets.map(|[high, low]| Ipv4Addr::new(100, 64 + high, low, 0)).collect()
}

fn document(state: &Value) -> String {
    json!({ "state": state }).to_string()
}

fn nothing() -> Value {
    json!({})
}

fn addresses_and_routes(addresses: u16, routes: u16) -> Value {
    let addresses: Vec<_> =
        own(addresses).iter().map(|own| json!({ "address": format!("{own}/16") })).collect();
    let route = |to: &Ipv4Addr| json!({ "destination": format!("{to}/24"), "gateway": GATEWAY });
    let routes: Vec<_> = to(routes).iter().map(route).collect();
    json!({ "interfaces": [
        { "match": { "name": "eth0" }, "name": "eth0", "addresses": addresses, "routes": routes }
    ]})
}

/// The same for `ip`. Not all of its versions can say who has made an address.
fn ip_batch(count: u16) -> Vec<u8> {
    let mut text = Vec::new();
    for own in own(count) {
        let _ = writeln!(text, "addr add {own}/16 brd 10.77.255.255 dev eth0");
    }
    for to in to(count) {
        let _ = writeln!(text, "route add {to}/24 via {GATEWAY} dev eth0 proto 116");
    }
    text
}

fn typical_state() -> Value {
    json!({
        "hostname": "web",
        "dns": { "upstreams": ["10.0.0.53"], "search": ["example.com"] },
        "interfaces": [
            { "match": { "mac": "02:42:ac:12:00:10" }, "name": "eth0",
              "addresses": [{ "address": "172.18.0.2/16" }, { "address": "fd00:18::2/64" }],
              "routes": [{ "destination": "0.0.0.0/0", "gateway": "172.18.0.1" },
                         { "destination": "::/0", "gateway": "fd00:18::1" },
                         { "destination": "10.0.0.0/8", "gateway": "172.18.0.7", "metric": 50 }] },
            { "match": { "mac": "02:42:ac:12:00:11" }, "name": "eth1",
              "addresses": [{ "address": "172.19.0.2/16" }],
              "routes": [{ "destination": "192.168.0.0/16", "gateway": "172.19.0.1" }] },
            { "match": { "mac": "02:42:ac:12:00:12" }, "name": "eth2",
              "addresses": [{ "address": "10.9.0.2/24" }],
              "routes": [{ "destination": "198.51.100.0/24", "gateway": "10.9.0.1" },
                         { "destination": "0.0.0.0/0", "gateway": "10.9.0.1", "table": 100 }] },
        ],
        "rules": [{ "priority": 1000, "from": "10.9.0.0/24", "table": 100 }],
    })
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
