//! How long `docker run --rm busybox true` takes, part by part, and what a running host costs.
//!
//! A host of its own in a space of its own, and the real docker client. Every time is taken from
//! outside: the client's start and end, its request to start the container as it passes by on its
//! way to the host, and what process 1 says on the machine's console. Medians; `name=value` lines
//! come last.

#![allow(clippy::expect_used, reason = "a benchmark without its machines says so and ends")]

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread::{self, sleep, spawn},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tether_tests::{Process, Space, binary, docker::aim, target, wait_for};

const RUNS: usize = 7;
const PARALLEL: usize = 5;
const PARALLEL_RUNS: usize = 3;
const CONNECTS: u8 = 5;
/// How many containers run when the host's memory is looked at.
const KEPT: u32 = 5;
/// How many new containers' names a peer waits for.
const NAMES: u32 = 8;
/// How long one docker command may take, in seconds: the peer's goes on for most of the benchmark.
const PATIENCE: &str = "240";
/// How often a console and a child are looked at.
const TICK: Duration = Duration::from_millis(1);

fn main() {
    let host = Host::start();
    let mut parts = Parts::default();
    for run in 0..=RUNS {
        let part = host.run_true();
        eprintln!("run {run} of {RUNS}: {part:.0?}");
        // The first one warms caches.
        if run > 0 {
            for (values, value) in parts.0.iter_mut().zip(part) {
                values.push(value);
            }
        }
    }
    // Before many run at once: memory that was needed then would be there already.
    let before = host.resident_kib();
    let mut peer = Peer::start(&host);
    let (mut names, mut after) = (Vec::new(), 0);
    for number in 1..=NAMES {
        names.push(peer.waits_for(&host, number));
        if number + 1 == KEPT {
            after = host.resident_kib();
            eprintln!("vch: {before} KiB with none, {after} KiB with {KEPT} containers");
        }
        if number + 1 > KEPT {
            host.ok(&["rm", "--force", &Peer::name(number)]);
        }
    }
    let mut connects: Vec<f64> = (0..CONNECTS).map(|number| host.connect("peer", number)).collect();
    for number in 1..KEPT {
        host.ok(&["rm", "--force", &Peer::name(number)]);
    }
    peer.end(&host);
    let mut parallel: Vec<f64> = (0..PARALLEL_RUNS).map(|_| host.run_in_parallel()).collect();
    host.shut_down();

    let note = fs::read_to_string(target().join("vmimage/accelerator")).unwrap_or_default();
    println!("run.accelerator={}", note.lines().nth(1).unwrap_or("tcg"));
    for (name, values) in Parts::NAMES.iter().zip(&mut parts.0) {
        println!("run.{name}_ms={:.1}", median(values));
    }
    println!("run.parallel{PARALLEL}_total_ms={:.1}", median(&mut parallel));
    println!("run.connect_ms={:.1}", median(&mut connects));
    // Of so few the greatest.
    println!("run.name_visible_p99_ms={:.1}", names.into_iter().fold(0.0, f64::max));
    println!("run.vch_kib_per_container={:.0}", (f64::from(after) - f64::from(before)) / f64::from(KEPT));
}

/// The parts of runs, in milliseconds.
#[derive(Default)]
struct Parts([Vec<f64>; 6]);

impl Parts {
    const NAMES: [&str; 6] = ["total", "api", "vm_start", "verified", "workload", "cleanup"];
}

/// A host that runs.
struct Host {
    space: Space,
    vch: Process,
    directory: TempDir,
    /// When a client last asked for a container's start.
    asked: Arc<Mutex<Option<Instant>>>,
}

impl Host {
    fn start() -> Self {
        let (image, busybox) = (target().join("vmimage"), target().join("images/busybox.tar"));
        for needed in [&image.join("initramfs"), &busybox] {
            assert!(needed.exists(), "{}: use scripts/bench run", needed.display());
        }
        let directory = TempDir::new().expect("a temporary directory");
        let space = Space::new();
        let mut command = space.command(binary("vch"));
        command.arg("serve").arg("--image").arg(&image);
        command.arg("--state").arg(directory.path().join("state"));
        command.arg("--run").arg(directory.path().join("run"));
        let vch = Process::start(command);
        let host = Self { space, vch, directory, asked: Arc::default() };
        let socket = host.run_directory().join("docker.sock");
        wait_for("the Docker endpoint", || UnixStream::connect(&socket).ok());
        pass_on(&host.socket(), socket, &host.asked);
        host.ok(&["load", "--input", &busybox.display().to_string()]);
        host
    }

    fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Where clients connect: what they ask for is noted there on its way to the host.
    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let client = env::var_os("DOCKER").unwrap_or_else(|| "docker".into());
        let mut command = Command::new("timeout");
        command.args(["--foreground", PATIENCE]).arg(client).args(arguments);
        aim(&mut command, &self.socket(), self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Runs a docker command that has to succeed.
    fn ok(&self, arguments: &[&str]) {
        let status = self.docker(arguments).status().expect("docker can be started");
        assert!(status.success(), "docker {arguments:?}: {status}");
    }

    /// `docker run --rm busybox true`: how long it takes and its parts, in milliseconds.
    fn run_true(&self) -> [f64; 6] {
        *self.asked.lock().expect("no panic while it is held") = None;
        let mut console = Console::default();
        let began = Instant::now();
        let child = self.docker(&["run", "--rm", "busybox", "true"]).spawn();
        let mut child = Running(child.expect("docker can be started"));
        let status = loop {
            console.look(&self.run_directory().join("machines"));
            if let Some(status) = child.0.try_wait().expect("it is ours") {
                break status;
            }
            sleep(TICK);
        };
        let returned = Instant::now();
        assert!(status.success(), "docker run: {status}");
        let asked = self.asked.lock().expect("no panic while it is held").expect("it asks for the start");
        let opened = console.opened.expect("the machine has a console");
        eprintln!("asked for its start to QEMU's own: {:.0} ms", ms(asked, opened));
        let at = |text| console.when(text).unwrap_or_else(|| panic!("{text:?} is not on the console"));
        let (init, verified, ended) =
            (at(": process 1"), at("network verified"), at("tether: workload ended"));
        [
            ms(began, returned),
            ms(began, asked),
            ms(asked, init),
            ms(init, verified),
            ms(verified, ended),
            ms(ended, returned),
        ]
    }

    /// The same in several at once, until the last one returns.
    fn run_in_parallel(&self) -> f64 {
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| self.ok(&["run", "--rm", "busybox", "true"]));
            }
        });
        let took = ms(began, Instant::now());
        eprintln!("{PARALLEL} at once: {took:.0} ms");
        took
    }

    /// `docker network connect` until the new address answers somebody on that network.
    fn connect(&self, container: &str, number: u8) -> f64 {
        let network = format!("connected-{number}");
        let address = format!("172.30.{number}.2");
        let subnet = format!("172.30.{number}.0/24");
        self.ok(&["network", "create", "--subnet", &subnet, &network]);
        let began = Instant::now();
        self.ok(&["network", "connect", "--ip", &address, &network, container]);
        let returned = Instant::now();
        let ping = env::var("BUSYBOX").unwrap_or_else(|_| "busybox".to_owned());
        let ping = format!("{ping} ping -c 1 -W 1 {address}");
        wait_for("an answer to a ping", || self.space.output(&ping).status.success().then_some(()));
        let answered = Instant::now();
        eprintln!(
            "network connect {number}: {:.0} ms, answers after {:.0} ms",
            ms(began, returned),
            ms(began, answered)
        );
        self.ok(&["network", "disconnect", &network, container]);
        self.ok(&["network", "rm", &network]);
        ms(began, answered)
    }

    /// How much of the memory is the host program's, in KiB.
    fn resident_kib(&self) -> u32 {
        // What has just ended is forgotten.
        sleep(Duration::from_secs(1));
        let status = fs::read_to_string(format!("/proc/{}/status", self.vch.id())).expect("vch serve runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    fn shut_down(mut self) {
        let mut command = self.space.command(binary("vch"));
        command.arg("shutdown").arg("--run").arg(self.run_directory());
        assert!(command.status().expect("vch can be started").success(), "vch shutdown");
        assert!(self.vch.end().success(), "vch serve has ended well");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // After a panic machines may run, and go on when vch ends: first the one who would see
        // the others end, then whatever else is in the space.
        if !self.vch.has_ended() {
            self.vch.kill();
        }
        let network = |id: u32| fs::read_link(format!("/proc/{id}/ns/net")).ok();
        let ours = network(self.space.id());
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for id in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            if ours.is_some() && network(id) == ours {
                let _ = kill(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
            }
        }
    }
}

