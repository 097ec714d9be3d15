//! Name tables: who can be found by name on each of a guest's networks.
//!
//! They travel apart from the desired state, under a version of their own: names come and go
//! with other containers, and none of that needs the guest's kernel. The whole tables come once,
//! what changes afterwards as [`delta::Change`]s.

mod check;
pub mod delta;
mod digest;

use serde::{Deserialize, Serialize};

use crate::state::HostEntry;

pub use check::{CheckedChange, CheckedEndpoint, CheckedNames, CheckedNetwork};
pub(crate) use check::{domain_name, host_address, refuse_mapped};
pub use digest::{Sum, Summary};

/// The most networks in one document.
pub const MAX_NETWORKS: usize = 1_024;
/// The most endpoints, links and extra hosts over all networks of one document.
pub const MAX_ENDPOINTS: usize = 100_000;
/// The most names, the most addresses, and the most ports, of one endpoint.
pub const MAX_PER_ENDPOINT: usize = 64;
/// The longest time to live, in seconds, that a local name may have: a dead container must not
/// be found for longer than this.
pub const MAX_TTL: u32 = 60;

/// All names a guest may look up.
///
/// A name is looked for among `hosts`, then among the links of every network, then among the
/// endpoints of every network, in the networks' order: the first place that has it wins, and
/// everybody who has it there is in the answer. The order of entries within a place means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NameTables {
    /// The time to live of every answer, in seconds, 0 to 60.
    pub ttl_seconds: u32,
    /// Extra hosts (`docker run --add-host`), private to this guest.
    pub hosts: Vec<HostEntry>,
    /// The guest's networks in the order they are searched.
    pub networks: Vec<NetworkNames>,
}

impl Default for NameTables {
    fn default() -> Self {
        Self { ttl_seconds: 5, hosts: Vec::new(), networks: Vec::new() }
    }
}

/// The names on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkNames {
    /// The network's name; `name.network` finds an endpoint, or a link, on this network only.
    pub network: String,
    /// What this guest alone calls others on this network (`docker run --link`).
    #[serde(default)]
    pub links: Vec<EndpointNames>,
    /// Everybody on it, this guest included.
    #[serde(default)]
    pub endpoints: Vec<EndpointNames>,
}

/// One container's attachment to a network: how it is called, where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointNames {
    /// Container name, aliases, short id, host name. Case does not matter. The first is the
    /// answer to a reverse look-up.
    pub names: Vec<String>,
    /// Its addresses, without prefix length.
    pub addresses: Vec<String>,
    /// What it listens on, for SRV questions: `_80._tcp.name`, `_http._tcp.name`.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// A port somebody listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its number, 1 to 65535.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// What it is called: 1 to 15 letters, digits and `-` (RFC 6335 section 5.1).
    #[serde(default)]
    pub name: Option<String>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its name in a service's domain name, without the `_`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}
