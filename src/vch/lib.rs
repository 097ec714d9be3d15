//! The container host: networks, addresses, names and machines for container VMs.

pub mod certificates;
pub mod engine;
pub mod firewall;
pub mod image;
pub mod ipam;
pub mod machine;
pub mod network;
pub mod reserved;
pub mod store;
pub mod workload;
