//! One end of a serial line: what it says, what it hears, which life it is in.

use super::{MOST, Nonce, SerialMessage};
use crate::cobs::{Decoder, encode};

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest's, which asks for lives.
    Guest,
    /// The host's, which gives them.
    Host,
}

/// How far an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has begun, and waits for the other.
    Opening,
    /// The stream flows.
    Open {
        /// In this life.
        life: Nonce,
    },
    /// The life is over, or there was none yet: [`Line::begin`] is next.
    Over,
}

/// One end of a serial line. It keeps at most one frame each way, whatever comes.
#[derive(Debug)]
pub struct Line {
    side: Side,
    stage: Stage,
    decoder: Decoder<SerialMessage>,
    /// The guest's opening; the name the host has for its next life.
    own: Nonce,
    /// Host: the opening that the life was given for.
    opening: Option<Nonce>,
    /// Host: the opening that has ended the life, and gets the next.
    asked: Option<Nonce>,
    /// What has come of the stream, and how much of it was consumed.
    input: Vec<u8>,
    consumed: usize,
    /// The offset after what has come.
    received: u64,
    /// A frame on its way, and how much of it has gone.
    output: Vec<u8>,
    gone: usize,
    /// The offset after what was written.
    written: u64,
}

impl Line {
    /// An end that has no life yet.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            stage: Stage::Over,
            decoder: Decoder::new(),
            own: Nonce::default(),
            opening: None,
            asked: None,
            input: Vec::new(),
            consumed: 0,
            received: 0,
            output: Vec::new(),
            gone: 0,
            written: 0,
        }
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Begins the next life, in place of any that is: `nonce` is random. What has not gone yet never
    /// will; half a frame of it is skipped by the other end.
    ///
    /// A guest may begin again with the same number where nothing was heard of it.
    pub fn begin(&mut self, nonce: Nonce) {
        self.own = nonce;
        self.input.clear();
        (self.consumed, self.received, self.written) = (0, 0, 0);
        self.output.clear();
        self.gone = 0;
        self.opening = None;
        self.stage = Stage::Opening;
        match (self.side, self.asked.take()) {
            (Side::Guest, _) => self.say(&SerialMessage::Open { opening: nonce }),
            // That life ended because the guest wants another.
            (Side::Host, Some(opening)) => self.accept(opening),
            (Side::Host, None) => self.say(&SerialMessage::Begin),
        }
    }

    /// Takes what was read from the port off `from`: all of it, or up to where something is to be
    /// done, which [`input`](Self::input) or [`stage`](Self::stage) shows.
    pub fn hear(&mut self, from: &mut &[u8]) {
        let stage = self.stage;
        while self.stage == stage
            && self.input().is_empty()
            && let Some(message) = self.decoder.next(from)
        {
            match self.side {
                Side::Guest => self.hear_host(message),
                Side::Host => self.hear_guest(message),
            }
        }
    }

    /// What has come of the stream and was not consumed yet.
    pub fn input(&self) -> &[u8] {
        &self.input[self.consumed..]
    }

    /// So many bytes of the input are done with.
    pub fn consume(&mut self, count: usize) {
        self.consumed = (self.consumed + count).min(self.input.len());
    }

    /// Takes the beginning of `bytes` into the stream, as much as goes into one frame. 0 while the
    /// one before is on its way, and when there is no life.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let Stage::Open { life } = self.stage else { return 0 };
        if !self.output().is_empty() || bytes.is_empty() {
            return 0;
        }
        let bytes = &bytes[..bytes.len().min(MOST)];
        let (offset, count) = (self.written, bytes.len());
        self.written += count as u64;
        let bytes = bytes.to_vec();
        self.say(&match self.side {
            Side::Guest => SerialMessage::FromGuest { life, offset, bytes },
            Side::Host => SerialMessage::FromHost { life, offset, bytes },
        });
        count
    }

    /// What is to be written to the port.
    pub fn output(&self) -> &[u8] {
        &self.output[self.gone..]
    }

    /// So many bytes of the output were written.
    pub fn sent(&mut self, count: usize) {
        self.gone = (self.gone + count).min(self.output.len());
    }

    /// The port is gone, and the life with it.
    pub fn end(&mut self) {
        self.stage = Stage::Over;
    }

    fn hear_host(&mut self, message: SerialMessage) {
        match (self.stage, message) {
            (Stage::Opening, SerialMessage::Accept { opening, life }) if opening == self.own => {
                self.stage = Stage::Open { life };
            }
            // It has perhaps not heard of this guest, or a host before it has.
            (Stage::Opening, SerialMessage::Begin) => self.say(&SerialMessage::Open { opening: self.own }),
            (Stage::Open { life }, SerialMessage::FromHost { life: its, offset, bytes }) if life == its => {
                self.take(offset, bytes);
            }
            // The same once more, because it was asked once more.
            (Stage::Open { life }, SerialMessage::Accept { life: its, .. }) if life == its => {}
            // Another host, or this one has given the life up. What was said before the Accept of
            // this life came before it: this is no old word.
            (Stage::Open { .. }, SerialMessage::Begin | SerialMessage::Accept { .. }) => self.end(),
            _ => {}
        }
    }

    fn hear_guest(&mut self, message: SerialMessage) {
        match (self.stage, message) {
            (Stage::Opening, SerialMessage::Open { opening }) => self.accept(opening),
            (Stage::Open { .. }, SerialMessage::Open { opening }) if self.opening != Some(opening) => {
                self.end();
                self.asked = Some(opening);
            }
            // It has not heard the answer. Once it has, it says something else.
            (Stage::Open { life }, SerialMessage::Open { opening })
                if self.received == 0 && self.written == 0 =>
            {
                self.say(&SerialMessage::Accept { opening, life });
            }
            (Stage::Open { life }, SerialMessage::FromGuest { life: its, offset, bytes }) if life == its => {
                self.take(offset, bytes);
            }
            _ => {}
        }
    }

    fn accept(&mut self, opening: Nonce) {
        self.opening = Some(opening);
        self.stage = Stage::Open { life: self.own };
        // In place of Begin, should that not have gone.
        self.output.clear();
        self.gone = 0;
        self.say(&SerialMessage::Accept { opening, life: self.own });
    }

    /// Takes a piece of the stream. One that does not follow means that something was lost.
    fn take(&mut self, offset: u64, bytes: Vec<u8>) {
        if offset != self.received || bytes.len() > MOST {
            return self.end();
        }
        self.received += bytes.len() as u64;
        (self.input, self.consumed) = (bytes, 0);
    }

    /// Says something, unless something is on its way already: nothing but the stream need be
    /// said for sure, and that is not written then.
    fn say(&mut self, message: &SerialMessage) {
        if self.output().is_empty() {
            self.output.clear();
            self.gone = 0;
            encode(message, &mut self.output);
        }
    }
}
