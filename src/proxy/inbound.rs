//! A request from the mesh to our app: who calls, what the app is told of it, and the app's answer.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, Version, header, request};
use hyper::body::Incoming;
use ipnet::IpNet;

use super::answer::Dialect;
use super::body::ResponseBody;
use super::entry::Entry;
use super::exchange::Exchange;
use super::outbound::{finish, origin_form, refuse_early, request_body};
use super::passage::{self, Ended, Passage};
use super::tries::Answer;
use super::upgrade::{self, Place, Wish};
use super::{Refusal, headers, tcp, tries};
use crate::access::Standing;
use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::listen::{Accept, Connection, PlainPeers, Workspaces};
use crate::published::Published;
use crate::reason::Reason;
use crate::route::{Action, Route, Rule};
use crate::stream::Stream;
use crate::telemetry::AccessLog;
use crate::upstream::{Pool, RequestBody};

/// What all workers share of the inbound side.
pub struct InboundShared {
    pub view: Published<InboundView>,
    /// Who may call.
    pub entry: Entry,
    /// Who spoke plain text to a permissive listener.
    pub plain_peers: Arc<PlainPeers>,
    pub access_log: Arc<Published<Option<AccessLog>>>,
}

/// What a reload may change.
pub struct InboundView {
    /// The way to our app: a service with one endpoint.
    pub app: Arc<Route>,
    /// Plugins, timeouts and limits for parts of it.
    pub rules: Vec<Arc<Rule>>,
    /// Where the app is: an IP address or a name.
    pub app_host: String,
    pub app_port: u16,
    /// Where the app is asked whether it is well.
    pub health: Option<String>,
    /// Whose forwarding headers are believed, beside verified mesh peers.
    pub trusted: Vec<IpNet>,
}

/// Inbound on one worker.
pub struct Inbound {
    shared: Arc<InboundShared>,
    pool: Pool,
    /// The listener's; tunnels are its tasks.
    lifecycle: Lifecycle,
    workspaces: Workspaces,
}

/// What is the same for every request of a connection.
struct Caller {
    connection: Arc<Connection>,
    address: HeaderValue,
    proto: HeaderValue,
    /// XFCC, made of the verified certificate.
    certificate: Option<HeaderValue>,
    standing: Standing,
    /// It is this sidecar, whose app is this sidecar.
    is_us: bool,
}

impl Inbound {
    pub fn new(shared: Arc<InboundShared>, pool: Pool, lifecycle: Lifecycle) -> Self {
        Self { shared, pool, lifecycle, workspaces: Workspaces::default() }
    }

    async fn handle(&self, caller: &Caller, mut request: Request<Incoming>) -> Response<ResponseBody> {
        // hyper puts something there when the caller wants to leave HTTP; ordinary requests have nothing.
        let wish = if request.extensions().is_empty() { Ok(None) } else { Wish::of(&mut request) };
        let wish = if caller.is_us { Err(Refusal::circle()) } else { headers::granted(wish, &request, false) };
        let (mut head, body) = request.into_parts();
        headers::drop_second_host(&mut head);
        // Before anything judges them or adds its own, which no `Connection: x-consumer-id` may take away again.
        headers::strip_request(&mut head.headers);
        let dialect = Dialect::of(&head.headers);
        let start = headers::identify(&mut head.headers, clock::now());
        let view = self.shared.view.snapshot();
        let log = self.shared.access_log.peek();
        let mut exchange =
            Exchange::begin(view.app.flow.clone(), &caller.connection, log.as_ref().as_ref(), &head, start);
        drop(log);
        exchange.rides_on(&caller.connection);
        let mut passage = Passage::default();
        let told = (&mut exchange, &mut passage);
        let response = match wish {
            Ok(None) => match self.forward(&view, caller, (head, body), told).await {
                Ok((answer, idle)) => finish(answer, idle, exchange),
                Err(ended) => passage::end(ended, dialect, exchange),
            },
            // Boxed: rare, and every request's future would carry it about.
            Ok(Some(wish)) => {
                let request = Request::from_parts(head, body);
                match Box::pin(self.leave_http(&view, caller, request, &wish, told)).await {
                    Ok((outcome, route)) => upgrade::answer(outcome, wish, self.place(caller), route, exchange),
                    Err(ended) => passage::end(ended, dialect, exchange),
                }
            }
            Err(refusal) => passage::end(refusal.into(), dialect, exchange),
        };
        passage.response(response)
    }

