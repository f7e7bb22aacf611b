//! Copies of requests for a shadow: sent and forgotten. Nothing of the caller's exchange waits for them or is counted
//! with them.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, header, request};
use http_body_util::BodyExt;

use super::exchange::Exchange;
use super::outbound::finish;
use super::tries;
use crate::lifecycle::Lifecycle;
use crate::listen::Connection;
use crate::route::{Mirror, Route, Slot};
use crate::telemetry::trace::TraceContext;
use crate::upstream::{Pool, RequestBody};

/// Tells the shadow that nobody waits for its answer.
pub(super) const MIRRORED: HeaderName = HeaderName::from_static("x-outrigger-mirror");

/// Sends a copy of `request`, as it is about to leave, by the mirror's share. None is made of a request with a body, as its
/// bytes are read once, nor beyond the bound on copies under way.
pub(super) fn send(
    mirror: &Mirror,
    (pool, mirrors): (&Pool, &Lifecycle),
    request: &Request<RequestBody>,
    (connection, request_id): (&Arc<Connection>, &HeaderValue),
) {
    if !mirror.share.has(fastrand::u32(..)) || !matches!(request.body(), RequestBody::Empty) {
        return;
    }
    let Some(slot) = mirror.slots.take() else { return };
    let head = copied(request, &mirror.route);
    let ids = (request_id.clone(), TraceContext::new());
    let exchange = Exchange::begin(mirror.route.flow.clone(), connection, None, &head, ids);
    let copy = Copy { pool: pool.clone(), route: mirror.route.clone(), exchange, _slot: slot };
    let request = Request::from_parts(head, RequestBody::Empty);
    let limit = mirror.limit;
    mirrors.spawn("mirror", async move {
        // Cut by the limit, the exchange counts as left.
        let _ = tokio::time::timeout(limit, Box::pin(copy.run(request))).await;
    });
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
