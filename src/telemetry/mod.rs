//! What happened, told once: metrics, and one access record per exchange. Knows nothing of routing.

pub mod access_log;
pub mod metrics;
pub mod trace;

pub use access_log::{AccessLine, AccessLog};
pub use metrics::{
    BreakerChange, BytesWay, CertificateKind, ConnectionState, ConsulOutcome, Direction, EndpointState, Flow,
    HandshakeOutcome, HeartbeatOutcome, JwksCounts, JwksOutcome, Metrics, PluginCounts, PluginDecision, ReloadOutcome,
    RetryOutcome, TryOutcome,
};
