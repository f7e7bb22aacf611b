//! Serves HTTP on an accepted connection: protocol by first bytes, limits of time by one timer a connection, drain.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::{HeaderValue, Request, Response, StatusCode, Version, header};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::connection::{Connection, Limit, PULSE};
use super::frames::Excess;
use super::guard::{Guarded, tell_and_close};
use super::sniff::{Prefix, Protocol, sniff};
use super::workspace::{Places, Workspaces};
use super::{Accept, Gauged, Listener, Settings};
use crate::late::{Flush, Late};
use crate::reason::Reason;
use crate::stream::Stream;
use crate::telemetry::{ConnectionState, CutCause};

/// Serves one connection until it ends. `alpn` is what TLS negotiated, if anything.
pub(super) async fn serve<A, S>(
    listener: &Listener<A>,
    mut stream: S,
    connection: Arc<Connection>,
    settings: Settings,
    handler: Arc<A>,
    alpn: Option<&[u8]>,
) where
    A: Accept,
    S: Stream,
{
    let _open = Gauged::enter(&listener.metrics, listener.direction, ConnectionState::Active);
    let drained = listener.lifecycle.drained();
    let (protocol, prefix) = if alpn == Some(b"http/1.1") {
        (Protocol::Http1, Prefix::new())
    } else {
        let sniffed = tokio::select! {
            biased;
            sniffed = sniff(&mut stream, settings.head) => sniffed,
            // Nothing was asked yet: nothing is lost.
            () = drained => return,
        };
        match sniffed {
            Ok(found) => found,
            Err(error) => {
                if error.kind() == std::io::ErrorKind::TimedOut {
                    listener.metrics.connection_cut(listener.direction, CutCause::SlowHead);
                }
                return;
            }
        }
    };
    let _listed = listener.open.list(&connection);
    if listener.lifecycle.is_draining() {
        connection.begin_close();
    }
    match protocol {
        Protocol::Http1 => {
            let io = Guarded::new(stream, prefix, connection.clone());
            // Boxed: a connection keeps space for the larger of the two.
            Box::pin(serve_http1(listener, io, &connection, settings, &handler)).await;
        }
        Protocol::Http2 => {
            let io = Guarded::framed(stream, prefix, connection.clone());
            connection.set_most_headers(settings.headers);
            let ended = Box::pin(serve_http2(io, &connection, settings, &handler)).await;
            let excess = connection.excess().map(|excess| match excess {
                Excess::Frames => CutCause::FrameFlood,
                Excess::Resets => CutCause::ResetFlood,
            });
            if let Some(cause) = excess.or(cut_cause(&ended)) {
                tracing::warn!(peer = connection.peer_text, cause = cause.as_str(), "an HTTP/2 connection is cut");
                listener.metrics.connection_cut(listener.direction, cause);
            }
        }
    }
}

/// How a connection that is cut for its slowness is counted.
fn cut_cause(ended: &Ended) -> Option<CutCause> {
    match ended {
        Ended::Overdue(Limit::Head) => Some(CutCause::SlowHead),
        Ended::Overdue(Limit::Untaken) => Some(CutCause::SlowReader),
        Ended::Overdue(Limit::Idle) | Ended::ByItself(_) | Ended::Cut | Ended::AtRest => None,
    }
}

async fn serve_http1<A, S>(
    listener: &Listener<A>,
    mut io: Guarded<S>,
    connection: &Arc<Connection>,
    settings: Settings,
    handler: &Arc<A>,
) where
    A: Accept,
    S: Stream,
{
    let mut builder = http1::Builder::new();
    // Dates come from the app; head and idle limits are kept by `watch`, without a timer for each request.
    builder.auto_date_header(false).header_read_timeout(None).max_header_size(settings.head_size);
    if settings.keeps_case {
        builder.preserve_header_case(true);
    }
    builder.max_buf_size(settings.head_size.max(READ_BUFFER));
    if settings.headers != HYPER_HEADERS {
        builder.max_headers(settings.headers);
    }
    let mut service = service(handler, connection);
    // All requests are polled with their connection, by `watch`.
    connection.set_pulse();
    let ended = loop {
        let mut http = builder.serve_connection(TokioIo::new(io), service).with_upgrades();
        let graceful = http1::UpgradeableConnection::graceful_shutdown;
        let ended = watch(Pin::new(&mut http), connection, settings, Some(REST), graceful).await;
        let Some(parts) = http.into_parts() else {
            // A tunnel has the stream now. It counts as this connection until it ends.
            connection.released().await;
            return;
        };
        io = parts.io.into_inner();
        if !matches!(ended, Ended::AtRest) {
            break ended;
        }
        // hyper's buffers and its space for a request are gone until there is something to read.
        io.unread(&parts.read_buf);
        service = parts.service;
        drop(parts.read_buf);
        rest(&io, connection, settings.idle).await;
    };
    if let Some(cause) = cut_cause(&ended) {
        listener.metrics.connection_cut(listener.direction, cause);
    }
    let (stream, held) = io.into_parts();
    let answer = match ended {
        Ended::ByItself(Err(error)) if error.is_parse() => {
            let (reason, detail) = reason_of(&error);
            handler.refuse(connection, reason, &detail)
        }
        Ended::ByItself(_) => match held {
            Some(held) => held.to_vec(),
            None => return,
        },
        Ended::Overdue(Limit::Head) => {
            let detail = format!("the head was not complete within {:?}", settings.head);
            handler.refuse(connection, Reason::RequestTimeout, &detail)
        }
        Ended::Overdue(Limit::Idle | Limit::Untaken) | Ended::Cut | Ended::AtRest => return,
    };
    // Boxed: rare, and every connection would carry its buffer about.
    Box::pin(tell_and_close(stream, &answer)).await;
}

