//! The app behind every contender, as cheap as can be: HTTP/1.1 by hand, HTTP/2 without TLS by hyper.
//!
//! --listen ADDR --h2c ADDR
//! `GET /big` answers 100 MiB, PUT and POST are swallowed, gRPC is answered with a message and trailers, and all else
//! with 1 KiB.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use mesh_bench::Flags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SMALL: usize = 1024;
const BIG: usize = 100 << 20;
const CHUNK: usize = 256 * 1024;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const END_OF_CHUNKS: &[u8] = b"0\r\n\r\n";

/// One HTTP/1.1 connection and what was read of it and not yet used.
struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Reads more; an error when the peer has closed.
    async fn more(&mut self) -> io::Result<()> {
        match self.socket.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }

    /// The length of the next head.
    async fn head(&mut self) -> io::Result<usize> {
        loop {
            if let Some(at) = memmem::find(&self.buffer[..self.filled], END_OF_HEAD) {
                return Ok(at + END_OF_HEAD.len());
            }
            self.more().await?;
        }
    }

    fn used(&mut self, count: usize) {
        self.buffer.copy_within(count..self.filled, 0);
        self.filled -= count;
    }

    async fn swallow(&mut self, length: Option<usize>) -> io::Result<()> {
        match length {
            Some(mut left) => loop {
                let now = left.min(self.filled);
                self.used(now);
                left -= now;
                if left == 0 {
                    return Ok(());
                }
                self.more().await?;
            },
            // The bodies of this benchmark do not hold these bytes.
            None => loop {
                if self.buffer[..self.filled].ends_with(END_OF_CHUNKS) {
                    self.filled = 0;
                    return Ok(());
                }
                let tail = self.filled.saturating_sub(END_OF_CHUNKS.len());
                self.used(tail);
                self.more().await?;
            },
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let line = head.split("\r\n").find(|line| line.to_ascii_lowercase().starts_with("content-length:"))?;
    line.split_once(':')?.1.trim().parse().ok()
}

async fn serve1(socket: TcpStream, small: Bytes, chunk: Bytes) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = Connection { socket, buffer: vec![0; CHUNK], filled: 0 };
    loop {
        let length = connection.head().await?;
        let head = &connection.buffer[..length];
        let closes = memmem::find(head, b"onnection: close").is_some();
        if head.starts_with(b"P") {
            let (body, waits) = (content_length(head), memmem::find(head, b"100-continue").is_some());
            connection.used(length);
            if waits {
                connection.socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            connection.swallow(body).await?;
            connection.socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        } else if head.starts_with(b"GET /big") {
            connection.used(length);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BIG}\r\n\r\n");
            connection.socket.write_all(head.as_bytes()).await?;
            for _ in 0..BIG / CHUNK {
                connection.socket.write_all(&chunk).await?;
            }
        } else {
            connection.used(length);
            connection.socket.write_all(&small).await?;
        }
        if closes {
            return Ok(());
        }
    }
}

type Frames = Vec<Result<Frame<Bytes>, Infallible>>;

/// The request's body is read to its end before the answer, as an app would.
async fn answer2(request: Request<Incoming>, small: Bytes) -> Result<Response<StreamBody<Walk>>, hyper::Error> {
    let grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/grpc");
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let mut frames: Frames = vec![Ok(Frame::data(small))];
    let mut response = Response::builder().header("server", "backend");
    if grpc {
        let ok = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
        frames.push(Ok(Frame::trailers(ok)));
        response = response.header(header::CONTENT_TYPE, "application/grpc");
    } else {
        response = response.header(header::CONTENT_TYPE, "text/plain").header(header::CONTENT_LENGTH, SMALL);
    }
    Ok(response.body(StreamBody::new(Walk(frames.into_iter()))).expect("a response"))
}

/// The frames that are there already, one a poll.
struct Walk(std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>);

impl futures_core::Stream for Walk {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

async fn serve2(socket: TcpStream, small: Bytes) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    socket.set_nodelay(true)?;
    let service = service_fn(move |request| answer2(request, small.clone()));
    http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(1000)
        .serve_connection(TokioIo::new(socket), service)
        .await?;
    Ok(())
}

fn main() -> io::Result<()> {
    let flags = Flags::of_process();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: backend\r\n\
         content-length: {SMALL}\r\n\r\n"
    );
    let body = "x".repeat(SMALL);
    let small1 = Bytes::from(head + &body);
    // As a gRPC message it is one of 1,019 bytes.
    let mut message = vec![0, 0, 0, (SMALL >> 8) as u8 - 1, 0xfb];
    message.resize(SMALL, b'x');
    let (small2, chunk) = (Bytes::from(message), Bytes::from(vec![b'x'; CHUNK]));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let h2c = TcpListener::bind(flags.required::<String>("h2c")).await?;
        tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = h2c.accept().await else { continue };
                tokio::spawn(serve2(socket, small2.clone()));
            }
        });
        let plain = TcpListener::bind(flags.required::<String>("listen")).await?;
        loop {
            let (socket, _) = plain.accept().await?;
            tokio::spawn(serve1(socket, small1.clone(), chunk.clone()));
        }
    })
}
