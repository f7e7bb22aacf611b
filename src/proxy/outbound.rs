//! A request from our app: which upstream it names, what it may carry out, and the endpoint's answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri, Version, header, request};
use hyper::body::Incoming;

use super::answer::{Dialect, answer, answer_bytes, reworded};
use super::body::ResponseBody;
use super::exchange::{Exchange, Start};
use super::passage::{self, Ended, Passage};
use super::tries::Answer;
use super::upgrade::{self, Place, Wish};
use super::{Refusal, headers, mirror, tcp, tries};
use crate::clock;
use crate::filter::Wording;
use crate::lifecycle::Lifecycle;
use crate::listen::{Accept, Connection, Workspaces};
use crate::names::ServiceName;
use crate::published::Published;
use crate::reason::Reason;
use crate::route::{Action, Forward, Route, RouteTable, Rule};
use crate::stream::Stream;
use crate::telemetry::{AccessLog, Flow};
use crate::upstream::{BodyLimits, BodyWatch, Pool, RequestBody};

/// What all outbound listeners and workers share.
pub struct OutboundShared {
    pub routes: Published<RouteTable>,
    /// Counts what names no upstream.
    pub unrouted: Arc<Flow>,
    pub access_log: Arc<Published<Option<AccessLog>>>,
    /// Copies for shadows: cut when the sidecar ends, never waited for.
    pub mirrors: Lifecycle,
}

/// Outbound on one worker, for one listener.
pub struct Outbound {
    shared: Arc<OutboundShared>,
    pool: Pool,
    /// The upstream of a listener of its own, whatever Host says; `None` on the shared port.
    fixed: Option<ServiceName>,
    /// The listener's; tunnels are its tasks.
    lifecycle: Lifecycle,
    workspaces: Workspaces,
}

impl Outbound {
    pub fn new(shared: Arc<OutboundShared>, pool: Pool, fixed: Option<ServiceName>, lifecycle: Lifecycle) -> Self {
        Self { shared, pool, fixed, lifecycle, workspaces: Workspaces::default() }
    }

    async fn handle(
        &self,
        connection: &Arc<Connection>,
        is_us: bool,
        mut request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        // hyper puts something there when the caller wants to leave HTTP; ordinary requests have nothing.
        let wish = if request.extensions().is_empty() { Ok(None) } else { Wish::of(&mut request) };
        let wish = if is_us { Err(Refusal::circle()) } else { headers::granted(wish, &request, true) };
        let (mut head, body) = request.into_parts();
        headers::drop_second_host(&mut head);
        headers::strip_request(&mut head.headers);
        let dialect = Dialect::of(&head.headers);
        // The record keeps the head as it came; only its ids are settled before.
        let start = headers::identify(&mut head.headers, clock::now());
        let (flow, log) = (self.shared.unrouted.clone(), self.shared.access_log.peek());
        let mut exchange = Exchange::begin(flow, connection, log.as_ref().as_ref(), &head, start);
        drop(log);
        exchange.rides_on(connection);
        let mut passage = Passage::default();
        let told = (&mut exchange, &mut passage);
        let response = match wish {
            Ok(None) => match self.forward(connection, (head, body), told).await {
                Ok((answer, route)) => finish(answer, route.idle_timeout, exchange),
                Err(ended) => passage::end(ended, dialect, exchange),
            },
            // Boxed: rare, and every request's future would carry it about.
            Ok(Some(wish)) => {
                let place = Place { pool: &self.pool, lifecycle: &self.lifecycle, connection };
                let request = Request::from_parts(head, body);
                match Box::pin(self.leave_http(place, request, &wish, told)).await {
                    Ok((outcome, route)) => upgrade::answer(outcome, wish, place, &route, exchange),
                    Err(ended) => passage::end(ended, dialect, exchange),
                }
            }
            Err(refusal) => passage::end(refusal.into(), dialect, exchange),
        };
        passage.response(response)
    }

