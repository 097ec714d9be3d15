//! Drive the networking of container VMs from any Rust program.
//!
//! A [`Host`] listens on the management network, on vsock or Unix sockets, and takes serial ports and
//! any other byte stream. Guests dial in; what each of them is to have is said with [`Host::apply`] and
//! [`Host::update_names`], at any time, connected or not: the host keeps the newest document of each
//! guest and brings a guest that comes back up to date.
//!
//! ```
//! use std::time::Duration;
//! use tether_host::{
//!     Admission, ApplyError, GuestId, Host, Identity, Options,
//!     prometheus_client::{encoding::text, registry::Registry},
//!     state::{DesiredState, Interface, Match},
//! };
//! use tokio::time::timeout;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // What guests know the host by; a real host keeps it.
//! let identity = Identity::generate()?;
//! // On a management network `[fe80::1%2]:7373`, say.
//! let host = Host::listen(Options::on("127.0.0.1:0".parse()?, identity)).await?;
//! let server: GuestId = "server".parse()?;
//! let admission = Admission::new(Duration::from_mins(10));
//! // These are for the guest's boot document: where the host is, what it is known by, and what the
//! // guest is known by the first time.
//! let boot = format!(
//!     r#"{{ "guest": "{server}",
//!           "management": {{ "mac": "02:7e:00:00:00:02", "address": "127.0.0.2/8" }},
//!           "host": {{ "address": "127.0.0.1", "port": {}, "pins": ["{}"] }},
//!           "token": "{}" }}"#,
//!     host.address().port(), host.pins()[0], admission.token.to_secret().reveal(),
//! );
//! host.admit(&server, admission);
//!
//! let state = DesiredState {
//!     hostname: "server".into(),
//!     interfaces: vec![Interface {
//!         matching: Some(Match::of_mac("02:42:ac:12:00:02")),
//!         name: "eth0".into(),
//!         addresses: vec!["172.18.0.2/16".into()],
//!         ..Interface::default()
//!     }],
//!     ..DesiredState::default()
//! };
//! // Resolves when the guest has read its kernel back and found everything as desired. Until somebody
//! // boots a machine with that document there is nobody to do so: what is wanted stays wanted.
//! match timeout(Duration::from_millis(20), host.apply(&server, state)).await {
//!     Ok(Ok(verified)) => println!("in force after {} us", verified.took_us),
//!     Ok(Err(ApplyError::Failed(failed))) => println!("{:?}: {:?}", server, failed.failure.problems),
//!     Ok(Err(error)) => return Err(error.into()),
//!     Err(_) => println!("{server} is not there yet"),
//! }
//! // What is wrong in itself never gets to a guest. All of it is told at once.
//! let wrong = DesiredState { hostname: "not a name".into(), ..DesiredState::default() };
//! let Err(ApplyError::Wrong(problems)) = host.apply(&server, wrong).await else { panic!() };
//! assert_eq!(problems[0].path, "hostname");
//!
//! let (mut registry, mut numbers) = (Registry::default(), String::new());
//! host.register(&mut registry);
//! text::encode(&mut numbers, &registry)?;
//! assert!(numbers.contains("tether_guests{state=\"away\"} 1"));
//! # let document: tether_wire::boot::BootDocument = serde_json::from_str(&boot)?;
//! # assert_eq!(document.check().unwrap().guest, server);
//! # Ok(())
//! # }
//! ```
//!
//! Dropping any of the futures here is safe at any point: what was asked for stays asked for, and only
//! the answer is not heard. What is to be waited for and not heard twice is in [`Host::events`] too.
//!
//! The log (`tracing`) has a span for each connection, `guest` with the guest's id and where it is from,
//! and in it `apply` with the generation for each desired state.

#![forbid(unsafe_code)]

