//! What rate limiters could not do as they should, as counters.

use prometheus::IntCounter;

use super::Metrics;

/// Label values of `outrigger_rate_limit_events_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimiterEvent {
    /// Counted by a counter that several callers share, as too many distinct ones came.
    SharedCounter,
    /// The store gave no answer, and the request passed uncounted.
    StoreFailedPassed,
    /// The store gave no answer, and the request was refused.
    StoreFailedRefused,
}

impl LimiterEvent {
    pub const ALL: [Self; 3] = [Self::SharedCounter, Self::StoreFailedPassed, Self::StoreFailedRefused];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SharedCounter => "shared_counter",
            Self::StoreFailedPassed => "store_failed_passed",
            Self::StoreFailedRefused => "store_failed_refused",
        }
    }
}

/// The handles of rate limiters.
#[derive(Clone)]
pub struct LimiterCounts([IntCounter; 3]);

impl LimiterCounts {
    pub fn count(&self, event: LimiterEvent) {
        self.0[event as usize].inc();
    }
}

impl Metrics {
    /// The handles of rate limiters; resolve once, keep.
    #[must_use]
    pub fn limiter(&self) -> LimiterCounts {
        LimiterCounts(LimiterEvent::ALL.map(|event| self.limiters.with_label_values(&[event.as_str()])))
    }
}
