//! The real binaries as ordinary processes in network namespaces: what needs a kernel and
//! several machines, but no boot.

#![allow(clippy::expect_used, reason = "a test fails by panicking, and says what it expected")]

use std::{
    fs,
    net::UdpSocket,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tether_tests::{Lab, Process, Space, binary, uninterrupted, verified, wait_for};

const THREE: &str = r#"
    [[network]]
    name = "front"
    subnets = ["172.18.0.0/16", "fd00:18::/64"]
    mtu = 1400
    [[network]]
    name = "back"
    subnets = ["172.19.0.0/16"]

    [[container]]
    name = "server"
    networks = ["front", "back"]
    aliases = ["web"]
    [[container]]
    name = "client"
    networks = ["front"]
    dns = ["172.18.0.1:5300", "172.18.0.99"]
    [[container]]
    name = "other"
    networks = ["back"]
"#;

/// The interface of this name in a status or an answer.
fn interface<'a>(observed: &'a Value, name: &str) -> &'a Value {
    let all = observed["interfaces"].as_array().expect("interfaces");
    all.iter().find(|interface| interface["name"] == name).unwrap_or_else(|| panic!("no {name}: {observed}"))
}

#[test]
fn three_guests_and_a_host_find_each_other_by_name() {
    let mut lab = Lab::new(THREE);
    let server = lab.guest("server", &[[172, 18, 0, 2], [172, 19, 0, 2]]);
    let client = lab.guest("client", &[[172, 18, 0, 3]]);
    let other = lab.guest("other", &[[172, 19, 0, 3]]);
    lab.all_verified(&["server", "client", "other"]);

    // What the guest reports is what its kernel says.
    let status = lab.vch.next_json("the server's status", |line| {
        line["guest"] == "server" && line["detail"]["status"]["applied"].is_object()
    });
    let status = &status["detail"]["status"];
    let eth0 = interface(&status["observed"], "eth0");
    assert_eq!(eth0["mac"], "02:42:ac:12:00:02");
    assert_eq!(eth0["mtu"], 1400);
    assert_eq!((&eth0["up"], &eth0["carrier"]), (&json!(true), &json!(true)));
    let ours = |address: &str| json!({ "address": address, "state": "usable", "ours": true });
    let addresses = eth0["addresses"].as_array().expect("addresses");
    assert!(addresses.contains(&ours("172.18.0.2/16")), "{addresses:?}");
    assert!(addresses.contains(&ours("fd00:18::2/64")), "{addresses:?}");
    let default_route = json!({ "destination": "0.0.0.0/0", "gateway": "172.18.0.1", "metric": 0, "table": 254, "ours": true });
    assert!(eth0["routes"].as_array().expect("routes").contains(&default_route), "{}", eth0["routes"]);
    assert_eq!(interface(&status["observed"], "eth1")["mtu"], 1500);
    assert_eq!(status["agent_version"], env!("CARGO_PKG_VERSION"));
    let shown = status["observed"]["interfaces"].as_array().expect("a list").len();
    assert_eq!(shown, 3, "lo, eth0 and eth1; the management NIC is nobody's business");

    // By name, over both families, and its own name is its bridge address.
    assert!(client.space.run("getent ahostsv4 server").starts_with("172.18.0.2"));
    assert!(client.space.run("getent ahostsv6 server").starts_with("fd00:18::2"));
    assert!(client.space.run("getent hosts client").contains("fd00:18::3"));
    assert_eq!(client.space.run("hostname").trim(), "client");
    client.space.run("busybox ping -c 1 -W 5 server");
    client.space.run("busybox ping -c 1 -W 5 WEB.front");
    server.space.run("busybox ping -c 1 -W 5 client");
    server.space.run("busybox ping -c 1 -W 5 other");
    // Networks are apart: the client knows nobody on `back`, nor does anybody answer there.
    assert!(client.dig_all("other A").contains("SERVFAIL"));
    assert!(!other.space.output("busybox ping -c 1 -W 1 172.18.0.3").status.success());

    // Names in every way: TCP, other case, PTR, and no error for types a name has not.
    assert_eq!(client.dig("server A"), "172.18.0.2");
    assert_eq!(client.dig("+tcp sErVeR AAAA"), "fd00:18::2");
    assert_eq!(client.dig("-x 172.18.0.2"), "server.");
    assert_eq!(client.dig("-x fd00:18::2"), "server.");
    assert_eq!(other.dig("server A"), "172.19.0.2");
    for question in ["other AAAA", "other MX", "other TXT", "other TYPE65"] {
        let answer = other.dig_all(question);
        assert!(answer.contains("NOERROR") && answer.contains("ANSWER: 0"), "{question}: {answer}");
    }
}