mod admission;
mod credit;
mod error;
mod event;
mod guest;
mod identity;
mod keys;
mod listen;
mod metrics;
mod outbox;
mod reported;
mod seldom;
mod session;
mod strangers;
mod tables;
mod tls;
mod unheard;
mod unhurried;
mod wanted;

use std::{
    collections::HashMap,
    net::{Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tether_wire::protocols::Protocols;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::broadcast,
    task::JoinSet,
};

pub use admission::Admission;
pub use error::{ApplyError, NamesError};
pub use event::{Event, EventKind, Workload};
pub use identity::{Identity, IdentityError};
pub use prometheus_client;
pub use seldom::Seldom;
pub use tables::Tables;
pub use tether_wire::{
    boot,
    identity::{JoinToken, Pin, Secret},
    message, names, problem, serial, state, status, streams,
    value::{self, GuestId},
};

use guest::{Guest, State};
use keys::Keys;
use listen::Listener;
use message::{HostKey, NamesApplied, Signal, Stop, Verified};
use metrics::Metrics;
use names::NameTables;
use session::Stranger;
use state::DesiredState;
use status::Status;
use strangers::Strangers;
use unheard::{Unheard, Weight};

/// How many lines the log has in 10 s about those who say that they are a guest, of all guests; of each
/// it has one.
const ALARMS: u32 = 20;

/// How a host listens.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where guests dial to over TCP. Port 0 takes any free one; see [`Host::address`]. `None`: there is
    /// no such port, and guests come by [`Host::listen_unix`], [`Host::listen_vsock`],
    /// [`Host::serve`] or [`Host::serve_serial`] only.
    pub address: Option<SocketAddr>,
    /// What guests know this host by.
    pub identity: Identity,
    /// How often both ends of a connection make sure of each other, 100 ms to 60 s. A guest is
    /// given up after three intervals of silence.
    pub heartbeat: Duration,
}

impl Options {
    /// Listens on `address` as `identity`, with a heartbeat of 5 s.
    pub fn on(address: SocketAddr, identity: Identity) -> Self {
        Self { address: Some(address), ..Self::without_port(identity) }
    }

    /// Has no TCP port: the host is `identity`, with a heartbeat of 5 s.
    pub fn without_port(identity: Identity) -> Self {
        Self { address: None, identity, heartbeat: Duration::from_secs(5) }
    }
}

/// A host of guests. Clones are the same host; it ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Host {
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
    /// What accepts guests, with their sessions: it ends with the last [`Host`].
    listening: Arc<Mutex<JoinSet<()>>>,
}

/// All guests, each with a lock of its own: what one of them says may be long, and takes nobody else's
/// time. A guest is locked while all of them are, never the other way round.
type Guests = HashMap<GuestId, Arc<Mutex<Guest>>>;

/// What all parts of a host share.
#[derive(Debug)]
struct Shared {
    /// What is spoken with guests.
    protocols: Protocols,
    heartbeat_ms: u32,
    guests: Mutex<Guests>,
    /// Taken while `guests` or a guest is held, never the other way round.
    keys: Mutex<Keys>,
    /// Counts connections.
    connections: AtomicU64,
    turned_away: Seldom,
    /// Those who have said who they are, and are not let in.
    refused: Seldom,
    /// Those who say that they are a guest which they are not, whichever.
    alarms: Seldom,
    /// What of all guests nobody has heard yet.
    waiting: unheard::All,
    /// What is told of strangers that nobody has heard yet.
    unheard: Mutex<Unheard>,
    /// The same of alarms.
    alarmed: Mutex<Unheard>,
    metrics: Metrics,
    events: broadcast::Sender<Event>,
}

impl Host {
    /// Starts to listen, on the current tokio runtime.
    pub async fn listen(options: Options) -> std::io::Result<Self> {
        Self::speaking(Protocols::SPOKEN, options).await
    }