    async fn leave_http(
        &self,
        place: Place<'_>,
        mut request: Request<Incoming>,
        wish: &Wish,
        (exchange, passage): (&mut Exchange, &mut Passage),
    ) -> Result<(upgrade::Outcome, Arc<Route>), Ended> {
        if wish.is_connect() {
            let (head, _) = request.into_parts();
            let route = self.tcp_upstream(&head)?;
            exchange.belongs_to(&route.flow);
            let source = place.connection.peer.address.ip();
            let key = route.hash_on.as_ref().and_then(|on| on.key(&head.headers, &head.uri, source));
            return Ok((upgrade::connect(place, &route, key, exchange).await?, route));
        }
        wish.make_ordinary(&mut request);
        let request = request.into_parts();
        let Outgoing { request, route, key, .. } = self.outgoing(place.connection, request, exchange, passage).await?;
        Ok((upgrade::ask(place, &route, request, key, wish, exchange).await?, route))
    }

    /// Where a CONNECT may lead.
    fn tcp_upstream(&self, head: &request::Parts) -> Result<Arc<Route>, Refusal> {
        let routes = self.shared.routes.peek();
        let found = if self.fixed.is_none() { routes.by_host(headers::host_of(head)).ok() } else { None };
        let detail = "CONNECT leads only to a declared upstream with protocol: tcp, on the shared port";
        let found = found.filter(|route| route.tcp).cloned();
        found.ok_or_else(|| Refusal::new(Reason::BadRequest, detail))
    }

    async fn forward(
        &self,
        connection: &Arc<Connection>,
        request: (request::Parts, Incoming),
        (exchange, passage): (&mut Exchange, &mut Passage),
    ) -> Result<(Answer, Arc<Route>), Ended> {
        let Outgoing { mut request, route, rule, key } = self.outgoing(connection, request, exchange, passage).await?;
        let mirror = rule.as_deref().and_then(Rule::forward).and_then(|forward| forward.mirror.as_ref());
        let carrier = (&self.pool, &self.shared.mirrors);
        let mut copy = mirror.and_then(|mirror| mirror::plan(mirror, &mut request, route.retry.body_limit));
        if let Some(copy) = copy.take_if(|copy| copy.is_whole()) {
            copy.send(carrier, (connection, &exchange.request_id));
        }
        let answer = tries::send(&self.pool, &route, request, key, exchange).await;
        if let Some(copy) = copy {
            copy.send(carrier, (connection, &exchange.request_id));
        }
        Ok((answer?, route))
    }

    /// Decides where a request goes and makes it ready, after its plugins.
    async fn outgoing(
        &self,
        connection: &Connection,
        (mut head, body): (request::Parts, Incoming),
        exchange: &mut Exchange,
        passage: &mut Passage,
    ) -> Result<Outgoing, Ended> {
        headers::count(&head.headers, connection)?;
        headers::join_cookies(&mut head.headers);
        let (route, rule) = match self.way(&mut head, exchange)? {
            Way::Host(route) => (route, None),
            Way::Rule(rule) => match &rule.action {
                Action::Forward(forward) => (target(forward, &head, connection).clone(), Some(rule)),
                Action::Answer(reply, filters) => {
                    passage.request(filters, &mut head, (connection, &[]), exchange, None).await?;
                    return Err(passage::reply(reply, &head.uri));
                }
            },
        };
        if route.tcp {
            let detail = "the upstream has protocol: tcp: it is reached by CONNECT or on its own port";
            return Err(Refusal::new(Reason::BadRequest, detail).into());
        }
        exchange.belongs_to(&route.flow);
        passage.request(&route.filters, &mut head, (connection, &[]), exchange, route.timeout).await?;
        let source = connection.peer.address.ip();
        let key = route.hash_on.as_ref().and_then(|on| on.key(&head.headers, &head.uri, source));
        if let Some((rule, forward)) = rule.as_deref().and_then(|rule| Some((rule, rule.forward()?))) {
            rewrite(rule, forward, &mut head)?;
        }
        let request = leaving(head, body, &route, exchange)?;
        Ok(Outgoing { request, route, rule, key })
    }

