//! Copies of requests for a shadow: sent and forgotten. Nothing of the caller's exchange waits for them or is counted
//! with them.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, header, request};
use http_body_util::BodyExt;

use super::exchange::{Exchange, Start};
use super::outbound::finish;
use super::tries;
use crate::lifecycle::Lifecycle;
use crate::listen::Connection;
use crate::route::{Mirror, Route, Slot};
use crate::upstream::{Pool, Recording, RequestBody};

/// Tells the shadow that nobody waits for its answer.
pub(super) const MIRRORED: HeaderName = HeaderName::from_static("x-outrigger-mirror");

/// A request's copy, not yet sent.
pub(super) struct Planned<'a> {
    mirror: &'a Mirror,
    head: request::Parts,
    /// `None`: it has no body.
    body: Option<Arc<Recording>>,
    slot: Slot,
}

/// Makes a copy of `request`, as it is about to leave, by the mirror's share. None is made of a request whose body is
/// announced as longer than `limit` bytes, nor beyond the bound on copies under way.
pub(super) fn plan<'a>(mirror: &'a Mirror, request: &mut Request<RequestBody>, limit: usize) -> Option<Planned<'a>> {
    if !mirror.share.has(fastrand::u32(..)) {
        return None;
    }
    let body = match request.body_mut() {
        RequestBody::Empty => None,
        body => Some(body.record(limit)?),
    };
    let slot = mirror.slots.take()?;
    Some(Planned { mirror, head: copied(request, &mirror.route), body, slot })
}

impl Planned<'_> {
    /// Whether all of the request is at hand. A body comes while the request itself is sent: the copy then follows it, so
    /// that a slow shadow never holds the caller's bytes back.
    pub(super) fn is_whole(&self) -> bool {
        self.body.is_none()
    }

    /// Sends the copy, unless its body did not come whole or turned out to be too long.
    pub(super) fn send(
        self,
        (pool, mirrors): (&Pool, &Lifecycle),
        (connection, request_id): (&Arc<Connection>, &HeaderValue),
    ) {
        let body = match &self.body {
            None => RequestBody::Empty,
            Some(recording) => match recording.copy() {
                Some(body) => RequestBody::Replayed(body),
                None => return,
            },
        };
        let Self { mirror, head, slot, .. } = self;
        let start = Start { request_id: request_id.clone(), ..Start::new() };
        let exchange = Exchange::begin(mirror.route.flow.clone(), connection, None, &head, start);
        let copy = Copy { pool: pool.clone(), route: mirror.route.clone(), exchange, _slot: slot };
        let request = Request::from_parts(head, body);
        let limit = mirror.limit;
        mirrors.spawn("mirror", async move {
            // Cut by the limit, the exchange counts as left.
            let _ = tokio::time::timeout(limit, Box::pin(copy.run(request))).await;
        });
    }
}

fn copied(request: &Request<RequestBody>, route: &Route) -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.headers = request.headers().clone();
    if route.authority.is_some() {
        head.headers.insert(header::HOST, route.host.clone());
    }
    head.headers.insert(MIRRORED, HeaderValue::from_static("1"));
    head
}

struct Copy {
    pool: Pool,
    route: Arc<Route>,
    exchange: Exchange,
    _slot: Slot,
}

impl Copy {
    async fn run(mut self, request: Request<RequestBody>) {
        match tries::send(&self.pool, &self.route, request, None, &mut self.exchange).await {
            Ok(answer) => {
                let mut body = finish(answer, self.route.idle_timeout, self.exchange).into_body();
                let mut left = MOST_DRAINED;
                // Read to its end, so that the connection can be used again; a longer one is not worth that.
                while let Some(Ok(frame)) = body.frame().await {
                    let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
                    let Some(rest) = left.checked_sub(bytes) else { return };
                    left = rest;
                }
            }
            Err(refusal) => {
                self.exchange.refused(&refusal);
                self.exchange.finish();
            }
        }
    }
}

/// Bytes of an answer that are read and dropped.
const MOST_DRAINED: usize = 1 << 20;
