//! The container host: networks, addresses, names and machines for container VMs.
//!
//! [`config`] says what somebody wants, [`plan`] works out every address, name and document of
//! it, [`network`] and [`machine`] make it, [`serve`] drives the guests. Its face will be the
//! Docker endpoint; until then it is a configuration file.

pub mod accelerator;
pub mod config;
pub mod machine;
pub mod network;
pub mod output;
pub mod plan;
pub mod serve;
pub mod tap;
