//! The bytes of every message, pinned: `docs/protocol.md` shows them, other languages rely on
//! them, and no library's update may change them.
//!
//! The vectors are `golden.txt` beside this file: a name and a whole frame in hexadecimal on
//! each line. A new message gets a new line; from the first release on an old line never changes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::BytesMut;
use tether_wire::{
    cobs,
    identity::{JoinToken, Pin},
    message::{
        Apply, Confirm, Confirmed, Drift, DriftOutcome, Event, EventKind, Exit, ExitSeen, Failed,
        FailedOperation, Failure, FlushCache, FromGuest, FromHost, Hello, HostKey, HostKeyKept, Names,
        NamesApplied, NamesDelta, NamesFailed, NamesGap, Phase, Ping, Pong, Received, Refused, Sender,
        Signal, Stop, Verified, Welcome, WorkloadExited, names_digest, state_digest,
    },
    names::{EndpointNames, NameTables, NetworkNames, delta},
    problem::Problem,
    serial::SerialMessage,
    state::{
        Address, ConflictCheck, Create, DesiredState, Dns, DriftPolicy, Family, Hop, HostEntry, Interface,
        Ipv4Settings, Ipv6Settings, Match, Neighbour, PathRoute, Preference, Route, RouteType, Rule, Scope,
        Workload,
    },
    status::{
        AddressState, Condition, Digest, DnsCounters, Observed, ObservedAddress, ObservedInterface,
        ObservedPathRoute, ObservedRoute, ObservedRule, Stamp, Status,
    },
    streams::{Stream, StreamsFromGuest, StreamsFromHost},
};
use tokio_util::codec::{Decoder, Encoder};

fn stamp() -> Stamp {
    Stamp { generation: 300, digest: Digest([0xab; 32]) }
}

fn pins() -> Vec<Pin> {
    vec![Pin::from_bytes([0xab; 32]), Pin::from_bytes([0xcd; 32])]
}

/// A public key (that of RFC 8032's first test, for Ed25519) as certificates have it.
const PUBLIC_KEY: [u8; 44] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00, 0xd7, 0x5a, 0x98, 0x01, 0x82,
    0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6,
    0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];

fn observed() -> Observed {
    Observed {
        interfaces: vec![ObservedInterface {
            index: 2,
            name: "eth0".into(),
            mac: "02:42:ac:12:00:02".into(),
            mtu: 1_500,
            up: true,
            carrier: true,
            addresses: vec![ObservedAddress {
                address: "172.18.0.2/16".into(),
                state: AddressState::Usable,
                ours: true,
            }],
            routes: vec![ObservedRoute {
                destination: "0.0.0.0/0".into(),
                gateway: Some("172.18.0.1".into()),
                metric: 0,
                table: 254,
                ours: true,
            }],
            alternative_names: vec!["front".into()],
        }],
        routes: vec![ObservedPathRoute {
            destination: "10.9.0.0/16".into(),
            kind: "blackhole".into(),
            hops: vec![],
            metric: 5,
            table: 7,
            ours: true,
        }],
        rules: vec![ObservedRule { rule: "priority 100 table 7".into(), ours: true }],
    }
}

/// A state such as a container has: what `docs/protocol.md` shows.
fn short() -> DesiredState {
    DesiredState {
        hostname: "server".into(),
        interfaces: vec![Interface {
            matching: Some(Match::of_mac("02:42:ac:12:00:02")),
            name: "eth0".into(),
            mtu: Some(1_500),
            addresses: vec!["172.18.0.2/16".into()],
            routes: vec![Route {
                destination: "0.0.0.0/0".into(),
                gateway: Some("172.18.0.1".into()),
                ..Route::default()
            }],
            ..Interface::default()
        }],
        dns: Dns {
            upstreams: vec!["10.0.0.53".into()],
            search: vec!["example.com".into()],
            options: vec!["ndots:1".into()],
            ..Dns::default()
        },
        hosts: vec![HostEntry { address: "10.0.0.9".into(), names: vec!["db".into()] }],
        workload: Some(Workload {
            argv: vec!["httpd".into(), "-f".into()],
            env: vec!["A=b".into()],
            cwd: "/".into(),
        }),
        ..DesiredState::default()
    }
}

