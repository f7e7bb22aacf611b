//! One worker's connections, by endpoint: idle HTTP/1.1 ones last in, first out; HTTP/2 ones shared. Its locks are never
//! contended: only this worker's thread takes them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::uri::Authority;
use http::{Request, Response, StatusCode, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::dial::{Dialed, Dialer, Offer};
use super::shared::Shared;
use super::switch::{PeerSettings, bad, drive};
use super::tethered::{Home, Tethered};
use super::{AttemptError, Failed, RequestBody, framing};
use crate::clock;
use crate::late::{Driver, Late};
use crate::lifecycle::Lifecycle;
use crate::service::{ConnectionLimit, ConnectionSlot, Endpoint, Waited, Wire};
use crate::stream::Brief;

/// One worker's pool.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Dialer,
    settings: PoolSettings,
    lifecycle: Lifecycle,
    endpoints: Mutex<HashMap<u64, Arc<Connections>, rapidhash::fast::RandomState>>,
}

#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// An unused connection is closed after this; shorter than the peer's own limit, so that it rarely closes first.
    pub idle: Duration,
    /// HTTP/1.1 field names keep their case, as an extension of the message.
    pub keeps_case: bool,
}

/// The connections of this worker to one endpoint.
pub(super) struct Connections {
    endpoint: Arc<Endpoint>,
    limit: Arc<ConnectionLimit>,
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Vec<Shared>>,
    /// One dial at a time while it is open whether the endpoint speaks HTTP/2, so that a burst shares one connection.
    dialling: tokio::sync::Mutex<()>,
    /// Set by the first HTTP/1.1 connection: dials need not wait for each other.
    is_http1: AtomicBool,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

/// What a request wants of a connection.
#[derive(Clone, Copy)]
pub struct Want<'a> {
    /// HTTP/2 where the endpoint's wire leaves it open.
    pub http2: bool,
    /// For HTTP/2; `None`: what Host says.
    pub authority: Option<&'a Authority>,
    pub connect_timeout: Duration,
    /// What bounds the connections to all endpoints of the service.
    pub limit: &'a Arc<ConnectionLimit>,
}

/// An answer whose connection comes back to the pool with the last byte of the body.
pub struct Sent {
    pub response: Response<Tethered>,
    /// When a connection was at hand and the request left.
    pub at: Instant,
}

