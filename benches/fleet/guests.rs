//! N guests in one process: the agent's own channel, and below it a digest in place of a kernel.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use tether::channel::{Channel, Identity, Incoming};
use tether_wire::{
    boot::{Network, Tether, Way},
    identity::{JoinToken, Pin},
    message::{FromHost, NamesApplied, NamesDelta, NamesGap, Received, Verified, state_digest},
    names::{Sum, Summary},
    state::DesiredState,
    status::{AddressState, Observed, ObservedAddress, ObservedInterface, ObservedRoute, Stamp, Status},
    value::GuestId,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::part::{say, words};

/// As the agent's own: how often a status is sent, and how long more changes are waited for.
const STATUS_PERIOD: Duration = Duration::from_secs(15);
const STATUS_DELAY: Duration = Duration::from_millis(25);

/// Who a guest is, by its number.
pub(crate) fn id(number: u32) -> GuestId {
    format!("guest-{number}").parse().expect("an id")
}

/// What a guest is known by the first time.
pub(crate) fn token(number: u32) -> JoinToken {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    JoinToken::from_bytes(bytes)
}

/// The address a guest dials from, one of its own as on a network.
fn address(number: u32) -> Ipv4Addr {
    // From 127.1.0.0 on.
    Ipv4Addr::from((127 << 24) + (1 << 16) + number)
}

/// What happened to all of them.
#[derive(Debug, Default)]
struct Counters {
    /// Connections the host's kernel has accepted.
    connected: AtomicU64,
    /// Those it has not.
    failed: AtomicU64,
}

/// The process: says when it is ready, dials when told to, and counts.
pub(crate) fn run(guests: &str, host: &str, pin: &str) -> ExitCode {
    let guests: u32 = guests.parse().expect("a number");
    let host: SocketAddr = host.parse().expect("an address");
    let pin: Pin = pin.parse().expect("a pin");
    // In memory: a guest's own directory is, too.
    let directory = if Path::new("/dev/shm").is_dir() { TempDir::new_in("/dev/shm") } else { TempDir::new() };
    let directory = directory.expect("a temporary directory");
    let mut identities = Vec::new();
    for number in 0..guests {
        let tether = Tether {
            way: Way::Network(Network {
                mac: "02:7e:00:00:00:02".parse().expect("an address"),
                address: None,
                host: host.ip(),
                port: host.port(),
            }),
            pins: vec![pin],
            token: token(number),
        };
        let own = directory.path().join(number.to_string());
        identities.push(Identity::open(&own, &id(number), &tether).expect("a key"));
    }
    let counters = Arc::new(Counters::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        say(&json!({ "ready": guests }));
        let mut identities = Some(identities);
        words(async |word| {
            if word == "go" {
                for (identity, number) in identities.take().into_iter().flatten().zip(0..) {
                    let counters = Arc::clone(&counters);
                    let channel = Channel::over(identity, move || {
                        connect(address(number), host, Arc::clone(&counters))
                    });
                    tokio::spawn(Guest::new(channel, number).run());
                }
            }
            let count = |counter: &AtomicU64| counter.load(Relaxed);
            json!({ "connected": count(&counters.connected), "failed": count(&counters.failed) })
        })
        .await;
    });
    ExitCode::SUCCESS
}

/// As the agent dials, but for the NIC.
async fn connect(from: Ipv4Addr, host: SocketAddr, counters: Arc<Counters>) -> Result<TcpStream, String> {
    let connecting = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.set_nodelay(true)?;
        tokio::time::timeout(Duration::from_secs(4), socket.connect(host))
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)?
    };
    let connected = connecting.await;
    let counter = if connected.is_ok() { &counters.connected } else { &counters.failed };
    counter.fetch_add(1, Relaxed);
    connected.map_err(|error| format!("cannot reach {host}: {error}"))
}

/// What stands where the agent has its kernel and its DNS server.
struct Guest {
    channel: Channel,
    address: IpAddr,
    applied: Option<Stamp>,
    names: Option<(Stamp, Summary)>,
    observed: Observed,
    status_due: Option<Instant>,
}

impl Guest {
    fn new(channel: Channel, number: u32) -> Self {
        let address = address(number).into();
        Self { channel, address, applied: None, names: None, observed: Observed::default(), status_due: None }
    }