/// A state that has every field, and the last of every choice.
fn desired() -> DesiredState {
    let first = Interface {
        matching: Some(Match {
            mac: Some("02:42:ac:12:00:02".into()),
            pci: Some("02.0/00.0".into()),
            name: Some("ens3".into()),
        }),
        name: "eth0".into(),
        optional: true,
        alternative_names: vec!["front".into()],
        mac: Some("02:42:ac:12:00:05".into()),
        mtu: Some(1_500),
        tx_queue_length: Some(500),
        ipv4: Ipv4Settings {
            forwarding: Some(true),
            rp_filter: Some(2),
            arp_ignore: Some(1),
            arp_announce: Some(2),
        },
        ipv6: Ipv6Settings { disable_ipv6: Some(false), forwarding: Some(true), accept_ra: Some(0) },
        addresses: vec![
            Address {
                address: "172.18.0.2/16".into(),
                peer: Some("172.18.0.9".into()),
                scope: Some(Scope::Host),
                label: Some("eth0:a".into()),
                valid_s: Some(3_600),
                preferred_s: Some(60),
                no_prefix_route: true,
                home: false,
                conflicts: ConflictCheck::Strict,
            },
            Address {
                address: "fd00:18::2/64".into(),
                home: true,
                conflicts: ConflictCheck::Off,
                ..Address::default()
            },
        ],
        routes: vec![Route {
            destination: "::/0".into(),
            gateway: Some("fe80::1".into()),
            onlink: true,
            metric: Some(50),
            table: Some(7),
            scope: Some(Scope::Link),
            source: Some("fd00:18::2".into()),
            mtu: Some(1_400),
            preference: Some(Preference::High),
        }],
        neighbours: vec![Neighbour { address: "172.18.0.1".into(), mac: "02:42:ac:12:00:01".into() }],
        ..Interface::default()
    };
    let vlan = Interface {
        create: Some(Create::Vlan { parent: "eth0".into(), id: 5 }),
        name: "eth0.5".into(),
        down: true,
        ..Interface::default()
    };
    let dummy = Interface { create: Some(Create::Dummy {}), name: "own".into(), ..Interface::default() };
    DesiredState {
        domain: "example.com".into(),
        interfaces: vec![first, vlan, dummy],
        routes: vec![
            PathRoute {
                destination: "10.9.0.0/16".into(),
                kind: RouteType::Unicast,
                hops: vec![Hop {
                    interface: "eth0".into(),
                    gateway: Some("172.18.0.1".into()),
                    onlink: true,
                    weight: Some(2),
                }],
                metric: Some(5),
                table: Some(300),
                scope: Some(Scope::Site),
                source: Some("172.18.0.2".into()),
                mtu: Some(1_400),
                preference: Some(Preference::Low),
            },
            PathRoute { destination: "10.8.0.0/16".into(), kind: RouteType::Throw, ..PathRoute::default() },
        ],
        rules: vec![Rule {
            priority: 100,
            family: Some(Family::Ipv6),
            from: Some("fd00:18::/64".into()),
            to: Some("fd00::/8".into()),
            iif: Some("eth0".into()),
            oif: Some("own".into()),
            fwmark: Some(1),
            fwmask: Some(255),
            table: 7,
            suppress_prefixlength: Some(0),
        }],
        drift: DriftPolicy::Report,
        confirm_s: Some(30),
        ..short()
    }
}

fn tables() -> NameTables {
    NameTables {
        ttl_seconds: 5,
        networks: vec![NetworkNames {
            network: "net".into(),
            endpoints: vec![EndpointNames {
                names: vec!["server".into()],
                addresses: vec!["172.18.0.2".into()],
                ports: vec![],
            }],
            links: vec![],
        }],
        hosts: vec![],
    }
}

fn delta() -> NamesDelta {
    let endpoint = |name: &str| EndpointNames { names: vec![name.into()], ..EndpointNames::default() };
    let change = delta::Change {
        network: "net".into(),
        links_removed: vec![endpoint("a")],
        links_added: vec![endpoint("b")],
        removed: vec![endpoint("c")],
        added: vec![endpoint("d")],
    };
    NamesDelta { base: 299, stamp: stamp(), changes: vec![change] }
}

