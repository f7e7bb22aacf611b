//! A request from our app: which upstream it names, what it may carry out, and the endpoint's answer.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response, Uri, header};
use hyper::body::Incoming;

use super::answer::{Dialect, answer, answer_bytes};
use super::body::ResponseBody;
use super::exchange::Exchange;
use super::tries::Answer;
use super::{Refusal, headers, tries};
use crate::listen::{Accept, Connection};
use crate::names::ServiceName;
use crate::published::Published;
use crate::reason::Reason;
use crate::route::{Route, RouteTable};
use crate::telemetry::{AccessLog, Flow, trace};
use crate::upstream::{BodyLimits, BodyWatch, Pool, RequestBody};

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
        match self.forward(connection, Request::from_parts(head, body), &mut exchange).await {
            Ok((answer, route)) => finish(answer, &route, exchange),
            Err(refusal) => refuse(&refusal, dialect, exchange),
        }
    }

    async fn forward(
        &self,
        connection: &Connection,
        request: Request<Incoming>,
        exchange: &mut Exchange,
    ) -> Result<(Answer, Arc<Route>), Refusal> {
        headers::check(&request)?;
        let route = self.route(&request)?;
        exchange.belongs_to(&route.flow);
        let key = route
            .hash_on
            .as_ref()
            .and_then(|on| on.key(request.headers(), request.uri(), connection.peer.address.ip()));
        let request = outgoing(request, &route, exchange)?;
        let answer = tries::send(&self.pool, &route, request, key, exchange).await?;
        Ok((answer, route))
    }

    fn route(&self, request: &Request<Incoming>) -> Result<Arc<Route>, Refusal> {
        let routes = self.shared.routes.peek();
        if let Some(name) = &self.fixed {
            routes.by_name(name.as_str()).cloned().ok_or_else(|| {
                Refusal::new(Reason::UnknownService, "the upstream of this listener was removed by a reload")
            })
        } else {
            let host = headers::host_of(request);
            let found = routes.by_host(host).cloned();
            found.map_err(|reason| Refusal::new(reason, format!("host {host:?}")))
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
    head.headers.insert(header::HOST, route.host.clone());
    let mut request = Request::new(request_body(body, route, exchange));
    *request.method_mut() = head.method;
    *request.uri_mut() = origin_form(head.uri)?;
    *request.headers_mut() = head.headers;
    Ok(request)
}

/// The path alone (RFC 9112 §3.2.1); whom it is for stands in Host. HTTP/2 connections add the rest.
pub(super) fn origin_form(uri: Uri) -> Result<Uri, Refusal> {
    if uri.authority().is_none() && uri.scheme().is_none() {
        return Ok(uri);
    }
    let path = uri.into_parts().path_and_query.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
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
pub(super) fn finish(answer: Answer, route: &Route, exchange: Exchange) -> Response<ResponseBody> {
    let (mut head, body) = match answer {
        Answer::Whole(response) => {
            let (head, body) = response.into_parts();
            (head, ResponseBody::whole(body, exchange))
        }
        Answer::Streaming(response, lease) => {
            let (head, body) = response.into_parts();
            (head, ResponseBody::upstream(body, lease, route.idle_timeout, exchange))
        }
    };
    headers::strip_hop_by_hop(&mut head.headers);
    // The version is that of the caller's connection, which hyper knows.
    let mut response = Response::new(body);
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
    fn the_path_and_query_are_what_is_sent_on() {
        for (given, wanted) in [
            ("/a?b=c", "/a?b=c"),
            ("http://orders.mesh:80/a", "/a"),
            ("http://orders.mesh", "/"),
            ("http://orders.mesh?b=c", "/?b=c"),
            ("*", "*"),
        ] {
            assert_eq!(origin_form(given.parse().unwrap()).ok().unwrap().to_string(), wanted);
        }
    }
}