    /// The same, speaking these versions of the protocol: tests have others.
    #[expect(clippy::unused_async, reason = "it is called on a runtime, and may have to wait one day")]
    async fn speaking(protocols: Protocols, options: Options) -> std::io::Result<Self> {
        let listener = options.address.map(bind).transpose()?;
        let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let heartbeat = options.heartbeat.clamp(Duration::from_millis(100), Duration::from_mins(1));
        let shared = Arc::new(Shared {
            protocols,
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(60_000),
            guests: Mutex::default(),
            keys: Mutex::new(Keys::new(options.identity)),
            connections: AtomicU64::new(0),
            turned_away: Seldom::default(),
            refused: Seldom::default(),
            alarms: Seldom::up_to(ALARMS),
            waiting: unheard::All::default(),
            unheard: Mutex::default(),
            alarmed: Mutex::default(),
            metrics: Metrics::default(),
            events: broadcast::channel(unheard::PLACES).0,
        });
        let host = Self { shared, address, listening: Arc::default() };
        if let Some(listener) = listener {
            host.add(listener);
        }
        Ok(host)
    }

    /// Where this host listens; the unspecified address and port 0 where it has no TCP port.
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
    }

    /// Lets a guest of this id in, by what is in `admission`. Others are refused.
    ///
    /// One that was admitted before is enrolled anew: what is wanted of it stays, its connection
    /// ends unless it is by the key in `admission`.
    pub fn admit(&self, guest: &GuestId, admission: Admission) {
        let record = Arc::clone(self.shared.guests().entry(guest.clone()).or_default());
        lock(&record).admit(admission);
    }

    /// The key a guest is bound to, once it has redeemed its token.
    pub fn key(&self, guest: &GuestId) -> Option<Pin> {
        self.shared.guest(guest, |guest| guest.enrolment.as_ref()?.key())?
    }

    /// The pins that boot documents are to have now.
    pub fn pins(&self) -> Vec<Pin> {
        self.shared.keys().pins()
    }

    /// Prepares for another key: guests that are connected, and those that come, are told its pin
    /// beside that of the present one. [`EventKind::HostKeyKept`] says who has noted it.
    pub fn announce(&self, next: Pin) {
        // The guests first: what is told last is what holds.
        let guests = self.shared.guests();
        let told = self.shared.keys().announce(next);
        tell_keys(&guests, &told);
    }

    /// Serves new connections with another key from now on. Those that are there stay.
    ///
    /// A guest that does not know the key refuses this host. So keep `next` for good,
    /// [`announce`](Self::announce) it, wait until every guest has noted it, then call this.
    /// Guests that are connected, and those that come, are told that it is the only one from now
    /// on; one that was not told before, and is away, stays out.
    pub fn rotate(&self, next: Identity) {
        let guests = self.shared.guests();
        let told = self.shared.keys().rotate(next);
        tell_keys(&guests, &told);
    }

    /// Forgets a guest: its connection ends, and it is not let in again.
    pub fn dismiss(&self, guest: &GuestId) {
        let gone = self.shared.guests().remove(guest);
        // Its connection ends by that, and who waits for its word hears that there will be none.
        if let Some(gone) = gone {
            *lock(&gone) = Guest::default();
        }
    }

    /// Wants `state` of `guest`, in place of whatever was wanted of it before.
    ///
    /// Resolves when the guest has verified it or has said why it cannot be. A guest that is
    /// away gets it when it comes: put a time limit around the call where waiting must end.
    pub async fn apply(&self, guest: &GuestId, state: DesiredState) -> Result<Verified, ApplyError> {
        let answer = {
            let state = State::new(&state)?;
            self.shared.guest(guest, |guest| guest.want_state(&state)).ok_or(ApplyError::Unknown)?
        };
        answer.await.unwrap_or(Err(ApplyError::Superseded)).map(Arc::unwrap_or_clone)
    }

    /// Gives `guest` these names, in place of those it had, from this call on, whoever awaits it
    /// when. Resolves when the guest answers by them.
    ///
    /// The guest is sent what has changed since the names it has, where it is known what these are.
    pub fn update_names(
        &self,
        guest: &GuestId,
        names: NameTables,
    ) -> impl Future<Output = Result<NamesApplied, NamesError>> + Send + use<> {
        let answer = Tables::new(names).map(|tables| self.share_names(guest, &tables));
        async move { answer?.await }
    }

    /// As [`update_names`](Self::update_names), with tables that several guests are given: they
    /// are checked and kept once.
    pub fn share_names(
        &self,
        guest: &GuestId,
        names: &Tables,
    ) -> impl Future<Output = Result<NamesApplied, NamesError>> + Send + use<> {
        let answer = self.shared.guest(guest, |guest| guest.want_names(names));
        async move { answer.ok_or(NamesError::Unknown)?.await.unwrap_or(Err(NamesError::Superseded)) }
    }

    /// Has a guest forget what DNS servers have answered. `false` when it is not connected.
    pub fn flush_cache(&self, guest: &GuestId) -> bool {
        self.shared.guest(guest, |guest| guest.flush_cache()).unwrap_or_default()
    }

    /// Tells a guest to end its workload, with SIGKILL after `grace`, and to power off. `false`
    /// when it is not connected.
    pub fn stop(&self, guest: &GuestId, grace: Duration) -> bool {
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        self.shared.guest(guest, |guest| guest.stop(Stop { grace_ms })).unwrap_or_default()
    }

    /// Sends the signal of this number to a guest's workload, to its first process alone. Every
    /// signal is sent, in order. `false` when the guest is not connected, or when 64 are waiting
    /// already. As with [`stop`](Self::stop): what waits when a connection ends is sent by the next one of
    /// the same boot, what was on its way may be lost.
    pub fn signal(&self, guest: &GuestId, number: i32) -> bool {
        self.shared.guest(guest, |guest| guest.signal(Signal { number })).unwrap_or_default()
    }

    /// Tells a guest that the end of its workload is noted for good, upon which it powers off.
    /// `false` when it is not connected: it will say again how the workload ended
    /// ([`EventKind::WorkloadExited`]), and asks for this again by that.
    pub fn exit_seen(&self, guest: &GuestId) -> bool {
        self.shared.guest(guest, |guest| guest.exit_seen()).unwrap_or_default()
    }

    /// The newest status of a guest, `None` before its first.
    pub fn status(&self, guest: &GuestId) -> Option<Arc<Status>> {
        self.shared.guest(guest, |guest| guest.status.clone())?
    }

    /// The newest word of a guest about its workload, `None` before its first: for a program that may
    /// have missed an event.
    pub fn workload(&self, guest: &GuestId) -> Option<Workload> {
        self.shared.guest(guest, |guest| guest.workload.clone())?
    }

    /// How many connections have ended, since this host began, before it was known who they are: no
    /// TLS or none with this host, a recorded session that was played again, garbage, nothing for
    /// 10 s, too many at one time. There is no guest to be told of; the log has a line about them
    /// every 10 s at most.
    pub fn turned_away(&self) -> u64 {
        self.shared.turned_away.count()
    }

    /// Everything that happens from now on, for all guests. A subscriber that falls 4,096 events
    /// behind loses the oldest and is told how many
    /// ([`RecvError::Lagged`](broadcast::error::RecvError::Lagged)); of one guest that says much while
    /// nobody listens the newest are dropped before that ([`Event::dropped`]). [`status`](Self::status),
    /// [`workload`](Self::workload) and [`key`](Self::key) have the newest word of whoever was not heard.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }
}

