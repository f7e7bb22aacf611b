//! How the sidecar asks its app whether it is well, and when the answers add up to a change. Knows nothing of Consul.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dns::resolve;
use crate::published::Published;

/// What is asked, how often, and how many answers make a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub method: Method,
    /// Host of the app: an IP address, or a name that is looked up for each probe.
    pub address: String,
    pub port: u16,
    /// From one probe's start to the next one's; shorter while the app is not well.
    pub interval: Duration,
    /// Of one probe; never more than `interval`.
    pub timeout: Duration,
    /// Answers in a row, at least 1.
    pub healthy_after: u32,
    /// Failures in a row, at least 1.
    pub unhealthy_after: u32,
}

/// The question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// GET of this path: 2xx is well. `prior_knowledge` speaks HTTP/2 without TLS, for apps that know nothing else.
    Http { path: String, prior_knowledge: bool },
    /// The app accepts a connection.
    Tcp,
    /// `grpc.health.v1.Health/Check` of this service name: SERVING is well.
    Grpc(String),
    /// Nothing is asked: the sidecar itself is the sign of life.
    None,
}

/// What the probes say so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppHealth {
    /// No verdict yet; counts as not well.
    Unknown,
    Well,
    Ill {
        why: String,
    },
}

impl AppHealth {
    #[must_use]
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Well)
    }
}

/// Asks the app again and again, and publishes changes.
pub struct Probe {
    settings: Arc<Published<Settings>>,
    health: watch::Sender<AppHealth>,
}

impl Probe {
    /// Follows `settings` as they are reloaded; what was learned so far stays.
    #[must_use]
    pub fn new(settings: Arc<Published<Settings>>) -> Self {
        Self { settings, health: watch::Sender::new(AppHealth::Unknown) }
    }

    #[must_use]
    pub fn health(&self) -> watch::Receiver<AppHealth> {
        self.health.subscribe()
    }

    /// Probes until dropped; the first probe starts at once.
    pub async fn run(&self) {
        let mut judge = Judge::default();
        let mut versions = self.settings.versions();
        loop {
            versions.mark_unchanged();
            let settings = self.settings.snapshot();
            let started = Instant::now();
            let seen = ask(&settings).await;
            if let Some(health) = judge.hear(seen, &settings) {
                self.publish(health);
            }
            let next = started + judge.pause(&settings);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                // Settings that nobody can change any more are no reason to hurry.
                Ok(()) = versions.changed() => {}
            }
        }
    }

    fn publish(&self, health: AppHealth) {
        match &health {
            AppHealth::Unknown => {}
            AppHealth::Well => tracing::info!("the app is well"),
            AppHealth::Ill { why } => tracing::warn!(%why, "the app is not well"),
        }
        self.health.send_replace(health);
    }
}

/// Counts answers and failures in a row. Pure: no clock, no sockets.
#[derive(Debug)]
struct Judge {
    health: AppHealth,
    answers: u32,
    failures: u32,
}

impl Default for Judge {
    fn default() -> Self {
        Self { health: AppHealth::Unknown, answers: 0, failures: 0 }
    }
}

impl Judge {
    /// The new verdict, where this answer changed it.
    fn hear(&mut self, seen: Result<(), String>, settings: &Settings) -> Option<AppHealth> {
        let next = match seen {
            Ok(()) => {
                (self.answers, self.failures) = (self.answers.saturating_add(1), 0);
                (self.answers >= settings.healthy_after && !self.health.is_well()).then_some(AppHealth::Well)
            }
            Err(why) => {
                (self.answers, self.failures) = (0, self.failures.saturating_add(1));
                let already = matches!(self.health, AppHealth::Ill { .. });
                (self.failures >= settings.unhealthy_after && !already).then_some(AppHealth::Ill { why })
            }
        }?;
        self.health = next.clone();
        Some(next)
    }

    /// From the start of the last probe to the start of the next one.
    fn pause(&self, settings: &Settings) -> Duration {
        let interval = settings.interval;
        if !self.health.is_well() {
            // Soon back in service; but an app that stays ill is not asked all the time.
            let quick = if self.failures < 40 { Duration::from_millis(250) } else { Duration::from_secs(1) };
            return interval.min(quick);
        }
        // A hung app costs the time limit at each probe, and still has to turn ill within
        // `interval × unhealthy_after + 1 s`. So the probes that confirm a failure come sooner by that much, and where
        // they cannot make up for it, the first one does.
        let spare = interval.saturating_sub(time_limit(settings));
        if self.failures > 0 {
            return spare.max(interval.min(Duration::from_millis(100)));
        }
        interval.min(spare * settings.unhealthy_after + Duration::from_secs(1))
    }
}

fn time_limit(settings: &Settings) -> Duration {
    settings.timeout.min(settings.interval)
}

/// One probe, within its time limit.
async fn ask(settings: &Settings) -> Result<(), String> {
    if settings.method == Method::None {
        return Ok(());
    }
    match tokio::time::timeout(time_limit(settings), ask_unbounded(settings)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {:?}", time_limit(settings))),
    }
}

