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
/// The most routes in one document, those of the interfaces and the others together.
pub const MAX_ROUTES: usize = 16_384;
/// The most next hops in one document, over all routes.
pub const MAX_HOPS: usize = 32_768;
/// The most next hops of one route: all of them go in one netlink attribute, 64 KiB at most.
pub const MAX_HOPS_PER_ROUTE: usize = 256;
/// The most policy rules in one document.
pub const MAX_RULES: usize = 1_024;
/// The most neighbours in one document, over all interfaces.
pub const MAX_NEIGHBOURS: usize = 4_096;
/// The most upstream servers, search domains, resolver options, extra hosts or alternative names
/// in one document.
pub const MAX_ENTRIES: usize = 1_024;
/// The most addresses the DNS server listens on: each has a thread.
pub const MAX_LISTEN: usize = 8;
/// How long a host has to confirm what could cut it off, in seconds, unless the document says.
pub const DEFAULT_CONFIRM_S: u32 = 15;

/// Everything a host wants of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DesiredState {
    /// The guest's host name: letters, digits, `-`, `_` and `.`, 64 bytes at most. Empty leaves
    /// the name as it is.
    pub hostname: String,
    /// The domain the guest is in: the kernel's domain name, and part of the guest's full name
    /// in `/etc/hosts`. Empty leaves the kernel's as it is.
    pub domain: String,
    /// The interfaces tether is to make so. Interfaces that are not listed are left alone.
    pub interfaces: Vec<Interface>,
    /// Routes that do not lead out of one interface: several next hops, or none.
    pub routes: Vec<PathRoute>,
    /// Which table is looked up for what.
    pub rules: Vec<Rule>,
    /// How the container resolves names.
    pub dns: Dns,
    /// Lines for `/etc/hosts` besides `localhost` and the guest's own name.
    pub hosts: Vec<HostEntry>,
    /// What is done about changes that others make to what this document wants.
    pub drift: DriftPolicy,
    /// How long the host has to confirm a document that could cut it off from the guest, in
    /// seconds, 1 to 3600. Without that confirmation the state before comes back. Absent: 15.
    pub confirm_s: Option<u32>,
    /// What process 1 starts once the network is verified. Ignored, with a line in the log,
    /// where tether is not process 1.
    pub workload: Option<Workload>,
}

/// What is done about changes that others make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftPolicy {
    /// They are reported, and what the document wants is put in force again.
    #[default]
    Repair,
    /// They are reported.
    Report,
}

/// One network interface.
///
/// What is not said is as it was before tether came: a field that a later document leaves out
/// goes back to the value it had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Interface {
    /// Which device of the machine it is. Either this or `create`.
    #[serde(rename = "match")]
    pub matching: Option<Match>,
    /// Which device is to be made. Either this or `match`.
    pub create: Option<Create>,
    /// The name it gets: 1 to 15 bytes, `eth0`. The loopback interface keeps `lo`.
    pub name: String,
    /// The device may be missing: the document is in force without it, and it is configured when
    /// it appears.
    pub optional: bool,
    /// More names it is known by, 1 to 127 bytes each.
    pub alternative_names: Vec<String>,
    /// The MAC address it gets.
    pub mac: Option<String>,
    /// The largest packet in bytes, 68 (1280 with IPv6) to 65535.
    pub mtu: Option<u32>,
    /// How many packets wait to be sent at most (`txqueuelen`).
    pub tx_queue_length: Option<u32>,
    /// It is kept down. It has neither addresses nor routes then.
    pub down: bool,
    /// IPv4 settings.
    pub ipv4: Ipv4Settings,
    /// IPv6 settings.
    pub ipv6: Ipv6Settings,
    /// Addresses. The first of a network is the one the others are secondary to.
    pub addresses: Vec<Address>,
    /// Routes out of this interface. The kernel makes the ones to its own networks itself.
    pub routes: Vec<Route>,
    /// Neighbours whose MAC address is known for good.
    pub neighbours: Vec<Neighbour>,
}

/// Which device of the machine is meant. At least one criterion; all that are given have to
/// agree, and exactly one device has to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// Its permanent MAC address, or its MAC address where it has no permanent one.
    pub mac: Option<String>,
    /// Its place on the PCI bus: the kernel's address, `0000:00:03.0`, or, where the numbers of
    /// buses behind bridges are not known, the devices on the way from the root bus, `02.0/00.0`.
    pub pci: Option<String>,
    /// Its name before tether came.
    pub name: Option<String>,
}

impl Match {
    /// The device with this permanent MAC address.
    pub fn of_mac(mac: impl Into<String>) -> Self {
        Self { mac: Some(mac.into()), ..Self::default() }
    }
}

/// A device that tether makes, and removes when no document wants it any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Create {
    /// One that takes packets and loses them: a place for addresses.
    Dummy {},
    /// A VLAN of another interface (IEEE 802.1Q).
    Vlan {
        /// The name of the interface it is on, one of this document.
        parent: String,
        /// Its number, 1 to 4094.
        id: u16,
    },
}

