//! Sessions over a stream in memory, with a guest that does what the protocol says.

mod fleet;
mod versions;

use tether_wire::identity::JoinToken;
use tether_wire::{
    message::{Names, NamesApplied, NamesDelta, NamesGap},
    names::{EndpointNames, NameTables, NetworkNames, Summary},
    status::{Condition, Stamp, Status},
};
use tokio::io::DuplexStream;

use super::*;
use crate::{Admission, Event, Host, Identity, Options};

const KEY: Pin = Pin::from_bytes([1; 32]);
const OTHER: Pin = Pin::from_bytes([2; 32]);

fn token(byte: u8) -> JoinToken {
    JoinToken::from_bytes([byte; 32])
}

fn admission(key: Option<Pin>) -> Admission {
    Admission { token: token(7), expires: SystemTime::now() + PATIENCE, key }
}

/// The guest's end of a connection, greeted.
struct Fake {
    stream: Stream<DuplexStream>,
    /// The host's end of it.
    serving: tokio::task::JoinHandle<()>,
    /// The names in force and their version.
    names: Option<(u64, NameTables)>,
}

impl Fake {
    async fn dial(host: &Host, guest: &GuestId) -> Self {
        let mut fake = Self::greet(host, guest, KEY, token(7)).await;
        assert!(matches!(fake.hear().await, FromHost::Welcome(_)));
        fake
    }

    /// One that has this key, and has sent its hello.
    async fn greet(host: &Host, guest: &GuestId, key: Pin, token: JoinToken) -> Self {
        let mut fake = Self::open(host, key);
        fake.hello(guest, token, Protocols::SPOKEN).await;
        fake
    }

    /// One that has this key, and has said nothing yet.
    fn open(host: &Host, key: Pin) -> Self {
        let (near, far) = tokio::io::duplex(1 << 16);
        let stranger = Stranger::new("memory".into(), None);
        let serving = tokio::spawn(run(near, key, Arc::clone(&host.shared), stranger));
        Self { stream: Framed::new(far, Sender::Host.codec()), serving, names: None }
    }

    async fn hello(&mut self, guest: &GuestId, token: JoinToken, protocols: Protocols) {
        let hello = Hello {
            protocol_min: protocols.min,
            protocol_max: protocols.max,
            guest: guest.to_string(),
            agent_version: String::new(),
            capabilities: vec![],
            boot_id: String::new(),
            applied: None,
            names: None,
            token,
        };
        self.say(hello).await;
    }

    async fn say(&mut self, message: impl Into<FromGuest>) {
        self.stream.send(message.into().to_frame()).await.unwrap();
    }

