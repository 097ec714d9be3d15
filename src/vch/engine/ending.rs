//! How containers end, in Docker's terms: exit codes and words, from what the guest says or, when
//! nobody was there to hear it, from its machine's console.

use std::{
    fs,
    io::{Read as _, Seek as _},
    path::Path,
};

use tether_wire::message::Exit;

use crate::said::one_line;

/// What process 1 says on the console of its workload's end.
const LAST_WORD: &str = "tether: workload ended: ";
/// How much of a console's end is looked at, in bytes.
const TAIL: u64 = 4 << 10;

/// Docker's exit codes for what was not started.
pub(super) const CANNOT_RUN: i64 = 126;
pub(super) const NOT_FOUND: i64 = 127;
pub(super) const DAEMON_ERROR: i64 = 128;

/// How a container ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// Docker's exit code.
    pub(super) code: i64,
    /// Why, where its workload did not end by itself.
    pub(super) error: String,
}

/// A workload's end in Docker's terms.
pub(super) fn end_of(exit: &Exit) -> End {
    match exit {
        Exit::Code(code) => End { code: i64::from(*code), error: String::new() },
        Exit::Signal(signal) => End { code: 128 + i64::from(*signal), error: String::new() },
        Exit::NotStarted(why) => {
            let why = one_line(why);
            // The words Docker's client tells 127 and 126 by.
            let program = why.split(": ").next().unwrap_or_default();
            if why.ends_with("(os error 2)") {
                let reason = if program.contains('/') {
                    format!("exec: {program:?}: stat {program}: no such file or directory")
                } else {
                    format!("exec: {program:?}: executable file not found in $PATH")
                };
                End { code: NOT_FOUND, error: format!("unable to start container process: {reason}") }
            } else if why.ends_with("(os error 13)") {
                let reason = format!("exec: {program:?}: permission denied");
                End { code: CANNOT_RUN, error: format!("unable to start container process: {reason}") }
            } else {
                End { code: CANNOT_RUN, error: format!("unable to start container process: {why}") }
            }
        }
    }
}

/// How a machine ended whose guest had nobody to tell: its console has process 1's last word.
pub(super) fn end_by_console(console: &Path) -> End {
    let text = tail(console);
    let word = text.lines().rev().find_map(|line| line.split_once(LAST_WORD).map(|(_, word)| word.trim()));
    let exit = word.and_then(|word| match word.split_once(' ') {
        Some(("exit", code)) => Some(Exit::Code(code.parse().ok()?)),
        Some(("signal", signal)) => Some(Exit::Signal(signal.parse().ok()?)),
        _ => word.strip_prefix("not started: ").map(|why| Exit::NotStarted(why.to_owned())),
    });
    match exit {
        Some(exit) => end_of(&exit),
        None => End {
            code: 255,
            error: format!("the container's machine ended before its workload did{}", last_words(console)),
        },
    }
}

/// The end of a console, for a person who has nothing but the error.
pub(super) fn last_words(console: &Path) -> String {
    let text = tail(console);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.get(lines.len().saturating_sub(4)..) {
        Some(last) if !last.is_empty() => format!("; last on its console: {}", last.join(" | ")),
        _ => "; its console is empty: the boot image or QEMU is at fault".to_owned(),
    }
}

/// The end of a console, without what would do something to a terminal.
fn tail(console: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(console)?;
        let length = file.metadata()?.len();
        file.seek(std::io::SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
