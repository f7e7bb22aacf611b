//! A scripted app inside the test process: HTTP/1.1 and h2c on one loopback port. What it does is named by the path.
//!
//! `/healthz` well or not, as set · `/echo` what arrived, as JSON · `/mirror` the request's body and trailers as they
//! come · `/status/N` · `/delay/MS` · `/bytes/N` · `/trailers` · `/hop` hop-by-hop headers · `/hold` until `release` ·
//! `/events` one event at once and one at `release` · `/reset` a body cut short · `/drop` no answer at all · `/empty/N`
//! a status that has no body · else its name.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::runtime;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

pub struct App {
    name: String,
    address: SocketAddr,
    state: Arc<State>,
    server: Option<Server>,
}

struct Server {
    /// Dropped, it stops.
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

struct State {
    name: String,
    healthy: AtomicBool,
    requests: Mutex<BTreeMap<String, usize>>,
    now: AtomicUsize,
    most: AtomicUsize,
    release: Notify,
}

impl App {
    pub fn start(name: &str) -> Self {
        let state = State {
            name: name.to_owned(),
            healthy: AtomicBool::new(true),
            requests: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            release: Notify::new(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().unwrap();
        let mut app = Self { name: name.to_owned(), address, state: Arc::new(state), server: None };
        app.serve(listener);
        app
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many requests for that path have come in, health probes included.
    pub fn seen(&self, path: &str) -> usize {
        self.state.requests.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// How many requests were under way at once, at most.
    pub fn most_at_once(&self) -> usize {
        self.state.most.load(Ordering::Relaxed)
    }

    /// What `/healthz` says from now on.
    pub fn set_healthy(&self, healthy: bool) {
        self.state.healthy.store(healthy, Ordering::Relaxed);
    }

    /// Lets every `/hold` under way answer.
    pub fn release(&self) {
        self.state.release.notify_waiters();
    }

    /// Dies as by `kill -9`: the port is closed and every connection cut.
    pub fn stop(&mut self) {
        if let Some(Server { stop, ended }) = self.server.take() {
            drop(stop);
            let _ = runtime().block_on(ended);
        }
    }

    /// Comes back on the same port.
    pub fn restart(&mut self) {
        self.stop();
        let listener = TcpListener::bind(self.address).expect("the app's port is still free");
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let state = self.state.clone();
        let (stop, mut stopped) = oneshot::channel();
        let ended = runtime().spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut connections = JoinSet::new();
            while let Some(Ok((socket, _))) = tokio::select! {
                accepted = listener.accept() => Some(accepted),
                _ = &mut stopped => None,
            } {
                let state = state.clone();
                connections.spawn(async move { connection(socket, state).await });
                while connections.try_join_next().is_some() {}
            }
            drop(listener);
            // A dropped set only asks its tasks to end: one of them could still read a request.
            connections.shutdown().await;
        });
        self.server = Some(Server { stop, ended });
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn connection(socket: TcpStream, state: Arc<State>) {
    let _ = socket.set_nodelay(true);
    let mut first = [0; 4];
    let is_h2 = match socket.peek(&mut first).await {
        Ok(read) => first[..read].starts_with(b"PRI "),
        Err(_) => return,
    };
    let service = service_fn(move |request| answer(request, state.clone()));
    let io = TokioIo::new(socket);
    // How a connection ends is the business of the side that the test looks at.
    if is_h2 {
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.timer(TokioTimer::new()).serve_connection(io, service).await;
    } else {
        let mut server = hyper::server::conn::http1::Builder::new();
        let _ = server.timer(TokioTimer::new()).serve_connection(io, service).await;
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, BoxError> {
    let path = request.uri().path().to_owned();
    *state.requests.lock().unwrap().entry(path.clone()).or_default() += 1;
    let now = state.now.fetch_add(1, Ordering::Relaxed) + 1;
    state.most.fetch_max(now, Ordering::Relaxed);
    let _under_way = UnderWay(state.clone());
    let mut words = path.trim_start_matches('/').splitn(2, '/');
    let (what, how) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut response = match what {
        "healthz" if state.healthy.load(Ordering::Relaxed) => text("well"),
        "healthz" => status(503),
        "grpc.health.v1.Health" => grpc_health(state.healthy.load(Ordering::Relaxed)),
        "echo" => echo(request, &state.name).await?,
        "mirror" => Response::new(request.into_body().map_err(BoxError::from).boxed_unsync()),
        "status" | "empty" => status(how.parse()?),
        "delay" => {
            tokio::time::sleep(Duration::from_millis(how.parse()?)).await;
            text("late")
        }
        "bytes" => bytes(how.parse()?),
        "trailers" => trailers(),
        "hop" => hop(),
        "leaky" => leaky(),
        "hold" => {
            state.release.notified().await;
            text("held")
        }
        "events" => events(state.clone()),
        "reset" => cut(),
        "drop" => return Err("dropped on purpose".into()),
        _ => text(&state.name),
    };
    response.headers_mut().insert("x-app", state.name.parse()?);
    Ok(response)
}

struct UnderWay(Arc<State>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn echo(request: Request<Incoming>, app: &str) -> Result<Response<Body>, BoxError> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().map(pairs).unwrap_or_default();
    let body = body.to_bytes();
    let told = serde_json::json!({
        "app": app, "method": head.method.as_str(), "target": head.uri.to_string(),
        "version": format!("{:?}", head.version), "headers": pairs(&head.headers), "length": body.len(),
        "body": String::from_utf8_lossy(&body[..body.len().min(1024)]), "trailers": trailers,
    });
    Ok(text(&told.to_string()))
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

fn text(body: &str) -> Response<Body> {
    Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())).map_err(never).boxed_unsync())
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(never).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).expect("a status code in the path");
    response
}

fn bytes(count: usize) -> Response<Body> {
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    let whole = count / chunk.len();
    let rest = chunk.slice(..count % chunk.len());
    let chunks = std::iter::repeat_n(chunk, whole).chain(std::iter::once(rest));
    let frames = chunks.map(|chunk| Ok::<_, BoxError>(Frame::data(chunk)));
    Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync())
}

fn with_trailers(body: &'static str, name: &'static str, value: &'static str) -> Body {
    let trailers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
    let frames = [Ok::<_, BoxError>(Frame::data(Bytes::from_static(body.as_bytes()))), Ok(Frame::trailers(trailers))];
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

/// RFC 9110 §6.6.2: hyper sends only the trailers that `Trailer` names, and only to those who said `TE: trailers`.
fn trailers() -> Response<Body> {
    let mut response = Response::new(with_trailers("hello", "x-checksum", "5d41"));
    response.headers_mut().insert("trailer", "x-checksum".parse().unwrap());
    response
}

/// Server-sent events.
fn events(state: Arc<State>) -> Response<Body> {
    let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b"data: 1\n\n"))) });
    let second = stream::once(async move {
        state.release.notified().await;
        Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"data: 2\n\n")))
    });
    let mut response = Response::new(StreamBody::new(first.chain(second)).boxed_unsync());
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

