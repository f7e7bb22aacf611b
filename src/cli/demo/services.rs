//! The demo's apps: `users` and `orders` tell their name; `web` asks both through its sidecar.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::http::Caller;
use crate::lifecycle::Lifecycle;

/// One running app.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    tasks: Lifecycle,
}

/// What an app does with a request.
#[derive(Clone)]
enum Work {
    TellName,
    AskBoth(Arc<Caller>),
}

impl Service {
    /// An app that tells its name.
    pub(super) fn leaf(name: &'static str, listener: TcpListener) -> anyhow::Result<Self> {
        Self::start(name, listener, Work::TellName, Lifecycle::new())
    }

    /// The edge-facing app: `outbound` is its sidecar's port.
    pub(super) fn web(name: &'static str, listener: TcpListener, outbound: SocketAddr) -> anyhow::Result<Self> {
        let tasks = Lifecycle::new();
        let work = Work::AskBoth(Arc::new(Caller::new(outbound, &tasks)));
        Self::start(name, listener, work, tasks)
    }

    fn start(name: &'static str, listener: TcpListener, work: Work, tasks: Lifecycle) -> anyhow::Result<Self> {
        let address = listener.local_addr().context("asking for the app's port")?;
        tasks.spawn("demo-app", accept(listener, name, work, tasks.clone()));
        Ok(Self { address, tasks })
    }

    /// As `kill -9` would: the port is closed and every connection is cut.
    pub(super) fn kill(&self) {
        self.tasks.kill();
    }
}

async fn accept(listener: TcpListener, name: &'static str, work: Work, tasks: Lifecycle) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => tasks.spawn("demo-app-connection", serve(socket, name, work.clone())),
            // Out of descriptors, or a client that left early: neither is a reason to stop accepting.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn serve(socket: TcpStream, name: &'static str, work: Work) {
    let service = service_fn(move |request| {
        let work = work.clone();
        async move { Ok::<_, Infallible>(answer(&request, name, &work).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    // A client that goes away is the client's business.
    let _ = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service).await;
}

async fn answer(request: &Request<Incoming>, name: &'static str, work: &Work) -> Response<Full<Bytes>> {
    let told = match work {
        _ if request.uri().path() == "/healthz" => Ok(serde_json::json!({ "well": true })),
        Work::TellName => Ok(serde_json::json!({ "instance": name })),
        Work::AskBoth(sidecar) => ask_both(name, sidecar).await,
    };
    let (status, body) = match told {
        Ok(told) => (StatusCode::OK, told),
        Err(error) => (StatusCode::BAD_GATEWAY, serde_json::json!({ "error": format!("{error:#}") })),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// `{"web":"web-1","users":"users-2","orders":"orders-1"}`: who answered.
async fn ask_both(name: &str, sidecar: &Caller) -> anyhow::Result<serde_json::Value> {
    let (users, orders) = tokio::try_join!(instance(sidecar, "users"), instance(sidecar, "orders"))?;
    Ok(serde_json::json!({ "web": name, "users": users, "orders": orders }))
}

async fn instance(sidecar: &Caller, service: &str) -> anyhow::Result<String> {
    let answer = sidecar.get(service, "/").await.with_context(|| format!("asking {service}"))?;
    let text = String::from_utf8_lossy(answer.body());
    anyhow::ensure!(answer.status().is_success(), "{service} answered {}: {}", answer.status(), text.trim());
    let told: serde_json::Value = serde_json::from_slice(answer.body()).context("reading the answer as JSON")?;
    Ok(told["instance"].as_str().unwrap_or("?").to_owned())
}
