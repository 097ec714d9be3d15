//! What the fuzz targets call: the ways bytes from outside take through this crate. It is there
//! only where `cfg(fuzzing)` is set.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a finding is a panic")]

use tether_wire::{
    message::names_digest,
    names::{
        EndpointNames, NameTables, NetworkNames, Port, Protocol,
        delta::{self, Change},
    },
};

use crate::names::{Names, wire};

pub use crate::dns::fuzzing::{dns_answer, dns_packet};

/// What is asked of the tables.
const ASKED: [&str; 11] = [
    "a",
    "b",
    "c",
    "a.net0",
    "a.net1",
    "x.y",
    "x.y.net1",
    "net1",
    "1.0.0.10.in-addr.arpa",
    "_1._tcp.a",
    "_9._tcp.b.net1",
];

/// Makes tables of every 16 bytes, goes from each to the next by changes, and compares.
pub fn names(data: &[u8]) {
    let mut before = NameTables { networks: vec![network(0), network(1)], ..NameTables::default() };
    let mut names = Names::new(&before.check().unwrap());
    for bytes in data.chunks(16).take(64) {
        let mut after = NameTables { networks: vec![network(0), network(1)], ..NameTables::default() };
        for (n, pair) in bytes.chunks(2).enumerate() {
            let network = &mut after.networks[usize::from(pair[0] >> 7)];
            let place = if n % 3 == 0 { &mut network.links } else { &mut network.endpoints };
            place.push(endpoint(pair));
        }
        let changes = Change::check_all(&delta::between(&before, &after).unwrap()).unwrap();
        names.change(&changes, &names_digest(&after)).unwrap();
        let new = Names::new(&after.check().unwrap());
        assert_eq!(names.digest(), new.digest());
        for name in ASKED {
            let found = |names: &Names| format!("{:?}", names.find(&wire(name, true)));
            assert_eq!(found(&names), found(&new), "{name}, from {before:?} to {after:?}");
        }
        before = after;
    }
}

fn network(number: u8) -> NetworkNames {
    NetworkNames { network: format!("net{number}"), ..NetworkNames::default() }
}

/// One of few names and addresses, so that they are shared often.
fn endpoint(bytes: &[u8]) -> EndpointNames {
    let (first, second) = (bytes[0] & 0x7f, bytes.get(1).copied().unwrap_or_default());
    let name = |n: u8| ["a", "A", "b", "a.net1", "x.y", "c"][usize::from(n) % 6].to_owned();
    EndpointNames {
        names: vec![name(first), name(first / 6)],
        addresses: vec![format!("10.0.0.{}", second % 4 + 1), format!("fd00::{:x}", second / 64)],
        ports: vec![Port { number: u16::from(second) + 1, protocol: Protocol::Tcp, name: None }],
    }
}