impl Pool {
    pub fn new(dialer: Dialer, settings: PoolSettings, lifecycle: Lifecycle) -> Self {
        let inner = Inner { dialer, settings, lifecycle, endpoints: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Sends a request on an idle or new connection and waits for the head of the answer. A reused connection that turns
    /// out to be dead before it took the request is replaced without a word. Dropping the future gives the exchange up
    /// and closes its connection (HTTP/1.1) or resets its stream (HTTP/2). `now`: as it is called.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, in the future of every request")]
    pub fn send<'a>(
        &'a self,
        endpoint: &'a Arc<Endpoint>,
        mut request: Request<RequestBody>,
        want: Want<'a>,
        now: Instant,
    ) -> impl Future<Output = Result<Sent, Failed>> + Send + use<'a> {
        async move {
            let connections = self.connections(endpoint, want.limit);
            loop {
                let (way, reused, mut at) = match connections.at_hand() {
                    Some(way) => (way, true, now),
                    // Boxed: a dial is rare and its future large, and every request's future would carry it about.
                    None => match Box::pin(self.new_connection(&connections, want)).await {
                        Ok((way, reused)) => (way, reused, clock::now()),
                        Err(error) => return Err(Failed { error, request: Some(request), reused: false }),
                    },
                };
                let (sent, home) = match way {
                    Way::Http1(mut sender) => {
                        if !sender.is_ready() {
                            if !settles(&mut sender).await {
                                if reused {
                                    continue;
                                }
                                let error = AttemptError::Unsent("the connection closed while it was idle".into());
                                return Err(Failed { error, request: Some(request), reused });
                            }
                            at = clock::now();
                        }
                        *request.version_mut() = Version::HTTP_11;
                        let sent = sender.try_send_request(request).await;
                        (sent, Home::Http1 { sender: Some(sender), to: connections.clone() })
                    }
                    Way::Http2(mut shared) => {
                        if let Err(cause) = shared.prepare(&mut request, want.authority) {
                            return Err(Failed { error: AttemptError::BadRequest(cause), request: None, reused });
                        }
                        (shared.sender.try_send_request(request).await, Home::Http2 { shared })
                    }
                };
                match sent {
                    // No upgrade was asked for: what follows this is no answer of HTTP.
                    Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                        let error = AttemptError::BadResponse("it switched protocols unasked".into());
                        return Err(Failed { error, request: None, reused });
                    }
                    Ok(mut response) => {
                        if matches!(home, Home::Http1 { .. })
                            && let Err(cause) = framing::settle(&mut response)
                        {
                            return Err(Failed { reused, ..bad(cause) });
                        }
                        return Ok(Sent { response: response.map(|incoming| Tethered { incoming, home }), at });
                    }
                    Err(mut error) => match failed(error.take_message(), error.error()) {
                        Failed { error: AttemptError::Unsent(_), request: Some(unsent), .. } if reused => {
                            request = unsent;
                        }
                        failed => return Err(Failed { reused, ..failed }),
                    },
                }
            }
        }
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.inner.dialer
    }

    pub(super) fn lifecycle(&self) -> &Lifecycle {
        &self.inner.lifecycle
    }

    pub(super) fn http1(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        if self.inner.settings.keeps_case {
            builder.preserve_header_case(true);
        }
        builder
    }

    pub(super) fn connections(&self, endpoint: &Arc<Endpoint>, limit: &Arc<ConnectionLimit>) -> Arc<Connections> {
        let mut endpoints = self.inner.endpoints.lock();
        let found = endpoints.entry(endpoint.number()).or_insert_with(|| {
            Arc::new(Connections {
                endpoint: endpoint.clone(),
                limit: limit.clone(),
                idle: Mutex::default(),
                shared: Mutex::default(),
                dialling: tokio::sync::Mutex::default(),
                is_http1: AtomicBool::new(false),
            })
        });
        found.clone()
    }

    /// An idle, shared or new connection; true if it was used before.
    pub(super) async fn connection(&self, to: &Connections, want: Want<'_>) -> Result<(Way, bool), AttemptError> {
        match to.at_hand() {
            Some(way) => Ok((way, true)),
            // Boxed: a dial is rare and its future large, and every request's future would carry it about.
            None => Box::pin(self.new_connection(to, want)).await,
        }
    }

    async fn new_connection(&self, to: &Connections, want: Want<'_>) -> Result<(Way, bool), AttemptError> {
        let plain_http1 = to.endpoint.listing.wire == Wire::Plain && !want.http2;
        if plain_http1 || to.is_http1.load(Ordering::Relaxed) {
            return match self.place(to, want).await? {
                Waited::AtHand(way) => Ok((way, true)),
                Waited::Slot(slot) => Ok((self.open(to, want, slot).await?, false)),
            };
        }
        // Its place comes first: nobody waits for one while others wait for the dial.
        let slot = match self.place(to, want).await? {
            Waited::AtHand(way) => return Ok((way, true)),
            Waited::Slot(slot) => slot,
        };
        // Until the first connection is up nobody knows whether it can be shared: the others wait for it.
        let address = to.endpoint.listing.address;
        let alone = tokio::time::timeout(want.connect_timeout, to.dialling.lock()).await.map_err(|_| {
            AttemptError::Connect { address, cause: format!("no connection within {:?}", want.connect_timeout) }
        })?;
        if let Some(way) = to.at_hand() {
            return Ok((way, true));
        }
        let way = self.open(to, want, slot).await?;
        drop(alone);
        Ok((way, false))
    }

    /// A place for a new connection where the service's limit allows it, else waits in line for one, or for a connection
    /// that comes free.
    async fn place(&self, to: &Connections, want: Want<'_>) -> Result<Waited<Way>, AttemptError> {
        if let Some(slot) = want.limit.try_open() {
            return Ok(Waited::Slot(slot));
        }
        let pending = want.limit.try_wait().ok_or(AttemptError::Overloaded)?;
        self.give_up_idle(to);
        // The request's own time is nearly always shorter; it may have none.
        let waited = tokio::time::timeout(LONGEST_WAIT, pending.connection(|| to.at_hand())).await;
        waited.map_err(|_| AttemptError::Overloaded)
    }

    /// Closes an unused connection to another endpoint of the service, so that its place in the limit goes to `to`.
    pub(super) fn give_up_idle(&self, to: &Connections) {
        let endpoints = self.inner.endpoints.lock();
        let others = endpoints
            .values()
            .filter(|other| other.endpoint.number() != to.endpoint.number() && Arc::ptr_eq(&other.limit, &to.limit));
        for other in others {
            if other.idle.lock().pop().is_some() {
                return;
            }
        }
    }

    async fn open(&self, to: &Connections, want: Want<'_>, slot: ConnectionSlot) -> Result<Way, AttemptError> {
        match self.inner.dialer.dial(&to.endpoint, Offer::Http { http2: want.http2 }, want.connect_timeout).await? {
            Dialed::Plain(stream, own) if want.http2 => self.open_http2(to, stream, (slot, own)).await.map(Way::Http2),
            Dialed::Plain(stream, own) => self.open_http1(to, Brief::new(stream), (slot, own)).await.map(Way::Http1),
            #[cfg(test)]
            Dialed::Memory(stream) => self.open_http1(to, stream, slot).await.map(Way::Http1),
            Dialed::Mesh { stream, h2: true } => self.open_http2(to, stream, slot).await.map(Way::Http2),
            Dialed::Mesh { stream, h2: false } => self.open_http1(to, stream, slot).await.map(Way::Http1),
        }
    }

    async fn open_http1<S>(
        &self,
        to: &Connections,
        stream: S,
        held: impl Send + 'static,
    ) -> Result<http1::SendRequest<RequestBody>, AttemptError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) =
            self.http1().handshake(TokioIo::new(stream)).await.map_err(|error| connect_error(to, &error))?;
        to.is_http1.store(true, Ordering::Relaxed);
        self.inner.lifecycle.spawn("upstream-connection", async move {
            // How it ended is told to the request that was on it.
            let _ = connection.await;
            drop(held);
        });
        Ok(sender)
    }

    async fn open_http2<S>(
        &self,
        to: &Connections,
        stream: S,
        held: impl Send + 'static,
    ) -> Result<Shared, AttemptError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (stream, flush) = Late::new(stream);
        let (sender, connection) = http2::Builder::new(Driver::new(flush))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(256 * 1024)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| connect_error(to, &error))?;
        let (settings, since) = (Arc::<PeerSettings>::default(), clock::now());
        let driven = drive(connection, settings.clone());
        self.inner.lifecycle.spawn("upstream-connection", async move {
            driven.await;
            drop(held);
        });
        let shared = Shared::new(sender, to.limit.clone(), since, settings);
        to.shared.lock().push(shared.clone());
        Ok(shared)
    }

    /// Closes what has been idle too long or leads to an endpoint that is no longer wanted; to be called every second.
    pub fn sweep(&self, now: Instant) {
        let all: Vec<Arc<Connections>> = self.inner.endpoints.lock().values().cloned().collect();
        for connections in all {
            let wanted = connections.endpoint.is_wanted();
            // Requests of another worker may wait for the place of one that this worker does not use.
            let most = if connections.limit.pending() > 0 { SPARED } else { self.inner.settings.idle };
            connections
                .idle
                .lock()
                .retain(|idle| wanted && !idle.sender.is_closed() && now.saturating_duration_since(idle.since) < most);
            connections.shared.lock().retain(|shared| {
                if shared.streams() > 0 {
                    return !shared.sender.is_closed() && wanted;
                }
                let idle = now.saturating_duration_since(shared.last());
                wanted && !shared.sender.is_closed() && idle < self.inner.settings.idle
            });
        }
        self.inner.endpoints.lock().retain(|_, connections| {
            connections.endpoint.is_wanted()
                || !connections.idle.lock().is_empty()
                || !connections.shared.lock().is_empty()
        });
    }
}

