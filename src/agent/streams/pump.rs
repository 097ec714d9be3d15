//! Four flows through one task: to and from the port, to and from the workload.
//!
//! Each step moves what can be moved without waiting; when nothing moves, the task waits for
//! any of the flows to become possible again.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    sync::Arc,
};

use tether_wire::streams::{
    Decoder, MOST, Stream, StreamsFromGuest, StreamsFromHost, encode, input::InputBuffer,
    output::OutputBuffer,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, watch},
    task::yield_now,
};

use super::Command;
use crate::{
    init::{Ends, resize},
    port::Port,
};

type End = Arc<AsyncFd<File>>;

/// The task's state.
#[expect(clippy::struct_excessive_bools, reason = "each is about another of the flows")]
pub(super) struct Pump {
    port: Port,
    /// Whether the port may have something to read, or room to write: true until it says no.
    readable: bool,
    writable: bool,
    decoder: Decoder<StreamsFromHost>,
    /// A frame on its way to the host, and how much of it has gone.
    frame: Vec<u8>,
    gone: usize,
    /// The answer to a host that has attached.
    answer: Option<StreamsFromGuest>,
    attached: bool,
    /// It has attached and nothing was sent to it yet.
    answering: bool,
    output: OutputBuffer,
    input: InputBuffer,
    /// Where output comes from.
    sources: Vec<(Stream, End)>,
    /// Where input goes.
    sink: Sink,
    terminal: Option<End>,
    /// The terminal's device, held open until the workload has ended.
    device: Option<OwnedFd>,
    /// The terminal's size as the host last said it, perhaps before there was one.
    size: Option<(u16, u16)>,
    /// The workload has ended.
    finished: bool,
    piece: Vec<u8>,
}

enum Sink {
    /// The workload has not started yet: input waits.
    Later,
    /// A pipe, which is closed at the input's end, or a terminal, which is not.
    Open(End),
    /// Nobody reads.
    Nowhere,
}

impl Pump {
    pub(super) fn new(port: Port) -> Self {
        Self {
            port,
            readable: true,
            writable: true,
            decoder: Decoder::new(),
            frame: Vec::new(),
            gone: 0,
            answer: None,
            attached: false,
            answering: false,
            output: OutputBuffer::new(),
            input: InputBuffer::new(),
            sources: Vec::new(),
            sink: Sink::Later,
            terminal: None,
            device: None,
            size: None,
            finished: false,
            piece: vec![0; MOST],
        }
    }

