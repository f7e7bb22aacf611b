//! Connections that leave HTTP: an upgrade over an HTTP/1.1 connection of its own, a WebSocket as an extended CONNECT on
//! a shared HTTP/2 one (RFC 8441), and bytes that were never HTTP.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, response};
use hyper::client::conn::{http1, http2};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::dial::{Dialed, Offer};
use super::own::OwnEnd;
use super::pool::{Connections, Way, connect_error, failed};
use super::shared::{Shared, to_absolute_form};
use super::{AttemptError, Failed, Pool, RequestBody, Sent, Tethered, Want, framing, websocket};
use crate::clock;
use crate::late::{Driver, Late};
use crate::service::{ConnectionLimit, ConnectionSlot, Endpoint, Waited, Wire};
use crate::stream::Stream;

/// What an endpoint is asked to switch to.
#[derive(Debug, Clone)]
pub struct Switch {
    /// As in Upgrade, the most wanted first; never `h2c`.
    pub tokens: HeaderValue,
    /// It is a WebSocket and nothing else, which HTTP/2 can carry.
    pub websocket: bool,
}

/// What came of the wish.
pub enum Turned {
    Switched(Switched),
    /// An ordinary answer.
    Answered(Sent),
}

/// The endpoint speaks the other protocol from here on.
pub struct Switched {
    pub head: response::Parts,
    pub stream: TokioIo<Upgraded>,
    /// When a connection was at hand and the request left.
    pub at: Instant,
    pub held: Held,
}

/// Keeps a tunnel counted: as a stream of its HTTP/2 connection, or as a connection of its service.
pub struct Held {
    _shared: Option<Shared>,
    _slot: Option<Arc<ConnectionSlot>>,
    _own: Option<OwnEnd>,
}

impl Pool {
    /// Sends a request that asks for another protocol. Its connection is not reused for anything else, but for HTTP/2,
    /// where it is one stream among others. `request` is free of hop-by-hop headers.
    pub async fn switch(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Request<RequestBody>,
        switch: &Switch,
        want: Want<'_>,
    ) -> Result<Turned, Failed> {
        let connections = self.connections(endpoint, want.limit);
        if switch.websocket && is_plain_websocket(&request) && connections.may_be_http2(want) {
            let shared = match self.connection(&connections, want).await {
                Ok((Way::Http2(shared), _)) => shared.takes_websockets().await.then_some(shared),
                // HTTP/1.1 after all. The connection has carried nothing and may serve someone else.
                Ok((Way::Http1(sender), _)) => {
                    connections.give_back(sender);
                    None
                }
                Err(error) => return Err(Failed { error, request: Some(request), reused: false }),
            };
            if let Some(shared) = shared {
                return connect(shared, request, want).await;
            }
        }
        self.upgrade(&connections, request, switch, want).await
    }

    /// A connection for bytes that are no HTTP; the peer is checked as for HTTP.
    pub async fn connect(
        &self,
        endpoint: &Arc<Endpoint>,
        limit: &Arc<ConnectionLimit>,
        connect_timeout: Duration,
    ) -> Result<(Box<dyn Stream>, Held), AttemptError> {
        let slot = Arc::new(self.slot(&self.connections(endpoint, limit), limit).await?);
        let dialed = self.dialer().dial(endpoint, Offer::Nothing, connect_timeout).await?;
        let (stream, own): (Box<dyn Stream>, _) = match dialed {
            Dialed::Plain(socket, own) => (Box::new(socket), own),
            #[cfg(test)]
            Dialed::Memory(stream) => (Box::new(stream), None),
            Dialed::Mesh { stream, .. } => (stream, None),
        };
        Ok((stream, Held { _shared: None, _slot: Some(slot), _own: own }))
    }

    /// A place among the service's connections for one that nobody else will use.
    async fn slot(&self, to: &Connections, limit: &Arc<ConnectionLimit>) -> Result<ConnectionSlot, AttemptError> {
        if let Some(slot) = limit.try_open() {
            return Ok(slot);
        }
        let pending = limit.try_wait().ok_or(AttemptError::Overloaded)?;
        self.give_up_idle(to);
        // Another's connection that comes free is of no use here: one of them makes room by being closed.
        let mut closed = false;
        let waited = pending.connection(|| {
            closed = closed || to.drop_idle();
            None::<Infallible>
        });
        match waited.await {
            Waited::Slot(slot) => Ok(slot),
            Waited::AtHand(never) => match never {},
        }
    }

