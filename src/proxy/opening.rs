//! Where a tunnel leads: endpoints are tried until one takes it. Only what was not sent is tried again.

use std::future::Future;
use std::time::{Duration, Instant};

use http::HeaderMap;
use smallvec::SmallVec;

use super::Refusal;
use super::allowance::Allowance;
use super::exchange::Exchange;
use super::replay::{ATTEMPT, attempt_of, attempt_value};
use super::verdict::{judge, note_failure, note_transition};
use crate::clock;
use crate::reason::Reason;
use crate::route::{Failure, Route};
use crate::service::{Ask, Lease};
use crate::telemetry::{RetryOutcome, TryOutcome};
use crate::upstream::Failed;

/// The tries of one tunnel. Dropped while one is under way, that one counts as cancelled.
pub(super) struct Opening<'a> {
    route: &'a Route,
    allowance: Allowance,
    /// What a hashing balancer goes by.
    key: Option<u64>,
    /// The number of the caller's own try.
    caller: u32,
    tried: SmallVec<[u64; 4]>,
    trying: bool,
}

impl<'a> Opening<'a> {
    /// `headers` are the request's; none where there is none.
    ///
    /// # Errors
    /// `Overloaded` where the service takes no more, `Deadline` where the caller's time is over.
    pub(super) fn begin(
        route: &'a Route,
        key: Option<u64>,
        headers: &HeaderMap,
        exchange: &mut Exchange,
    ) -> Result<Self, Refusal> {
        let now = clock::now();
        exchange.admit(&route.service)?;
        let allowance = Allowance::new(route.timeout, None, headers, exchange.began());
        if allowance.is_over(now) {
            return Err(Refusal::new(Reason::Deadline, "nothing was left of the caller's own time"));
        }
        route.service.note_request();
        let caller = attempt_of(headers);
        Ok(Self { route, allowance, key, caller, tried: SmallVec::new(), trying: false })
    }

    /// An endpoint that has not been tried.
    ///
    /// # Errors
    /// The service's, where it has none to give.
    pub(super) fn next(&mut self, exchange: &mut Exchange) -> Result<Lease, Refusal> {
        let ask = Ask { tried: &self.tried, now: clock::now(), entropy: fastrand::u64(..), key: self.key };
        let lease = self.route.service.lease(&ask)?;
        note_transition(self.route, &lease, lease.began(), &"");
        self.tried.push(lease.endpoint().number());
        exchange.tries(lease.endpoint());
        self.trying = true;
        Ok(lease)
    }

    /// Tells the next hop of the tries and of the time left.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        if self.route.counts_attempts {
            headers.insert(ATTEMPT, attempt_value(self.caller.saturating_sub(1) + self.tries()));
        }
        self.allowance.tell(headers, clock::now());
    }

    /// Runs a try until the request's time is over.
    ///
    /// # Errors
    /// `Deadline`, which the endpoint is told.
    pub(super) async fn within<T>(&mut self, lease: &Lease, work: impl Future<Output = T>) -> Result<T, Refusal> {
        let Some(limit) = self.allowance.limit(clock::now()) else { return Ok(work.await) };
        if let Ok(done) = tokio::time::timeout_at(limit.into(), work).await {
            return Ok(done);
        }
        self.ended(TryOutcome::TimedOut);
        let now = clock::now();
        let cause = format!("no answer within {:?}", self.allowance.whole().unwrap_or_default());
        if self.allowance.blames(now) {
            note_transition(self.route, lease, lease.timed_out(now), &cause);
        } else {
            lease.unanswered(now);
        }
        Err(Refusal::new(Reason::Deadline, cause))
    }

    /// The endpoint has answered, or has taken a connection.
    pub(super) fn answered(&mut self) {
        self.ended(TryOutcome::Answered);
    }

    /// Notes a failed try; the caller may make another.
    ///
    /// # Errors
    /// The last one's reason, when there is no other try to make. `at_hand`: all that another try would need.
    pub(super) async fn failed(
        &mut self,
        lease: Lease,
        failed: &Failed,
        at_hand: bool,
        exchange: &mut Exchange,
    ) -> Result<(), Refusal> {
        let judged = judge(failed, exchange);
        self.ended(judged.outcome);
        note_failure(self.route, &lease, &failed.error);
        drop(lease);
        let refusal = Refusal::new(judged.reason, failed.error.to_string());
        let others = (self.tried.len()) < self.route.service.endpoints().all().len();
        let pause = if others { Duration::ZERO } else { self.route.retry.backoff.pause(self.tries(), fastrand::f64()) };
        if !self.may_try_again(judged.failure, at_hand, clock::now() + pause) {
            return Err(refusal);
        }
        exchange.note(&refusal.detail);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    fn may_try_again(&self, failure: Failure, at_hand: bool, then: Instant) -> bool {
        let allowed = self.route.retry.allows(failure, &http::Method::GET, self.tries());
        if failure != Failure::Unsent || !allowed || self.allowance.is_over(then) {
            return false;
        }
        let outcome = if !at_hand {
            RetryOutcome::NotReplayable
        } else if !self.route.service.may_retry(clock::now()) {
            RetryOutcome::OverBudget
        } else {
            RetryOutcome::Done
        };
        self.route.flow.retry(outcome);
        outcome == RetryOutcome::Done
    }

    fn tries(&self) -> u32 {
        u32::try_from(self.tried.len()).unwrap_or(u32::MAX)
    }

    fn ended(&mut self, outcome: TryOutcome) {
        self.trying = false;
        self.route.flow.attempt(outcome);
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if self.trying {
            self.route.flow.attempt(TryOutcome::Cancelled);
        }
    }
}
