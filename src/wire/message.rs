//! The messages, their type numbers and their limits.
//!
//! One table, [`FromGuest`] and [`FromHost`], says which message goes which way, under which
//! number, how long it may be. `docs/protocol.md` tells what each means and when it is sent.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, DecodeError},
    frame::{Frame, FrameCodec, Limit},
    identity::{JoinToken, Pin},
    names::{NameTables, Summary, delta},
    problem::Problem,
    state::DesiredState,
    status::{Digest, Observed, Stamp, Status},
};

/// The TCP port a host listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7373;
/// The longest payload, in bytes, of a type this crate does not know: it is skipped.
pub const UNKNOWN_LIMIT: usize = 64 << 10;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The guest's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest protocol version the guest speaks.
    pub protocol_min: u16,
    /// The newest.
    pub protocol_max: u16,
    /// Who it is, a [`GuestId`](crate::value::GuestId).
    pub guest: String,
    /// The agent's version.
    pub agent_version: String,
    /// What the agent can do beyond its protocol version. None are defined yet.
    pub capabilities: Vec<String>,
    /// The kernel's `boot_id`: another one means that the guest has restarted.
    pub boot_id: String,
    /// The desired state in force, if any.
    pub applied: Option<Stamp>,
    /// The name tables in force, if any.
    pub names: Option<Stamp>,
    /// What the host has given to this guest alone, to be known by until its key is.
    pub token: JoinToken,
}

/// The host's answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version both will speak, in the range the guest gave.
    pub protocol: u16,
    /// The host's version.
    pub host_version: String,
    /// How often each end sends [`Ping`], in milliseconds, 100 to 60,000. Three intervals of
    /// silence end the connection.
    pub heartbeat_ms: u32,
}

/// The host wants nothing of this guest. The connection ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, one line.
    pub reason: String,
}

/// Are you there? Answered by [`Pong`] with the same nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Any number.
    pub nonce: u64,
}

/// I am here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The number of the [`Ping`].
    pub nonce: u64,
}

/// These are the host's keys from now on: a guest takes whoever has one of them for its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// One or two pins, at most [`MAX_PINS`](crate::identity::MAX_PINS).
    pub pins: Vec<Pin>,
}

/// The guest knows the host by these keys, after the agent's next start too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKeyKept {
    /// The pins of the [`HostKey`].
    pub pins: Vec<Pin>,
}

/// Make it so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// The document's number.
    pub generation: u64,
    /// The document.
    pub state: DesiredState,
}

/// The type of [`Apply`].
const APPLY: u16 = 16;

impl Apply {
    /// The frame of a message with a state that is encoded already: it is kept so.
    pub fn frame(generation: u64, encoded: &[u8]) -> Frame {
        numbered(APPLY, generation, encoded)
    }
}

/// A desired state has arrived; nothing is said yet of what comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Its number.
    pub generation: u64,
}

/// A desired state is in force: read back from the kernel and found right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Its number and digest.
    pub stamp: Stamp,
    /// How many operations it took on the kernel; 0 when everything was right already.
    pub operations: u32,
    /// Microseconds from its arrival to its verification.
    pub took_us: u64,
    /// What was left out, and why: an optional device that is missing, IPv6 where the kernel has
    /// none.
    pub skipped: Vec<Problem>,
    /// What was done could cut the host off: without its [`Confirm`] within so many seconds the
    /// state before comes back. 0: no confirmation is waited for.
    pub confirm_within_s: u32,
    /// The kernel's view.
    pub observed: Observed,
}

/// A desired state is not in force; the one before still is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Its number.
    pub generation: u64,
    /// Why.
    pub failure: Failure,
}

/// Why a desired state could not be put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How far it came.
    pub phase: Phase,
    /// Everything that is wrong, each with its path in the document.
    pub problems: Vec<Problem>,
    /// The operation that failed, for [`Phase::Apply`].
    pub operation: Option<FailedOperation>,
    /// Whether the guest is as it was before: `true` also when nothing was touched.
    pub restored: bool,
}

/// How far a desired state came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its number is not newer than the one in force. Nothing was touched.
    Generation,
    /// The document is wrong in itself. Nothing was touched.
    Check,
    /// The document does not fit this machine. Nothing was touched.
    Plan,
    /// The kernel refused an operation.
    Apply,
    /// A file under `/etc` or the host name could not be written.
    Files,
    /// Reading back, the kernel was not as desired in time.
    Verify,
    /// It was in force, but the host did not confirm in time that it can still be heard.
    Confirm,
}

