//! What a registry says of an endpoint, and the set made from it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::names::ServiceName;

/// One endpoint as a registry lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Consul's service id, or the address for static and DNS endpoints. With `address` it identifies an endpoint.
    pub id: Arc<str>,
    pub address: SocketAddr,
    /// The weight that belongs to its health now, at least 1.
    pub weight: u32,
    pub health: Health,
    pub wire: Wire,
    /// The zone of its node or service Meta, where told.
    pub zone: Option<Arc<str>>,
}

/// The worst of an endpoint's checks, its node's included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    Passing,
    Warning,
    Critical,
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wire {
    Plain,
    /// mTLS; the peer must prove to be `peer`.
    Mesh {
        peer: ServiceName,
        /// A sidecar of ours (Meta `outrigger_owner`): HTTP/2 may be offered by ALPN, whatever its app speaks. Others
        /// are offered just the upstream's protocol, since an L4 proxy picks `h2` and then passes bytes to its app.
        ours: bool,
    },
}
