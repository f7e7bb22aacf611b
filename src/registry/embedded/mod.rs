//! A registry for development and the demo: the part of Consul's HTTP API that a sidecar uses, in memory, with a CA made
//! on the spot. Answers as Consul 1.8.7 does; `tests/it/registry.rs` holds both to the same contract.

mod api;
mod ca;
mod decode;
mod filter;
mod query;
mod state;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use ca::CaError;

use crate::lifecycle::Lifecycle;

/// An empty registry with a fresh CA; `serve` makes it answer.
///
/// What differs from Consul on purpose: TTL checks and `Connect.Native` services only, filter expressions on health only
/// and refused with 400, no ACLs, no gzip, no CA rotation, JSON syntax errors in other words, and a service that stayed critical goes when its time is over
/// instead of up to 30 s later.
pub struct Embedded {
    ca: ca::Ca,
}

impl Embedded {
    /// # Errors
    /// When the CA's key or certificate cannot be made.
    pub fn new() -> Result<Self, CaError> {
        Ok(Self { ca: ca::Ca::new()? })
    }

    /// Answers on `listener` until `lifecycle` is drained; then every blocking query is answered at once and idle
    /// connections close. Connections run as tasks of `lifecycle`.
    pub async fn serve(self, listener: TcpListener, lifecycle: Lifecycle) {
        let node_id = uuid::Uuid::new_v4().to_string();
        let shared = Arc::new(Shared {
            state: Mutex::new(state::State::new(&node_id)),
            changed: watch::Sender::new(0),
            ca: self.ca,
            address: listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            drain: CancellationToken::new(),
            node_id,
        });
        let drained = lifecycle.drained();
        tokio::select! {
            () = accept(&listener, &shared, &lifecycle) => {}
            () = keep_time(&shared) => {}
            () = drained => {}
        }
        shared.drain.cancel();
    }
}

/// What every connection looks at.
struct Shared {
    state: Mutex<state::State>,
    /// Wakes blocking queries and the clock at each write.
    changed: watch::Sender<u64>,
    ca: ca::Ca,
    address: String,
    node_id: String,
    drain: CancellationToken,
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>, lifecycle: &Lifecycle) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a peer that left while it waited: neither is a reason to stop accepting.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Consul resets what is past its limit, so that clients do not wait for nothing.
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let shared = shared.clone();
        lifecycle.spawn("registry-connection", async move {
            let _slot = slot;
            serve_connection(stream, shared).await;
        });
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    // A small answer goes out at once; a failure to ask for it costs only speed.
    let _ = stream.set_nodelay(true);
    let drain = shared.drain.clone();
    let service = service_fn(|request| respond(shared.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a registry connection ended early");
    }
}

async fn respond(shared: Arc<Shared>, request: Request<Incoming>) -> Result<api::Answer, Infallible> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    Ok(match read(body).await {
        Ok(body) => shared.answer(&head.method, head.uri.path(), query, body).await,
        Err(refusal) => refusal,
    })
}

async fn read(body: Incoming) -> Result<Bytes, api::Answer> {
    let too_large = || {
        let text = format!("Request body too large, max size: {MAX_BODY} bytes");
        api::text(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    // What announces that it is too large is not waited for.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_LIMIT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(api::text(StatusCode::REQUEST_TIMEOUT, "Request body took too long")),
    }
}

/// Lets TTL checks run out and removes what was critical for too long.
async fn keep_time(shared: &Shared) {
    loop {
        let mut changed = shared.changed.subscribe();
        let now = Instant::now();
        let (expired, due) = shared.state.lock().expire(now);
        if expired {
            shared.changed.send_modify(|version| *version += 1);
        }
        let next = due.unwrap_or(now + Duration::from_hours(1));
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

const MAX_CONNECTIONS: usize = 512;
/// Consul's limit for one value; a registration is far smaller.
const MAX_BODY: usize = 512 * 1024;
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// How long a kept connection may stay silent between requests.
const IDLE: Duration = Duration::from_mins(2);

#[cfg(test)]
mod tests;
