//! Guests that mean no good, beside one that is as it should be: it is served as if they were not there,
//! and the host's memory has a limit for each.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tether_host::{
    EventKind, GuestId, Host, Options, Tables,
    message::{Event, EventKind as Told, FromGuest, FromHost, Ping},
    status::{Condition, Status},
};
use tether_tests::{Process, Space, admission, host_identity, wait_for};
use tether_wire::frame::Frame;

use crate::{
    place::{GUEST, HOST, HOST_MAC, MAC, Machine, PORT, Street, guest, names, runtime, state},
    speaker::{FalseGuest, Key, connect, header},
};

/// How long they go on: longer than the 12 s, with a heartbeat each second, in which who does not read is
/// ended.
const CROWD: Duration = Duration::from_secs(15);
/// What one may cost the host, in KiB (SPECIFICATION.md), and how many of them try to.
const EACH: u64 = 32 << 10;
const GREEDY: u64 = 5;
/// How long the good guest's documents may take meanwhile: ordinary time, on a machine others share.
const ORDINARY: u64 = 3_000;

/// What one does, for as long as it can.
type Badness<S> = fn(&mut S) -> io::Result<()>;

/// Guests that were admitted, and what they do once they were greeted.
const ADMITTED: [(&str, Badness<FalseGuest>); 8] = [
    ("garbage", |guest| guest.raw(&[0x5a; 1 << 16]).and_then(|()| listens(guest))),
    ("malformed", |guest| {
        guest.send(&Frame { kind: 48, version: 1, payload: vec![0xff; 100].into() })?;
        listens(guest)
    }),
    ("slow", |guest| {
        let status = long_status().to_frame();
        guest.raw(&header(&status))?;
        for byte in &status.payload {
            guest.raw(&[*byte])?;
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }),
    ("deaf", |guest| {
        for nonce in 0.. {
            guest.say(Ping { nonce })?;
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }),
    ("pings", |guest| {
        let ping = FromGuest::from(Ping { nonce: 1 }).to_frame();
        let many = [&header(&ping)[..], &ping.payload].concat().repeat(1_000);
        loop {
            guest.raw(&many)?;
        }
    }),
    ("statuses", |guest| {
        let status = long_status().to_frame();
        loop {
            guest.send(&status)?;
        }
    }),
    ("hollow", |guest| {
        // The most that the decoder takes of what is longer in memory than on the wire.
        let condition = Condition { part: String::new(), message: String::new() };
        let status = FromGuest::from(Status { conditions: vec![condition; 250_000], ..Status::default() });
        let status = status.to_frame();
        loop {
            guest.send(&status)?;
        }
    }),
    ("events", |guest| {
        let kind = Told::AddressConflict {
            interface: "x".repeat(60_000),
            address: String::new(),
            mac: String::new(),
        };
        let event = FromGuest::from(Event { uptime_ms: 1, dropped: 0, kind }).to_frame();
        loop {
            guest.send(&event)?;
        }
    }),
];

/// Strangers, and what they do once they are connected.
const STRANGERS: [(&str, Badness<TcpStream>); 3] = [
    ("garbage before TLS", |stream| {
        stream.write_all(&[0x16; 1 << 20])?;
        stream.read(&mut [0; 64]).map(drop)
    }),
    ("a byte a second of a handshake", |stream| {
        let mut hello = Vec::new();
        Key::new().client().write_tls(&mut hello)?;
        for byte in hello {
            stream.write_all(&[byte])?;
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }),
    ("silence", |stream| stream.read(&mut [0; 64]).map(drop)),
];

/// Reads until the host ends it.
fn listens(guest: &mut FalseGuest) -> io::Result<()> {
    let mut bytes = [0; 1 << 12];
    while guest.stream.read(&mut bytes)? > 0 {}
    Ok(())
}

/// A status of nearly 4 MiB.
fn long_status() -> FromGuest {
    let condition = Condition { part: "x".repeat(1_000), message: "y".repeat(1_000) };
    FromGuest::from(Status { conditions: vec![condition; 2_000], ..Status::default() })
}

/// The host, as a process of its own: it does nothing but give its good guest documents, one after the
/// other, and tells how long each took.
#[test]
#[ignore = "it is the host of the other test"]
fn host_of_a_crowd() {
    let work = async {
        let address = format!("{HOST}:{PORT}").parse().expect("an address");
        let options = Options { heartbeat: Duration::from_secs(1), ..Options::on(address, host_identity()) };
        let host = Host::listen(options).await.expect("a port");
        let mut events = host.events();
        host.admit(&guest(), admission());
        let long = Tables::new(names(60_000, 0)).expect("they are good");
        for (name, _) in ADMITTED {
            let bad: GuestId = name.parse().expect("an id");
            host.admit(&bad, admission());
            if name == "deaf" {
                drop(host.share_names(&bad, &long));
            }
        }
        println!("{}", json!({ "pin": host_identity().pin() }));
        let rounds = async {
            for round in 0.. {
                let began = Instant::now();
                host.update_names(&guest(), names(200, round % 200)).await.expect("they are good");
                let hostname = format!("round-{round}");
                host.apply(&guest(), state(&hostname, 100)).await.expect("it is good");
                println!(
                    "{}",
                    json!({ "ms": u64::try_from(began.elapsed().as_millis()).expect("not that long"),
                            "turned_away": host.turned_away() })
                );
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let told = async {
            loop {
                match events.recv().await {
                    Ok(event) => {
                        if let EventKind::Disconnected { reason } = event.kind {
                            println!("{}", json!({ "guest": event.guest, "ended": reason }));
                        }
                    }
                    Err(error) => println!("{}", json!({ "lost": error.to_string() })),
                }
            }
        };
        tokio::join!(rounds, told);
    };
    runtime().block_on(work);
}

/// Starts it in `space`.
fn start(space: &Space) -> (Process, tether_host::Pin) {
    let mut command = space.command(std::env::current_exe().expect("this program"));
    command.args(["--exact", "crowd::host_of_a_crowd", "--ignored", "--nocapture"]);
    let mut host = Process::start(command);
    let pin = host.next_json("the host", |line| line["pin"].is_string());
    let pin = pin["pin"].as_str().and_then(|pin| pin.parse().ok()).expect("a pin");
    (host, pin)
}

/// How much memory a process has, in KiB.
fn memory(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

/// What it has said that is JSON and has this key.
fn said(process: &Process, key: &str) -> Vec<Value> {
    let lines = process.lines();
    let values = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    values.filter(|value| !value[key].is_null()).collect()
}

#[test]
fn bad_guests_cost_the_good_one_nothing_and_the_host_little() {
    let (street, machine) = (Street::new(), Machine::new());
    street.joined_by(&machine.space, "ens9", MAC);
    let outside = street.neighbour(HOST_MAC, HOST);
    let elsewhere = street.neighbour("02:7e:00:00:00:66", "10.99.0.66");
    let (host, pin) = start(&outside);
    let _tether = machine.agent_of(pin);
    wait_for("some rounds", || (said(&host, "ms").len() >= 5).then_some(()));
    let (quiet, before) = (said(&host, "ms").len(), memory(&host));

    let began = Instant::now();
    for (name, badness) in ADMITTED {
        let mut bad = FalseGuest::new(connect(&elsewhere, HOST, PORT), &Key::new());
        let welcome = bad.greet(name, admission().token).expect("the host answers");
        assert!(matches!(welcome, FromHost::Welcome(_)), "{name}: {welcome:?}");
        // Those that are not ended before end with the host.
        thread::spawn(move || badness(&mut bad));
    }
    let strangers = STRANGERS.map(|(name, badness)| {
        let mut stream = connect(&elsewhere, HOST, PORT);
        let ends = thread::spawn(move || {
            let began = Instant::now();
            // How it was ended is all one.
            let _ = badness(&mut stream);
            began.elapsed()
        });
        (name, ends)
    });
    let mut most = before;
    while began.elapsed() < CROWD {
        most = most.max(memory(&host));
        thread::sleep(Duration::from_millis(50));
    }
    let rounds: Vec<u64> = said(&host, "ms").iter().filter_map(|line| line["ms"].as_u64()).collect();
    let (alone, among) = rounds.split_at(quiet);
    println!("alone {alone:?} ms, among them {among:?} ms; memory {before} KiB, then {most} KiB");
    assert!(among.len() > 10 && among.iter().all(|ms| *ms < ORDINARY), "{among:?}");
    assert_eq!(said(&host, "lost"), Vec::<Value>::new());
    assert!(most < before + EACH * GREEDY, "{before} KiB, then {most} KiB");
    // Who breaks a rule is ended by it.
    let ended = said(&host, "ended");
    for (name, why) in [
        ("garbage", "not a frame"),
        ("malformed", "Status"),
        ("slow", "the guest was silent for 3s"),
        ("deaf", "the guest does not read"),
    ] {
        let its = ended.iter().find(|line| line["guest"] == name);
        assert!(its.is_some_and(|line| line["ended"].to_string().contains(why)), "{name}: {its:?}");
    }
    // Who floods is only slowed down; and the good one was there all the time.
    for name in ["pings", "statuses", "hollow", "events", GUEST] {
        assert!(ended.iter().all(|line| line["guest"] != name), "{ended:?}");
    }
    for (name, ends) in strangers {
        let after = ends.join().expect("no panic");
        assert!(after < CROWD, "{name} was there for {after:?}");
    }
    let turned_away = turned_away(&host);
    assert!(turned_away >= 3, "{turned_away}");
}

/// How many the host has turned away.
fn turned_away(host: &Process) -> u64 {
    let rounds = said(host, "turned_away");
    rounds.last().and_then(|line| line["turned_away"].as_u64()).unwrap_or_default()
}
