//! Consul as a registry: our own record there, and the endpoints that its health answers list.

pub mod agent;
mod record;
mod rows;
mod watch;

pub use watch::{HealthWatch, MeshMode};