    async fn leave_http<'v>(
        &self,
        view: &'v InboundView,
        caller: &Caller,
        mut request: Request<Incoming>,
        wish: &Wish,
        (exchange, passage): (&mut Exchange, &mut Passage),
    ) -> Result<(upgrade::Outcome, &'v Arc<Route>), Ended> {
        wish.make_ordinary(&mut request);
        let request = request.into_parts();
        let (request, route) = self.incoming(view, caller, request, (&mut *exchange, passage)).await?;
        Ok((upgrade::ask(self.place(caller), route, request, None, wish, exchange).await?, route))
    }

    fn place<'a>(&'a self, caller: &'a Caller) -> Place<'a> {
        Place { pool: &self.pool, lifecycle: &self.lifecycle, connection: &caller.connection }
    }

    /// The app's answer, and how long it may be without a byte.
    async fn forward(
        &self,
        view: &InboundView,
        caller: &Caller,
        request: (request::Parts, Incoming),
        (exchange, passage): (&mut Exchange, &mut Passage),
    ) -> Result<(Answer, Duration), Ended> {
        let (request, route) = self.incoming(view, caller, request, (&mut *exchange, passage)).await?;
        let answer = tries::send(&self.pool, route, request, None, exchange).await?;
        Ok((answer, route.idle_timeout))
    }

    /// The request as the app gets it, with the policy that holds for it: once its caller is let in, after its plugins.
    async fn incoming<'v>(
        &self,
        view: &'v InboundView,
        caller: &Caller,
        (mut head, body): (request::Parts, Incoming),
        (exchange, passage): (&mut Exchange, &mut Passage),
    ) -> Result<(Request<RequestBody>, &'v Arc<Route>), Ended> {
        headers::count(&head.headers, &caller.connection)?;
        headers::join_cookies(&mut head.headers);
        headers::strip_look_alikes(&mut head.headers);
        if !believes(view, caller) {
            headers::strip_claims(&mut head.headers);
        }
        self.shared.entry.admit(&caller.connection, &caller.standing, &mut head)?;
        if view.health.as_deref().is_some_and(|path| path == head.uri.path()) {
            exchange.exempt();
        }
        let route = part_of_app(view, caller, &mut head, (&mut *exchange, passage)).await?;
        Ok((toward_app(view, caller, (head, body), route, (exchange, passage))?, route))
    }
}

/// The policy for a request: that of the first rule that matches, after its plugins.
async fn part_of_app<'v>(
    view: &'v InboundView,
    caller: &Caller,
    head: &mut request::Parts,
    (exchange, passage): (&mut Exchange, &mut Passage),
) -> Result<&'v Arc<Route>, Ended> {
    let from = (&*caller.connection, &view.trusted[..]);
    let mut route = &view.app;
    if !view.rules.is_empty()
        && let Some(rule) = passage::rule_in_every_reading(&view.rules, head, exchange)?
    {
        match &rule.action {
            Action::Answer(reply, filters) => {
                passage.request(filters, head, from, exchange, None).await?;
                return Err(passage::reply(reply, &head.uri));
            }
            Action::Forward(forward) => {
                if let Some(slots) = &forward.slots {
                    let full =
                        || Refusal::new(Reason::Overloaded, format!("{} under way on {}", slots.most(), rule.name));
                    exchange.holds(slots.take().ok_or_else(full)?);
                }
                route = forward.targets.pick(None, 0);
            }
        }
    }
    passage.request(&route.filters, head, from, exchange, route.timeout).await?;
    Ok(route)
}

/// What the app sees of a request.
fn toward_app(
    view: &InboundView,
    caller: &Caller,
    (mut head, body): (request::Parts, Incoming),
    route: &Route,
    (exchange, passage): (&mut Exchange, &Passage),
) -> Result<Request<RequestBody>, Refusal> {
    let host = host_header(&head, view)?;
    tell_of_caller(&mut head.headers, view, caller, passage.replaced_host().unwrap_or(&host));
    head.headers.insert(header::HOST, host);
    head.uri = origin_form(head.uri)?;
    // The connection's to say.
    head.version = Version::HTTP_11;
    let body = request_body(body, route, exchange);
    Ok(Request::from_parts(head, body))
}