/// An operation the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedOperation {
    /// What was tried: `add route 0.0.0.0/0 via 172.18.0.1 dev 2`.
    pub operation: String,
    /// The error's name: `ENETUNREACH`.
    pub errno: String,
    /// The kernel's own words (extended acknowledgement), often empty.
    pub kernel: String,
}

/// The host has heard that a desired state is in force: it has not cut itself off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// The generation of the [`Verified`] that is confirmed.
    pub generation: u64,
}

/// A [`Confirm`] has come in time: the desired state stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// Its generation.
    pub generation: u64,
}

/// These are the names, all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The document's number, strictly increasing.
    pub version: u64,
    /// The document.
    pub tables: NameTables,
}

/// The type of [`Names`].
const NAMES: u16 = 32;

impl Names {
    /// The frame of a message with tables that are encoded already: what is sent to a thousand
    /// guests is encoded once.
    pub fn frame(version: u64, encoded: &[u8]) -> Frame {
        numbered(NAMES, version, encoded)
    }
}

/// The frame of a message that is a number and a document, which is encoded already.
fn numbered(kind: u16, number: u64, encoded: &[u8]) -> Frame {
    // A message is its fields, one after the other.
    let mut payload = codec::encode(&number);
    payload.reserve_exact(encoded.len());
    payload.extend_from_slice(encoded);
    Frame { kind, version: 1, payload: payload.into() }
}

/// This is what changes in the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesDelta {
    /// The version it is a change of. A guest that has another answers [`NamesGap`].
    pub base: u64,
    /// The number of the tables it leads to, above `base`, and their digest.
    pub stamp: Stamp,
    /// The changes, in order.
    pub changes: Vec<delta::Change>,
}

/// A [`NamesDelta`] does not fit the tables in force, which stay: send the whole tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesGap {
    /// The number of the delta.
    pub version: u64,
    /// The tables in force, if any.
    pub has: Option<Stamp>,
}

/// Forget what upstreams have answered. Nothing follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushCache;

/// Name tables are in force: every query from now on is answered by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesApplied {
    /// Their number and digest.
    pub stamp: Stamp,
}

/// Name tables were refused; the ones before are still in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesFailed {
    /// Their number.
    pub version: u64,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

/// Something happened in the guest. Sent once; dropped, and counted, when the host does not
/// keep up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// Events dropped before this one since the agent started.
    pub dropped: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The workload runs.
    WorkloadStarted {
        /// Its process id.
        pid: u32,
    },
    /// Somebody in the guest has changed what the desired state wants, or has added to it.
    Drift(Drift),
    /// Another machine uses one of the guest's addresses.
    AddressConflict {
        /// The name of the interface that has it.
        interface: String,
        /// The address.
        address: String,
        /// The other machine's MAC address, empty when it was not heard.
        mac: String,
    },
}

impl fmt::Display for EventKind {
    /// One line for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkloadStarted { pid } => write!(f, "workload started, process {pid}"),
            Self::Drift(drift) => drift.fmt(f),
            Self::AddressConflict { interface, address, mac } => {
                let mac = if mac.is_empty() { "another machine" } else { mac };
                write!(f, "{address} of {interface} is used by {mac} too")
            }
        }
    }
}

/// Changes that were not the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// What is different, each with its path in the desired state; the first [`MAX_CHANGES`].
    pub changes: Vec<Problem>,
    /// How many changes there are.
    pub count: u32,
    /// What was done about it.
    pub outcome: DriftOutcome,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("changed by somebody in the guest: ")?;
        for (n, change) in self.changes.iter().enumerate() {
            write!(f, "{}{change}", if n == 0 { "" } else { "; " })?;
        }
        match usize::try_from(self.count).unwrap_or(usize::MAX).saturating_sub(self.changes.len()) {
            0 => {}
            more => write!(f, "; and {more} more")?,
        }
        match &self.outcome {
            DriftOutcome::Left | DriftOutcome::Reported => f.write_str(" (left as it is)"),
            DriftOutcome::Repaired { .. } => f.write_str(" (repaired)"),
            DriftOutcome::Failed { message } => write!(f, " (not repaired: {message})"),
            DriftOutcome::GaveUp { retry_s } => {
                write!(f, " (repaired too often; left as it is for {retry_s} s)")
            }
        }
    }
}

/// The most changes that are told in one [`Drift`].
pub const MAX_CHANGES: usize = 16;

