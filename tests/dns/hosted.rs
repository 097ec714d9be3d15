//! A container with a host: for what the agent tells of its DNS, which is in its status.

use std::{cell::Cell, fs, sync::Arc, sync::mpsc, thread::JoinHandle};

use serde_json::{Value, json};
use tempfile::TempDir;
use tether_host::{
    Host, Options,
    names::NameTables,
    state::DesiredState,
    status::{DnsCounters, Status},
    value::GuestId,
};
use tether_tests::{DEADLINE, Process, Space, admission, binary, boot_document, host_identity, wait_for};
use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use crate::server::cable;

const MAC: &str = "02:7e:00:00:00:01";

/// A container that is ready for its agent.
pub(crate) struct Prepared {
    pub(crate) space: Space,
    outside: Space,
}

/// The agent and its host, which runs in the test's own process.
pub(crate) struct Hosted {
    pub(crate) space: Space,
    pub(crate) outside: Space,
    _tether: Process,
    _directory: TempDir,
    host: Host,
    guest: GuestId,
    runtime: Handle,
    /// Grows with every change of the names, so that each is one.
    turn: Cell<u32>,
    over: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hosted {
    pub(crate) fn prepare() -> Prepared {
        let (space, outside) = cable();
        outside.run(&format!("ip link add m0 type veth peer name m0 address {MAC} netns {}", space.id()));
        outside.run("ip address add 10.99.0.254/24 dev m0");
        outside.run("ip link set m0 up");
        Prepared { space, outside }
    }

    /// Wants this of name resolution, and waits until it is so.
    pub(crate) fn dns(&self, dns: &Value) {
        let state: DesiredState = serde_json::from_value(json!({ "dns": dns })).expect("a state");
        let applied =
            self.runtime.block_on(async { timeout(DEADLINE, self.host.apply(&self.guest, state)).await });
        applied.expect("in time").expect("verified");
    }

    /// Gives it these names, and waits until it has them and has told of itself since.
    pub(crate) fn names(&self, names: &Value) {
        let mut names: NameTables = serde_json::from_value(names.clone()).expect("name tables");
        // The same names again would be no change, and nothing to tell.
        self.turn.set(self.turn.get() % 50 + 1);
        names.ttl_seconds = self.turn.get();
        let applied = self.host.update_names(&self.guest, names);
        let applied = self.runtime.block_on(async { timeout(DEADLINE, applied).await });
        let applied = applied.expect("in time").expect("taken");
        wait_for("a status", || {
            let told = self.status()?.names?;
            (told == applied.stamp).then_some(())
        });
    }

    pub(crate) fn status(&self) -> Option<Arc<Status>> {
        self.host.status(&self.guest)
    }

    /// What the server has counted up to now.
    pub(crate) fn counters(&self, names: &Value) -> DnsCounters {
        self.names(names);
        self.status().expect("a status").dns
    }
}

impl Prepared {
    /// Starts the host and the agent.
    pub(crate) fn start(self) -> Hosted {
        let guest: GuestId = "guest".parse().expect("a good one");
        let (told, ready) = mpsc::channel();
        let (over, ended) = oneshot::channel::<()>();
        let namespace = fs::File::open(format!("/proc/{}/ns/net", self.outside.id())).expect("a namespace");
        let thread = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async {
                let address = "10.99.0.254:0".parse().expect("an address");
                let host = Host::listen(Options::on(address, host_identity())).await.expect("a free port");
                told.send((host, Handle::current())).expect("somebody waits");
                // An error means the same: the test is over.
                let _ = ended.await;
            });
        });
        let (host, runtime) = ready.recv_timeout(DEADLINE).expect("a host");
        host.admit(&guest, admission());
        let directory = TempDir::new().expect("a temporary directory");
        let boot = directory.path().join("boot.json");
        let management = json!({ "mac": MAC, "address": "10.99.0.1/24" });
        let place = json!({ "address": "10.99.0.254", "port": host.address().port() });
        let document = boot_document(&guest.to_string(), &management, place);
        fs::write(&boot, document.to_string()).expect("the boot document");
        let mut command = self.space.command(binary("tether"));
        command.arg("run").arg("--boot").arg(boot).arg("--etc").arg(self.space.etc());
        command.arg("--run").arg(directory.path().join("run"));
        let tether = Process::start(command);
        Hosted {
            space: self.space,
            outside: self.outside,
            _tether: tether,
            _directory: directory,
            host,
            guest,
            runtime,
            turn: Cell::new(0),
            over: Some(over),
            thread: Some(thread),
        }
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // What it panicked of it has said.
            let _ = thread.join();
        }
    }
}
