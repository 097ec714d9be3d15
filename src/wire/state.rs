//! The desired state: everything a host wants of one guest's networking, in one document.
//!
//! These are the texts as somebody wrote them; [`crate::check`] turns them into values that
//! cannot be wrong. The same types are read from JSON (`tether run --state`) and carried in the
//! [`Apply`](crate::message::Apply) message.
//!
//! A released type never changes in place: fields are positional on the wire. The next version
//! is a new type beside this one (`docs/protocol.md`, "Versions").

use serde::{Deserialize, Serialize};

/// The most interfaces in one document.
pub const MAX_INTERFACES: usize = 64;
/// The most addresses in one document, over all interfaces.
pub const MAX_ADDRESSES: usize = 4_096;
/// The most routes in one document, over all interfaces.
pub const MAX_ROUTES: usize = 16_384;
/// The most upstream servers, search domains, resolver options or extra hosts in one document.
pub const MAX_ENTRIES: usize = 1_024;

/// Everything a host wants of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DesiredState {
    /// The guest's host name: letters, digits, `-`, `_` and `.`, 64 bytes at most. Empty leaves
    /// the name as it is.
    pub hostname: String,
    /// The interfaces tether is to make so. Interfaces that are not listed are left alone.
    pub interfaces: Vec<Interface>,
    /// How the container resolves names.
    pub dns: Dns,
    /// Lines for `/etc/hosts` besides `localhost` and the guest's own name.
    pub hosts: Vec<HostEntry>,
    /// What process 1 starts once the network is verified. Ignored, with a line in the log,
    /// where tether is not process 1.
    pub workload: Option<Workload>,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Which device it is: its MAC address, `02:42:ac:12:00:02`.
    pub mac: String,
    /// The name it gets: 1 to 15 bytes, `eth0`.
    pub name: String,
    /// The largest packet in bytes, 68 (1280 with IPv6) to 65535. Absent: as the device has it.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Addresses with their prefix lengths: `172.18.0.2/16`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Routes out of this interface. The kernel makes the ones to its own networks itself.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// One route out of an interface, in the main table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to: a network, `10.0.0.0/8`; `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: String,
    /// The next hop, inside one of the interface's own networks or IPv6 link-local. Absent: the
    /// destination is on the link itself.
    #[serde(default)]
    pub gateway: Option<String>,
    /// Smaller is preferred. Absent: the kernel's default, 0 for IPv4 and 1024 for IPv6.
    #[serde(default)]
    pub metric: Option<u32>,
}

/// Name resolution for the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Servers for names that are not the host's own, tried in order: `10.0.0.53`,
    /// `10.0.0.53:5353`, `[fd00::53]:53`, `fe80::53%eth0`.
    pub upstreams: Vec<String>,
    /// Search domains for `/etc/resolv.conf`. `.` is dropped.
    pub search: Vec<String>,
    /// Options for `/etc/resolv.conf`, passed on as they are. `ndots:0` is added when there is
    /// no valid `ndots`.
    pub options: Vec<String>,
}

/// One extra line of `/etc/hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// The address.
    pub address: String,
    /// The names, canonical one first; at least one.
    pub names: Vec<String>,
}

/// The container's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// The program and its arguments. The program is looked for in `PATH` unless it has a `/`.
    pub argv: Vec<String>,
    /// Environment variables, `NAME=value`. Nothing else is in the environment but, unless it is
    /// given here, a `PATH` of the usual places.
    #[serde(default)]
    pub env: Vec<String>,
    /// The working directory, absolute. Empty: `/`.
    #[serde(default)]
    pub cwd: String,
}
