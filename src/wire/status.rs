//! What a guest says of itself: read back from its kernel, never assumed.

use serde::{Deserialize, Serialize};

/// The most interfaces in one report.
pub const MAX_INTERFACES: usize = 1_024;
/// The most addresses in one report, over all interfaces.
pub const MAX_ADDRESSES: usize = 8_192;
/// The most routes in one report, over all interfaces.
pub const MAX_ROUTES: usize = 32_768;
/// The most policy rules in one report.
pub const MAX_RULES: usize = 1_024;

/// Which document is in force: its number and the digest of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The host's number for it, 1 and up, strictly increasing.
    pub generation: u64,
    /// What it said.
    pub digest: Digest,
}

/// The SHA-256 of a document's encoding (`docs/protocol.md`, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Digest {
    /// The first 12 hexadecimal digits: enough to tell two documents apart in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The guest as its kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// All interfaces but the management NIC's, by kernel index; of very many things the first
    /// [`MAX_INTERFACES`], [`MAX_ADDRESSES`] and [`MAX_ROUTES`].
    pub interfaces: Vec<ObservedInterface>,
    /// Routes with several next hops or with none.
    pub routes: Vec<ObservedPathRoute>,
    /// Policy rules, without the kernel's own.
    pub rules: Vec<ObservedRule>,
}

/// An interface as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedInterface {
    /// The kernel's index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, empty for devices without one.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The link carries packets (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// More names it is known by.
    pub alternative_names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<ObservedAddress>,
    /// Unicast routes that lead out of it alone, without the kernel's own.
    pub routes: Vec<ObservedRoute>,
}

/// An address as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedAddress {
    /// The address with its prefix length.
    pub address: String,
    /// Whether it can be used.
    pub state: AddressState,
    /// Whether tether made it.
    pub ours: bool,
}

/// The state of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressState {
    /// In use.
    Usable,
    /// Duplicate-address detection (RFC 4862 section 5.4) is not finished.
    Tentative,
    /// Somebody else has it.
    Duplicate,
}

/// A route as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRoute {
    /// Where to.
    pub destination: String,
    /// The next hop, if there is one.
    pub gateway: Option<String>,
    /// The metric.
    pub metric: u32,
    /// The table it is in; 254 is the main one.
    pub table: u32,
    /// Whether tether made it.
    pub ours: bool,
}

/// A route with several next hops or with none, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedPathRoute {
    /// Where to.
    pub destination: String,
    /// What becomes of packets: `unicast`, `blackhole` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// The next hops, `10.0.0.1 eth0 weight 2`.
    pub hops: Vec<String>,
    /// The metric.
    pub metric: u32,
    /// The table it is in.
    pub table: u32,
    /// Whether tether made it.
    pub ours: bool,
}

/// A policy rule as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRule {
    /// What it says: `priority 100 from 10.0.0.0/8 table 7`.
    pub rule: String,
    /// Whether tether made it.
    pub ours: bool,
}

/// What the embedded DNS server has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounters {
    /// Queries received, over UDP and TCP.
    pub queries: u64,
    /// Answered from the name tables.
    pub local: u64,
    /// Answered from the cache, stale answers included.
    pub cached: u64,
    /// Answered from the cache past their time to live, because no upstream answered.
    pub stale: u64,
    /// Left to upstreams, or to somebody's question to them.
    pub forwarded: u64,
    /// Of those: joined to an equal question that was on its way.
    pub coalesced: u64,
    /// Answered with SERVFAIL: no upstream, or none that answered.
    pub failed: u64,
    /// Of those: too many questions were on their way and waiting.
    pub dropped: u64,
    /// Not answered: no DNS, or not a question.
    pub ignored: u64,
}

/// Something that is not as it should be, for as long as it is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Which part: `dns`, `kernel`, …
    pub part: String,
    /// What is wrong, one line.
    pub message: String,
}

/// A guest's report, sent on change and periodically; the newest replaces the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub agent_version: String,
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// The agent's resident memory in KiB.
    pub rss_kib: u64,
    /// The desired state in force, verified.
    pub applied: Option<Stamp>,
    /// The name tables in force.
    pub names: Option<Stamp>,
    /// The kernel's view.
    pub observed: Observed,
    /// DNS.
    pub dns: DnsCounters,
    /// Frames of unknown type or version that were skipped.
    pub skipped_frames: u64,
    /// What is not as it should be.
    pub conditions: Vec<Condition>,
}
