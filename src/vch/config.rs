//! The configuration file: TOML, as a person writes it.

use std::path::Path;

use serde::Deserialize;
use tether_wire::message::DEFAULT_PORT;

/// The configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The management network.
    #[serde(default)]
    pub management: Management,
    /// The bridge networks.
    #[serde(default, rename = "network")]
    pub networks: Vec<Network>,
    /// The containers.
    #[serde(default, rename = "container")]
    pub containers: Vec<Container>,
}

/// The management network.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Management {
    /// The bridge that is it.
    pub bridge: String,
    /// The TCP port guests dial.
    pub port: u16,
    /// An address plan, where link-local IPv6 is not wanted: the host has the first address,
    /// containers follow in the order of this file.
    pub subnet: Option<String>,
}

impl Default for Management {
    fn default() -> Self {
        Self { bridge: "vch-management".to_owned(), port: DEFAULT_PORT, subnet: None }
    }
}

/// A bridge network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its subnets, one of each family at most. The first address of each is the host's, the
    /// gateway; containers follow in the order of this file.
    pub subnets: Vec<String>,
    /// The MTU of everything on it.
    pub mtu: Option<u32>,
}

/// A container.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Its name, which is also its guest's id and host name.
    pub name: String,
    /// The networks it is on, the first giving the default route.
    pub networks: Vec<String>,
    /// Other names it has on all of them.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The program and its arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment variables, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// DNS servers for names that are not the host's.
    #[serde(default)]
    pub dns: Vec<String>,
    /// The NIC its machine has on the bridge networks.
    #[serde(default)]
    pub nic: Nic,
    /// Its machine's memory in MiB.
    #[serde(default = "default_memory")]
    pub memory_mib: u32,
}

fn default_memory() -> u32 {
    128
}

/// A model of NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nic {
    /// virtio-net, the NIC of KVM.
    #[default]
    VirtioNet,
    /// VMXNET3, the NIC of vSphere.
    Vmxnet3,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML of this shape.
    #[error("{path}: {source}")]
    Malformed {
        /// The file.
        path: String,
        /// Where and why; of several lines.
        source: toml::de::Error,
    },
}

impl Config {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: name.clone(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Malformed { path: name, source })
    }
}
