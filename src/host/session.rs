//! One connection from a guest, over any byte stream.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use futures_util::{SinkExt, StreamExt};
use tether_wire::{
    frame::{Frame, FrameCodec, FrameError},
    identity::Pin,
    line::{Line, STUCK, STUCK_INTERVALS, Step},
    message::{
        self, Confirm, FromGuest, FromHost, Hello, MessageError, Ping, Pong, Refused, Sender, Welcome,
        WorkloadExited,
    },
    protocols::Protocols,
    value::GuestId,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout, timeout_at},
};
use tokio_util::codec::Framed;
use tracing::{Instrument, Span};

use crate::{
    Shared,
    admission::{Entry, Refusal},
    credit::Credit,
    event::{EventKind, Workload},
    guest::{Guest, is_sane},
    lock,
    metrics::{Metrics, Reason},
    outbox::Waiting,
    reported,
    strangers::Place,
    tls,
};

/// How long a stranger may take to say who it is, from its first byte to its hello, and then to take its
/// welcome.
const PATIENCE: Duration = Duration::from_secs(10);
/// Silence of this many heartbeat intervals ends a connection.
const SILENT_INTERVALS: u32 = 3;

type Stream<S> = Framed<S, FrameCodec>;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the guest has closed it")]
    Closed,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("the guest was silent for {0:?}")]
    Silent(Duration),
    #[error("the guest does not read")]
    Stuck,
    #[error("another connection of the guest took its place, or it was dismissed")]
    Replaced,
    #[error("not greeted: the first message is no hello")]
    NoHello,
    #[error("not greeted in {PATIENCE:?}")]
    NoHelloInTime,
    #[error("{0}")]
    Refused(String),
}

/// Somebody who has not said who it is.
#[derive(Debug)]
pub(crate) struct Stranger {
    /// Where it is.
    peer: String,
    /// Until when it has to say it.
    deadline: Instant,
    /// Its place among the strangers, given back once it is known; none where a program has handed it
    /// over.
    place: Option<Arc<Place>>,
}

impl Stranger {
    pub(crate) fn new(peer: String, place: Option<Arc<Place>>) -> Self {
        Self { peer, deadline: Instant::now() + PATIENCE, place }
    }
}

/// Serves one connection, over TLS.
pub(crate) async fn secured<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    shared: Arc<Shared>,
    stranger: Stranger,
) {
    let peer = &stranger.peer;
    let server = shared.keys().server();
    match timeout_at(stranger.deadline, tls::accept(stream, server)).await {
        Ok(Ok((stream, key))) => run(stream, key, shared, stranger).await,
        Ok(Err(error)) => shared.turn_away(peer, &format_args!("no TLS: {error}")),
        Err(_) => shared.turn_away(peer, &Broken::NoHelloInTime),
    }
}

/// Serves one connection, of whoever has `key`, until it ends.
async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    key: Pin,
    shared: Arc<Shared>,
    stranger: Stranger,
) {
    let Stranger { peer, deadline, place } = stranger;
    let mut stream = Framed::new(stream, Sender::Stranger.codec());
    let (guest, hello) = match timeout_at(deadline, greet(&mut stream, key, &peer, &shared)).await {
        Ok(Ok(greeted)) => greeted,
        // Somebody who has said it, and was told why not: the host program knows.
        Ok(Err(refused @ Broken::Refused(_))) => return tracing::debug!(peer, "{refused}"),
        Ok(Err(broken)) => return shared.turn_away(&peer, &broken),
        Err(_) => return shared.turn_away(&peer, &Broken::NoHelloInTime),
    };
    drop(place);
    // From here on as long messages as any guest's.
    stream.codec_mut().expect(Sender::Guest.limit());
    let span = tracing::info_span!("guest", %guest, peer);
    converse(stream, key, guest, hello, shared).instrument(span).await;
}

/// Serves a guest that was welcomed, until its connection ends.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: Stream<S>,
    key: Pin,
    guest: GuestId,
    hello: Hello,
    shared: Arc<Shared>,
) {
    // A guest that lost its connection before it was confirmed can be heard again: so can we.
    let in_force = hello.applied.map(|stamp| Confirm { generation: stamp.generation });
    let replies = Replies { confirm: in_force, pong: None };
    let Some((mut connection, waiting)) = Connection::begin(&guest, key, hello, &shared) else {
        return;
    };
    tracing::debug!("connected");
    let mut line = Line::new(stream, now());
    let Err(broken) = carry(&mut line, &connection, &waiting, replies).await;
    // What ended it counts for the next one.
    connection.took(line.reading());
    tracing::debug!("disconnected: {broken}");
    connection.end = broken.to_string();
}

