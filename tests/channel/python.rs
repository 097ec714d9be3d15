//! A host in another language, of which docs/protocol.md is all it knows: tests/python-host.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;
use tether_host::{
    JoinToken, Pin,
    message::{names_digest, state_digest},
    names::NameTables,
    state::DesiredState,
};
use tether_tests::{Process, target};

use crate::place::{GUEST, HOST, Place, admission, identity};

/// The document this host brings its guest.
const DOCUMENT: &str = include_str!("../../docs/examples/state.json");

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Python with what tests/python-host/requirements.txt asks for, installed under `target/` once.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let place = target().join("python-host");
        let (python, installed) = (place.join("bin/python"), place.join("requirements.txt"));
        let wanted = fs::read_to_string(here("python-host/requirements.txt")).expect("it is there");
        if fs::read_to_string(&installed).ok().as_ref() != Some(&wanted) {
            let run = |command: &mut Command, remedy: &str| {
                let output =
                    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; {remedy}"));
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said);
                assert!(output.status.success(), "the host in Python cannot be tried: {remedy}\n{said}");
            };
            let made = ["-m", "venv", "--clear"];
            run(
                Command::new("python3").args(made).arg(&place),
                "run scripts/requirements test for python3-venv",
            );
            let pip = ["-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r"];
            run(
                Command::new(&python).args(pip).arg(here("python-host/requirements.txt")),
                "pip cannot install tests/python-host/requirements.txt, which it takes from PyPI",
            );
            fs::write(&installed, &wanted).expect("a file");
        }
        python
    })
}

/// The host in Python.
struct PythonHost {
    process: Process,
    pin: Pin,
}

impl PythonHost {
    fn start(place: &Place, token: &JoinToken, more: &[&str]) -> Self {
        let mut command = place.outside.command(python());
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(here("python-host/host.py"));
        command.args(["--address", HOST, "--guest", GUEST, "--heartbeat", "0.2"]);
        command.args(["--token", token.to_secret().reveal(), "--document"]);
        command.arg(here("../docs/examples/state.json")).args(more);
        let mut process = Process::start(command);
        let listening = process.next_json("a host that listens", |line| line["listening"].is_string());
        let pin = listening["listening"].as_str().and_then(|pin| pin.parse().ok()).expect("a pin");
        Self { process, pin }
    }

    /// Waits for the next message of this name. Its fields.
    fn hears(&mut self, name: &str) -> Value {
        self.process.next_json(name, |line| line["name"] == name)["fields"].take()
    }

    /// Waits for the next status that is as wanted.
    fn hears_status(&mut self, whatfor: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.process.next_json(whatfor, |line| line["name"] == "status" && wanted(&line["fields"]))["fields"]
            .take()
    }

    /// Waits for the next thing it does of this name. What it says of that.
    fn does(&mut self, what: &str) -> Value {
        self.process.next_json(what, |line| !line[what].is_null())[what].take()
    }
}

/// A place whose guest has the NIC that the document is about.
fn place() -> Place {
    let (place, mac) = (Place::new(), "02:42:ac:12:00:02");
    let id = place.inside.id();
    place.outside.run(&format!("ip link add p0 type veth peer name ens3 address {mac} netns {id}"));
    place.outside.run("ip link set p0 up");
    place
}

