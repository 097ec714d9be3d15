//! A client's packet, over UDP and over TCP.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tether::fuzzing::dns_packet(data));
