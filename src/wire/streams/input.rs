//! Input on its way to the workload: never more than the guest has room for.

use std::collections::VecDeque;

use super::{MOST, StreamsFromGuest, StreamsFromHost};

/// How many bytes of input a guest keeps that the workload has not read.
pub const CAPACITY: usize = 64 << 10;

/// The guest's end: input the workload has not read yet.
#[derive(Debug, Default)]
pub struct InputBuffer {
    session: Option<u64>,
    bytes: VecDeque<u8>,
    /// The offset after the last byte that was taken, in the session.
    received: u64,
    /// The window's end as the host knows it.
    window: u64,
    /// No more will come.
    ended: bool,
    /// Something is missing, so nothing of the session is taken any more.
    broken: bool,
}

/// Input that does not follow on what came before. Half of it would be worse than none: the
/// rest of the session's input is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("input at offset {offset} does not follow on offset {expected}, or exceeds the window")]
pub struct BadInput {
    /// What should have come.
    pub expected: u64,
    /// What came.
    pub offset: u64,
}

impl InputBuffer {
    /// An empty buffer, without a session.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host has attached. A new session's input begins at offset 0, after what is still here.
    pub fn attach(&mut self, session: u64) {
        if self.session != Some(session) {
            (self.session, self.received, self.broken) = (Some(session), 0, false);
        }
        // In either case it is to be told the window.
        self.window = 0;
    }

    /// Takes input of a session; that of another is ignored.
    pub fn take(&mut self, session: u64, offset: u64, bytes: &[u8]) -> Result<(), BadInput> {
        if self.session != Some(session) || self.broken || self.ended {
            return Ok(());
        }
        if offset != self.received || bytes.len() > CAPACITY.saturating_sub(self.bytes.len()) {
            self.broken = true;
            return Err(BadInput { expected: self.received, offset });
        }
        self.bytes.extend(bytes);
        self.received += bytes.len() as u64;
        Ok(())
    }

    /// Takes the word that there is no more.
    pub fn end(&mut self, session: u64, offset: u64) -> Result<(), BadInput> {
        self.take(session, offset, &[])?;
        self.ended |= self.session == Some(session) && !self.broken;
        Ok(())
    }

    /// What the workload is to read next.
    pub fn front(&self) -> &[u8] {
        let (front, back) = self.bytes.as_slices();
        if front.is_empty() { back } else { front }
    }

    /// The workload has so many bytes of [`front`](Self::front).
    pub fn consume(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
    }

    /// The workload reads no more: what is here and what comes is thrown away.
    pub fn discard(&mut self) {
        self.bytes.clear();
    }

    /// Whether the workload has read everything there will ever be.
    pub fn is_over(&self) -> bool {
        self.ended && self.bytes.is_empty()
    }

    /// What the host is to be told of the window, when it has moved far enough to be told.
    pub fn next_message(&mut self) -> Option<StreamsFromGuest> {
        let session = self.session?;
        let window = self.received + CAPACITY.saturating_sub(self.bytes.len()) as u64;
        if self.window > 0 && window < self.window + MOST as u64 {
            return None;
        }
        self.window = window;
        Some(StreamsFromGuest::Window { session, stdin: window })
    }
}

/// The host's end: counts what is sent, within the window.
#[derive(Debug)]
pub struct InputSender {
    session: u64,
    sent: u64,
    window: u64,
    ended: bool,
}

impl InputSender {
    /// A sender of a session that begins.
    pub fn new(session: u64) -> Self {
        Self { session, sent: 0, window: 0, ended: false }
    }

    /// Takes the guest's word about the window; that about another session is ignored.
    pub fn window(&mut self, session: u64, stdin: u64) {
        if session == self.session {
            self.window = self.window.max(stdin);
        }
    }

    /// How many bytes may be sent now, in one message.
    pub fn room(&self) -> usize {
        if self.ended {
            return 0;
        }
        usize::try_from(self.window.saturating_sub(self.sent)).map_or(MOST, |room| room.min(MOST))
    }

    /// The message that carries the first [`room`](Self::room) bytes of `bytes`, and how many
    /// these are. `None` when there are none.
    pub fn send(&mut self, bytes: &[u8]) -> Option<(StreamsFromHost, usize)> {
        let count = self.room().min(bytes.len());
        let bytes = bytes.get(..count).filter(|bytes| !bytes.is_empty())?.to_vec();
        let offset = self.sent;
        self.sent += count as u64;
        Some((StreamsFromHost::Stdin { session: self.session, offset, bytes }, count))
    }

    /// The message that there is no more.
    pub fn end(&mut self) -> StreamsFromHost {
        self.ended = true;
        StreamsFromHost::StdinEnd { session: self.session, offset: self.sent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(buffer: &mut InputBuffer, sender: &mut InputSender) -> bool {
        match buffer.next_message() {
            Some(StreamsFromGuest::Window { session, stdin }) => {
                sender.window(session, stdin);
                true
            }
            _ => false,
        }
    }

    fn take(buffer: &mut InputBuffer, message: StreamsFromHost) -> Result<(), BadInput> {
        match message {
            StreamsFromHost::Stdin { session, offset, bytes } => buffer.take(session, offset, &bytes),
            StreamsFromHost::StdinEnd { session, offset } => buffer.end(session, offset),
            _ => Ok(()),
        }
    }

    #[test]
    fn a_workload_that_does_not_read_stops_the_host() {
        let (mut buffer, mut sender) = (InputBuffer::new(), InputSender::new(7));
        let input: Vec<u8> = (0..=250).cycle().take(200_000).collect();
        assert!(sender.send(&input).is_none(), "no window yet");
        buffer.attach(7);
        assert!(window(&mut buffer, &mut sender));
        let (mut sent, mut got) = (0, Vec::new());
        while sent < input.len() {
            while let Some((message, count)) = sender.send(&input[sent..]) {
                take(&mut buffer, message).unwrap();
                sent += count;
            }
            assert!(buffer.bytes.len() <= CAPACITY);
            let count = buffer.front().len().min(5_000);
            got.extend_from_slice(&buffer.front()[..count]);
            buffer.consume(count);
            window(&mut buffer, &mut sender);
        }
        take(&mut buffer, sender.end()).unwrap();
        while !buffer.is_over() {
            got.extend_from_slice(buffer.front());
            buffer.consume(buffer.front().len());
        }
        assert_eq!(got, input);
    }

    #[test]
    fn other_sessions_and_gaps_are_not_taken() {
        let mut buffer = InputBuffer::new();
        buffer.take(1, 0, b"nobody").unwrap();
        buffer.attach(1);
        buffer.take(1, 0, b"one").unwrap();
        buffer.attach(2);
        buffer.take(1, 3, b"late").unwrap();
        buffer.take(2, 0, b"two").unwrap();
        assert_eq!(buffer.take(2, 4, b"gap"), Err(BadInput { expected: 3, offset: 4 }));
        buffer.take(2, 3, b"too late").unwrap();
        assert_eq!(buffer.bytes, b"onetwo");
        // The same session again goes on.
        buffer.attach(3);
        buffer.take(3, 0, b"3").unwrap();
        buffer.attach(3);
        buffer.take(3, 1, b"4").unwrap();
        assert_eq!(buffer.bytes, b"onetwo34");
        assert!(buffer.next_message().is_some());
    }

    #[test]
    fn more_than_the_window_is_refused() {
        let mut buffer = InputBuffer::new();
        buffer.attach(1);
        assert!(buffer.take(1, 0, &vec![0; CAPACITY + 1]).is_err());
        assert!(buffer.bytes.is_empty());
    }
}
