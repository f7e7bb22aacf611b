//! Who we are: one snapshot with our certificate, the roots that we trust, and the TLS settings made from both. Knows
//! nothing of connections.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::names::SpiffeId;
use crate::published::Published;

/// Where leaf, key and roots come from: the file's `identity` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Consul's own CA, by blocking queries.
    Consul,
    /// PEM files, watched.
    Files { cert: PathBuf, key: PathBuf, roots: PathBuf },
    /// A development CA made by `outrigger ca init`: this sidecar signs its own leaf.
    Ca { dir: PathBuf },
}

/// One issued identity. Immutable: rotation publishes the next one, and running connections keep what they began with.
pub struct Identity {
    pub id: SpiffeId,
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Earliest end of the roots that we trust.
    pub roots_not_after: SystemTime,
    /// Inbound: demands and verifies a client certificate of our trust domain; ALPN `h2`, `http/1.1`; no resumption.
    pub server: Arc<rustls::ServerConfig>,
    /// Outbound, by what is offered in ALPN. Chain and server EKU are verified; the URI is compared by `check_peer`.
    pub client: ClientConfigs,
}

/// The same identity with each ALPN offer that a dial may need.
pub struct ClientConfigs {
    /// `h2`, then `http/1.1`: between sidecars of ours.
    pub any: Arc<rustls::ClientConfig>,
    pub h2: Arc<rustls::ClientConfig>,
    pub http1: Arc<rustls::ClientConfig>,
}

/// `None` until the first identity is issued.
pub type Current = Published<Option<Arc<Identity>>>;
