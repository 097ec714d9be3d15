//! A guest and the place of its host, with a cable between them.

use std::{
    fs::{self, File},
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tempfile::TempDir;
use tether_host::{
    Admission, EventKind, GuestId, Host, Identity, JoinToken, Options, Pin, state::DesiredState,
};
use tether_tests::{DEADLINE, Process, Space, binary, wait_for};

/// The guest.
pub(crate) const GUEST: &str = "guest";
/// Where its host listens.
pub(crate) const HOST: &str = "10.99.0.1";
pub(crate) const PORT: u16 = 7373;
/// The MAC address of the guest's NIC.
pub(crate) const MAC: &str = "02:7e:00:00:00:02";

/// The two places.
pub(crate) struct Place {
    pub(crate) inside: Space,
    pub(crate) outside: Space,
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let (inside, outside) = (Space::new(), Space::new());
        let id = inside.id();
        outside.run(&format!("ip link add pm type veth peer name ens9 address {MAC} netns {id}"));
        outside.run(&format!("ip address add {HOST}/24 dev pm"));
        outside.run("ip link set pm up");
        Self { inside, outside, directory: TempDir::new().expect("a temporary directory") }
    }

    /// Starts the agent with a boot document that has these; what it logs comes with what it prints.
    pub(crate) fn agent(&self, pins: &[Pin], token: &JoinToken) -> Process {
        self.agent_in("/run/tether", pins, token)
    }

    /// The same, its key being in another directory.
    pub(crate) fn agent_in(&self, run: &str, pins: &[Pin], token: &JoinToken) -> Process {
        self.agent_with(&["--run", run], pins, token)
    }

    /// The same, with other options.
    pub(crate) fn agent_with(&self, options: &[&str], pins: &[Pin], token: &JoinToken) -> Process {
        self.start(options, &document(pins, token))
    }

    /// The same, with these addresses; without one of its own it is on the link alone.
    pub(crate) fn agent_at(&self, own: Option<&str>, host: &str, pins: &[Pin], token: &JoinToken) -> Process {
        let mut document = document(pins, token);
        document["management"]["address"] = json!(own);
        document["host"]["address"] = json!(host);
        self.start(&["--run", "/run/tether"], &document)
    }

    /// From now on the boot document has these.
    pub(crate) fn has_document(&self, pins: &[Pin], token: &JoinToken) {
        self.write(&document(pins, token));
    }

    /// The same, by another way than a NIC.
    pub(crate) fn agent_by(&self, way: &Value, pins: &[Pin], token: &JoinToken) -> Process {
        let mut host = way.clone();
        host["pins"] = json!(pins);
        let boot = json!({ "guest": GUEST, "host": host, "token": token.to_secret() });
        self.start(&["--run", "/run/tether"], &boot)
    }

    fn write(&self, boot: &Value) -> PathBuf {
        let file = self.directory.path().join("boot.json");
        fs::write(&file, boot.to_string()).expect("a file");
        file
    }

    fn start(&self, options: &[&str], boot: &Value) -> Process {
        let file = self.write(boot);
        let mut command = self.inside.command("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(binary("tether"));
        command.args(["run", "--log", "debug", "--boot"]).arg(file).args(options);
        Process::start(command)
    }

    /// A file for a program of the test.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// The boot document of a guest with a management NIC.
fn document(pins: &[Pin], token: &JoinToken) -> Value {
    json!({
        "guest": GUEST,
        "management": { "mac": MAC, "address": "10.99.0.2/24" },
        "host": { "address": HOST, "port": PORT, "pins": pins },
        "token": token.to_secret(),
    })
}

/// An admission that everybody here knows.
pub(crate) fn admission() -> Admission {
    Admission::new(Duration::from_mins(10))
}

/// A new key.
pub(crate) fn identity() -> Identity {
    Identity::generate().expect("a key")
}

/// A host program with one guest.
pub(crate) struct HostProgram {
    pub(crate) host: Host,
    events: Arc<Mutex<Vec<EventKind>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl HostProgram {
    pub(crate) fn start(place: &Place, identity: Identity, admission: Admission) -> Self {
        let address = format!("{HOST}:{PORT}").parse().expect("an address");
        Self::serving(place, Options::on(address, identity), admission, async |_| ())
    }

    /// One whose guest comes by whatever `serve` has it come by. All of it ends with this value, as if
    /// it were killed.
    pub(crate) fn serving<S: AsyncFnOnce(Host) + Send + 'static>(
        place: &Place,
        options: Options,
        admission: Admission,
        serve: S,
    ) -> Self {
        let (ready, host) = mpsc::channel();
        let (events, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (gathered, flag, id) = (Arc::clone(&events), Arc::clone(&stop), place.outside.id());
        let work = async move || {
            let host = Host::listen(options).await.expect("a port");
            let mut news = host.events();
            host.admit(&guest(), admission);
            ready.send(host.clone()).expect("somebody waits");
            let mut serving = pin!(serve(host).fuse());
            while !flag.load(Relaxed) {
                tokio::select! {
                    Ok(event) = news.recv() => gathered.lock().expect("no panic").push(event.kind),
                    () = &mut serving => {}
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
        };
        let thread = thread::spawn(move || {
            let namespace = File::open(format!("/proc/{id}/ns/net")).expect("its namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("allowed");
            runtime().block_on(work());
        });
        let host = host.recv_timeout(DEADLINE).expect("the host listens");
        Self { host, events, stop, thread: Some(thread) }
    }

    /// Everything heard so far, without the status.
    pub(crate) fn heard(&self) -> Vec<EventKind> {
        let events = self.events.lock().expect("no panic");
        events.iter().filter(|kind| !matches!(kind, EventKind::Status(_))).cloned().collect()
    }

    /// Waits for the first thing heard that is wanted.
    pub(crate) fn hears<T>(&self, what: &str, wanted: impl Fn(&EventKind) -> Option<T>) -> T {
        wait_for(what, || self.heard().iter().find_map(&wanted))
    }

    /// Waits until the guest has been let in so many times.
    pub(crate) fn lets_in(&self, times: usize) {
        wait_for("the guest", || {
            let heard = self.heard();
            let connected = heard.iter().filter(|kind| matches!(kind, EventKind::Connected(_)));
            (connected.count() >= times).then_some(())
        });
    }

    /// Waits until the guest has redeemed its token. Its key.
    pub(crate) fn enrols(&self) -> Pin {
        self.hears("an enrolment", |kind| match kind {
            EventKind::Enrolled { key } => Some(*key),
            _ => None,
        })
    }

    /// Waits until the guest knows these keys.
    pub(crate) fn is_known_by(&self, wanted: &[Pin]) {
        self.hears("keys that are noted", |kind| match kind {
            EventKind::HostKeyKept { pins } => (pins == wanted).then_some(()),
            _ => None,
        });
    }

    /// Wants a state of the guest, and waits until it is in force.
    pub(crate) fn drives(&self, hostname: &str) {
        self.drives_state(DesiredState { hostname: hostname.to_owned(), ..DesiredState::default() });
    }

    /// The same, of any document.
    pub(crate) fn drives_state(&self, state: DesiredState) {
        let guest = guest();
        let applied = self.host.apply(&guest, state);
        let verified = runtime().block_on(async { tokio::time::timeout(DEADLINE, applied).await });
        verified.expect("an answer in time").expect("it is good");
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

fn guest() -> GuestId {
    GUEST.parse().expect("an id")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
