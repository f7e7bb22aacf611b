//! The counters of one direction of one service, resolved once.

use std::sync::OnceLock;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::metrics::{BreakerChange, Direction, RetryOutcome, TryOutcome};
use crate::reason::Reason;

/// The handles of one direction of one service.
pub struct Flow {
    pub(super) classes: [IntCounter; 5],
    /// Made at the first use: most services never see most reasons, and a series that is always 0 costs as much.
    pub(super) reasons: [OnceLock<IntCounter>; Reason::ALL.len()],
    pub(super) requests: IntCounterVec,
    pub(super) direction: Direction,
    pub(super) service: Box<str>,
    pub duration: Histogram,
    pub in_flight: IntGauge,
    pub bytes_in: IntCounter,
    pub bytes_out: IntCounter,
    pub(super) attempts: Box<[IntCounter]>,
    pub(super) retries: Box<[IntCounter]>,
    pub(super) breakers: Box<[IntCounter]>,
}

impl Flow {
    /// Counts a finished request whose answer came from the service.
    pub fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.classes[class - 1].inc();
    }

    /// Counts a finished request that outrigger itself answered.
    pub fn refused(&self, reason: Reason) {
        self.reasons[reason.index()]
            .get_or_init(|| {
                let class = match reason.status().as_u16() / 100 {
                    4 => "4xx",
                    _ => "5xx",
                };
                self.requests.with_label_values(&[self.direction.as_str(), &self.service, class, reason.code()])
            })
            .inc();
    }

    /// Counts an ended connection that was no HTTP: its class is `tcp`, however it ended.
    pub fn connection_ended(&self, reason: Option<Reason>) {
        let reason = reason.map_or("", Reason::code);
        self.requests.with_label_values(&[self.direction.as_str(), &self.service, "tcp", reason]).inc();
    }

    pub fn attempt(&self, outcome: TryOutcome) {
        self.attempts[outcome as usize].inc();
    }

    pub fn retry(&self, outcome: RetryOutcome) {
        self.retries[outcome as usize].inc();
    }

    pub fn breaker(&self, to: BreakerChange) {
        self.breakers[to as usize].inc();
    }

    pub fn service(&self) -> &str {
        &self.service
    }

    pub fn direction(&self) -> Direction {
        self.direction
    }
}