/// A guest's connection, for as long as it is served. It ends by being dropped: so it does too where
/// the host program gives it up.
///
/// Both ends of it are told under the lock, or a guest that has just come back could be told to have
/// gone after that.
struct Connection<'a> {
    guest: &'a GuestId,
    number: u64,
    shared: &'a Shared,
    /// How much the guest may say.
    credit: Arc<Mutex<Credit>>,
    /// Why it ends.
    end: String,
}

impl<'a> Connection<'a> {
    /// Takes a stream for the guest's, which it is unless the guest was dismissed or admitted anew
    /// since it was greeted.
    fn begin(guest: &'a GuestId, key: Pin, hello: Hello, shared: &'a Shared) -> Option<(Self, Waiting)> {
        let number = shared.next_connection();
        let (waiting, credit) = shared.guest(guest, |record| {
            record.enrolment.as_ref().filter(|enrolment| enrolment.key() == Some(key))?;
            if record.was_there() {
                shared.metrics.reconnects.inc();
            }
            let waiting = record.connected(number, &hello);
            pay(record);
            if let Some(told) = shared.keys().greeting() {
                record.host_key(told);
            }
            shared.tell(guest, EventKind::Connected(hello));
            Some((waiting, Arc::clone(&record.credit)))
        })??;
        let end = "the host program has given it up".to_owned();
        Some((Self { guest, number, shared, credit, end }, waiting))
    }
}

impl Connection<'_> {
    /// Spends the guest's credit for a message of so many bytes.
    fn said(&self, length: usize) {
        lock(&self.credit).said(length, now());
    }

    /// Spends it for time.
    fn took(&self, time: Duration) {
        lock(&self.credit).took(time, now());
    }

    /// Takes note of what the guest says in so many bytes, and of what it is to be answered. How long it
    /// took.
    fn take(&self, mut message: FromGuest, length: usize, replies: &mut Replies) -> Duration {
        let began = now();
        reported::shorten(&mut message);
        let shortening = now() - began;
        let took = self.shared.guest(self.guest, |record| {
            // Not how long the lock was waited for: that is others' doing.
            let began = now();
            // What an earlier connection still says is nobody's word any more.
            if !record.is_current(self.number) {
                return Duration::ZERO;
            }
            if let Some(event) = note(message, record, replies) {
                let once = matches!(event, EventKind::WorkloadExited(_));
                // Under the lock: what the guest says by its next connection is told after it.
                match record.unheard.another(length, once, &self.shared.waiting) {
                    Some(place) => self.shared.pass_on(self.guest, place, event),
                    None => _ = self.shared.metrics.events_dropped.inc(),
                }
            }
            pay(record);
            now() - began
        });
        shortening + took.unwrap_or_default()
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let end = EventKind::Disconnected { reason: std::mem::take(&mut self.end) };
        let known = self.shared.guest(self.guest, |record| {
            if record.is_current(self.number) {
                record.disconnected();
            } else if record.is_connected() {
                // A guest whose next connection came before this one's end never was away.
                return;
            }
            self.shared.tell(self.guest, end.clone());
        });
        if known.is_none() {
            self.shared.tell(self.guest, end);
        }
    }
}

/// Hears who it is and welcomes it, or says why not. The token stays with nobody.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    key: Pin,
    peer: &str,
    shared: &Shared,
) -> Result<(GuestId, Hello), Broken> {
    let frame = heard(stream.next().await)?;
    let Some(FromGuest::Hello(mut hello)) = FromGuest::from_frame(&frame)? else {
        return Err(Broken::NoHello);
    };
    let judged = judge(&hello, key, peer, shared);
    hello.token.wipe();
    match judged {
        Ok((guest, protocol)) => {
            let welcome = Welcome {
                protocol,
                host_version: env!("CARGO_PKG_VERSION").to_owned(),
                heartbeat_ms: shared.heartbeat_ms,
            };
            send(stream, welcome.into()).await?;
            Ok((guest, hello))
        }
        Err(reason) => {
            send(stream, Refused { reason: reason.clone() }.into()).await?;
            Err(Broken::Refused(reason))
        }
    }
}