    /// Carries until nobody commands any more.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        over: &watch::Sender<bool>,
    ) -> io::Result<()> {
        loop {
            // All four, whatever the first does.
            let moved = [self.hear()?, self.say()?, self.collect(), self.feed()];
            // A frame on its way is not there yet.
            let is_over = self.output.is_over() && self.gone == self.frame.len();
            over.send_if_modified(|before| std::mem::replace(before, is_over) != is_over);
            if moved.contains(&true) {
                yield_now().await;
                if let Ok(command) = commands.try_recv() {
                    self.command(command)?;
                }
                continue;
            }
            let room = self.output.room() > 0;
            let waits_to_feed = !self.input.front().is_empty();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command)?,
                    None => return Ok(()),
                },
                changed = self.port.changed() => {
                    changed?;
                    (self.readable, self.writable) = (true, true);
                }
                () = ready(self.sources.first().filter(|_| room).map(|(_, end)| end), Interest::READABLE) => {}
                () = ready(self.sources.get(1).filter(|_| room).map(|(_, end)| end), Interest::READABLE) => {}
                () = ready(self.sink.end().filter(|_| waits_to_feed), Interest::WRITABLE) => {}
            }
        }
    }

    fn command(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Carry(Ends::Pipes { stdin, stdout, stderr }) => {
                self.sources =
                    vec![(Stream::Stdout, end(stdout, READ)?), (Stream::Stderr, end(stderr, READ)?)];
                self.sink = match stdin {
                    Some(stdin) => Sink::Open(end(stdin, Interest::WRITABLE)?),
                    None => Sink::Nowhere,
                };
            }
            Command::Carry(Ends::Terminal { master, device }) => {
                let terminal = end(master, READ | Interest::WRITABLE)?;
                self.device = Some(device);
                self.sources = vec![(Stream::Stdout, Arc::clone(&terminal))];
                self.sink = Sink::Open(Arc::clone(&terminal));
                self.terminal = Some(terminal);
                self.set_size();
            }
            Command::Finish => {
                self.finished = true;
                self.sink = Sink::Nowhere;
                self.device = None;
            }
        }
        Ok(())
    }

    /// Hears the host.
    fn hear(&mut self) -> io::Result<bool> {
        if !self.readable {
            return Ok(false);
        }
        let count = match self.port.read(&mut self.piece) {
            Ok(0) => {
                // Nobody is there, and what is half said is said to nobody; unless a host has just
                // spoken: its first bytes may come before the word that the port is open.
                if !self.answering && (self.attached || !self.writable) {
                    self.begin_anew()?;
                }
                self.readable = false;
                return Ok(false);
            }
            Ok(count) => count,
            Err(error) if is_later(&error) => {
                self.readable = false;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let piece = std::mem::take(&mut self.piece);
        let mut rest = &piece[..count];
        let mut may_be_stuck = false;
        while let Some(message) = self.decoder.next(&mut rest) {
            // Another host may have come before it was noticed that the last had gone.
            may_be_stuck |= !self.writable && matches!(message, StreamsFromHost::Attach { .. });
            self.take(message);
        }
        self.piece = piece;
        if may_be_stuck {
            let (answer, attached) = (self.answer.take(), self.attached);
            self.begin_anew()?;
            (self.answer, self.attached) = (answer, attached);
        }
        Ok(true)
    }

    /// Forgets the host that was there, and whatever is on its way to it.
    fn begin_anew(&mut self) -> io::Result<()> {
        self.port.reopen()?;
        (self.readable, self.writable) = (true, true);
        (self.attached, self.answer, self.gone) = (false, None, self.frame.len());
        Ok(())
    }

    fn take(&mut self, message: StreamsFromHost) {
        let taken = match message {
            StreamsFromHost::Attach { session, received } => {
                let output = self.output.attach(received);
                self.input.attach(session);
                (self.attached, self.answering) = (true, true);
                self.answer = Some(StreamsFromGuest::Attached { session, output });
                Ok(())
            }
            StreamsFromHost::Ack { received } => {
                self.output.acknowledge(received);
                Ok(())
            }
            StreamsFromHost::Stdin { session, offset, bytes } => self.input.take(session, offset, &bytes),
            StreamsFromHost::StdinEnd { session, offset } => self.input.end(session, offset),
            StreamsFromHost::Resize { rows, columns } => {
                self.size = Some((rows, columns));
                self.set_size();
                Ok(())
            }
        };
        if let Err(error) = taken {
            tracing::error!("standard input: {error}");
        }
    }

    fn set_size(&self) {
        if let (Some((rows, columns)), Some(terminal)) = (self.size, &self.terminal) {
            // Only a terminal that is gone refuses.
            let _ = resize(terminal.get_ref(), rows, columns);
        }
    }

    /// Tells the host.
    fn say(&mut self) -> io::Result<bool> {
        if !self.writable {
            return Ok(false);
        }
        if self.gone == self.frame.len() {
            let message = self.answer.take().or_else(|| {
                let attached = self.attached;
                attached.then(|| self.input.next_message().or_else(|| self.output.next_message()))?
            });
            let Some(message) = message else { return Ok(false) };
            self.frame.clear();
            self.gone = 0;
            encode(&message, &mut self.frame);
        }
        match self.port.write(&self.frame[self.gone..]) {
            Ok(count) => {
                self.gone += count;
                self.answering = false;
                Ok(true)
            }
            Err(error) if is_later(&error) => {
                self.writable = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes what the workload has written, as long as there is room for it.
    fn collect(&mut self) -> bool {
        let mut moved = false;
        let (output, piece, finished) = (&mut self.output, &mut self.piece, self.finished);
        self.sources.retain(|(stream, end)| {
            let room = output.room().min(MOST);
            if room == 0 {
                return true;
            }
            let read = if finished {
                // Asked anew: what tokio knows of it may be older than the workload's end.
                end.get_ref().read(&mut piece[..room])
            } else {
                end.try_io(Interest::READABLE, |mut file| file.read(&mut piece[..room]))
            };
            match read {
                Ok(0) => false,
                Ok(count) => {
                    output.push(*stream, &piece[..count]);
                    moved = true;
                    true
                }
                // After the workload's end nobody waits for what its orphans may still write.
                Err(error) => !finished && is_later(&error),
            }
        });
        if finished && self.sources.is_empty() {
            // That is something to say, once.
            moved |= !self.output.is_finished();
            self.output.finish();
        }
        moved
    }

    /// Gives the workload its input.
    fn feed(&mut self) -> bool {
        match &self.sink {
            Sink::Nowhere => {
                let moved = !self.input.front().is_empty();
                self.input.discard();
                moved
            }
            Sink::Open(end) if !self.input.front().is_empty() => {
                match end.try_io(Interest::WRITABLE, |mut file| file.write(self.input.front())) {
                    Ok(count) => {
                        self.input.consume(count);
                        true
                    }
                    Err(error) if is_later(&error) => false,
                    Err(_) => {
                        self.sink = Sink::Nowhere;
                        true
                    }
                }
            }
            Sink::Open(_) if self.input.is_over() && self.terminal.is_none() => {
                self.sink = Sink::Nowhere;
                false
            }
            Sink::Later | Sink::Open(_) => false,
        }
    }
}

impl Sink {
    fn end(&self) -> Option<&End> {
        match self {
            Self::Open(end) => Some(end),
            Self::Later | Self::Nowhere => None,
        }
    }
}

const READ: Interest = Interest::READABLE;

fn end(end: OwnedFd, interest: Interest) -> io::Result<End> {
    // SAFETY: the descriptor is the file's own, and stays open as long as it lives.
    let end = unsafe { AsyncFd::register_with_interest(File::from(end), interest) };
    Ok(Arc::new(end.map_err(|error| error.into_parts().1)?))
}

/// Whether an error means no more than that it cannot be done now.
fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Waits until something can be done with `end`, for ever when there is none.
async fn ready(end: Option<&End>, interest: Interest) {
    match end {
        // An error of the runtime's shows again at the next try.
        Some(end) => drop(end.ready(interest).await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, time::Duration};

    use tether_wire::streams::output::OutputReceiver;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;
    use crate::streams::Streams;

    /// A host on the other end of a port.
    struct Host {
        stream: tokio::net::UnixStream,
        decoder: Decoder<StreamsFromGuest>,
        pending: Vec<u8>,
    }

    impl Host {
        async fn say(&mut self, message: StreamsFromHost) {
            let mut bytes = Vec::new();
            encode(&message, &mut bytes);
            self.stream.write_all(&bytes).await.unwrap();
        }

        async fn hear(&mut self) -> StreamsFromGuest {
            timeout(Duration::from_secs(5), async {
                loop {
                    let mut rest = &self.pending[..];
                    let message = self.decoder.next(&mut rest);
                    self.pending = rest.to_vec();
                    if let Some(message) = message {
                        return message;
                    }
                    let mut piece = [0; 4_096];
                    let count = self.stream.read(&mut piece).await.unwrap();
                    self.pending.extend_from_slice(&piece[..count]);
                }
            })
            .await
            .expect("in time")
        }
    }

    fn pair() -> (Streams, Host) {
        let (guest, host) = UnixStream::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        host.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(host).unwrap();
        let streams = Streams::start(Port::new(guest.into()).unwrap());
        (streams, Host { stream, decoder: Decoder::new(), pending: Vec::new() })
    }

    fn nonblocking(end: OwnedFd) -> OwnedFd {
        nix::fcntl::fcntl(&end, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        end
    }

    fn pipe() -> (File, OwnedFd, File, OwnedFd) {
        let ((from, to), (input, stdin)) = (io::pipe().unwrap(), io::pipe().unwrap());
        (
            File::from(OwnedFd::from(to)),
            nonblocking(from.into()),
            File::from(OwnedFd::from(input)),
            nonblocking(stdin.into()),
        )
    }

    #[tokio::test]
    async fn a_terminal_that_is_closed_is_not_over_before_its_workload() {
        let (streams, mut host) = pair();
        let nix::pty::OpenptyResult { master, slave } = nix::pty::openpty(None, None).unwrap();
        let path = nix::unistd::ttyname(&slave).unwrap();
        streams.carry(Ends::Terminal { master: nonblocking(master), device: slave });
        host.say(OutputReceiver::new(1, 0).attach()).await;
        for word in ["first", "second"] {
            // Opened and closed each time: in between nobody has it but the agent.
            std::fs::write(&path, word).unwrap();
            loop {
                if let StreamsFromGuest::Output { bytes, .. } = host.hear().await {
                    assert_eq!(std::str::from_utf8(&bytes).unwrap(), word);
                    break;
                }
            }
        }
        streams.finish();
        while !matches!(host.hear().await, StreamsFromGuest::OutputEnd { .. }) {}
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_is_told_once_everything_is_there() {
        let (mut streams, mut host) = pair();
        let (mut out, stdout, mut input, stdin) = pipe();
        let (_error, stderr, _, _) = pipe();
        host.say(StreamsFromHost::Attach { session: 7, received: 0 }).await;
        assert_eq!(host.hear().await, StreamsFromGuest::Attached { session: 7, output: 0 });
        assert_eq!(host.hear().await, StreamsFromGuest::Window { session: 7, stdin: 65_536 });
        // Input that comes before the workload waits for it.
        host.say(StreamsFromHost::Stdin { session: 7, offset: 0, bytes: b"in".to_vec() }).await;
        host.say(StreamsFromHost::StdinEnd { session: 7, offset: 2 }).await;
        streams.carry(Ends::Pipes { stdin: Some(stdin), stdout, stderr });
        let read = tokio::task::spawn_blocking(move || io::read_to_string(&mut input).unwrap());
        assert_eq!(timeout(Duration::from_secs(5), read).await.unwrap().unwrap(), "in");
        out.write_all(b"out").unwrap();
        let (stream, bytes) = (Stream::Stdout, b"out".to_vec());
        assert_eq!(host.hear().await, StreamsFromGuest::Output { stream, offset: 0, bytes });
        // An orphan still holds both pipes; nobody waits for it.
        out.write_all(b"!").unwrap();
        streams.finish();
        let bytes = b"!".to_vec();
        assert_eq!(host.hear().await, StreamsFromGuest::Output { stream, offset: 3, bytes });
        assert_eq!(host.hear().await, StreamsFromGuest::OutputEnd { offset: 4 });
        assert!(timeout(Duration::from_millis(20), streams.over()).await.is_err());
        host.say(StreamsFromHost::Ack { received: 4 }).await;
        timeout(Duration::from_secs(5), streams.over()).await.unwrap();
    }

    #[tokio::test]
    async fn a_host_that_does_not_acknowledge_stops_the_workload_and_loses_nothing() {
        let (streams, mut host) = pair();
        let (out, stdout, _input, stdin) = pipe();
        let (_error, stderr, _, _) = pipe();
        streams.carry(Ends::Pipes { stdin: Some(stdin), stdout, stderr });
        let all: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let (written, to_write) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), all.clone());
        let (count, mut out) = (Arc::clone(&written), out);
        std::thread::spawn(move || {
            for piece in to_write.chunks(1_000) {
                out.write_all(piece).unwrap();
                count.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let held = written.load(std::sync::atomic::Ordering::Relaxed);
        assert!(held <= (256 << 10) + (64 << 10), "{held} bytes: the buffer's and the pipe's");
        let mut got = Vec::new();
        // Three hosts in turn, each with what the one before has kept.
        for session in 0..3 {
            let mut receiver = OutputReceiver::new(session, got.len() as u64);
            host.say(receiver.attach()).await;
            while got.len() < all.len() * (usize::try_from(session).unwrap() + 1) / 3 {
                match host.hear().await {
                    StreamsFromGuest::Attached { session, output } => {
                        assert_eq!(receiver.attached(session, output), 0);
                    }
                    StreamsFromGuest::Output { offset, bytes, .. } => {
                        got.extend_from_slice(receiver.take(offset, &bytes).unwrap());
                        host.say(StreamsFromHost::Ack { received: receiver.received() }).await;
                    }
                    _ => {}
                }
            }
        }
        assert!(got == all);
    }
}
