//! A service: its endpoints, how one is chosen, and what bounds its use. Knows nothing of Consul, HTTP or sockets; time
//! and chance come in as arguments.

mod balance;
mod breaker;
mod budget;
mod connections;
mod endpoints;
mod gate;
mod gradient;
mod hashed;
mod lease;
mod limits;
mod load;
mod policy;
mod reach;
mod set;
mod sync;
mod view;
mod weights;
mod window;

#[cfg(test)]
mod breaker_tests;
#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod connections_tests;
#[cfg(test)]
mod gradient_tests;
#[cfg(test)]
mod hashed_tests;
#[cfg(test)]
mod pick_tests;
#[cfg(test)]
mod set_tests;
#[cfg(test)]
mod outage_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use parking_lot::Mutex;

use crate::names::ServiceName;
use crate::published::Published;
use crate::reason::Reason;

pub use balance::{Ask, Balance};
pub use breaker::{BreakerState, BreakerView, Cause, Transition};
pub use connections::{ConnectionLimit, ConnectionSlot, PendingSlot, Waited};
pub use endpoints::{Endpoint, Health, Listing, Wire};
pub use lease::Lease;
pub use limits::Permit;
pub use load::Load;
pub use policy::{BreakerPolicy, BudgetPolicy, ErrorRate, Limits, OnAllOpen, Policy};
pub use reach::Reachable;
pub use set::{Changed, EndpointSet};

/// One upstream as a whole: one truth for all workers.
pub struct Service {
    name: ServiceName,
    shared: Arc<endpoints::Shared>,
    endpoints: Published<EndpointSet>,
    turn: AtomicUsize,
    budget: budget::RetryBudget,
    requests: Arc<limits::RequestLimit>,
    connections: Arc<ConnectionLimit>,
    /// Held while a set is replaced: a new listing, a reload and a change of who can be used may come at the same time.
    told: Mutex<Told>,
}

/// What the endpoint set is made of.
struct Told {
    policy: Arc<Policy>,
    /// The service's own endpoints, then those of each failover in order.
    tiers: Vec<Vec<Listing>>,
}

impl Service {
    pub fn new(name: ServiceName, policy: Policy, now: Instant) -> Self {
        let policy = Arc::new(policy);
        let shared = Arc::new(endpoints::Shared::new(policy.breaker, now));
        Self {
            name,
            endpoints: Published::new(EndpointSet::empty(&policy, &shared)),
            turn: AtomicUsize::new(0),
            budget: budget::RetryBudget::new(policy.budget),
            requests: Arc::new(limits::RequestLimit::new(&policy, now)),
            connections: ConnectionLimit::new(policy.limits),
            shared,
            told: Mutex::new(Told { policy, tiers: Vec::new() }),
        }
    }

    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    pub fn endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.snapshot()
    }

    /// Replaces the listing; endpoints that stay keep what was learned of them. Returns the breakers that this closed: of
    /// endpoints that the registry has seen recover.
    pub fn list(&self, listed: Vec<Listing>, now: Instant) -> Vec<Changed> {
        self.list_tier(0, listed, now)
    }

    /// As `list`, of one tier: 0 is the service itself, 1 and up its failovers in order. A tier is used while no endpoint
    /// of those before it can be.
    pub fn list_tier(&self, tier: usize, listed: Vec<Listing>, now: Instant) -> Vec<Changed> {
        let mut told = self.told.lock();
        if told.tiers.len() <= tier {
            told.tiers.resize(tier + 1, Vec::new());
        }
        told.tiers[tier] = listed;
        let (next, closed) = self.endpoints.snapshot().succeed(&told.tiers, &told.policy, &self.shared, now);
        self.publish(&told, next);
        closed
    }

    /// Takes another policy and keeps what was learned.
    pub fn reconfigure(&self, policy: Policy) {
        let mut told = self.told.lock();
        if *told.policy == policy {
            return;
        }
        told.policy = Arc::new(policy);
        let policy = &told.policy;
        self.budget.follow(policy.budget);
        self.requests.follow(policy);
        self.connections.follow(policy.limits);
        self.shared.breaker.store(policy.breaker);
        let next = self.endpoints.snapshot().under(policy, &self.shared);
        self.publish(&told, next);
    }

    fn publish(&self, told: &Told, next: EndpointSet) {
        // Slightly more than the product, so that 0.3 of 10 is 3 in spite of binary fractions.
        let most = told.policy.breaker.max_ejected * next.members.usable.len() as f64 + 1e-9;
        self.shared.room.set_bound(most as u32);
        self.endpoints.store(next);
    }

    /// Counts a request in, until the permit is dropped.
    ///
    /// # Errors
    /// `Overloaded` when as many requests as the limits allow are under way.
    pub fn admit(&self, now: Instant) -> Result<Permit, Reason> {
        self.requests.admit(now)
    }

    /// Requests under way, and how many may be for now.
    pub fn requests(&self) -> (u32, u32) {
        (self.requests.held(), self.requests.bound())
    }

    /// What bounds the pools of all workers together.
    pub fn connections(&self) -> &Arc<ConnectionLimit> {
        &self.connections
    }

    /// Chooses an endpoint and counts the request in.
    ///
    /// # Errors
    /// `NoEndpoint` when no usable one is listed, `AllEjected` when all of them are ejected and the policy says to fail.
    pub fn lease(&self, ask: &Ask<'_>) -> Result<Lease, Reason> {
        let at = self.shared.millis(ask.now);
        let mut set = self.endpoints.peek();
        if set.is_stale(&self.shared, at) {
            self.refresh(&set, ask.now);
            set = self.endpoints.peek();
        }
        let (endpoint, ticket) = set.pick(&self.turn, ask, at)?;
        Ok(Lease::begin(endpoint.clone(), ticket, ask.now))
    }

    /// Looks up anew who can be used. Waits for nobody who is at it already, unless the set is small.
    #[cold]
    fn refresh(&self, stale: &EndpointSet, now: Instant) {
        let told = if stale.is_small() { Some(self.told.lock()) } else { self.told.try_lock() };
        let Some(_told) = told else { return };
        let current = self.endpoints.snapshot();
        if current.is_stale(&self.shared, self.shared.millis(now)) {
            self.endpoints.store(current.refreshed(&self.shared, now));
        }
    }

    /// Counts a request toward the retries that its kind may cost.
    pub fn note_request(&self) {
        self.budget.deposit();
    }

    /// True if one more retry is within the budget; it is then paid for.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.budget.withdraw(self.shared.millis(now))
    }
}
