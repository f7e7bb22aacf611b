//! Consul as a registry: what its health answers mean, how they are watched, and our own record at the agent.

pub mod agent;
mod record;
mod rows;
mod watch;

pub use watch::{HealthWatch, MeshMode};
