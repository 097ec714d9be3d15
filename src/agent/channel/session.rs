//! One connection's life, over any byte stream.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tether_wire::{
    frame::{Frame, FrameCodec, FrameError},
    line::{Line, STUCK, STUCK_INTERVALS, Step},
    message::{
        FromGuest, FromHost, Hello, HostKeyKept, MessageError, Ping, Pong, Sender, Welcome, WorkloadExited,
    },
    protocols::Protocols,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tokio_util::codec::Framed;

use super::{Identity, Incoming, Outgoing, QUEUE, Shared, State};

/// How long the host may take to answer the greeting.
const PATIENCE: Duration = Duration::from_secs(10);
/// Silence of this many heartbeat intervals ends a connection.
const SILENT_INTERVALS: u32 = 3;

/// What lives longer than one connection.
pub(super) struct Session {
    pub(super) identity: Identity,
    /// What it offers its host to speak.
    pub(super) protocols: Protocols,
    pub(super) boot_id: String,
    /// The number of the newest connection.
    pub(super) number: u64,
    pub(super) inbox: mpsc::Sender<Incoming>,
    pub(super) outbox: mpsc::Receiver<Outgoing>,
    /// Events that wait for the next connection.
    pub(super) kept: VecDeque<FromGuest>,
    pub(super) state: watch::Receiver<State>,
    pub(super) shared: Arc<Shared>,
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The host does not want this guest.
    Refused(String),
    /// The host did not greet as it should.
    NoWelcome(String),
    /// It worked, until then.
    Lost(String),
}

impl End {
    /// Whether the host had accepted this guest.
    pub(super) fn was_welcome(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "the host refuses this guest: {reason}"),
            Self::NoWelcome(reason) => write!(f, "the host did not greet: {reason}"),
            Self::Lost(reason) => write!(f, "the tether is lost: {reason}"),
        }
    }
}

/// What can go wrong with a connection that was accepted.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the host has closed it")]
    Closed,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("the host was silent for {0:?}")]
    Silent(Duration),
    #[error("the host does not read")]
    Stuck,
}

type Stream<S> = Framed<S, FrameCodec>;

