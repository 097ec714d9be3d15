//! Sessions over a stream in memory, with a guest that does what the protocol says.

use tether_wire::{
    message::{Names, NamesApplied, NamesDelta, NamesGap},
    names::{EndpointNames, NameTables, NetworkNames, Summary},
    status::Stamp,
};
use tokio::{io::DuplexStream, sync::Semaphore};

use super::*;
use crate::{Host, Options};

/// The guest's end of a connection, greeted.
struct Fake {
    stream: Stream<DuplexStream>,
    /// The names in force and their version.
    names: Option<(u64, NameTables)>,
}

impl Fake {
    async fn dial(host: &Host, guest: &GuestId) -> Self {
        let (near, far) = tokio::io::duplex(1 << 16);
        let stranger = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        tokio::spawn(run(near, "memory".into(), Arc::clone(&host.shared), stranger));
        let mut fake = Self { stream: Framed::new(far, Sender::Host.codec()), names: None };
        let hello = Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            guest: guest.to_string(),
            agent_version: String::new(),
            capabilities: vec![],
            boot_id: String::new(),
            applied: None,
            names: None,
        };
        fake.say(hello).await;
        assert!(matches!(fake.hear().await, FromHost::Welcome(_)));
        fake
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
    let host = Host::listen(Options::on("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let guest: GuestId = "g".parse().unwrap();
    host.admit(&guest);
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
