//! How many requests of a service may be under way: a fixed bound, and below it one that follows latency where asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::gradient::Gradient;
use super::policy::Policy;
use crate::reason::Reason;

/// Requests under way, over all workers.
pub(super) struct RequestLimit {
    epoch: Instant,
    gate: Gate,
    /// The fixed bound.
    most: AtomicU32,
    adaptive: AtomicBool,
    gradient: Gradient,
}

impl RequestLimit {
    pub(super) fn new(policy: &Policy, epoch: Instant) -> Self {
        let limit = Self {
            epoch,
            gate: Gate::new(0),
            most: AtomicU32::new(0),
            adaptive: AtomicBool::new(false),
            gradient: Gradient::new(),
        };
        limit.follow(policy);
        limit
    }

    /// Takes another policy; what was learned of latency is kept.
    pub(super) fn follow(&self, policy: &Policy) {
        self.most.store(policy.limits.requests, Ordering::Relaxed);
        self.adaptive.store(policy.adaptive, Ordering::Relaxed);
        let bound = if policy.adaptive { self.gradient.limit() } else { u32::MAX };
        self.gate.set_bound(bound.min(policy.limits.requests));
    }

    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Result<Permit, Reason> {
        if self.gate.take() { Ok(Permit { limit: self.clone(), since: now }) } else { Err(Reason::Overloaded) }
    }

    pub(super) fn held(&self) -> u32 {
        self.gate.held()
    }

    pub(super) fn bound(&self) -> u32 {
        self.gate.bound()
    }

    fn observe(&self, latency: Duration, now: Instant) {
        if !self.adaptive.load(Ordering::Relaxed) {
            return;
        }
        let at = now.saturating_duration_since(self.epoch).as_millis() as u64;
        if let Some(limit) = self.gradient.observe(latency, self.gate.held(), at) {
            self.gate.set_bound(limit.min(self.most.load(Ordering::Relaxed)));
        }
    }
}

/// A request that was let in, counted until this is dropped.
pub struct Permit {
    limit: Arc<RequestLimit>,
    since: Instant,
}

impl Permit {
    /// The first answer's head came `latency` after the request was admitted: what an adaptive limit follows.
    pub fn answered(&self, latency: Duration, now: Instant) {
        self.limit.observe(latency, now);
    }

    /// No answer came in time: an adaptive limit takes the time that it waited for a latency. A request that ended for
    /// another reason (its caller left, no endpoint) tells nothing of load, and its permit is just dropped.
    pub fn timed_out(&self, now: Instant) {
        self.limit.observe(now.saturating_duration_since(self.since), now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.gate.put();
    }
}