impl Session {
    /// Greets the host and carries messages until the connection ends.
    pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: S) -> End {
        let mut stream = Framed::new(stream, Sender::Host.codec());
        let welcome = match timeout(PATIENCE, self.greet(&mut stream)).await {
            Ok(Ok(welcome)) => welcome,
            Ok(Err(end)) => return end,
            Err(_) => return End::NoWelcome(format!("no answer in {PATIENCE:?}")),
        };
        // The first is nothing to wake a person for; one that comes back is.
        if self.number > 0 {
            tracing::info!(protocol = welcome.protocol, host = welcome.host_version, "tether up again");
        }
        self.number += 1;
        self.shared.connection.store(self.number, Relaxed);
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.into());
        let carried = self.carry(Line::new(stream, now()), heartbeat).await;
        self.shared.connection.store(0, Relaxed);
        match carried {
            Ok(()) => End::Lost("the agent is stopping".to_owned()),
            Err(broken) => End::Lost(broken.to_string()),
        }
    }

    /// Does `something` while there is no connection: replies go nowhere, so that the agent never
    /// waits for a host that is away, and events are kept for the next one.
    pub(super) async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = std::pin::pin!(something);
        loop {
            tokio::select! {
                done = &mut something => return done,
                Some(outgoing) = self.outbox.recv() => self.keep(outgoing),
            }
        }
    }

    fn keep(&mut self, outgoing: Outgoing) {
        if outgoing.connection.is_some() {
            return;
        }
        if self.kept.len() == QUEUE {
            self.kept.pop_front();
            self.shared.dropped.fetch_add(1, Relaxed);
        }
        self.kept.push_back(outgoing.message);
    }

    /// Says hello and waits for the welcome.
    async fn greet<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut Stream<S>) -> Result<Welcome, End> {
        let (applied, names) = {
            let state = self.state.borrow();
            (state.applied, state.names)
        };
        let hello = Hello {
            protocol_min: self.protocols.min,
            protocol_max: self.protocols.max,
            guest: self.identity.guest().to_string(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: Vec::new(),
            boot_id: self.boot_id.clone(),
            applied,
            names,
            token: self.identity.token().clone(),
        };
        let no_welcome = |error: String| End::NoWelcome(error);
        stream.send(FromGuest::from(hello).to_frame()).await.map_err(|e| no_welcome(e.to_string()))?;
        loop {
            let frame = heard(stream.next().await).map_err(|e| no_welcome(e.to_string()))?;
            match FromHost::from_frame(&frame).map_err(|e| no_welcome(e.to_string()))? {
                Some(FromHost::Welcome(welcome)) => {
                    return check_welcome(welcome, self.protocols).map_err(no_welcome);
                }
                Some(FromHost::Refused(refused)) => return Err(End::Refused(refused.reason)),
                Some(_) => return Err(no_welcome("it has begun with another message".to_owned())),
                None => drop(self.shared.skipped.fetch_add(1, Relaxed)),
            }
        }
    }

    /// Carries messages both ways, kept events first; `Ok` when the agent itself is going away.
    async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        mut line: Line<S>,
        heartbeat: Duration,
    ) -> Result<(), Broken> {
        let silence = heartbeat * SILENT_INTERVALS;
        let stuck = STUCK.max(heartbeat * STUCK_INTERVALS);
        let mut beat = interval_at(Instant::now() + heartbeat, heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut replies, mut nonce) = (Replies::default(), 0);
        // Whatever the last connection was told, this host has not heard it.
        self.state.mark_changed();
        loop {
            // The host is read only as fast as the agent takes its messages: waiting here for room
            // in the inbox would stop the agent's own words, for which it may be waiting.
            let room = self.inbox.capacity() > 0;
            if line.is_free() {
                let replies = replies.take();
                let event = replies.is_empty().then(|| self.kept.pop_front()).flatten();
                for message in replies.into_iter().chain(event) {
                    line.put(message.to_frame(), now())?;
                }
            }
            let free = line.is_free();
            let (silent_at, stuck_at) = (line.silent_at(silence), line.stuck_at(stuck));
            tokio::select! {
                // In this order: what has been heard counts before silence does, and an event
                // (the workload has started) goes before the state (it has ended).
                biased;
                permit = self.inbox.reserve(), if !room => {
                    if permit.is_err() {
                        return Ok(());
                    }
                    line.sign_of_life(now());
                }
                step = line.step(room, now) => match step.map_err(broken)? {
                    Step::Closed => return Err(Broken::Closed),
                    Step::Sent => {}
                    Step::Heard(frame) => match FromHost::from_frame(&frame)? {
                        Some(FromHost::Ping(Ping { nonce })) => replies.pong = Some(Pong { nonce }),
                        Some(FromHost::Pong(_)) => {}
                        Some(FromHost::HostKey(told)) => {
                            if self.identity.trust(&told.pins) {
                                replies.host_key_kept = Some(HostKeyKept { pins: told.pins });
                            }
                        }
                        Some(message) => {
                            if self.inbox.try_send(Incoming { connection: self.number, message }).is_err() {
                                return Ok(());
                            }
                        }
                        None => drop(self.shared.skipped.fetch_add(1, Relaxed)),
                    },
                },
                outgoing = self.outbox.recv(), if free => match outgoing {
                    Some(Outgoing { connection: Some(other), .. }) if other != self.number => {}
                    Some(outgoing) => line.put(outgoing.message.to_frame(), now())?,
                    None => return Ok(()),
                },
                changed = self.state.changed(), if free => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let state = self.state.borrow_and_update().clone();
                    if let Some(status) = state.status {
                        line.put(FromGuest::from(Arc::unwrap_or_clone(status)).to_frame(), now())?;
                    }
                    if let Some(exit) = state.exit.filter(|_| !state.exit_seen) {
                        line.put(FromGuest::from(WorkloadExited { exit }).to_frame(), now())?;
                    }
                }
                // Where something is on its way already, that will be heard.
                _ = beat.tick(), if free => {
                    nonce += 1;
                    line.put(FromGuest::from(Ping { nonce }).to_frame(), now())?;
                }
                () = sleep_until(silent_at.into()), if room => {
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
        }
    }
}

/// What the host is answered as soon as there is room: of each the newest.
#[derive(Debug, Default)]
struct Replies {
    pong: Option<Pong>,
    host_key_kept: Option<HostKeyKept>,
}

impl Replies {
    fn take(&mut self) -> Vec<FromGuest> {
        let Self { pong, host_key_kept } = std::mem::take(self);
        pong.map(FromGuest::from).into_iter().chain(host_key_kept.map(FromGuest::from)).collect()
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
        // A host that was killed says no farewell in TLS. Frames show their own end.
        FrameError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Broken::Closed,
        error => Broken::Frame(error),
    }
}