/// What was done about changes that were not the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftOutcome {
    /// Nothing: they take nothing away that the desired state wants.
    Left,
    /// Nothing: that is the desired state's policy.
    Reported,
    /// What the desired state wants is in force again, after so many operations.
    Repaired {
        /// Operations on the kernel.
        operations: u32,
    },
    /// It could not be put in force again; it is tried when something changes.
    Failed {
        /// Why, one line.
        message: String,
    },
    /// Nothing for now: it was repaired too often in a short time. It is tried again when this
    /// long has passed.
    GaveUp {
        /// Seconds.
        retry_s: u32,
    },
}

/// The workload has ended. Sent again on each connection until [`ExitSeen`] comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadExited {
    /// How it ended.
    pub exit: Exit,
}

/// How a workload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this code, 0 to 255.
    Code(i32),
    /// This signal ended it. Docker shows 128 and the signal's number.
    Signal(i32),
    /// It could not be started: 127 in Docker's terms when the program is missing, else 126.
    NotStarted(String),
}

/// The host has noted the workload's end, for good; the guest may power off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitSeen;

/// End the workload with SIGTERM, after the grace with SIGKILL, and power off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// How long the workload has after SIGTERM, in milliseconds.
    pub grace_ms: u32,
}

/// Send this signal to the workload's first process, and to it alone, as `docker kill` does.
/// Nothing follows from it but what the process makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// The signal's number on Linux, 1 to 64; others are ignored.
    pub number: i32,
}

/// Why a frame is not a message. The connection ends: one end is broken.
#[derive(Debug, thiserror::Error)]
#[error("{name} (type {kind}): {source}")]
pub struct MessageError {
    /// The message's name.
    name: &'static str,
    /// Its type number.
    kind: u16,
    /// What is wrong with its payload.
    source: DecodeError,
}

/// Declares the messages of one direction. `$limit` is in bytes, of the payload.
///
/// The decoder's own limit is twice that: it counts numbers at their full width, eight bytes for
/// every length, and honest documents come to a little over their size.
macro_rules! messages {
    ($(#[$doc:meta])* $direction:ident { $($name:ident = $kind:literal, $limit:expr;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(clippy::large_enum_variant, reason = "a message is made, sent and gone, one at a time")]
        pub enum $direction {
            $(
                #[doc = concat!("Type ", stringify!($kind), ".")]
                $name($name),
            )+
        }

        impl $direction {
            /// The message in `frame`, or `None` when its type or version is not known here:
            /// such a frame is skipped and counted.
            pub fn from_frame(frame: &Frame) -> Result<Option<Self>, MessageError> {
                match (frame.kind, frame.version) {
                    $(
                        ($kind, 1) => match codec::decode::<$name, { 2 * $limit }>(&frame.payload) {
                            Ok(message) => Ok(Some(Self::$name(message))),
                            Err(source) => Err(MessageError { name: stringify!($name), kind: $kind, source }),
                        },
                    )+
                    _ => Ok(None),
                }
            }

            /// The frame that carries this message.
            pub fn to_frame(&self) -> Frame {
                match self {
                    $(
                        Self::$name(message) => Frame {
                            kind: $kind,
                            version: 1,
                            payload: codec::encode(message).into(),
                        },
                    )+
                }
            }
        }

        $(
            impl From<$name> for $direction {
                fn from(message: $name) -> Self {
                    Self::$name(message)
                }
            }
        )+

        impl $direction {
            /// The limit of `kind` in bytes, if it is one of these.
            const fn limit(kind: u16) -> Option<usize> {
                match kind {
                    $($kind => Some($limit),)+
                    _ => None,
                }
            }
        }
    };
}

messages! {
    /// What a guest says.
    FromGuest {
        Hello = 1, 4 * KIB;
        Ping = 4, 16;
        Pong = 5, 16;
        Received = 17, 16;
        Verified = 18, 4 * MIB;
        Failed = 19, MIB;
        Confirmed = 21, 16;
        HostKeyKept = 23, 256;
        NamesApplied = 33, 64;
        NamesFailed = 34, MIB;
        NamesGap = 36, 64;
        Status = 48, 4 * MIB;
        Event = 49, 64 * KIB;
        WorkloadExited = 50, 4 * KIB;
    }
}

messages! {
    /// What a host says.
    FromHost {
        Welcome = 2, KIB;
        Refused = 3, KIB;
        Ping = 4, 16;
        Pong = 5, 16;
        Apply = 16, 4 * MIB;
        Confirm = 20, 16;
        HostKey = 22, 256;
        Names = 32, 16 * MIB;
        NamesDelta = 35, MIB;
        FlushCache = 37, 16;
        ExitSeen = 51, 16;
        Stop = 64, 16;
        Signal = 65, 16;
    }
}

/// Whose frames are read, and so which types may come and how long they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Somebody who has not said who it is: a hello and nothing longer.
    Stranger,
    /// A guest.
    Guest,
    /// A host.
    Host,
}

