//! How many retries a service's callers may add: a share of the requests, with a floor for quiet times. Keeps an outage
//! from being made worse (finagle's and Linkerd's retry budget).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

/// A bucket of retries. Each request puts in a fifth of one, each second ten; each retry takes one.
pub struct RetryBudget {
    epoch: Instant,
    /// Thousandths of a retry.
    balance: AtomicI64,
    /// Milliseconds since `epoch` up to which the floor was paid in.
    paid: AtomicU64,
}

impl RetryBudget {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, balance: AtomicI64::new(FLOOR_PER_SECOND * 1000), paid: AtomicU64::new(0) }
    }

    pub(super) fn deposit(&self) {
        if self.balance.load(Ordering::Relaxed) < CEILING {
            self.balance.fetch_add(PER_REQUEST, Ordering::Relaxed);
        }
    }

    /// True if a retry may be made; it is then paid for.
    pub(super) fn withdraw(&self, now: Instant) -> bool {
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

    fn pay_floor(&self, now: Instant) {
        let at = now.saturating_duration_since(self.epoch).as_millis() as u64;
        let paid = self.paid.load(Ordering::Relaxed);
        let due = at.saturating_sub(paid).min(1000) as i64 * FLOOR_PER_SECOND;
        if due > 0 && self.paid.compare_exchange(paid, at, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let room = CEILING - self.balance.load(Ordering::Relaxed);
            self.balance.fetch_add(due.min(room.max(0)), Ordering::Relaxed);
        }
    }
}

/// Thousandths that a request pays in: 20 %.
const PER_REQUEST: i64 = 200;
const FLOOR_PER_SECOND: i64 = 10;
/// Savings are bounded, so that a long quiet time does not pay for a storm: about ten seconds at 1,000 requests/s.
const CEILING: i64 = 2_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn retries_stay_within_a_fifth_of_the_requests_plus_the_floor() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let mut retries = 0;
        for millis in 0..10_000u64 {
            budget.deposit();
            while budget.withdraw(start + Duration::from_millis(millis)) {
                retries += 1;
            }
        }
        assert!((2_000..=2_000 + 10 * 10 + 10).contains(&retries), "{retries} retries for 10,000 requests in 10 s");
    }

    #[test]
    fn a_quiet_service_may_still_retry() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        assert!((0..10).all(|_| budget.withdraw(start)));
        assert!(!budget.withdraw(start));
        assert!(budget.withdraw(start + Duration::from_millis(150)));
    }
}