    /// Over an HTTP/1.1 connection of its own.
    async fn upgrade(
        &self,
        to: &Arc<Connections>,
        mut request: Request<RequestBody>,
        switch: &Switch,
        want: Want<'_>,
    ) -> Result<Turned, Failed> {
        let (mut sender, slot) = match self.own_http1(to, want).await {
            Ok(own) => own,
            Err(error) => return Err(Failed { error, request: Some(request), reused: false }),
        };
        let at = clock::now();
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, switch.tokens.clone());
        let key = switch.websocket.then(|| headers.entry(websocket::KEY).or_insert_with(websocket::new_key).clone());
        let mut response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => return Err(failed(error.take_message(), error.error())),
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            framing::settle(&mut response).map_err(bad)?;
            // The connection ends with the answer's body.
            return Ok(Turned::Answered(Sent { response: response.map(Tethered::alone), at }));
        }
        check_switch(&response, switch, key.as_ref()).map_err(bad)?;
        let (head, body) = response.into_parts();
        let response = Response::from_parts(head.clone(), body);
        match hyper::upgrade::on(response).await {
            Ok(stream) => {
                let held = Held { _shared: None, _slot: Some(slot), _own: None };
                Ok(Turned::Switched(Switched { head, stream: TokioIo::new(stream), at, held }))
            }
            Err(error) => Err(bad(error.to_string())),
        }
    }

    async fn own_http1(
        &self,
        to: &Connections,
        want: Want<'_>,
    ) -> Result<(http1::SendRequest<RequestBody>, Arc<ConnectionSlot>), AttemptError> {
        let slot = Arc::new(self.slot(to, want.limit).await?);
        let dialed = self.dialer().dial(to.endpoint(), Offer::Http1, want.connect_timeout).await?;
        let (stream, own): (Box<dyn Stream>, _) = match dialed {
            Dialed::Plain(socket, own) => (Box::new(socket), own),
            #[cfg(test)]
            Dialed::Memory(stream) => (Box::new(stream), None),
            Dialed::Mesh { stream, .. } => (stream, None),
        };
        let (sender, connection) =
            self.http1().handshake(TokioIo::new(stream)).await.map_err(|error| connect_error(to, &error))?;
        let until_end = slot.clone();
        self.lifecycle().spawn("upstream-connection", async move {
            let _ = connection.with_upgrades().await;
            drop((until_end, own));
        });
        Ok((sender, slot))
    }
}

/// As a stream of an HTTP/2 connection.
async fn connect(mut shared: Shared, mut request: Request<RequestBody>, want: Want<'_>) -> Result<Turned, Failed> {
    let at = clock::now();
    let key = request.headers_mut().remove(websocket::KEY);
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = Method::CONNECT;
    if let Err(cause) = to_absolute_form(&mut request, want.authority) {
        return Err(Failed { error: AttemptError::BadRequest(cause), request: None, reused: true });
    }
    request.extensions_mut().insert(Protocol::from_static(websocket::TOKEN));
    let response = match shared.sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut error) => {
            let request = error.take_message().map(|request| back_to_origin_form(request, key));
            return Err(failed(request, error.error()));
        }
    };
    if response.status() != StatusCode::OK {
        return Ok(Turned::Answered(Sent { response: response.map(|body| Tethered::shared(body, shared)), at }));
    }
    let (head, body) = response.into_parts();
    let response = Response::from_parts(head.clone(), body);
    match hyper::upgrade::on(response).await {
        Ok(stream) => {
            let held = Held { _shared: Some(shared), _slot: None, _own: None };
            Ok(Turned::Switched(Switched { head, stream: TokioIo::new(stream), at, held }))
        }
        Err(error) => Err(bad(error.to_string())),
    }
}

