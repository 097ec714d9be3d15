//! Frames that find their own beginning: COBS between zero bytes, with a CRC-32.
//!
//! A body is the encoded message and its CRC-32 (IEEE 802.3, four bytes, little endian). COBS
//! (Cheshire and Baker, 1999) takes the zeros out of it, so a zero byte is always an end: it
//! stands before and after each frame. What lies between two zeros and is no message is skipped
//! and counted. For byte streams without connections ([`streams`](crate::streams),
//! [`serial`](crate::serial)), which may hold the rest of anything.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use crate::codec;

/// What may be in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// The most bytes that one carries for somebody else.
    const MOST: usize;

    /// The longest body: those bytes, the other fields, the CRC.
    const MAX_BODY: usize = Self::MOST + 64;
    /// The longest frame without its zeros: COBS adds a byte for each 254, and one.
    const MAX_FRAME: usize = Self::MAX_BODY + Self::MAX_BODY / 254 + 1;
}

/// How much more than its body a decoded value may take: bytes are in it once, and no message has
/// much besides. The longest of any message.
const DECODED: usize = 2 * ((16 << 10) + 64);

/// Puts a message's frame at the end of `to`.
///
/// The zero before it ends whatever half a frame an earlier program left in the stream.
pub fn encode<M: Message>(message: &M, to: &mut Vec<u8>) {
    let mut body = codec::encode(message);
    let sum = crc32(&body);
    body.extend(sum.to_le_bytes());
    to.reserve(body.len() + body.len() / 254 + 3);
    to.push(0);
    stuff(&body, to);
    to.push(0);
}

/// Cuts a byte stream into messages, whatever is in it.
#[derive(Debug)]
pub struct Decoder<M> {
    /// The frame so far, without zeros; at most [`Message::MAX_FRAME`] bytes.
    frame: Vec<u8>,
    /// The frame is too long: nothing counts up to the next zero.
    overlong: bool,
    skipped: u64,
    message: PhantomData<fn() -> M>,
}

impl<M> Default for Decoder<M> {
    fn default() -> Self {
        Self { frame: Vec::new(), overlong: false, skipped: 0, message: PhantomData }
    }
}

impl<M: Message> Decoder<M> {
    /// A decoder at the beginning of a stream, or anywhere in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next message. Takes what it has read off `from`; `None` when `from` is empty.
    pub fn next(&mut self, from: &mut &[u8]) -> Option<M> {
        while !from.is_empty() {
            let end = from.iter().position(|byte| *byte == 0);
            let (piece, rest) = from.split_at(end.unwrap_or(from.len()));
            self.overlong |= self.frame.len() + piece.len() > M::MAX_FRAME;
            if self.overlong {
                self.frame.clear();
            } else {
                self.frame.extend_from_slice(piece);
            }
            *from = rest;
            if end.is_some() {
                *from = &rest[1..];
                // Two zeros in a row are no frame, and not a damaged one.
                let nothing = self.frame.is_empty() && !self.overlong;
                let message = read(&self.frame);
                self.frame.clear();
                self.overlong = false;
                if message.is_some() {
                    return message;
                }
                self.skipped += u64::from(!nothing);
            }
        }
        None
    }

    /// How many damaged, overlong or unknown frames there were.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// The message in a whole frame.
fn read<M: Message>(frame: &[u8]) -> Option<M> {
    let body = unstuff(frame)?;
    let (message, sum) = body.split_last_chunk::<4>()?;
    if crc32(message) != u32::from_le_bytes(*sum) {
        return None;
    }
    codec::decode::<M, DECODED>(message).ok()
}

/// COBS: pieces of at most 254 bytes without zeros, each after a byte that tells its length and
/// one more; a piece shorter than 254 stands for itself and a zero, but for the last.
fn stuff(body: &[u8], to: &mut Vec<u8>) {
    for part in body.split(|byte| *byte == 0) {
        let mut rest = part;
        while rest.len() >= 254 {
            let (piece, more) = rest.split_at(254);
            to.push(255);
            to.extend_from_slice(piece);
            rest = more;
        }
        // Fits: it is shorter than 254.
        to.push(u8::try_from(rest.len() + 1).unwrap_or(u8::MAX));
        to.extend_from_slice(rest);
    }
}

/// The body of a COBS frame, unless it is none.
fn unstuff(mut frame: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::with_capacity(frame.len());
    while let Some((code, rest)) = frame.split_first() {
        let length = usize::from(*code).checked_sub(1)?;
        let (piece, rest) = rest.split_at_checked(length)?;
        body.extend_from_slice(piece);
        if length < 254 && !rest.is_empty() {
            body.push(0);
        }
        frame = rest;
    }
    Some(body)
}

/// The CRC-32 of IEEE 802.3, as in zlib, gzip and Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| (sum >> 8) ^ TABLE[usize::from(sum.to_le_bytes()[0] ^ byte)])
}