impl Shared {
    fn guests(&self) -> MutexGuard<'_, Guests> {
        lock(&self.guests)
    }

    /// Does something with what is known of a guest, under its lock; `None` where it is no guest.
    fn guest<T>(&self, id: &GuestId, something: impl FnOnce(&mut Guest) -> T) -> Option<T> {
        let record = Arc::clone(self.guests().get(id)?);
        let done = something(&mut lock(&record));
        Some(done)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        lock(&self.keys)
    }

    /// A number no connection has had before.
    fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }

    /// Turns away somebody who has not shown who they are.
    fn turn_away(&self, peer: &str, why: &dyn std::fmt::Display) {
        tracing::debug!(peer, "turned away: {why}");
        if let Some(count) = self.turned_away.another(std::time::Instant::now()) {
            tracing::warn!(count, peer, "turned away, not known who they are; the last: {why}");
        }
    }

    fn tell(&self, guest: &GuestId, kind: EventKind) {
        // Nobody listening is fine.
        let _ = self.events.send(Event { guest: guest.clone(), dropped: 0, kind, weight: None });
    }

    /// Refuses somebody who says they are this guest.
    fn refuse(&self, named: &GuestId, reason: String) {
        if let Some(count) = self.refused.another(std::time::Instant::now()) {
            tracing::warn!(count, guest = %named, "refused; the last: {reason}");
        }
        // Anybody can have much of this told: it may neither fill the log nor take guests' places.
        let place = lock(&self.unheard).another(0, false, &self.waiting);
        match place {
            Some(place) => self.pass_on(named, place, EventKind::Refused { reason }),
            None => _ = self.metrics.events_dropped.inc(),
        }
    }

    /// Refuses somebody who says they are this guest, and has not got its key.
    fn alarm(&self, named: &GuestId, reused: &Seldom, peer: &str, bound: Pin, shown: Pin) {
        let Some(count) = reused.another(std::time::Instant::now()) else {
            return;
        };
        if self.alarms.another(std::time::Instant::now()).is_some() {
            tracing::warn!(
                count, guest = %named, peer,
                "refused; the last has key {shown}, and the guest {bound}: its join token may have leaked"
            );
        }
        let kind = EventKind::IdentityReuse { peer: peer.to_owned(), bound, shown };
        let place = lock(&self.alarmed).another(0, false, &self.waiting);
        match place {
            Some((weight, dropped)) => self.pass_on(named, (weight, dropped + count - 1), kind),
            None => _ = self.metrics.events_dropped.inc(),
        }
    }

    /// Tells what a guest has said.
    fn pass_on(&self, guest: &GuestId, (weight, dropped): (Weight, u64), kind: EventKind) {
        let event = Event { guest: guest.clone(), dropped, kind, weight: Some(weight) };
        // As above; it weighs nothing then.
        let _ = self.events.send(event);
    }
}

