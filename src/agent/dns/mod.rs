//! The embedded DNS server, on 127.0.0.11 and where else the host wants it.
//!
//! Each address has a thread for UDP, so that an answer never waits for a configuration: it takes
//! what has come in one system call, answers local names (`answer`) and what is known already
//! (`cache`), and sends that in another. Everything else goes to one more thread: TCP clients
//! (`stream`) and questions for others (`relay`). Sockets live as long as they are wanted; names
//! and settings are changed under them.

mod answer;
mod asking;
mod batch;
mod cache;
mod client;
mod counters;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod health;
mod holder;
mod listener;
mod packet;
mod relay;
mod relayed;
mod settings;
mod stream;
mod tls;
mod upstream;
mod writer;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use socket2::Socket;
use tether_wire::{
    names::CheckedChange,
    status::{Digest, DnsCounters},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
};

use crate::names::{Gap, Names};
use answer::{Outcome, answer};
use batch::Batch;
use client::Client;
use counters::Counters;
use listener::Listener;
use packet::{Code, Query};
use relay::{Relay, Waiting};
use stream::Place;

pub use settings::{Route, ServerAddress, Settings};

/// Questions on their way from the UDP threads to the relay.
const HANDED_OVER: usize = 1_024;

/// The server, as the rest of the agent sees it.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    runtime: Handle,
    listeners: Vec<Listener>,
}

/// What all threads of the server share.
#[derive(Debug)]
struct Shared {
    names: RwLock<Names>,
    relay: Arc<Relay>,
    /// To the relay's thread.
    questions: mpsc::Sender<Waiting>,
    keep_own_names: AtomicBool,
    turn: AtomicU32,
    counters: Arc<Counters>,
    /// Why it does not listen somewhere.
    conditions: Mutex<BTreeMap<IpAddr, String>>,
    changed: Notify,
}

