//! A guest and its host with weather between them: the real agent in a namespace, the host library in
//! this program.

use std::{
    fs::{self, File},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use serde_json::json;
use tempfile::TempDir;
use tether_host::{
    Admission, EventKind, GuestId, Host, Identity, Options, Pin,
    names::{EndpointNames, NameTables, NetworkNames},
    state::{DesiredState, Interface, Match, Route},
};
use tether_tests::{DEADLINE, Process, Space, admission, binary, host_identity, wait_for};

use crate::air::Air;

/// Where the host is.
pub(crate) const HOST: &str = "10.99.0.1";
pub(crate) const PORT: u16 = 7373;
/// The MAC address of its NIC.
pub(crate) const HOST_MAC: &str = "02:7e:00:00:00:01";
/// The guest, where it is, and the MAC address of its management NIC.
pub(crate) const GUEST: &str = "guest";
pub(crate) const ITSELF: &str = "10.99.0.2";
pub(crate) const MAC: &str = "02:7e:00:00:00:02";
/// The MAC address of the NIC it is to configure.
const BRIDGE_MAC: &str = "02:42:ac:12:00:02";

/// A guest's machine: a management NIC, which somebody else plugs in, and one on a bridge network.
pub(crate) struct Machine {
    pub(crate) space: Space,
    directory: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let space = Space::new();
        space.run(&format!("ip link add ens8 address {BRIDGE_MAC} type veth peer name far"));
        space.run("ip link set far up");
        Self { space, directory: TempDir::new().expect("a temporary directory") }
    }

    /// Starts the agent; what it logs comes with what it prints.
    pub(crate) fn agent(&self) -> Process {
        self.agent_of(host_identity().pin())
    }

    /// The same, of a host with this pin.
    pub(crate) fn agent_of(&self, pin: Pin) -> Process {
        let boot = json!({
            "guest": GUEST,
            "management": { "mac": MAC, "address": format!("{ITSELF}/24") },
            "host": { "address": HOST, "port": PORT, "pins": [pin] },
            "token": admission().token.to_secret(),
        });
        let file = self.file("boot.json");
        fs::write(&file, boot.to_string()).expect("a file");
        let mut command = self.space.command("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(binary("tether"));
        command.args(["run", "--log", "debug", "--boot"]).arg(file);
        Process::start(command)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What its DNS server says to the name.
    pub(crate) fn look_up(&self, name: &str) -> String {
        let output = self.space.output(&format!("dig +short +tries=1 +time=6 @127.0.0.11 {name}"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// How many routes it has that tether has made.
    pub(crate) fn routes(&self) -> usize {
        self.space.run("ip route show via 172.18.0.1").lines().count()
    }
}

/// A machine and the place of its host, with weather between them.
pub(crate) struct Place {
    pub(crate) machine: Machine,
    pub(crate) outside: Space,
    pub(crate) air: Air,
}

impl Place {
    /// One with this MTU. Each seed is another course of the weather.
    pub(crate) fn new(mtu: u32, seed: u64) -> Self {
        let (machine, outside) = (Machine::new(), Space::new());
        let air = Air::between((&machine.space, "ens9"), (&outside, "pm"), seed);
        machine.space.run(&format!("ip link set ens9 address {MAC} mtu {mtu}"));
        outside.run(&format!("ip link set pm mtu {mtu} up"));
        outside.run(&format!("ip address add {HOST}/24 dev pm"));
        Self { machine, outside, air }
    }
}

/// A bridge on which there are a host, its guest, and others.
pub(crate) struct Street {
    space: Space,
}

impl Street {
    pub(crate) fn new() -> Self {
        let space = Space::new();
        space.run("ip link add street type bridge");
        space.run("ip link set street up");
        Self { space }
    }

    /// Gives a space a NIC on it.
    pub(crate) fn joined_by(&self, space: &Space, nic: &str, mac: &str) {
        let (id, port) = (space.id(), format!("p{}", space.id()));
        self.space.run(&format!("ip link add {port} type veth peer name {nic} address {mac} netns {id}"));
        self.space.run(&format!("ip link set {port} master street up"));
    }

    /// A space with a NIC on it that is up and has this address.
    pub(crate) fn neighbour(&self, mac: &str, address: &str) -> Space {
        let space = Space::new();
        self.joined_by(&space, "nic", mac);
        space.run(&format!("ip address add {address}/24 dev nic"));
        space.run("ip link set nic up");
        space
    }
}

/// A host program with one guest.
pub(crate) struct HostProgram {
    pub(crate) host: Host,
    events: Arc<Mutex<Vec<(Instant, EventKind)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl HostProgram {
    /// One in `space`, which every test program's guests know.
    pub(crate) fn start(space: &Space, heartbeat: Duration) -> Self {
        Self::with(space, HOST, PORT, host_identity(), heartbeat, admission())
    }

    /// The same, started again: it knows the guest's key and nothing else.
    pub(crate) fn knowing(space: &Space, heartbeat: Duration, key: Pin) -> Self {
        Self::with(space, HOST, PORT, host_identity(), heartbeat, Admission::known(key))
    }

    pub(crate) fn with(
        space: &Space,
        address: &str,
        port: u16,
        identity: Identity,
        heartbeat: Duration,
        admission: Admission,
    ) -> Self {
        let address = format!("{address}:{port}").parse().expect("an address");
        let (ready, host) = mpsc::channel();
        let (events, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (gathered, flag) = (Arc::clone(&events), Arc::clone(&stop));
        let work = async move || {
            let options = Options { heartbeat, ..Options::on(address, identity) };
            let host = Host::listen(options).await.expect("a port");
            let mut news = host.events();
            host.admit(&guest(), admission);
            ready.send(host).expect("somebody waits");
            while !flag.load(Relaxed) {
                let next = tokio::time::timeout(Duration::from_millis(50), news.recv()).await;
                if let Ok(Ok(event)) = next {
                    gathered.lock().expect("no panic").push((Instant::now(), event.kind));
                }
            }
        };
        let thread = within(space, move || runtime().block_on(work()));
        let host = host.recv_timeout(DEADLINE).expect("the host listens");
        Self { host, events, stop, thread: Some(thread) }
    }

    /// Everything heard so far, without the status.
    pub(crate) fn heard(&self) -> Vec<(Instant, EventKind)> {
        let events = self.events.lock().expect("no panic");
        events.iter().filter(|(_, kind)| !matches!(kind, EventKind::Status(_))).cloned().collect()
    }

    /// How much of what was heard is such.
    pub(crate) fn count(&self, wanted: impl Fn(&EventKind) -> bool) -> usize {
        self.heard().iter().filter(|(_, kind)| wanted(kind)).count()
    }

    /// Waits for the first thing heard that is wanted, and when it was.
    pub(crate) fn hears<T>(&self, what: &str, wanted: impl Fn(&EventKind) -> Option<T>) -> (Instant, T) {
        wait_for(what, || self.heard().iter().find_map(|(at, kind)| wanted(kind).map(|found| (*at, found))))
    }

    /// Waits until the guest has been let in so many times, and when that was.
    pub(crate) fn lets_in(&self, times: usize) -> Instant {
        wait_for("the guest", || {
            let heard = self.heard();
            let mut connected = heard.iter().filter(|(_, kind)| matches!(kind, EventKind::Connected(_)));
            connected.nth(times - 1).map(|(at, _)| *at)
        })
    }

    /// How often it was let in.
    pub(crate) fn connections(&self) -> usize {
        self.count(|kind| matches!(kind, EventKind::Connected(_)))
    }

    /// Wants `state` of the guest, and waits until it is in force.
    pub(crate) fn drives(&self, state: DesiredState) {
        let guest = guest();
        let applied = self.host.apply(&guest, state);
        let verified = runtime().block_on(async { tokio::time::timeout(DEADLINE, applied).await });
        verified.expect("an answer in time").expect("it is good");
    }

    /// Gives the guest these names, and waits until it answers by them.
    pub(crate) fn names(&self, names: NameTables) {
        let update = self.host.update_names(&guest(), names);
        let applied = runtime().block_on(async { tokio::time::timeout(DEADLINE, update).await });
        applied.expect("an answer in time").expect("they are good");
    }
}

impl Drop for HostProgram {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Does something in the network of `space`.
pub(crate) fn within<T: Send + 'static>(
    space: &Space,
    what: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let namespace = File::open(format!("/proc/{}/ns/net", space.id())).expect("its namespace");
    thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("allowed");
        what()
    })
}

pub(crate) fn guest() -> GuestId {
    GUEST.parse().expect("an id")
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A state with so many routes.
pub(crate) fn state(hostname: &str, routes: usize) -> DesiredState {
    let route = |n: usize| Route {
        destination: format!("10.{}.{}.0/24", 100 + n / 256, n % 256),
        gateway: Some("172.18.0.1".into()),
        ..Route::default()
    };
    let eth0 = Interface {
        matching: Some(Match::of_mac(BRIDGE_MAC)),
        name: "eth0".into(),
        addresses: vec!["172.18.0.2/16".into()],
        routes: (0..routes).map(route).collect(),
        ..Interface::default()
    };
    DesiredState { hostname: hostname.to_owned(), interfaces: vec![eth0], ..DesiredState::default() }
}

/// Name tables of so many endpoints, and `web`, which is the `n`th of its addresses.
pub(crate) fn names(endpoints: usize, n: usize) -> NameTables {
    let endpoint = |name: String, address: String| EndpointNames {
        names: vec![name],
        addresses: vec![address],
        ..EndpointNames::default()
    };
    let others = (0..endpoints).map(|other| {
        endpoint(format!("other-{other:05}"), format!("172.18.{}.{}", 10 + other / 250, 1 + other % 250))
    });
    let network = NetworkNames {
        network: "net".into(),
        endpoints: others.chain([endpoint("web".into(), web(n))]).collect(),
        ..NetworkNames::default()
    };
    NameTables { ttl_seconds: 5, networks: vec![network], ..NameTables::default() }
}

/// The `n`th address of `web`.
pub(crate) fn web(n: usize) -> String {
    format!("172.18.1.{}", n + 1)
}