/// What is in a mutex. No code panics while it holds one; if it did, what is in it is whole all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells every guest that is connected which keys are the host's.
fn tell_keys(guests: &Guests, told: &HostKey) {
    for guest in guests.values() {
        lock(guest).host_key(told.clone());
    }
}

/// Listens there, as `TcpListener::bind` does but for the length of the queue.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A host that was killed has left connections behind, which are no reason to wait.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(strangers::BACKLOG)
}

async fn accept(listener: impl Listener, shared: Arc<Shared>) {
    let strangers = Strangers::default();
    let failures = Seldom::default();
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        strangers.room().await;
        match listener.accept().await {
            Ok((stream, origin, peer)) => {
                // Hung up on at once where there are too many from there: a guest comes again.
                let Some(place) = strangers.enter(origin) else {
                    shared.turn_away(&peer, &"too many at one time");
                    continue;
                };
                let place = Arc::new(place);
                let held = Arc::clone(&place);
                sessions.spawn(async move {
                    tokio::time::sleep(strangers::HELD).await;
                    drop(held);
                });
                let stranger = Stranger::new(peer, Some(place));
                sessions.spawn(session::secured(stream, Arc::clone(&shared), stranger));
            }
            Err(error) => {
                // Out of file descriptors, most likely: others have to close theirs first.
                if let Some(count) = failures.another(std::time::Instant::now()) {
                    tracing::warn!(count, "cannot accept a guest: {error}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
