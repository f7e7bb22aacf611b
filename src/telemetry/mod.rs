//! What happened, told once: metrics, and one access record per exchange. Knows nothing of routing.

pub mod metrics;

pub use metrics::{
    BytesWay, CertificateKind, ConnectionState, ConsulOutcome, Direction, EndpointState, Flow, HandshakeOutcome,
    HeartbeatOutcome, Metrics, ReloadOutcome, RetryOutcome, TryOutcome,
};
