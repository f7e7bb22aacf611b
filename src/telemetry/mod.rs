//! What happened, told once: metrics, and one access record per exchange. Knows nothing of routing.

pub mod access_log;
mod cuts;
mod flow;
mod limiter;
pub mod jwks;
pub mod metrics;
mod authorization;
mod plugin;
mod proxy_header;
pub mod trace;

pub use access_log::{AccessLine, AccessLog};
pub use authorization::{Authorization, AuthorizationCounts};
pub use cuts::CutCause;
pub use flow::Flow;
pub use jwks::{JwksCounts, JwksOutcome};
pub use limiter::{LimiterCounts, LimiterEvent};
pub use metrics::{
    BreakerChange, BytesWay, CertificateKind, ConnectionState, ConsulOutcome, Direction, EndpointState,
    HandshakeOutcome, HeartbeatOutcome, Metrics, ReloadOutcome, RetryOutcome, TryOutcome,
};
pub use plugin::{PluginCounts, PluginDecision};
pub use proxy_header::ProxyHeader;