async fn ask_unbounded(settings: &Settings) -> Result<(), String> {
    let stream = connect(&settings.address, settings.port).await?;
    let authority = match settings.address.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{}", settings.port),
        _ => format!("{}:{}", settings.address, settings.port),
    };
    match &settings.method {
        Method::Tcp | Method::None => Ok(()),
        Method::Http { path, prior_knowledge: false } => http1_status(stream, &authority, path).await,
        Method::Http { path, prior_knowledge: true } => http2_status(stream, &authority, path).await,
        Method::Grpc(service) => grpc_health(stream, &authority, service).await,
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let found = resolve(host, port).await.map_err(|error| format!("looking up {host}: {error}"))?;
    let mut failure = format!("{host} has no address");
    for address in found {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = format!("connecting to {address}: {error}"),
        }
    }
    Err(failure)
}

async fn http1_status(stream: TcpStream, authority: &str, path: &str) -> Result<(), String> {
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("GET {path}: {error}"))?;
    let broken = |error: hyper::Error| format!("GET {path}: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = sender.send_request(request);
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    // The connection is driven here, beside its only request: nothing is left behind when the probe ends.
    let mut closed = false;
    let response = loop {
        tokio::select! {
            biased;
            response = &mut exchange => break response.map_err(broken)?,
            ended = &mut connection, if !closed => {
                ended.map_err(broken)?;
                closed = true;
            }
        }
    };
    is_success(&response, path)
}

async fn http2_status(stream: TcpStream, authority: &str, path: &str) -> Result<(), String> {
    let request = http2_request(http::Method::GET, authority, path)?;
    let exchange = async |mut sender: h2::client::SendRequest<Bytes>| {
        let (response, _) = sender.send_request(request, true)?;
        response.await
    };
    is_success(&over_http2(stream, exchange).await?, path)
}

fn is_success<B>(response: &Response<B>, path: &str) -> Result<(), String> {
    match response.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("GET {path} was answered {}", status.as_u16())),
    }
}

fn http2_request(method: http::Method, authority: &str, path: &str) -> Result<Request<()>, String> {
    Request::builder()
        .method(method)
        .uri(format!("http://{authority}{path}"))
        .version(http::Version::HTTP_2)
        .header(header::USER_AGENT, USER_AGENT)
        .body(())
        .map_err(|error| format!("{path}: {error}"))
}

/// Runs one exchange over a fresh HTTP/2 connection, which is driven beside it and closed after it.
async fn over_http2<T>(
    stream: TcpStream,
    exchange: impl AsyncFnOnce(h2::client::SendRequest<Bytes>) -> Result<T, h2::Error>,
) -> Result<T, String> {
    let broken = |error: h2::Error| format!("HTTP/2: {error}");
    let (sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    tokio::select! {
        biased;
        answer = exchange(sender) => answer.map_err(broken),
        ended = connection => Err(match ended {
            Ok(()) => "HTTP/2: the app closed the connection".into(),
            Err(error) => broken(error),
        }),
    }
}

/// github.com/grpc/grpc/blob/master/doc/health-checking.md
async fn grpc_health(stream: TcpStream, authority: &str, service: &str) -> Result<(), String> {
    let mut request = http2_request(http::Method::POST, authority, "/grpc.health.v1.Health/Check")?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, header::HeaderValue::from_static("trailers"));
    let message = grpc_request(service);
    let exchange = async |mut sender: h2::client::SendRequest<Bytes>| {
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(message, true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut message = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            message.extend_from_slice(&chunk[..chunk.len().min(MAX_MESSAGE - message.len())]);
            body.flow_control().release_capacity(chunk.len())?;
        }
        let trailers = body.trailers().await?;
        Ok((head, message.freeze(), trailers))
    };
    let (head, message, trailers) = over_http2(stream, exchange).await?;
    if !head.status.is_success() {
        return Err(format!("the health check was answered {}", head.status.as_u16()));
    }
    // A trailers-only answer has its status in the head.
    let trailers = trailers.unwrap_or(head.headers);
    let status = trailers.get("grpc-status").and_then(|value| value.to_str().ok()).unwrap_or("missing");
    if status != "0" {
        return Err(format!("the health check ended with gRPC status {status}"));
    }
    match serving_status(message) {
        Some(1) => Ok(()),
        Some(2) => Err("NOT_SERVING".into()),
        Some(3) => Err("SERVICE_UNKNOWN".into()),
        Some(other) => Err(format!("serving status {other}")),
        None => Err("the health check's answer is no HealthCheckResponse".into()),
    }
}

/// HealthCheckRequest { string service = 1 } behind gRPC's five bytes: not compressed, length.
fn grpc_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        loop {
            let [low, ..] = length.to_le_bytes();
            length >>= 7;
            if length == 0 {
                message.push(low & 0x7f);
                break;
            }
            message.push(low | 0x80);
        }
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// HealthCheckResponse { ServingStatus status = 1 }: the status, 0 where it is left out; `None` for anything else.
fn serving_status(mut framed: Bytes) -> Option<u64> {
    if framed.try_get_u8().ok()? != 0 {
        return None;
    }
    let length = framed.try_get_u32().ok()? as usize;
    if length != framed.len() {
        return None;
    }
    let mut status = 0;
    while framed.has_remaining() {
        let key = varint(&mut framed)?;
        match key & 7 {
            0 => {
                let value = varint(&mut framed)?;
                status = if key >> 3 == 1 { value } else { status };
            }
            2 => {
                let length = usize::try_from(varint(&mut framed)?).ok()?;
                (length <= framed.len()).then(|| framed.advance(length))?;
            }
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

const USER_AGENT: &str = concat!("outrigger-probe/", env!("CARGO_PKG_VERSION"));
/// Bytes of a health answer that are kept; a good one has seven.
const MAX_MESSAGE: usize = 1024;

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
