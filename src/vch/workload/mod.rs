//! What a container's process says and hears: its log, its streams, those who are attached.
//!
//! Nothing here knows Docker's framing or how the machine is run.

pub mod log;
pub mod streams;
