//! `just fuzz intentions`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger::fuzzing::intentions(data));
