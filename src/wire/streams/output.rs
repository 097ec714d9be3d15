//! Output on its way to the host: kept by the guest until the host has it.

use std::collections::VecDeque;

use super::{MOST, Stream, StreamsFromGuest, StreamsFromHost};

/// How many bytes a guest keeps that the host has not acknowledged.
pub const CAPACITY: usize = 256 << 10;
/// What a change from one stream to the other counts for, in bytes, so that a workload that
/// writes bytes to both in turn costs no more memory than another.
const CHANGE: usize = 16;

/// The guest's end: bytes the host has not acknowledged, in the order they were written.
///
/// `start <= sent <= end`, all of them offsets since the workload's start.
#[derive(Debug, Default)]
pub struct OutputBuffer {
    bytes: VecDeque<u8>,
    /// Which stream the bytes belong to, run by run.
    runs: VecDeque<(Stream, usize)>,
    /// The offset of the first byte that is held: the host has everything before.
    start: u64,
    /// The offset of the next byte to be sent.
    sent: u64,
    /// Nothing more will come.
    finished: bool,
    /// That was said to the host that is attached now.
    end_said: bool,
}

impl OutputBuffer {
    /// An empty buffer, at offset 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes may be pushed. While it is 0 the workload's pipes are not read, and the
    /// workload waits in its own write.
    pub fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.bytes.len() + CHANGE * (self.runs.len() + 1))
    }

    /// Takes what the workload has written; at most [`room`](Self::room) bytes.
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() || self.finished {
            return;
        }
        match self.runs.back_mut() {
            Some((last, length)) if *last == stream => *length += bytes.len(),
            _ => self.runs.push_back((stream, bytes.len())),
        }
        self.bytes.extend(bytes);
    }

    /// Nothing more will be pushed.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether [`finish`](Self::finish) was called.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// A host is there that has the output up to `received`: everything after is sent, again
    /// where it was sent before. The offset it starts from: `received`, or the nearest to it
    /// that is held.
    pub fn attach(&mut self, received: u64) -> u64 {
        self.forget_up_to(received.clamp(self.start, self.end()));
        self.sent = self.start;
        self.end_said = false;
        self.start
    }

    /// The host has the output up to `received`. What it cannot have is not taken for had.
    pub fn acknowledge(&mut self, received: u64) {
        self.forget_up_to(received.clamp(self.start, self.sent));
    }

    /// The next message for a host that is attached, `None` when it has been sent everything.
    pub fn next_message(&mut self) -> Option<StreamsFromGuest> {
        let mut skip = usize::try_from(self.sent - self.start).ok()?;
        let from = skip;
        for (stream, length) in &self.runs {
            if skip < *length {
                let length = (length - skip).min(MOST);
                let bytes: Vec<u8> = self.bytes.range(from..from + length).copied().collect();
                let offset = self.sent;
                self.sent += length as u64;
                return Some(StreamsFromGuest::Output { stream: *stream, offset, bytes });
            }
            skip -= length;
        }
        if self.finished && !self.end_said {
            self.end_said = true;
            return Some(StreamsFromGuest::OutputEnd { offset: self.sent });
        }
        None
    }

    /// Whether the host has everything there will ever be, and was told so.
    pub fn is_over(&self) -> bool {
        self.end_said && self.bytes.is_empty()
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// `offset` is one that is held.
    fn forget_up_to(&mut self, offset: u64) {
        let Ok(mut count) = usize::try_from(offset - self.start) else { return };
        self.bytes.drain(..count);
        self.start = offset;
        self.sent = self.sent.max(offset);
        while let Some((_, length)) = self.runs.front_mut() {
            if count < *length {
                *length -= count;
                break;
            }
            count -= *length;
            self.runs.pop_front();
        }
    }
}

/// Output is missing: the host is to attach again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output is missing from offset {expected} on: the next is {offset}")]
pub struct Gap {
    /// What should have come.
    pub expected: u64,
    /// What came.
    pub offset: u64,
}

/// The host's end: takes each byte once and in order.
#[derive(Debug)]
pub struct OutputReceiver {
    session: u64,
    /// The offset up to which everything is here.
    received: u64,
    attached: bool,
    ended: bool,
}

impl OutputReceiver {
    /// A receiver that has the output up to `received` already. `session` is a random number
    /// no other host program's run has had.
    pub fn new(session: u64, received: u64) -> Self {
        Self { session, received, attached: false, ended: false }
    }

    /// What the guest is to be told to begin, again after a [`Gap`], and again where no answer
    /// comes within a second. Nothing else is to be said, and output is ignored, until the guest
    /// answers. A machine that was started anew wants a new receiver.
    pub fn attach(&mut self) -> StreamsFromHost {
        self.attached = false;
        StreamsFromHost::Attach { session: self.session, received: self.received }
    }

    /// The guest's answer. How many bytes before `output` are lost for good: 0 unless somebody
    /// else has acknowledged them. Answers to others are ignored.
    pub fn attached(&mut self, session: u64, output: u64) -> u64 {
        if session != self.session || self.attached {
            return 0;
        }
        self.attached = true;
        let lost = output.saturating_sub(self.received);
        self.received = output;
        lost
    }

    /// Takes a message's bytes: those that are new. [`received`](Self::received) is past them
    /// then, and may be acknowledged as soon as they are safe.
    pub fn take<'a>(&mut self, offset: u64, bytes: &'a [u8]) -> Result<&'a [u8], Gap> {
        if !self.attached {
            // What was on its way to the program before this one.
            return Ok(&[]);
        }
        let Some(known) = self.received.checked_sub(offset) else {
            return Err(Gap { expected: self.received, offset });
        };
        let new = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or_default();
        self.received += new.len() as u64;
        Ok(new)
    }

    /// Takes the word that nothing will come after `offset`.
    pub fn end(&mut self, offset: u64) -> Result<(), Gap> {
        if self.attached {
            if offset > self.received {
                return Err(Gap { expected: self.received, offset });
            }
            self.ended = true;
        }
        Ok(())
    }

    /// The offset up to which everything is here.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the guest has answered [`attach`](Self::attach).
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether everything is here that there will ever be.
    pub fn is_over(&self) -> bool {
        self.ended
    }
}
