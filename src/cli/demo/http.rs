//! A small HTTP/1.1 client on kept connections, for the demo's own traffic.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::lifecycle::Lifecycle;

/// Asks one address; connections are kept between requests.
pub(super) struct Caller {
    address: SocketAddr,
    tasks: Lifecycle,
    /// As many as requests were ever under way at once.
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Caller {
    pub(super) fn new(address: SocketAddr, tasks: &Lifecycle) -> Self {
        Self { address, tasks: tasks.clone(), idle: Mutex::default() }
    }

    pub(super) async fn get(&self, host: &str, path: &str) -> anyhow::Result<Response<Bytes>> {
        self.ask(Method::GET, host, path).await
    }

    pub(super) async fn ask(&self, method: Method, host: &str, path: &str) -> anyhow::Result<Response<Bytes>> {
        let asked = tokio::time::timeout(LIMIT, self.exchange(method, host, path)).await;
        asked.with_context(|| format!("{host}{path} gave no answer in {LIMIT:?}"))?
    }

    async fn exchange(&self, method: Method, host: &str, path: &str) -> anyhow::Result<Response<Bytes>> {
        let mut sender = self.connection().await?;
        let request = Request::builder().method(method).uri(path).header(http::header::HOST, host);
        let request = request.body(Empty::new()).context("making the request")?;
        let (head, body) = sender.send_request(request).await.context("sending the request")?.into_parts();
        let body = body.collect().await.context("reading the answer")?.to_bytes();
        self.idle.lock().push(sender);
        Ok(Response::from_parts(head, body))
    }

    async fn connection(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        loop {
            let kept = self.idle.lock().pop();
            let Some(mut sender) = kept else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let socket =
            TcpStream::connect(self.address).await.with_context(|| format!("connecting to {}", self.address))?;
        socket.set_nodelay(true).context("setting TCP_NODELAY")?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        self.tasks.spawn("demo-connection", async move {
            // How it ends is seen by the request that was on it.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// Longer than an upstream's own 15 s: a sidecar's answer comes first.
const LIMIT: Duration = Duration::from_secs(20);