    async fn run(mut self) {
        let mut period = interval(STATUS_PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.status_due;
            tokio::select! {
                biased;
                incoming = self.channel.recv() => match incoming {
                    Some(incoming) => self.hear(incoming).await,
                    None => return,
                },
                _ = period.tick() => self.report_soon(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.report(),
            }
        }
    }

    /// Answers as the agent does.
    async fn hear(&mut self, Incoming { connection, message }: Incoming) {
        match message {
            FromHost::Apply(apply) => {
                self.channel.reply(connection, Received { generation: apply.generation }).await;
                let stamp = Stamp { generation: apply.generation, digest: state_digest(&apply.state) };
                self.observed = observed(&apply.state, self.address);
                self.applied = Some(stamp);
                let verified = Verified {
                    stamp,
                    operations: 4,
                    took_us: 1,
                    skipped: vec![],
                    confirm_within_s: 0,
                    observed: self.observed.clone(),
                };
                self.in_force();
                self.channel.reply(connection, verified).await;
            }
            FromHost::Names(names) => {
                let summary = Summary::of(&names.tables);
                let stamp = Stamp { generation: names.version, digest: summary.digest() };
                self.names = Some((stamp, summary));
                self.in_force();
                self.channel.reply(connection, NamesApplied { stamp }).await;
            }
            FromHost::NamesDelta(delta) => {
                let (stamp, has) = (delta.stamp, self.names.as_ref().map(|(stamp, _)| *stamp));
                match self.names.as_ref().and_then(|names| changed(names, &delta)) {
                    Some(summary) => {
                        self.names = Some((stamp, summary));
                        self.in_force();
                        self.channel.reply(connection, NamesApplied { stamp }).await;
                    }
                    None => {
                        self.channel.reply(connection, NamesGap { version: stamp.generation, has }).await;
                    }
                }
            }
            _ => return,
        }
        self.report_soon();
    }

    fn in_force(&self) {
        self.channel.in_force(self.applied, self.names.as_ref().map(|(stamp, _)| *stamp));
    }

    fn report_soon(&mut self) {
        self.status_due.get_or_insert_with(|| Instant::now() + STATUS_DELAY);
    }

    fn report(&mut self) {
        self.status_due = None;
        self.channel.report(Status {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            applied: self.applied,
            names: self.names.as_ref().map(|(stamp, _)| *stamp),
            observed: self.observed.clone(),
            ..Status::default()
        });
    }
}

/// The tables after a change, if it is one of these and leads to where it says.
fn changed((stamp, summary): &(Stamp, Summary), delta: &NamesDelta) -> Option<Summary> {
    let mut summary = summary.clone();
    for change in &delta.changes {
        let its = summary.networks.iter_mut().find(|(name, ..)| *name == change.network);
        let (_, links, endpoints) = its?;
        change.links_removed.iter().for_each(|entry| links.subtract(Sum::of(entry)));
        change.links_added.iter().for_each(|entry| links.add(Sum::of(entry)));
        change.removed.iter().for_each(|entry| endpoints.subtract(Sum::of(entry)));
        change.added.iter().for_each(|entry| endpoints.add(Sum::of(entry)));
    }
    (stamp.generation == delta.base && summary.digest() == delta.stamp.digest).then_some(summary)
}

/// What a guest with one NIC sees: two addresses and its routes beside those of the state.
fn observed(state: &DesiredState, link_local: IpAddr) -> Observed {
    let interfaces = state.interfaces.iter().zip(2..).map(|(interface, index)| {
        let address = |address: String| ObservedAddress { address, state: AddressState::Usable, ours: true };
        let wanted = interface.addresses.iter().map(|wanted| address(wanted.address.clone()));
        ObservedInterface {
            index,
            name: interface.name.clone(),
            mac: "02:42:ac:12:00:02".to_owned(),
            mtu: 1_500,
            up: true,
            carrier: true,
            addresses: wanted.chain([address(format!("{link_local}/32"))]).collect(),
            routes: (interface.routes.iter())
                .map(|route| ObservedRoute {
                    destination: route.destination.clone(),
                    gateway: route.gateway.clone(),
                    metric: 0,
                    table: 254,
                    ours: true,
                })
                .collect(),
            ..ObservedInterface::default()
        }
    });
    Observed { interfaces: interfaces.collect(), ..Observed::default() }
}
