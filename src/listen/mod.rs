//! Listening sockets: bind, accept, connection caps, TLS, serving HTTP, graceful close. Knows nothing of what the
//! handler does.

mod connection;
mod frames;
mod guard;
mod http;
mod open;
mod places;
mod plain_peers;
mod proxied;
mod sniff;
mod tls;
mod workspace;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Body, Incoming};
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use crate::identity;
use crate::lifecycle::Lifecycle;
use crate::published::Published;
use crate::reason::Reason;
use crate::stream::{Brief, Stream};
use crate::telemetry::{ConnectionState, CutCause, Direction, Metrics, ProxyHeader};

pub use connection::{Connection, Hold, PULSE, Peer};
pub use open::OpenConnections;
pub use plain_peers::PlainPeers;
pub use workspace::Workspaces;

use places::{Full, Place, Places};

/// What a listener allows. Reloadable: a connection keeps what it began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub handshake: Duration,
    /// For a request's head, and for the first byte of a connection.
    pub head: Duration,
    /// Between requests of a kept-alive connection.
    pub idle: Duration,
    pub connections: usize,
    /// Bytes of a request head.
    pub head_size: usize,
    pub headers: usize,
    pub h2_streams: u32,
    /// HTTP/1.1 field names keep their case, as an extension of the message.
    pub keeps_case: bool,
}

/// What a connection must prove.
#[derive(Clone)]
pub enum Security {
    Plain,
    /// mTLS only.
    Strict(Arc<identity::Current>),
    /// mTLS where the client begins it, plain text otherwise.
    Permissive(Arc<identity::Current>),
}

/// What handles the requests of a listener's connections: one for each worker.
pub trait Accept: Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// The handler of one connection's requests.
    fn service(
        self: Arc<Self>,
        connection: Arc<Connection>,
    ) -> impl tower::Service<
        Request<Incoming>,
        Response = Response<Self::Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Send
    + 'static;

    /// Where this worker's requests are handled.
    fn workspaces(&self) -> &Workspaces;

    /// Whether new connections are not HTTP.
    fn is_raw(&self) -> bool;

    /// Carries a connection that is not HTTP, to its end.
    fn carry<S: Stream>(self: Arc<Self>, stream: S, connection: Arc<Connection>) -> impl Future<Output = ()> + Send;

    /// The answer, as bytes of HTTP/1.1 (none where connections are not HTTP), to what never became a request; it is counted and logged by the handler.
    fn refuse(&self, connection: &Connection, reason: Reason, detail: &str) -> Vec<u8>;
}

/// A worker as a listener sees it.
pub struct Target<A> {
    pub runtime: Handle,
    /// Connections that the worker has now, over all listeners.
    pub load: Arc<AtomicUsize>,
    pub handler: Arc<A>,
}

/// A bound socket that does not accept yet.
pub struct Bound {
    /// As in the config: `inbound.listen`, `outbound.upstreams[orders].listen`.
    pub name: String,
    pub address: SocketAddr,
    socket: StdListener,
}

