//! `just fuzz config`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger::fuzzing::config(data));
