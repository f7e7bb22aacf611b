//! TLS on accepted connections: a handshake within its limit, and who it proved.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{Peer, VerifiedPeer};
use crate::identity;
use crate::stream::ReadAhead;
use crate::telemetry::HandshakeOutcome;

/// How an attempt at TLS came out.
pub(super) enum Accepted {
    Mesh {
        stream: Box<TlsStream<ReadAhead>>,
        peer: Peer,
    },
    /// The first byte is no TLS record; nothing was read.
    PlainText {
        socket: TcpStream,
    },
    Refused {
        outcome: HandshakeOutcome,
        cause: String,
    },
}

impl Accepted {
    pub(super) fn outcome(&self) -> HandshakeOutcome {
        match self {
            Self::Mesh { .. } => HandshakeOutcome::Accepted,
            Self::PlainText { .. } => HandshakeOutcome::PlainText,
            Self::Refused { outcome, .. } => *outcome,
        }
    }
}

/// `silence`: after that long without a byte the client is taken for one that speaks plain text and waits to be spoken
/// to.
pub(super) async fn accept(
    socket: TcpStream,
    peer: SocketAddr,
    identity: &identity::Current,
    limit: Duration,
    silence: Option<Duration>,
) -> Accepted {
    let cause = format!("nothing came of it within {limit:?}");
    match tokio::time::timeout(limit, handshake(socket, peer, identity, silence)).await {
        Ok(accepted) => accepted,
        Err(_) => Accepted::Refused { outcome: HandshakeOutcome::TimedOut, cause },
    }
}

async fn handshake(
    socket: TcpStream,
    address: SocketAddr,
    identity: &identity::Current,
    silence: Option<Duration>,
) -> Accepted {
    let mut first = [0];
    let peeked = match silence {
        None => socket.peek(&mut first).await,
        Some(silence) => match tokio::time::timeout(silence, socket.peek(&mut first)).await {
            Ok(Ok(0)) | Err(_) => return Accepted::PlainText { socket },
            Ok(peeked) => peeked,
        },
    };
    match peeked {
        Ok(1) if first[0] != TLS_HANDSHAKE_RECORD => return Accepted::PlainText { socket },
        Ok(1) => {}
        Ok(_) => return refused(HandshakeOutcome::Malformed, "closed before its first byte"),
        Err(error) => return refused(HandshakeOutcome::Malformed, &error),
    }
    let Some(identity) = identity.snapshot().as_ref().clone() else {
        return refused(HandshakeOutcome::NoIdentity, "this sidecar has no identity yet");
    };
    let stream = match TlsAcceptor::from(identity.server.clone()).accept(ReadAhead::new(socket)).await {
        Ok(stream) => stream,
        Err(error) => return refused(identity::classify(&error), &error),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    // The verifier has seen to it that there is one and that it holds exactly one id.
    match identity::peer_of(certificates) {
        Ok(id) => {
            let hash = certificates.first().map(|leaf| sha256_hex(leaf)).unwrap_or_default();
            let tls = Some(VerifiedPeer { id, hash, by: identity.id.clone() });
            Accepted::Mesh { stream: Box::new(stream), peer: Peer { address, tls } }
        }
        Err(error) => refused(HandshakeOutcome::WrongName, &error),
    }
}

fn refused(outcome: HandshakeOutcome, cause: &(impl ToString + ?Sized)) -> Accepted {
    Accepted::Refused { outcome, cause: cause.to_string() }
}

fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 8446 §5.1: a client's first record is of type handshake (22).
const TLS_HANDSHAKE_RECORD: u8 = 22;
