//! Connections to endpoints: dialling, proving who is there, one worker's pool. Knows nothing of policy or of other
//! workers.

mod body;
mod dial;
mod framing;
mod own;
mod pool;
mod record;
mod shared;
mod switch;
#[cfg(test)]
pub(crate) mod testing;
mod tethered;
pub mod websocket;

pub use body::{BodyFate, BodyLimits, BodyWatch, RequestBody};
pub use dial::Dialer;
pub use pool::{Pool, PoolSettings, Sent, Want};
pub use record::Recording;
pub use switch::{Held, Switch, Turned};
pub use tethered::Tethered;

use http::Request;

use crate::names::{ServiceName, SpiffeId};

/// How one try at one endpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    #[error("connecting to {address}: {cause}")]
    Connect { address: std::net::SocketAddr, cause: String },
    #[error("the peer at {address} proved to be {found:?}, not {wanted}")]
    WrongPeer { address: std::net::SocketAddr, wanted: ServiceName, found: Option<SpiffeId> },
    #[error("the certificate of the peer at {address} is not acceptable: {cause}")]
    BadPeer { address: std::net::SocketAddr, cause: String },
    #[error("this sidecar has no identity yet, so it cannot speak mTLS")]
    NoIdentity,
    #[error("as many connections as allowed are open, and as many requests as allowed wait for one")]
    Overloaded,
    /// The peer took the connection but not this request; nothing of it can have been acted on.
    #[error("the connection ended before the request was taken: {0}")]
    Unsent(String),
    /// The request, or a part of it, may have been acted on.
    #[error("the connection ended before the answer: {0}")]
    Reset(String),
    #[error("the answer is not valid HTTP: {0}")]
    BadResponse(String),
    /// The request cannot be said in the endpoint's protocol.
    #[error("the request does not fit the endpoint's protocol: {0}")]
    BadRequest(String),
    /// The caller's body failed or stalled: not the endpoint's fault.
    #[error("the request body ended early: {0}")]
    RequestBody(String),
}

/// A failed try, with the request where all of it is still at hand.
pub struct Failed {
    pub error: AttemptError,
    pub request: Option<Request<RequestBody>>,
    /// The connection had carried requests before.
    pub reused: bool,
}
