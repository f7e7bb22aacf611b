//! One request at one endpoint: counted in flight, and what came of it told to load, reachability and breaker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::breaker::{BreakerState, Cause, Ticket, Transition};
use super::endpoints::Endpoint;

/// A chosen endpoint, counted in flight until this is dropped. Dropped without a word on what came of the request, the
/// probe of a half-open breaker is free for the next request.
pub struct Lease {
    endpoint: Arc<Endpoint>,
    since: Instant,
    ticket: Ticket,
    /// One request is one failure, whatever else is told of it.
    failed: AtomicBool,
}

impl Lease {
    pub(super) fn begin(endpoint: Arc<Endpoint>, ticket: Ticket, since: Instant) -> Self {
        endpoint.load().begin();
        Self { endpoint, since, ticket, failed: AtomicBool::new(false) }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The transition that this very pick made: open to half-open, when this request is the probe.
    pub fn began(&self) -> Option<Transition> {
        match self.ticket {
            Ticket::Probe(_) => Some(plain(BreakerState::HalfOpen, Cause::Due)),
            Ticket::Counted(_) | Ticket::Uncounted => None,
        }
    }

    /// The head of an answer to a request that left at `sent` came: its latency counts, without the time to connect, and
    /// the endpoint is reachable. `good` is false for the statuses that the breaker counts as failures. A good answer
    /// ends the failures in a row, and closes a half-open breaker where this request is its probe.
    pub fn answered(&self, sent: Instant, now: Instant, good: bool) -> Option<Transition> {
        let state = &self.endpoint.state;
        state.load.observe(now.saturating_duration_since(sent), now);
        let reached = state.reach.open();
        if reached {
            state.shared.changed();
        }
        if !good {
            return self.fail(now);
        }
        let at = state.shared.millis(now);
        let closed = state.breaker.succeeded(self.ticket, &state.shared.breaker.peek(), &state.shared.room, at);
        if closed.is_some() {
            state.shared.changed();
        }
        // Reachable again while its breaker is still open is not yet in use again.
        let in_use = reached && matches!(state.breaker.ticket(), Ticket::Counted(_));
        closed.or_else(|| in_use.then(|| plain(BreakerState::Closed, Cause::ProbeSucceeded)))
    }

    /// The answer was no good: counts as a latency of `penalty`, so that others are preferred for a while. Otherwise the
    /// quickest to fail would look like the least loaded.
    pub fn disappointed(&self, penalty: Duration, now: Instant) {
        let latency = now.saturating_duration_since(self.since).max(penalty);
        self.endpoint.state.load.observe(latency, now);
    }

    /// No connection could be made, or its peer was not who it must be: the endpoint is left out for a short while at
    /// once, whatever the policy, and it is a failure for the breaker.
    pub fn unreachable(&self, now: Instant) -> Option<Transition> {
        let state = &self.endpoint.state;
        let shut = state.reach.failed(now);
        state.shared.changed();
        let shut = shut.map(|open_for| Transition { to: BreakerState::Open, cause: Cause::Unreachable, open_for });
        self.fail(now).or(shut)
    }

    /// The exchange broke: a failure, and a latency of `penalty` or of the time that it took, so that others are preferred.
    pub fn broke(&self, penalty: Duration, now: Instant) -> Option<Transition> {
        let latency = now.saturating_duration_since(self.since).max(penalty);
        self.endpoint.state.load.observe(latency, now);
        self.fail(now)
    }

    /// No answer within the limit of a try or of the request: a failure, and the time that it took counts.
    pub fn timed_out(&self, now: Instant) -> Option<Transition> {
        self.unanswered(now);
        self.fail(now)
    }

    /// Given up by the caller: no failure of the endpoint, but the time that it took counts where it is more than what
    /// is usual. A probe that ends so says nothing: the next request probes.
    pub fn unanswered(&self, now: Instant) {
        let taken = now.saturating_duration_since(self.since);
        if taken > self.endpoint.state.load.latency(now) {
            self.endpoint.state.load.observe(taken, now);
        }
    }

    fn fail(&self, now: Instant) -> Option<Transition> {
        if self.failed.swap(true, Ordering::Relaxed) {
            return None;
        }
        let state = &self.endpoint.state;
        let at = state.shared.millis(now);
        let opened = state.breaker.failed(self.ticket, &state.shared.breaker.peek(), &state.shared.room, at);
        if opened.is_some() {
            state.shared.changed();
        }
        opened
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let state = &self.endpoint.state;
        state.load.end();
        if state.breaker.abandoned(self.ticket) {
            state.shared.changed();
        }
    }
}

fn plain(to: BreakerState, cause: Cause) -> Transition {
    Transition { to, cause, open_for: Duration::ZERO }
}
