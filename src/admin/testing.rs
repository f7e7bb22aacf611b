//! A desk by hand: both listeners with a view that the test fills.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::access::{Enforced, Gate};
use crate::filter::Chain;
use crate::lifecycle::Lifecycle;
use crate::proxy::{Entry, InboundView};
use crate::route::{RetryPolicy, Route, RouteTable, StatusSet};
use crate::service::{Ask, Health, Listing, Policy, Service, Wire};
use crate::telemetry::{Direction, Metrics};

pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// Both listeners over one view.
pub(super) struct Desk {
    pub(super) view: Arc<View>,
    pub(super) orders: Arc<Service>,
    pub(super) admin: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) lifecycle: Lifecycle,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

impl Desk {
    pub(super) async fn open() -> Self {
        let metrics = Metrics::new();
        let orders = service("orders");
        let routes = [orders.clone(), service("billing")].map(|one| route(&metrics, Direction::Outbound, one));
        let app = service("web");
        app.list(vec![listing("web-1", 8080, Health::Passing)], Instant::now());
        let app = route(&metrics, Direction::Inbound, app);
        let (sender, commands) = mpsc::channel(1);
        let view = Arc::new(View {
            service: "web".parse().unwrap(),
            id: "web-1".into(),
            status: Arc::new(Status::starting(["identity".into(), "registration".into()])),
            identity: Arc::default(),
            outbound: Arc::new(OutboundShared {
                routes: Published::new(RouteTable::new(routes, Vec::new())),
                mirrors: Lifecycle::new(),
                unrouted: Arc::new(metrics.flow(Direction::Outbound, "")),
                access_log: Arc::default(),
            }),
            inbound: Arc::new(InboundShared {
                entry: Entry::new(Gate::new(1, Enforced::Off, Vec::new()), &metrics),
                view: Published::new(InboundView {
                    rules: Vec::new(),
                    app,
                    app_host: "127.0.0.1".into(),
                    app_port: 8080,
                    health: None,
                    trusted: Vec::new(),
                }),
                plain_peers: Arc::default(),
                access_log: Arc::default(),
            }),
            watches: Arc::default(),
            metrics: metrics.clone(),
            config: Published::new(ConfigView {
                file: Some("</script><script>alert(1)</script>.yaml".into()),
                loaded: "2026-01-01T00:00:00Z".into(),
                config: json!({ "service": { "name": "web" } }),
                refused: vec!["outrigger.yaml:1:1: a: \"b\"".into()],
            }),
            commands: sender,
        });
        let lifecycle = Lifecycle::new();
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (on_admin, on_metrics) = (bind().await.unwrap(), bind().await.unwrap());
        let (admin, metrics) = (on_admin.local_addr().unwrap(), on_metrics.local_addr().unwrap());
        lifecycle.spawn("admin", serve_admin(on_admin, view.clone(), lifecycle.clone()));
        lifecycle.spawn("metrics", serve_metrics(on_metrics, view.clone(), lifecycle.clone()));
        Self { view, orders, admin, metrics, commands, lifecycle }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        send(self.admin, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
    }

    pub(super) async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        send(self.admin, &format!("{method} {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n")).await
    }

    pub(super) async fn post(&self, path: &str) -> Answer {
        self.ask("POST", path, "host: localhost\r\n").await
    }

    pub(super) async fn get_metrics(&self, path: &str) -> Answer {
        // A scraper may know us by any name.
        send(self.metrics, &format!("GET {path} HTTP/1.1\r\nhost: web.default.svc\r\nconnection: close\r\n\r\n")).await
    }

    /// As the app does: takes one command, while `asked` waits for its answer.
    pub(super) async fn with_command<T>(&mut self, path: &str, act: impl FnOnce(&View, Command) -> T) -> (Answer, T) {
        let admin = self.admin;
        let request =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
        let command = async {
            let command = tokio::time::timeout(LIMIT, self.commands.recv()).await.unwrap().unwrap();
            act(&self.view, command)
        };
        tokio::join!(send(admin, &request), command)
    }
}

pub(super) async fn send(address: SocketAddr, request: &str) -> Answer {
    try_send(address, request).await.unwrap()
}

pub(super) async fn try_send(address: SocketAddr, request: &str) -> io::Result<Answer> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(request.as_bytes()).await?;
    read_to_end(&mut socket).await
}

pub(super) async fn read_to_end(socket: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    tokio::time::timeout(LIMIT, socket.read_to_end(&mut bytes)).await.expect("an answer within the limit")?;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Ok(Answer { status, head: head.into(), body: body.into() })
}

pub(super) fn service(name: &str) -> Arc<Service> {
    Arc::new(Service::new(name.parse().unwrap(), Policy::default(), Instant::now()))
}

pub(super) fn route(metrics: &Arc<Metrics>, direction: Direction, service: Arc<Service>) -> Arc<Route> {
    Arc::new(Route {
        flow: Arc::new(metrics.flow(direction, service.name().as_str())),
        host: http::HeaderValue::from_static("x"),
        authority: None,
        service,
        http2: false,
        tcp: false,
        connect_timeout: Duration::from_secs(1),
        timeout: None,
        body_idle: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        retry: RetryPolicy::default(),
        filters: Chain::default(),
        counts_attempts: true,
        hedge: None,
        failures: StatusSet::GATEWAY,
        hash_on: None,
    })
}

pub(super) fn listing(id: &str, port: u16, health: Health) -> Listing {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Listing { id: id.into(), address, weight: 1, health, wire: Wire::Plain, zone: None }
}

/// One endpoint of each state: `orders-1` is healthy, `orders-2` could not be reached, `orders-3` is critical.
pub(super) fn fill(orders: &Service) {
    let now = Instant::now();
    orders.list(vec![listing("orders-2", 2, Health::Warning)], now);
    let lease = orders.lease(&Ask { tried: &[], now, entropy: 1, key: None }).unwrap();
    lease.unreachable(now + LIMIT);
    let wire = Wire::Mesh { peer: "orders".parse().unwrap(), ours: true };
    orders.list(
        vec![
            Listing { wire, zone: Some("a".into()), weight: 7, ..listing("orders-1", 1, Health::Passing) },
            listing("orders-2", 2, Health::Warning),
            listing("orders-3", 3, Health::Critical),
        ],
        now,
    );
}
