//! QMP, the language of QEMU's control socket: one JSON object a line.
//!
//! Three dozen lines of protocol for the seven commands used here; a crate would bring QEMU's
//! whole schema. One connection at a time is served by QEMU, so a new one takes over from a host
//! that was killed.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest},
    net::UnixStream,
    sync::{broadcast, oneshot, watch},
    time::timeout,
};

use super::MachineError;

/// How long QEMU may take over one command. It answers in a millisecond; a machine that is being
/// written to a slow disk may not.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line that is read from it, in bytes.
const LINE: u64 = 1 << 20;

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

/// A connection to a machine's control socket.
#[derive(Debug)]
pub struct Qmp {
    stream: Arc<UnixStream>,
    /// Held over a line, so that two never mix.
    writing: tokio::sync::Mutex<()>,
    next: AtomicU64,
    pending: Pending,
    events: broadcast::Sender<Value>,
    closed: watch::Receiver<bool>,
}

impl Qmp {
    /// Connects to the socket at `path` and agrees on the language.
    pub async fn connect(path: &Path) -> Result<Self, MachineError> {
        let socket = |source| MachineError::Socket { path: path.to_owned(), source };
        let stream = Arc::new(UnixStream::connect(path).await.map_err(socket)?);
        let pending = Pending::default();
        let (events, _) = broadcast::channel(64);
        let (over, closed) = watch::channel(false);
        let reading = read(Arc::clone(&stream), Arc::clone(&pending), events.clone());
        tokio::spawn(async move {
            reading.await;
            // Nobody may be interested any more.
            let _ = over.send(true);
        });
        let (writing, next) = (tokio::sync::Mutex::default(), AtomicU64::new(1));
        let qmp = Self { stream, writing, next, pending, events, closed };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Has QEMU carry out `command`.
    pub async fn execute(&self, command: &'static str, arguments: Value) -> Result<Value, MachineError> {
        self.execute_with(command, arguments, None).await
    }

    /// As [`execute`](Self::execute), handing over an open file.
    pub async fn execute_with(
        &self,
        command: &'static str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, MachineError> {
        let id = self.next.fetch_add(1, Relaxed);
        let (answer, answered) = oneshot::channel();
        pending(&self.pending).insert(id, answer);
        let line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string() + "\n";
        let exchange = async {
            self.send(line.as_bytes(), file).await.map_err(|_| MachineError::NoAnswer(command))?;
            match answered.await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(reason)) => Err(MachineError::Refused { command, reason }),
                Err(_) => Err(MachineError::NoAnswer(command)),
            }
        };
        let mut closed = self.closed.clone();
        let result = tokio::select! {
            result = timeout(PATIENCE, exchange) => result.unwrap_or(Err(MachineError::NoAnswer(command))),
            _ = closed.wait_for(|closed| *closed) => Err(MachineError::NoAnswer(command)),
        };
        pending(&self.pending).remove(&id);
        result
    }

    /// What QEMU tells of its own accord from now on.
    pub fn events(&self) -> broadcast::Receiver<Value> {
        self.events.subscribe()
    }

    /// Waits until QEMU has closed the connection, which it does by ending.
    pub async fn closed(&self) {
        // An error is the end of the reading task, which is the same.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    async fn send(&self, mut line: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let _turn = self.writing.lock().await;
        let descriptors = file.map(|file| [file.as_raw_fd()]);
        let mut control: Vec<ControlMessage<'_>> =
            descriptors.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
        while !line.is_empty() {
            self.stream.writable().await?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                let socket = self.stream.as_raw_fd();
                sendmsg::<()>(socket, &[IoSlice::new(line)], &control, flags, None).map_err(io::Error::from)
            });
            match sent {
                Ok(sent) => {
                    line = &line[sent..];
                    // The file goes with the first byte.
                    control.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn pending(
    pending: &Pending,
) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Value, String>>>> {
    // Nothing panics while it is held.
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands answers to those who wait, and events to everybody, until the connection ends.
async fn read(stream: Arc<UnixStream>, waiting: Pending, events: broadcast::Sender<Value>) {
    let mut lines = BufReader::new(Readable(stream));
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut lines).take(LINE).read_until(b'\n', &mut line).await {
            Ok(read) if read > 0 && line.ends_with(b"\n") => {}
            _ => return,
        }
        // What is no JSON is nobody's.
        let Ok(value) = serde_json::from_slice::<Value>(&line) else { continue };
        if value.get("event").is_some() {
            // Nobody listening is fine.
            let _ = events.send(value);
        } else if let Some(answer) =
            value.get("id").and_then(Value::as_u64).and_then(|id| pending(&waiting).remove(&id))
        {
            let outcome = match value.get("error") {
                Some(error) => Err(error["desc"].as_str().unwrap_or("no reason given").to_owned()),
                None => Ok(value.get("return").cloned().unwrap_or_default()),
            };
            // Whoever asked may have stopped waiting.
            let _ = answer.send(outcome);
        }
    }
}

/// The reading half of a stream that is shared with the writer.
struct Readable(Arc<UnixStream>);

impl tokio::io::AsyncRead for Readable {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        loop {
            std::task::ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return std::task::Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return std::task::Poll::Ready(Err(error)),
            }
        }
    }
}