    /// The next message that is no heartbeat.
    async fn hear(&mut self) -> FromHost {
        loop {
            let frame = self.stream.next().await.unwrap().unwrap();
            match FromHost::from_frame(&frame).unwrap().unwrap() {
                FromHost::Ping(_) | FromHost::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// Takes names as they come and answers for them. What kind of message it was.
    async fn take_names(&mut self) -> &'static str {
        let kind = match self.hear().await {
            FromHost::Names(Names { version, tables }) => {
                self.names = Some((version, tables));
                "names"
            }
            FromHost::NamesDelta(delta) => match &mut self.names {
                Some((version, tables)) if *version == delta.base => {
                    change(tables, &delta);
                    *version = delta.stamp.generation;
                    assert_eq!(Summary::of(tables).digest(), delta.stamp.digest);
                    "delta"
                }
                other => {
                    let has = other.as_ref().map(|(version, tables)| stamp(*version, tables));
                    self.say(NamesGap { version: delta.stamp.generation, has }).await;
                    return "gap";
                }
            },
            other => panic!("{other:?}"),
        };
        let (version, tables) = self.names.as_ref().unwrap();
        let stamp = stamp(*version, tables);
        self.say(NamesApplied { stamp }).await;
        kind
    }
}

fn stamp(generation: u64, tables: &NameTables) -> Stamp {
    Stamp { generation, digest: Summary::of(tables).digest() }
}

fn change(tables: &mut NameTables, delta: &NamesDelta) {
    for change in &delta.changes {
        let network = tables.networks.iter_mut().find(|network| network.network == change.network).unwrap();
        for gone in &change.removed {
            let at = network.endpoints.iter().position(|entry| entry == gone).unwrap();
            network.endpoints.remove(at);
        }
        network.endpoints.extend(change.added.iter().cloned());
    }
}

/// A network of ten, one of which changes with `n`.
fn tables(n: u32) -> NameTables {
    let endpoint = |name: String| EndpointNames { names: vec![name], ..EndpointNames::default() };
    let others = (0..9).map(|other| endpoint(format!("one-that-stays-{other}")));
    let endpoints = others.chain([endpoint(format!("web-{n}"))]).collect();
    let network = NetworkNames { network: "net".into(), endpoints, ..NetworkNames::default() };
    NameTables { networks: vec![network], ..NameTables::default() }
}

async fn host() -> (Host, GuestId) {
    host_speaking(Protocols::SPOKEN).await
}

async fn host_speaking(protocols: Protocols) -> (Host, GuestId) {
    let options = Options::on("127.0.0.1:0".parse().unwrap(), Identity::generate().unwrap());
    let host = Host::speaking(protocols, options).await.unwrap();
    let guest: GuestId = "g".parse().unwrap();
    host.admit(&guest, admission(None));
    (host, guest)
}

#[tokio::test]
async fn names_that_change_forty_times_come_as_changes() {
    let (host, guest) = host().await;
    let mut fake = Fake::dial(&host, &guest).await;
    let mut kinds = Vec::new();
    for n in 0..=40 {
        let update = host.update_names(&guest, tables(n));
        let (answer, kind) = tokio::join!(update, fake.take_names());
        assert_eq!(answer.unwrap().stamp, stamp(u64::from(n) + 1, &tables(n)));
        kinds.push(kind);
    }
    assert_eq!((kinds[0], &kinds[1..]), ("names", &["delta"; 40][..]));
    // One that has lost its names is given the whole, and whoever waits has the answer.
    fake.names = None;
    let update = tokio::spawn(host.update_names(&guest, tables(41)));
    assert_eq!((fake.take_names().await, fake.take_names().await), ("gap", "names"));
    assert_eq!(update.await.unwrap().unwrap().stamp, stamp(42, &tables(41)));
}

#[tokio::test]
async fn a_flush_reaches_the_guest() {
    let (host, guest) = host().await;
    assert!(!host.flush_cache(&guest), "it is away");
    let mut fake = Fake::dial(&host, &guest).await;
    assert!(host.flush_cache(&guest));
    assert!(matches!(fake.hear().await, FromHost::FlushCache(_)));
    assert!(!host.flush_cache(&"nobody".parse().unwrap()));
}

/// What the host program has been told so far, without what is the same each time.
fn told(events: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::Connected(hello) => {
                assert_eq!(hello.token, token(0), "nobody is told of a token");
                told.push("connected".to_owned());
            }
            EventKind::Disconnected { .. } => told.push("disconnected".to_owned()),
            kind => told.push(serde_json::to_string(&kind).unwrap()),
        }
    }
    told
}

