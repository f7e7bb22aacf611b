//! Where services are listed. An implementation only answers "what changed since?"; `follow` owns every retry.

pub mod consul;
pub mod embedded;
pub mod probe;

use std::fmt;

use futures_util::future::BoxFuture;

use crate::service::Listing;

/// An opaque version of a registry's answer; `Mark::START` asks for an answer at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub u64);

impl Mark {
    pub const START: Self = Self(0);
}

/// A source of endpoints of one service. Consul: by index; DNS: by TTL; fixed: answers once, then pends.
pub trait Registry: Send + Sync + 'static {
    /// Resolves when the listing differs from what `seen` stood for, or when the source's own waiting time is over.
    /// Cancel safe.
    fn next(&self, seen: Mark) -> BoxFuture<'_, Result<(Mark, Vec<Listing>), RegistryError>>;

    /// What is asked, for logs and metrics: `consul health/connect/orders`.
    fn describe(&self) -> String;
}

/// Why a registry gave no answer. Never a reason to forget the last good one.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Consul(#[from] crate::consul::ConsulError),
    #[error("DNS: {0}")]
    Dns(String),
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