/// What the guest says in the first connection that `docs/protocol.md` shows.
fn first_from_guest() -> Vec<(&'static str, FromGuest)> {
    let names = Stamp { generation: 1, digest: names_digest(&tables()) };
    let state = Stamp { generation: 1, digest: state_digest(&short()) };
    let mut observed = Observed { routes: vec![], rules: vec![], ..observed() };
    observed.interfaces[0].alternative_names.clear();
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        guest: "server".into(),
        agent_version: "0.1.0".into(),
        capabilities: vec![],
        boot_id: "b".into(),
        applied: None,
        names: None,
        token: JoinToken::from_bytes([0x17; 32]),
    };
    let verified = Verified {
        stamp: state,
        operations: 4,
        took_us: 65_000,
        skipped: vec![],
        confirm_within_s: 0,
        observed: observed.clone(),
    };
    let status = Status {
        agent_version: "0.1.0".into(),
        uptime_ms: 4_200,
        rss_kib: 2_796,
        applied: Some(state),
        names: Some(names),
        observed,
        ..Status::default()
    };
    vec![
        ("first_hello", hello.into()),
        ("first_names_applied", NamesApplied { stamp: names }.into()),
        ("first_received", Received { generation: 1 }.into()),
        ("first_verified", verified.into()),
        ("first_status", status.into()),
    ]
}

fn event(kind: EventKind) -> FromGuest {
    Event { uptime_ms: 4_200, dropped: 0, kind }.into()
}

fn drift(outcome: DriftOutcome) -> FromGuest {
    let changes = vec![Problem { path: "interfaces[0]".into(), message: "eth0 is down".into() }];
    event(EventKind::Drift(Drift { changes, count: 1, outcome }))
}

fn events_and_ends() -> Vec<(&'static str, FromGuest)> {
    vec![
        ("event", event(EventKind::WorkloadStarted { pid: 79 })),
        ("event_drift_left", drift(DriftOutcome::Left)),
        ("event_drift_reported", drift(DriftOutcome::Reported)),
        ("event_drift_repaired", drift(DriftOutcome::Repaired { operations: 1 })),
        ("event_drift_failed", drift(DriftOutcome::Failed { message: "no".into() })),
        ("event_drift_gave_up", drift(DriftOutcome::GaveUp { retry_s: 30 })),
        (
            "event_address_conflict",
            event(EventKind::AddressConflict {
                interface: "eth0".into(),
                address: "172.18.0.2".into(),
                mac: "02:42:ac:12:00:09".into(),
            }),
        ),
        ("exited_code", WorkloadExited { exit: Exit::Code(7) }.into()),
        ("exited_signal", WorkloadExited { exit: Exit::Signal(15) }.into()),
        ("exited_not_started", WorkloadExited { exit: Exit::NotStarted("no".into()) }.into()),
    ]
}

fn from_guest() -> Vec<(&'static str, FromGuest)> {
    let problem = Problem { path: "hostname".into(), message: "bad".into() };
    let mut messages = first_from_guest();
    messages.extend([
        (
            "hello",
            Hello {
                protocol_min: 1,
                protocol_max: 1,
                guest: "server".into(),
                agent_version: "0.1.0".into(),
                capabilities: vec![],
                boot_id: "b".into(),
                applied: Some(stamp()),
                names: None,
                token: JoinToken::from_bytes([0x17; 32]),
            }
            .into(),
        ),
        ("ping", Ping { nonce: 7 }.into()),
        ("pong", Pong { nonce: 70_000 }.into()),
        ("received", Received { generation: 300 }.into()),
        (
            "verified",
            Verified {
                stamp: stamp(),
                operations: 4,
                took_us: 65_000,
                skipped: vec![problem.clone()],
                confirm_within_s: 15,
                observed: observed(),
            }
            .into(),
        ),
        (
            "failed",
            Failed {
                generation: 2,
                failure: Failure {
                    phase: Phase::Apply,
                    problems: vec![problem.clone()],
                    operation: Some(FailedOperation {
                        operation: "set eth0 up".into(),
                        errno: "EPERM".into(),
                        kernel: String::new(),
                    }),
                    restored: true,
                },
            }
            .into(),
        ),
        (
            "failed_confirm",
            Failed {
                generation: 300,
                failure: Failure {
                    phase: Phase::Confirm,
                    problems: vec![Problem { path: "confirm_s".into(), message: "late".into() }],
                    operation: None,
                    restored: true,
                },
            }
            .into(),
        ),
        ("confirmed", Confirmed { generation: 300 }.into()),
        ("host_key_kept", HostKeyKept { pins: pins() }.into()),
        ("names_applied", NamesApplied { stamp: stamp() }.into()),
        ("names_failed", NamesFailed { version: 2, problems: vec![problem] }.into()),
        ("names_gap", NamesGap { version: 301, has: Some(stamp()) }.into()),
        (
            "status",
            Status {
                agent_version: "0.1.0".into(),
                uptime_ms: 4_200,
                rss_kib: 2_796,
                applied: Some(stamp()),
                names: Some(stamp()),
                observed: observed(),
                dns: DnsCounters { queries: 5, local: 3, forwarded: 2, failed: 1, ..DnsCounters::default() },
                skipped_frames: 0,
                conditions: vec![Condition { part: "dns".into(), message: "busy".into() }],
            }
            .into(),
        ),
    ]);
    messages.extend(events_and_ends());
    messages
}

