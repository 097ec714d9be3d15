//! Tables that change a hundred times a second: tether's by its host, as they do in earnest, those
//! of the others by their files and SIGHUP.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tether_host::{GuestId, Host, Options, state::DesiredState};
use tether_tests::{DEADLINE, Space, admission, host_identity};
use tokio::{
    runtime::Builder,
    time::{interval, timeout},
};

use crate::tables::Table;

const PERIOD: Duration = Duration::from_millis(10);

/// A thread that changes one server's table while it is told to.
pub(crate) struct Changes {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    going: AtomicBool,
    over: AtomicBool,
    made: AtomicU64,
}

impl Changes {
    /// Writes the table to a file again and again, as `spell` spells it, and has the process read
    /// it.
    pub(crate) fn by_file(path: &Path, spell: fn(&Table) -> String, process: u32, mut table: Table) -> Self {
        let path = path.to_owned();
        Self::start(move |shared| {
            let (mut round, mut due) = (0, Instant::now());
            while !shared.over.load(Relaxed) {
                due += PERIOD;
                sleep(due.saturating_duration_since(Instant::now()));
                if !shared.going.load(Relaxed) {
                    due = Instant::now();
                    continue;
                }
                table.replace_one(round);
                round += 1;
                replace(&path, &spell(&table));
                // One that has ended is noticed by what it no longer answers.
                let _ = kill(Pid::from_raw(process.cast_signed()), Signal::SIGHUP);
                shared.made.fetch_add(1, Relaxed);
            }
        })
    }

    fn start(change: impl FnOnce(&Shared) + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        Self { shared, thread: Some(spawn(move || change(&its))) }
    }

    /// Does `what` while the table changes, and says how often it changed in a second.
    pub(crate) fn during<T>(&self, what: impl FnOnce() -> T) -> (T, f64) {
        let (began, before) = (Instant::now(), self.shared.made.load(Relaxed));
        self.shared.going.store(true, Relaxed);
        let outcome = what();
        self.shared.going.store(false, Relaxed);
        let made = self.shared.made.load(Relaxed) - before;
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let rate = made as f64 / began.elapsed().as_secs_f64();
        (outcome, rate)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it has panicked, that has been told.
            let _ = thread.join();
        }
    }
}

/// A file is read while it is written: the new one takes the old one's place at once. It is made
/// one directory up, since aardvark-dns reads everything in its own.
fn replace(path: &Path, text: &str) {
    let mut next: PathBuf = path.parent().and_then(Path::parent).expect("it is further down").to_owned();
    next.push(format!("tether-bench-{}", std::process::id()));
    fs::write(&next, text).expect("a file");
    fs::rename(&next, path).expect("in its place");
}

/// A host that has one guest and its names.
pub(crate) struct Hosted {
    changes: Changes,
    port: u16,
    ready: Receiver<()>,
}

impl Hosted {
    pub(crate) const GUEST: &str = "bench";

    /// Starts a host at `address` in `space`, which gives its guest these names when it comes.
    pub(crate) fn start(space: &Space, address: Ipv4Addr, table: Table) -> Self {
        let network = File::open(format!("/proc/{}/ns/net", space.id())).expect("its network namespace");
        let ((tell_port, port), (tell_ready, ready)) = (channel(), channel());
        let changes = Changes::start(move |shared| {
            setns(network, CloneFlags::CLONE_NEWNET).expect("root");
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let address = SocketAddr::from((address, 0));
            runtime.block_on(serve(shared, address, table, &tell_port, &tell_ready));
        });
        let port = port.recv_timeout(DEADLINE).expect("a host that listens");
        Self { changes, port, ready }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the guest has its names.
    pub(crate) fn into_changes(self) -> Changes {
        self.ready.recv_timeout(DEADLINE).expect("a guest that has its names");
        self.changes
    }
}

async fn serve(
    shared: &Shared,
    address: SocketAddr,
    mut table: Table,
    tell_port: &Sender<u16>,
    tell_ready: &Sender<()>,
) {
    let host = Host::listen(Options::on(address, host_identity())).await.expect("a free port");
    let guest: GuestId = Hosted::GUEST.parse().expect("a good one");
    host.admit(&guest, admission());
    let _ = tell_port.send(host.address().port());
    let applied = timeout(DEADLINE, host.apply(&guest, DesiredState::default())).await;
    applied.expect("an answer in time").expect("nothing is wrong with nothing");
    let given = timeout(DEADLINE, host.update_names(&guest, table.names())).await;
    given.expect("an answer in time").expect("good names");
    let _ = tell_ready.send(());

    let mut ticks = interval(PERIOD);
    let mut round = 0;
    while !shared.over.load(Relaxed) {
        ticks.tick().await;
        if !shared.going.load(Relaxed) {
            ticks.reset();
            continue;
        }
        table.replace_one(round);
        round += 1;
        let given = timeout(DEADLINE, host.update_names(&guest, table.names())).await;
        given.expect("an answer in time").expect("good names");
        shared.made.fetch_add(1, Relaxed);
    }
}
