//! What a host program counts and what its log says, from sessions that really were.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{encoding::text, registry::Registry};
use tether_wire::{
    message::{Failed, Failure, Phase, Verified},
    problem::Problem,
    state::DesiredState,
    status::Observed,
};

use super::*;

fn state(hostname: &str) -> DesiredState {
    DesiredState { hostname: hostname.to_owned(), ..DesiredState::default() }
}

impl Fake {
    /// Takes a desired state: its number and digest.
    async fn take_state(&mut self) -> Stamp {
        let FromHost::Apply(apply) = self.hear().await else { panic!("no state") };
        Stamp { generation: apply.generation, digest: tether_wire::message::state_digest(&apply.state) }
    }

    async fn verify(&mut self) -> Stamp {
        let stamp = self.take_state().await;
        let (skipped, observed) = (vec![], Observed::default());
        let verified = Verified { stamp, operations: 1, took_us: 7, skipped, confirm_within_s: 0, observed };
        self.say(verified).await;
        stamp
    }

    async fn fail(&mut self) {
        let Stamp { generation, .. } = self.take_state().await;
        let problems = vec![Problem { path: "hostname".into(), message: "bad".into() }];
        let failure = Failure { phase: Phase::Check, problems, operation: None, restored: true };
        self.say(Failed { generation, failure }).await;
    }
}

/// The numbers, as Prometheus reads them, without words about them.
fn scraped(host: &Host) -> Vec<String> {
    let (mut registry, mut text) = (Registry::default(), String::new());
    host.register(&mut registry);
    text::encode(&mut text, &registry).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    text.lines().filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect()
}

fn has(host: &Host, lines: &[&str]) {
    let scraped = scraped(host);
    for line in lines {
        assert!(scraped.iter().any(|found| found == line), "no {line} in {scraped:#?}");
    }
}

#[tokio::test]
async fn the_numbers_are_those_of_what_has_happened() {
    let (host, guest) = host().await;
    let other: GuestId = "other".parse().unwrap();
    host.admit(&other, admission(None));
    has(
        &host,
        &["tether_guests{state=\"away\"} 2", "tether_reconnects_total 0", "tether_apply_seconds_count 0"],
    );

    let mut fake = Fake::dial(&host, &guest).await;
    has(&host, &["tether_guests{state=\"away\"} 1", "tether_guests{state=\"idle\"} 1"]);
    let mut applying = Box::pin(host.apply(&guest, state("a")));
    assert!(futures_util::poll!(&mut applying).is_pending());
    has(&host, &["tether_guests{state=\"pending\"} 1", "tether_guests{state=\"idle\"} 0"]);
    let (verified, _) = tokio::join!(applying, fake.verify());
    verified.unwrap();
    has(&host, &["tether_guests{state=\"in_force\"} 1", "tether_apply_seconds_count 1"]);
    let (failed, ()) = tokio::join!(host.apply(&guest, state("b")), fake.fail());
    failed.unwrap_err();
    has(&host, &["tether_guests{state=\"failed\"} 1", "tether_apply_seconds_count 1"]);

    // Who comes back has what was in force, and what it refused is sent again.
    let mut fake = Fake::dial(&host, &guest).await;
    has(&host, &["tether_reconnects_total 1", "tether_guests{state=\"failed\"} 1"]);
    fake.verify().await;
    while !scraped(&host).contains(&"tether_guests{state=\"in_force\"} 1".to_owned()) {
        tokio::task::yield_now().await;
    }

    refused(Fake::greet(&host, &guest, OTHER, token(7)).await).await;
    refused(Fake::greet(&host, &other, OTHER, token(8)).await).await;
    refused(Fake::greet(&host, &"stranger".parse().unwrap(), OTHER, token(7)).await).await;
    let mut modern = Fake::open(&host, KEY);
    modern.hello(&other, token(7), Protocols { min: 9, max: 9 }).await;
    refused(modern).await;
    drop(Fake::open(&host, KEY));
    while host.turned_away() == 0 {
        tokio::task::yield_now().await;
    }
    let reasons = ["key", "token", "unknown", "protocol"];
    let refused = reasons.map(|reason| format!("tether_refused_total{{reason=\"{reason}\"}} 1"));
    has(&host, &refused.each_ref().map(String::as_str));
    has(&host, &["tether_turned_away_total 1", "tether_events_dropped_total 0"]);
}

#[tokio::test]
async fn a_future_that_is_dropped_leaves_what_was_wanted() {
    let (host, guest) = host().await;
    let mut fake = Fake::dial(&host, &guest).await;
    let mut applying = Box::pin(host.apply(&guest, state("a")));
    assert!(futures_util::poll!(&mut applying).is_pending());
    drop(applying);
    let first = fake.verify().await;
    // Asked for again, it is in force under a number of its own.
    let (verified, second) = tokio::join!(host.apply(&guest, state("a")), fake.verify());
    assert_eq!(verified.unwrap().stamp, second);
    assert_eq!((first.digest, first.generation + 1), (second.digest, second.generation));
}

/// What a log says, in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_says_of_which_guest_and_which_generation_it_speaks() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // For all tests of this process: whether anybody listens is kept for each line of code, not for
    // each thread. The guest is this test's alone.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let (host, _) = host().await;
    let guest: GuestId = "logged".parse().unwrap();
    host.admit(&guest, admission(None));
    let mut fake = Fake::dial(&host, &guest).await;
    let (verified, _) = tokio::join!(host.apply(&guest, state("a")), fake.verify());
    verified.unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for words in [
        "guest{guest=logged peer=\"memory\"}: tether_host::session: connected",
        "guest{guest=logged peer=\"memory\"}:apply{generation=1}: tether_host::session: sent",
        "guest{guest=logged peer=\"memory\"}:apply{generation=1}: tether_host::session: verified took_us=7",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
}

#[tokio::test]
async fn one_that_comes_and_goes_as_fast_as_it_can_is_hung_up_on() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    let (host, _) = host().await;
    // What is no TLS is answered by an alert, where anybody looks at it.
    let come = async || {
        let mut stream = TcpStream::connect(host.address()).await.unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        !answer.is_empty()
    };
    let (began, mut looked_at) = (std::time::Instant::now(), 0);
    for _ in 0..200 {
        looked_at += u32::from(come().await);
    }
    // However slow this machine is.
    let most = 16 * (began.elapsed().as_millis() / crate::strangers::HELD.as_millis() + 1);
    assert!((16..=most).contains(&looked_at.into()), "{looked_at} of 200, at most {most}");
    tokio::time::sleep(crate::strangers::HELD * 2).await;
    assert!(come().await, "there is room again");
    assert_eq!(host.turned_away(), 201);
}
