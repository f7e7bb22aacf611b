//! Consul as a registry.

pub mod agent;
mod record;
