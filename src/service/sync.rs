//! The atomics that a service's counters are built on. tests/loom.rs includes the counters' own sources beside loom's
//! atomics under this same name, and walks through every interleaving of them.

pub(super) use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
