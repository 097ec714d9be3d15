//! The workload's standard streams, on a virtio-serial port of their own.
//!
//! Such a port is a byte stream without connections: after the host program was killed and
//! started again there may be half frames in either direction, so frames find their own
//! beginning ([`cobs`](crate::cobs)). Output has absolute offsets and is kept by the guest until the host
//! has acknowledged it ([`output`]), input has a window ([`input`]). Everything here is
//! sans-I/O; `docs/protocol.md`, "Standard streams", tells the rules.

pub mod input;
pub mod output;

use serde::{Deserialize, Serialize};

use crate::bytes;
pub use crate::cobs::{Decoder, Message, encode};

/// The name of the virtio-serial port, as `/sys/class/virtio-ports/*/name` has it.
pub const PORT: &str = "tether.streams";
/// The most bytes of a stream in one message.
pub const MOST: usize = 16 << 10;

/// Which of the workload's outputs. With a terminal everything is [`Stream::Stdout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a guest says on the port. The variants' numbers are on the wire, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamsFromGuest {
    /// The answer to [`StreamsFromHost::Attach`].
    Attached {
        /// The session it answers.
        session: u64,
        /// The offset of the next output byte that will be sent.
        output: u64,
    },
    /// The workload has written this. At most [`MOST`] bytes.
    Output {
        /// Where it has written it.
        stream: Stream,
        /// The offset of the first byte, over both streams together, since the workload's start.
        offset: u64,
        /// What it has written.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
    /// Nothing more will come.
    OutputEnd {
        /// How much there was, in all.
        offset: u64,
    },
    /// The host may send input up to here.
    Window {
        /// The session whose input it is.
        session: u64,
        /// The offset of the first byte that may not be sent yet.
        stdin: u64,
    },
}

/// What a host says on the port. The variants' numbers are on the wire, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamsFromHost {
    /// Here I am. The guest answers [`StreamsFromGuest::Attached`] and sends its output from
    /// `received` on.
    ///
    /// A session number that is new begins the input anew; the one in force goes on with it.
    Attach {
        /// A random number.
        session: u64,
        /// The offset up to which the host has the output.
        received: u64,
    },
    /// The host has the output up to here; the guest may forget it.
    Ack {
        /// The offset of the first byte the host does not have.
        received: u64,
    },
    /// Input for the workload. At most [`MOST`] bytes, and none beyond the window.
    Stdin {
        /// The session in force; others are ignored.
        session: u64,
        /// The offset of the first byte since the session began.
        offset: u64,
        /// What the workload is to read.
        #[serde(with = "bytes")]
        bytes: Vec<u8>,
    },
    /// There is no more input: the workload's standard input is closed after the last byte.
    StdinEnd {
        /// The session in force; others are ignored.
        session: u64,
        /// How much there was, in all.
        offset: u64,
    },
    /// The terminal's size. Ignored without a terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
    },
}

impl Message for StreamsFromGuest {
    const MOST: usize = MOST;
}

impl Message for StreamsFromHost {
    const MOST: usize = MOST;
}
