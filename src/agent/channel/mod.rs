//! The tether from the guest's side: dial, authenticate, greet, carry messages, notice silence, come back.
//!
//! It knows nothing of routes or names: messages come out of [`Channel::recv`], and what goes
//! in is sent when there is a host to send it to. Everything above `carrier` takes any byte
//! stream, and everything above `tls` need not be TLS.

mod backoff;
mod carrier;
mod dial;
mod generation_id;
mod identity;
mod session;
mod tls;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tether_wire::{
    boot::Way,
    message::{Event, EventKind, Exit, FromGuest, FromHost},
    protocols::Protocols,
    status::{Stamp, Status},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
};

use crate::{management::Namespace, report};
use backoff::Backoff;
use carrier::Carrier;
use generation_id::GenerationId;

pub use identity::{Identity, IdentityError};

/// How many messages wait in each direction. The host sends few and waits for answers; replies
/// are one for each of its messages.
const QUEUE: usize = 64;

/// A connection that lived this long was a good one: the next is tried without delay.
const GOOD: Duration = Duration::from_secs(5);

/// The agent's end of the channel.
#[derive(Debug)]
pub struct Channel {
    inbox: mpsc::Receiver<Incoming>,
    outbox: mpsc::Sender<Outgoing>,
    state: watch::Sender<State>,
    shared: Arc<Shared>,
}

/// What the agent's end and the sessions share.
#[derive(Debug, Default)]
struct Shared {
    /// The number of the connection that is up, 0 when none is.
    connection: AtomicU64,
    /// Frames of unknown type or version.
    skipped: AtomicU64,
    /// Events that were dropped.
    dropped: AtomicU64,
}

/// A message and the connection it came by.
#[derive(Debug)]
pub struct Incoming {
    /// The connection: answers are for nobody else.
    pub connection: u64,
    /// What the host says.
    pub message: FromHost,
}

/// A message to the host.
#[derive(Debug)]
struct Outgoing {
    /// The connection it is for, `None` for whoever listens.
    connection: Option<u64>,
    message: FromGuest,
}

/// What the host is told at every connection, or as soon as it changes: the newest replaces
/// what was not sent yet.
#[derive(Clone, Debug, Default)]
struct State {
    applied: Option<Stamp>,
    names: Option<Stamp>,
    status: Option<Arc<Status>>,
    exit: Option<Exit>,
    exit_seen: bool,
}

impl Channel {
    /// Starts to dial the host by `way` as `identity`, for as long as the process lives: in a thread
    /// of its own, in `namespace` if there is one. Once this machine is a copy of the one that had
    /// that identity, `anew` makes another; without one there is no tether any more.
    pub fn start(
        identity: Identity,
        way: Way,
        namespace: Option<Arc<Namespace>>,
        mut anew: impl FnMut() -> Result<Identity, IdentityError> + Send + 'static,
    ) -> io::Result<Self> {
        let (channel, session) = Self::new(identity);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (begun, has_begun) = std::sync::mpsc::channel();
        let thread = move || {
            let entered = namespace.map_or(Ok(()), |namespace| namespace.enter());
            let carrier = {
                let _context = runtime.enter();
                entered.and_then(|()| Carrier::new(way))
            };
            match carrier {
                Ok(carrier) => {
                    drop(begun.send(Ok(())));
                    tracing::debug!("the host is at {carrier}");
                    runtime.block_on(async {
                        let generation = GenerationId::watch();
                        let copied = async || {
                            generation.changed().await;
                            anew()
                        };
                        keep_connected(session, || carrier.connect(), copied).await;
                    });
                }
                Err(error) => drop(begun.send(Err(error))),
            }
        };
        thread::Builder::new().name("channel".to_owned()).spawn(thread)?;
        has_begun.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok(channel)
    }

    /// As [`start`](Self::start), in a task, over streams that `connect` makes, one after the
    /// other; or it says in one line what stands in the way. It may take its time, but not for ever.
    pub fn over<S, F>(identity: Identity, connect: impl FnMut() -> F + Send + 'static) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Result<S, String>> + Send + 'static,
    {
        let (channel, session) = Self::new(identity);
        tokio::spawn(keep_connected(session, connect, std::future::pending));
        channel
    }

    /// Both ends of what the agent says and hears.
    fn new(identity: Identity) -> (Self, session::Session) {
        let (to_agent, inbox) = mpsc::channel(QUEUE);
        let (outbox, from_agent) = mpsc::channel(QUEUE);
        let (state, watched) = watch::channel(State::default());
        let shared = Arc::new(Shared::default());
        let session = session::Session {
            identity,
            protocols: Protocols::SPOKEN,
            boot_id: report::boot_id(),
            number: 0,
            inbox: to_agent,
            outbox: from_agent,
            kept: VecDeque::new(),
            state: watched,
            shared: Arc::clone(&shared),
        };
        (Self { inbox, outbox, state, shared }, session)
    }

    /// The next thing the host says. What an earlier connection left behind is dropped: its host
    /// may be another by now, and has counted anew. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Incoming> {
        loop {
            let incoming = self.inbox.recv().await?;
            if incoming.connection == self.shared.connection.load(Relaxed) {
                return Some(incoming);
            }
        }
    }