/// IPv4 settings of one interface, `net.ipv4.conf.NAME.…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ipv4Settings {
    /// Packets for others that arrive here are passed on.
    pub forwarding: Option<bool>,
    /// Packets whose source would be answered elsewhere are dropped (RFC 3704): 0 no, 1 strict,
    /// 2 loose.
    pub rp_filter: Option<u8>,
    /// Which ARP requests are answered, 0 to 8. Absent: 1, only for this interface's addresses,
    /// where several interfaces have IPv4 addresses.
    pub arp_ignore: Option<u8>,
    /// Which of its addresses it asks ARP questions with, 0 to 2. Absent: 2, the best one of this
    /// interface, where several interfaces have IPv4 addresses.
    pub arp_announce: Option<u8>,
}

/// IPv6 settings of one interface, `net.ipv6.conf.NAME.…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ipv6Settings {
    /// No IPv6 here.
    pub disable_ipv6: Option<bool>,
    /// Packets for others that arrive here are passed on.
    pub forwarding: Option<bool>,
    /// Router advertisements are believed: 0 no, 1 unless it forwards, 2 always.
    pub accept_ra: Option<u8>,
}

/// An address of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Address {
    /// The address with its prefix length: `172.18.0.2/16`.
    pub address: String,
    /// The other end's address on a point-to-point link; the prefix length is then its.
    pub peer: Option<String>,
    /// How far it means anything; IPv4 only, where IPv6 addresses say so themselves. Absent:
    /// global.
    pub scope: Option<Scope>,
    /// IPv4 only: the interface's name, or that and `:` and a word, 15 bytes at most. Absent: the
    /// interface's name.
    pub label: Option<String>,
    /// How long it is valid, in seconds from the moment this document is in force. Absent: for
    /// ever.
    pub valid_s: Option<u32>,
    /// How long it is used for new connections, in seconds, `valid_s` at most. Absent: as long as
    /// it is valid.
    pub preferred_s: Option<u32>,
    /// The kernel makes no route to its network (`noprefixroute`).
    pub no_prefix_route: bool,
    /// IPv6 only: the home address of a mobile node (RFC 6275).
    pub home: bool,
    /// How it is made sure that nobody else has it.
    pub conflicts: ConflictCheck,
}

impl<T: Into<String>> From<T> for Address {
    /// An address with its prefix length and nothing special about it.
    fn from(text: T) -> Self {
        Self { address: text.into(), ..Self::default() }
    }
}

/// How far an address or a destination means anything (`RT_SCOPE_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everywhere.
    Global,
    /// Within this site.
    Site,
    /// On this link.
    Link,
    /// Inside this machine.
    Host,
}

/// How it is made sure that nobody else has an address: by probes for IPv4 (RFC 5227), by the
/// kernel's duplicate-address detection for IPv6 (RFC 4862).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictCheck {
    /// It is used at once (RFC 4429 for IPv6) and checked meanwhile; a conflict is reported.
    #[default]
    Optimistic,
    /// It is used once it is known to be free: 4 to 7 seconds for IPv4, 1 to 2 for IPv6. A
    /// conflict fails the document.
    Strict,
    /// It is not checked.
    Off,
}

/// One route out of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// Where to: a network, `10.0.0.0/8`; `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: String,
    /// The next hop, inside one of the interface's own networks or IPv6 link-local; an IPv4
    /// destination may have an IPv6 one (RFC 8950). Absent: the destination is on the link.
    pub gateway: Option<String>,
    /// The next hop is on the link, whatever the interface's networks are. Understood where an
    /// interface's IPv4 addresses are all /32, which have no network a gateway could be in.
    pub onlink: bool,
    /// Smaller is preferred. Absent: the kernel's default, 0 for IPv4 and 1024 for IPv6.
    pub metric: Option<u32>,
    /// The table it is in, 1 and up but not 255, the kernel's own. Absent: 254, the main one.
    pub table: Option<u32>,
    /// IPv4 only: how far the destination is. Absent: link without a gateway, else global.
    pub scope: Option<Scope>,
    /// The address packets get that have none yet; one of this document.
    pub source: Option<String>,
    /// The path's MTU in bytes, as the interface's.
    pub mtu: Option<u32>,
    /// IPv6 only: which of several default routers is asked first (RFC 4191).
    pub preference: Option<Preference>,
}

/// Which of several routers is asked first (RFC 4191).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// After the others.
    Low,
    /// Neither.
    Medium,
    /// Before the others.
    High,
}

