//! `just fuzz proxy_header`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outrigger::fuzzing::proxy_header(data));
