//! A program a test started: its lines as they come, its end with the test's.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::wait_for;

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
    /// How many lines [`Process::next_json`] has been past.
    read: usize,
}

impl Process {
    /// Starts `command` and gathers its standard output; standard error goes to the test's own.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let gathered = Arc::clone(&lines);
        let output = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                gathered.lock().expect("no panic while it is held").push((Instant::now(), line));
            }
        });
        Self { child, lines, read: 0 }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said so far.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().expect("no panic while it is held");
        lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// The same, each with the time at which it came.
    pub fn lines_at(&self) -> Vec<(Instant, String)> {
        self.lines.lock().expect("no panic while it is held").clone()
    }

    /// When it first said a line that contains `text`.
    pub fn when(&self, text: &str) -> Option<Instant> {
        let lines = self.lines.lock().expect("no panic while it is held");
        lines.iter().find(|(_, line)| line.contains(text)).map(|(at, _)| *at)
    }

    /// Waits for the next line that is a JSON object for which `wanted` holds, and returns it.
    /// Lines before it are passed over for good.
    pub fn next_json(&mut self, whatfor: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.next_json_at(whatfor, wanted).1
    }

    /// As [`next_json`](Self::next_json), with the time at which the line came.
    pub fn next_json_at(&mut self, whatfor: &str, wanted: impl Fn(&Value) -> bool) -> (Instant, Value) {
        let (lines, mut read) = (Arc::clone(&self.lines), self.read);
        let found = wait_for(whatfor, || {
            let lines = lines.lock().expect("no panic while it is held");
            while let Some((at, line)) = lines.get(read) {
                read += 1;
                if let Ok(value) = serde_json::from_str(line)
                    && wanted(&value)
                {
                    return Some((*at, value));
                }
            }
            None
        });
        self.read = read;
        found
    }

    /// Waits until it has said a line that contains `text`.
    pub fn wait_for_line(&self, text: &str) -> String {
        wait_for(text, || self.lines().into_iter().find(|line| line.contains(text)))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().cast_signed());
        kill(id, signal).expect("it has not been waited for");
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_some()
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        wait_for("the end of a process", || self.child.try_wait().expect("it is ours"))
    }

    /// Kills it at once, as a power failure would.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.end();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
