//! A request's tries: an endpoint each, until one answers, or nothing that is safe is left.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response, StatusCode};
use smallvec::SmallVec;
use tokio::time::Sleep;

use super::Refusal;
use super::allowance::Allowance;
use super::exchange::Exchange;
use super::gather::{Begun, Gathered, Patience, Whole, gather};
use super::hedge;
use super::replay::{ATTEMPT, Replay, attempt_of, attempt_value};
use super::verdict::{PENALTY, Taken, judge, note_failure, note_transition, retry_after, take};
use crate::clock;
use crate::listen::PULSE;
use crate::reason::Reason;
use crate::route::{Failure, Route};
use crate::service::{Ask, Endpoint, Lease};
use crate::telemetry::{RetryOutcome, TryOutcome};
use crate::upstream::{BodyFate, Failed, Pool, RequestBody, Sent, Want};

/// An answer with what is left of it to come.
pub(super) enum Answer {
    /// A short body that has come whole, so that an endpoint that dies half way costs another try and not the answer.
    Whole(Response<Whole>),
    Streaming(Response<Begun>, Lease),
}

/// Sends `request` until an endpoint answers, within the route's timeout. `key` is what a hashing balancer goes by.
///
/// # Errors
/// The reason for the caller, with the last cause for the log.
pub(super) fn send<'a>(
    pool: &'a Pool,
    route: &'a Route,
    request: Request<RequestBody>,
    key: Option<u64>,
    exchange: &'a mut Exchange,
) -> impl Future<Output = Result<Answer, Refusal>> + Send + use<'a> {
    let mut next = Some(request);
    async move {
        let (began, mut now) = (exchange.began(), exchange.now());
        exchange.admit(&route.service)?;
        let Some(request) = &mut next else { return Err(without_a_request()) };
        // Where no other try could follow, cutting the one there is would only lose its answer.
        let again = route.retry.allows(Failure::Status(StatusCode::GATEWAY_TIMEOUT), request.method(), 1);
        let per_try = route.retry.per_try_timeout.filter(|_| again);
        let allowance = Allowance::new(route.timeout, per_try, request.headers(), began);
        if allowance.is_over(now) {
            return Err(Refusal::new(Reason::Deadline, "nothing was left of the caller's own time"));
        }
        route.service.note_request();
        let mut tries = Tries {
            pool,
            route,
            allowance: &allowance,
            key,
            method: request.method().clone(),
            caller: attempt_of(request.headers()),
            replay: Replay::of(request, route),
            tried: SmallVec::new(),
        };
        let limit = allowance.limit(now);
        let far = limit.is_some_and(|limit| limit.saturating_duration_since(now) > 2 * PULSE);
        let sleep = pin!(limit.map(|at| tokio::time::sleep_until(at.into())));
        let mut alarm = Alarm { sleep, put_off: far && exchange.has_pulse() };
        loop {
            let Some(request) = next.take().or_else(|| tries.replay.as_ref().and_then(Replay::request)) else {
                return Err(without_a_request());
            };
            let tried = {
                let first = pin!(tries.begin(request, now, exchange)?);
                if tries.hedges() {
                    // Boxed: hedging is rare, and every request's future would carry its space about.
                    alarm.within(Box::pin(hedge::race(&mut tries, first, exchange))).await
                } else {
                    alarm.within(first).await
                }
            };
            let ended = match tried {
                Some((trying, Ok(got))) => tries.take(trying, got, exchange),
                Some((trying, Err(failed))) => tries.fail(trying, failed, exchange),
                None => tries.late(exchange),
            };
            let after = match ended {
                Ended::Answer(answer) => return Ok(answer),
                Ended::Final(refusal) => return Err(refusal),
                Ended::Again { request, after } => {
                    next = request;
                    after
                }
            };
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            now = clock::now();
            alarm.set(allowance.limit(now));
        }
    }
}

fn without_a_request() -> Refusal {
    Refusal::new(Reason::InternalBug, "a try without a request")
}

