//! Frames: how messages lie in a byte stream.
//!
//! Eight bytes, all integers big endian, then the payload:
//!
//! ```text
//!  0        4       6         7          8
//! +--------+-------+---------+----------+---------
//! | length | type  | version | reserved | payload …
//! +--------+-------+---------+----------+---------
//! ```
//!
//! `length` counts the payload only and is checked against the type's limit before anything is
//! allocated. `reserved` is zero. The codec is sans-I/O: it works on buffers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// The length of a frame's header in bytes.
pub const HEADER: usize = 8;

/// A frame: a message that has not been decoded yet, or that is ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The message's type number.
    pub kind: u16,
    /// The version of that type.
    pub version: u8,
    /// The encoded message.
    pub payload: Bytes,
}

/// Why a byte stream is not a sequence of frames. Nothing after it can be trusted: the
/// connection ends.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A payload is longer than its type may be.
    #[error("a message of type {kind} claims {length} bytes, {limit} at most")]
    TooLong {
        /// The message's type number.
        kind: u16,
        /// What the header says.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The reserved byte is not zero: this is no tether stream, or one of an unknown future.
    #[error("not a frame: the reserved byte is {0:#04x}")]
    Reserved(u8),
    /// The stream failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// The longest payload of a message type, in bytes.
pub type Limit = fn(u16) -> usize;

/// Cuts a byte stream into frames.
#[derive(Clone, Copy, Debug)]
pub struct FrameCodec {
    reads: Limit,
    writes: Limit,
}

impl FrameCodec {
    /// A codec that reads and writes payloads up to these limits.
    pub fn new(reads: Limit, writes: Limit) -> Self {
        Self { reads, writes }
    }

    /// Reads payloads up to this limit from now on.
    pub fn expect(&mut self, reads: Limit) {
        self.reads = reads;
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(mut header) = from.get(..HEADER) else {
            return Ok(None);
        };
        let length = header.get_u32() as usize;
        let kind = header.get_u16();
        let version = header.get_u8();
        let reserved = header.get_u8();
        if reserved != 0 {
            return Err(FrameError::Reserved(reserved));
        }
        check_length(kind, length, (self.reads)(kind))?;
        if from.len() < HEADER + length {
            from.reserve(HEADER + length - from.len());
            return Ok(None);
        }
        from.advance(HEADER);
        Ok(Some(Frame { kind, version, payload: from.split_to(length).freeze() }))
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, to: &mut BytesMut) -> Result<(), FrameError> {
        let length = frame.payload.len();
        check_length(frame.kind, length, (self.writes)(frame.kind))?;
        to.reserve(HEADER + length);
        // The limits are far below 4 GiB, so the length fits.
        to.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        to.put_u16(frame.kind);
        to.put_u8(frame.version);
        to.put_u8(0);
        to.put_slice(&frame.payload);
        Ok(())
    }
}

fn check_length(kind: u16, length: usize, limit: usize) -> Result<(), FrameError> {
    if length > limit {
        return Err(FrameError::TooLong { kind, length, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn codec() -> FrameCodec {
        let limit = |_| 4_096;
        FrameCodec::new(limit, limit)
    }

    fn frame(kind: u16, payload: Vec<u8>) -> Frame {
        Frame { kind, version: 1, payload: payload.into() }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_payload_comes() {
        let mut bytes = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, 0, 1, 1, 0][..]);
        let capacity = bytes.capacity();
        assert!(matches!(codec().decode(&mut bytes), Err(FrameError::TooLong { kind: 1, .. })));
        assert_eq!(bytes.capacity(), capacity);
    }

    #[test]
    fn what_is_read_may_change_on_the_way() {
        let mut bytes = BytesMut::from(&[0, 0x20, 0, 1, 0, 32, 1, 0][..]);
        let mut codec = codec();
        assert!(matches!(codec.decode(&mut bytes), Err(FrameError::TooLong { limit: 4_096, .. })));
        codec.expect(|_| 1 << 24);
        assert!(matches!(codec.decode(&mut bytes), Ok(None)));
    }

    #[test]
    fn a_stream_of_something_else_is_refused() {
        let mut bytes = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
        assert!(codec().decode(&mut bytes).is_err());
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            kinds in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..200)), 0..5),
            cut in 1_usize..64,
        ) {
            let frames: Vec<_> = kinds.into_iter().map(|(k, p)| frame(k, p)).collect();
            let mut sent = BytesMut::new();
            for frame in &frames {
                codec().encode(frame.clone(), &mut sent).unwrap();
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in sent.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = codec().decode(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = codec().decode(&mut buffer) {}
        }
    }
}
