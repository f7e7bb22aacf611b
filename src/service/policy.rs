//! What a service's use is bound by: how an endpoint is chosen, when one is left out, how much may be under way.

use std::sync::Arc;
use std::time::Duration;

use super::balance::Balance;

/// All that configuration says of a service. A reload replaces it and keeps what was learned.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    pub balance: Balance,
    /// Endpoints of this zone come first, spilling over by health.
    pub zone: Option<Arc<str>>,
    pub breaker: BreakerPolicy,
    pub limits: Limits,
    /// A limit on requests under way that follows latency, below `limits.requests`.
    pub adaptive: bool,
    pub budget: BudgetPolicy,
}

/// When an endpoint is ejected, and for how long (Envoy's outlier detection names the same knobs).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerPolicy {
    /// Failures in a row.
    pub consecutive: u32,
    pub error_rate: ErrorRate,
    /// The first ejection; each further one lasts twice as long, up to `open_max`.
    pub open_for: Duration,
    pub open_max: Duration,
    /// Share of the endpoints that may be ejected at once, 0.0 to 1.0, rounded down.
    pub max_ejected: f64,
    pub on_all_open: OnAllOpen,
}

/// Failures over answers within a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorRate {
    /// 0.0 to 1.0.
    pub threshold: f64,
    pub window: Duration,
    /// Fewer answers in the window say nothing.
    pub min_requests: u32,
}

/// What becomes of a request when every endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAllOpen {
    Fail,
    TryAnyway,
}

/// Bounds of one service's use by this sidecar, over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests under way.
    pub requests: u32,
}

/// How many retries a service's callers may add.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetPolicy {
    /// Retries over requests, 0.0 to 1.0.
    pub ratio: f64,
    pub min_per_second: u32,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            consecutive: 5,
            error_rate: ErrorRate { threshold: 0.5, window: Duration::from_secs(10), min_requests: 20 },
            open_for: Duration::from_secs(30),
            open_max: Duration::from_mins(5),
            max_ejected: 0.5,
            on_all_open: OnAllOpen::Fail,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 10_000 }
    }
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10 }
    }
}
