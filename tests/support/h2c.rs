//! An HTTP/2 client with prior knowledge, one connection a request.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::client::Answer;
use super::runtime;

#[track_caller]
pub fn send(to: SocketAddr, request: Request<Vec<u8>>) -> Answer {
    try_send(to, request).unwrap_or_else(|error| panic!("HTTP/2 to {to}: {error}"))
}

pub fn try_send(to: SocketAddr, request: Request<Vec<u8>>) -> Result<Answer, String> {
    let work = async move { tokio::time::timeout(Duration::from_secs(20), exchange(to, request)).await };
    match runtime().block_on(async { runtime().spawn(work).await }) {
        Ok(Ok(answer)) => answer.map_err(|error| error.to_string()),
        Ok(Err(_)) => Err("no answer in 20 s".into()),
        Err(panic) => Err(panic.to_string()),
    }
}

async fn exchange(
    to: SocketAddr,
    request: Request<Vec<u8>>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
    let driver = runtime().spawn(connection);
    let response = sender.send_request(request.map(|body| Full::new(Bytes::from(body)))).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    driver.abort();
    let trailers = body.trailers().map(pairs).unwrap_or_default();
    let headers = pairs(&head.headers);
    Ok(Answer { status: head.status.as_u16(), headers, body: body.to_bytes().to_vec(), trailers })
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}
