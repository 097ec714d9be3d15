//! The container host: networks, addresses, names and machines for container VMs.

pub mod machine;
pub mod network;
