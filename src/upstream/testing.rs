//! A network in memory: endpoints that answer, fail or hang as a test says, in the time of a stopped clock.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::DuplexStream;

use crate::lifecycle::Lifecycle;

/// What an endpoint does with the next request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Answers with this status after this time.
    Answers(u16, Duration),
    /// Takes the request, answers nothing, and breaks the connection after this time.
    Breaks(Duration),
    /// Refuses connections; open ones break at their next request.
    Refuses,
    /// No packet comes through either way.
    Unreachable,
}

/// All endpoints by address.
#[derive(Clone, Default)]
pub(crate) struct Network {
    endpoints: Arc<Mutex<HashMap<SocketAddr, Host>>>,
    life: Lifecycle,
}

struct Host {
    conduct: Conduct,
    /// Requests that it took.
    taken: u64,
}

impl Network {
    pub fn set(&self, address: SocketAddr, conduct: Conduct) {
        self.endpoints.lock().entry(address).or_insert(Host { conduct, taken: 0 }).conduct = conduct;
    }

    pub fn taken(&self, address: SocketAddr) -> u64 {
        self.endpoints.lock().get(&address).map_or(0, |host| host.taken)
    }

    fn conduct(&self, address: SocketAddr) -> Conduct {
        self.endpoints.lock().get(&address).map_or(Conduct::Refuses, |host| host.conduct)
    }

    pub(super) async fn connect(&self, address: SocketAddr) -> io::Result<DuplexStream> {
        tokio::time::sleep(HOP).await;
        match self.conduct(address) {
            Conduct::Refuses => return Err(io::ErrorKind::ConnectionRefused.into()),
            Conduct::Unreachable => std::future::pending().await,
            Conduct::Answers(..) | Conduct::Breaks(_) => {}
        }
        let (ours, theirs) = tokio::io::duplex(16 * 1024);
        let network = self.clone();
        self.life.spawn("endpoint", async move {
            let service = service_fn(move |request| network.clone().serve(address, request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service).await;
        });
        Ok(ours)
    }

    async fn serve(self, address: SocketAddr, _: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
        if let Some(host) = self.endpoints.lock().get_mut(&address) {
            host.taken += 1;
        }
        match self.conduct(address) {
            Conduct::Answers(status, latency) => {
                tokio::time::sleep(latency).await;
                let mut response = Response::new(Full::new(Bytes::from_static(b"answer")));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            }
            Conduct::Breaks(after) => {
                tokio::time::sleep(after).await;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Conduct::Refuses => Err(io::ErrorKind::ConnectionReset.into()),
            Conduct::Unreachable => {
                std::future::pending::<Result<_, Infallible>>().await.map_err(|never| match never {})
            }
        }
    }
}

/// From one host to another and back.
const HOP: Duration = Duration::from_micros(200);