fn digits(digest: tether_host::status::Digest) -> String {
    digest.0.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn a_host_in_python_that_knows_the_document_only_drives_a_guest() {
    let (place, admission) = (place(), admission());
    let mut host = PythonHost::start(&place, &admission.token, &[]);
    let mut tether = place.agent(&[host.pin], &admission.token);
    let key = host.does("enrolled");
    assert_eq!(host.hears("hello")["guest"], GUEST);
    // What is said to be in force is what was sent, by its digest as we count it.
    let document: Value = serde_json::from_str(DOCUMENT).expect("JSON");
    let state: DesiredState = serde_json::from_value(document["state"].clone()).expect("a state");
    let tables: NameTables = serde_json::from_value(document["names"].clone()).expect("names");
    assert_eq!(host.hears("names_applied")["stamp"]["digest"], digits(names_digest(&tables)));
    assert_eq!(host.hears("received")["generation"], 1);
    let verified = host.hears("verified");
    assert_eq!(verified["stamp"]["digest"], digits(state_digest(&state)));
    // One of its routes could have cut the host off.
    assert_eq!(verified["confirm_within_s"], 15);
    assert_eq!(host.hears("confirmed")["generation"], 1);
    // The kernel has it.
    let address = place.inside.run("ip address show dev eth0");
    for wanted in ["link/ether 02:42:ac:12:00:02", "inet 172.18.0.2/16", "inet6 fd00:18::2/64"] {
        assert!(address.contains(wanted), "{wanted}: {address}");
    }
    let routes = place.inside.run("ip route show");
    assert!(routes.contains("default via 172.18.0.1 dev eth0"), "{routes}");
    assert_eq!(place.inside.run("hostname").trim(), "server");
    assert_eq!(place.inside.run("dig +short @127.0.0.11 client").trim(), "172.18.0.3");
    // The host was told the same, by a guest that is in all of it.
    let status = host.hears_status("a status", |status| status["applied"] == verified["stamp"]);
    let interface =
        &status["observed"]["interfaces"].as_array().expect("a list").iter().find(|at| at["name"] == "eth0");
    let interface = interface.expect("eth0");
    let link = place.inside.run("ip link show dev eth0");
    assert!(link.starts_with(&format!("{}: eth0", interface["index"])), "{link}");
    assert_eq!((&interface["mac"], &interface["up"]), (&"02:42:ac:12:00:02".into(), &true.into()));
    let address = |address: &str| serde_json::json!({ "address": address, "state": "usable", "ours": true });
    let addresses = interface["addresses"].as_array().expect("a list");
    assert!(addresses.contains(&address("172.18.0.2/16")) && addresses.contains(&address("fd00:18::2/64")));
    // Both ends make sure of each other for longer than either waits.
    for _ in 0..5 {
        host.hears("ping");
        host.hears("pong");
    }
    assert!(
        !host.process.lines().iter().any(|line| line.contains("\"ended\"")),
        "{:?}",
        host.process.lines()
    );
    // What others change in the kernel is told, too.
    place.inside.run("ip address del 172.18.0.2/16 dev eth0");
    let event = host.hears("event");
    assert_eq!(
        event["kind"]["drift"]["outcome"]["repaired"]["operations"].as_u64().map(|n| n > 0),
        Some(true),
        "{event}"
    );
    // Started again it is the same guest, and has it all.
    tether.kill();
    host.does("ended");
    let _again = place.agent(&[host.pin], &admission.token);
    assert_eq!(host.hears("hello")["applied"], verified["stamp"]);
    host.hears_status("its status", |status| status["applied"] == verified["stamp"]);
    let said = host.process.lines();
    let count = |text: &str| said.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("\"enrolled\""), count("\"received\"")), (1, 1), "{said:?}");
    assert!(said.iter().any(|line| line.contains(key.as_str().expect("a pin"))));
}

#[test]
fn a_host_in_python_refuses_and_is_refused() {
    let (place, right) = (place(), admission());
    let mut host = PythonHost::start(&place, &right.token, &[]);
    let reason = "its join token is not the one this host has given out";
    let mut wrong = place.agent(&[host.pin], &admission().token);
    wrong.wait_for_line(&format!("the host refuses this guest: {reason}; trying on"));
    assert_eq!(host.does("refused"), reason);
    wrong.kill();
    let mut mistaken = place.agent(&[identity().pin()], &right.token);
    mistaken.wait_for_line(&format!("the host's key is not the pinned one: it has {}", host.pin));
    mistaken.kill();
    assert!(!host.process.lines().iter().any(|line| line.contains("\"hello\"") || line.contains("enrolled")));
    let mut first = place.agent_in("/run/first", &[host.pin], &right.token);
    let key = host.does("enrolled");
    first.kill();
    let thief = place.agent_in("/run/thief", &[host.pin], &right.token);
    thief.wait_for_line("the host refuses this guest: another key has redeemed this guest's join token");
    assert_eq!(host.does("alarm")["bound"], key);
}

#[test]
fn a_guest_works_with_a_host_of_the_next_version_and_not_with_one_of_other_versions() {
    let (place, admission) = (place(), admission());
    // It speaks ours too, and knows more than we do.
    let mut host = PythonHost::start(&place, &admission.token, &["--protocols", "1", "2", "--unknown"]);
    let mut tether = place.agent(&[host.pin], &admission.token);
    host.hears("verified");
    // A message type and a layout that are new to us: both were passed over, and counted.
    let status = host.hears_status("a status", |status| !status["applied"].is_null());
    assert_eq!(status["skipped_frames"], 2);
    tether.kill();
    drop(host);
    let mut host = PythonHost::start(&place, &admission.token, &["--protocols", "2", "3"]);
    let tether = place.agent(&[host.pin], &admission.token);
    let reason = "no protocol in common: the guest speaks 1 to 1, this host 2 to 3";
    tether.wait_for_line(&format!("the host refuses this guest: {reason}; trying on"));
    assert_eq!(host.does("refused"), reason);
}

#[test]
fn what_python_was_told_by_the_document_makes_the_pinned_bytes() {
    let mut command = Command::new("python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(here("python-host/golden.py"));
    command.args([here("../src/wire/tests/golden.txt"), here("../docs/protocol.md")]);
    let output = command.output().expect("it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("structures agree"), "{said}");
}
