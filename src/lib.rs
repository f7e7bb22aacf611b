//! The map of outrigger. A module uses only those above it in this list; `tests/layers.rs` checks that it stays so.

// words: vocabulary; imports nothing of ours
pub mod names;
pub mod reason;
pub mod published;
pub mod lifecycle;
mod clock;
mod expression;
mod scrap;
mod letters;
pub mod fingerprint;
pub mod proxy_header;
mod file_watch;

// eyes: what happened, for people and for Prometheus
pub mod telemetry;

// decide: no sockets, no clock, no chance
pub mod filter;
pub mod service;
pub mod route;
pub mod access;

// talk: Consul's HTTP API
mod consul;

// self: who we are
mod identity;

// edges: where others are, and the connections to them
mod registry;
mod stream;
mod late;
mod upstream;
mod jwks;
mod counters;

// path: bytes in, bytes out
mod listen;
mod proxy;

// start: text to settings, settings to a running process
mod config;
mod worker;
mod admin;
mod app;
pub mod cli;

// outside: what must hold of any input
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
