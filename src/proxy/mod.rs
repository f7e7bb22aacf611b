//! A request's way: what is read of it, where it goes, what is told of it. Transport is below, policy beside.

mod allowance;
mod answer;
mod body;
mod copy;
mod entry;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gather;
mod headers;
mod hedge;
mod inbound;
mod mirror;
mod opening;
mod outbound;
mod passage;
mod replay;
#[cfg(test)]
mod simulation;
mod tcp;
mod tries;
mod tunnel;
mod upgrade;
mod verdict;

pub use entry::Entry;
pub use inbound::{Inbound, InboundShared, InboundView};
pub use outbound::{Outbound, OutboundShared};
pub use verdict::note_breaker;

use crate::reason::Reason;

/// Why a request is not answered by its service: the reason for the client, the cause for the log.
#[cfg_attr(any(test, feature = "fuzzing"), derive(Debug))]
pub(crate) struct Refusal {
    reason: Reason,
    detail: String,
}

impl Refusal {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The caller is this sidecar itself, in the same direction.
    fn circle() -> Self {
        Self::new(Reason::Loop, "an endpoint of this sidecar is this sidecar itself")
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: String::new() }
    }
}