/// The request as it was before `connect`, for a try elsewhere.
fn back_to_origin_form(mut request: Request<RequestBody>, key: Option<HeaderValue>) -> Request<RequestBody> {
    *request.method_mut() = Method::GET;
    request.extensions_mut().remove::<Protocol>();
    if let Some(key) = key {
        request.headers_mut().insert(websocket::KEY, key);
    }
    if let Some(host) = request.uri().authority().and_then(|to| HeaderValue::from_str(to.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// One that says all that an extended CONNECT can say.
fn is_plain_websocket(request: &Request<RequestBody>) -> bool {
    *request.method() == Method::GET && matches!(request.body(), RequestBody::Empty)
}

/// Whether a 101 is an answer to what was asked (RFC 9110 §7.8, RFC 6455 §4.1).
fn check_switch<B>(response: &Response<B>, switch: &Switch, key: Option<&HeaderValue>) -> Result<(), String> {
    let (headers, asked) = (response.headers(), switch.tokens.to_str().unwrap_or_default());
    let chosen = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if chosen.is_empty() || !asked.split(',').any(|token| token.trim().eq_ignore_ascii_case(chosen.trim())) {
        return Err(format!("it switched to {chosen:?}, and was asked for {asked:?}"));
    }
    match key {
        Some(key) if headers.get(websocket::ACCEPT) != Some(&websocket::accept_of(key)) => {
            Err("Sec-WebSocket-Accept does not answer Sec-WebSocket-Key".into())
        }
        _ => Ok(()),
    }
}

/// An answer that is none.
pub(super) fn bad(cause: String) -> Failed {
    Failed { error: AttemptError::BadResponse(cause), request: None, reused: false }
}

impl Shared {
    /// Whether the peer has announced SETTINGS_ENABLE_CONNECT_PROTOCOL. While a connection is new its settings are on
    /// their way: they are waited for.
    async fn takes_websockets(&self) -> bool {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(known) = self.settings.look().await {
                return known;
            }
            if clock::now().saturating_duration_since(self.since) > SETTLED || self.sender.is_closed() {
                self.settings.connect.store(NO, Ordering::Relaxed);
                return false;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// What an HTTP/2 peer announced, as far as anyone asked. Only the connection's driver can see it.
#[derive(Default)]
pub(super) struct PeerSettings {
    connect: AtomicU8,
    asked: AtomicBool,
    driver: AtomicWaker,
    looked: Notify,
}

impl PeerSettings {
    /// Whether extended CONNECT is possible; `None` while it is not announced.
    async fn look(&self) -> Option<bool> {
        match self.connect.load(Ordering::Relaxed) {
            YES => return Some(true),
            NO => return Some(false),
            _ => {}
        }
        let looked = self.looked.notified();
        self.asked.store(true, Ordering::Release);
        self.driver.wake();
        // A driver that has ended does not look any more.
        let _ = tokio::time::timeout(SETTLED, looked).await;
        (self.connect.load(Ordering::Relaxed) == YES).then_some(true)
    }
}

/// Drives an HTTP/2 connection to its end, and looks at its peer's settings when asked.
pub(super) async fn drive<S>(
    mut connection: http2::Connection<TokioIo<Late<S>>, RequestBody, Driver<S>>,
    settings: Arc<PeerSettings>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    std::future::poll_fn(|cx| {
        settings.driver.register(cx.waker());
        if settings.asked.load(Ordering::Acquire) {
            settings.asked.store(false, Ordering::Relaxed);
            if connection.is_extended_connect_protocol_enabled() {
                settings.connect.store(YES, Ordering::Relaxed);
            }
            settings.looked.notify_waiters();
        }
        // How it ended is told to the requests that were on it.
        Pin::new(&mut connection).poll(cx).map(drop)
    })
    .await;
}

const YES: u8 = 1;
const NO: u8 = 2;

impl Connections {
    /// Whether its connections usually are HTTP/2.
    fn may_be_http2(&self, want: Want<'_>) -> bool {
        let negotiated = matches!(self.endpoint().listing.wire, Wire::Mesh { ours: true, .. });
        (want.http2 || negotiated) && !self.is_http1()
    }
}

/// A round trip and a little: after this a peer that has not announced extended CONNECT will not.
const SETTLED: Duration = Duration::from_millis(250);
