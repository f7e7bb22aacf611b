//! Consul as a registry: what its health answers mean, and how they are watched.

mod rows;
mod watch;

pub use watch::{HealthWatch, MeshMode};
