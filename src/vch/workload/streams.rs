//! A container's streams: from its machine's port to the log and to everybody attached, and from
//! one of those back.
//!
//! [`Hub`] lives as long as the container, [`carry`] as long as its machine. What the guest says
//! is acknowledged when it is in the log; a host that was killed goes on from there.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tether_wire::streams::{
    Decoder, StreamsFromGuest, StreamsFromHost, encode, input::InputSender, output::OutputReceiver,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{mpsc, watch},
    time::{interval, timeout},
};

use super::log::{Log, Record};

/// How many pieces of output wait for one that is attached.
const QUEUE: usize = 64;
/// How long one that is attached may take to read on. Who takes longer is let go, so that it does
/// not keep the workload waiting.
const PATIENCE_OF_ONE: Duration = Duration::from_secs(2);
/// How long a guest may take to read what it is sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a guest may take to answer before it is asked again.
const ATTACH_AGAIN: Duration = Duration::from_secs(1);

/// What an attached one sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes for standard input.
    Bytes(Bytes),
    /// There are no more.
    End,
}

/// A container's streams, whether it runs or not.
#[derive(Debug)]
pub struct Hub {
    attached: Mutex<Vec<mpsc::Sender<Arc<Record>>>>,
    input: mpsc::Sender<Input>,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Input>>,
    size: watch::Sender<(u16, u16)>,
}

impl Default for Hub {
    fn default() -> Self {
        let (input, incoming) = mpsc::channel(QUEUE);
        Self {
            attached: Mutex::default(),
            input,
            incoming: tokio::sync::Mutex::new(incoming),
            size: watch::channel((0, 0)).0,
        }
    }
}

impl Hub {
    /// Everything that comes from now on; it ends with the workload.
    pub fn attach(&self) -> mpsc::Receiver<Arc<Record>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.attached().push(sender);
        receiver
    }

    /// Where input goes.
    pub fn input(&self) -> mpsc::Sender<Input> {
        self.input.clone()
    }

    /// The terminal has another size now, and will have it when it is there.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.size.send_replace((rows, columns));
    }

    /// The workload has ended, or there will be none: whoever is attached is let go.
    pub fn end(&self) {
        self.attached().clear();
    }

    fn attached(&self) -> MutexGuard<'_, Vec<mpsc::Sender<Arc<Record>>>> {
        // Nothing panics while it is held.
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a record to everybody attached.
    async fn give(&self, record: Record) {
        let record = Arc::new(record);
        let everybody = self.attached().clone();
        // All at once: they keep the workload waiting together, not one after the other.
        let given = everybody.iter().map(|one| timeout(PATIENCE_OF_ONE, one.send(Arc::clone(&record))));
        let given = futures_util::future::join_all(given).await;
        let mut gone = false;
        for (one, given) in everybody.iter().zip(given) {
            if !matches!(given, Ok(Ok(()))) {
                self.attached().retain(|other| !other.same_channel(one));
                gone = true;
            }
        }
        if gone {
            tracing::debug!("somebody attached is gone or too slow");
        }
    }
}

/// Carries the streams between a machine's port and the hub until the port is gone. `over` is
/// told when the workload has said everything.
pub async fn carry(
    port: UnixStream,
    hub: &Hub,
    log: &Path,
    again: bool,
    over: &watch::Sender<bool>,
) -> io::Result<()> {
    // Input for a run is nobody's after it; that of whoever attached before the start is meant.
    let mut incoming = hub.incoming.lock().await;
    let carried = carry_until_gone(port, hub, log, again, over, &mut incoming).await;
    while incoming.try_recv().is_ok() {}
    carried
}

async fn carry_until_gone(
    port: UnixStream,
    hub: &Hub,
    log: &Path,
    again: bool,
    over: &watch::Sender<bool>,
    incoming: &mut mpsc::Receiver<Input>,
) -> io::Result<()> {
    let mut log = Log::open(log)?;
    if !again {
        log.restart()?;
    }
    let mut size = hub.size.subscribe();
    if *size.borrow() != (0, 0) {
        size.mark_changed();
    }
    let session = rand::random();
    let (mut read, write) = port.into_split();
    let mut guest = Guest { write, frames: Vec::new() };
    let mut output = OutputReceiver::new(session, log.next_offset());
    let mut input = InputSender::new(session);
    let mut pending = Bytes::new();
    let mut ending = false;
    let mut decoder = Decoder::<StreamsFromGuest>::new();
    let mut buffer = vec![0; 64 << 10];
    guest.say(&output.attach()).await?;
    let mut again = interval(ATTACH_AGAIN);
    loop {
        tokio::select! {
            // What is on its way when a guest opens its port anew is lost, this too.
            _ = again.tick(), if !output.is_attached() => guest.say(&output.attach()).await?,
            count = read.read(&mut buffer) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                let mut bytes = &buffer[..count];
                while let Some(message) = decoder.next(&mut bytes) {
                    match message {
                        StreamsFromGuest::Attached { session, output: from } => {
                            let lost = output.attached(session, from);
                            if lost > 0 {
                                tracing::error!("{lost} bytes of output are lost: somebody else has read them");
                            }
                            log.continue_at(output.received());
                        }
                        StreamsFromGuest::Output { stream, offset, bytes } => match output.take(offset, &bytes) {
                            Ok(new) => {
                                for record in log.append(stream, new)? {
                                    hub.give(record).await;
                                }
                            }
                            Err(_) => guest.say(&output.attach()).await?,
                        },
                        StreamsFromGuest::OutputEnd { offset } => {
                            if output.end(offset).is_err() {
                                guest.say(&output.attach()).await?;
                            }
                        }
                        StreamsFromGuest::Window { session, stdin } => input.window(session, stdin),
                    }
                }
                if output.is_attached() {
                    guest.say(&StreamsFromHost::Ack { received: output.received() }).await?;
                }
                if output.is_over() {
                    // Nobody may be waiting for it.
                    let _ = over.send(true);
                }
            }
            changed = size.changed(), if output.is_attached() => {
                if changed.is_ok() {
                    let (rows, columns) = *size.borrow_and_update();
                    guest.say(&StreamsFromHost::Resize { rows, columns }).await?;
                }
            }
            given = incoming.recv(), if output.is_attached() && pending.is_empty() && !ending => match given {
                Some(Input::Bytes(bytes)) => pending = bytes,
                Some(Input::End) => ending = true,
                None => return Ok(()),
            },
        }
        // Until it has answered, a guest is told nothing else.
        if !output.is_attached() {
            continue;
        }
        while let Some((message, count)) = input.send(&pending) {
            guest.say(&message).await?;
            pending = pending.slice(count..);
        }
        if ending && pending.is_empty() {
            guest.say(&input.end()).await?;
            ending = false;
        }
    }
}

struct Guest {
    write: OwnedWriteHalf,
    frames: Vec<u8>,
}

impl Guest {
    async fn say(&mut self, message: &StreamsFromHost) -> io::Result<()> {
        self.frames.clear();
        encode(message, &mut self.frames);
        // The guest always reads, or its machine is gone.
        match timeout(PATIENCE, self.write.write_all(&self.frames)).await {
            Ok(written) => written,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
