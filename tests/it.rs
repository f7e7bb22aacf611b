//! Integration tests: real processes.
fn main() {}
