//! A service: its endpoints, how one is chosen, and what bounds its use. Knows nothing of Consul, HTTP or sockets; time
//! and chance come in as arguments.

mod endpoints;

pub use endpoints::{Health, Listing, Wire};
