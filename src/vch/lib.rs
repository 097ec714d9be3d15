//! The container host: what users see as a Docker host, with a machine for each container.
//!
//! [`docker`] is its face, [`engine`] decides, and [`network`], [`firewall`], [`machine`],
//! [`image`] and [`workload`] do. [`serve`] puts them together; [`admin`] is the administrator's
//! door.

pub mod admin;
pub mod certificates;
pub mod config;
pub mod docker;
pub mod engine;
pub mod firewall;
pub mod identity;
pub mod image;
pub mod ipam;
pub mod mac;
pub mod machine;
pub mod network;
pub mod reserved;
pub mod said;
pub mod serve;
pub mod store;
pub mod workload;
