//! What is kept of networks and containers: the whole of what a restart starts from.
//!
//! Records are values: nothing here touches the kernel, the disk or a guest.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use bollard_stubs::models;
use serde::{Deserialize, Serialize};
use tether_wire::{
    identity::{Pin, Secret},
    state::HostEntry,
    value::{IfName, MacAddr, Prefix},
};

use crate::{image::ImageId, ipam::Subnet, reserved::Protocol};

/// A network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, unique.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// What it is.
    pub kind: NetworkKind,
    /// Its bridge; `None` for the network `none`.
    pub bridge: Option<IfName>,
    /// Its subnets and who has which address.
    pub subnets: Vec<Subnet>,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// The MTU of everything on it; `None`: the kernel's default.
    pub mtu: Option<u32>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The driver options it was made with.
    pub options: BTreeMap<String, String>,
}

/// What a network is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkKind {
    /// No network at all.
    None,
    /// A bridge network; the host is its gateway.
    Bridge {
        /// Whether nothing of it leaves the host.
        internal: bool,
    },
    /// One that an administrator has handed over.
    External {
        /// The host's link that is a port of its bridge.
        link: IfName,
        /// The host's own address on it, where it has one.
        address: Option<Prefix>,
        /// Whether the configuration file has it, and not the database.
        configured: bool,
    },
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits; also its guest's id.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Its image's id.
    pub image: ImageId,
    /// What it was asked to be, the image's own wishes filled in.
    pub config: models::ContainerConfig,
    /// What it was asked to get from its host.
    pub host_config: models::HostConfig,
    /// Program and arguments, entrypoint first.
    pub argv: Vec<String>,
    /// Its attachments, in the order in which they were asked for.
    pub endpoints: Vec<Endpoint>,
    /// Its management NIC.
    pub management_mac: MacAddr,
    /// How it is.
    pub state: State,
    /// What it has while it runs.
    pub run: Option<Run>,
}

/// A container's attachment to a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The network's id.
    pub network: String,
    /// Other names on this network.
    pub aliases: Vec<String>,
    /// Names only this container uses for others: the other's id, and the name.
    pub links: Vec<(String, String)>,
    /// The addresses that were asked for.
    pub wanted: Vec<IpAddr>,
    /// The MAC address that was asked for.
    pub wanted_mac: Option<MacAddr>,
    /// Whose network gives the default route: the highest.
    pub gateway_priority: i64,
    /// What it has while the container runs.
    pub active: Option<Active>,
}

/// What an endpoint has while its container runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Active {
    /// Its NIC's number: `eth0` is 0.
    pub nic: usize,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<Prefix>,
}

/// How a container is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Where in its life it is.
    pub phase: Phase,
    /// How it ended the last time, as Docker counts: 128 and the signal's number, 126 or 127
    /// when it could not be started.
    pub exit_code: i64,
    /// Why it did not start, or ended otherwise than by its workload.
    pub error: String,
    /// When it was started the last time, RFC 3339.
    pub started: Option<String>,
    /// When it ended the last time, RFC 3339.
    pub finished: Option<String>,
}

/// Where in its life a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It never ran.
    #[default]
    Created,
    /// Its machine is on the way up.
    Starting,
    /// Its workload runs.
    Running,
    /// It has ended.
    Exited,
}

impl Phase {
    /// Whether it has a machine.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }
}

/// What a container has while it runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Its machine's process.
    pub pid: u32,
    /// Its published ports.
    pub published: Vec<Published>,
    /// What its guest is let in by; absent: it is not.
    #[serde(default)]
    pub join: Option<Join>,
    /// The extra hosts it was started with.
    pub hosts: Vec<HostEntry>,
    /// How its workload ended, noted before its guest goes away.
    pub exit: Option<i64>,
}

/// What a guest is let in by: new for each start of its machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Join {
    /// It has not come yet.
    Awaited {
        /// What it has to show, in hexadecimal digits: also in its boot document.
        token: Secret,
        /// Until when it counts, in seconds since 1970.
        until: u64,
    },
    /// It has come with this key, and the token counts for nothing.
    Bound(Pin),
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Which protocol.
    pub protocol: Protocol,
    /// The container's port.
    pub port: u16,
    /// Where it answers: an address of the host, unspecified for all, or the container's own
    /// address on an external network.
    pub at: SocketAddr,
    /// Whether the host forwards it; not where the container is on an external network.
    pub forwarded: bool,
}

impl Network {
    /// A network that is none: its name is its id.
    pub(super) fn none(name: &str) -> Self {
        Self {
            id: name.to_owned(),
            name: name.to_owned(),
            created: String::new(),
            kind: NetworkKind::None,
            bridge: None,
            subnets: Vec::new(),
            ipv6: false,
            mtu: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        }
    }

    /// The gateways its containers use.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.subnets.iter().map(Subnet::gateway)
    }

    /// Whether an administrator has handed it over.
    pub fn is_external(&self) -> bool {
        matches!(self.kind, NetworkKind::External { .. })
    }

    /// Whether nothing of it leaves the host.
    pub fn is_internal(&self) -> bool {
        self.kind == NetworkKind::Bridge { internal: true }
    }
}

impl Container {
    /// The id's first twelve digits, as Docker shows it.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// The endpoint on a network.
    pub fn endpoint(&self, network: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.network == network)
    }

    /// Its host name.
    pub fn hostname(&self) -> String {
        let given = self.config.hostname.as_deref().filter(|name| !name.is_empty());
        given.unwrap_or(self.short_id()).to_owned()
    }

    /// Whether it is removed when it ends.
    pub fn auto_remove(&self) -> bool {
        self.host_config.auto_remove.unwrap_or_default()
    }
}
