//! Consul as a registry: our own record there, and the endpoints that its health answers list.

pub mod agent;
mod own;
mod record;
mod rows;
mod selection;
mod watch;

pub use own::node_zone;
pub use selection::Selection;
pub use watch::{HealthWatch, MeshMode};
