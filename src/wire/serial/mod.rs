//! The channel over a serial port, a byte stream that has no connections.
//!
//! Whoever opens such a port finds the rest of what others have said: half a TLS record, the
//! greeting of an agent that was killed. So what the two ends say travels in frames that find their
//! own beginning ([`cobs`](crate::cobs)), and each frame of the stream within names the *life* it
//! belongs to, a number that nobody has had before. [`Line`] is one end of that, sans-I/O;
//! [`Serial`] makes a byte stream of it. `docs/protocol.md`, "Serial ports", tells the rules and why
//! they suffice.

mod line;
mod stream;

use serde::{Deserialize, Serialize};

pub use line::{Line, Side, Stage};
pub use stream::Serial;

use crate::{bytes, cobs::Message};

/// The name of the virtio-serial port that carries the channel where a host has no other wish.
pub const PORT: &str = "tether.channel";
/// The most bytes of the stream in one frame.
pub const MOST: usize = 4 << 10;

/// A number that nobody has had before: 128 random bits.
pub type Nonce = [u8; 16];

/// What is said on the port. The variants' numbers are on the wire, from 0. Each is one side's
/// to say: an end that hears itself, on a line with an echo, takes nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SerialMessage {
    /// Guest: I want a life. Said until it is accepted.
    Open {
        /// What the host accepts it by.
        opening: Nonce,
    },
    /// Guest: the stream goes on. At most [`MOST`] bytes.
    FromGuest {
        /// The life it belongs to.
        life: Nonce,
        /// The offset of the first byte in that life.
        offset: u64,
        /// What comes.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
    /// Host: I am here, and know of no life.
    Begin,
    /// Host: from here on this is the life.
    Accept {
        /// Whose wish it is.
        opening: Nonce,
        /// What it is called from now on.
        life: Nonce,
    },
    /// Host: the stream goes on. At most [`MOST`] bytes.
    FromHost {
        /// The life it belongs to.
        life: Nonce,
        /// The offset of the first byte in that life.
        offset: u64,
        /// What comes.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
}

impl Message for SerialMessage {
    const MOST: usize = MOST;
}
