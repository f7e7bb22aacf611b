//! The config file's meaning. Text to tree is `tree`, tree to meaning is `check`; what comes out cannot be wrong.

mod authz;
mod check;
#[cfg(test)]
mod docs;
mod consumers;
mod environment;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod gate_keys;
mod http_keys;
mod http_plugins;
mod jwt;
mod jwt_keys;
mod keys;
mod load;
mod overrides;
mod plugins;
mod policy;
mod problems;
mod references;
mod route_keys;
mod route_shapes;
mod routes;
mod schema;
mod section;
mod selection;
mod shape;
#[cfg(test)]
mod tests;
mod tree;
mod upstream_keys;
mod upstream_values;
mod upstreams;
mod values;

pub use authz::IntentionsMode;
#[cfg(test)]
pub(crate) use docs::markdown;
pub use environment::Environment;
pub use load::{Loader, RunOptions};
pub use overrides::Flags;
#[cfg(test)]
pub(crate) use overrides::OVERRIDES;
pub use policy::{Balance, BreakerSettings, HedgeAfter, RetrySettings};
pub use routes::{AppRouteSettings, ForwardSettings, RouteAction, RouteSettings};
pub use schema::schema;
pub use selection::{Failover, Subset};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::access::Rule;
use crate::consul;
use crate::filter::Plugin;
use crate::filter::consumers::Consumer;
use crate::identity;
use crate::names::ServiceName;
use crate::service;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from; `None` where flags alone made it.
    pub file: Option<PathBuf>,
    pub service: ServiceSettings,
    pub consul: consul::Settings,
    /// Folder of the last good answers.
    pub snapshot: Option<PathBuf>,
    pub identity: identity::Source,
    pub inbound: InboundSettings,
    pub outbound: OutboundSettings,
    pub consumers: Vec<Consumer>,
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
    pub access_log: Option<AccessLogSettings>,
    pub grace: Duration,
    pub workers: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSettings {
    pub name: ServiceName,
    /// Default NAME-HOSTNAME-PORT.
    pub id: String,
    /// Host of the app: an IP address or a name.
    pub address: String,
    pub port: u16,
    pub protocol: Protocol,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub weights: Weights,
    pub check: CheckSettings,
}

/// Consul's weights by health, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    pub passing: u16,
    pub warning: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckSettings {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy_after: u32,
    pub unhealthy_after: u32,
    pub ttl: Duration,
    pub deregister_after: Duration,
}

/// How the sidecar asks the app whether it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// GET of a path that begins with `/`: 2xx is well.
    Http(String),
    Tcp,
    /// grpc.health.v1.Health/Check of this service name (may be empty): SERVING is well.
    Grpc(String),
    /// The sidecar itself is the sign of life.
    None,
}

/// What an app or an upstream speaks inside the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    Tcp,
}

#[derive(Debug, Clone)]
pub struct InboundSettings {
    pub listen: SocketAddr,
    /// What Consul is told; `None`: the address that routes to Consul, and the bound port. Port 0: the bound port.
    pub advertise: Option<(String, u16)>,
    pub mtls: InboundMtls,
    pub timeouts: InboundTimeouts,
    pub limits: ListenLimits,
    /// A limit on requests under way to the app that follows its latency.
    pub adaptive: bool,
    pub trusted_ips: Vec<ipnet::IpNet>,
    /// `trusted_ips` must begin with a PROXY header. Where it is set there are some.
    pub proxy_protocol: bool,
    pub authz: Vec<Rule>,
    pub intentions: IntentionsMode,
    pub plugins: Vec<Plugin>,
    pub routes: Vec<AppRouteSettings>,
    /// HTTP/1.1 field names keep the case in which they came.
    pub keeps_case: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundMtls {
    Strict,
    Permissive,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboundTimeouts {
    pub handshake: Duration,
    pub head: Duration,
    pub body_idle: Duration,
    pub idle: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenLimits {
    pub connections: usize,
    /// Bytes of a request head.
    pub head: usize,
    pub headers: usize,
    pub h2_streams: u32,
}

#[derive(Debug, Clone)]
pub struct OutboundSettings {
    pub listen: SocketAddr,
    /// HTTP/1.1 field names keep the case in which they came.
    pub keeps_case: bool,
    pub timeouts: InboundTimeouts,
    pub limits: ListenLimits,
    /// The declared ones, then those that only routes name.
    pub upstreams: Vec<UpstreamSettings>,
    pub routes: Vec<RouteSettings>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamSettings {
    pub service: ServiceName,
    pub listen: Option<SocketAddr>,
    pub protocol: Protocol,
    pub mtls: UpstreamMtls,
    pub balance: Balance,
    /// Endpoints of our own zone first.
    pub prefer_zone: bool,
    pub source: EndpointSource,
    /// Of the instances in Consul.
    pub subset: Subset,
    /// Of Consul's; `None`: the agent's own.
    pub datacenter: Option<String>,
    /// Where to go when no endpoint is left, in this order. Empty unless `source` is Consul.
    pub failover: Vec<Failover>,
    pub connect_timeout: Duration,
    /// The whole exchange up to the response's head; `None` for `off`.
    pub timeout: Option<Duration>,
    pub idle_timeout: Duration,
    pub retry: RetrySettings,
    /// Of the defaults, then its own: the last one of a name counts.
    pub plugins: Vec<Plugin>,
    /// `None` for off.
    pub hedge: Option<HedgeAfter>,
    pub breaker: BreakerSettings,
    pub limits: service::Limits,
    /// A limit on requests under way that follows latency, below `limits.requests`.
    pub adaptive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    Consul,
    /// Addresses with ports; names are resolved once a minute.
    Fixed(Vec<(String, u16)>),
    /// DNS names whose SRV records give port and weight. `server` is asked, else the system's.
    DnsSrv {
        names: Vec<String>,
        server: Option<SocketAddr>,
    },
    /// DNS names with ports whose A and AAAA records are the endpoints. `server` is asked, else the system's.
    DnsA {
        names: Vec<(String, u16)>,
        server: Option<SocketAddr>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamMtls {
    Required,
    Preferred,
    Off,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogSettings {
    pub path: AccessLogPath,
    /// 0.0 to 1.0; lines of requests that outrigger itself answered, and of 5xx, are always written.
    pub sample: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogPath {
    Stdout,
    Stderr,
    File(PathBuf),
}