/// Whether a guest is let in, and in which protocol. The host program is told of it here.
fn judge(hello: &Hello, key: Pin, peer: &str, shared: &Shared) -> Result<(GuestId, u16), String> {
    let guest: GuestId = hello.guest.parse().map_err(|error| {
        shared.metrics.refuse(Reason::Id);
        format!("{error}")
    })?;
    let refused = |(reason, words): (Reason, String)| {
        shared.metrics.refuse(reason);
        shared.refuse(&guest, words.clone());
        words
    };
    let protocol = agree(hello, shared.protocols).map_err(refused)?;
    let entry = shared.guest(&guest, |record| {
        let entry = record.enrolment.as_mut()?.enter(key, &hello.token, SystemTime::now());
        // What is told of it is told before somebody else can come as this guest.
        match entry {
            Ok(Entry::Enrolled) => shared.tell(&guest, EventKind::Enrolled { key }),
            Err(Refusal::Reuse { bound }) => {
                shared.alarm(&guest, &record.reused, peer, bound, key);
            }
            Ok(Entry::Known) | Err(Refusal::Token | Refusal::Expired) => {}
        }
        Some(entry)
    });
    let refusal = match entry.flatten() {
        Some(Ok(_)) => return Ok((guest, protocol)),
        Some(Err(refusal)) => refusal,
        None => return Err(refused((Reason::Unknown, format!("{guest} is not a guest of this host")))),
    };
    match refusal {
        Refusal::Reuse { .. } => {
            shared.metrics.refuse(Reason::Key);
            Err(refusal.to_string())
        }
        Refusal::Token => Err(refused((Reason::Token, refusal.to_string()))),
        Refusal::Expired => Err(refused((Reason::Expired, refusal.to_string()))),
    }
}

/// The protocol that both speak, with a guest that makes sense.
fn agree(hello: &Hello, spoken: Protocols) -> Result<u16, (Reason, String)> {
    let guest = Protocols { min: hello.protocol_min, max: hello.protocol_max };
    let Some(protocol) = spoken.common(guest) else {
        let words = format!("no protocol in common: the guest speaks {guest}, this host {spoken}");
        return Err((Reason::Protocol, words));
    };
    if ![hello.applied, hello.names].iter().flatten().all(is_sane) {
        let words = "a generation above 2^62, which no host has given out";
        return Err((Reason::Generation, words.to_owned()));
    }
    Ok(protocol)
}

/// A desired state on its way.
struct Applying {
    generation: u64,
    sent: Instant,
    span: Span,
}

impl Applying {
    fn sent(generation: u64) -> Self {
        let span = tracing::debug_span!("apply", generation);
        span.in_scope(|| tracing::debug!("sent"));
        Self { generation, sent: Instant::now(), span }
    }

    /// Whether a guest's word is about this one, and the last about it.
    fn hear(&self, message: &FromGuest, metrics: &Metrics) -> bool {
        let _in = self.span.enter();
        match message {
            FromGuest::Verified(verified) if verified.stamp.generation == self.generation => {
                tracing::debug!(took_us = verified.took_us, "verified");
                metrics.apply.observe(self.sent.elapsed().as_secs_f64());
                true
            }
            FromGuest::Failed(failed) if failed.generation == self.generation => {
                tracing::debug!(phase = ?failed.failure.phase, "failed");
                true
            }
            _ => false,
        }
    }
}