async fn serve_http2<A, S>(io: Guarded<S>, connection: &Arc<Connection>, settings: Settings, handler: &Arc<A>) -> Ended
where
    A: Accept,
    S: Stream,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .enable_connect_protocol()
        .max_concurrent_streams(settings.h2_streams)
        // Streams whose own fault makes us reset them (CVE-2025-8671), over the connection's life.
        .max_local_error_reset_streams(if connection.peer.tls.is_some() { PEER_ERROR_RESETS } else { ERROR_RESETS })
        .max_header_list_size(u32::try_from(settings.head_size).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let (io, flush) = Late::new(io);
    let http = builder.serve_connection(TokioIo::new(io), service(handler, connection));
    let mut http = FlushedHttp2 { http, flush };
    watch(Pin::new(&mut http), connection, settings, None, |http| {
        Pin::new(&mut http.get_mut().http).graceful_shutdown();
    })
    .await
}

/// An HTTP/2 connection that is flushed after each poll.
struct FlushedHttp2<C, S> {
    http: C,
    flush: Flush<S>,
}

impl<C: Future + Unpin, S: AsyncWrite + Unpin> Future for FlushedHttp2<C, S> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let polled = Pin::new(&mut self.http).poll(cx);
        self.flush.after_poll(cx);
        polled
    }
}

/// The handler as hyper calls it: requests are counted on the connection until their last byte.
fn service<A: Accept>(
    handler: &Arc<A>,
    connection: &Arc<Connection>,
) -> impl hyper::service::Service<Request<Incoming>, Response = Response<Busy<A::Body>>, Error = Infallible, Future: Send>
+ use<A> {
    // hyper calls it from the connection's task alone, and never within a call.
    let inner = RefCell::new(handler.clone().service(connection.clone()));
    let places = places_for(handler.workspaces(), &inner);
    let connection = connection.clone();
    hyper::service::service_fn(move |request: Request<Incoming>| {
        connection.request_began();
        let busy = Some(InRequest { connection: connection.clone(), untaken: false });
        let version = request.version();
        let answer = places.begin(|| tower::Service::call(&mut *inner.borrow_mut(), request));
        Answering { answer, version, busy }
    })
}

/// Finds the places by the type of the service's futures.
fn places_for<S>(workspaces: &Workspaces, _: &RefCell<S>) -> Places<S::Future>
where
    S: tower::Service<Request<Incoming>, Future: Send + 'static>,
{
    workspaces.of()
}

pin_project! {
    /// A request being answered.
    struct Answering<F> {
        #[pin]
        answer: F,
        version: Version,
        busy: Option<InRequest>,
    }
}

impl<F, B> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<Busy<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.answer.poll(cx));
        let mut busy = this.busy.take().expect("a future is not polled after its end");
        let closing = busy.connection.is_closing();
        if *this.version < Version::HTTP_2 && closing && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        busy.set_untaken(true);
        Poll::Ready(Ok(response.map(|body| Busy { body, busy })))
    }
}

enum Ended {
    ByItself(hyper::Result<()>),
    Overdue(Limit),
    /// Whatever is under way is dropped.
    Cut,
    /// Nothing was asked for a while.
    AtRest,
}

/// Waits until there is something to read, or the connection has to do with its end.
async fn rest<S: Stream>(io: &Guarded<S>, connection: &Connection, idle: Duration) {
    let end = connection.at_rest_since().map_or_else(Instant::now, |since| (since + idle).into());
    let timer = tokio::time::sleep_until(end);
    tokio::pin!(timer);
    let mut listed = None;
    std::future::poll_fn(|cx| {
        if connection.poll_closing(cx, &mut listed) || io.poll_readable(cx).is_ready() {
            return Poll::Ready(());
        }
        timer.as_mut().poll(cx)
    })
    .await;
}

