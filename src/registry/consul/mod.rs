//! Consul as a registry: our own record there, and the endpoints that its health answers list.

pub mod agent;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod intention_rows;
mod intentions;
mod own;
mod record;
mod rows;
mod selection;
mod watch;

pub use intentions::{IntentionUpdate, follow_intentions};
pub use own::node_zone;
pub use selection::Selection;
pub use watch::{HealthWatch, MeshMode};
