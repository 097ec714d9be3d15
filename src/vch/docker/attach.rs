//! `docker attach`, and the streams of `docker run`: the connection stops being HTTP.

use std::{io, sync::Arc};

use bytes::Bytes;
use hyper::{Request, Response, StatusCode, body::Incoming, header, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tether_wire::streams::Stream;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::{OwnedSemaphorePermit, mpsc},
};

use super::{Answer, body::full, query::Query, value};
use crate::{
    engine::{Engine, error::EngineError},
    workload::{
        log::Record,
        streams::{Hub, Input},
    },
};

/// The first version that knows how a multiplexed stream is called.
const NAMED_STREAMS: (u32, u32) = (1, 42);
/// What leaves a terminal without ending what runs on it: Ctrl-P, Ctrl-Q.
const DETACH_KEYS: &[u8] = &[0x10, 0x11];

/// What an attached client wants.
#[expect(clippy::struct_excessive_bools, reason = "they are the request's own, and independent")]
struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    terminal: bool,
    /// Its end of input is the workload's.
    close_stdin: bool,
    detach: Vec<u8>,
}

/// Answers an attach request and carries the streams from then on.
pub async fn attach(
    engine: &Engine,
    id: &str,
    query: &Query,
    mut request: Request<Incoming>,
    version: (u32, u32),
) -> Answer {
    let (container, hub) = engine.streams(id)?;
    let config = &container.config;
    let terminal = config.tty.unwrap_or_default();
    let open_stdin = config.open_stdin.unwrap_or_default();
    let wants = Wants {
        stdin: query.is("stdin") && open_stdin,
        stdout: query.is("stdout"),
        stderr: query.is("stderr"),
        terminal,
        close_stdin: config.stdin_once.unwrap_or_default(),
        detach: detach_keys(query.get("detachKeys"))?,
    };
    // Attached before the log is read: nothing falls between the two.
    let coming = query.is("stream").then(|| hub.attach());
    let kept = if query.is("logs") { engine.output(&container.id).await? } else { Vec::new() };
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    // The connection counts as a client's for as long as it is one.
    let permit = request.extensions_mut().remove::<Arc<OwnedSemaphorePermit>>();
    let connection = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        carry(connection, hub, wants, kept, coming).await;
        drop(permit);
    });
    let mut response = Response::new(full(Vec::new()));
    let kind = if terminal || version < NAMED_STREAMS {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    response.headers_mut().insert(header::CONTENT_TYPE, value(kind));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, value("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, upgrade.unwrap_or_else(|| value("tcp")));
    Ok(response)
}

async fn carry(
    connection: OnUpgrade,
    hub: Arc<Hub>,
    wants: Wants,
    kept: Vec<Record>,
    coming: Option<mpsc::Receiver<Arc<Record>>>,
) {
    let Ok(connection) = connection.await else { return };
    let (read, mut write) = split(TokioIo::new(connection));
    let input = hub.input();
    let wants = Arc::new(wants);
    let (detached, mut is_detached) = mpsc::channel::<()>(1);
    let reading = tokio::spawn({
        let wants = Arc::clone(&wants);
        async move {
            let heard = hear(read, &input, &wants).await;
            // Keys that detach, a connection that is gone, a terminal that was closed: over. The
            // end of input alone is not.
            if wants.terminal || !matches!(heard, Ok(false)) {
                // The writer may have ended first.
                let _ = detached.send(()).await;
            }
        }
    });
    let told = tokio::select! {
        told = tell(&mut write, &wants, kept, coming) => told,
        Some(()) = is_detached.recv() => Ok(()),
    };
    reading.abort();
    if let Err(error) = told {
        tracing::debug!("an attached client: {error}");
    }
    let _ = write.shutdown().await;
}

/// Passes output on until there is no more.
async fn tell(
    write: &mut (impl AsyncWrite + Unpin),
    wants: &Wants,
    kept: Vec<Record>,
    coming: Option<mpsc::Receiver<Arc<Record>>>,
) -> io::Result<()> {
    for record in &kept {
        tell_one(write, wants, record).await?;
    }
    let Some(mut coming) = coming else { return Ok(()) };
    // What came while the log was read is in both.
    let known = kept.last().map(Record::position);
    while let Some(record) = coming.recv().await {
        if known.is_some_and(|known| record.position() <= known) {
            continue;
        }
        tell_one(write, wants, &record).await?;
    }
    Ok(())
}

async fn tell_one(write: &mut (impl AsyncWrite + Unpin), wants: &Wants, record: &Record) -> io::Result<()> {
    let wanted = match record.stream {
        Stream::Stdout => wants.stdout,
        Stream::Stderr => wants.stderr,
    };
    if !wanted {
        return Ok(());
    }
    if wants.terminal {
        write.write_all(&record.bytes).await?;
    } else {
        write.write_all(&framed(record.stream, &record.bytes)).await?;
    }
    write.flush().await
}

/// A piece of output in Docker's frame: the stream's number, three zeros, the length, the bytes.
pub fn framed(stream: Stream, bytes: &[u8]) -> Bytes {
    let number = match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    };
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[number, 0, 0, 0], &length[..], bytes].concat().into()
}