/// Hands everything through from clients at `here` to the host at `there`; notes when somebody
/// asks for a start.
fn pass_on(here: &Path, there: PathBuf, asked: &Arc<Mutex<Option<Instant>>>) {
    let listener = UnixListener::bind(here).expect("a socket");
    let asked = Arc::clone(asked);
    spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // A host that has ended answers nobody.
            let Ok(host) = UnixStream::connect(&there) else { continue };
            let asked = Arc::clone(&asked);
            let (Ok(to_client), Ok(from_host)) = (client.try_clone(), host.try_clone()) else { continue };
            spawn(move || {
                carry(client, host, |bytes| {
                    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
                    if line.starts_with(b"POST ") && line.windows(7).any(|part| part == b"/start ") {
                        *asked.lock().expect("no panic while it is held") = Some(Instant::now());
                    }
                })
            });
            spawn(move || carry(from_host, to_client, |_| ()));
        }
    });
}

fn carry(mut from: UnixStream, mut to: UnixStream, seen: impl Fn(&[u8])) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return to.shutdown(Shutdown::Write);
        }
        seen(&buffer[..length]);
        to.write_all(&buffer[..length])?;
    }
}

/// The console of the only machine there is, and when each of its lines came.
#[derive(Default)]
struct Console {
    file: Option<File>,
    opened: Option<Instant>,
    text: Vec<u8>,
    lines: Vec<(Instant, String)>,
}

impl Console {
    /// Reads what has been added.
    fn look(&mut self, machines: &Path) {
        if self.file.is_none() {
            let mut machines = fs::read_dir(machines).into_iter().flatten().flatten();
            self.file = machines.find_map(|entry| File::open(entry.path().join("console")).ok());
            self.opened = self.file.is_some().then(Instant::now);
        }
        // The file may be removed: what has been opened stays.
        let Some(file) = &mut self.file else { return };
        let _ = file.read_to_end(&mut self.text);
        let now = Instant::now();
        while let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            self.lines.push((now, String::from_utf8_lossy(&line).into_owned()));
        }
    }

    fn when(&self, text: &str) -> Option<Instant> {
        self.lines.iter().find(|(_, line)| line.contains(text)).map(|(at, _)| *at)
    }
}

/// A container that runs a shell, and looks for the names of others.
struct Peer {
    docker: Running,
    input: ChildStdin,
    lines: Receiver<(Instant, String)>,
}

impl Peer {
    fn start(host: &Host) -> Self {
        host.ok(&["network", "create", "peers"]);
        let mut command = host.docker(&["run", "--rm", "-i", "--net=peers", "--name=peer", "busybox", "sh"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut docker = Running(command.spawn().expect("docker can be started"));
        let (input, output) = (docker.0.stdin.take(), docker.0.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send((Instant::now(), line));
            }
        });
        let mut peer = Self { docker, input: input.expect("it is piped"), lines };
        peer.say("echo ready");
        let began = peer.heard("ready");
        peer.say(
            "for n in 0 1 2 3 4 5 6 7 8 9; do nslookup none >/dev/null 2>&1; sleep 0.01; done; echo looked",
        );
        let looked = peer.heard("looked");
        eprintln!("looking for a name takes {:.0} ms", ms(began, looked) / 10.0);
        peer
    }

    /// What the container `number` is called.
    fn name(number: u32) -> String {
        format!("new-{number}")
    }

    /// From the return of `docker run -d` until its name resolves here, in milliseconds; negative
    /// when it did before.
    fn waits_for(&mut self, host: &Host, number: u32) -> f64 {
        let name = Self::name(number);
        self.say(&format!("until nslookup {name} >/dev/null 2>&1; do sleep 0.01; done; echo found {name}"));
        host.ok(&["run", "-d", "--net=peers", "--name", &name, "busybox", "sleep", "1000"]);
        let returned = Instant::now();
        let found = self.heard(&format!("found {name}"));
        let late = if found < returned { -ms(found, returned) } else { ms(returned, found) };
        eprintln!("{name}: its name resolves {late:.0} ms after docker run -d returned");
        late
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the shell runs");
    }

    /// When it said this.
    fn heard(&self, text: &str) -> Instant {
        loop {
            let (at, line) = self.lines.recv_timeout(Duration::from_mins(1)).expect("the shell answers");
            if line == text {
                return at;
            }
        }
    }

    fn end(mut self, host: &Host) {
        self.say("exit");
        drop(self.input);
        self.docker.0.wait().expect("it is ours");
        host.ok(&["network", "rm", "peers"]);
    }
}

/// A process that ends with whoever waits for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
