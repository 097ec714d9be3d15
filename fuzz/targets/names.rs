//! Name tables and changes to them, compared with tables made anew.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tether::fuzzing::names(data));
