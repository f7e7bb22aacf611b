//! A service: its endpoints, how one is chosen, and what bounds its use. Knows nothing of Consul, HTTP or sockets; time
//! and chance come in as arguments.

mod balance;
mod budget;
mod endpoints;
mod load;
mod reach;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::names::ServiceName;
use crate::published::Published;
use crate::reason::Reason;

pub use balance::{Ask, Balance};
pub use endpoints::{Endpoint, EndpointSet, Health, Listing, Wire};
pub use load::Load;
pub use reach::Reachable;

/// One upstream as a whole: one truth for all workers.
pub struct Service {
    name: ServiceName,
    epoch: Instant,
    endpoints: Published<EndpointSet>,
    turn: AtomicUsize,
    budget: budget::RetryBudget,
    /// Held while a set is replaced: a new listing and a reload may come at the same time.
    balance: Mutex<Balance>,
}

impl Service {
    pub fn new(name: ServiceName, balance: Balance, now: Instant) -> Self {
        Self {
            name,
            epoch: now,
            endpoints: Published::new(EndpointSet::empty(balance)),
            turn: AtomicUsize::new(0),
            budget: budget::RetryBudget::new(now),
            balance: Mutex::new(balance),
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
        let balance = self.balance.lock();
        let next = self.endpoints.snapshot().succeed(listed, *balance, self.epoch);
        self.endpoints.store(next);
    }

    /// Changes how endpoints are chosen and keeps the rest.
    pub fn rebalance(&self, balance: Balance) {
        let mut current = self.balance.lock();
        if *current != balance {
            *current = balance;
            self.endpoints.store(self.endpoints.snapshot().rebalanced(balance));
        }
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

/// A chosen endpoint, counted in flight until this is dropped.
pub struct Lease {
    endpoint: Arc<Endpoint>,
    since: Instant,
}

impl Lease {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The head of an answer to a request that left at `sent` came: its latency counts, without the time to connect, and
    /// the endpoint is reachable. True if it was shut before.
    pub fn answered(&self, sent: Instant, now: Instant) -> bool {
        self.endpoint.state.load.observe(now.saturating_duration_since(sent), now);
        self.endpoint.state.reach.open()
    }

    /// No connection could be made: the endpoint is left out for a while. True if it was reachable before.
    pub fn unreachable(&self, now: Instant) -> bool {
        self.endpoint.state.reach.failed(now)
    }

    /// The exchange broke or took too long: counts as a latency of `penalty`, so that others are preferred.
    pub fn broke(&self, penalty: Duration, now: Instant) {
        let latency = now.saturating_duration_since(self.since).max(penalty);
        self.endpoint.state.load.observe(latency, now);
    }
}

impl Lease {
    /// Given up without an answer: the time that it took counts where it is more than what is usual.
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
        let service = Service::new(ServiceName::parse("orders").unwrap(), Balance::LeastLoaded, now);
        let ask = Ask { tried: &[], now, entropy: 1 };
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
        let service = Service::new(ServiceName::parse("orders").unwrap(), Balance::LeastLoaded, now);
        service.list(vec![listing("a", 1, Health::Passing)]);
        let before = service.endpoints().all()[0].number();
        service.rebalance(Balance::RoundRobin);
        assert_eq!(service.endpoints().all()[0].number(), before);
    }
}
