//! What the two ends of a tether say to each other.
//!
//! This crate owns the documents (boot document, desired state, name tables, status), their
//! limits and checks, the messages that carry them, the codec that turns messages into bytes, the
//! frames that carry the bytes and the line that carries the frames. Both ends depend on it and
//! never on each other.
//!
//! It must not open sockets, read clocks or ask the operating system anything: bytes in, values
//! out. `docs/protocol.md` describes the same contract for other languages.

#![forbid(unsafe_code)]

pub mod boot;
mod bytes;
pub mod check;
pub mod cobs;
pub mod codec;
pub mod frame;
pub mod identity;
pub mod line;
pub mod message;
pub mod names;
pub mod pci;
pub mod problem;
pub mod protocols;
pub mod serial;
pub mod state;
pub mod status;
pub mod streams;
pub mod upstream;
pub mod value;