    /// Where a request goes. A listener of an upstream's own leads there, whatever the request says; on the shared port the
    /// first rule that matches decides, then Host.
    fn way(&self, head: &mut request::Parts, exchange: &mut Exchange) -> Result<Way, Refusal> {
        let routes = self.shared.routes.peek();
        if let Some(name) = &self.fixed {
            return routes.by_name(name.as_str()).cloned().map(Way::Host).ok_or_else(removed);
        }
        if !routes.rules().is_empty()
            && let Some(rule) = passage::rule_for(routes.rules(), head, exchange)?
        {
            return Ok(Way::Rule(rule.clone()));
        }
        let host = headers::host_of(head);
        let found = routes.by_host(host).cloned().map(Way::Host);
        found.map_err(|reason| Refusal::new(reason, format!("host {host:?}")))
    }
}

/// What decides where a request goes.
enum Way {
    Host(Arc<Route>),
    Rule(Arc<Rule>),
}

/// A request that is ready to leave.
struct Outgoing {
    request: Request<RequestBody>,
    route: Arc<Route>,
    rule: Option<Arc<Rule>>,
    /// What a hashing balancer goes by.
    key: Option<u64>,
}

fn target<'f>(forward: &'f Forward, head: &request::Parts, connection: &Connection) -> &'f Arc<Route> {
    let sticky = forward.targets.sticky.as_ref();
    let key = sticky.and_then(|on| on.key(&head.headers, &head.uri, connection.peer.address.ip()));
    forward.targets.pick(key, fastrand::u64(..))
}

fn rewrite(rule: &Rule, forward: &Forward, head: &mut request::Parts) -> Result<(), Refusal> {
    let Some(rewrite) = &forward.rewrite else { return Ok(()) };
    let target = rewrite.apply(&rule.matcher, &head.uri);
    let target = target.ok_or_else(|| Refusal::new(Reason::BadRequest, "the rewritten path is no path"))?;
    passage::set_target(&mut head.uri, target)
}

fn removed() -> Refusal {
    Refusal::new(Reason::UnknownService, "the upstream of this listener was removed by a reload")
}

/// The request as it leaves: hop-by-hop and forwarding headers gone, the service's name as its authority unless the
/// caller's is to be kept.
fn leaving(
    mut head: request::Parts,
    body: Incoming,
    route: &Route,
    exchange: &mut Exchange,
) -> Result<Request<RequestBody>, Refusal> {
    headers::strip_forwarded(&mut head.headers);
    if route.authority.is_some() {
        head.headers.insert(header::HOST, route.host.clone());
    } else if let Some(authority) = head.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str());
        head.headers.insert(header::HOST, host.map_err(|error| Refusal::new(Reason::BadRequest, error.to_string()))?);
    }
    head.uri = origin_form(head.uri)?;
    // The connection's to say.
    head.version = Version::HTTP_11;
    let body = request_body(body, route, exchange);
    Ok(Request::from_parts(head, body))
}

/// The path alone (RFC 9112 §3.2.1); whom it is for stands in Host. HTTP/2 connections add the rest.
pub(super) fn origin_form(uri: Uri) -> Result<Uri, Refusal> {
    if uri.authority().is_none() && uri.scheme().is_none() {
        return Ok(uri);
    }
    let root = http::uri::PathAndQuery::from_static("/");
    // The path of `http://orders` reads as `/`, but without its authority it would be written as nothing.
    let path = uri.into_parts().path_and_query.filter(|path| path.as_str() != "/").unwrap_or(root);
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
    let most = exchange.body_cap().map(|cap| cap.most);
    let limits = BodyLimits { before_answer: route.body_idle, after_answer: route.idle_timeout, most };
    // What plugins judged was the head: nothing comes after them.
    let trailers = if route.filters.is_empty() { headers::strip_trailers } else { http::HeaderMap::clear };
    RequestBody::streaming(body, limits, trailers, watch)
}

