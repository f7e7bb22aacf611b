//! A request's tries: an endpoint each, until one answers, or nothing that is safe is left.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use http::{HeaderMap, Method, Request, Response, Uri};

use super::Refusal;
use super::exchange::Exchange;
use super::gather::{Begun, Gathered, Patience, Whole, gather};
use crate::reason::Reason;
use crate::route::{Failure, Route};
use crate::service::{Ask, Endpoint, Lease};
use crate::telemetry::{Flow, RetryOutcome, TryOutcome};
use crate::upstream::{AttemptError, BodyFate, Failed, Pool, RequestBody, Sent, Want};

/// An answer with what is left of it to come.
pub(super) enum Answer {
    /// A short body that has come whole, so that an endpoint that dies half way costs another try and not the answer.
    Whole(Response<Whole>),
    Streaming(Response<Begun>, Lease),
}

/// Sends `request` until an endpoint answers, within the route's timeout.
///
/// # Errors
/// The reason for the caller, with the last cause for the log.
pub(super) async fn send(
    pool: &Pool,
    route: &Route,
    request: Request<RequestBody>,
    exchange: &mut Exchange,
) -> Result<Answer, Refusal> {
    let Some(timeout) = route.timeout else { return try_all(pool, route, request, exchange, None).await };
    let deadline = exchange.began() + timeout;
    {
        // Pinned where they are made: moving them, as `timeout_at` would, costs more than the timer.
        let tries = pin!(try_all(pool, route, request, exchange, Some(deadline)));
        let late = pin!(tokio::time::sleep_until(deadline.into()));
        if let Either::Left((ended, _)) = select(tries, late).await {
            return ended;
        }
    }
    Err(match exchange.upload_fate() {
        BodyFate::Fine => Refusal::new(Reason::Deadline, format!("no answer within {timeout:?}")),
        BodyFate::Stalled | BodyFate::Broken => Refusal::new(Reason::RequestTimeout, "the request body did not arrive"),
    })
}

async fn try_all(
    pool: &Pool,
    route: &Route,
    request: Request<RequestBody>,
    exchange: &mut Exchange,
    deadline: Option<Instant>,
) -> Result<Answer, Refusal> {
    let want = Want { http2: route.http2, authority: route.authority.as_ref(), connect_timeout: route.connect_timeout };
    let replay = Replay::of(&request, route);
    let method = request.method().clone();
    let mut next = Some(request);
    let mut tried: smallvec::SmallVec<[u64; 4]> = smallvec::SmallVec::new();
    route.service.note_request();
    // Reading the clock costs as much as a header: the first try began when the request did.
    let mut now = exchange.began();
    loop {
        // The caller's own request while it is at hand, else the copy of one without a body.
        let Some(request) = next.take().or_else(|| replay.as_ref().map(Replay::request)) else {
            return Err(Refusal::new(Reason::InternalBug, "a retry without a request"));
        };
        let ask = Ask { tried: &tried, now, entropy: fastrand::u64(..), key: None };
        let lease = route.service.lease(&ask)?;
        tried.push(lease.endpoint().number());
        exchange.tries(lease.endpoint());
        let trying = Trying { lease: Some(lease), flow: &route.flow, deadline };
        let failed = match pool.send(trying.endpoint(), request, want).await {
            Ok(sent) => {
                note_answer(route, &trying, &sent, exchange);
                let again = replay.is_some() && route.retry.allows(RESET, &method, tries(&tried));
                let patience = if again { Patience::of(&sent.response, route) } else { Patience::None };
                match gather(sent.response, patience).await {
                    Ok(Gathered::Whole(response)) => {
                        trying.ended(TryOutcome::Answered);
                        return Ok(Answer::Whole(response));
                    }
                    Ok(Gathered::Begun(response)) => {
                        return Ok(Answer::Streaming(response, trying.ended(TryOutcome::Answered)));
                    }
                    Err(error) => Failed { error, request: None, reused: false },
                }
            }
            Err(failed) => failed,
        };
        let judged = judge(&failed, exchange);
        let lease = trying.ended(judged.outcome);
        note_failure(route, &lease, &failed.error);
        drop(lease);
        let refusal = Refusal::new(judged.reason, failed.error.to_string());
        let at_hand = failed.request.is_some() || replay.is_some();
        if !may_try_again(route, judged.failure, &method, tries(&tried), at_hand) {
            return Err(refusal);
        }
        exchange.note(&refusal.detail);
        next = failed.request;
        pause(tries(&tried), route).await;
        now = Instant::now();
    }
}

fn tries(tried: &[u64]) -> u32 {
    u32::try_from(tried.len()).unwrap_or(u32::MAX)
}

/// The head of an answer came: what its endpoint and its exchange learn of it.
fn note_answer(route: &Route, trying: &Trying<'_>, sent: &Sent, exchange: &mut Exchange) {
    let now = Instant::now();
    exchange.answered(sent.response.status(), now);
    if trying.lease().answered(sent.at, now, true).is_some() {
        tracing::info!(service = %route.service.name(), endpoint = %trying.endpoint().listing.address, "endpoint reachable again");
    }
}

const RESET: Failure = Failure::Reset { reused: true };

