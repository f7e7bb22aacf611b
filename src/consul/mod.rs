//! Consul's HTTP API as a client library: where Consul is, who we are to it, plain and blocking calls. Knows nothing of
//! what the answers mean to a sidecar.

mod client;
mod resolve;
mod snapshot;
mod tls;
mod token;

pub use client::{Answer, Client, ConsulError};
pub use resolve::addresses;
pub use snapshot::Snapshot;

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::AsciiSet;
use secrecy::SecretString;

/// Where Consul is and how to speak to it; filled by the file's `consul` section and Consul's own CONSUL_* variables.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `http://host:port`, `https://host:port` or `unix:///path`.
    pub address: String,
    pub token: Option<SecretString>,
    /// Beats `token`, as in Consul's own client. Read again when it changes and when Consul answers 403.
    pub token_file: Option<PathBuf>,
    pub datacenter: Option<String>,
    pub namespace: Option<String>,
    pub partition: Option<String>,
    /// PEM roots for https; the system's where absent.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The name to ask for (SNI) and to verify, where the address is another; a DNS name.
    pub server_name: Option<String>,
    /// CONSUL_HTTP_SSL_VERIFY; false accepts any certificate.
    pub verify: bool,
    /// How long one blocking query may hold (Consul adds up to a sixteenth).
    pub wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:8500".into(),
            token: None,
            token_file: None,
            datacenter: None,
            namespace: None,
            partition: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            server_name: None,
            verify: true,
            wait: Duration::from_secs(55),
        }
    }
}

/// The parts of the API that a sidecar uses; the label of `outrigger_consul_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    Register,
    Deregister,
    CheckUpdate,
    AgentSelf,
    AgentService,
    AgentServices,
    HealthConnect,
    HealthService,
    CaRoots,
    CaLeaf,
    IntentionMatch,
    Intentions,
    Authorize,
}

impl Api {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Register => "agent_service_register",
            Self::Deregister => "agent_service_deregister",
            Self::CheckUpdate => "agent_check_update",
            Self::AgentSelf => "agent_self",
            Self::AgentService => "agent_service",
            Self::AgentServices => "agent_services",
            Self::HealthConnect => "health_connect",
            Self::HealthService => "health_service",
            Self::CaRoots => "connect_ca_roots",
            Self::CaLeaf => "connect_ca_leaf",
            Self::IntentionMatch => "connect_intentions_match",
            Self::Intentions => "connect_intentions",
            Self::Authorize => "agent_connect_authorize",
        }
    }
}

/// One part of a path, percent-encoded: service and check ids may hold any character.
#[must_use]
pub fn path_segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, UNRESERVED).to_string()
}

/// All but RFC 3986 §2.3's unreserved characters are encoded.
const UNRESERVED: &AsciiSet = &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    #[test]
    fn a_path_segment_cannot_leave_its_place() {
        assert_eq!(super::path_segment("web-1:ttl"), "web-1%3Attl");
        assert_eq!(super::path_segment("a/b?c#d%"), "a%2Fb%3Fc%23d%25");
    }
}
