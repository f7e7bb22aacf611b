//! Where a tunnel leads: endpoints are tried until one takes it. Only what was not sent is tried again.

use std::future::Future;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::Refusal;
use super::exchange::Exchange;
use crate::reason::Reason;
use crate::route::{Failure, Route};
use crate::service::{Ask, Lease, Permit};
use crate::telemetry::{RetryOutcome, TryOutcome};
use crate::upstream::AttemptError;

/// The tries of one tunnel. Dropped while one is under way, that one counts as cancelled.
pub(super) struct Opening<'a> {
    route: &'a Route,
    permit: Option<Permit>,
    deadline: Option<Instant>,
    tried: SmallVec<[u64; 4]>,
    trying: bool,
}

impl<'a> Opening<'a> {
    /// # Errors
    /// `Overloaded` where the service takes no more.
    pub(super) fn begin(route: &'a Route, deadline: Option<Instant>) -> Result<Self, Refusal> {
        let permit = Some(route.service.admit()?);
        route.service.note_request();
        Ok(Self { route, permit, deadline, tried: SmallVec::new(), trying: false })
    }

    /// An endpoint that has not been tried.
    ///
    /// # Errors
    /// The service's, where it has none to give.
    pub(super) fn next(&mut self, exchange: &mut Exchange) -> Result<Lease, Refusal> {
        let ask = Ask { tried: &self.tried, now: Instant::now(), entropy: fastrand::u64(..), key: None };
        let lease = self.route.service.lease(&ask)?;
        self.tried.push(lease.endpoint().number());
        exchange.tries(lease.endpoint());
        self.trying = true;
        Ok(lease)
    }

    /// Runs a try until the deadline.
    ///
    /// # Errors
    /// `Deadline`, which the endpoint is told.
    pub(super) async fn within<T>(&mut self, lease: &Lease, work: impl Future<Output = T>) -> Result<T, Refusal> {
        let Some(deadline) = self.deadline else { return Ok(work.await) };
        if let Ok(done) = tokio::time::timeout_at(deadline.into(), work).await {
            return Ok(done);
        }
        self.ended(TryOutcome::TimedOut);
        lease.timed_out(Instant::now());
        Err(Refusal::new(Reason::Deadline, "no answer within the route's timeout"))
    }

    /// The endpoint has taken the tunnel, or has answered otherwise.
    pub(super) fn opened(&mut self) -> Option<Permit> {
        self.ended(TryOutcome::Answered);
        self.permit.take()
    }

    /// Notes a failed try.
    ///
    /// # Errors
    /// The last one's reason, when there is no other try to make.
    pub(super) async fn failed(
        &mut self,
        lease: Lease,
        error: &AttemptError,
        at_hand: bool,
        exchange: &mut Exchange,
    ) -> Result<(), Refusal> {
        let (outcome, failure, reason) = judge(error);
        self.ended(outcome);
        note(self.route, &lease, error);
        drop(lease);
        let refusal = Refusal::new(reason, error.to_string());
        if !self.may_try_again(failure, at_hand) {
            return Err(refusal);
        }
        exchange.note(&refusal.detail);
        if self.tried.len() >= self.route.service.endpoints().all().len() {
            // Only known ones are left: callers must not come back in step.
            tokio::time::sleep(BACKOFF.mul_f64(fastrand::f64())).await;
        }
        Ok(())
    }

    fn may_try_again(&self, failure: Failure, at_hand: bool) -> bool {
        let tries = u32::try_from(self.tried.len()).unwrap_or(u32::MAX);
        if failure != Failure::Unsent || !self.route.retry.allows(failure, &http::Method::GET, tries) {
            return false;
        }
        let outcome = if !at_hand {
            RetryOutcome::NotReplayable
        } else if !self.route.service.may_retry(Instant::now()) {
            RetryOutcome::OverBudget
        } else {
            RetryOutcome::Done
        };
        self.route.flow.retry(outcome);
        outcome == RetryOutcome::Done
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

fn judge(error: &AttemptError) -> (TryOutcome, Failure, Reason) {
    match error {
        AttemptError::Connect { .. } | AttemptError::NoIdentity => {
            (TryOutcome::ConnectFailed, Failure::Unsent, Reason::ConnectFailed)
        }
        AttemptError::WrongPeer { .. } | AttemptError::BadPeer { .. } => {
            (TryOutcome::WrongPeer, Failure::Unsent, Reason::WrongPeer)
        }
        AttemptError::Unsent(_) => (TryOutcome::Unsent, Failure::Unsent, Reason::UpstreamReset),
        AttemptError::Reset(_) => (TryOutcome::Reset, Failure::Final, Reason::UpstreamReset),
        AttemptError::BadResponse(_) => (TryOutcome::BadResponse, Failure::Final, Reason::BadResponse),
        AttemptError::BadRequest(_) => (TryOutcome::Cancelled, Failure::Final, Reason::BadRequest),
        AttemptError::RequestBody(_) => (TryOutcome::Cancelled, Failure::Final, Reason::ClientGone),
    }
}

/// What the service learns of a failure, and what the log says once.
fn note(route: &Route, lease: &Lease, error: &AttemptError) {
    let now = Instant::now();
    let changed = match error {
        AttemptError::Connect { .. } | AttemptError::WrongPeer { .. } | AttemptError::BadPeer { .. } => {
            lease.unreachable(now)
        }
        AttemptError::Reset(_) | AttemptError::BadResponse(_) => lease.broke(RESET_PENALTY, now),
        AttemptError::NoIdentity
        | AttemptError::Unsent(_)
        | AttemptError::RequestBody(_)
        | AttemptError::BadRequest(_) => None,
    };
    if changed.is_some() {
        tracing::warn!(service = %route.service.name(), endpoint = %lease.endpoint().listing.address, cause = %error, "endpoint left out for a while");
    }
}

/// A reset counts as an answer this slow, so that others are preferred for a while.
pub(super) const RESET_PENALTY: Duration = Duration::from_millis(250);
const BACKOFF: Duration = Duration::from_millis(50);
