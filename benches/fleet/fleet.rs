//! One size: both processes, and what is asked of them in turn.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::part::Part;

/// How many names are added; the first round warms up.
const ROUNDS: u32 = 10;
/// How long the host is watched doing nothing: once the guests' status period, three heartbeats.
const IDLE: Duration = Duration::from_secs(15);
/// How long a host is away the second time: longer than a guest tries at first.
const DOWN: Duration = Duration::from_secs(10);
/// How long what was begun before goes on.
const SETTLE: Duration = Duration::from_secs(3);

/// A host and its guests.
pub(crate) struct Fleet {
    size: u32,
    /// What the host keeps.
    directory: TempDir,
    host: Part,
    guests: Part,
    address: String,
    /// The host's memory before it knew of guests.
    empty_kib: f64,
}

impl Fleet {
    pub(crate) fn new(size: u32) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let mut host = start_host(&directory, size, "127.0.0.1:0");
        let (_, ready) = host.hear();
        let text = |name: &str| ready[name].as_str().expect("it says so").to_owned();
        let address = text("address");
        let mut guests = Part::start("guests", &[&size.to_string(), &address, &text("pin")]);
        guests.hear();
        Self { size, directory, host, guests, address, empty_kib: number(&ready, "kib") }
    }

    /// Everything that is measured, as lines.
    pub(crate) fn measure(mut self) -> Vec<String> {
        let began = Instant::now();
        self.guests.ask("go");
        let (enrolled, _) = self.host.hear();
        let enrol_s = enrolled.duration_since(began).as_secs_f64();
        let dialled = self.connected();
        self.progress(&format!("enrolled in {enrol_s:.2} s, with {dialled} connections"));
        let enrol_cpu_s = number(&self.host.ask("cpu").1, "s");

        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (_, times) = self.host.ask("name");
            if round > 0 {
                p50.push(number(&times, "p50"));
                p99.push(number(&times, "p99"));
            }
        }
        let (p50, p99) = (median(&mut p50), median(&mut p99));
        self.progress(&format!("a name in {p50:.2} ms, in {p99:.2} ms with 99 % of them"));

        sleep(SETTLE);
        let kib = (number(&self.host.ask("memory").1, "kib") - self.empty_kib) / f64::from(self.size);
        let (from, before) = self.host.ask("cpu");
        sleep(IDLE);
        let (to, after) = self.host.ask("cpu");
        let idle = (number(&after, "s") - number(&before, "s")) / to.duration_since(from).as_secs_f64();
        self.progress(&format!("{kib:.1} KiB each, {:.2} % of a processor at rest", idle * 100.0));

        let (restart_s, hung_up) = self.restart(Duration::ZERO);
        self.progress(&format!("back {restart_s:.2} s after a restart, {hung_up:.0} hung up on"));
        let (return_s, hung_up_again) = self.restart(DOWN);
        self.progress(&format!("back {return_s:.2} s after {DOWN:?}, {hung_up_again:.0} hung up on"));

        let size = self.size;
        let line = |name: &str, value: f64, digits: usize| format!("fleet.{size}.{name}={value:.digits$}");
        vec![
            line("enrol_s", enrol_s, 2),
            line("enrol_cpu_us_per_guest", enrol_cpu_s * 1e6 / f64::from(size), 0),
            line("enrol_hung_up", dialled - f64::from(size), 0),
            line("name_p50_ms", p50, 2),
            line("name_p99_ms", p99, 2),
            line("kib_per_guest", kib, 1),
            line("idle_cpu_percent", idle * 100.0, 2),
            line("restart_s", restart_s, 2),
            line("restart_hung_up", hung_up, 0),
            line("return_s", return_s, 2),
            line("return_hung_up", hung_up_again, 0),
        ]
    }

    /// Kills the host and starts it again after a while. How long it takes, from when it listens,
    /// until it has heard from all that everything is in force; and how many connections were
    /// made in vain.
    fn restart(&mut self, down: Duration) -> (f64, f64) {
        let before = self.connected();
        self.host.kill();
        sleep(down);
        self.host = start_host(&self.directory, self.size, &self.address);
        let (listens, _) = self.host.hear();
        let (back, _) = self.host.hear();
        let hung_up = self.connected() - before - f64::from(self.size);
        (back.duration_since(listens).as_secs_f64(), hung_up)
    }

    /// How many connections the guests have made so far.
    fn connected(&mut self) -> f64 {
        number(&self.guests.ask("count").1, "connected")
    }

    fn progress(&self, what: &str) {
        eprintln!("{} guests: {what}", self.size);
    }
}

fn start_host(directory: &TempDir, size: u32, address: &str) -> Part {
    let directory = directory.path().display().to_string();
    Part::start("host", &[&directory, &size.to_string(), address])
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("{name} in {value}"))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
