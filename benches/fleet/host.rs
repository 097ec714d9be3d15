//! The host program: wants a state and names of each of N guests, as `vch` does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tether_host::{
    Admission, Host, Identity, Options, Pin, Tables,
    names::{EndpointNames, NameTables, NetworkNames},
    state::{DesiredState, Interface, Match, Route},
};

use crate::{
    guests::{id, token},
    part::{say, words},
};

/// How many names each guest knows, before one is added.
const NAMES: u32 = 1_000;

/// The process: listens, says where, and does what it is told.
pub(crate) fn run(directory: &Path, guests: &str, address: &str) -> ExitCode {
    let guests: u32 = guests.parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let identity = identity(directory);
        let pin = identity.pin();
        let options = Options::on(address.parse().expect("an address"), identity);
        let host = Host::listen(options).await.expect("a free port");
        let mut program = Program { host, guests, names: tables(NAMES), count: NAMES };
        let before = memory_kib();
        // What a program that has written keys down finds there after a restart.
        let keys: Vec<Pin> = fs::read_to_string(keys_file(directory)).map_or_else(
            |_| Vec::new(),
            |keys| keys.lines().map(|key| key.parse().expect("a pin")).collect(),
        );
        for number in 0..guests {
            let admission = Admission::new(Duration::from_hours(1));
            let admission = match keys.get(number as usize) {
                Some(key) => Admission { key: Some(*key), ..admission },
                None => Admission { token: token(number), ..admission },
            };
            program.host.admit(&id(number), admission);
        }
        let enrolling = tokio::spawn(program.enrol());
        say(&json!({ "address": program.host.address().to_string(), "pin": pin.to_string(), "kib": before }));
        say(&enrolling.await.expect("no panic"));
        let keys = (0..guests).map(|number| program.host.key(&id(number)).expect("it has come").to_string());
        // As a whole: it is killed without a warning, perhaps now.
        let (file, new) = (keys_file(directory), directory.join("keys.new"));
        fs::write(&new, keys.collect::<Vec<_>>().join("\n"))
            .and_then(|()| fs::rename(&new, file))
            .expect("a file");
        words(async |word| match word {
            "name" => program.name().await,
            "memory" => json!({ "kib": memory_kib() }),
            "cpu" => json!({ "s": cpu_s() }),
            other => panic!("{other}"),
        })
        .await;
    });
    ExitCode::SUCCESS
}

struct Program {
    host: Host,
    guests: u32,
    names: Tables,
    /// How many names there are.
    count: u32,
}

impl Program {
    /// Wants a state and the names of every guest. Resolves when all of it is in force.
    fn enrol(&self) -> impl Future<Output = Value> + Send + use<> {
        let (host, names) = (self.host.clone(), self.names.clone());
        let all: FuturesUnordered<_> = (0..self.guests)
            .map(|number| {
                let guest = id(number);
                let (host, told) = (host.clone(), host.share_names(&guest, &names));
                async move {
                    let (verified, known) = tokio::join!(host.apply(&guest, state(number)), told);
                    verified.expect("it is put in force");
                    known.expect("they are put in force");
                }
            })
            .collect();
        async move {
            let done = all.count().await;
            json!({ "verified": done })
        }
    }

    /// Adds a name that all are to know. How long it takes until each of them does.
    async fn name(&mut self) -> Value {
        self.count += 1;
        let names = tables(self.count);
        let began = Instant::now();
        self.names = names;
        let all: FuturesUnordered<_> = (0..self.guests)
            .map(|number| {
                let told = self.host.share_names(&id(number), &self.names);
                async move {
                    told.await.expect("they are put in force");
                    began.elapsed().as_secs_f64() * 1e3
                }
            })
            .collect();
        let mut times: Vec<f64> = all.collect().await;
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        json!({ "p50": at(50), "p99": at(99) })
    }
}

/// What this host is known by: kept, so that the next one is known too.
fn identity(directory: &Path) -> Identity {
    let file = directory.join("host.pem");
    if let Ok(text) = fs::read_to_string(&file) {
        return Identity::from_pem(&text).expect("it was written by this program");
    }
    let identity = Identity::generate().expect("a key");
    fs::write(&file, identity.to_pem().reveal()).expect("a file");
    identity
}

fn keys_file(directory: &Path) -> PathBuf {
    directory.join("keys")
}

/// So many names on one network, each of one address.
fn tables(count: u32) -> Tables {
    let endpoint = |number: u32| EndpointNames {
        names: vec![format!("container-{number}")],
        addresses: vec![format!("172.18.{}.{}", number / 250, number % 250 + 1)],
        ..EndpointNames::default()
    };
    let endpoints = (0..count).map(endpoint).collect();
    let network = NetworkNames { network: "fleet".to_owned(), endpoints, ..NetworkNames::default() };
    Tables::new(NameTables { networks: vec![network], ..NameTables::default() }).expect("good tables")
}

fn state(number: u32) -> DesiredState {
    DesiredState {
        hostname: format!("guest-{number}"),
        interfaces: vec![Interface {
            matching: Some(Match::of_mac("02:42:ac:12:00:02")),
            name: "eth0".to_owned(),
            addresses: vec![format!("172.18.{}.{}/16", number / 250, number % 250 + 1).as_str().into()],
            routes: vec![Route {
                destination: "0.0.0.0/0".to_owned(),
                gateway: Some("172.18.255.254".to_owned()),
                ..Route::default()
            }],
            ..Interface::default()
        }],
        ..DesiredState::default()
    }
}

/// This process's resident memory.
fn memory_kib() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("/proc is there");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).expect("it has memory");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// The processor time this process has had, in seconds.
fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("it is there");
    Duration::from(time).as_secs_f64()
}
