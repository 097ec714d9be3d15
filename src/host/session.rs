//! One connection from a guest, over any byte stream.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{SinkExt, StreamExt};
use tether_wire::{
    frame::{Frame, FrameCodec, FrameError},
    identity::Pin,
    message::{Confirm, FromGuest, FromHost, Hello, MessageError, Ping, Pong, Refused, Sender, Welcome},
    protocols::Protocols,
    value::GuestId,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at},
};
use tokio_util::codec::Framed;

use crate::{
    Shared,
    admission::{Entry, Refusal},
    event::EventKind,
    guest::is_sane,
    outbox::Waiting,
    strangers::Place,
    tls,
};

/// How long a stranger may take to say who it is, from its first byte to its hello, and a guest to read what it is sent.
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
    /// Its place among the strangers, given back once it is known.
    place: Place,
}

impl Stranger {
    pub(crate) fn new(peer: String, place: Place) -> Self {
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
        // Whoever can reach the port could fill the log.
        Ok(Err(error)) => tracing::debug!(peer, "no TLS: {error}"),
        Err(_) => tracing::debug!(peer, "{}", Broken::NoHelloInTime),
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
        Ok(Err(broken)) => return tracing::debug!(peer, "{broken}"),
        Err(_) => return tracing::debug!(peer, "{}", Broken::NoHelloInTime),
    };
    drop(place);
    // From here on as long messages as any guest's.
    stream.codec_mut().expect(Sender::Guest.limit());
    let number = shared.next_connection();
    let Some(waiting) = connect(&guest, key, number, &hello, &shared) else {
        return;
    };
    tracing::debug!(%guest, peer, "connected");
    // A guest that lost its connection before it was confirmed can be heard again: so can we.
    let in_force = hello.applied.map(|stamp| Confirm { generation: stamp.generation });
    shared.tell(&guest, EventKind::Connected(hello));
    if let Some(confirm) = in_force
        && let Err(broken) = send(&mut stream, confirm.into()).await
    {
        tracing::debug!(%guest, peer, "not confirmed: {broken}");
    }
    let broken = carry(&mut stream, &guest, number, &shared, waiting).await;
    tracing::debug!(%guest, peer, "disconnected: {broken}");
    let replaced = {
        let mut guests = shared.guests();
        match guests.get_mut(&guest) {
            Some(record) if record.is_current(number) => {
                record.disconnected();
                false
            }
            Some(record) => record.is_connected(),
            None => false,
        }
    };
    // A guest whose next connection came before this one's end never was away.
    if !replaced {
        shared.tell(&guest, EventKind::Disconnected { reason: broken.to_string() });
    }
}

/// Takes the connection for the guest's, which it is unless the guest was dismissed or admitted
/// anew since it was greeted.
fn connect(guest: &GuestId, key: Pin, number: u64, hello: &Hello, shared: &Shared) -> Option<Waiting> {
    let mut guests = shared.guests();
    let record = guests.get_mut(guest)?;
    record.enrolment.as_ref().filter(|enrolment| enrolment.key() == Some(key))?;
    let waiting = record.connected(number, hello);
    if let Some(told) = shared.keys().greeting() {
        record.host_key(told);
    }
    Some(waiting)
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
    let guest: GuestId = hello.guest.parse().map_err(|error| format!("{error}"))?;
    let refused = |reason: String| {
        shared.tell(&guest, EventKind::Refused { reason: reason.clone() });
        reason
    };
    let protocol = agree(hello, shared.protocols).map_err(refused)?;
    let entered = {
        let mut guests = shared.guests();
        let enrolment = guests.get_mut(&guest).and_then(|record| record.enrolment.as_mut());
        enrolment.map(|enrolment| enrolment.enter(key, &hello.token, SystemTime::now()))
    };
    match entered {
        None => return Err(refused(format!("{guest} is not a guest of this host"))),
        Some(Ok(Entry::Known)) => {}
        Some(Ok(Entry::Enrolled)) => shared.tell(&guest, EventKind::Enrolled { key }),
        Some(Err(refusal @ Refusal::Reuse { bound })) => {
            let reuse = EventKind::IdentityReuse { peer: peer.to_owned(), bound, shown: key };
            shared.tell(&guest, reuse);
            return Err(refusal.to_string());
        }
        Some(Err(refusal)) => return Err(refused(refusal.to_string())),
    }
    Ok((guest, protocol))
}