/// Carries messages both ways until the connection breaks.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    line: &mut Line<S>,
    connection: &Connection<'_>,
    waiting: &Waiting,
    mut replies: Replies,
) -> Result<Infallible, Broken> {
    let shared = connection.shared;
    let heartbeat = Duration::from_millis(shared.heartbeat_ms.into());
    let silence = heartbeat * SILENT_INTERVALS;
    let stuck = STUCK.max(heartbeat * STUCK_INTERVALS);
    let mut beat = interval_at(Instant::now() + heartbeat, heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut nonce = 0;
    let mut applying: Option<Applying> = None;
    loop {
        if line.is_free() {
            for reply in replies.take() {
                line.put(reply.to_frame(), now())?;
            }
        }
        let free = line.is_free();
        let (silent_at, stuck_at) = (line.silent_at(silence), line.stuck_at(stuck));
        // One that says too much is not read for a while.
        let paused = lock(&connection.credit).until(now());
        tokio::select! {
            // What has been heard counts before silence does. The end counts first, whatever is on its
            // way: a guest that takes it slowly would have as many connections as it likes.
            biased;
            () = waiting.closed() => return Err(Broken::Replaced),
            // Before what it says, of which one that floods always has more. It is sent no documents while
            // it is not read: what it says may be why they are sent.
            (frame, generation) = waiting.next(paused.is_none()), if free => {
                applying = generation.map(Applying::sent).or(applying);
                line.put(frame, now())?;
            }
            step = line.step(paused.is_none(), now) => match step.map_err(broken)? {
                Step::Closed => return Err(Broken::Closed),
                Step::Sent => {}
                Step::Heard(frame) => {
                    let (began, length) = (now(), frame.payload.len());
                    // A type or version we do not know: the guest can do without our understanding.
                    let message = FromGuest::from_frame(&frame);
                    connection.said(length);
                    connection.took(now() - began);
                    if let Some(message) = message? {
                        applying.take_if(|applying| applying.hear(&message, &shared.metrics));
                        let took = connection.take(message, length, &mut replies);
                        connection.took(took);
                    }
                }
            },
            () = sleep_until(paused.unwrap_or(silent_at).into()), if paused.is_some() => {
                line.sign_of_life(now());
            }
            // Where something is on its way already, that will be heard.
            _ = beat.tick(), if free => {
                nonce += 1;
                line.put(FromHost::from(Ping { nonce }).to_frame(), now())?;
            }
            () = sleep_until(silent_at.into()), if paused.is_none() => {
                if line.is_silent(silence, now()) {
                    return Err(Broken::Silent(silence));
                }
            }
            () = sleep_until(stuck_at.into()), if !free => {
                if now() >= line.stuck_at(stuck) {
                    return Err(Broken::Stuck);
                }
            }
        }
        connection.took(line.reading());
        // A guest that has much to say is heard one message at a time, between everybody else's.
        tokio::task::yield_now().await;
    }
}

/// What a guest is answered as soon as there is room: of each the newest.
#[derive(Debug, Default)]
struct Replies {
    pong: Option<Pong>,
    confirm: Option<Confirm>,
}

impl Replies {
    fn take(&mut self) -> impl Iterator<Item = FromHost> + use<> {
        let Self { pong, confirm } = std::mem::take(self);
        pong.map(FromHost::from).into_iter().chain(confirm.map(FromHost::from))
    }
}

/// The time, as it is in tests too.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// The next frame, or why there is none.
fn heard(frame: Option<Result<Frame, FrameError>>) -> Result<Frame, Broken> {
    frame.ok_or(Broken::Closed)?.map_err(broken)
}

/// Why a stream has failed.
fn broken(error: FrameError) -> Broken {
    match error {
        // An agent that was killed says no farewell in TLS. Frames show their own end.
        FrameError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Broken::Closed,
        error => Broken::Frame(error),
    }
}

/// Spends a guest's credit for what it is sent again.
fn pay(record: &mut Guest) {
    lock(&record.credit).sent_again(std::mem::take(&mut record.sent_again), now());
}

/// Notes in a guest's record what it says. What is told of it.
fn note(message: FromGuest, record: &mut Guest, replies: &mut Replies) -> Option<EventKind> {
    match message {
        FromGuest::Ping(Ping { nonce }) => {
            replies.pong = Some(Pong { nonce });
            None
        }
        // A second greeting means nothing; a pong has done its work by arriving.
        FromGuest::Pong(_) | FromGuest::Hello(_) => None,
        FromGuest::Received(received) => Some(EventKind::Received { generation: received.generation }),
        FromGuest::Verified(verified) => {
            // That it was heard is all the guest wants to know.
            if verified.confirm_within_s > 0 {
                replies.confirm = Some(Confirm { generation: verified.stamp.generation });
            }
            let verified = Arc::new(verified);
            record.verified(Arc::clone(&verified));
            Some(EventKind::Verified(verified))
        }
        FromGuest::HostKeyKept(kept) => Some(EventKind::HostKeyKept { pins: kept.pins }),
        FromGuest::Confirmed(confirmed) => {
            record.confirmed(confirmed.generation);
            None
        }
        FromGuest::Failed(failed) => {
            let failed = Arc::new(failed);
            record.failed(Arc::clone(&failed));
            Some(EventKind::Failed(failed))
        }
        FromGuest::NamesApplied(applied) => {
            record.names_applied(applied);
            Some(EventKind::NamesApplied(applied.stamp))
        }
        FromGuest::NamesFailed(failed) => {
            record.names_failed(failed);
            None
        }
        FromGuest::NamesGap(gap) => {
            record.names_gap(&gap);
            None
        }
        FromGuest::Status(status) => {
            let status = Arc::new(status);
            record.reported(Arc::clone(&status));
            Some(EventKind::Status(status))
        }
        FromGuest::Event(event) => {
            if let message::EventKind::WorkloadStarted { pid } = event.kind {
                record.workload = Some(Workload::Started { pid });
            }
            Some(EventKind::Guest(event))
        }
        // The host program says when it has noted that.
        FromGuest::WorkloadExited(WorkloadExited { exit }) => {
            record.workload = Some(Workload::Exited(exit.clone()));
            Some(EventKind::WorkloadExited(exit))
        }
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    message: FromHost,
) -> Result<(), Broken> {
    match timeout(PATIENCE, stream.send(message.to_frame())).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(Broken::Stuck),
    }
}

#[cfg(test)]
mod tests;
