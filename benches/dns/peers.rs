//! The contenders, each started in a space of its own with the same names and the same upstream
//! server.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tether_tests::{Process, Space, binary, boot_document, wait_for};

use crate::{
    churn::{Changes, Hosted},
    contender::{Contender, Who},
    cores,
    echo::Echo,
    outside::{Link, Outside, enter},
    results::OURS,
    tables::{GATEWAY, NETWORK, PREFIX, Table},
};

const EMBEDDED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);
/// Where Debian has it, which is not in anybody's `PATH`.
const DEBIAN: &str = "/usr/lib/podman/aardvark-dns";
/// What fits the state file of tether's, with room to spare; more comes from a host.
const IN_FILE: usize = 10_000;
/// How aardvark-dns ends the names it knows all of.
const PODMAN: &str = "dns.podman";

/// What they are all given.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) table: &'a Table,
    /// Answers of the upstream server may be kept.
    pub(crate) cache: bool,
    /// The table will change.
    pub(crate) changing: bool,
}

/// The programs to compare with; those that are not there are said so.
pub(crate) struct Peers {
    dnsmasq: Option<PathBuf>,
    aardvark: Option<PathBuf>,
    aardvark_current: Option<PathBuf>,
}

impl Peers {
    pub(crate) fn find() -> Self {
        let missing = |what: &str, path: Option<PathBuf>| {
            if path.is_none() {
                eprintln!("{what} is not installed: its lines are left out");
            }
            path
        };
        let aardvark = Some(PathBuf::from(DEBIAN)).filter(|path| path.exists());
        let current = env::var_os("AARDVARK").map(PathBuf::from).or_else(|| in_path("aardvark-dns"));
        let peers = Self {
            dnsmasq: missing("dnsmasq (dnsmasq-base)", in_path("dnsmasq")),
            aardvark: missing("Debian's aardvark-dns", aardvark),
            aardvark_current: missing(
                "the current aardvark-dns (cargo install aardvark-dns, or AARDVARK=its path)",
                current,
            ),
        };
        for program in [&peers.dnsmasq, &peers.aardvark, &peers.aardvark_current].into_iter().flatten() {
            let output = Command::new(program).arg("--version").output().expect("it can be started");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            eprintln!("{}: {}", program.display(), said.lines().next().unwrap_or("says no version"));
        }
        peers
    }

    /// Starts all of them.
    pub(crate) fn start(&self, outside: &Outside, setup: Setup) -> Vec<Contender> {
        let mut contenders = vec![tether(OURS, outside, setup)];
        contenders.extend(self.dnsmasq.as_deref().map(|program| dnsmasq(program, outside, setup)));
        let aardvarks = [("aardvark", &self.aardvark), ("aardvark_current", &self.aardvark_current)];
        for (name, program) in aardvarks {
            contenders.extend(program.as_deref().map(|program| aardvark(name, program, outside, setup)));
        }
        contenders.push(echo("echo", Echo::one_by_one));
        contenders.push(echo("echo_mmsg", |socket, core| Echo::in_batches(socket, core, |_, length| length)));
        contenders
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::home_dir().map(|home| home.join(".cargo/bin"));
    env::split_paths(&path).chain(home).map(|directory| directory.join(program)).find(|path| path.exists())
}

/// The agent that has just been built.
pub(crate) fn tether(name: &'static str, outside: &Outside, setup: Setup) -> Contender {
    let (space, directory) = (Space::new(), TempDir::new().expect("a temporary directory"));
    let link = outside.join(&space);
    let dns = json!({
        "upstreams": [link.outer.to_string()],
        "cache_kib": if setup.cache { Value::Null } else { json!(0) },
        "keep_own_names": true,
    });
    let from_host = setup.changing || setup.table.containers().len() > IN_FILE;
    let hosted = from_host.then(|| Hosted::start(&outside.space, link.outer, setup.table.clone()));
    let boot = hosted.as_ref().map_or(json!({ "guest": Hosted::GUEST }), |host| boot(&link, host));
    let (boot_file, state) = (directory.path().join("boot.json"), directory.path().join("state.json"));
    fs::write(&boot_file, boot.to_string()).expect("a file");
    let mut command = pinned(&space, &binary("tether"));
    command.arg("run").arg("--boot").arg(boot_file).arg("--run").arg(directory.path().join("run"));
    if !from_host {
        fs::write(&state, setup.table.tether(&dns)).expect("a file");
        command.arg("--state").arg(state);
    }
    let mut process = Process::start(command);
    let changes = hosted.map(Hosted::into_changes);
    if !from_host {
        let told = process.next_json("a result", |told| told["event"].is_null());
        assert!(told["verified"].is_object(), "tether: {told}");
    }
    Contender {
        name,
        suffix: NETWORK,
        server: EMBEDDED,
        client: Ipv4Addr::LOCALHOST,
        changes,
        who: Who::Program(process),
        space,
        _directory: directory,
    }
}

/// The boot document of a guest that has a host, at the outer end of the link.
fn boot(link: &Link, host: &Hosted) -> Value {
    let management = json!({ "mac": link.mac, "address": format!("{}/24", link.inner) });
    let host = json!({ "address": link.outer.to_string(), "port": host.port() });
    boot_document(Hosted::GUEST, &management, host)
}

fn dnsmasq(program: &Path, outside: &Outside, setup: Setup) -> Contender {
    let (space, directory) = (Space::new(), TempDir::new().expect("a temporary directory"));
    let link = outside.join(&space);
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, setup.table.hosts()).expect("a file");
    let mut command = pinned(&space, program);
    // As root: the files are nobody else's.
    command.args(["--keep-in-foreground", "--log-facility=/dev/null", "--user=root", "--pid-file="]);
    command.args(["--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--bind-interfaces"]);
    command.arg(format!("--listen-address={}", EMBEDDED.ip()));
    command.arg(format!("--addn-hosts={}", hosts.display()));
    command.args([format!("--local=/{NETWORK}/"), format!("--server={}", link.outer)]);
    if !setup.cache {
        command.arg("--cache-size=0");
    }
    let process = Process::start(command);
    let id = process.id();
    Contender {
        name: "dnsmasq",
        suffix: NETWORK,
        server: EMBEDDED,
        client: Ipv4Addr::LOCALHOST,
        changes: setup.changing.then(|| Changes::by_file(&hosts, Table::hosts, id, setup.table.clone())),
        who: Who::Program(process),
        space,
        _directory: directory,
    }
}

