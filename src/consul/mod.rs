//! Consul's HTTP API as a client library: where Consul is, who we are to it, plain and blocking calls. Knows nothing of
//! what the answers mean to a sidecar.

mod client;

pub use client::{Answer, Client, ConsulError};

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// Where Consul is and how to speak to it; filled by the file's `consul` section and Consul's own CONSUL_* variables.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `http://host:port`, `https://host:port` or `unix:///path`.
    pub address: String,
    pub token: Option<SecretString>,
    /// Read again when it changes and when Consul answers 403.
    pub token_file: Option<PathBuf>,
    pub datacenter: Option<String>,
    pub namespace: Option<String>,
    pub partition: Option<String>,
    /// PEM roots for https; the system's where absent.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
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
    AgentService,
    AgentServices,
    AgentSelf,
    HealthConnect,
    HealthService,
    CaRoots,
    CaLeaf,
}

impl Api {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Register => "agent_service_register",
            Self::Deregister => "agent_service_deregister",
            Self::CheckUpdate => "agent_check_update",
            Self::AgentService => "agent_service",
            Self::AgentServices => "agent_services",
            Self::AgentSelf => "agent_self",
            Self::HealthConnect => "health_connect",
            Self::HealthService => "health_service",
            Self::CaRoots => "connect_ca_roots",
            Self::CaLeaf => "connect_ca_leaf",
        }
    }
}
