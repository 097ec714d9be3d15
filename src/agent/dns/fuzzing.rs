//! Packets of clients and upstreams, as the fuzz targets throw them.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use tether_wire::names::{EndpointNames, NameTables, NetworkNames, Port, Protocol};

use super::{
    answer::{Outcome, answer},
    cache::{Cache, Kept, KeyBuffer},
    packet::Query,
    relayed::{Age, Answer, as_request, has_options},
};
use crate::names::Names;

/// A packet of a client: its answer has its id, is a response, and is no longer than it takes.
pub fn dns_packet(data: &[u8]) {
    for udp in [true, false] {
        let mut out = vec![0xee; 65_535];
        match answer(names(), data, udp, 1, true, &mut out) {
            Outcome::Reply(length) => {
                assert!(length >= 12 && out[..2] == data[..2] && out[2] & 0x80 != 0);
                assert!(!udp || length <= 4_096);
            }
            Outcome::Forward(query) => {
                let request = as_request(&query, 7, true);
                assert!(Query::read(&request).is_ok(), "an upstream gets what we would take ourselves");
                let _ = (has_options(&query), KeyBuffer::of(&query).to_key());
            }
            Outcome::Ignore => {}
        }
    }
}

/// A question, and behind its length what an upstream answers: read, kept, and relayed.
pub fn dns_answer(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let Some((question, answered)) = rest.split_at_checked(usize::from(*length)) else { return };
    let Ok(query) = Query::read(question) else { return };
    let request = as_request(&query, 7, true);
    // What a guesser does not know is given to it.
    let mut bytes = request.clone();
    bytes[2] |= 0x80;
    if let Some(counts) = answered.get(..6) {
        bytes[6..12].copy_from_slice(counts);
        bytes.truncate(12 + query.question().len());
        bytes.extend_from_slice(&answered[6..]);
    }
    let Ok(answer) = Answer::read(&bytes, &request) else { return };
    let _ = answer.leads_inside();
    let (mut cache, now) = (Cache::default(), Instant::now());
    cache.bound(1 << 20, Duration::from_mins(1));
    cache.insert(KeyBuffer::of(&query).to_key(), &answer, cache.generation(), now);
    let mut out = vec![0; 65_535];
    for udp in [true, false] {
        let length = answer.reply(&query, udp, Age::Stale, &mut out);
        assert!(length >= 12 && (!udp || length <= 4_096));
        if let Some(Kept::Fresh(kept, age)) = cache.find(KeyBuffer::of(&query).as_slice(), now) {
            let _ = kept.reply(&query, udp, age, &mut out);
        }
    }
}

fn names() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(|| {
        let endpoint = |name: &str, addresses: Vec<String>| EndpointNames {
            names: vec![name.to_owned(), "all".to_owned()],
            addresses,
            ports: vec![Port { number: 80, protocol: Protocol::Tcp, name: Some("http".to_owned()) }],
        };
        let endpoints = vec![
            endpoint("server", vec!["172.18.0.2".to_owned(), "fd00::2".to_owned()]),
            endpoint("crowd", (1..=60).map(|n| format!("172.18.1.{n}")).collect()),
        ];
        let network = NetworkNames { network: "net".to_owned(), endpoints, ..NetworkNames::default() };
        let tables = NameTables { networks: vec![network], ..NameTables::default() };
        tables.check().map(|checked| Names::new(&checked)).unwrap_or_default()
    })
}