#[test]
fn names_change_while_running_without_a_socket_closing_or_a_query_lost() {
    let mut lab = Lab::new(THREE);
    let client = lab.guest("client", &[[172, 18, 0, 3]]);
    lab.vch.next_json("client", verified("client"));
    let sockets =
        || client.space.run("cat /proc/net/udp").lines().find(|l| l.contains("0B00007F:0035")).map(inode);
    let before = sockets();
    assert!(before.is_some());

    // A flood of one question after the other, from inside the guest.
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, id) = (Arc::clone(&stop), client.space.id());
    let asking = std::thread::spawn(move || {
        enter_network(id);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit");
        let (mut asked, mut query) =
            (0_u32, *b"\x00\x00\x01\x00\x00\x01\0\0\0\0\0\0\x06server\x00\x00\x01\x00\x01");
        while !flag.load(Relaxed) {
            asked += 1;
            query[..2].copy_from_slice(&asked.to_be_bytes()[2..]);
            socket.send_to(&query, "127.0.0.11:53").expect("sent");
            let mut reply = [0; 512];
            let length = uninterrupted(|| socket.recv(&mut reply)).expect("every query is answered");
            assert_eq!(reply[..2], query[..2], "answers come in order");
            assert_eq!(reply[length - 4..length], [172, 18, 0, 2], "the name is there throughout");
        }
        asked
    });
    for n in 0..40 {
        lab.reconfigure(&THREE.replace("\"web\"", &format!("\"web\", \"name-{n}\"")));
        client.wait_for_dig(&format!("name-{n} A"), "172.18.0.2");
    }
    stop.store(true, Relaxed);
    let asked = asking.join().expect("no query was lost");
    assert!(asked > 1_000, "only {asked} queries");
    assert_eq!(sockets(), before, "the socket is another");
    // The old names are gone: they are nobody's now, and go to the upstreams, which are silent.
    assert!(client.dig_all("name-3 A").contains("SERVFAIL"));
}

/// The inode in a line of `/proc/net/udp`.
fn inode(line: &str) -> String {
    line.split_whitespace().nth(9).expect("ten columns").to_owned()
}

/// Moves this thread into the network namespace of a process.
fn enter_network(id: u32) {
    let namespace = fs::File::open(format!("/proc/{id}/ns/net")).expect("its namespace");
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("allowed");
}

