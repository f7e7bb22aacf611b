//! One sidecar, `users`, before an app, to be attacked: plain inbound unless told otherwise, and a good client beside the
//! attack.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::certs::Authority;
use super::client::{Ask, Connection};
use super::pair::sidecar;
use super::sidecar::{Builder, Sidecar};
use super::{App, Embedded, SOON, eventually};

pub struct Front {
    // Dropped in this order: the sidecar before what it depends on.
    pub users: Sidecar,
    pub app: App,
    pub authority: Authority,
    pub registry: Embedded,
    memory: u64,
}

impl Front {
    pub fn start() -> Self {
        Self::with(|users| users)
    }

    pub fn with(change: impl FnOnce(Builder) -> Builder) -> Self {
        let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), App::start("users-1"));
        let users = sidecar("users", registry.agent(), &authority).app(&app).set("inbound.mtls", json!("off"));
        let users = change(users).start();
        let front = Self { users, app, authority, registry, memory: 0 };
        // What a first request takes once is no growth.
        assert_eq!(Ask::get("/").host("users").send(front.address()).status, 200);
        Self { memory: front.users.process.memory(), ..front }
    }

    pub fn address(&self) -> SocketAddr {
        self.users.inbound()
    }

    /// Asserts that the sidecar takes at most so many MiB more than at its start.
    #[track_caller]
    pub fn assert_grew_less_than(&self, mib: u64) {
        let now = self.users.process.memory();
        let grown = now.saturating_sub(self.memory) / MIB;
        assert!(grown < mib, "{grown} MiB more than the {} MiB of the start", self.memory / MIB);
    }

    pub fn cut(&self, cause: &str) -> f64 {
        self.users.metric("outrigger_connections_cut_total", &[("cause", cause)])
    }

    #[track_caller]
    pub fn wait_cut(&self, cause: &str, least: f64) {
        self.users.wait_for_metric("outrigger_connections_cut_total", &[("cause", cause)], least);
    }

    /// Nothing is under way inside.
    #[track_caller]
    pub fn comes_to_rest(&self) {
        eventually(SOON, "nothing is in flight", || {
            (self.users.metric("outrigger_requests_in_flight", &[]) < 0.5).then_some(())
        });
    }

    /// Begins to ask, one request after the other, each on a connection of its own.
    pub fn good_client(&self) -> GoodClient {
        let (to, stop) = (self.address(), Arc::new(AtomicBool::new(false)));
        let told = stop.clone();
        let asking = std::thread::spawn(move || {
            let mut times = Vec::new();
            while times.is_empty() || !told.load(Ordering::Relaxed) {
                let start = Instant::now();
                let answer = Ask::get("/").host("users").try_send(to);
                let took = start.elapsed();
                match answer {
                    Ok(answer) if answer.status == 200 => times.push(took),
                    other => return Err(format!("after {} good answers: {other:?}", times.len())),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(times)
        });
        GoodClient { stop, asking }
    }
}

const MIB: u64 = 1024 * 1024;

/// Someone who does nothing wrong.
pub struct GoodClient {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Result<Vec<Duration>, String>>,
}

impl GoodClient {
    /// Ends it, and asserts that it was served all the time: the median, since a loaded machine has its moments.
    #[track_caller]
    pub fn assert_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.asking.join().unwrap().expect("a good client is served");
        times.sort_unstable();
        let median = times[times.len() / 2];
        assert!(median < Duration::from_secs(1), "median {median:?} of {}", times.len());
    }
}

/// A connection that comes from that address of this machine.
pub fn connect_from(source: [u8; 4], to: SocketAddr) -> std::io::Result<Connection> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&to.into())?;
    Connection::over(socket.into())
}