/// A route with several next hops or with none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathRoute {
    /// Where to: a network.
    pub destination: String,
    /// What becomes of packets.
    #[serde(rename = "type")]
    pub kind: RouteType,
    /// The next hops; at least one for unicast, none for the others; 256 at most.
    pub hops: Vec<Hop>,
    /// As a [`Route`]'s.
    pub metric: Option<u32>,
    /// As a [`Route`]'s.
    pub table: Option<u32>,
    /// As a [`Route`]'s.
    pub scope: Option<Scope>,
    /// As a [`Route`]'s.
    pub source: Option<String>,
    /// As a [`Route`]'s.
    pub mtu: Option<u32>,
    /// As a [`Route`]'s.
    pub preference: Option<Preference>,
}

/// What becomes of packets that take a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteType {
    /// They go to the next hop, or to one of several.
    #[default]
    Unicast,
    /// They are lost without a word.
    Blackhole,
    /// They are answered by "host unreachable".
    Unreachable,
    /// They are answered by "administratively prohibited".
    Prohibit,
    /// This table is left: the next rule decides.
    Throw,
}

/// One of a route's next hops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hop {
    /// The name of the interface it leads out of, one of this document.
    pub interface: String,
    /// As a [`Route`]'s.
    pub gateway: Option<String>,
    /// As a [`Route`]'s.
    pub onlink: bool,
    /// Its share of the packets, 1 to 256. Absent: 1.
    pub weight: Option<u16>,
}

/// A policy rule: which table is looked up for which packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Its place: smaller is looked at first; 1 to 32765 lie between the kernel's own.
    pub priority: u32,
    /// Which packets' family, where neither `from` nor `to` says so. Absent: IPv4.
    pub family: Option<Family>,
    /// The network packets come from. Absent: any.
    pub from: Option<String>,
    /// The network packets go to. Absent: any.
    pub to: Option<String>,
    /// The name of the interface packets arrive on. Absent: any.
    pub iif: Option<String>,
    /// The name of the interface the sending socket is bound to. Absent: any.
    pub oif: Option<String>,
    /// The mark packets have. Absent: any.
    pub fwmark: Option<u32>,
    /// Which bits of the mark are compared. Absent: all.
    pub fwmask: Option<u32>,
    /// The table that is looked up: 254 (main), 253 (default), or one that has a route in this
    /// document.
    pub table: u32,
    /// Routes found there whose prefix is this long or shorter do not count: 0 leaves out the
    /// default route.
    pub suppress_prefixlength: Option<u8>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// A neighbour whose MAC address is known for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Neighbour {
    /// Its address, on one of the interface's networks.
    pub address: String,
    /// Its MAC address.
    pub mac: String,
}

/// Name resolution for the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Servers for names that are not local: `10.0.0.53`, `10.0.0.53:5353`, `[fd00::53]:53`,
    /// `fe80::53%eth0`. They are taken for equal: whichever answers soonest is asked.
    pub upstreams: Vec<String>,
    /// Servers of single networks, for single domains, or behind TLS.
    pub forward: Vec<Forward>,
    /// Search domains for `/etc/resolv.conf`. `.` is dropped.
    pub search: Vec<String>,
    /// Options for `/etc/resolv.conf`, passed on as they are. `ndots:0` is added when there is
    /// no valid `ndots`.
    pub options: Vec<String>,
    /// Addresses of this guest the server listens on, port 53, UDP and TCP; 127.0.0.11 when there
    /// are none. `/etc/resolv.conf` names the first. It answers nobody but this guest.
    pub listen: Vec<String>,
    /// How much memory answers of upstreams are kept in, in KiB, 4,096 at most; 0: none is kept.
    /// Absent: 256.
    pub cache_kib: Option<u32>,
    /// How long an answer may still be given after its time to live when no upstream answers, in
    /// seconds, 604,800 at most (RFC 8767); 0: not at all. Absent: 3,600.
    pub stale_s: Option<u32>,
    /// How many questions may be at upstreams at one time, 1 to 512. As many again wait. Absent:
    /// 256.
    pub in_flight: Option<u32>,
    /// Private, loopback and link-local addresses in answers of `upstreams`, and of `forward`
    /// without domains, are refused: the name would lead a browser of the guest's to its inside
    /// (DNS rebinding).
    pub refuse_private_answers: bool,
    /// A name below a network's own name that nobody has does not exist: upstreams are not asked.
    pub keep_own_names: bool,
}

/// Servers that are taken for equal, and what they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forward {
    /// The domains whose names they are asked for, `corp.example`, and nothing else; the longest
    /// that fits a name decides. None: they are asked for everything, as `upstreams` are.
    pub domains: Vec<String>,
    /// The servers, spelled as in `upstreams`; at least one. The port is 853 unless given where
    /// there is `tls`.
    pub servers: Vec<String>,
    /// They are asked through this interface only, whatever the routes say.
    pub interface: Option<String>,
    /// They are asked over TLS (RFC 7858).
    pub tls: Option<DnsTls>,
}

/// How DNS servers behind TLS are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsTls {
    /// The name their certificates are for.
    pub name: String,
    /// Who vouches for them: certificates in PEM, at least one, 64 KiB at most. A server's own
    /// self-signed one will do.
    pub ca: String,
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