/// As podman runs it. It answers by who asks: the first container does.
fn aardvark(name: &'static str, program: &Path, outside: &Outside, setup: Setup) -> Contender {
    let (space, directory) = (Space::new(), TempDir::new().expect("a temporary directory"));
    let link = outside.join(&space);
    // On the loopback interface the whole network is this machine's.
    space.run(&format!("ip address add {GATEWAY}/{PREFIX} dev lo"));
    fs::write(space.etc().join("resolv.conf"), format!("nameserver {}\n", link.outer)).expect("a file");
    // Everything in its directory is a network.
    let networks = directory.path().join("networks");
    fs::create_dir(&networks).expect("a directory");
    let network = networks.join(NETWORK);
    fs::write(&network, setup.table.aardvark()).expect("a file");

    // It may go into the background, out of reach of the benchmark's end: a process that it
    // cannot leave the namespace of holds it.
    let mut command = space.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "taskset", "--cpu-list", &cores::SERVER.to_string()]);
    command.args(["sh", "-c", "\"$0\" --config \"$1\" --port 53 run > /dev/null 2>&1; exec sleep 600"]);
    command.arg(program).arg(&networks);
    let holder = Process::start(command);
    let server = SocketAddrV4::new(GATEWAY, 53);
    wait_for("aardvark-dns to listen", || listens(&space, server).then_some(()));
    let id = wait_for("aardvark-dns", || in_namespace(&space, program));
    Contender {
        name,
        suffix: PODMAN,
        server,
        client: setup.table.containers()[0].v4,
        changes: setup.changing.then(|| Changes::by_file(&network, Table::aardvark, id, setup.table.clone())),
        who: Who::Daemon { id, _holder: holder },
        space,
        _directory: directory,
    }
}

/// Whether somebody has the UDP port. It is looked up: to try and bind it could be in the way.
fn listens(space: &Space, server: SocketAddrV4) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{}/net/udp", space.id())).expect("the space's own");
    let address = format!(" {:08X}:{:04X} ", u32::from(*server.ip()).swap_bytes(), server.port());
    sockets.contains(&address)
}

/// The process that runs `program` in the network namespace of `space`, once it is the only one:
/// the one it was started as may wait for it first.
fn in_namespace(space: &Space, program: &Path) -> Option<u32> {
    let namespace = |id: &str| fs::read_link(format!("/proc/{id}/ns/net")).ok();
    let wanted = namespace(&space.id().to_string())?;
    let program = program.canonicalize().ok()?;
    let runs_it = |id: &u32| {
        fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe == program)
            && namespace(&id.to_string()).is_some_and(|found| found == wanted)
    };
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found: Vec<u32> = ids.filter(runs_it).collect();
    if let [id] = found[..] { Some(id) } else { None }
}

fn echo(name: &'static str, serve: impl FnOnce(UdpSocket, usize) -> Echo) -> Contender {
    let (space, directory) = (Space::new(), TempDir::new().expect("a temporary directory"));
    let socket = enter(&space, || UdpSocket::bind(EMBEDDED)).expect("a port of its own");
    Contender {
        name,
        suffix: NETWORK,
        server: EMBEDDED,
        client: Ipv4Addr::LOCALHOST,
        changes: None,
        who: Who::Echo(serve(socket, cores::SERVER)),
        space,
        _directory: directory,
    }
}

/// `program`, to be run in `space` on the server's processor.
fn pinned(space: &Space, program: &Path) -> Command {
    let mut command = space.command("taskset");
    command.args(["--cpu-list", &cores::SERVER.to_string()]).arg(program);
    command
}
