//! The configuration file: TOML, as a person writes it.

use serde::Deserialize;
use tether_wire::message::DEFAULT_PORT;
use vch::machine::NicModel;

/// The configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The management network.
    #[serde(default)]
    pub(crate) management: Management,
    /// The bridge networks.
    #[serde(default, rename = "network")]
    pub(crate) networks: Vec<Network>,
    /// The containers.
    #[serde(default, rename = "container")]
    pub(crate) containers: Vec<Container>,
}

/// The management network.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Management {
    /// The bridge that is it.
    pub(crate) bridge: String,
    /// The TCP port guests dial.
    pub(crate) port: u16,
    /// An address plan, where link-local IPv6 is not wanted: the host has the first address,
    /// containers follow in the order of this file.
    pub(crate) subnet: Option<String>,
}

impl Default for Management {
    fn default() -> Self {
        Self { bridge: "vch-management".to_owned(), port: DEFAULT_PORT, subnet: None }
    }
}

/// A bridge network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    /// Its name.
    pub(crate) name: String,
    /// Its subnets, one of each family at most. The first address of each is the host's, the
    /// gateway; containers follow in the order of this file.
    pub(crate) subnets: Vec<String>,
    /// The MTU of everything on it.
    pub(crate) mtu: Option<u32>,
}

/// A container.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Container {
    /// Its name, which is also its guest's id and host name.
    pub(crate) name: String,
    /// The networks it is on, the first giving the default route.
    pub(crate) networks: Vec<String>,
    /// Other names it has on all of them.
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    /// The program and its arguments.
    #[serde(default)]
    pub(crate) command: Vec<String>,
    /// Environment variables, `NAME=value`.
    #[serde(default)]
    pub(crate) env: Vec<String>,
    /// DNS servers for names that are not the host's.
    #[serde(default)]
    pub(crate) dns: Vec<String>,
    /// The NIC its machine has on the bridge networks.
    #[serde(default)]
    pub(crate) nic: NicModel,
    /// Its machine's memory in MiB.
    #[serde(default = "default_memory")]
    pub(crate) memory_mib: u32,
}

fn default_memory() -> u32 {
    128
}