impl Sender {
    /// A codec that reads what this sender may send.
    pub fn codec(self) -> FrameCodec {
        FrameCodec::new(self.limit(), limit)
    }

    /// The longest payload of each type that may come from it.
    pub fn limit(self) -> Limit {
        match self {
            Self::Stranger => |_| limit(1),
            Self::Guest => |kind| FromGuest::limit(kind).unwrap_or(UNKNOWN_LIMIT),
            Self::Host => |kind| FromHost::limit(kind).unwrap_or(UNKNOWN_LIMIT),
        }
    }
}

/// The longest payload a message of this type may have, in bytes.
pub const fn limit(kind: u16) -> usize {
    match (FromGuest::limit(kind), FromHost::limit(kind)) {
        (Some(limit), _) | (None, Some(limit)) => limit,
        (None, None) => UNKNOWN_LIMIT,
    }
}

/// The digest of a desired state, as [`Stamp`] has it.
pub fn state_digest(state: &DesiredState) -> Digest {
    codec::digest(state)
}

/// The digest of name tables, as [`Stamp`] has it.
pub fn names_digest(tables: &NameTables) -> Digest {
    Summary::of(tables).digest()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_that_were_encoded_before_make_the_same_messages() {
        let tables = NameTables { ttl_seconds: 7, ..NameTables::default() };
        let version = 1 << 40;
        let frame = Names::frame(version, &codec::encode(&tables));
        assert_eq!(frame, FromHost::from(Names { version, tables }).to_frame());
        let state = DesiredState { hostname: "h".into(), ..DesiredState::default() };
        let frame = Apply::frame(7, &codec::encode(&state));
        assert_eq!(frame, FromHost::from(Apply { generation: 7, state }).to_frame());
    }

    #[test]
    fn a_claimed_length_does_not_allocate() {
        // A Names message that says it has 2^63 networks.
        let mut payload = vec![1, 5, 253];
        payload.extend((1_u64 << 63).to_le_bytes());
        let frame = Frame { kind: 32, version: 1, payload: payload.into() };
        assert!(FromHost::from_frame(&frame).is_err());
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let mut frame = FromHost::from(Ping { nonce: 7 }).to_frame();
        frame.payload = [&frame.payload[..], &[0]].concat().into();
        let error = FromHost::from_frame(&frame).unwrap_err().to_string();
        assert!(error.contains("Ping"), "{error}");
    }

    #[test]
    fn unknown_types_and_versions_are_skipped() {
        let mut frame = FromHost::from(Ping { nonce: 7 }).to_frame();
        frame.version = 2;
        assert_eq!(FromHost::from_frame(&frame).unwrap(), None);
        frame.kind = 999;
        assert_eq!(FromGuest::from_frame(&frame).unwrap(), None);
    }

    #[test]
    fn a_stranger_says_hello_and_nothing_longer() {
        let (stranger, guest, host) = (Sender::Stranger.limit(), Sender::Guest.limit(), Sender::Host.limit());
        assert_eq!((stranger(1), stranger(32), stranger(48)), (4 * KIB, 4 * KIB, 4 * KIB));
        assert_eq!((guest(48), guest(32)), (4 * MIB, UNKNOWN_LIMIT));
        assert_eq!((host(48), host(32)), (UNKNOWN_LIMIT, 16 * MIB));
    }

    #[test]
    fn the_fullest_names_fit_their_limit() {
        let endpoint = |n: usize| crate::names::EndpointNames {
            names: vec![format!("container-number-{n:06}"), format!("{n:012x}")],
            addresses: vec!["172.18.255.254".into()],
            ports: vec![],
        };
        let tables = NameTables {
            networks: vec![crate::names::NetworkNames {
                network: "net".into(),
                endpoints: (0..crate::names::MAX_ENDPOINTS).map(endpoint).collect(),
                ..crate::names::NetworkNames::default()
            }],
            ..NameTables::default()
        };
        let names = FromHost::from(Names { version: 1, tables });
        let frame = names.to_frame();
        assert!(frame.payload.len() <= limit(frame.kind), "{}", frame.payload.len());
        assert_eq!(FromHost::from_frame(&frame).unwrap(), Some(names));
    }

    #[test]
    fn the_fullest_state_fits_its_limit() {
        let route = |n: usize| crate::state::Route {
            destination: format!("2001:db8:1234:5678:9abc:{n:x}:ffff:fffe/127"),
            gateway: Some("2001:db8:1234:5678:9abc:def0:ffff:fffe".into()),
            metric: Some(u32::MAX),
            table: Some(u32::MAX),
            source: Some("2001:db8:1234:5678:9abc:def0:ffff:fffe".into()),
            mtu: Some(9_000),
            ..crate::state::Route::default()
        };
        let address = |n: usize| crate::state::Address {
            address: format!("2001:db8:1234:5678:9abc:{n:x}:1:2/64"),
            label: Some("a-name-of-15-by".into()),
            valid_s: Some(u32::MAX),
            preferred_s: Some(u32::MAX),
            ..crate::state::Address::default()
        };
        let neighbour = crate::state::Neighbour {
            address: "2001:db8:1234:5678:9abc:def0:ffff:fffe".into(),
            mac: "02:42:ac:12:00:02".into(),
        };
        let interface = crate::state::Interface {
            name: "a-name-of-15-by".into(),
            addresses: (0..crate::state::MAX_ADDRESSES).map(address).collect(),
            routes: (0..crate::state::MAX_ROUTES).map(route).collect(),
            neighbours: vec![neighbour; crate::state::MAX_NEIGHBOURS],
            ..crate::state::Interface::default()
        };
        let state = DesiredState { interfaces: vec![interface], ..DesiredState::default() };
        let apply = FromHost::from(Apply { generation: u64::MAX, state });
        let frame = apply.to_frame();
        assert!(frame.payload.len() <= limit(frame.kind), "{}", frame.payload.len());
        assert_eq!(FromHost::from_frame(&frame).unwrap(), Some(apply));
    }

    #[test]
    fn the_fullest_observation_fits_its_limit() {
        use crate::status::{AddressState, ObservedAddress, ObservedInterface, ObservedRoute};
        let address = ObservedAddress {
            address: "2001:db8:1234:5678:9abc:def0:ffff:fffe/128".into(),
            state: AddressState::Usable,
            ours: true,
        };
        let route = ObservedRoute {
            destination: address.address.clone(),
            gateway: Some("2001:db8:1234:5678:9abc:def0:ffff:fffe".into()),
            metric: u32::MAX,
            table: u32::MAX,
            ours: true,
        };
        let full = ObservedInterface {
            addresses: vec![address; crate::status::MAX_ADDRESSES],
            routes: vec![route; crate::status::MAX_ROUTES],
            ..ObservedInterface::default()
        };
        let mut interfaces = vec![
            ObservedInterface {
                mac: "02:42:ac:12:00:02".into(),
                name: "a-name-of-15-by".into(),
                mtu: 65_535,
                ..ObservedInterface::default()
            };
            crate::status::MAX_INTERFACES
        ];
        interfaces[0] = full;
        let status = FromGuest::from(Status {
            observed: Observed { interfaces, ..Observed::default() },
            ..Status::default()
        });
        let frame = status.to_frame();
        assert!(frame.payload.len() <= limit(frame.kind), "{}", frame.payload.len());
        assert_eq!(FromGuest::from_frame(&frame).unwrap(), Some(status));
    }

    #[test]
    fn the_most_problems_fit_their_limit() {
        let mut problems = crate::problem::Problems::default();
        for _ in 0..100_000 {
            problems.add("interfaces[63].routes[16383].destination", "x".repeat(1_000));
        }
        let problems = problems.into_result(()).unwrap_err();
        assert_eq!(problems.len(), crate::problem::MOST);
        assert!(problems[crate::problem::MOST - 1].message.contains("99745 more"), "{:?}", problems.last());
        let frame = FromGuest::from(NamesFailed { version: 1, problems }).to_frame();
        assert!(frame.payload.len() <= limit(frame.kind), "{}", frame.payload.len());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(kind in 0_u16..70, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let frame = Frame { kind, version: 1, payload: bytes.into() };
            let _ = FromGuest::from_frame(&frame);
            let _ = FromHost::from_frame(&frame);
        }
    }
}
