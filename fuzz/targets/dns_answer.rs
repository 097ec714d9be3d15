//! An upstream's answer: read, kept, relayed.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tether::fuzzing::dns_answer(data));
