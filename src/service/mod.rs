//! A service: its endpoints, how one is chosen, and what bounds its use. Knows nothing of Consul, HTTP or sockets; time
//! and chance come in as arguments.

mod balance;
mod budget;
mod endpoints;
mod load;
mod policy;
mod reach;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::names::ServiceName;
use crate::published::Published;
use crate::reason::Reason;

pub use balance::{Ask, Balance};
pub use endpoints::{Endpoint, EndpointSet, Health, Listing, Wire};
pub use load::Load;
pub use policy::{BreakerPolicy, BudgetPolicy, ErrorRate, Limits, OnAllOpen, Policy};
pub use reach::Reachable;

/// One upstream as a whole: one truth for all workers.
pub struct Service {
    name: ServiceName,
    epoch: Instant,
    endpoints: Published<EndpointSet>,
    turn: AtomicUsize,
    budget: budget::RetryBudget,
    in_flight: Arc<AtomicU32>,
    /// Held while a set is replaced: a new listing and a reload may come at the same time.
    told: Mutex<Told>,
}

/// What the endpoint set is made of.
struct Told {
    policy: Policy,
    /// The service's own endpoints, then those of each failover in order.
    tiers: Vec<Vec<Listing>>,
}

impl Service {
    pub fn new(name: ServiceName, policy: Policy, now: Instant) -> Self {
        Self {
            name,
            epoch: now,
            endpoints: Published::new(EndpointSet::empty(policy.balance)),
            turn: AtomicUsize::new(0),
            budget: budget::RetryBudget::new(now),
            in_flight: Arc::default(),
            told: Mutex::new(Told { policy, tiers: Vec::new() }),
        }
    }

    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    pub fn endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.snapshot()
    }

    /// Replaces the listing; endpoints that stay keep what was learned of them.
    pub fn list(&self, listed: Vec<Listing>) {
        self.list_tier(0, listed);
    }

    /// Replaces the listing of one tier: 0 is the service itself, 1 and up its failovers in order. A tier is used while
    /// no endpoint of those before it can be.
    pub fn list_tier(&self, tier: usize, listed: Vec<Listing>) {
        let mut told = self.told.lock();
        if told.tiers.len() <= tier {
            told.tiers.resize(tier + 1, Vec::new());
        }
        told.tiers[tier] = listed;
        let all = told.tiers.concat();
        self.endpoints.store(self.endpoints.snapshot().succeed(all, told.policy.balance, self.epoch));
    }

    /// Takes another policy and keeps what was learned.
    pub fn reconfigure(&self, policy: Policy) {
        let mut told = self.told.lock();
        if told.policy != policy {
            told.policy = policy;
            self.endpoints.store(self.endpoints.snapshot().rebalanced(told.policy.balance));
        }
    }

    /// Counts a request in.
    ///
    /// # Errors
    /// `Overloaded` when as many requests as the limits allow are under way.
    pub fn admit(&self, _now: Instant) -> Result<Permit, Reason> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Permit { in_flight: self.in_flight.clone() })
    }

    /// Chooses an endpoint and counts the request in.
    ///
    /// # Errors
    /// `NoEndpoint` when no usable one is listed.
    pub fn lease(&self, ask: &Ask<'_>) -> Result<Lease, Reason> {
        let set = self.endpoints.peek();
        let endpoint = set.pick(&self.turn, ask).ok_or(Reason::NoEndpoint)?;
        endpoint.load().begin();
        Ok(Lease { endpoint: endpoint.clone(), since: ask.now })
    }

    /// Counts a request toward the retries that its kind may cost.
    pub fn note_request(&self) {
        self.budget.deposit();
    }

    /// True if one more retry is within the budget; it is then paid for.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.budget.withdraw(now)
    }
}

/// A request that was let in, counted until this is dropped.
pub struct Permit {
    in_flight: Arc<AtomicU32>,
}

