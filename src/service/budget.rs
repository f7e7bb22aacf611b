//! How many retries a service's callers may add: a share of the requests, with a floor for quiet times. Keeps an outage
//! from being made worse (finagle's and Linkerd's retry budget).

use super::policy::BudgetPolicy;
use super::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// A bucket of retries. Each request and each second puts in what the policy says; each retry takes one. What is saved is
/// bounded, so that a long good time does not pay for a storm: `SAVED` retries, or ten seconds of a floor above 50/s.
pub struct RetryBudget {
    /// Thousandths of a retry.
    balance: AtomicI64,
    /// Milliseconds up to which the floor was paid in, plus one second: that of the beginning.
    paid: AtomicU64,
    /// Thousandths of a retry that a request pays in.
    per_request: AtomicU32,
    /// Retries that a second pays in, which is thousandths for each millisecond.
    per_second: AtomicU32,
}

impl RetryBudget {
    /// One second of the floor is due from the beginning. Moments are milliseconds since the service's epoch.
    pub fn new(policy: BudgetPolicy) -> Self {
        let budget = Self {
            balance: AtomicI64::new(0),
            paid: AtomicU64::new(0),
            per_request: AtomicU32::new(0),
            per_second: AtomicU32::new(0),
        };
        budget.follow(policy);
        budget
    }

    /// Takes another policy; what was saved is kept.
    pub fn follow(&self, policy: BudgetPolicy) {
        // A float cast saturates; the configuration holds the ratio to 0.0 to 1.0.
        self.per_request.store((policy.ratio * 1000.0).round() as u32, Ordering::Relaxed);
        self.per_second.store(policy.min_per_second, Ordering::Relaxed);
    }

    pub fn deposit(&self) {
        if self.balance.load(Ordering::Relaxed) < self.ceiling() {
            self.balance.fetch_add(i64::from(self.per_request.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    /// True if a retry may be made; it is then paid for.
    pub fn withdraw(&self, now: u64) -> bool {
        self.pay_floor(now);
        let mut balance = self.balance.load(Ordering::Relaxed);
        while balance >= 1000 {
            match self.balance.compare_exchange_weak(balance, balance - 1000, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(current) => balance = current,
            }
        }
        false
    }

    /// Pays for the time since the last payment, for one second at most: a quiet hour earns no more than a second.
    fn pay_floor(&self, now: u64) {
        let paid = self.paid.load(Ordering::Relaxed);
        let until = now.saturating_add(1000);
        let due = until.saturating_sub(paid).min(1000) as i64 * i64::from(self.per_second.load(Ordering::Relaxed));
        if due > 0 && self.paid.compare_exchange(paid, until, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let room = self.ceiling() - self.balance.load(Ordering::Relaxed);
            self.balance.fetch_add(due.min(room.max(0)), Ordering::Relaxed);
        }
    }

    fn ceiling(&self) -> i64 {
        (i64::from(self.per_second.load(Ordering::Relaxed)) * 10).max(SAVED) * 1000
    }
}

const SAVED: i64 = 500;