/// What each byte does to the sum.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0_u32;
    while n < 256 {
        let (mut sum, mut bit) = (n, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
            bit += 1;
        }
        table[n as usize] = sum;
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::streams::StreamsFromHost;

    type Host = StreamsFromHost;

    fn decode(decoder: &mut Decoder<Host>, mut bytes: &[u8]) -> Vec<Host> {
        std::iter::from_fn(|| decoder.next(&mut bytes)).collect()
    }

    #[test]
    fn the_sum_is_everybodys_crc_32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn zeros_are_stuffed_as_in_the_paper() {
        for (body, frame) in [
            (&[][..], &[1][..]),
            (&[0], &[1, 1]),
            (&[1, 2, 0, 3], &[3, 1, 2, 2, 3]),
            (&[0, 0, 5, 0], &[1, 1, 2, 5, 1]),
        ] {
            let mut stuffed = Vec::new();
            stuff(body, &mut stuffed);
            assert_eq!(stuffed, frame);
            assert_eq!(unstuff(frame).unwrap(), body);
        }
    }

    #[test]
    fn an_endless_frame_costs_no_memory_and_the_next_is_read() {
        let mut decoder = Decoder::new();
        for _ in 0..400 {
            assert_eq!(decode(&mut decoder, &[7; 16_000]), []);
            assert!(decoder.frame.capacity() <= Host::MAX_FRAME);
        }
        let mut bytes = vec![];
        encode(&Host::Ack { received: 5 }, &mut bytes);
        assert_eq!(decode(&mut decoder, &bytes), [Host::Ack { received: 5 }]);
        assert_eq!(decoder.skipped(), 1);
    }

    #[test]
    fn the_longest_message_fits() {
        let message = Host::Stdin { session: u64::MAX, offset: u64::MAX, bytes: vec![9; Host::MOST] };
        let mut bytes = vec![];
        encode(&message, &mut bytes);
        assert!(bytes.len() <= Host::MAX_FRAME + 2, "{}", bytes.len());
        assert_eq!(decode(&mut Decoder::new(), &bytes), [message]);
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(
            all in prop::collection::vec(prop::collection::vec(0_u8..3, 0..600), 0..5),
            cut in 1_usize..300,
        ) {
            let all: Vec<_> =
                all.into_iter().map(|bytes| Host::Stdin { session: 0, offset: 1, bytes }).collect();
            let mut sent = Vec::new();
            for message in &all {
                encode(message, &mut sent);
            }
            let mut decoder = Decoder::new();
            let got: Vec<_> = sent.chunks(cut).flat_map(|piece| decode(&mut decoder, piece)).collect();
            prop_assert_eq!(got, all);
            prop_assert_eq!(decoder.skipped(), 0);
        }

        #[test]
        fn a_damaged_frame_is_skipped_and_the_next_is_read(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
        ) {
            let mut sent = Vec::new();
            encode(&Host::Stdin { session: 0, offset: 1, bytes }, &mut sent);
            let at = at.index(sent.len());
            sent[at] ^= flip;
            encode(&Host::Ack { received: 5 }, &mut sent);
            let mut decoder = Decoder::new();
            let got = decode(&mut decoder, &sent);
            prop_assert_eq!(got.last(), Some(&Host::Ack { received: 5 }));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            decode(&mut Decoder::new(), &bytes);
        }
    }
}
