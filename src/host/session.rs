//! One connection from a guest, over any byte stream.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tether_wire::{
    frame::{FrameCodec, FrameError},
    message::{
        Confirm, FromGuest, FromHost, Hello, MessageError, PROTOCOL, PROTOCOL_MIN, Ping, Pong, Refused,
        Sender, Welcome,
    },
    value::GuestId,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_util::codec::Framed;

use crate::{Shared, event::EventKind, guest::is_sane, outbox::Waiting};

/// How long a stranger may take to say who it is, and a guest to read what it is sent.
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

/// Serves one connection until it ends. `stranger` is given back once the guest is known.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: String,
    shared: Arc<Shared>,
    stranger: OwnedSemaphorePermit,
) {
    let mut stream = Framed::new(stream, Sender::Stranger.codec());
    let (guest, hello) = match timeout(PATIENCE, greet(&mut stream, &shared)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(broken)) => return tracing::warn!(peer, "{broken}"),
        Err(_) => return tracing::warn!(peer, "{}", Broken::NoHelloInTime),
    };
    drop(stranger);
    // From here on as long messages as any guest's.
    stream.codec_mut().expect(Sender::Guest.limit());
    let number = shared.next_connection();
    let Some(waiting) = shared.guests().get_mut(&guest).map(|record| record.connected(number, &hello)) else {
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

/// Hears who it is and welcomes it, or says why not.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    shared: &Shared,
) -> Result<(GuestId, Hello), Broken> {
    let frame = stream.next().await.ok_or(Broken::Closed)??;
    let Some(FromGuest::Hello(hello)) = FromGuest::from_frame(&frame)? else {
        return Err(Broken::NoHello);
    };
    match judge(&hello, shared) {
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
            if let Ok(guest) = hello.guest.parse() {
                shared.tell(&guest, EventKind::Refused { reason: reason.clone() });
            }
            send(stream, Refused { reason: reason.clone() }.into()).await?;
            Err(Broken::Refused(reason))
        }
    }
}

/// Whether a guest is let in, and in which protocol.
fn judge(hello: &Hello, shared: &Shared) -> Result<(GuestId, u16), String> {
    let guest: GuestId = hello.guest.parse().map_err(|error| format!("{error}"))?;
    let protocol = hello.protocol_max.min(PROTOCOL);
    if protocol < hello.protocol_min.max(PROTOCOL_MIN) {
        return Err(format!(
            "no protocol in common: the guest speaks {} to {}, this host {PROTOCOL_MIN} to {PROTOCOL}",
            hello.protocol_min, hello.protocol_max
        ));
    }
    if ![hello.applied, hello.names].iter().flatten().all(is_sane) {
        return Err("a generation above 2^62, which no host has given out".to_owned());
    }
    if !shared.guests().contains_key(&guest) {
        return Err(format!("{guest} is not a guest of this host"));
    }
    Ok((guest, protocol))
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
            frame = stream.next() => match frame {
                None => Err(Broken::Closed),
                Some(Err(error)) => Err(error.into()),
                Some(Ok(frame)) => {
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
