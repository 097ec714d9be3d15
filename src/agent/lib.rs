//! The network agent inside a container VM.
//!
//! The trunk is one straight line: boot document → channel → desired state → plan → kernel →
//! verify → report. [`run`] walks it; every other module is one room beside it.

pub mod agent;
pub mod boot;
pub mod channel;
pub mod claim;
pub mod console;
mod deadline;
pub mod dns;
pub mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod init;
pub mod journal;
pub mod kernel;
pub mod management;
mod memory;
pub mod names;
pub mod plan;
mod port;
mod random;
pub mod report;
pub mod run;
pub mod streams;