/// The protocol that both speak, with a guest that makes sense.
fn agree(hello: &Hello, spoken: Protocols) -> Result<u16, String> {
    let guest = Protocols { min: hello.protocol_min, max: hello.protocol_max };
    let protocol = spoken
        .common(guest)
        .ok_or_else(|| format!("no protocol in common: the guest speaks {guest}, this host {spoken}"))?;
    if ![hello.applied, hello.names].iter().flatten().all(is_sane) {
        return Err("a generation above 2^62, which no host has given out".to_owned());
    }
    Ok(protocol)
}

/// Carries messages both ways until the connection breaks.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    guest: &GuestId,
    number: u64,
    shared: &Shared,
    waiting: Waiting,
) -> Broken {
    let heartbeat = Duration::from_millis(shared.heartbeat_ms.into());
    let silence = heartbeat * SILENT_INTERVALS;
    let mut beat = interval_at(Instant::now() + heartbeat, heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut nonce) = (Instant::now(), 0);
    loop {
        let step = tokio::select! {
            // What has been heard counts before silence does.
            biased;
            frame = stream.next() => match self::heard(frame) {
                Err(broken) => Err(broken),
                Ok(frame) => {
                    heard = Instant::now();
                    match FromGuest::from_frame(&frame) {
                        Ok(Some(message)) => match take(message, guest, number, shared) {
                            Some(reply) => send(stream, reply).await,
                            None => Ok(()),
                        },
                        // Of a later version than ours: it can do without our understanding.
                        Ok(None) => Ok(()),
                        Err(error) => Err(error.into()),
                    }
                }
            },
            message = waiting.next() => match message {
                Some(message) => send(stream, message).await,
                None => Err(Broken::Replaced),
            },
            _ = beat.tick() => {
                nonce += 1;
                if heard.elapsed() > silence {
                    Err(Broken::Silent(silence))
                } else {
                    send(stream, Ping { nonce }.into()).await
                }
            }
        };
        if let Err(broken) = step {
            return broken;
        }
        // A guest that floods is heard one message at a time, between everybody else's.
        tokio::task::yield_now().await;
    }
}

/// The next frame, or why there is none.
fn heard(frame: Option<Result<Frame, FrameError>>) -> Result<Frame, Broken> {
    match frame {
        None => Err(Broken::Closed),
        // An agent that was killed says no farewell in TLS. Frames show their own end.
        Some(Err(FrameError::Io(error))) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Broken::Closed)
        }
        Some(frame) => Ok(frame?),
    }
}

/// Takes note of what a guest says; the reply, where there is one.
fn take(message: FromGuest, guest: &GuestId, number: u64, shared: &Shared) -> Option<FromHost> {
    let mut guests = shared.guests();
    // What an earlier connection still says is nobody's word any more.
    let record = guests.get_mut(guest).filter(|record| record.is_current(number))?;
    let (reply, event) = match message {
        FromGuest::Ping(Ping { nonce }) => (Some(Pong { nonce }.into()), None),
        // A second greeting means nothing; a pong has done its work by arriving.
        FromGuest::Pong(_) | FromGuest::Hello(_) => (None, None),
        FromGuest::Received(received) => {
            (None, Some(EventKind::Received { generation: received.generation }))
        }
        FromGuest::Verified(verified) => {
            record.verified(verified.clone());
            // That it was heard is all the guest wants to know.
            let generation = verified.stamp.generation;
            let confirm = (verified.confirm_within_s > 0).then(|| Confirm { generation }.into());
            (confirm, Some(EventKind::Verified(verified)))
        }
        FromGuest::HostKeyKept(kept) => (None, Some(EventKind::HostKeyKept { pins: kept.pins })),
        FromGuest::Confirmed(confirmed) => {
            record.confirmed(confirmed.generation);
            (None, None)
        }
        FromGuest::Failed(failed) => {
            record.failed(failed.clone());
            (None, Some(EventKind::Failed(failed)))
        }
        FromGuest::NamesApplied(applied) => {
            record.names_applied(applied);
            (None, Some(EventKind::NamesApplied(applied.stamp)))
        }
        FromGuest::NamesFailed(failed) => {
            record.names_failed(failed);
            (None, None)
        }
        FromGuest::NamesGap(gap) => {
            record.names_gap(&gap);
            (None, None)
        }
        FromGuest::Status(status) => {
            let status = Arc::new(status);
            record.reported(Arc::clone(&status));
            (None, Some(EventKind::Status(status)))
        }
        FromGuest::Event(event) => (None, Some(EventKind::Guest(event))),
        // The host program says when it has noted that.
        FromGuest::WorkloadExited(exited) => (None, Some(EventKind::WorkloadExited(exited.exit))),
    };
    drop(guests);
    if let Some(event) = event {
        shared.tell(guest, event);
    }
    reply
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