#[test]
fn what_is_not_ours_is_relayed_as_the_upstream_said_it() {
    let mut lab = Lab::new(THREE);
    let client = lab.guest("client", &[[172, 18, 0, 3]]);
    lab.vch.next_json("client", verified("client"));
    // Nobody answers yet: SERVFAIL, and in time.
    assert!(client.dig_all("+time=5 a.example A").contains("SERVFAIL"));

    let records: Vec<String> = (0..120).map(|n| format!("--host-record=big.example,10.9.0.{n}")).collect();
    let mut dnsmasq = lab.host.command("dnsmasq");
    dnsmasq
        .args(["--no-daemon", "--no-resolv", "--no-hosts", "--port=5300", "--bind-interfaces"])
        .args(["--listen-address=172.18.0.1", "--user=root", "--pid-file=", "--log-queries"])
        .args(["--auth-server=ns.auth.example", "--auth-zone=auth.example,172.18.0.0/16"])
        .args(["--auth-soa=7,admin.auth.example", "--host-record=a.example,10.9.9.9"])
        .args(["--txt-record=t.example,some text", "--address=/none.example/"])
        .args(records)
        .stderr(Stdio::null());
    let _dnsmasq = Process::start(dnsmasq);
    client.wait_for_dig("a.example A", "10.9.9.9");
    assert_eq!(client.dig("t.example TXT"), "\"some text\"");
    assert!(client.dig_all("x.none.example A").contains("NXDOMAIN"));
    // One label is forwarded too: what is no local name may be somebody's.
    assert!(
        client.dig_all("nobody A").contains("REFUSED") || client.dig_all("nobody A").contains("NXDOMAIN")
    );

    // An answer that is too long for UDP: cut with TC for who asks over UDP, whole over TCP,
    // and fetched over TCP from the upstream.
    let cut = client.dig_all("+ignore +noedns big.example A");
    assert!(cut.contains(" tc ") || cut.contains(" tc;"), "{cut}");
    let whole = client.dig_all("+tcp big.example A");
    assert!(whole.contains("ANSWER: 120"), "{whole}");
    let counters = wait_for("the counters", || {
        let lines = lab.vch.lines();
        let last = lines.iter().rev().find(|line| line.contains("\"status\""))?;
        let line: Value = serde_json::from_str(last).ok()?;
        let dns = line["detail"]["status"]["dns"].clone();
        (dns["forwarded"].as_u64()? >= 7).then_some(dns)
    });
    assert!(counters["failed"].as_u64() >= Some(1), "{counters}");
}

#[test]
fn a_host_that_is_killed_comes_back_to_guests_that_never_noticed() {
    let mut lab = Lab::new(THREE);
    let client = lab.guest("client", &[[172, 18, 0, 3]]);
    lab.vch.next_json("client", verified("client"));
    let monitor = monitor(&client.space);
    lab.vch.kill();
    assert_eq!(client.dig("server A"), "172.18.0.2");

    lab.host_crashes();
    let hello = lab.vch.next_json("client's return", |line| line["detail"]["connected"]["guest"] == "client");
    assert!(hello["detail"]["connected"]["applied"]["generation"] == 1, "{hello}");
    let again = lab.vch.next_json("client", verified("client"));
    assert_eq!(again["detail"]["verified"]["operations"], 0, "{again}");
    assert_eq!(client.dig("server A"), "172.18.0.2");
    lab.reconfigure(&THREE.replace("\"web\"", "\"web\", \"later\""));
    client.wait_for_dig("later A", "172.18.0.2");
    assert_eq!(touched(&client.space, &monitor), [""; 0]);
}

#[test]
fn an_agent_that_is_killed_finds_its_own_and_changes_nothing() {
    let mut lab = Lab::new(THREE);
    let mut server = lab.guest("server", &[[172, 18, 0, 2], [172, 19, 0, 2]]);
    lab.vch.next_json("server", verified("server"));
    let before = settled(&kernel_state(&server.space));
    let monitor = monitor(&server.space);
    server.agent_crashes();
    lab.vch.next_json("server's return", returned("server"));
    assert_eq!(settled(&kernel_state(&server.space)), before);
    assert_eq!(touched(&server.space, &monitor), [""; 0]);
}

/// Whether a line says that `guest` is there with the first document in force.
fn returned(guest: &'static str) -> impl Fn(&Value) -> bool {
    move |line| line["guest"] == guest && line["detail"]["connected"]["applied"]["generation"] == 1
}

/// Watches the kernel's networking in `space`, and has seen something to prove it.
fn monitor(space: &Space) -> Process {
    let mut command = space.command("ip");
    command.args(["-o", "monitor", "link", "address", "route"]);
    let monitor = Process::start(command);
    wait_for("the monitor", || {
        mark(space, "127.9.9.1");
        monitor.lines().iter().any(|line| line.contains("127.9.9.1")).then_some(())
    });
    monitor
}