/// The endpoint's answer on its way to the caller.
pub(super) fn finish(answer: Answer, idle: Duration, exchange: Exchange) -> Response<ResponseBody> {
    let (mut head, body) = match answer {
        Answer::Whole(response) => {
            let (head, body) = response.into_parts();
            (head, ResponseBody::whole(body, exchange))
        }
        Answer::Streaming(response, lease) => {
            let (head, body) = response.into_parts();
            (head, ResponseBody::upstream(body, lease, idle, exchange))
        }
    };
    headers::strip_hop_by_hop(&mut head.headers);
    // The version is that of the caller's connection, which hyper knows.
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if !head.extensions.is_empty() {
        *response.extensions_mut() = head.extensions;
    }
    response
}

/// Our own answer, in the reason's words or in a plugin's.
pub(super) fn refuse(
    refusal: &Refusal,
    dialect: Dialect,
    wording: Option<&Wording>,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    exchange.refused(refusal);
    if refusal.reason == Reason::InternalBug {
        tracing::error!(detail = refusal.detail, "internal bug; please report this");
    }
    let response = match wording {
        Some(wording) => {
            let response = reworded(refusal.reason, &exchange.request_id, dialect, wording);
            if let Some(status) = wording.status {
                exchange.replied(status);
            }
            response
        }
        None => answer(refusal.reason, &exchange.request_id, dialect),
    };
    let mut response = response.map(|body| ResponseBody::own(body, exchange));
    if refusal.reason == Reason::BadRequest {
        // Where the next request begins is not to be trusted. HTTP/2 has no such header, and hyper drops it there.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
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
    let log = access_log.peek();
    let connection = Arc::new(connection.snapshot());
    let mut exchange = Exchange::begin(flow.clone(), &connection, log.as_ref().as_ref(), &head, Start::new());
    exchange.refused(refusal);
    let bytes = answer_bytes(refusal.reason, &exchange.request_id);
    exchange.finish();
    bytes
}

impl Outbound {
    /// The upstream of this listener, where it is no HTTP.
    fn tcp_route(&self) -> Option<Arc<Route>> {
        let name = self.fixed.as_ref()?;
        self.shared.routes.peek().by_name(name.as_str()).filter(|route| route.tcp).cloned()
    }
}

impl Accept for Outbound {
    type Body = ResponseBody;

    fn service(
        self: Arc<Self>,
        connection: Arc<Connection>,
    ) -> impl tower::Service<
        Request<Incoming>,
        Response = Response<ResponseBody>,
        Error = Infallible,
        Future: Send + 'static,
    > + Send
    + 'static {
        let outbound = self;
        // Its first bytes are here: by now a connection that we made is listed.
        let is_us = outbound.pool.made(connection.peer.address, connection.local.port());
        tower::service_fn(move |request| {
            let (outbound, connection) = (outbound.clone(), connection.clone());
            async move { Ok(outbound.handle(&connection, is_us, request).await) }
        })
    }

    fn refuse(&self, connection: &Connection, reason: Reason, detail: &str) -> Vec<u8> {
        let refusal = Refusal::new(reason, detail);
        match self.tcp_route() {
            Some(route) => {
                tcp::refuse(&route.flow, &self.shared.access_log, connection, &refusal);
                Vec::new()
            }
            None => refuse_early(&self.shared.unrouted, &self.shared.access_log, connection, &refusal),
        }
    }

    fn workspaces(&self) -> &Workspaces {
        &self.workspaces
    }

    fn is_raw(&self) -> bool {
        self.tcp_route().is_some()
    }

    async fn carry<S: Stream>(self: Arc<Self>, stream: S, connection: Arc<Connection>) {
        let route = self.tcp_route();
        let flow = route.as_ref().map_or(&self.shared.unrouted, |route| &route.flow).clone();
        let log = self.shared.access_log.snapshot();
        let exchange = Exchange::begin_raw(flow, &connection, log.as_ref().as_ref());
        let route = route.ok_or_else(removed);
        tcp::carry(&self.pool, route, stream, &connection, exchange, self.lifecycle.clone()).await;
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
            ("http://orders.mesh#b", "/"),
            ("http://orders.mesh?b=c", "/?b=c"),
            ("/#b", "/"),
            ("*", "*"),
        ] {
            assert_eq!(origin_form(given.parse().unwrap()).ok().unwrap().to_string(), wanted);
        }
    }
}