impl Server {
    /// Starts the server's threads, which listen where `settings` say. A port that is taken is a
    /// [condition](Self::condition) and tried again; an error here means that there is no thread.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let relay = Arc::new(Relay::new(Arc::clone(&counters)));
        let (questions, taken) = mpsc::channel(HANDED_OVER);
        let shared = Arc::new(Shared {
            names: RwLock::default(),
            relay: Arc::clone(&relay),
            questions,
            keep_own_names: AtomicBool::new(false),
            turn: AtomicU32::new(0),
            counters,
            conditions: Mutex::default(),
            changed: Notify::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("dns relay".to_owned())
            .spawn(move || runtime.block_on(take_questions(taken, relay)))?;
        let mut server = Self { shared, runtime: handle, listeners: Vec::new() };
        server.configure(settings)?;
        Ok(server)
    }

    /// Answers by these names from now on. No socket closes and no query is lost.
    pub fn set_names(&mut self, names: Names) {
        let before = std::mem::replace(&mut *self.names(), names);
        // It may be a large one: nobody has to wait until it is gone.
        drop(before);
    }

    /// Makes these changes to the names if they lead to names of this digest, and none otherwise.
    pub fn change_names(&mut self, changes: &[CheckedChange], digest: &Digest) -> Result<(), Gap> {
        // Nobody else changes them in between.
        let steps = {
            let names = self.shared.names.read().unwrap_or_else(PoisonError::into_inner);
            names.steps(changes, digest)?
        };
        self.names().step(steps);
        Ok(())
    }

    /// Behaves like this from now on. What listens, and goes on listening there, is not touched.
    /// An error means that there is no thread for an address.
    pub fn configure(&mut self, settings: &Settings) -> io::Result<()> {
        self.shared.keep_own_names.store(settings.keep_own_names, Relaxed);
        self.shared.relay.configure(settings);
        self.listeners.retain(|listener| settings.listen.contains(&listener.address()));
        for address in &settings.listen {
            if self.listeners.iter().all(|listener| listener.address() != *address) {
                let shared = Arc::clone(&self.shared);
                self.listeners.push(Listener::start(*address, shared, self.runtime.clone())?);
            }
        }
        Ok(())
    }

    /// Forgets what upstreams have answered.
    pub fn flush_cache(&self) {
        self.shared.relay.flush();
    }

    /// What it has done so far.
    pub fn counters(&self) -> DnsCounters {
        self.shared.counters.values()
    }

    /// Waits until the [condition](Self::condition) has changed. One caller at a time.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Why it does not listen somewhere, if it does not.
    pub fn condition(&self) -> Option<String> {
        let conditions = self.shared.conditions();
        let all: Vec<&str> = conditions.values().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn names(&self) -> std::sync::RwLockWriteGuard<'_, Names> {
        self.shared.names.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the questions of the UDP threads, for ever.
async fn take_questions(mut questions: mpsc::Receiver<Waiting>, relay: Arc<Relay>) {
    while let Some(question) = questions.recv().await {
        relay.take(question);
    }
}

impl Shared {
    /// Has everything answered that was received.
    fn answer_batch(&self, batch: &mut Batch, socket: &Arc<Socket>) {
        // Once for all of them: whoever changes the names waits for a fraction of a millisecond.
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        batch.answer(|packet, asker, out| {
            let query = match self.decide(&names, packet, true, out) {
                Decided::Reply(length) => return length,
                Decided::Ignore => return 0,
                Decided::Ask(query) => query,
            };
            let Some(address) = asker.address() else { return 0 };
            let client = Client::Udp(Arc::downgrade(socket), address);
            if self.questions.try_send(Waiting { packet: packet.into(), client }).is_ok() {
                return 0;
            }
            self.counters.dropped.add();
            self.counters.failed.add();
            answer::without_records(&query, true, Code::ServFail, out)
        });
    }

    /// Answers a question of a TCP client, now or later. `false` when it is not one.
    fn answer_on_stream(&self, packet: Vec<u8>, place: Place) -> bool {
        let decided = client::write(|out| {
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            match self.decide(&names, &packet, false, out) {
                Decided::Reply(length) => Some(Some(out[..length].to_vec())),
                Decided::Ask(_) => Some(None),
                Decided::Ignore => None,
            }
        });
        match decided {
            Some(Some(answer)) => place.send(&answer),
            Some(None) => self.relay.take(Waiting { packet: packet.into(), client: Client::Tcp(place) }),
            None => return false,
        }
        true
    }

    /// Decides about a packet, and answers it in `out` if that needs nobody else.
    fn decide<'p>(&self, names: &Names, packet: &'p [u8], udp: bool, out: &mut [u8]) -> Decided<'p> {
        self.counters.queries.add();
        let turn = self.turn.fetch_add(1, Relaxed);
        match answer(names, packet, udp, turn, self.keep_own_names.load(Relaxed), out) {
            Outcome::Reply(length) => {
                self.counters.local.add();
                Decided::Reply(length)
            }
            Outcome::Ignore => {
                self.counters.ignored.add();
                Decided::Ignore
            }
            Outcome::Forward(query) => {
                if let Some(length) = self.relay.find_in_cache(&query, udp, Instant::now(), out) {
                    self.counters.cached.add();
                    return Decided::Reply(length);
                }
                self.counters.forwarded.add();
                Decided::Ask(query)
            }
        }
    }

    fn set_condition(&self, address: IpAddr, condition: Option<String>) {
        let mut conditions = self.conditions();
        if conditions.get(&address) == condition.as_ref() {
            return;
        }
        match condition {
            Some(condition) => {
                conditions.insert(address, condition.clone());
                drop(conditions);
                tracing::warn!("DNS {condition}");
            }
            None => drop(conditions.remove(&address)),
        }
        self.changed.notify_one();
    }

    fn conditions(&self) -> MutexGuard<'_, BTreeMap<IpAddr, String>> {
        // Nothing panics while it is held.
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of a packet.
enum Decided<'p> {
    /// So many bytes of the buffer are the answer.
    Reply(usize),
    /// Somebody else has to be asked.
    Ask(Query<'p>),
    /// It is no question.
    Ignore,
}
