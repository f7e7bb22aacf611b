//! `just fuzz path`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger::fuzzing::path(data));