fn from_host() -> Vec<(&'static str, FromHost)> {
    vec![
        ("welcome", Welcome { protocol: 1, host_version: "0.1.0".into(), heartbeat_ms: 5_000 }.into()),
        ("refused", Refused { reason: "no".into() }.into()),
        ("apply", Apply { generation: 300, state: desired() }.into()),
        ("apply_short", Apply { generation: 300, state: short() }.into()),
        ("first_apply", Apply { generation: 1, state: short() }.into()),
        ("first_names", Names { version: 1, tables: tables() }.into()),
        ("confirm", Confirm { generation: 300 }.into()),
        ("host_key", HostKey { pins: pins() }.into()),
        ("names", Names { version: 300, tables: tables() }.into()),
        ("flush_cache", FlushCache.into()),
        ("names_delta", delta().into()),
        ("exit_seen", ExitSeen.into()),
        ("stop", Stop { grace_ms: 2_000 }.into()),
        ("signal", Signal { number: 15 }.into()),
    ]
}

/// A frame of a port.
fn frame<M: cobs::Message + PartialEq + std::fmt::Debug>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    cobs::encode(message, &mut bytes);
    assert_eq!(cobs::Decoder::<M>::new().next(&mut &bytes[..]).as_ref(), Some(message));
    bytes
}

/// The frames of a serial port.
fn serial() -> Vec<(&'static str, Vec<u8>)> {
    let (opening, life, bytes) = ([0x0a; 16], [0x0b; 16], b"hi\0\n".to_vec());
    let messages = [
        ("serial_open", SerialMessage::Open { opening }),
        ("serial_from_guest", SerialMessage::FromGuest { life, offset: 300, bytes: bytes.clone() }),
        ("serial_begin", SerialMessage::Begin),
        ("serial_accept", SerialMessage::Accept { opening, life }),
        ("serial_from_host", SerialMessage::FromHost { life, offset: 7, bytes }),
    ];
    messages.iter().map(|(name, message)| (*name, frame(message))).collect()
}

