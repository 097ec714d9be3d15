//! How long a machine takes from its start to a verified network, and what is ours of that.
//!
//! The same machine is booted in turn with tether and with the floor: a busybox script that
//! loads the same modules and sets the same addresses. Medians; `name=value` lines come last.

#![allow(clippy::expect_used, reason = "a benchmark without its machines says so and ends")]

use std::{fs, path::Path, process::Command, time::Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tether_tests::{Process, Space, binary, target, verified, wait_for};

const RUNS: usize = 9;

const CONFIG: &str = r#"
    [[network]]
    name = "bench"
    subnets = ["172.18.0.0/16"]
    [[container]]
    name = "guest"
    networks = ["bench"]
"#;

fn main() {
    let vch = binary("static-host");
    let (image, floor) = (target().join("vmimage"), target().join("vmimage-floor"));
    for needed in [&image, &floor] {
        assert!(needed.join("initramfs").exists(), "{}: use scripts/bench boot", needed.display());
    }
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let config = directory.path().join("vch.toml");
    fs::write(&config, CONFIG).expect("the configuration");
    let space = Space::new();
    let machine = |image: &Path, append: &str| {
        let mut command = space.command(&vch);
        command.arg("machine").arg(&config).arg("guest").arg("--image").arg(image);
        command.args(["--append", append]);
        command
    };
    let mut host = space.command(&vch);
    host.args(["serve", "--json"]).arg(&config);
    let mut host = Process::start(host);
    host.next_json("the host", |line| line["event"] == "listening");

    let mut figures = Figures::default();
    for run in 0..=RUNS {
        let ours = boot_tether(machine(&image, ""), &mut host, run == RUNS, &mut figures);
        let theirs = boot_floor(machine(&floor, "floor=172.18.0.2/16,172.18.0.1"));
        eprintln!("run {run} of {RUNS}: process 1 to verified {ours:.0} ms, floor {theirs:.0} ms");
        // The first run warms caches and finds the accelerator.
        if run == 0 {
            figures = Figures::default();
        } else {
            figures.floor.push(theirs);
        }
    }
    let note = fs::read_to_string(image.join("accelerator")).unwrap_or_default();
    println!("boot.accelerator={}", note.lines().nth(1).unwrap_or("tcg"));
    figures.print(fs::metadata(binary("tether")).expect("the binary").len());
}

#[derive(Default)]
struct Figures {
    start_to_init: Vec<f64>,
    init_to_channel: Vec<f64>,
    channel_to_verified: Vec<f64>,
    init_to_verified: Vec<f64>,
    floor: Vec<f64>,
    resident_kib: u64,
}

/// Boots a machine with tether; process 1 to verified in milliseconds.
fn boot_tether(command: Command, host: &mut Process, idle: bool, figures: &mut Figures) -> f64 {
    let started = Instant::now();
    let mut machine = Process::start(command);
    let init = at_line(&machine, ": process 1");
    let (channel, _) = host.next_json_at("the channel", |line| !line["detail"]["connected"].is_null());
    let (done, _) = host.next_json_at("the verification", verified("guest"));
    if idle {
        // The periodic status, when everything has long been quiet.
        let status = host.next_json("a later status", |line| {
            line["detail"]["status"]["uptime_ms"].as_u64() > Some(10_000)
        });
        figures.resident_kib = resident(&status);
    }
    machine.kill();
    // The next one makes a key of its own.
    host.signal(Signal::SIGUSR2);
    let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    figures.start_to_init.push(ms(started, init));
    figures.init_to_channel.push(ms(init, channel));
    figures.channel_to_verified.push(ms(channel, done));
    figures.init_to_verified.push(ms(init, done));
    ms(init, done)
}

fn resident(status: &Value) -> u64 {
    status["detail"]["status"]["rss_kib"].as_u64().expect("a number")
}

/// Boots a machine with the floor's script; process 1 to addresses set in milliseconds.
fn boot_floor(command: Command) -> f64 {
    let mut machine = Process::start(command);
    let init = at_line(&machine, "floor: process 1");
    let done = at_line(&machine, "floor: addresses set");
    at_line(&machine, "floor: read back");
    machine.end();
    (done - init).as_secs_f64() * 1e3
}

/// When a line with `text` came from `machine`.
fn at_line(machine: &Process, text: &str) -> Instant {
    wait_for(text, || machine.when(text))
}

impl Figures {
    fn print(&mut self, size: u64) {
        // Pair by pair: a machine that is busy for a while is busy for both.
        let pairs = self.init_to_verified.iter().zip(&self.floor);
        let mut over_floor: Vec<f64> = pairs.map(|(ours, theirs)| ours - theirs).collect();
        println!("boot.start_to_init_ms={:.1}", median(&mut self.start_to_init));
        println!("boot.init_to_channel_ms={:.1}", median(&mut self.init_to_channel));
        println!("boot.channel_to_verified_ms={:.1}", median(&mut self.channel_to_verified));
        println!("boot.init_to_verified_ms={:.1}", median(&mut self.init_to_verified));
        println!("boot.floor_ms={:.1}", median(&mut self.floor));
        println!("boot.over_floor_ms={:.1}", median(&mut over_floor));
        println!("size.tether_bytes={size}");
        println!("rss.guest_idle_kib={}", self.resident_kib);
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