/// The one Host that the app sees: the target's authority where it has one, else the header, else our own name.
fn host_header(head: &request::Parts, view: &InboundView) -> Result<HeaderValue, Refusal> {
    let host = match (head.uri.authority(), head.headers.get(header::HOST)) {
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()),
        (None, Some(host)) if !host.is_empty() => return Ok(host.clone()),
        (None, _) => return Ok(view.app.host.clone()),
    };
    host.map_err(|error| Refusal::new(Reason::BadRequest, error.to_string()))
}

/// Whether the caller is believed in what it says of hops and users: a verified mesh peer, whose sidecar dropped what its
/// own clients said, or one that is trusted by configuration.
fn believes(view: &InboundView, caller: &Caller) -> bool {
    caller.connection.peer.tls.is_some() || trusts(view, caller)
}

fn trusts(view: &InboundView, caller: &Caller) -> bool {
    !view.trusted.is_empty() && is_trusted(&view.trusted, caller.connection.peer.address.ip())
}

/// Sets what the app may believe of its caller. What a client wrote there itself was dropped, unless it is believed.
fn tell_of_caller(map: &mut http::HeaderMap, view: &InboundView, caller: &Caller, host: &HeaderValue) {
    let trusted = trusts(view, caller);
    headers::append(map, &headers::XFF, &caller.address);
    if !trusted || !map.contains_key(&headers::XFP) {
        map.insert(headers::XFP, caller.proto.clone());
    }
    if !trusted || !map.contains_key(&headers::XFH) {
        map.insert(headers::XFH, host.clone());
    }
    match &caller.certificate {
        Some(certificate) => {
            map.insert(headers::XFCC, certificate.clone());
        }
        None if !trusted => {
            map.remove(&headers::XFCC);
        }
        None => {}
    }
}

fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

impl Caller {
    fn new(connection: Arc<Connection>, is_us: bool) -> Self {
        let text =
            |value: String| HeaderValue::from_str(&value).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let peer = &connection.peer;
        let certificate = peer.tls.as_ref().map(|tls| text(format!("By={};Hash={};URI={}", tls.by, tls.hash, tls.id)));
        Self {
            address: text(peer.address.ip().to_canonical().to_string()),
            proto: HeaderValue::from_static(if peer.tls.is_some() { "https" } else { "http" }),
            certificate,
            standing: Standing::default(),
            is_us,
            connection,
        }
    }
}

impl Accept for Inbound {
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
        let is_us = self.pool.made(connection.peer.address, connection.local.port());
        let (inbound, caller) = (self, Arc::new(Caller::new(connection, is_us)));
        tower::service_fn(move |request| {
            let (inbound, caller) = (inbound.clone(), caller.clone());
            async move { Ok(inbound.handle(&caller, request).await) }
        })
    }

    fn refuse(&self, connection: &Connection, reason: Reason, detail: &str) -> Vec<u8> {
        let refusal = Refusal::new(reason, detail);
        let view = self.shared.view.snapshot();
        if view.app.tcp {
            tcp::refuse(&view.app.flow, &self.shared.access_log, connection, &refusal);
            return Vec::new();
        }
        refuse_early(&view.app.flow, &self.shared.access_log, connection, &refusal)
    }

    fn workspaces(&self) -> &Workspaces {
        &self.workspaces
    }

    fn is_raw(&self) -> bool {
        self.shared.view.peek().app.tcp
    }

    async fn carry<S: Stream>(self: Arc<Self>, stream: S, connection: Arc<Connection>) {
        let route = self.shared.view.snapshot().app.clone();
        let log = self.shared.access_log.snapshot();
        let mut exchange = Exchange::begin_raw(route.flow.clone(), &connection, log.as_ref().as_ref());
        let admitted = self.shared.entry.admit_raw(&connection);
        let admitted = admitted.and_then(|()| passage::connection(&route.filters, &connection, &mut exchange));
        let route = admitted.map(|()| route);
        tcp::carry(&self.pool, route, stream, &connection, exchange, self.lifecycle.clone()).await;
    }
}