impl Permit {
    /// The first answer's head came `latency` after the request was admitted: what an adaptive limit follows.
    pub fn answered(&self, _latency: Duration, _now: Instant) {}
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What became of an endpoint's breaker, for the log and the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub to: BreakerState,
    pub cause: Cause,
    /// How long an ejection lasts; zero for the other states.
    pub open_for: Duration,
}

/// States of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// Why a breaker changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Too many failures in a row.
    Consecutive,
    /// Too large a share of failures.
    ErrorRate,
    /// The pause is over: one request probes.
    Due,
    /// The probe was answered well.
    ProbeSucceeded,
    ProbeFailed,
    /// The registry has seen it recover.
    Recovered,
}

/// A chosen endpoint, counted in flight until this is dropped.
pub struct Lease {
    endpoint: Arc<Endpoint>,
    since: Instant,
}

impl Lease {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The transition that this very pick made: open to half-open, when this request is the probe.
    pub fn began(&self) -> Option<Transition> {
        None
    }

    /// The head of an answer to a request that left at `sent` came: its latency counts, without the time to connect, and
    /// the endpoint is reachable. `good` is false for the statuses that the breaker counts as failures.
    pub fn answered(&self, sent: Instant, now: Instant, good: bool) -> Option<Transition> {
        let _ = good;
        self.endpoint.state.load.observe(now.saturating_duration_since(sent), now);
        let closed = self.endpoint.state.reach.open();
        closed.then_some(Transition {
            to: BreakerState::Closed,
            cause: Cause::ProbeSucceeded,
            open_for: Duration::ZERO,
        })
    }

    /// No connection could be made: the endpoint is left out for a while.
    pub fn unreachable(&self, now: Instant) -> Option<Transition> {
        let opened = self.endpoint.state.reach.failed(now);
        opened.then_some(Transition { to: BreakerState::Open, cause: Cause::Consecutive, open_for: Duration::ZERO })
    }

    /// The exchange broke: counts as a failure and as a latency of `penalty`, so that others are preferred.
    pub fn broke(&self, penalty: Duration, now: Instant) -> Option<Transition> {
        let latency = now.saturating_duration_since(self.since).max(penalty);
        self.endpoint.state.load.observe(latency, now);
        None
    }

    /// No answer within the limit of a try or of the request: a failure, and the time that it took counts.
    pub fn timed_out(&self, now: Instant) -> Option<Transition> {
        self.unanswered(now);
        None
    }

    /// Given up by the caller: no failure of the endpoint, but the time that it took counts where it is more than what
    /// is usual.
    pub fn unanswered(&self, now: Instant) {
        let taken = now.saturating_duration_since(self.since);
        if taken > self.endpoint.state.load.latency(now) {
            self.endpoint.state.load.observe(taken, now);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.state.load.end();
    }
}

#[cfg(test)]
mod tests {
    use super::endpoints::tests::listing;
    use super::*;

    #[test]
    fn a_lease_counts_in_flight_until_it_is_dropped() {
        let now = Instant::now();
        let service = Service::new(ServiceName::parse("orders").unwrap(), Policy::default(), now);
        let ask = Ask { tried: &[], now, entropy: 1, key: None };
        assert_eq!(service.lease(&ask).map(|_| ()).unwrap_err(), Reason::NoEndpoint);
        service.list(vec![listing("a", 1, Health::Passing)]);
        let lease = service.lease(&ask).unwrap();
        let endpoint = lease.endpoint().clone();
        assert_eq!(endpoint.load().in_flight(), 1);
        drop(lease);
        assert_eq!(endpoint.load().in_flight(), 0);
    }

    #[test]
    fn a_reload_of_the_balancer_keeps_what_was_learned() {
        let now = Instant::now();
        let service = Service::new(ServiceName::parse("orders").unwrap(), Policy::default(), now);
        service.list(vec![listing("a", 1, Health::Passing)]);
        let before = service.endpoints().all()[0].number();
        service.reconfigure(Policy { balance: Balance::RoundRobin, ..Policy::default() });
        assert_eq!(service.endpoints().all()[0].number(), before);
    }
}