/// A welcome that makes sense.
fn check_welcome(welcome: Welcome, offered: Protocols) -> Result<Welcome, String> {
    if !offered.contains(welcome.protocol) {
        return Err(format!("it chose protocol {}, offered were {offered}", welcome.protocol));
    }
    if !(100..=60_000).contains(&welcome.heartbeat_ms) {
        return Err(format!("its heartbeat of {} ms is not between 100 and 60000", welcome.heartbeat_ms));
    }
    Ok(welcome)
}

#[cfg(test)]
mod tests {
    use tether_wire::{
        boot::{Tether, Way},
        identity::{JoinToken, Pin},
        message::{Apply, HostKey, Received},
        state::DesiredState,
        status::{Condition, Status},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    struct Ends {
        session: Session,
        inbox: mpsc::Receiver<Incoming>,
        outbox: mpsc::Sender<Outgoing>,
        state: watch::Sender<State>,
        _directory: tempfile::TempDir,
        stream: DuplexStream,
        host: Stream<DuplexStream>,
    }

    fn tether() -> Tether {
        Tether {
            way: Way::Unix("/run/host.sock".into()),
            pins: vec![Pin::from_bytes([1; 32])],
            token: JoinToken::from_bytes([7; 32]),
        }
    }

    fn ends() -> Ends {
        let (to_agent, inbox) = mpsc::channel(4);
        let (outbox, from_agent) = mpsc::channel(4);
        let (state, watched) = watch::channel(State::default());
        let (stream, host) = duplex(1 << 16);
        let guest = "server".parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::open(directory.path(), &guest, &tether()).unwrap();
        Ends {
            session: Session {
                identity,
                protocols: Protocols::SPOKEN,
                boot_id: "b".into(),
                number: 0,
                inbox: to_agent,
                outbox: from_agent,
                kept: VecDeque::new(),
                state: watched,
                shared: Arc::default(),
            },
            inbox,
            outbox,
            state,
            _directory: directory,
            stream,
            host: Framed::new(host, Sender::Guest.codec()),
        }
    }

    fn to(connection: u64, message: impl Into<FromGuest>) -> Outgoing {
        Outgoing { connection: Some(connection), message: message.into() }
    }

    async fn hear(host: &mut Stream<DuplexStream>) -> FromGuest {
        let frame = host.next().await.unwrap().unwrap();
        FromGuest::from_frame(&frame).unwrap().unwrap()
    }

    async fn say(host: &mut Stream<DuplexStream>, message: impl Into<FromHost>) {
        host.send(message.into().to_frame()).await.unwrap();
    }

    const WELCOME: Welcome = Welcome { protocol: 1, host_version: String::new(), heartbeat_ms: 1_000 };

    #[tokio::test(start_paused = true)]
    async fn greets_answers_pings_and_carries_messages() {
        let mut ends = ends();
        let host = async {
            let FromGuest::Hello(hello) = hear(&mut ends.host).await else { panic!("no hello") };
            assert_eq!(hello.token, tether().token);
            say(&mut ends.host, WELCOME).await;
            say(&mut ends.host, Ping { nonce: 7 }).await;
            assert_eq!(hear(&mut ends.host).await, Pong { nonce: 7 }.into());
            ends.outbox.send(to(1, Received { generation: 3 })).await.unwrap();
            assert_eq!(hear(&mut ends.host).await, Received { generation: 3 }.into());
            say(&mut ends.host, tether_wire::message::ExitSeen).await;
            let incoming = ends.inbox.recv().await.unwrap();
            assert_eq!(incoming.connection, 1);
            assert!(matches!(incoming.message, FromHost::ExitSeen(_)));
            drop(ends.host);
        };
        let (end, ()) = tokio::join!(ends.session.run(ends.stream), host);
        assert_eq!(end.to_string(), "the tether is lost: the host has closed it");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_the_host_are_kept_and_that_is_said() {
        let mut ends = ends();
        let host = async {
            hear(&mut ends.host).await;
            say(&mut ends.host, WELCOME).await;
            // Nobody is to be trusted by an empty list.
            say(&mut ends.host, HostKey { pins: vec![] }).await;
            let pins = vec![Pin::from_bytes([1; 32]), Pin::from_bytes([2; 32])];
            say(&mut ends.host, HostKey { pins: pins.clone() }).await;
            assert_eq!(hear(&mut ends.host).await, HostKeyKept { pins }.into());
            drop(ends.host);
        };
        tokio::join!(ends.session.run(ends.stream), host);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_gets_old_events_and_no_old_replies() {
        let mut ends = ends();
        let kind = tether_wire::message::EventKind::WorkloadStarted { pid: 7 };
        let event = tether_wire::message::Event { uptime_ms: 1, dropped: 0, kind };
        let news = || Outgoing { connection: None, message: event.clone().into() };
        // Some while nobody is connected, some that the next connection finds waiting.
        ends.outbox.send(to(0, Received { generation: 3 })).await.unwrap();
        ends.outbox.send(news()).await.unwrap();
        ends.session.meanwhile(tokio::time::sleep(Duration::from_secs(1))).await;
        ends.outbox.send(to(0, Received { generation: 4 })).await.unwrap();
        ends.outbox.send(news()).await.unwrap();
        let host = async {
            hear(&mut ends.host).await;
            say(&mut ends.host, WELCOME).await;
            assert_eq!(hear(&mut ends.host).await, event.clone().into());
            assert_eq!(hear(&mut ends.host).await, event.clone().into());
            drop(ends.host);
        };
        let (end, ()) = tokio::join!(ends.session.run(ends.stream), host);
        assert!(end.was_welcome(), "{end}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_from_the_host_does_not_stop_the_agents_replies() {
        let mut ends = ends();
        let host = async {
            hear(&mut ends.host).await;
            say(&mut ends.host, WELCOME).await;
            say(&mut ends.host, Ping { nonce: 1 }).await;
            assert_eq!(hear(&mut ends.host).await, Pong { nonce: 1 }.into());
            // Far more than both queues hold; nobody takes them yet.
            for _ in 0..100 {
                say(&mut ends.host, tether_wire::message::ExitSeen).await;
            }
            for generation in 0..20 {
                ends.outbox.send(to(1, Received { generation })).await.unwrap();
                assert_eq!(hear(&mut ends.host).await, Received { generation }.into());
            }
            for _ in 0..100 {
                assert!(ends.inbox.recv().await.is_some());
            }
            drop(ends.host);
        };
        let (end, ()) = tokio::join!(ends.session.run(ends.stream), host);
        assert!(end.was_welcome(), "{end}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_host_is_left_after_three_intervals() {
        let mut ends = ends();
        let host = async {
            hear(&mut ends.host).await;
            say(&mut ends.host, WELCOME).await;
            while let Some(Ok(_)) = ends.host.next().await {}
        };
        let started = Instant::now();
        let (end, ()) = tokio::join!(
            async {
                let end = ends.session.run(ends.stream).await;
                (end, started.elapsed())
            },
            host
        );
        assert_eq!(end.0.to_string(), "the tether is lost: the host was silent for 3s");
        assert!(end.1 <= Duration::from_secs(5), "{:?}", end.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_never_greets_or_talks_something_else_is_left() {
        let mut first = ends();
        let end = first.session.run(first.stream).await;
        assert!(matches!(end, End::NoWelcome(_)), "{end}");
        let mut second = ends();
        second.host.get_mut().write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        let end = second.session.run(second.stream).await;
        assert!(matches!(end, End::NoWelcome(_)), "{end}");
        assert!(!end.was_welcome());
    }

    /// What a guest that offers `offered` makes of a host that chooses `chosen` and then sends what
    /// version 1 does not know (a type, and a layout of one that it has) and something it does.
    async fn versions(offered: Protocols, chosen: u16) -> (End, u64) {
        let mut ends = ends();
        ends.session.protocols = offered;
        let host = async {
            let FromGuest::Hello(hello) = hear(&mut ends.host).await else { panic!("no hello") };
            assert_eq!((hello.protocol_min, hello.protocol_max), (offered.min, offered.max));
            say(&mut ends.host, Welcome { protocol: chosen, ..WELCOME }).await;
            for (kind, version) in [(70, 1), (16, 2)] {
                let frame = Frame { kind, version, payload: vec![0xff; 9].into() };
                ends.host.send(frame).await.unwrap();
            }
            say(&mut ends.host, Ping { nonce: 1 }).await;
            while let Some(Ok(frame)) = ends.host.next().await {
                if FromGuest::from_frame(&frame).unwrap() == Some(Pong { nonce: 1 }.into()) {
                    break;
                }
            }
            drop(ends.host);
        };
        let (end, ()) = tokio::join!(ends.session.run(ends.stream), host);
        (end, ends.session.shared.skipped.load(Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_of_the_next_and_of_the_version_before_are_understood() {
        let both = Protocols { min: 1, max: 2 };
        for (offered, chosen) in [(Protocols::SPOKEN, 1), (both, 1), (both, 2)] {
            let (end, skipped) = versions(offered, chosen).await;
            assert!(end.was_welcome(), "{end}");
            assert_eq!(skipped, 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_chooses_what_was_not_offered_is_left() {
        for (offered, chosen) in
            [(Protocols::SPOKEN, 2), (Protocols::SPOKEN, 0), (Protocols { min: 2, max: 3 }, 1)]
        {
            let (end, skipped) = versions(offered, chosen).await;
            let why = format!("the host did not greet: it chose protocol {chosen}, offered were {offered}");
            assert_eq!((end.to_string(), end.was_welcome(), skipped), (why, false, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_the_future_are_skipped_and_counted() {
        let mut ends = ends();
        let host = async {
            hear(&mut ends.host).await;
            say(&mut ends.host, WELCOME).await;
            let strange = tether_wire::frame::Frame { kind: 900, version: 3, payload: vec![1, 2].into() };
            ends.host.send(strange).await.unwrap();
            say(&mut ends.host, Ping { nonce: 1 }).await;
            assert_eq!(hear(&mut ends.host).await, Pong { nonce: 1 }.into());
            drop(ends.host);
        };
        let (_, ()) = tokio::join!(ends.session.run(ends.stream), host);
        assert_eq!(ends.session.shared.skipped.load(Relaxed), 1);
    }

    /// A status of some megabytes.
    fn long_status() -> Status {
        let condition = Condition { part: "x".repeat(1_000), message: "y".repeat(1_000) };
        Status { conditions: vec![condition; 1_500], ..Status::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_sends_megabytes_while_it_is_sent_megabytes_is_heard() {
        let mut ends = ends();
        let host = async {
            hear(&mut ends.host).await;
            say(&mut ends.host, WELCOME).await;
            ends.state.send_modify(|state| state.status = Some(Arc::new(long_status())));
            let state = DesiredState { domain: "z".repeat(3_000_000), ..DesiredState::default() };
            // It does not read before it has sent this.
            say(&mut ends.host, Apply { generation: 1, state }).await;
            assert_eq!(hear(&mut ends.host).await, long_status().into());
            assert!(matches!(ends.inbox.recv().await.unwrap().message, FromHost::Apply(_)));
            drop(ends.host);
        };
        let (end, ()) = tokio::join!(ends.session.run(ends.stream), host);
        assert_eq!(end.to_string(), "the tether is lost: the host has closed it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_reads_slowly_is_waited_for_and_one_that_does_not_read_is_not() {
        let mut ends = ends();
        let began = Instant::now();
        let host = async {
            hear(&mut ends.host).await;
            say(&mut ends.host, WELCOME).await;
            ends.state.send_modify(|state| state.status = Some(Arc::new(long_status())));
            let mut some = vec![0; 1 << 16];
            for _ in 0..40 {
                for nonce in 0..4 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    say(&mut ends.host, Ping { nonce }).await;
                }
                ends.host.get_mut().read_exact(&mut some).await.unwrap();
            }
            for nonce in 0.. {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if ends.host.send(FromHost::from(Ping { nonce }).to_frame()).await.is_err() {
                    break;
                }
            }
        };
        let run = async {
            let end = ends.session.run(ends.stream).await;
            (end.to_string(), began.elapsed().as_secs())
        };
        let ((end, after), ()) = tokio::join!(run, host);
        assert_eq!(end, "the tether is lost: the host does not read");
        assert!((172..=173).contains(&after), "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn many_pings_are_answered_by_the_newest_pong() {
        let mut ends = ends();
        let host = async {
            hear(&mut ends.host).await;
            say(&mut ends.host, WELCOME).await;
            // Far more than the stream holds, and nothing is read meanwhile.
            for nonce in 1..=100_000 {
                say(&mut ends.host, Ping { nonce }).await;
            }
            let mut pongs = 0;
            while let FromGuest::Pong(pong) = hear(&mut ends.host).await {
                pongs += 1;
                if pong.nonce == 100_000 {
                    break;
                }
            }
            assert!(pongs < 10_000, "{pongs}");
            drop(ends.host);
        };
        let (end, ()) = tokio::join!(ends.session.run(ends.stream), host);
        assert!(end.was_welcome(), "{end}");
    }
}
