//! The streams' port, a byte stream without connections: whatever was in it before, the next whole
//! frame is found.

#![no_main]

use tether_wire::streams::{Decoder, StreamsFromGuest, StreamsFromHost, encode};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut guest = Decoder::<StreamsFromGuest>::new();
    let mut stale = data;
    while guest.next(&mut stale).is_some() {}
    let message = StreamsFromGuest::OutputEnd { offset: 4_711 };
    let mut bytes = Vec::new();
    encode(&message, &mut bytes);
    let mut rest = &bytes[..];
    let mut found = None;
    while let Some(next) = guest.next(&mut rest) {
        found = Some(next);
    }
    assert_eq!(found, Some(message));

    let mut host = Decoder::<StreamsFromHost>::new();
    let mut bytes = data;
    while host.next(&mut bytes).is_some() {}
});