/// Something for the monitor to see that is not the agent's doing.
fn mark(space: &Space, address: &str) {
    space.run(&format!("ip address add {address}/32 dev lo"));
    space.run(&format!("ip address del {address}/32 dev lo"));
}

/// What the monitor has seen up to now, without the marks and the link-local addresses that the
/// kernel makes in its own time.
fn touched(space: &Space, monitor: &Process) -> Vec<String> {
    mark(space, "127.9.9.2");
    monitor.wait_for_line("127.9.9.2");
    let others = |line: &String| !line.contains("fe80::") && !line.contains("127.9.9.");
    monitor.lines().into_iter().filter(others).collect()
}

/// Everything tether configures, as iproute2 shows it.
fn kernel_state(space: &Space) -> String {
    ["ip -o link", "ip -o address", "ip route", "ip -6 route"].map(|line| space.run(line)).concat()
}

#[test]
fn static_addresses_carry_the_tether_too() {
    for (subnet, host) in [("10.99.0.0/24", "10.99.0.1"), ("fd00:99::/64", "fd00:99::1")] {
        let config = format!("[management]\nsubnet = \"{subnet}\"\n{THREE}");
        let mut lab = Lab::new(&config);
        let other = lab.guest("other", &[[172, 19, 0, 3]]);
        lab.vch.next_json("other", verified("other"));
        let connections = other.space.run("ss -Htn state established");
        assert!(connections.contains(host), "{connections}");
    }
}

#[test]
fn guests_nobody_admitted_are_refused() {
    let mut lab = Lab::new(THREE);
    let other = lab.guest("other", &[[172, 19, 0, 3]]);
    lab.vch.next_json("other", verified("other"));
    lab.reconfigure(&THREE.replace("name = \"other\"", "name = \"another\""));
    lab.vch.next_json("the end of other", |line| {
        line["guest"] == "other" && line["detail"]["disconnected"].is_object()
    });
    lab.vch
        .next_json("the refusal", |line| line["guest"] == "other" && line["detail"]["refused"].is_object());
    // What it had stays: only the host's word changes a guest.
    assert_eq!(other.dig("server A"), "172.19.0.2");
}