fn hop() -> Response<Body> {
    let mut response = text("hop");
    for (name, value) in [("connection", "x-secret"), ("x-secret", "1"), ("keep-alive", "timeout=9"), ("x-kept", "1")] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

/// Says what it is made of, and whose scripts may read it.
fn leaky() -> Response<Body> {
    let mut response = text("leaky");
    for (name, value) in
        [("server", "gunicorn/20.1"), ("x-powered-by", "PHP/5.4"), ("access-control-allow-origin", "https://app.said")]
    {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

/// Promises 1000 bytes, sends ten, and breaks once those are on their way.
fn cut() -> Response<Body> {
    let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b"ten bytes."))) });
    let then = stream::once(async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(BoxError::from("cut on purpose"))
    });
    let mut response = Response::new(StreamBody::new(first.chain(then)).boxed_unsync());
    response.headers_mut().insert("content-length", "1000".parse().unwrap());
    response
}

/// grpc.health.v1: a HealthCheckResponse with status SERVING (1) or NOT_SERVING (2), length-prefixed.
fn grpc_health(healthy: bool) -> Response<Body> {
    let message = if healthy { "\0\0\0\0\u{2}\u{8}\u{1}" } else { "\0\0\0\0\u{2}\u{8}\u{2}" };
    let mut response = Response::new(with_trailers(message, "grpc-status", "0"));
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    response
}

fn never(error: Infallible) -> BoxError {
    match error {}
}
