//! Connections of ours that lead to this machine: where one comes back in, requests would go in a circle.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::Pool;

/// Our ends of them, by address.
#[derive(Clone, Default)]
pub struct OwnEnds(Arc<Mutex<HashSet<SocketAddr>>>);

/// One end, listed as long as it lives.
pub struct OwnEnd {
    ends: OwnEnds,
    address: SocketAddr,
}

impl Pool {
    /// Whether a connection from that address is one of ours, of any worker in this direction, come back.
    pub fn made(&self, address: SocketAddr) -> bool {
        self.dialer().made(address)
    }
}

impl OwnEnds {
    /// To be called before the first byte is sent. `None` where the other end is another machine's.
    pub(super) fn list(&self, socket: &TcpStream) -> Option<OwnEnd> {
        let (local, peer) = (socket.local_addr().ok()?, socket.peer_addr().ok()?);
        if local.ip() != peer.ip() && !(local.ip().is_loopback() && peer.ip().is_loopback()) {
            return None;
        }
        let address = canonical(local);
        self.0.lock().insert(address);
        Some(OwnEnd { ends: self.clone(), address })
    }

    /// Whether a connection from that address is one of ours.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.0.lock().contains(&canonical(address))
    }
}

impl Drop for OwnEnd {
    fn drop(&mut self) {
        self.ends.0.lock().remove(&self.address);
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_end_is_ours_as_long_as_it_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_, from) = listener.accept().await.unwrap();
        let ends = OwnEnds::default();
        assert!(!ends.has(from));
        let end = ends.list(&socket).unwrap();
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), from.port());
        assert!(ends.has(from) && ends.has(mapped));
        drop(end);
        assert!(!ends.has(from));
    }
}
