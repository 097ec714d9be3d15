//! What a host of many guests takes: one host program and N guests, in two processes of their own.
//!
//! The guests are the real channel code, over TLS and TCP on loopback, each with a key and an
//! address of its own; in place of a kernel they have a digest. The host program is the library as
//! `vch` uses it. What is measured of the host is the host's process alone; the two processors are
//! shared by both. Sizes are arguments; `name=value` lines come last.
//!
//! A size takes about a minute, and every answer has a deadline.

#![allow(clippy::expect_used, reason = "a benchmark whose parts fail says so and ends")]

mod fleet;
mod guests;
mod host;
mod part;

use std::{env, process::ExitCode};

use fleet::Fleet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many guests, unless told otherwise.
const SIZES: [u32; 3] = [100, 1_000, 10_000];
/// More do not fit into the addresses and ports that are used.
const MAX_GUESTS: u32 = 50_000;
/// Descriptors of a process besides its guests'.
const OTHER_FILES: u64 = 64;

fn main() -> ExitCode {
    // cargo says --bench.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["host", directory, guests, address] => return host::run(directory.as_ref(), guests, address),
        ["guests", guests, address, pin] => return guests::run(guests, address, pin),
        _ => {}
    }
    let mut sizes = Vec::new();
    for word in words {
        match word.parse() {
            Ok(size) if (1..=MAX_GUESTS).contains(&size) => sizes.push(size),
            _ => {
                eprintln!("{word}: a number of guests is wanted, 1 to {MAX_GUESTS}");
                return ExitCode::FAILURE;
            }
        }
    }
    if sizes.is_empty() {
        sizes.extend(SIZES);
    }
    let mut lines = Vec::new();
    for size in sizes {
        match allow_files(u64::from(size) + OTHER_FILES) {
            Ok(()) => lines.extend(Fleet::new(size).measure()),
            Err(why) => eprintln!("{size} guests are left out: {why}"),
        }
    }
    for line in lines {
        println!("{line}");
    }
    ExitCode::SUCCESS
}

/// Raises the limit of open files to this, for this process and those it starts.
fn allow_files(wanted: u64) -> Result<(), String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    if soft >= wanted {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))
        .map_err(|error| format!("{wanted} open files are needed, {hard} are allowed (ulimit -n): {error}"))
}
