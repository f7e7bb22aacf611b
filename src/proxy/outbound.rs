//! A request from our app: which upstream it names, what it may carry out, and the endpoint's answer.

use std::convert::Infallible;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;

use super::answer::{Dialect, answer, answer_bytes};
use super::body::ResponseBody;
use super::exchange::Exchange;
use super::{Refusal, headers, tries};
use crate::listen::{Accept, Connection};
use crate::names::ServiceName;
use crate::published::Published;
use crate::reason::Reason;
use crate::route::{Route, RouteTable};
use crate::telemetry::{AccessLog, Flow, trace};
use crate::upstream::{BodyLimits, BodyWatch, Pool, RequestBody, Tethered};

/// What all outbound listeners and workers share.
pub struct OutboundShared {
    pub routes: Published<RouteTable>,
    /// Counts what names no upstream.
    pub unrouted: Arc<Flow>,
    pub access_log: Arc<Published<Option<AccessLog>>>,
}

/// Outbound on one worker, for one listener.
pub struct Outbound {
    shared: Arc<OutboundShared>,
    pool: Pool,
    /// The upstream of a listener of its own, whatever Host says; `None` on the shared port.
    fixed: Option<ServiceName>,
}

impl Outbound {
    pub fn new(shared: Arc<OutboundShared>, pool: Pool, fixed: Option<ServiceName>) -> Self {
        Self { shared, pool, fixed }
    }

    async fn handle(&self, connection: &Arc<Connection>, request: Request<Incoming>) -> Response<ResponseBody> {
        let (mut head, body) = request.into_parts();
        let dialect = Dialect::of(&head.headers);
        let log = self.shared.access_log.peek();
        // The record keeps the head as it came; only its ids are settled before.
        let ids = headers::identify(&mut head.headers);
        let mut exchange = Exchange::begin(self.shared.unrouted.clone(), connection, log.as_ref().as_ref(), &head, ids);
        drop(log);
        match self.forward(Request::from_parts(head, body), &mut exchange).await {
            Ok((response, lease, route)) => finish(response, lease, &route, exchange),
            Err(refusal) => refuse(&refusal, dialect, exchange),
        }
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        exchange: &mut Exchange,
    ) -> Result<(Response<Tethered>, crate::service::Lease, Arc<Route>), Refusal> {
        headers::check(&request)?;
        let route = self.route(&request)?;
        exchange.belongs_to(&route.flow);
        let request = outgoing(request, &route, exchange)?;
        let (response, lease) = tries::send(&self.pool, &route, request, exchange).await?;
        Ok((response, lease, route))
    }

    fn route(&self, request: &Request<Incoming>) -> Result<Arc<Route>, Refusal> {
        let routes = self.shared.routes.peek();
        match &self.fixed {
            Some(name) => routes.by_name(name.as_str()).cloned().ok_or_else(|| {
                Refusal::new(Reason::UnknownService, "the upstream of this listener was removed by a reload")
            }),
            None => {
                let host = headers::host_of(request);
                let found = routes.by_host(host).cloned();
                found.map_err(|reason| Refusal::new(reason, format!("host {host:?}")))
            }
        }
    }
}

/// The request as it leaves: hop-by-hop and forwarding headers gone, the service's name as its authority.
fn outgoing(
    request: Request<Incoming>,
    route: &Route,
    exchange: &mut Exchange,
) -> Result<Request<RequestBody>, Refusal> {
    let (mut head, body) = request.into_parts();
    headers::strip_request(&mut head.headers);
    headers::strip_forwarded(&mut head.headers);
    let authority = route.authority.clone();
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::InternalBug)?;
    head.headers.insert(header::HOST, host);
    head.uri = target(&head.uri, authority)?;
    let body = request_body(body, route, exchange);
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.headers_mut() = head.headers;
    Ok(request)
}

/// `uri` with scheme and authority, as HTTP/2 wants it; HTTP/1.1 connections take the path alone.
pub(super) fn target(uri: &Uri, authority: http::uri::Authority) -> Result<Uri, Refusal> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query =
        Some(uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")));
    Uri::from_parts(parts).map_err(|error| Refusal::new(Reason::BadRequest, error.to_string()))
}

pub(super) fn request_body(body: Incoming, route: &Route, exchange: &mut Exchange) -> RequestBody {
    if hyper::body::Body::is_end_stream(&body) {
        return RequestBody::Empty;
    }
    let watch = Arc::new(BodyWatch::default());
    exchange.uploads(watch.clone());
    let limits = BodyLimits { before_answer: route.body_idle, after_answer: route.idle_timeout };
    RequestBody::streaming(body, limits, watch)
}

/// The endpoint's answer on its way to the caller.
pub(super) fn finish(
    response: Response<Tethered>,
    lease: crate::service::Lease,
    route: &Route,
    exchange: Exchange,
) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut head.headers);
    // The version is that of the caller's connection, which hyper knows.
    let mut response = Response::new(ResponseBody::upstream(body, lease, route.idle_timeout, exchange));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// Our own answer.
pub(super) fn refuse(refusal: &Refusal, dialect: Dialect, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.refused(refusal);
    if refusal.reason == Reason::InternalBug {
        tracing::error!(detail = refusal.detail, "internal bug; please report this");
    }
    let response = answer(refusal.reason, &exchange.request_id, dialect);
    response.map(|body| ResponseBody::own(body, exchange))
}

/// Counts and logs what never became a request, and gives the answer's bytes.
pub(super) fn refuse_early(
    flow: &Arc<Flow>,
    access_log: &Published<Option<AccessLog>>,
    connection: &Connection,
    refusal: &Refusal,
) -> Vec<u8> {
    let (mut head, ()) = Request::new(()).into_parts();
    // Nothing of the head can be trusted: the line says so by empty fields.
    head.method = http::Method::from_bytes(b"-").unwrap_or_default();
    head.uri = Uri::from_static("/");
    let ids = (trace::new_request_id(), trace::TraceContext::new());
    let log = access_log.peek();
    let connection = Arc::new(connection.snapshot());
    let mut exchange = Exchange::begin(flow.clone(), &connection, log.as_ref().as_ref(), &head, ids);
    exchange.refused(refusal);
    let bytes = answer_bytes(refusal.reason, &exchange.request_id);
    exchange.finish();
    bytes
}

impl Accept for Outbound {
    type Body = ResponseBody;

    fn service(
        self: Arc<Self>,
        connection: Arc<Connection>,
    ) -> impl tower::Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static {
        let outbound = self;
        tower::service_fn(move |request| {
            let (outbound, connection) = (outbound.clone(), connection.clone());
            async move { Ok(outbound.handle(&connection, request).await) }
        })
    }

    fn refuse(&self, connection: &Connection, reason: Reason, detail: &str) -> Vec<u8> {
        let refusal = Refusal::new(reason, detail);
        refuse_early(&self.shared.unrouted, &self.shared.access_log, connection, &refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_keep_path_and_query() {
        let authority = http::uri::Authority::from_static("orders");
        for (given, wanted) in [
            ("/a?b=c", "http://orders/a?b=c"),
            ("http://orders.mesh:80/a", "http://orders/a"),
            ("http://orders.mesh", "http://orders/"),
        ] {
            let uri: Uri = given.parse().unwrap();
            assert_eq!(target(&uri, authority.clone()).unwrap_or_default().to_string(), wanted);
        }
    }
}