/// The request on its way: what was tried, what may be tried yet.
pub(super) struct Tries<'a> {
    pool: &'a Pool,
    route: &'a Route,
    allowance: &'a Allowance,
    key: Option<u64>,
    method: Method,
    /// The number of the caller's own try.
    caller: u32,
    replay: Option<Replay>,
    tried: SmallVec<[u64; 4]>,
}

/// How a try ended, with its endpoint's lease.
pub(super) type Tried<'a> = (Trying<'a>, Result<Got, Failed>);

/// An answer as far as it was waited for.
pub(super) struct Got {
    pub gathered: Gathered,
    pub taken: Taken,
    /// When its head came.
    at: Instant,
}

enum Ended {
    Answer(Answer),
    Final(Refusal),
    /// Another try, after a pause; with the request where it came back.
    Again {
        request: Option<Request<RequestBody>>,
        after: Duration,
    },
}

impl<'a> Tries<'a> {
    /// Chooses an endpoint and begins a try at it.
    fn begin(
        &mut self,
        mut request: Request<RequestBody>,
        now: Instant,
        exchange: &mut Exchange,
    ) -> Result<impl Future<Output = Tried<'a>> + use<'a>, Refusal> {
        let route = self.route;
        let ask = Ask { tried: &self.tried, now, entropy: fastrand::u64(..), key: self.key };
        let lease = route.service.lease(&ask)?;
        note_transition(route, &lease, lease.began(), &"");
        self.tried.push(lease.endpoint().number());
        exchange.tries(lease.endpoint());
        self.tell(request.headers_mut(), now);
        let again = self.replay.is_some() && route.retry.allows(RESET, &self.method, self.tries());
        let trying = Trying { lease: Some(lease), route, allowance: self.allowance, limit: self.allowance.limit(now) };
        Ok(attempt(self.pool, trying, request, again, now))
    }

    /// A try beside the one under way, where the request allows it and the budget is not used up.
    pub(super) fn begin_beside(
        &mut self,
        exchange: &mut Exchange,
    ) -> Option<impl Future<Output = Tried<'a>> + use<'a>> {
        let now = clock::now();
        let request = self.replay.as_ref().filter(|replay| replay.is_complete())?.copy()?;
        if self.tries() > self.route.retry.attempts
            || self.tries() as usize >= self.route.service.endpoints().all().len()
        {
            return None;
        }
        if !self.route.service.may_retry(now) {
            self.route.flow.retry(RetryOutcome::OverBudget);
            return None;
        }
        self.route.flow.retry(RetryOutcome::Done);
        self.begin(request, now, exchange).ok()
    }

    /// What the next hop is told of the tries and of the time left.
    fn tell(&self, headers: &mut HeaderMap, now: Instant) {
        if self.route.counts_attempts {
            headers.insert(ATTEMPT, attempt_value(self.caller.saturating_sub(1) + self.tries()));
        }
        self.allowance.tell(headers, now);
    }

    /// Whether a second try may go out while the first is slow.
    fn hedges(&self) -> bool {
        self.route.hedge.is_some() && self.tried.len() == 1 && self.replay.is_some() && self.method.is_idempotent()
    }

