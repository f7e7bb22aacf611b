//! Where services are listed. An implementation only answers "what changed since?"; `follow` owns every retry.

pub mod consul;
mod dns;
pub mod embedded;
mod fixed;
mod follow;
mod guard;
mod known;
mod pace;
pub mod probe;
mod saved;
mod state;

pub use consul::{HealthWatch, IntentionUpdate, MeshMode, Selection, follow_intentions, node_zone};
pub use dns::{DnsSettings, DnsWatch, Records};
pub use fixed::FixedWatch;
pub use follow::{Origin, Update, follow};
pub use state::{WatchState, Watches};

use std::fmt;

use futures_util::future::BoxFuture;

use crate::service::Listing;

/// An opaque version of a registry's answer; `Mark::START` asks for an answer at once.
///
/// Marks of one registry grow. A lower one than before says that the registry began anew (a restarted Consul), and 0
/// says that it has no version to wait on; `follow` goes back to START after either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

impl Mark {
    pub const START: Self = Self(0);
}

/// A source of endpoints of one service. Consul: by index; DNS: by TTL; fixed: answers once, then pends.
pub trait Registry: Send + Sync + 'static {
    /// Resolves when the listing differs from what `seen` stood for, or when the source's own waiting time is over.
    /// Cancel safe.
    fn next(&self, seen: Mark) -> BoxFuture<'_, Result<(Mark, Vec<Listing>), RegistryError>>;

    /// What is asked, for logs, `/endpoints`, the metrics' `watch` label and the snapshot's file, so that no two differ in
    /// what they list and are called alike: `health/connect/orders@dc2?1f0c66a1`, `dns/orders`, `fixed/orders`. Subsets of a service have names of their own, since a snapshot's file is named so, too.
    fn describe(&self) -> String;
}

/// Why a registry gave no answer. Never a reason to forget the last good one.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Consul(#[from] crate::consul::ConsulError),
    /// An empty list that is empty because the token may not read it.
    #[error("Consul's answer to {path} is empty because the ACL token may not read it (service:read and node:read)")]
    Filtered { path: String },
    /// Only another configuration helps.
    #[error("Consul refuses the filter {filter}: {cause}; mend the upstream's filter, tags or meta")]
    Filter { filter: String, cause: String },
    #[error("DNS has no answer for {name}: {cause}")]
    Dns { name: String, cause: String },
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
