//! The sockets of admin and metrics: accept, cap, limits of time. Serves on through a drain, so that `/readyz` shows it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::View;
use super::desk::Desk;
use crate::lifecycle::Lifecycle;

/// Serves the admin endpoints. Never returns by itself: spawn it on `lifecycle`, whose kill ends it and its connections.
/// A drain does not end it.
pub async fn serve_admin(listener: TcpListener, view: Arc<View>, lifecycle: Lifecycle) {
    // A socket that cannot tell its address is held to the stricter rule.
    let bound = listener.local_addr().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
    serve(listener, Desk::admin(view, bound), "admin connection", lifecycle).await;
}

/// Serves `/metrics`, `/livez` and `/readyz`, nothing else. Ends as `serve_admin` does.
pub async fn serve_metrics(listener: TcpListener, view: Arc<View>, lifecycle: Lifecycle) {
    serve(listener, Desk::metrics(view), "metrics connection", lifecycle).await;
}

async fn serve(listener: TcpListener, desk: Desk, task: &'static str, lifecycle: Lifecycle) {
    let desk = Arc::new(desk);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                failing = false;
                let Ok(place) = places.clone().try_acquire_owned() else {
                    let _ = socket.try_write(FULL);
                    continue;
                };
                let desk = desk.clone();
                lifecycle.spawn(task, async move {
                    serve_connection(socket, desk).await;
                    drop(place);
                });
            }
            Err(error) => {
                // EMFILE and its like pass; a connection that ended before it was accepted is no fault of ours.
                if !failing {
                    tracing::warn!(listener = task, %error, "accepting fails; trying again");
                    failing = true;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Serves one connection for at most `LIFE`, and `LAST` more for the request that it has by then: a client that does not
/// read its answer cannot hold a place for longer.
async fn serve_connection(socket: TcpStream, desk: Arc<Desk>) {
    // Without it small answers wait for acknowledgements (Nagle).
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_SIZE);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(socket), service));
    if timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST, connection).await;
    }
}

/// Of each listener.
pub(super) const CONNECTIONS: usize = 128;
/// For a request's head, the idle time before it included.
const HEAD: Duration = Duration::from_secs(10);
const HEAD_SIZE: usize = 32 * 1024;
const LIFE: Duration = Duration::from_secs(60);
/// More than the longest answer takes: that to `/reload`.
const LAST: Duration = Duration::from_secs(45);
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 83\r\n\r\n\
    {\"error\":\"busy\",\"message\":\"This listener has its 128 connections; try again soon.\"}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_over_the_cap_is_whole() {
        let text = String::from_utf8(FULL.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let said: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(said["error"], "busy");
        assert!(body.contains(&CONNECTIONS.to_string()));
    }
}