    pub(super) fn route(&self) -> &'a Route {
        self.route
    }

    fn tries(&self) -> u32 {
        u32::try_from(self.tried.len()).unwrap_or(u32::MAX)
    }

    /// An answer came: it is the one, or another endpoint may have a better.
    fn take(&self, trying: Trying<'_>, got: Got, exchange: &mut Exchange) -> Ended {
        let Got { gathered, taken, at } = got;
        exchange.answered(gathered.status(), at);
        let lease = trying.ended(TryOutcome::Answered);
        let asked = if taken.status.is_server_error() || taken.shed { retry_after(&gathered) } else { None };
        match self.again(Failure::Status(taken.status), asked, None) {
            Some(again) => {
                exchange.note(&format!("{} of {}", gathered.status(), lease.endpoint().listing.address));
                again
            }
            None => Ended::Answer(match gathered {
                Gathered::Whole(response) => Answer::Whole(response),
                Gathered::Begun(response) => Answer::Streaming(response, lease),
            }),
        }
    }

    /// The other try goes on; this one is not the answer.
    pub(super) fn settle(&self, (trying, result): Tried<'_>, exchange: &mut Exchange) {
        match result {
            Ok(got) => {
                let lease = trying.ended(TryOutcome::Answered);
                exchange.note(&format!("{} of {}", got.gathered.status(), lease.endpoint().listing.address));
            }
            Err(failed) => {
                let lease = trying.ended(judge(&failed, exchange).outcome);
                note_failure(self.route, &lease, &failed.error);
                exchange.note(&failed.error.to_string());
            }
        }
    }

    /// No answer came.
    fn fail(&self, trying: Trying<'_>, failed: Failed, exchange: &mut Exchange) -> Ended {
        let judged = judge(&failed, exchange);
        let lease = trying.ended(judged.outcome);
        note_failure(self.route, &lease, &failed.error);
        drop(lease);
        let refusal = Refusal::new(judged.reason, failed.error.to_string());
        match self.again(judged.failure, None, failed.request) {
            Some(again) => {
                exchange.note(&refusal.detail);
                again
            }
            None => Ended::Final(refusal),
        }
    }

    /// The try, or the whole request, took too long.
    fn late(&self, exchange: &mut Exchange) -> Ended {
        match exchange.upload_fate() {
            BodyFate::Fine => {}
            BodyFate::TooLong => return Ended::Final(Reason::BodyTooLarge.into()),
            BodyFate::Malformed => return Ended::Final(Reason::BadRequest.into()),
            BodyFate::Stalled | BodyFate::Broken => {
                return Ended::Final(Refusal::new(Reason::RequestTimeout, "the request body did not arrive"));
            }
        }
        let over = self.allowance.is_over(clock::now());
        let waited = if over { self.allowance.whole() } else { self.route.retry.per_try_timeout };
        let refusal = Refusal::new(Reason::Deadline, format!("no answer within {:?}", waited.unwrap_or_default()));
        // A try that took too long is what another hop would have answered with 504.
        let again = if over { None } else { self.again(Failure::Status(StatusCode::GATEWAY_TIMEOUT), None, None) };
        match again {
            Some(again) => {
                exchange.note(&refusal.detail);
                again
            }
            None => Ended::Final(refusal),
        }
    }

    /// The next try, where the policy allows one, the request is at hand, the time is left, and the budget pays; said in
    /// `outrigger_retries_total` unless the policy forbids it. `asked` is how long the endpoint asked to be left alone.
    fn again(&self, failure: Failure, asked: Option<Duration>, request: Option<Request<RequestBody>>) -> Option<Ended> {
        // A caller that is itself trying again has a policy of its own: theirs and ours must not multiply.
        if !self.route.retry.allows(failure, &self.method, self.tries())
            || (self.caller > 1 && failure != Failure::Unsent)
        {
            return None;
        }
        if request.is_none() && !self.replay.as_ref().is_some_and(Replay::is_at_hand) {
            self.route.flow.retry(RetryOutcome::NotReplayable);
            return None;
        }
        let others = (self.tries() as usize) < self.route.service.endpoints().all().len();
        let after = match asked {
            // Only that endpoint asked for it.
            Some(asked) if !others => asked,
            _ if others && failure == Failure::Unsent => Duration::ZERO,
            _ => self.route.retry.backoff.pause(self.tries(), fastrand::f64()),
        };
        let now = clock::now();
        if self.allowance.is_over(now + after) {
            return None;
        }
        if !self.route.service.may_retry(now) {
            self.route.flow.retry(RetryOutcome::OverBudget);
            return None;
        }
        self.route.flow.retry(RetryOutcome::Done);
        Some(Ended::Again { request, after })
    }
}

const RESET: Failure = Failure::Reset { reused: true };

