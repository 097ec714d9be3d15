//! One of the two processes, as the other end of a conversation: words in, one line of JSON back.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long any one thing may take.
const PATIENCE: Duration = Duration::from_mins(3);

/// A process that is this program too, in another role. It ends when it is dropped.
pub(crate) struct Part {
    child: Child,
    words: ChildStdin,
    lines: Receiver<(Instant, String)>,
    role: &'static str,
}

impl Part {
    pub(crate) fn start(role: &'static str, arguments: &[&str]) -> Self {
        let program = env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.arg(role).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let words = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Self { child, words, lines, role }
    }

    /// Says a word and hears what comes of it, and when.
    pub(crate) fn ask(&mut self, word: &str) -> (Instant, Value) {
        self.say(word);
        self.hear()
    }

    pub(crate) fn say(&mut self, word: &str) {
        writeln!(self.words, "{word}").unwrap_or_else(|error| panic!("the {} process: {error}", self.role));
    }

    /// The next line, and when it came.
    pub(crate) fn hear(&mut self) -> (Instant, Value) {
        let line = self.lines.recv_timeout(PATIENCE);
        let (at, line) = line.unwrap_or_else(|error| panic!("the {} process: {error}", self.role));
        (at, serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}")))
    }

    /// Ends it as a power failure would.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Hands the words of the process that has started this one to `each`, until it is gone. A thread
/// reads them: a blocked read must not keep a worker of the runtime.
pub(crate) async fn words(mut each: impl AsyncFnMut(&str) -> Value) {
    let (sender, mut words) = tokio::sync::mpsc::channel(1);
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(word) = words.recv().await {
        say(&each(&word).await);
    }
}

/// Tells the process that has started this one.
pub(crate) fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    // Nobody is there to hear of it.
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