impl Bound {
    /// The bare socket, for listeners that are not of the data path.
    pub fn into_tokio(self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.socket)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{name}: cannot listen on {address}: {cause}")]
pub struct BindError {
    pub name: String,
    pub address: SocketAddr,
    pub cause: io::Error,
}

/// Binds without accepting: a port that is taken is found before anything is registered.
///
/// # Errors
/// Says which listener could not have which address.
pub fn bind(name: impl Into<String>, address: SocketAddr) -> Result<Bound, BindError> {
    let name = name.into();
    let bound = || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        // A restart must not wait for old connections to time out; two live listeners still exclude each other.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = StdListener::from(socket);
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    match bound() {
        Ok((socket, address)) => Ok(Bound { name, address, socket }),
        Err(cause) => Err(BindError { name, address, cause }),
    }
}

/// One listener at work.
pub struct Listener<A> {
    pub direction: Direction,
    pub security: Security,
    pub settings: Arc<Published<Settings>>,
    /// Who must begin with a PROXY header, which nobody else may send; empty: not looked for. Reloadable.
    pub proxied_by: Arc<Published<Vec<IpNet>>>,
    pub targets: Vec<Target<A>>,
    pub metrics: Arc<Metrics>,
    /// Ends accepting when it drains; its tasks are the connections.
    pub lifecycle: Lifecycle,
    pub open: OpenConnections,
    /// Noted by a permissive listener.
    pub plain_peers: Arc<PlainPeers>,
}

impl<A: Accept> Listener<A> {
    /// Accepts until the lifecycle drains. Runs on the first worker; connections go to the least loaded one.
    pub async fn run(self, bound: Bound) {
        let Bound { name, address, socket } = bound;
        let listener = match TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(listener = name, %address, %error, "cannot accept");
                return;
            }
        };
        let this = Arc::new(self);
        let drained = this.lifecycle.drained();
        tokio::pin!(drained);
        let open = Arc::new(Places::default());
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut drained => {
                    // What the kernel took before this moment counts as accepted: closing now would reset it.
                    while let Some(Ok((socket, peer))) = listener.accept().now_or_never() {
                        this.hand_out(socket, peer, address, &open);
                    }
                    this.open.close_all();
                    return;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    failing = false;
                    this.hand_out(socket, peer, address, &open);
                }
                Err(error) => {
                    // EMFILE and its like pass; a connection that ended before it was accepted is no fault of ours.
                    if !failing {
                        tracing::warn!(listener = name, %error, "accepting fails; trying again");
                        failing = true;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn hand_out(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr, local: SocketAddr, open: &Arc<Places>) {
        let settings = **self.settings.peek();
        let Some(target) = self.targets.iter().min_by_key(|target| target.load.load(Ordering::Relaxed)) else { return };
        // Those who call out are our own app, at one address; a load balancer's clients share once they are known.
        let fair = self.direction == Direction::Inbound && !proxied::is_among(&self.proxied_by.peek(), peer.ip());
        let mut place = match open.take(peer.ip(), settings.connections, fair) {
            Ok(place) => place,
            Err(full) => {
                self.turn_away(&socket, peer, local, &target.handler, full);
                return;
            }
        };
        let on_worker = Counted::enter(target.load.clone());
        let (listener, handler) = (self.clone(), target.handler.clone());
        let moved = match move_to(socket, &target.runtime) {
            Ok(moved) => moved,
            Err(error) => {
                tracing::debug!(%error, "a connection was lost on its way to its worker");
                return;
            }
        };
        self.lifecycle.spawn_on(&target.runtime, "connection", async move {
            let _count = on_worker;
            match moved.arrive() {
                Ok(socket) => listener.serve(socket, (peer, &mut place), local, settings, handler).await,
                Err(error) => tracing::debug!(%error, "a connection was lost on its way to its worker"),
            }
        });
    }

    /// Over the cap: a plain client is told why, all are closed.
    fn turn_away(&self, socket: &TcpStream, peer: SocketAddr, local: SocketAddr, handler: &Arc<A>, full: Full) {
        let cause = match full {
            Full::Cap => CutCause::OverCap,
            Full::Share => CutCause::OverShare,
        };
        self.metrics.connection_cut(self.direction, cause);
        let connection = Connection::new(Peer { address: peer, tls: None }, local);
        let answer = handler.refuse(&connection, Reason::Overloaded, &full.to_string());
        if matches!(self.security, Security::Plain) {
            let _ = socket.try_write(&answer);
        }
    }

    async fn serve(
        &self,
        mut socket: TcpStream,
        (mut peer, place): (SocketAddr, &mut Place),
        local: SocketAddr,
        settings: Settings,
        handler: Arc<A>,
    ) {
        // Without it small answers wait for acknowledgements (Nagle).
        let _ = socket.set_nodelay(true);
        let trusts = {
            let trusted = self.proxied_by.peek();
            (!trusted.is_empty()).then(|| proxied::is_among(&trusted, peer.ip()))
        };
        if let Some(trusts) = trusts {
            match self.origin(&mut socket, (peer, trusts), local, settings, &handler).await {
                Some(client) => peer = client,
                None => return,
            }
            if let Err(full) = place.pass_to(peer.ip(), settings.connections) {
                self.turn_away(&socket, peer, local, &handler, full);
                return;
            }
        }
        match &self.security {
            Security::Plain => self.serve_plain(socket, peer, local, settings, handler).await,
            Security::Strict(identity) | Security::Permissive(identity) => {
                let handshaking = Gauged::enter(&self.metrics, self.direction, ConnectionState::Handshaking);
                let permissive = matches!(self.security, Security::Permissive(_));
                // Where the server speaks first, a client in plain text is silent.
                let silence = (permissive && handler.is_raw()).then_some(SILENCE);
                // Boxed, as what follows is: a connection keeps space for the largest of its stages.
                let accepted = Box::pin(tls::accept(socket, peer, identity, settings.handshake, silence)).await;
                drop(handshaking);
                self.metrics.handshake(self.direction, accepted.outcome());
                match accepted {
                    tls::Accepted::Mesh { stream, peer } => {
                        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                        let connection = Arc::new(Connection::new(peer, local));
                        self.serve_stream(stream, connection, settings, handler, alpn.as_deref()).await;
                    }
                    tls::Accepted::PlainText { socket } if permissive => {
                        self.plain_peers.note(peer.ip().to_canonical());
                        self.serve_plain(socket, peer, local, settings, handler).await;
                    }
                    tls::Accepted::PlainText { socket } => {
                        tracing::warn!(%peer, "refused: plain text where mTLS is required");
                        let connection = Connection::new(Peer { address: peer, tls: None }, local);
                        let detail = "plain text where mTLS is required";
                        let answer = handler.refuse(&connection, Reason::NotIdentified, detail);
                        guard::tell_and_close(socket, &answer).await;
                    }
                    tls::Accepted::Refused { outcome, cause } => {
                        tracing::warn!(%peer, outcome = outcome.as_str(), cause, "refused: TLS handshake failed");
                    }
                }
            }
        }
    }

    /// The address that counts as the peer's where PROXY headers are wanted; `None`: to be closed, which is told.
    async fn origin(
        &self,
        socket: &mut TcpStream,
        (source, trusted): (SocketAddr, bool),
        local: SocketAddr,
        settings: Settings,
        handler: &Arc<A>,
    ) -> Option<SocketAddr> {
        let strict = matches!(self.security, Security::Strict(_));
        let limit = if matches!(self.security, Security::Plain) { settings.head } else { settings.handshake };
        let silence = (handler.is_raw() && !strict).then_some(SILENCE);
        let handshaking = Gauged::enter(&self.metrics, self.direction, ConnectionState::Handshaking);
        let heard = proxied::origin(socket, source, trusted, limit, silence).await;
        drop(handshaking);
        match heard {
            Ok((peer, outcome)) => {
                if let Some(outcome) = outcome {
                    self.metrics.proxy_header(outcome);
                }
                Some(peer)
            }
            Err(proxied::Refused { outcome, cause }) => {
                self.metrics.proxy_header(outcome);
                if outcome == ProxyHeader::Closed {
                    tracing::debug!(peer = %source, cause, "closed before a PROXY header");
                    return None;
                }
                tracing::warn!(peer = %source, outcome = outcome.as_str(), cause, "refused: PROXY protocol");
                let connection = Connection::new(Peer { address: source, tls: None }, local);
                // Counted and logged; who speaks another protocol would not understand an answer.
                handler.refuse(&connection, Reason::BadRequest, &cause);
                None
            }
        }
    }

    async fn serve_plain(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        settings: Settings,
        handler: Arc<A>,
    ) {
        let connection = Arc::new(Connection::new(Peer { address: peer, tls: None }, local));
        self.serve_stream(Brief::new(socket), connection, settings, handler, None).await;
    }

    async fn serve_stream<S: Stream>(
        &self,
        stream: S,
        connection: Arc<Connection>,
        settings: Settings,
        handler: Arc<A>,
        alpn: Option<&[u8]>,
    ) {
        if handler.is_raw() {
            let _open = Gauged::enter(&self.metrics, self.direction, ConnectionState::Active);
            let _listed = self.open.list(&connection);
            Box::pin(handler.carry(stream, connection)).await;
        } else {
            // By itself: a plain connection has not the size of one with TLS, nor twice its own from being moved here.
            Box::pin(http::serve(self, stream, connection, settings, handler, alpn)).await;
        }
    }
}

/// A socket between two runtimes: it must be registered anew where it is served.
enum Moved {
    Here(TcpStream),
    There(std::net::TcpStream),
}

fn move_to(socket: TcpStream, runtime: &Handle) -> io::Result<Moved> {
    if Handle::current().id() == runtime.id() {
        return Ok(Moved::Here(socket));
    }
    socket.into_std().map(Moved::There)
}

impl Moved {
    fn arrive(self) -> io::Result<TcpStream> {
        match self {
            Self::Here(socket) => Ok(socket),
            Self::There(socket) => TcpStream::from_std(socket),
        }
    }
}

/// Counts as long as it lives.
struct Counted {
    counter: Arc<AtomicUsize>,
}

impl Counted {
    fn enter(counter: Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self { counter }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection in `outrigger_connections`, as long as it lives.
struct Gauged(prometheus::IntGauge);

impl Gauged {
    fn enter(metrics: &Metrics, direction: Direction, state: ConnectionState) -> Self {
        let gauge = metrics.connections(direction, state);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Gauged {
    fn drop(&mut self) {
        self.0.dec();
    }
}

const BACKLOG: i32 = 4096;
/// A TLS client speaks at once; even a lost first segment is sent again within this (RFC 6298: at least 200 ms).
const SILENCE: Duration = Duration::from_millis(500);