/// One try: sent, its answer's head awaited, and a short answer to its end where `again` says that another try could
/// follow.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, in the future of every request")]
fn attempt<'a>(
    pool: &'a Pool,
    trying: Trying<'a>,
    request: Request<RequestBody>,
    again: bool,
    now: Instant,
) -> impl Future<Output = Tried<'a>> + Send + use<'a> {
    async move {
        let route = trying.route;
        let want = Want {
            http2: route.http2,
            authority: route.authority.as_ref(),
            connect_timeout: route.connect_timeout,
            limit: route.service.connections(),
        };
        let sent = match pool.send(trying.endpoint(), request, want, now).await {
            Ok(sent) => sent,
            Err(failed) => return (trying, Err(failed)),
        };
        let (at, taken) = trying.answered(&sent);
        let patience = if again { Patience::of(&sent.response, route) } else { Patience::None };
        match gather(sent.response, patience).await {
            Ok(gathered) => (trying, Ok(Got { gathered, taken, at })),
            Err(error) => (trying, Err(Failed { error, request: None, reused: false })),
        }
    }
}

/// One try under way. Dropped before it ended, it was cut by its limit or left by the caller; either way the time that
/// it took is known of its endpoint.
pub(super) struct Trying<'a> {
    lease: Option<Lease>,
    route: &'a Route,
    allowance: &'a Allowance,
    limit: Option<Instant>,
}

impl Trying<'_> {
    fn lease(&self) -> &Lease {
        self.lease.as_ref().expect("a lease is held until `ended`, which takes self")
    }

    fn endpoint(&self) -> &Arc<Endpoint> {
        self.lease().endpoint()
    }

    /// The head of an answer came: what its endpoint learns of it.
    fn answered(&self, sent: &Sent) -> (Instant, Taken) {
        let now = clock::now();
        let (head, bodiless) = (&sent.response, hyper::body::Body::is_end_stream(sent.response.body()));
        let taken = take(head.status(), head.headers(), bodiless);
        let good = taken.shed || !self.route.failures.contains(taken.status);
        let transition = self.lease().answered(sent.at, now, good);
        if taken.shed || !good {
            self.lease().disappointed(PENALTY, now);
        }
        note_transition(self.route, self.lease(), transition, &taken.status);
        if let Some(hedge) = &self.route.hedge {
            hedge.observe(now.saturating_duration_since(sent.at));
        }
        (now, taken)
    }

    pub(super) fn ended(mut self, outcome: TryOutcome) -> Lease {
        self.route.flow.attempt(outcome);
        self.lease.take().expect("a lease is held until `ended`, which takes self")
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let now = clock::now();
        if self.limit.is_none_or(|limit| now < limit) {
            self.route.flow.attempt(TryOutcome::Cancelled);
            lease.unanswered(now);
            return;
        }
        self.route.flow.attempt(TryOutcome::TimedOut);
        if self.allowance.blames(now) {
            let transition = lease.timed_out(now);
            note_transition(self.route, &lease, transition, &"no answer in time");
        } else {
            lease.unanswered(now);
        }
    }
}

/// The one timer of a request: set to the end of its try, or of its time.
struct Alarm<'a> {
    sleep: Pin<&'a mut Option<Sleep>>,
    /// The first poll need not arm it: there will be another, long before it is due. Most answers come before that.
    put_off: bool,
}

impl Alarm<'_> {
    /// What `future` gives, or `None` when the alarm comes first. The future stays where it was made: moving it costs more
    /// than the timer.
    async fn within<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            match self.sleep.as_mut().as_pin_mut() {
                Some(_) if std::mem::take(&mut self.put_off) => Poll::Pending,
                Some(sleep) => sleep.poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn set(&mut self, at: Option<Instant>) {
        // What is left may be less than the connection's pace.
        self.put_off = false;
        if let (Some(sleep), Some(at)) = (self.sleep.as_mut().as_pin_mut(), at) {
            sleep.reset(at.into());
        }
    }
}