/// Passes input on until there is no more. `true` when the client has typed the keys that detach
/// it.
async fn hear(
    mut read: impl AsyncRead + Unpin,
    input: &mpsc::Sender<Input>,
    wants: &Wants,
) -> io::Result<bool> {
    let mut keys = Keys::new(if wants.terminal { &wants.detach } else { &[] });
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = read.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        if !wants.stdin {
            continue;
        }
        let (bytes, typed) = keys.pass(&buffer[..count]);
        if !bytes.is_empty() && input.send(Input::Bytes(bytes.into())).await.is_err() {
            break;
        }
        if typed {
            return Ok(true);
        }
    }
    // On a terminal the end of input is a key, and a window that was closed is no key.
    if wants.stdin && wants.close_stdin && !wants.terminal {
        // A workload that has ended needs to hear nothing.
        let _ = input.send(Input::End).await;
    }
    Ok(false)
}

/// Looks for a sequence of keys in what is typed, and holds back what may be its beginning.
struct Keys<'a> {
    sequence: &'a [u8],
    matched: usize,
}

impl<'a> Keys<'a> {
    fn new(sequence: &'a [u8]) -> Self {
        Self { sequence, matched: 0 }
    }

    /// What of `typed` is to be passed on, and whether the sequence is complete.
    fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if self.sequence.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            if *byte == self.sequence[self.matched] {
                self.matched += 1;
                if self.matched == self.sequence.len() {
                    self.matched = 0;
                    return (passed, true);
                }
                continue;
            }
            // It was not meant after all.
            passed.extend(&self.sequence[..self.matched]);
            self.matched = 0;
            if *byte == self.sequence[0] && self.sequence.len() > 1 {
                self.matched = 1;
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

/// Reads `ctrl-p,ctrl-q` or `ctrl-a,x`.
fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, EngineError> {
    let Some(text) = text else { return Ok(DETACH_KEYS.to_vec()) };
    let key = |word: &str| match (word.strip_prefix("ctrl-").map(str::as_bytes), word.as_bytes()) {
        (Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]), _) => Some(letter & 0x1f),
        (None, [one]) => Some(*one),
        _ => None,
    };
    let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
    keys.ok_or_else(|| EngineError::invalid(format!("invalid escape keys ({text})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_and_nothing_else_is_lost() {
        let sequence = detach_keys(None).unwrap();
        let mut keys = Keys::new(&sequence);
        assert_eq!(keys.pass(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(keys.pass(b"x\x10\x10"), (b"\x10x\x10".to_vec(), false));
        assert_eq!(keys.pass(b"\x11rest"), (Vec::new(), true));
        assert_eq!(Keys::new(&[]).pass(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
        assert_eq!(detach_keys(Some("ctrl-a,x")).unwrap(), [1, b'x']);
        assert!(detach_keys(Some("ctrl-")).is_err());
    }

    #[test]
    fn frames_are_dockers() {
        assert_eq!(framed(Stream::Stderr, b"ab").as_ref(), b"\x02\0\0\0\0\0\0\x02ab");
    }
}