/// A guest without a host: `tether run --state`, and a NIC whose other end is in the same space.
struct Alone {
    space: Space,
    tether: Process,
    state: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Alone {
    fn new(state: &str, prepare: &[&str]) -> Self {
        let space = Space::new();
        space.run("ip link add peer0 type veth peer name ens3 address 02:42:ac:12:00:02");
        space.run("ip link set peer0 up");
        for line in prepare {
            space.run(line);
        }
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let (boot, file) = (directory.path().join("boot.json"), directory.path().join("state.json"));
        fs::write(&boot, r#"{"guest": "alone"}"#).expect("the boot document");
        fs::write(&file, state).expect("the state");
        let mut command = space.command(binary("tether"));
        command.arg("run").arg("--boot").arg(boot).arg("--state").arg(&file);
        let tether = Process::start(command);
        Self { space, tether, state: file, _directory: directory }
    }

    /// Waits for the next result.
    fn told(&mut self) -> Value {
        self.tether.next_json("a result", |told| told["event"].is_null())
    }

    /// Gives it another state and waits for the result.
    fn again(&mut self, state: &Value) -> Value {
        fs::write(&self.state, state.to_string()).expect("the state");
        self.tether.signal(Signal::SIGHUP);
        self.told()
    }
}

/// A state that is good for [`Alone`].
fn good() -> Value {
    json!({ "state": {
        "hostname": "alone",
        "interfaces": [{
            "match": { "mac": "02:42:ac:12:00:02" }, "name": "eth0", "mtu": 1450,
            "addresses": [{ "address": "172.18.0.2/16" }, { "address": "fd00:18::2/64" }],
            "routes": [{ "destination": "0.0.0.0/0", "gateway": "172.18.0.1" },
                       { "destination": "10.0.0.0/8", "gateway": "172.18.0.7", "metric": 50 }],
        }],
    }})
}

#[test]
fn the_documented_example_is_applied() {
    let documented = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/state.json");
    let mut alone = Alone::new(&fs::read_to_string(documented).expect("the example"), &[]);
    let told = alone.told();
    let eth0 = interface(&told["verified"]["observed"], "eth0");
    assert_eq!(eth0["mtu"], 1500);
    assert_eq!(alone.space.run("dig +short @127.0.0.11 server A").trim(), "172.18.0.2");
    let hosts = fs::read_to_string(alone.space.etc().join("hosts")).expect("hosts");
    assert!(hosts.contains("\n172.18.0.3 client\n"), "{hosts}");
    let resolv_conf = fs::read_to_string(alone.space.etc().join("resolv.conf")).expect("resolv.conf");
    assert!(resolv_conf.contains("\nnameserver 127.0.0.11\nsearch example.com\n"), "{resolv_conf}");
}

#[test]
fn a_wrong_state_is_told_whole_and_touches_nothing() {
    let mut alone = Alone::new(&good().to_string(), &[]);
    assert!(alone.told()["verified"].is_object());
    let before = settled(&kernel_state(&alone.space));
    let mut wrong = good();
    wrong["state"]["hostname"] = json!("not a name");
    wrong["state"]["interfaces"][0]["addresses"][1]["address"] = json!("fd00:18::2/129");
    wrong["state"]["interfaces"][0]["routes"][0]["gateway"] = json!("10.0.0.1");
    wrong["state"]["dns"] = json!({ "upstreams": ["127.0.0.11"] });
    let told = alone.again(&wrong);
    let failure = &told["failed"]["failure"];
    assert_eq!((&failure["phase"], &failure["restored"]), (&json!("check"), &json!(true)));
    let paths: Vec<_> = failure["problems"].as_array().expect("a list").iter().map(|p| &p["path"]).collect();
    let expected = [
        "hostname",
        "interfaces[0].addresses[1].address",
        "interfaces[0].routes[0].gateway",
        "dns.upstreams[0]",
    ];
    assert_eq!(paths, expected);

    // What only the machine can know: two at once again.
    let mut absent = good();
    absent["state"]["interfaces"][0]["mtu"] = json!(65_000);
    absent["state"]["interfaces"]
        .as_array_mut()
        .expect("a list")
        .push(json!({ "match": { "mac": "02:00:00:00:00:99" }, "name": "eth1" }));
    absent["state"]["interfaces"][0]["name"] = json!("peer0");
    let told = alone.again(&absent);
    let failure = &told["failed"]["failure"];
    let problems: Vec<String> = failure["problems"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| format!("{}: {}", p["path"].as_str().unwrap_or(""), p["message"].as_str().unwrap_or("")))
        .collect();
    assert!(
        problems
            .iter()
            .any(|p| p.starts_with("interfaces[1].match: no interface is 02:00:00:00:00:99; there are")),
        "{problems:?}"
    );
    assert!(
        problems.iter().any(|p| p.starts_with("interfaces[0].name: peer0 is the name of another interface")),
        "{problems:?}"
    );

    // A file that is no JSON says where.
    fs::write(&alone.state, "{\"state\": {\"interfaces\": [{\"match\": {\"mac\": 5}}]}}").expect("the state");
    alone.tether.signal(Signal::SIGHUP);
    let told = alone.told();
    let message = told["unreadable"]["message"].as_str().expect("a message");
    assert!(message.contains("state.interfaces[0].match.mac: invalid type"), "{message}");
    assert_eq!(settled(&kernel_state(&alone.space)), before);
}

#[test]
fn what_the_kernel_refuses_is_rolled_back_with_its_words() {
    // A router cannot be nearer than the link it is on: the name, the link and the addresses
    // succeed before the kernel refuses the route.
    let foreign = [
        "ip address add 192.168.7.7/24 dev ens3",
        "ip link set ens3 up",
        "ip route add 192.168.9.0/24 via 192.168.7.1 metric 7",
    ];
    let mut alone = Alone::new("{\"state\": {}}", &foreign);
    assert!(alone.told()["verified"].is_object());
    let before = settled(&kernel_state(&alone.space));
    let hosts = fs::read(alone.space.etc().join("hosts")).expect("hosts");
    let mut refused = good();
    refused["state"]["interfaces"][0]["routes"][1]["scope"] = json!("link");
    let told = alone.again(&refused);
    let failure = &told["failed"]["failure"];
    assert_eq!((&failure["phase"], &failure["restored"]), (&json!("apply"), &json!(true)), "{told}");
    assert_eq!(failure["problems"][0]["path"], "interfaces[0].routes[1]");
    assert_eq!(failure["operation"]["errno"], "ENETUNREACH", "{failure}");
    assert_eq!(failure["operation"]["kernel"], "Nexthop has invalid gateway");
    assert_eq!(settled(&kernel_state(&alone.space)), before);
    assert_eq!(fs::read(alone.space.etc().join("hosts")).expect("hosts"), hosts);
    // And a state that the kernel takes is still possible.
    assert!(alone.again(&good())["verified"].is_object());
}

#[test]
fn what_cannot_be_verified_is_rolled_back_files_and_names_too() {
    // Two NICs whose names move down by one, as a second NIC's do when the first is the tether's;
    // the other end of the second is down, so that it never has a carrier.
    let foreign = [
        "ip link set ens3 name eth1",
        "ip link set eth1 up",
        "ip link add peer1 type veth peer name eth2 address 02:42:ac:13:00:02",
        "ip link set eth2 up",
        "ip address add 192.168.7.7/24 dev eth2",
    ];
    let mut alone = Alone::new("{\"state\": {}}", &foreign);
    assert!(alone.told()["verified"].is_object());
    let hosts = || fs::read(alone.space.etc().join("hosts")).expect("hosts");
    let (before, files) = (settled(&kernel_state(&alone.space)), hosts());
    let mut two = good();
    two["state"]["interfaces"].as_array_mut().expect("a list").push(json!({
        "match": { "mac": "02:42:ac:13:00:02" }, "name": "eth1", "addresses": [{ "address": "172.19.0.2/16" }],
    }));
    let told = alone.again(&two);
    let failure = &told["failed"]["failure"];
    assert_eq!((&failure["phase"], &failure["restored"]), (&json!("verify"), &json!(true)), "{told}");
    let problem = &failure["problems"][0];
    assert_eq!(problem["path"], "interfaces[1]");
    assert!(problem["message"].as_str().expect("a message").contains("no carrier"), "{problem}");
    assert_eq!(settled(&kernel_state(&alone.space)), before);
    assert_eq!(fs::read(alone.space.etc().join("hosts")).expect("hosts"), files);
    assert_eq!(alone.space.run("hostname"), Space::new().run("hostname"));
    // With a carrier it is verified.
    alone.space.run("ip link set peer1 up");
    assert!(alone.again(&two)["verified"].is_object());
}

/// A state without what changes by itself: the kernel's link-local addresses, and the order.
fn settled(state: &str) -> Vec<String> {
    let lines = state.lines().filter(|line| !line.contains("fe80::"));
    // So does that an address is still being checked.
    let checked = |line: &str| line.trim_end().replace("optimistic ", "").replace("tentative ", "");
    let mut lines: Vec<String> = lines.map(checked).collect();
    lines.sort();
    lines
}

#[test]
fn a_nic_may_be_plugged_in_after_the_state_that_names_it_has_come() {
    let mut state = good();
    state["state"]["interfaces"].as_array_mut().expect("a list").push(json!({
        "match": { "mac": "02:42:ac:13:00:02" }, "name": "eth1", "addresses": [{ "address": "172.19.0.2/16" }],
    }));
    let mut alone = Alone::new(&state.to_string(), &[]);
    // Nothing can be seen while it waits; were this too short, the test would only show less.
    std::thread::sleep(Duration::from_millis(300));
    alone.space.run("ip link add peer1 type veth peer name ens4 address 02:42:ac:13:00:02");
    alone.space.run("ip link set peer1 up");
    let told = alone.told();
    assert_eq!(interface(&told["verified"]["observed"], "eth1")["up"], true, "{told}");
}

#[test]
fn what_others_made_is_left_alone_and_reported() {
    let foreign = [
        "ip link set ens3 name eth0",
        "ip link set eth0 up",
        "ip address add 192.168.7.7/24 dev eth0",
        "ip route add 192.168.9.0/24 via 192.168.7.1 metric 7",
    ];
    let mut alone = Alone::new(&good().to_string(), &foreign);
    let told = alone.told();
    let eth0 = interface(&told["verified"]["observed"], "eth0");
    let theirs = json!({ "address": "192.168.7.7/24", "state": "usable", "ours": false });
    assert!(eth0["addresses"].as_array().expect("a list").contains(&theirs), "{eth0}");
    // Ours go with the document, theirs stay.
    let told = alone.again(&json!({ "state": {} }));
    assert!(told["verified"].is_object(), "{told}");
    let left = kernel_state(&alone.space);
    assert!(left.contains("192.168.7.7/24") && left.contains("192.168.9.0/24"), "{left}");
    assert!(
        !left.contains("172.18.0.2") && !left.contains("fd00:18::2") && !left.contains("10.0.0.0/8"),
        "{left}"
    );
    // A route of theirs in the way of one of ours is an error, not a loss.
    let mut in_the_way = good();
    in_the_way["state"]["interfaces"][0]["routes"][1] =
        json!({ "destination": "192.168.9.0/24", "gateway": "172.18.0.9", "metric": 7 });
    let told = alone.again(&in_the_way);
    assert_eq!(told["failed"]["failure"]["problems"][0]["path"], "interfaces[0].routes[1]", "{told}");
}

#[test]
fn what_the_kernel_takes_along_with_an_address_of_ours_comes_back() {
    let four = |address: &str| {
        let mut state = good();
        state["state"]["interfaces"][0]["addresses"] = json!([{ "address": address }]);
        state["state"]["interfaces"][0]["routes"] = json!([]);
        state
    };
    let mut alone = Alone::new(&four("172.18.0.2/16").to_string(), &[]);
    assert!(alone.told()["verified"].is_object());
    // Secondary to ours, which the kernel removes together with it; and with the last address of
    // all go the routes.
    alone.space.run("sysctl -qw net.ipv4.conf.eth0.promote_secondaries=0");
    alone.space.run("ip address add 172.18.0.50/16 dev eth0");
    alone.space.run("ip route add 192.168.9.0/24 via 172.18.0.9");
    assert!(alone.again(&four("172.18.0.3/16"))["verified"].is_object());
    let state = kernel_state(&alone.space);
    assert!(state.contains("172.18.0.3/16") && !state.contains("172.18.0.2/16"), "{state}");
    assert!(state.contains("172.18.0.50/16") && state.contains("192.168.9.0/24"), "{state}");
    // Now the document wants what is theirs, and only that: it has to be there when ours is gone.
    assert!(alone.again(&four("172.18.0.50/16"))["verified"].is_object());
    let state = kernel_state(&alone.space);
    assert!(state.contains("172.18.0.50/16") && !state.contains("172.18.0.3/16"), "{state}");
}

#[test]
fn a_changed_state_changes_only_what_differs() {
    let mut alone = Alone::new(&good().to_string(), &[]);
    assert_eq!(alone.told()["verified"]["operations"], 9);
    assert_eq!(alone.again(&good())["verified"]["operations"], 0);
    let mut moved = good();
    moved["state"]["interfaces"][0]["routes"][0]["gateway"] = json!("172.18.0.254");
    moved["state"]["interfaces"][0]["addresses"][0]["address"] = json!("172.18.0.9/16");
    let told = alone.again(&moved);
    assert!(told["verified"].is_object(), "{told}");
    let state = kernel_state(&alone.space);
    assert!(state.contains("default via 172.18.0.254") && state.contains("172.18.0.9/16"), "{state}");
    assert!(!state.contains("172.18.0.2/16"), "{state}");
}

#[test]
fn files_that_are_mount_points_are_written_in_place() {
    let space = Space::new();
    let inside = tempfile::TempDir::new().expect("a temporary directory");
    let path = inside.path().display();
    for name in ["hosts", "resolv.conf"] {
        fs::write(inside.path().join(name), "# mine\n").expect("a file");
        space.run(&format!("mount --bind {path}/{name} /etc/{name}"));
    }
    fs::write(inside.path().join("boot.json"), r#"{"guest": "alone"}"#).expect("the boot document");
    fs::write(inside.path().join("state.json"), r#"{"state": {}}"#).expect("the state");
    let mut command = space.command(binary("tether"));
    command.arg("run").arg("--boot").arg(inside.path().join("boot.json"));
    command.arg("--state").arg(inside.path().join("state.json"));
    let mut tether = Process::start(command);
    assert!(tether.next_json("a result", |_| true)["verified"].is_object());
    let hosts = fs::read_to_string(inside.path().join("hosts")).expect("hosts");
    assert!(hosts.starts_with("# mine\n# tether begin"), "{hosts}");
    let resolv_conf = fs::read_to_string(inside.path().join("resolv.conf")).expect("resolv.conf");
    assert!(resolv_conf.contains("nameserver 127.0.0.11"), "{resolv_conf}");
    let left: Vec<_> = fs::read_dir(space.etc()).expect("etc").filter_map(Result::ok).collect();
    assert!(left.iter().all(|file| !file.file_name().to_string_lossy().contains("tether")), "{left:?}");
}

#[test]
fn a_port_that_is_taken_is_reported_and_tried_again() {
    let mut lab = Lab::new(THREE);
    let mut other = lab.guest("other", &[[172, 19, 0, 3]]);
    lab.vch.next_json("other", verified("other"));
    other.tether.kill();
    let mut squatter = other.space.command("dnsmasq");
    squatter
        .args(["--no-daemon", "--no-resolv", "--listen-address=127.0.0.11", "--bind-interfaces"])
        .args(["--user=root", "--pid-file=", "--no-hosts"])
        .stderr(Stdio::null());
    let mut squatter = Process::start(squatter);
    wait_for("dnsmasq", || {
        other.space.output("dig +tries=1 +time=1 @127.0.0.11 x").status.success().then_some(())
    });
    other.agent_crashes();
    // The rest of the agent works on.
    lab.vch.next_json("other's return", returned("other"));
    let status = lab.vch.next_json("the condition", |line| {
        line["guest"] == "other" && !line["detail"]["status"]["conditions"][0].is_null()
    });
    let condition = &status["detail"]["status"]["conditions"][0];
    assert_eq!(condition["part"], "dns");
    assert!(condition["message"].as_str().expect("a message").contains("127.0.0.11:53"), "{condition}");
    squatter.kill();
    other.wait_for_dig("server A", "172.19.0.2");
}

#[test]
fn broken_documents_and_arguments_say_what_to_do() {
    let space = Space::new();
    let said = |arguments: &[&str]| {
        let output = space.command(binary("tether")).args(arguments).output().expect("it can be started");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&["run"]).contains("no boot document: give one with --boot FILE"));
    assert!(said(&["run", "--boot", "/nonexistent"]).contains("/nonexistent: No such file"));
    assert!(said(&["--bogus"]).contains("try: tether --help"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), r#"{"guest": "a", "host": {"address": "10.0.0.1"}}"#).expect("its content");
    let path = file.path().display().to_string();
    let error = said(&["run", "--boot", &path]);
    assert!(error.contains(&format!("{path}: management: missing: write which NIC")), "{error}");
}