async fn refused(mut fake: Fake) -> String {
    match fake.hear().await {
        FromHost::Refused(refused) => {
            assert!(fake.stream.next().await.is_none(), "it is closed");
            refused.reason
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_is_whoever_has_redeemed_its_token() {
    let (host, guest) = host().await;
    let mut events = host.events();
    let reason = refused(Fake::greet(&host, &guest, OTHER, token(8)).await).await;
    assert_eq!(told(&mut events), [format!(r#"{{"refused":{{"reason":"{reason}"}}}}"#)]);
    assert!(reason.contains("is not the one"), "{reason}");
    let mut first = Fake::dial(&host, &guest).await;
    let reason = refused(Fake::greet(&host, &guest, OTHER, token(7)).await).await;
    assert!(reason.contains("another key"), "{reason}");
    let reuse = format!(r#"{{"identity_reuse":{{"peer":"memory","bound":"{KEY}","shown":"{OTHER}"}}}}"#);
    let enrolled = format!(r#"{{"enrolled":{{"key":"{KEY}"}}}}"#);
    assert_eq!(told(&mut events), [enrolled, "connected".to_owned(), reuse]);
    // The first one was not disturbed, and comes back without a word about its token.
    assert!(host.flush_cache(&guest));
    assert!(matches!(first.hear().await, FromHost::FlushCache(_)));
    let mut again = Fake::greet(&host, &guest, KEY, token(0)).await;
    assert!(matches!(again.hear().await, FromHost::Welcome(_)));
}

#[tokio::test]
async fn an_expired_token_is_refused_and_a_noted_key_is_not() {
    let (host, guest) = host().await;
    host.admit(&guest, Admission { expires: SystemTime::UNIX_EPOCH, ..admission(None) });
    let reason = refused(Fake::greet(&host, &guest, KEY, token(7)).await).await;
    assert!(reason.contains("expired"), "{reason}");
    host.admit(&guest, Admission { expires: SystemTime::UNIX_EPOCH, ..admission(Some(KEY)) });
    Fake::dial(&host, &guest).await;
    let stranger: GuestId = "stranger".parse().unwrap();
    let reason = refused(Fake::greet(&host, &stranger, KEY, token(7)).await).await;
    assert_eq!(reason, "stranger is not a guest of this host");
}

#[tokio::test]
async fn a_guest_that_is_admitted_anew_is_enrolled_anew() {
    let (host, guest) = host().await;
    let mut fake = Fake::dial(&host, &guest).await;
    // By the same key it stays.
    host.admit(&guest, admission(Some(KEY)));
    assert!(host.flush_cache(&guest));
    assert!(matches!(fake.hear().await, FromHost::FlushCache(_)));
    host.admit(&guest, Admission { token: token(9), ..admission(None) });
    assert!(!host.flush_cache(&guest), "its connection is another's");
    while let Some(Ok(_)) = fake.stream.next().await {}
    refused(Fake::greet(&host, &guest, KEY, token(7)).await).await;
    let mut new = Fake::greet(&host, &guest, OTHER, token(9)).await;
    assert!(matches!(new.hear().await, FromHost::Welcome(_)));
}

#[tokio::test]
async fn guests_are_told_of_the_hosts_keys() {
    use tether_wire::message::{HostKey, HostKeyKept};
    let (host, guest) = host().await;
    let mut events = host.events();
    let mut fake = Fake::dial(&host, &guest).await;
    let (old, next) = (host.pins()[0], Identity::generate().unwrap());
    host.announce(next.pin());
    let both = HostKey { pins: vec![old, next.pin()] };
    assert_eq!(fake.hear().await, both.clone().into());
    assert_eq!(host.pins(), both.pins);
    fake.say(HostKeyKept { pins: both.pins.clone() }).await;
    // One that comes now hears of it too, after its welcome.
    let mut again = Fake::dial(&host, &guest).await;
    assert_eq!(again.hear().await, both.into());
    host.rotate(next.clone());
    let mut by_the_next = Fake::dial(&host, &guest).await;
    assert_eq!(by_the_next.hear().await, HostKey { pins: vec![next.pin()] }.into());
    let kept = told(&mut events).into_iter().find(|told| told.contains("host_key_kept"));
    assert!(kept.unwrap().contains(&next.pin().to_string()));
}

/// Name tables of some megabytes.
fn long_tables() -> NameTables {
    let endpoint = |n| EndpointNames { names: vec![format!("{n:040}")], ..EndpointNames::default() };
    let endpoints = (0..50_000).map(endpoint).collect();
    let network = NetworkNames { network: "net".into(), endpoints, ..NetworkNames::default() };
    NameTables { networks: vec![network], ..NameTables::default() }
}

/// A status of some megabytes.
fn long_status() -> Status {
    let condition = Condition { part: "x".repeat(1_000), message: "y".repeat(1_000) };
    Status { conditions: vec![condition; 1_500], ..Status::default() }
}

#[tokio::test]
async fn a_guest_that_sends_megabytes_while_it_is_sent_megabytes_is_heard() {
    let (host, guest) = host().await;
    let mut fake = Fake::dial(&host, &guest).await;
    let update = tokio::spawn(host.update_names(&guest, long_tables()));
    tokio::task::yield_now().await;
    // It does not read before it has sent this.
    fake.say(long_status()).await;
    assert_eq!(fake.take_names().await, "names");
    update.await.unwrap().unwrap();
    assert_eq!(*host.status(&guest).unwrap(), long_status());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_replaced_ends_whatever_is_on_its_way() {
    let (host, guest) = host().await;
    let replaced = Fake::dial(&host, &guest).await;
    drop(host.update_names(&guest, long_tables()));
    // It does not read them. Less than a guest may take to read nothing.
    tokio::time::sleep(PATIENCE / 2).await;
    let dismissed = Fake::dial(&host, &guest).await;
    timeout(PATIENCE / 4, replaced.serving).await.unwrap().unwrap();
    tokio::time::sleep(PATIENCE / 4).await;
    host.dismiss(&guest);
    timeout(PATIENCE / 4, dismissed.serving).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_that_floods_is_slowed_down_and_its_words_are_not_lost() {
    let (host, guest) = host().await;
    let mut fake = Fake::dial(&host, &guest).await;
    let began = Instant::now();
    for nonce in 0..10_000 {
        fake.say(tether_wire::message::Pong { nonce }).await;
        let nothing = Frame { kind: 999, version: 1, payload: vec![].into() };
        fake.stream.send(nothing).await.unwrap();
    }
    fake.say(long_status()).await;
    while host.status(&guest).is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // 1,024 each second, and 2,048 at once.
    let took = began.elapsed().as_secs();
    assert!((17..20).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn one_that_floods_is_stopped_at_once() {
    let (host, guest) = host().await;
    let mut fake = Fake::dial(&host, &guest).await;
    for nonce in 0..5_000 {
        fake.say(tether_wire::message::Pong { nonce }).await;
    }
    // It is not read for seconds.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(host.stop(&guest, Duration::from_secs(7)));
    let heard = timeout(Duration::from_millis(100), fake.hear()).await.expect("it is told");
    assert!(matches!(heard, FromHost::Stop(_)), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_floods_and_dials_again_is_slowed_down_no_less() {
    let (host, guest) = host().await;
    let began = Instant::now();
    for uptime_ms in 1..=10 {
        let mut fake = Fake::dial(&host, &guest).await;
        for nonce in 0..2_000 {
            fake.say(tether_wire::message::Pong { nonce }).await;
        }
        fake.say(Status { uptime_ms, ..Status::default() }).await;
        while host.status(&guest).is_none_or(|status| status.uptime_ms < uptime_ms) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let took = began.elapsed().as_secs();
    assert!((17..21).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn one_that_says_garbage_and_dials_again_is_slowed_down() {
    let (host, guest) = host().await;
    let began = Instant::now();
    for _ in 0..10 {
        let mut fake = Fake::dial(&host, &guest).await;
        // A Status, as far as its length goes.
        let garbage = Frame { kind: 48, version: 1, payload: vec![0xff; 4 << 20].into() };
        fake.stream.send(garbage).await.unwrap();
        fake.serving.await.unwrap();
    }
    let took = began.elapsed().as_secs();
    assert!((7..11).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn one_that_has_names_sent_again_and_again_is_slowed_down() {
    let (host, guest) = host().await;
    let mut fake = Fake::dial(&host, &guest).await;
    drop(host.update_names(&guest, long_tables()));
    assert_eq!(fake.take_names().await, "names");
    let began = Instant::now();
    // 2.3 MB each time.
    for _ in 0..20 {
        let names = Stamp { generation: fake.names.as_ref().unwrap().0, ..stamp(0, &tables(0)) };
        fake.say(Status { names: Some(names), ..Status::default() }).await;
        assert_eq!(fake.take_names().await, "names");
    }
    let took = began.elapsed().as_secs();
    assert!((7..11).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn one_that_says_much_while_nobody_listens_takes_no_others_places() {
    use tether_wire::message::{Exit, Received, WorkloadExited};
    let (host, guest) = host().await;
    let mut events = host.events();
    let other: GuestId = "other".parse().unwrap();
    host.admit(&other, admission(None));
    let (mut fake, mut quiet) = (Fake::dial(&host, &guest).await, Fake::dial(&host, &other).await);
    quiet.say(Received { generation: 7 }).await;
    for generation in 0..10_000 {
        fake.say(Received { generation }).await;
    }
    fake.say(WorkloadExited { exit: Exit::Code(3) }).await;
    // It is read at 1,024 messages a second.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let (mut its, mut others, mut exit) = (0, 0, None);
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::Received { .. } if event.guest == guest => its += 1,
            EventKind::Received { generation } => others += generation,
            EventKind::WorkloadExited(Exit::Code(code)) => exit = Some((code, event.dropped)),
            _ => {}
        }
    }
    assert_eq!((its, others, exit), (256, 7, Some((3, 9_744))));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_does_not_listen_keeps_nothing_from_another() {
    use tether_wire::message::Received;
    let (host, guest) = host().await;
    let (mut events, _asleep) = (host.events(), host.events());
    let mut fake = Fake::dial(&host, &guest).await;
    let mut heard = 0;
    for generation in 1..=1_000 {
        fake.say(Received { generation }).await;
        while heard < generation {
            let event = timeout(PATIENCE, events.recv()).await.expect("it is told").unwrap();
            if let EventKind::Received { generation } = event.kind {
                heard = generation;
            }
        }
    }
}

#[tokio::test]
async fn the_newest_word_about_a_workload_is_kept() {
    use tether_wire::message::{self, Exit};
    let (host, guest) = host().await;
    let mut fake = Fake::dial(&host, &guest).await;
    assert_eq!(host.workload(&guest), None);
    let started = message::EventKind::WorkloadStarted { pid: 7 };
    fake.say(message::Event { uptime_ms: 1, dropped: 0, kind: started }).await;
    let becomes = async |wanted| {
        while host.workload(&guest) != Some(Workload::clone(&wanted)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, becomes(Workload::Started { pid: 7 })).await.unwrap();
    fake.say(WorkloadExited { exit: Exit::Code(3) }).await;
    timeout(PATIENCE, becomes(Workload::Exited(Exit::Code(3)))).await.unwrap();
    host.admit(&guest, admission(None));
    assert_eq!(host.workload(&guest), None, "another's");
}

#[tokio::test]
async fn a_connection_that_the_program_gives_up_is_one_that_has_ended() {
    let (host, guest) = host().await;
    let mut events = host.events();
    let fake = Fake::dial(&host, &guest).await;
    while !host.flush_cache(&guest) {
        tokio::task::yield_now().await;
    }
    fake.serving.abort();
    assert!(fake.serving.await.unwrap_err().is_cancelled());
    assert!(!host.flush_cache(&guest), "nobody is there");
    assert_eq!(told(&mut events).split_off(1), ["connected", "disconnected"]);
}

#[tokio::test]
async fn strangers_that_are_refused_take_no_guests_places() {
    use tether_wire::message::Received;
    let (host, guest) = host().await;
    let mut events = host.events();
    let mut fake = Fake::dial(&host, &guest).await;
    fake.say(Received { generation: 7 }).await;
    let (mut reuses, mut refusals, mut received) = (0, 0, 0);
    for n in 0..5_000 {
        // Half of them say that they are the guest.
        let named = if n % 2 == 0 { guest.clone() } else { "nobody".parse().unwrap() };
        refused(Fake::greet(&host, &named, OTHER, token(8)).await).await;
    }
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::IdentityReuse { .. } => reuses += 1,
            EventKind::Refused { .. } => refusals += 1,
            EventKind::Received { generation } => received = generation,
            _ => {}
        }
    }
    // The alarm is told once in 10 s.
    assert_eq!((received, refusals, reuses), (7, 256, 1));
}

#[tokio::test]
async fn no_guests_alarm_hides_anothers() {
    let (host, guest) = host().await;
    let other: GuestId = "other".parse().unwrap();
    host.admit(&other, admission(Some(KEY)));
    let _there = Fake::dial(&host, &guest).await;
    let mut events = host.events();
    for named in [&guest, &guest, &other, &guest, &other] {
        refused(Fake::greet(&host, named, OTHER, token(8)).await).await;
    }
    let alarmed = std::iter::from_fn(|| events.try_recv().ok())
        .filter(|event| matches!(event.kind, EventKind::IdentityReuse { .. }));
    assert_eq!(alarmed.map(|event| event.guest).collect::<Vec<_>>(), [guest, other]);
}