/// Drives a connection; where `rest` is set, until nothing was asked for so long, too: buffers are given back then. One timer
/// serves all its limits: it is looked at when it fires, not moved at each request, and `http` is polled whenever it does.
async fn watch<C>(
    mut http: Pin<&mut C>,
    connection: &Connection,
    settings: Settings,
    rest: Option<Duration>,
    graceful: fn(Pin<&mut C>),
) -> Ended
where
    C: Future<Output = hyper::Result<()>>,
{
    let shortest = settings.head.min(settings.idle);
    let pace = rest.map_or(shortest, |_| PULSE.min(shortest));
    let timer = tokio::time::sleep(rest.map_or(pace, |rest| rest.min(pace)));
    tokio::pin!(timer);
    let mut drain = Drain::No;
    let mut stall = Stall::default();
    let mut listed = None;
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = http.as_mut().poll(cx) {
                return Poll::Ready(Ended::ByItself(ended));
            }
            connection.bytes_read();
            let closing = connection.poll_closing(cx, &mut listed);
            if closing && connection.is_cut() {
                return Poll::Ready(Ended::Cut);
            }
            if closing && matches!(drain, Drain::No) {
                drain = Drain::Lingering;
                timer.as_mut().reset(Instant::now() + LINGER);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let mut close = matches!(drain, Drain::Lingering);
            let now = std::time::Instant::now();
            let mut quiet = None;
            if let (Some(rest), Drain::No, Some(since)) = (rest, &drain, connection.at_rest_since()) {
                // Idle for too long, it is hyper's to close.
                if (since + rest..since + settings.idle).contains(&now) {
                    return Poll::Ready(Ended::AtRest);
                }
                quiet = Some(since + rest).filter(|end| *end > now);
            }
            let next = match connection.patience(settings.head, settings.idle) {
                Some((end, Limit::Idle)) if end <= now && !matches!(drain, Drain::Asked) => {
                    close = true;
                    now + LINGER
                }
                Some((end, limit)) if end <= now => return Poll::Ready(Ended::Overdue(limit)),
                Some((end, _)) => end.min(quiet.unwrap_or(now + pace)),
                None if stall.lasts(connection.waits_for_client(), now, settings.idle) => {
                    return Poll::Ready(Ended::Overdue(Limit::Untaken));
                }
                // Whatever comes after the request under way cannot be overdue before this.
                None => now + pace,
            };
            timer.as_mut().reset(next.into());
            if close {
                graceful(http.as_mut());
                drain = Drain::Asked;
            }
        }
    })
    .await
}

enum Drain {
    No,
    /// Answers say `close`, but an idle connection stays open a little: a request may be on its way, and closing would
    /// lose it.
    Lingering,
    Asked,
}

/// Whether a client leaves its answers where they are.
#[derive(Default)]
struct Stall {
    since: Option<(u32, std::time::Instant)>,
}

impl Stall {
    /// `waits`: see `Connection::waits_for_client`. True once that has been the same for as long as `limit`.
    fn lasts(&mut self, waits: Option<u32>, now: std::time::Instant, limit: Duration) -> bool {
        match (waits, self.since) {
            (Some(at), Some((seen, since))) if at == seen => now - since >= limit,
            (waits, _) => {
                self.since = waits.map(|at| (at, now));
                false
            }
        }
    }
}

fn reason_of(error: &hyper::Error) -> (Reason, String) {
    let reason = if error.is_parse_too_large() { Reason::HeadTooLarge } else { Reason::BadRequest };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    (reason, format!("{error}{cause}"))
}

/// A request under way.
struct InRequest {
    connection: Arc<Connection>,
    /// It has an answer, and its next piece is the client's to take.
    untaken: bool,
}

impl InRequest {
    fn set_untaken(&mut self, untaken: bool) {
        if self.untaken != untaken {
            self.untaken = untaken;
            self.connection.note_untaken(untaken);
        }
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        self.set_untaken(false);
        self.connection.request_ended();
    }
}

pin_project! {
    /// A body that keeps its connection busy until it is dropped.
    pub(super) struct Busy<B> {
        #[pin]
        body: B,
        busy: InRequest,
    }
}

impl<B: Body<Data = Bytes>> Body for Busy<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        this.busy.set_untaken(polled.is_ready());
        this.busy.connection.progressed();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection without a request for this long gives its buffers back, at the next look of `watch`.
const REST: Duration = Duration::from_millis(250);
const LINGER: Duration = Duration::from_millis(250);
const READ_BUFFER: usize = 256 * 1024;
const HYPER_HEADERS: usize = 100;
const ERROR_RESETS: usize = 256;
const PEER_ERROR_RESETS: usize = 1024;
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