/// The frames of the streams' port.
fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let (session, bytes) = (300, b"hi\0\n".to_vec());
    let guest = [
        ("streams_attached", StreamsFromGuest::Attached { session, output: 7 }),
        (
            "streams_output",
            StreamsFromGuest::Output { stream: Stream::Stderr, offset: 7, bytes: bytes.clone() },
        ),
        ("streams_output_end", StreamsFromGuest::OutputEnd { offset: 11 }),
        ("streams_window", StreamsFromGuest::Window { session, stdin: 65_536 }),
    ];
    let host = [
        ("streams_attach", StreamsFromHost::Attach { session, received: 7 }),
        ("streams_ack", StreamsFromHost::Ack { received: 11 }),
        ("streams_stdin", StreamsFromHost::Stdin { session, offset: 0, bytes }),
        ("streams_stdin_end", StreamsFromHost::StdinEnd { session, offset: 4 }),
        ("streams_resize", StreamsFromHost::Resize { rows: 24, columns: 80 }),
    ];
    let guest = guest.iter().map(|(name, message)| (*name, frame(message)));
    guest.chain(host.iter().map(|(name, message)| (*name, frame(message)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn whole_frame(frame: tether_wire::frame::Frame) -> BytesMut {
    let mut bytes = BytesMut::new();
    Sender::Host.codec().encode(frame, &mut bytes).unwrap();
    bytes
}

/// Every message of this file, and the digests of its documents, as they are encoded now.
fn encoded() -> BTreeMap<&'static str, String> {
    let guest = from_guest().into_iter().map(|(name, message)| (name, message.to_frame()));
    let host = from_host().into_iter().map(|(name, message)| (name, message.to_frame()));
    let frames = guest.chain(host).map(|(name, frame)| (name, hex(&whole_frame(frame))));
    let digests = [
        ("digest_of_apply_state", hex(&state_digest(&desired()).0)),
        ("digest_of_apply_short_state", hex(&state_digest(&short()).0)),
        ("digest_of_names_tables", hex(&names_digest(&tables()).0)),
        ("pin_of_public_key", Pin::of_public_key(&PUBLIC_KEY).to_string()),
        ("public_key", hex(&PUBLIC_KEY)),
    ];
    let ports = streams().into_iter().chain(serial()).map(|(name, bytes)| (name, hex(&bytes)));
    frames.chain(digests).chain(ports).collect()
}

fn pinned() -> BTreeMap<&'static str, String> {
    let lines = include_str!("golden.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(name, hex)| (name, hex.to_owned())).collect()
}

#[test]
fn every_message_is_encoded_as_it_always_was() {
    assert_eq!(encoded(), pinned());
}

#[test]
fn every_pinned_frame_is_read_as_the_message_it_is() {
    let frame = |name: &str, from: Sender| {
        let hex = &pinned()[name];
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        from.codec().decode(&mut BytesMut::from(&bytes[..])).unwrap().unwrap()
    };
    for (name, message) in from_guest() {
        assert_eq!(FromGuest::from_frame(&frame(name, Sender::Guest)).unwrap(), Some(message), "{name}");
    }
    for (name, message) in from_host() {
        assert_eq!(FromHost::from_frame(&frame(name, Sender::Host)).unwrap(), Some(message), "{name}");
    }
}

/// What the document does not show, being shown as `first_…` or long.
const NOT_SHOWN: [&str; 7] =
    ["apply", "apply_short", "digest_of_apply_state", "names", "names_applied", "status", "verified"];

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");

/// The bytes in the protocol document are the pinned ones, so that document and code agree.
#[test]
fn the_protocol_document_shows_these_bytes() {
    // Behind a # are words about them.
    let lines = DOCUMENT.lines().filter_map(|line| line.split('#').next());
    let bytes: String = lines.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect();
    for (name, hex) in pinned().iter().filter(|(name, _)| !NOT_SHOWN.contains(name)) {
        assert!(bytes.contains(hex), "docs/protocol.md does not show {name}: {hex}");
    }
}

/// The message as JSON, and so with the names of its fields.
macro_rules! json {
    ($message:expr, $direction:ident: $($name:ident)+) => {
        match $message {
            $($direction::$name(message) => serde_json::to_value(message).unwrap(),)+
        }
    };
}

/// The names of all fields, and of variants that have some.
fn names(value: &serde_json::Value) -> Vec<&str> {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| [&[name.as_str()][..], &names(value)].concat()).collect()
        }
        serde_json::Value::Array(list) => list.iter().flat_map(names).collect(),
        _ => vec![],
    }
}

#[test]
fn the_protocol_document_has_every_field() {
    let guest = from_guest().into_iter().map(|(name, message)| {
        let json = json!(message, FromGuest: Hello Ping Pong Received Verified Failed Confirmed HostKeyKept
            NamesApplied NamesFailed NamesGap Status Event WorkloadExited);
        (name, json)
    });
    let host = from_host().into_iter().map(|(name, message)| {
        let json = json!(message, FromHost: Welcome Refused Ping Pong Apply Confirm HostKey Names NamesDelta
            FlushCache ExitSeen Stop Signal);
        (name, json)
    });
    for (message, json) in guest.chain(host) {
        for name in names(&json) {
            let told = [format!("`{name}`"), format!("`{name}: ")].iter().any(|name| DOCUMENT.contains(name));
            assert!(told, "docs/protocol.md has no field {name}, which is in {message}");
        }
    }
}

/// Every message type and its limit is in the protocol document's table.
#[test]
fn the_protocol_document_has_every_type() {
    let guest = from_guest().into_iter().map(|(_, message)| message.to_frame().kind);
    let host = from_host().into_iter().map(|(_, message)| message.to_frame().kind);
    for kind in guest.chain(host) {
        let limit = tether_wire::message::limit(kind);
        let is_row =
            |line: &str| line.starts_with(&format!("| {kind} |")) && line.contains(&format!("| {limit} |"));
        assert!(DOCUMENT.lines().any(is_row), "docs/protocol.md has no row of type {kind} and limit {limit}");
    }
}