/// Whether another try is allowed, said in `outrigger_retries_total` either way.
fn may_try_again(route: &Route, failure: Failure, method: &Method, tries: u32, at_hand: bool) -> bool {
    if !route.retry.allows(failure, method, tries) {
        return false;
    }
    let outcome = if !at_hand {
        RetryOutcome::NotReplayable
    } else if !route.service.may_retry(Instant::now()) {
        RetryOutcome::OverBudget
    } else {
        RetryOutcome::Done
    };
    route.flow.retry(outcome);
    outcome == RetryOutcome::Done
}

/// The first retry goes to another endpoint at once; later ones, or those that can only meet the same one, wait a little
/// at random, so that callers do not come back in step.
async fn pause(tries: u32, route: &Route) {
    if (tries as usize) < route.service.endpoints().all().len() {
        return;
    }
    let ceiling = BACKOFF.saturating_mul(1 << tries.min(4)).min(LONGEST_BACKOFF);
    tokio::time::sleep(ceiling.mul_f64(fastrand::f64())).await;
}

const BACKOFF: Duration = Duration::from_millis(12);
const LONGEST_BACKOFF: Duration = Duration::from_millis(250);

struct Judged {
    outcome: TryOutcome,
    failure: Failure,
    reason: Reason,
}

/// What a failed try means: for the metric, for trying again, for the caller.
fn judge(failed: &Failed, exchange: &Exchange) -> Judged {
    let judged = |outcome, failure, reason| Judged { outcome, failure, reason };
    match &failed.error {
        AttemptError::Connect { .. } | AttemptError::NoIdentity => {
            judged(TryOutcome::ConnectFailed, Failure::Unsent, Reason::ConnectFailed)
        }
        AttemptError::WrongPeer { .. } | AttemptError::BadPeer { .. } => {
            judged(TryOutcome::WrongPeer, Failure::Unsent, Reason::WrongPeer)
        }
        AttemptError::Unsent(_) => judged(TryOutcome::Unsent, Failure::Unsent, Reason::UpstreamReset),
        AttemptError::Reset(_) => match exchange.upload_fate() {
            BodyFate::Fine => {
                judged(TryOutcome::Reset, Failure::Reset { reused: failed.reused }, Reason::UpstreamReset)
            }
            fate => judged(TryOutcome::Cancelled, Failure::Final, body_reason(fate)),
        },
        AttemptError::BadRequest(_) => judged(TryOutcome::Cancelled, Failure::Final, Reason::BadRequest),
        AttemptError::BadResponse(_) => judged(TryOutcome::BadResponse, Failure::Final, Reason::BadResponse),
        AttemptError::RequestBody(_) => {
            judged(TryOutcome::Cancelled, Failure::Final, body_reason(exchange.upload_fate()))
        }
    }
}

fn body_reason(fate: BodyFate) -> Reason {
    match fate {
        BodyFate::Stalled => Reason::RequestTimeout,
        BodyFate::Broken => Reason::ClientGone,
        // The body was fine as far as it came, yet it was refused as malformed.
        BodyFate::Fine => Reason::BadRequest,
    }
}

/// What the service learns of a failure, and what the log says once.
fn note_failure(route: &Route, lease: &Lease, error: &AttemptError) {
    let now = Instant::now();
    match error {
        AttemptError::Connect { .. } | AttemptError::WrongPeer { .. } | AttemptError::BadPeer { .. } => {
            if lease.unreachable(now).is_some() {
                tracing::warn!(service = %route.service.name(), endpoint = %lease.endpoint().listing.address, cause = %error, "endpoint left out for a while");
            }
        }
        AttemptError::Reset(_) | AttemptError::BadResponse(_) => {
            lease.broke(RESET_PENALTY, now);
        }
        AttemptError::NoIdentity
        | AttemptError::Unsent(_)
        | AttemptError::RequestBody(_)
        | AttemptError::BadRequest(_) => {}
    }
}

/// A reset counts as an answer this slow, so that others are preferred for a while.
const RESET_PENALTY: Duration = Duration::from_millis(250);

/// One try under way. Dropped before it ended, it was cut by the deadline or left by the caller; either way the time that
/// it took is known of its endpoint.
struct Trying<'a> {
    lease: Option<Lease>,
    flow: &'a Arc<Flow>,
    deadline: Option<Instant>,
}

impl Trying<'_> {
    fn lease(&self) -> &Lease {
        self.lease.as_ref().expect("a lease is held until `ended`, which takes self")
    }

    fn endpoint(&self) -> &Arc<Endpoint> {
        self.lease().endpoint()
    }

    fn ended(mut self, outcome: TryOutcome) -> Lease {
        self.flow.attempt(outcome);
        self.lease.take().expect("a lease is held until `ended`, which takes self")
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let now = Instant::now();
        let late = self.deadline.is_some_and(|deadline| now >= deadline);
        self.flow.attempt(if late { TryOutcome::TimedOut } else { TryOutcome::Cancelled });
        lease.unanswered(now);
    }
}

/// What is needed to send a request without a body again.
struct Replay {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Replay {
    fn of(request: &Request<RequestBody>, route: &Route) -> Option<Self> {
        if route.retry.attempts == 0 || !matches!(request.body(), RequestBody::Empty) {
            return None;
        }
        let (method, uri, headers) = (request.method().clone(), request.uri().clone(), request.headers().clone());
        Some(Self { method, uri, headers })
    }

    fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}
