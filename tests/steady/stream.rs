//! A TCP connection over the bridge NIC, while the agent is killed and started again.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tether_tests::Space;

use crate::machine::{Machine, addresses, state};

/// How long nothing may come: far less than what TCP needs to give up, far more than a loaded
/// machine needs.
const STALL: Duration = Duration::from_secs(3);
/// Numbers in one piece of the stream.
const PIECE: usize = 512;

/// Moves this thread into the network of a space.
fn enter(space: u32) {
    let namespace = File::open(format!("/proc/{space}/ns/net")).expect("its namespace");
    setns(namespace, CloneFlags::CLONE_NEWNET).expect("allowed");
}

/// A connection that numbers go through, there and back: each end counts.
struct Traffic {
    stop: Arc<AtomicBool>,
    sender: thread::JoinHandle<u64>,
    reader: thread::JoinHandle<(u64, Duration)>,
}

impl Traffic {
    fn start(from: &Space, to: &Space, address: &'static str) -> Self {
        let (from, to) = (from.id(), to.id());
        let (ready, listens) = std::sync::mpsc::channel();
        // The other end sends back what comes.
        thread::spawn(move || {
            enter(to);
            let listener = TcpListener::bind(address).expect("a port");
            ready.send(()).expect("somebody waits");
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..length]).expect("the connection lives");
            }
        });
        listens.recv().expect("it listens");
        let connect = move || {
            enter(from);
            TcpStream::connect(address).expect("a connection")
        };
        let stream = thread::spawn(connect).join().expect("a connection");
        let mut back = stream.try_clone().expect("a descriptor");
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let (mut stream, mut number) = (stream, 0_u64);
            while !flag.load(Relaxed) {
                let piece: Vec<u8> = (0..PIECE).flat_map(|n| (number + n as u64).to_be_bytes()).collect();
                stream.write_all(&piece).expect("the connection lives");
                number += PIECE as u64;
                thread::sleep(Duration::from_millis(2));
            }
            stream.shutdown(std::net::Shutdown::Write).expect("the connection lives");
            number
        });
        let reader = thread::spawn(move || {
            let (mut number, mut last, mut longest) = (0_u64, Instant::now(), Duration::ZERO);
            let mut bytes = [0; 8];
            loop {
                match back.read_exact(&mut bytes) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                    Err(error) => panic!("after {number} numbers: {error}"),
                }
                assert_eq!(u64::from_be_bytes(bytes), number, "every byte, in order");
                number += 1;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            (number, longest)
        });
        Self { stop, sender, reader }
    }

    /// Ends it. How many numbers went there and back, and the longest time without one.
    fn end(self) -> (u64, Duration) {
        self.stop.store(true, Relaxed);
        let sent = self.sender.join().expect("the sender ends well");
        let (back, longest) = self.reader.join().expect("the reader ends well");
        assert_eq!(sent, back, "no byte is lost");
        (sent, longest)
    }
}

/// The first NIC's one address is always the same; everything else depends on `n`.
fn busy(n: u32) -> Value {
    let eth0 = json!({
        "addresses": addresses(&["172.18.0.2/16", &format!("172.18.1.{n}/16"), &format!("fd00:18::{n}/64")]),
        "routes": [{ "destination": "0.0.0.0/0", "gateway": format!("172.18.0.{}", 10 + n % 2) },
                   { "destination": format!("10.{n}.0.0/16"), "gateway": "172.18.0.1" }] });
    let eth1 = json!({ "mtu": 1300 + n, "addresses": addresses(&[&format!("172.19.0.{n}/16")]),
        "ipv4": { "rp_filter": n % 3 } });
    let rest = json!({ "rules": [{ "priority": 1000 + n, "from": "172.19.0.0/16", "table": 254 }] });
    state(&[(0, eth0), (1, eth1)], rest)
}

#[test]
fn a_connection_lives_through_twenty_restarts_systemd_40510() {
    let machine = Machine::new(2);
    let mut agent = machine.with_state(&busy(2));
    agent.verified();
    let traffic = Traffic::start(&machine.inside, &machine.outside, "172.18.0.1:7007");
    let mut interrupted = 0;
    for n in 3..23 {
        // Out of the blue, or in the middle of a change.
        agent.process.kill();
        if n % 2 == 0 {
            let mut half = machine.with_fault(&busy(n), Some(&format!("kill:{}", n / 2)));
            tether_tests::wait_for("the agent's end", || half.process.has_ended().then_some(()));
            interrupted += 1;
        }
        let next = if n % 4 == 0 { n } else { n - 1 };
        agent = machine.with_state(&busy(next));
        agent.verified();
    }
    assert_eq!(interrupted, 10);
    let (numbers, longest) = traffic.end();
    println!("20 restarts: {} KiB there and back, longest silence {longest:?}", numbers * 8 / 1024);
    assert!(numbers > 10_000, "only {numbers}: the connection was idle");
    assert!(longest < STALL, "nothing came for {longest:?}");
}