impl Connections {
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn is_http1(&self) -> bool {
        self.is_http1.load(Ordering::Relaxed)
    }

    /// A connection whose exchange is over.
    pub(super) fn give_back(&self, sender: http1::SendRequest<RequestBody>) {
        if !sender.is_closed() && self.endpoint.is_wanted() {
            self.idle.lock().push(Idle { sender, since: clock::recent() });
            self.limit.note_idle();
        }
    }

    /// Closes an unused connection; false where there is none.
    pub(super) fn drop_idle(&self) -> bool {
        self.idle.lock().pop().is_some()
    }

    fn at_hand(&self) -> Option<Way> {
        if let Some(shared) = self.shared.lock().iter().find(|shared| shared.has_room()) {
            shared.began();
            return Some(Way::Http2(shared.clone()));
        }
        let mut idle = self.idle.lock();
        while let Some(last) = idle.pop() {
            if !last.sender.is_closed() {
                return Some(Way::Http1(last.sender));
            }
        }
        None
    }
}

/// A connection that was given back a moment ago may still have to notice that it is free; one whose last request is
/// still being sent (its answer came early) is not waited for.
async fn settles(sender: &mut http1::SendRequest<RequestBody>) -> bool {
    matches!(tokio::time::timeout(SETTLE, sender.ready()).await, Ok(Ok(())))
}

pub(super) enum Way {
    Http1(http1::SendRequest<RequestBody>),
    Http2(Shared),
}

pub(super) fn connect_error(to: &Connections, error: &hyper::Error) -> AttemptError {
    AttemptError::Connect { address: to.endpoint.listing.address, cause: full_cause(error) }
}

/// What an error of hyper's client means for the request.
pub(super) fn failed(request: Option<Request<RequestBody>>, error: &hyper::Error) -> Failed {
    let cause = full_cause(error);
    if request.is_some() {
        return Failed { error: AttemptError::Unsent(cause), request, reused: false };
    }
    let error = if error.is_user() || source::<super::body::StalledBody>(error).is_some() {
        AttemptError::RequestBody(cause)
    } else if error.is_parse() {
        AttemptError::BadResponse(cause)
    } else if let Some(h2) = source::<h2::Error>(error) {
        // RFC 9113 §8.7: a refused stream, or one above a GOAWAY's last, was not processed.
        if h2.reason() == Some(h2::Reason::REFUSED_STREAM)
            || (h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR))
        {
            AttemptError::Unsent(cause)
        } else {
            AttemptError::Reset(cause)
        }
    } else {
        AttemptError::Reset(cause)
    };
    Failed { error, request: None, reused: false }
}

fn source<T: std::error::Error + 'static>(error: &hyper::Error) -> Option<&T> {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn full_cause(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// What an unused connection keeps its place for while others wait for one.
const SPARED: Duration = Duration::from_millis(250);
/// In line for a connection.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_millis(10);
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
