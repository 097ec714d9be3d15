//! A machine with NICs, somebody at their other ends, and the agent on it.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tether_tests::{DEADLINE, Process, Space, binary, boot_document, wait_for};

/// The MAC addresses of the NICs, which are plugged in under the names `ens3` and up.
pub(crate) const MACS: [&str; 3] = ["02:42:ac:12:00:02", "02:42:ac:13:00:02", "02:42:ac:14:00:02"];
/// Those of their other ends, `p0` and up, where `172.18.0.1/16` and `fd00:18::1/64` are, and so on.
pub(crate) const OTHER_MACS: [&str; 3] = ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"];

/// How long anything may take that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// The machine. Its NICs are cables to one other place.
pub(crate) struct Machine {
    pub(crate) inside: Space,
    pub(crate) outside: Space,
    directory: TempDir,
}

impl Machine {
    pub(crate) fn new(nics: usize) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let machine = Self { inside: Space::new(), outside: Space::new(), directory };
        for nic in 0..nics {
            machine.plug(nic, &format!("ens{}", nic + 3));
        }
        machine
    }

    /// Plugs in a NIC under this name.
    pub(crate) fn plug(&self, nic: usize, name: &str) {
        let (mac, other, net) = (MACS[nic], OTHER_MACS[nic], 18 + nic);
        let id = self.inside.id();
        let lines = [
            format!("ip link add p{nic} address {other} type veth peer name {name} address {mac} netns {id}"),
            format!("ip link set p{nic} up"),
            format!("ip address add 172.{net}.0.1/16 dev p{nic}"),
            format!("ip address add fd00:{net}::1/64 dev p{nic} nodad"),
        ];
        for line in lines {
            self.outside.run(&line);
        }
    }

    /// Pulls it out.
    pub(crate) fn unplug(&self, nic: usize) {
        self.outside.run(&format!("ip link delete p{nic}"));
    }

    /// A file of the machine's owner.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    }

    /// The agent, not started: what it logs comes with what it prints.
    pub(crate) fn tether(&self, boot: &Value, state: Option<&Value>) -> Command {
        let mut command = self.inside.command("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(binary("tether"));
        command.args(["run", "--log", "debug", "--boot"]).arg(self.file("boot.json", &boot.to_string()));
        if let Some(state) = state {
            command.arg("--state").arg(self.file("state.json", &state.to_string()));
        }
        command
    }

    /// Starts the agent with a state of its own.
    pub(crate) fn with_state(&self, state: &Value) -> Agent {
        self.with_fault(state, None)
    }

    /// The same, and something goes wrong.
    pub(crate) fn with_fault(&self, state: &Value, fault: Option<&str>) -> Agent {
        let mut command = self.tether(&json!({ "guest": "steady" }), Some(state));
        if let Some(fault) = fault {
            command.env("TETHER_FAULT", fault);
        }
        Agent { process: Process::start(command), state: self.directory.path().join("state.json"), read: 0 }
    }

    /// Starts the agent with a host that does not answer, and waits until it has done what it does
    /// before it dials. `false` when it ended before.
    pub(crate) fn with_host_away(&self, fault: Option<&str>) -> (Process, bool) {
        let management = json!({ "mac": "02:7e:00:00:00:09" });
        let boot = boot_document("steady", &management, json!({ "address": "fe80::1" }));
        let mut command = self.tether(&boot, None);
        if let Some(fault) = fault {
            command.env("TETHER_FAULT", fault);
        }
        let mut process = Process::start(command);
        let lives = wait_for("the agent to wait for its host", || {
            let dials = process.lines().iter().any(|line| line.contains("waiting for the host"));
            if dials { Some(true) } else { process.has_ended().then_some(false) }
        });
        (process, lives)
    }

    /// Everything tether can change, as others see it, and that does not change by itself. iproute2 shows
    /// a place that is kept for a neighbour (`extern_learn`) whatever state it is asked for.
    pub(crate) fn state(&self) -> Vec<String> {
        const SCRIPT: &str = "
            for what in link address 'route show table all' rule '-6 rule'; do
                ip -d -o $what | sed \"s/^/$what: /\"
            done
            ip neigh show nud permanent | sed '/extern_learn/d'
            cd /proc/sys/net
            grep -H . ipv?/conf/*/forwarding ipv6/conf/*/disable_ipv6 ipv6/conf/*/accept_ra \
                ipv4/conf/*/rp_filter ipv4/conf/*/arp_ignore ipv4/conf/*/arp_announce
            grep -H . /etc/hosts /etc/resolv.conf
            hostname";
        let mut command = self.inside.command("sh");
        let output = command.args(["-c", SCRIPT]).output().expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The kernel's own link-local and multicast things come and go in its own time, and so do
        // its routes to own addresses, that an address is being checked, a link's operational
        // state and its queue.
        let own = |line: &&str| !["fe80::", "table local"].iter().any(|own| line.contains(own));
        let steady = |line: &str| {
            let mut line = line.trim_end().to_owned();
            for fleeting in [
                "optimistic ",
                "tentative ",
                "qdisc noop ",
                "qdisc noqueue ",
                "state UP ",
                "state DOWN ",
                "state UNKNOWN ",
                "state LOWERLAYERDOWN ",
                ",LOWER_UP",
                "NO-CARRIER,",
            ] {
                line = line.replace(fleeting, "");
            }
            line
        };
        let mut lines: Vec<String> = text.lines().filter(own).map(steady).collect();
        lines.sort();
        lines
    }

    /// Whether the inside has something that `ip` prints.
    pub(crate) fn shows(&self, command: &str, text: &str) -> bool {
        self.inside.run(command).contains(text)
    }

    /// Waits until it has.
    pub(crate) fn wait_for(&self, command: &str, text: &str) {
        until(
            || format!("{text} in {command}: {}", self.inside.run(command)),
            || self.shows(command, text).then_some(()),
        );
    }

    /// Waits until the state is this, after `view` has left out what does not matter.
    #[track_caller]
    pub(crate) fn becomes(&self, what: &str, wanted: &[String], view: impl Fn(Vec<String>) -> Vec<String>) {
        until(
            || format!("{what}: {}", difference(&view(self.state()), wanted)),
            || (view(self.state()) == wanted).then_some(()),
        );
    }

    /// Waits until the kernel has nothing of its own to do: no address is being checked, no carrier not
    /// seen by its link watcher.
    fn at_rest(&self) {
        self.wait_until_none("ip -o -6 address show tentative", |_| true);
        self.wait_until_none("ip -o link", |link| link.contains("LOWER_UP") && link.contains("DOWN "));
    }

    fn wait_until_none(&self, command: &str, wanted: impl Fn(&str) -> bool) {
        let left = || self.inside.run(command).lines().find(|line| wanted(line)).map(ToOwned::to_owned);
        until(|| format!("the end of {:?}", left()), || left().is_none().then_some(()));
    }

    /// Watches what the kernel tells of this from when it is at rest, and has seen something to prove it.
    pub(crate) fn monitor(&self, what: &[&str]) -> Process {
        self.at_rest();
        let mut command = self.inside.command("ip");
        command.args(["-o", "monitor"]).args(what);
        let monitor = Process::start(command);
        wait_for("the monitor", || {
            self.mark("127.9.9.1");
            monitor.lines().iter().any(|line| line.contains("127.9.9.1")).then_some(())
        });
        monitor
    }

    fn mark(&self, address: &str) {
        self.inside.run(&format!("ip address add {address}/32 dev lo"));
        self.inside.run(&format!("ip address del {address}/32 dev lo"));
    }

    /// What a monitor has seen up to now besides the marks and the kernel's own.
    pub(crate) fn seen(&self, monitor: &Process) -> Vec<String> {
        self.mark("127.9.9.2");
        monitor.wait_for_line("127.9.9.2");
        let own = |line: &String| ["127.9.9.", "fe80::", "ff00::/8"].iter().any(|own| line.contains(own));
        monitor.lines().into_iter().filter(|line| !own(line)).collect()
    }
}