    /// Answers what came by `connection`. Waits while the queue is full; dropped once that
    /// connection is gone.
    pub async fn reply(&self, connection: u64, message: impl Into<FromGuest>) {
        let outgoing = Outgoing { connection: Some(connection), message: message.into() };
        // The session task lives as long as the process.
        let _ = self.outbox.send(outgoing).await;
    }

    /// Tells the host of something that happened. Dropped, and counted, when the host does not
    /// keep up.
    pub fn event(&self, kind: EventKind) {
        let dropped = self.shared.dropped.load(Relaxed);
        self.tell(Event { uptime_ms: report::uptime_ms(), dropped, kind });
    }

    /// Tells the host something that it has not asked, now or when it is back. Dropped, and
    /// counted, when the host does not keep up.
    pub fn tell(&self, message: impl Into<FromGuest>) {
        let outgoing = Outgoing { connection: None, message: message.into() };
        if self.outbox.try_send(outgoing).is_err() {
            self.shared.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Reports the guest's status, in place of any that was not sent yet, and remembers what is
    /// in force for the next greeting.
    pub fn report(&self, status: Status) {
        self.state.send_modify(|state| {
            state.applied = status.applied;
            state.names = status.names;
            state.status = Some(Arc::new(status));
        });
    }

    /// Remembers what is in force for the next greeting.
    pub fn in_force(&self, applied: Option<Stamp>, names: Option<Stamp>) {
        self.state.send_if_modified(|state| {
            (state.applied, state.names) = (applied, names);
            false
        });
    }

    /// Tells the host how the workload ended, again at each connection until it has been seen.
    pub fn exited(&self, exit: Exit) {
        self.state.send_modify(|state| state.exit = Some(exit));
    }

    /// Notes that the host knows of the workload's end.
    pub fn exit_seen(&self) {
        self.state.send_modify(|state| state.exit_seen = true);
    }

    /// Frames of unknown type or version so far.
    pub fn skipped_frames(&self) -> u64 {
        self.shared.skipped.load(Relaxed)
    }
}

/// Is the guest that `copied` says, once it says so: a copy of a machine must not speak by its
/// origin's key.
async fn keep_connected<S, F>(
    mut session: session::Session,
    mut connect: impl FnMut() -> F,
    mut copied: impl AsyncFnMut() -> Result<Identity, IdentityError>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<S, String>>,
{
    loop {
        let copied = tokio::select! {
            never = connect_again_and_again(&mut session, &mut connect) => match never {},
            copied = copied() => copied,
        };
        session.shared.connection.store(0, Relaxed);
        match copied {
            Ok(identity) => session.identity = identity,
            Err(error) => {
                tracing::error!("{error}; this machine is a copy, and has no tether from now on");
                return session.meanwhile(std::future::pending()).await;
            }
        }
        tracing::warn!("this machine is a copy of another: its key is a new one");
    }
}

async fn connect_again_and_again<S, F>(
    session: &mut session::Session,
    connect: &mut impl FnMut() -> F,
) -> Infallible
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<S, String>>,
{
    let mut backoff = Backoff::default();
    let mut told = None;
    loop {
        let client = session.identity.client();
        let connecting = connect();
        let reaching = async move { tls::secure(connecting.await?, client).await };
        let lost = match session.meanwhile(reaching).await {
            Ok(stream) => {
                let began = Instant::now();
                let end = session.run(stream).await;
                if end.was_welcome() && began.elapsed() > GOOD {
                    backoff = Backoff::default();
                    told = None;
                }
                end.to_string()
            }
            Err(obstacle) => obstacle,
        };
        // The same trouble again and again is one line on the console.
        if told.as_ref() != Some(&lost) {
            tracing::warn!("{lost}; trying on");
            told = Some(lost);
        }
        session.meanwhile(tokio::time::sleep(backoff.next(crate::random::random()))).await;
    }
}
