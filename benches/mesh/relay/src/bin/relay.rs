//! A relay without any feature: what a proxy on hyper and rustls can at best come near to.
//!
//! --listen ADDR --upstream ADDR   where it listens, where everything goes
//! --in h2, --out h2               HTTP/2 instead of HTTP/1.1; behind TLS, ALPN decides what comes in
//! --tls-in DIR, --tls-out DIR     mTLS with the certificates in DIR
//! --late                          HTTP/2 connections are flushed late
//!
//! One thread, one endpoint, connections in a last-in-first-out pool, no timeout, no header added.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, Version, header, uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1 as client1, http2 as client2};
use hyper::server::conn::{http1 as server1, http2 as server2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_bench::late::Late;
use mesh_bench::{Flags, client, inbound_name, server};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Sender1 = client1::SendRequest<Incoming>;
type Sender2 = client2::SendRequest<Incoming>;

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const FRAME: u32 = 64 * 1024;
const STREAMS: u32 = 1000;

struct Relay {
    upstream: SocketAddr,
    in_h2: bool,
    out_h2: bool,
    late: bool,
    accept: Option<TlsAcceptor>,
    connect: Option<TlsConnector>,
    idle: Mutex<Vec<Sender1>>,
    shared: Mutex<Option<Sender2>>,
    /// One dial at a time, so that a burst at the start makes one HTTP/2 connection.
    dialling: tokio::sync::Mutex<()>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// An answer's body, which gives its HTTP/1.1 connection back at the end.
struct Answer {
    body: Incoming,
    lent: Option<(Sender1, Arc<Relay>)>,
}

impl Answer {
    fn give_back(&mut self) {
        if let Some((sender, relay)) = self.lent.take() {
            relay.idle.lock().expect("the pool").push(sender);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Relay {
    async fn dial(&self) -> Result<TcpStream, Failure> {
        let socket = TcpStream::connect(self.upstream).await?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    async fn sender1(&self) -> Result<Sender1, Failure> {
        loop {
            let kept = self.idle.lock().expect("the pool").pop();
            let Some(mut sender) = kept else { break };
            if sender.is_ready() || sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let socket = self.dial().await?;
        match &self.connect {
            None => open1(socket).await,
            Some(tls) => open1(tls.connect(inbound_name(), socket).await?).await,
        }
    }

    async fn sender2(&self) -> Result<Sender2, Failure> {
        if let Some(sender) = self.open_sender2() {
            return Ok(sender);
        }
        let _one = self.dialling.lock().await;
        if let Some(sender) = self.open_sender2() {
            return Ok(sender);
        }
        let socket = self.dial().await?;
        let sender = match &self.connect {
            None => open2(socket, self.late).await?,
            Some(tls) => open2(tls.connect(inbound_name(), socket).await?, self.late).await?,
        };
        *self.shared.lock().expect("the connection") = Some(sender.clone());
        Ok(sender)
    }

    fn open_sender2(&self) -> Option<Sender2> {
        self.shared.lock().expect("the connection").as_ref().filter(|sender| !sender.is_closed()).cloned()
    }
}

async fn open1(stream: impl Stream) -> Result<Sender1, Failure> {
    let (sender, connection) = client1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn open2(stream: impl Stream, late: bool) -> Result<Sender2, Failure> {
    let (sender, connection) = client2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .handshake(TokioIo::new(Late::new(stream, late)))
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn pass(relay: Arc<Relay>, mut request: Request<Incoming>) -> Result<Response<Answer>, Failure> {
    let came_by = request.version();
    request.headers_mut().remove(header::CONNECTION);
    let mut response = if relay.out_h2 {
        to_h2(&mut request)?;
        let mut sender = relay.sender2().await?;
        sender.ready().await?;
        sender.send_request(request).await?.map(|body| Answer { body, lent: None })
    } else {
        if came_by == Version::HTTP_2 {
            to_h1(&mut request)?;
        }
        let mut sender = relay.sender1().await?;
        let response = sender.send_request(request).await?;
        response.map(|body| Answer { body, lent: Some((sender, relay)) })
    };
    let headers = response.headers_mut();
    headers.remove(header::CONNECTION);
    if came_by == Version::HTTP_2 {
        headers.remove("keep-alive");
        headers.remove(header::TRANSFER_ENCODING);
    }
    *response.version_mut() = came_by;
    Ok(response)
}

fn to_h2(request: &mut Request<Incoming>) -> Result<(), Failure> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = request.headers_mut().remove(header::HOST) {
        parts.authority = Some(uri::Authority::try_from(host.as_bytes())?);
    }
    parts.scheme = Some(uri::Scheme::HTTP);
    *request.uri_mut() = Uri::from_parts(parts)?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

fn to_h1(request: &mut Request<Incoming>) -> Result<(), Failure> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(authority) = parts.authority.take() {
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    }
    parts.scheme = None;
    *request.uri_mut() = Uri::from_parts(parts)?;
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

async fn serve(stream: impl Stream, relay: Arc<Relay>, h2: bool) -> Result<(), Failure> {
    let late = relay.late;
    let service = service_fn(move |request| pass(relay.clone(), request));
    if h2 {
        server2::Builder::new(TokioExecutor::new())
            .auto_date_header(false)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_concurrent_streams(STREAMS)
            .serve_connection(TokioIo::new(Late::new(stream, late)), service)
            .await?;
    } else {
        server1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), service).await?;
    }
    Ok(())
}

async fn accept(socket: TcpStream, relay: Arc<Relay>) -> Result<(), Failure> {
    socket.set_nodelay(true)?;
    let Some(tls) = &relay.accept else {
        let h2 = relay.in_h2;
        return serve(socket, relay, h2).await;
    };
    let stream = tls.accept(socket).await?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    serve(stream, relay, h2).await
}

async fn run(listener: TcpListener, relay: Arc<Relay>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        // A broken connection is its client's affair.
        tokio::spawn(accept(socket, relay.clone()));
    }
}

fn main() -> Result<(), Failure> {
    let flags = Flags::of_process();
    let out_h2 = flags.text("out") == Some("h2");
    let protocol = if out_h2 { "h2" } else { "http/1.1" };
    let relay = Arc::new(Relay {
        upstream: flags.required("upstream"),
        in_h2: flags.text("in") == Some("h2"),
        out_h2,
        late: flags.has("late"),
        accept: flags.text("tls-in").map(|folder| server(Path::new(folder)).into()),
        connect: flags.text("tls-out").map(|folder| client(Path::new(folder), protocol).into()),
        idle: Mutex::default(),
        shared: Mutex::default(),
        dialling: tokio::sync::Mutex::default(),
    });
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(flags.required("listen"))?;
        let listener = socket.listen(4096)?;
        // As a task of its own: `block_on` polls its own future at every wake.
        tokio::spawn(run(listener, relay)).await?;
        Ok(())
    })
}
