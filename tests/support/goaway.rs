//! An endpoint of HTTP/2 with prior knowledge that ends each connection in order (GOAWAY) after some requests.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::runtime;

pub struct Goaway {
    pub address: SocketAddr,
    connections: Arc<AtomicU64>,
}

impl Goaway {
    /// After so many requests a connection takes no more.
    pub fn after(requests: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        runtime().spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                runtime().spawn(serve(socket, requests));
            }
        });
        Self { address, connections }
    }

    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(socket: TcpStream, requests: u64) {
    let (seen, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let told = enough.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        if seen.fetch_add(1, Ordering::Relaxed) + 1 == requests {
            told.notify_one();
        }
        async move {
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body.len().to_string()))))
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = enough.notified() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