/// That two states are the same; where not, only what differs is shown.
#[track_caller]
pub(crate) fn same(when: &str, now: &[String], wanted: &[String]) {
    assert!(now == wanted, "{when}: {}", difference(now, wanted));
}

fn difference(now: &[String], wanted: &[String]) -> String {
    let more: Vec<_> = now.iter().filter(|line| !wanted.contains(line)).collect();
    let less: Vec<_> = wanted.iter().filter(|line| !now.contains(line)).collect();
    format!("there is also {more:#?}; missing is {less:#?}")
}

/// Asks again and again until there is an answer; `what` says what was waited for.
#[track_caller]
pub(crate) fn until<T>(what: impl Fn() -> String, mut check: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, &mut check)
}

/// The same, for something that takes its time.
#[track_caller]
pub(crate) fn until_within<T>(
    time: Duration,
    what: impl Fn() -> String,
    mut check: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + time;
    loop {
        if let Some(answer) = check() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {time:?} in vain for {}", what());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The agent with a state of its own.
pub(crate) struct Agent {
    pub(crate) process: Process,
    state: PathBuf,
    /// How many lines have been passed over.
    read: usize,
}

impl Agent {
    /// Waits for the next result.
    pub(crate) fn told(&mut self) -> Value {
        self.next("a result", |told| told["event"].is_null()).1
    }

    /// Waits for the next line that is wanted; those before it are passed over for good.
    fn next(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> (Instant, Value) {
        let (process, mut read) = (&self.process, self.read);
        let found = until(
            || format!("{what}; it said {:#?}", short(process.lines())),
            || {
                for (at, line) in process.lines_at().into_iter().skip(read) {
                    read += 1;
                    if let Ok(value) = serde_json::from_str(&line)
                        && wanted(&value)
                    {
                        return Some((at, value));
                    }
                }
                None
            },
        );
        self.read = read;
        found
    }

    /// Waits for the next drift with this outcome.
    pub(crate) fn outcome(&mut self, outcome: &str) -> (Instant, Value) {
        let (at, mut told) =
            self.next(outcome, |told| told["event"]["drift"]["outcome"][outcome].is_object());
        (at, told["event"]["drift"].take())
    }

    /// Waits for the next result, which has to be a success.
    pub(crate) fn verified(&mut self) -> Value {
        let mut told = self.told();
        assert!(told["verified"].is_object(), "{told}");
        told["verified"].take()
    }

    /// Waits for the next result, which has to be a failure that left nothing behind.
    pub(crate) fn failed(&mut self) -> Value {
        let mut told = self.told();
        assert!(told["failed"].is_object(), "{told}");
        assert_eq!(told["failed"]["failure"]["restored"], true, "{told}");
        told["failed"]["failure"].take()
    }

    /// Gives it a state, which may be the one it has.
    pub(crate) fn give(&mut self, state: &Value) {
        fs::write(&self.state, state.to_string()).expect("the state");
        self.process.signal(Signal::SIGHUP);
    }

    /// The same, to its verification.
    pub(crate) fn again(&mut self, state: &Value) -> Value {
        self.give(state);
        self.verified()
    }

    /// Waits for the next drift of which this is part: a path, and what is said of it.
    pub(crate) fn drift(&mut self, path: &str, what: &str) -> (Instant, Value) {
        let (at, mut told) = self.next(&format!("{path}: {what}"), |told| {
            changes(&told["event"]["drift"]).any(|(p, m)| p == path && m.contains(what))
        });
        (at, told["event"]["drift"].take())
    }

    /// Waits for a conflict over an address: the other's MAC address.
    pub(crate) fn conflict(&mut self, address: &str) -> (Instant, Value) {
        let (at, told) = self.next(&format!("a conflict over {address}"), |told| {
            told["event"]["address_conflict"]["address"] == address
        });
        (at, told["event"]["address_conflict"].clone())
    }

    /// All events so far of which this is part.
    pub(crate) fn events(&self, text: &str) -> Vec<Value> {
        let lines = self.process.lines();
        let events = lines.iter().filter(|line| line.starts_with("{\"event\"") && line.contains(text));
        events.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// What matters of what an agent has said, for a person.
fn short(lines: Vec<String>) -> Vec<String> {
    let told = lines.into_iter().filter(|line| !line.contains("operation="));
    told.map(|line| line.chars().take(400).collect()).collect()
}

/// What a drift says has changed: paths and messages.
pub(crate) fn changes(drift: &Value) -> impl Iterator<Item = (&str, &str)> {
    let changes = drift["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    changes.iter().map(|c| (c["path"].as_str().unwrap_or(""), c["message"].as_str().unwrap_or("")))
}

/// That something holds, and goes on to.
pub(crate) fn holds(what: &str, time: Duration, check: impl Fn() -> bool) {
    let end = Instant::now() + time.min(DEADLINE);
    while Instant::now() < end {
        assert!(check(), "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A state with these parts: interfaces by number and content, and the rest.
pub(crate) fn state(interfaces: &[(usize, Value)], rest: Value) -> Value {
    let interface = |(nic, content): &(usize, Value)| {
        let mut interface = json!({ "match": { "mac": MACS[*nic] }, "name": format!("eth{nic}") });
        merge(&mut interface, content);
        interface
    };
    let mut state = rest;
    state["interfaces"] = interfaces.iter().map(interface).collect();
    json!({ "state": state })
}

fn merge(to: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        to[key] = value.clone();
    }
}

/// Adds to a list.
pub(crate) fn push(list: &mut Value, more: Value) {
    list.as_array_mut().expect("a list").push(more);
}

/// Addresses in the short form.
pub(crate) fn addresses(all: &[&str]) -> Value {
    all.iter().map(|address| json!({ "address": address })).collect()
}

/// What most tests have on the first NIC.
pub(crate) fn first() -> (usize, Value) {
    (
        0,
        json!({ "mtu": 1450, "addresses": addresses(&["172.18.0.2/16", "fd00:18::2/64"]),
                "routes": [{ "destination": "0.0.0.0/0", "gateway": "172.18.0.1" }] }),
    )
}

/// And on the second.
pub(crate) fn second() -> (usize, Value) {
    (1, json!({ "addresses": addresses(&["172.19.0.2/16", "fd00:19::2/64"]) }))
}

/// The median and the greatest of some times, for the log.
pub(crate) fn measured(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let greatest = times.last().copied().expect("at least one");
    let median = times[times.len() / 2];
    println!("{what}: median {median:?}, greatest {greatest:?} of {}", times.len());
    greatest
}
