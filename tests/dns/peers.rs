//! The servers of others, over the same tables and the same upstream, and what they all answer.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tether_tests::{Process, Space, wait_for};

use crate::{
    answers::Message,
    client::inside,
    packet::{A, Question, RD},
    questions::{NETWORK, Sent, TABLE},
    tables::endpoint,
};

const AARDVARK: &str = "/usr/lib/podman/aardvark-dns";
/// Packets that are sent before any answer is waited for, and how long after the last answer the
/// next is waited for; and the same for those that were not answered, of which few will be. They
/// fit in a socket's queue.
const PASSES: [(usize, Duration); 2] = [(100, Duration::from_millis(80)), (250, Duration::from_secs(1))];

/// The same table, for us.
pub(crate) fn tables() -> Value {
    let endpoints: Vec<Value> =
        TABLE.iter().map(|(names, four, six)| endpoint(names, &[*four, *six].concat())).collect();
    json!({ "networks": [{ "network": NETWORK, "endpoints": endpoints }] })
}

/// dnsmasq on 127.0.0.2:5300.
pub(crate) struct Dnsmasq(Process);

impl Dnsmasq {
    pub(crate) const AT: ([u8; 4], u16) = ([127, 0, 0, 2], 5300);

    pub(crate) fn start(space: &Space, upstream: &str) -> Self {
        let mut command = space.command("dnsmasq");
        command
            .args([
                "--no-daemon",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--user=root",
                "--pid-file=",
            ])
            .args(["--listen-address=127.0.0.2", "--port=5300", "--cache-size=0", "--local-ttl=5"])
            // Not to be short of places: that is not what is compared.
            .args(["--dns-forward-max=10000"])
            .arg(format!("--server={upstream}"));
        for (names, four, six) in TABLE {
            // The first name of the first line is the one an address leads back to.
            let all: Vec<String> =
                names.iter().flat_map(|name| [(*name).to_owned(), format!("{name}.{NETWORK}")]).collect();
            let longest = four.len().max(six.len());
            for n in 0..longest {
                let addresses = [four.get(n), six.get(n)].into_iter().flatten().copied();
                let record: Vec<&str> = all.iter().map(String::as_str).chain(addresses).collect();
                command.arg(format!("--host-record={}", record.join(",")));
            }
        }
        command.stderr(Stdio::null());
        Self(Process::start(command))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

/// aardvark-dns on 127.0.0.1:5300. It goes into the background; it ends with this value.
pub(crate) struct Aardvark {
    directory: TempDir,
    _starter: Process,
}

impl Aardvark {
    pub(crate) const AT: ([u8; 4], u16) = ([127, 0, 0, 1], 5300);

    /// Its upstreams are those of `/etc/resolv.conf` in there.
    pub(crate) fn start(space: &Space) -> Self {
        assert!(Path::new(AARDVARK).exists(), "{AARDVARK} is missing: install Debian's package aardvark-dns");
        let directory = TempDir::new().expect("a temporary directory");
        let mut config = "127.0.0.1\n".to_owned();
        for (n, (names, four, six)) in TABLE.iter().enumerate() {
            let names: Vec<String> =
                names.iter().flat_map(|name| [(*name).to_owned(), format!("{name}.{NETWORK}")]).collect();
            let _ = writeln!(config, "{n:064} {} {} {}", four.join(","), six.join(","), names.join(","));
        }
        // Names are looked up among the networks of whoever asks.
        let _ = writeln!(config, "{:064} 127.0.0.1  asker", 99);
        fs::write(directory.path().join(NETWORK), config).expect("its configuration");
        let mut command = space.command(AARDVARK);
        command.arg("-c").arg(directory.path()).args(["-p", "5300", "run"]);
        command.stderr(Stdio::null());
        Self { directory, _starter: Process::start(command) }
    }
}

impl Drop for Aardvark {
    fn drop(&mut self) {
        let id = fs::read_to_string(self.directory.path().join("aardvark.pid"));
        if let Some(id) = id.ok().and_then(|id| id.trim().parse().ok()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// What somebody did about a packet.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Silence,
    Answer(Message),
    Unreadable(String),
}

/// Waits until a server answers at all.
pub(crate) fn lives(space: &Space, at: SocketAddr) {
    let socket = socket(space, at, Duration::from_millis(200));
    wait_for(&format!("a server at {at}"), || {
        socket.send(&Question::new("server", A).flags(RD).bytes()).ok()?;
        socket.recv(&mut [0; 512]).ok().map(|_| ())
    });
}

/// Sends everything to a server, and again, with more patience, what was not answered.
pub(crate) fn outcomes(space: &Space, at: SocketAddr, sent: &[Sent]) -> Vec<Outcome> {
    let mut answers = HashMap::new();
    for (batch, patience) in PASSES {
        let missing: Vec<&Sent> =
            sent.iter().filter(|sent| !answers.contains_key(&sent.question.id)).collect();
        // A socket of its own, so that what comes late does not come now.
        let socket = socket(space, at, Duration::from_millis(20));
        for batch in missing.chunks(batch) {
            ask(&socket, batch, patience, &mut answers);
        }
    }
    sent.iter().map(|sent| answers.remove(&sent.question.id).unwrap_or(Outcome::Silence)).collect()
}

fn ask(socket: &UdpSocket, batch: &[&Sent], patience: Duration, answers: &mut HashMap<u16, Outcome>) {
    let mut buffer = vec![0; 65_536];
    let mut missing = batch.len();
    for sent in batch {
        // A closed port answers the packet before this one.
        let _ = socket.send(&sent.bytes);
    }
    let mut heard = Instant::now();
    while missing > 0 && heard.elapsed() < patience {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        heard = Instant::now();
        let packet = &buffer[..length];
        let Some(id) = packet.first_chunk().copied().map(u16::from_be_bytes) else { continue };
        if !batch.iter().any(|sent| sent.question.id == id) {
            continue;
        }
        let outcome = match Message::read(packet) {
            Ok(message) => Outcome::Answer(message),
            Err(wrong) => Outcome::Unreadable(wrong),
        };
        // Some answer twice; the first counts.
        answers.entry(id).or_insert_with(|| {
            missing -= 1;
            outcome
        });
    }
}

fn socket(space: &Space, at: SocketAddr, timeout: Duration) -> UdpSocket {
    let socket = inside(space, || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect(at).expect("a way there");
        socket
    });
    socket.set_read_timeout(Some(timeout)).expect("a socket");
    socket
}
