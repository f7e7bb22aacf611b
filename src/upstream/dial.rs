//! Makes one connection to an endpoint: TCP, TLS as us, the peer checked before a byte of a request is sent.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::AttemptError;
use super::own::{OwnEnd, OwnEnds};
use crate::identity;
use crate::names::ServiceName;
use crate::service::{Endpoint, Wire};
use crate::stream::ReadAhead;

/// What a dial offers by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// What the endpoint's wire allows; HTTP/2 alone where it is wanted of a peer that is not ours.
    Http {
        http2: bool,
    },
    Http1,
    /// Bytes are no HTTP.
    Nothing,
}

/// Makes connections for one worker's pools.
#[derive(Clone)]
pub struct Dialer {
    identity: Arc<identity::Current>,
    own: OwnEnds,
    /// Endpoints in memory instead of TCP.
    #[cfg(test)]
    network: Option<super::testing::Network>,
}

/// A connection that is ready for HTTP.
pub enum Dialed {
    /// With its listing where it leads to this machine.
    Plain(TcpStream, Option<OwnEnd>),
    /// `h2` says what ALPN chose.
    Mesh { stream: Box<TlsStream<ReadAhead>>, h2: bool },
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

impl Dialer {
    pub fn new(identity: Arc<identity::Current>) -> Self {
        Self {
            identity,
            own: OwnEnds::default(),
            #[cfg(test)]
            network: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn in_memory(network: super::testing::Network) -> Self {
        Self { identity: Arc::default(), own: OwnEnds::default(), network: Some(network) }
    }

    /// Whether a connection from that address was made by this dialer or a clone of it, in plain text.
    pub(super) fn made(&self, address: std::net::SocketAddr, port: u16) -> bool {
        self.own.has(address, port)
    }

    /// Connects within `limit`, handshake included.
    pub async fn dial(&self, endpoint: &Endpoint, offer: Offer, limit: Duration) -> Result<Dialed, AttemptError> {
        let address = endpoint.listing.address;
        match tokio::time::timeout(limit, self.connect(endpoint, offer)).await {
            Ok(dialed) => dialed,
            Err(_) => Err(AttemptError::Connect { address, cause: format!("no connection within {limit:?}") }),
        }
    }

    async fn connect(&self, endpoint: &Endpoint, offer: Offer) -> Result<Dialed, AttemptError> {
        let address = endpoint.listing.address;
        #[cfg(test)]
        if let Some(network) = &self.network {
            let stream = network.connect(address).await;
            return stream
                .map(Dialed::Memory)
                .map_err(|cause| AttemptError::Connect { address, cause: cause.to_string() });
        }
        let failed = |error: std::io::Error| AttemptError::Connect { address, cause: error.to_string() };
        let identity = match &endpoint.listing.wire {
            Wire::Plain => None,
            Wire::Mesh { .. } => Some(self.identity.snapshot().as_ref().clone().ok_or(AttemptError::NoIdentity)?),
        };
        let socket = TcpStream::connect(address).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let (Some(identity), Wire::Mesh { peer, ours }) = (identity, &endpoint.listing.wire) else {
            let own = self.own.list(&socket);
            return Ok(Dialed::Plain(socket, own));
        };
        let config = match (offer, *ours) {
            (Offer::Http { .. }, true) => &identity.client.any,
            (Offer::Http { http2: true }, false) => &identity.client.h2,
            (Offer::Http { http2: false }, false) | (Offer::Http1, _) => &identity.client.http1,
            (Offer::Nothing, _) => &identity.client.bare,
        };
        // No SNI is sent and no host name verified: the peer is who its URI says.
        let name = ServerName::from(address.ip());
        let connector = TlsConnector::from(config.clone());
        let stream =
            connector.connect(name, ReadAhead::new(socket)).await.map_err(|error| tls_failure(address, &error))?;
        check_peer(&stream, peer, address)?;
        // A peer that speaks no ALPN is taken at the word of the configuration.
        let h2 = match stream.get_ref().1.alpn_protocol() {
            Some(protocol) => protocol == b"h2",
            None => offer == Offer::Http { http2: true },
        };
        Ok(Dialed::Mesh { stream: Box::new(stream), h2 })
    }
}

fn check_peer(
    stream: &TlsStream<ReadAhead>,
    wanted: &ServiceName,
    address: std::net::SocketAddr,
) -> Result<(), AttemptError> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    match identity::check_peer(certificates, wanted) {
        Ok(_) => Ok(()),
        Err(identity::PeerError::WrongPeer { wanted, found }) => {
            Err(AttemptError::WrongPeer { address, wanted, found: Some(found) })
        }
        Err(other) => Err(AttemptError::BadPeer { address, cause: other.to_string() }),
    }
}

fn tls_failure(address: std::net::SocketAddr, error: &std::io::Error) -> AttemptError {
    if identity::is_wrong_peer(error) {
        AttemptError::BadPeer { address, cause: error.to_string() }
    } else {
        AttemptError::Connect { address, cause: format!("TLS handshake: {error}") }
    }
}
