//! What each module below is told, from the checked configuration.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{
    AccessLogPath, Balance, Config, HedgeAfter, InboundMtls, InboundSettings, InboundTimeouts, ListenLimits, Probe,
    Protocol, ServiceSettings, UpstreamSettings,
};
use crate::identity;
use crate::listen::{self, Security};
use crate::registry::consul::agent::{self, Registration};
use crate::registry::probe;
use crate::route::{self, HashOn, OnReset, RetryPolicy, StatusSet};
use crate::service;
use crate::telemetry::access_log::Destination;

pub(super) fn listen(timeouts: InboundTimeouts, limits: ListenLimits, keeps_case: bool) -> listen::Settings {
    listen::Settings {
        handshake: timeouts.handshake,
        head: timeouts.head,
        idle: timeouts.idle,
        connections: limits.connections,
        head_size: limits.head,
        headers: limits.headers,
        h2_streams: limits.h2_streams,
        keeps_case,
    }
}

/// Who must begin with a PROXY header; nobody where the protocol is off.
pub(super) fn proxied_by(inbound: &InboundSettings) -> Vec<ipnet::IpNet> {
    if inbound.proxy_protocol { inbound.trusted_ips.clone() } else { Vec::new() }
}

pub(super) fn security(mtls: InboundMtls, identity: Arc<identity::Current>) -> Security {
    match mtls {
        InboundMtls::Strict => Security::Strict(identity),
        InboundMtls::Permissive => Security::Permissive(identity),
        InboundMtls::Off => Security::Plain,
    }
}

pub(super) fn probe(service: &ServiceSettings) -> probe::Settings {
    let check = &service.check;
    let method = match &check.probe {
        Probe::Http(path) => {
            probe::Method::Http { path: path.clone(), prior_knowledge: speaks_http2(service.protocol) }
        }
        Probe::Tcp => probe::Method::Tcp,
        Probe::Grpc(name) => probe::Method::Grpc(name.clone()),
        Probe::None => probe::Method::None,
    };
    probe::Settings {
        method,
        address: service.address.clone(),
        port: service.port,
        interval: check.interval,
        timeout: check.timeout,
        healthy_after: check.healthy_after,
        unhealthy_after: check.unhealthy_after,
    }
}

/// `bound` is the inbound listener as it really is.
pub(super) fn registration(config: &Config, bound: SocketAddr) -> Registration {
    let service = &config.service;
    let (address, port) = match &config.inbound.advertise {
        Some((host, 0)) => (host.clone(), bound.port()),
        Some((host, port)) => (host.clone(), *port),
        None if bound.ip().is_unspecified() => (toward_consul(&config.consul.address).to_string(), bound.port()),
        None => (bound.ip().to_string(), bound.port()),
    };
    Registration {
        name: service.name.clone(),
        id: service.id.clone(),
        address,
        port,
        tags: service.tags.clone(),
        meta: service.meta.clone(),
        weight_passing: service.weights.passing,
        weight_warning: service.weights.warning,
        owner: agent::owner(&service.name, &hostname(), &service.address, service.port),
        ttl: service.check.ttl,
        deregister_after: service.check.deregister_after,
    }
}

/// Our address on the way to Consul: what its other clients most likely reach us by. No packet is sent.
fn toward_consul(address: &str) -> IpAddr {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let routed = || {
        let target = authority.to_socket_addrs().ok()?.next()?;
        let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(target).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    routed().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |name| name.trim().to_owned())
}

pub(super) fn speaks_http2(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Http | Protocol::Tcp => false,
        Protocol::Http2 | Protocol::Grpc => true,
    }
}

/// `zone` is our own, where it is known.
pub(super) fn policy(upstream: &UpstreamSettings, zone: Option<&Arc<str>>) -> service::Policy {
    service::Policy {
        balance: balance(&upstream.balance),
        zone: zone.filter(|_| upstream.prefer_zone).cloned(),
        breaker: upstream.breaker.policy,
        limits: upstream.limits,
        adaptive: upstream.adaptive,
        budget: upstream.retry.budget,
    }
}

/// The app is one endpoint, so nothing but the limit that follows its latency applies.
pub(super) fn app_policy(inbound: &InboundSettings) -> service::Policy {
    service::Policy { adaptive: inbound.adaptive, ..service::Policy::default() }
}

fn balance(balance: &Balance) -> service::Balance {
    match balance {
        Balance::LeastLoaded => service::Balance::LeastLoaded,
        Balance::RoundRobin => service::Balance::RoundRobin,
        Balance::Random => service::Balance::Random,
        Balance::RingHash(_) => service::Balance::RingHash,
        Balance::Maglev(_) => service::Balance::Maglev,
    }
}

pub(super) fn retry(upstream: &UpstreamSettings) -> RetryPolicy {
    let retry = &upstream.retry;
    RetryPolicy {
        attempts: retry.attempts,
        on_unsent: retry.on_unsent,
        on_reset: if retry.on_reset { OnReset::Always } else { OnReset::Never },
        methods: retry.methods.clone(),
        on_status: retry.statuses.iter().copied().collect(),
        per_try_timeout: retry.per_try_timeout,
        backoff: retry.backoff,
        body_limit: retry.body_limit,
    }
}

pub(super) fn hedge(after: HedgeAfter) -> route::HedgeAfter {
    match after {
        HedgeAfter::Percentile(percent) => route::HedgeAfter::Quantile(f64::from(percent) / 100.0),
        HedgeAfter::Time(time) => route::HedgeAfter::Fixed(time),
    }
}

pub(super) fn hash_on(balance: &Balance) -> Option<HashOn> {
    match balance {
        Balance::RingHash(on) | Balance::Maglev(on) => Some(on.clone()),
        Balance::LeastLoaded | Balance::RoundRobin | Balance::Random => None,
    }
}

/// Toward our own app: another try meets the same instance, so only what was lost to the keep-alive race is sent again.
pub(super) fn retry_to_app() -> RetryPolicy {
    RetryPolicy {
        attempts: 1,
        on_reset: OnReset::Reused,
        on_status: StatusSet::EMPTY,
        per_try_timeout: None,
        ..RetryPolicy::default()
    }
}

pub(super) fn access_log(path: &AccessLogPath) -> Destination {
    match path {
        AccessLogPath::Stdout => Destination::Stdout,
        AccessLogPath::Stderr => Destination::Stderr,
        AccessLogPath::File(path) => Destination::File(path.clone()),
    }
}

/// Idle connections to other sidecars: well under the five minutes after which their listeners close them.
pub(super) const MESH_IDLE: Duration = Duration::from_secs(90);
/// Idle connections to the app: under the five seconds after which many app servers close them.
pub(super) const APP_IDLE: Duration = Duration::from_secs(4);
/// A connection to the app on this machine either comes at once or not at all.
pub(super) const APP_CONNECT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_address_is_the_one_that_routes_to_consul() {
        assert_eq!(toward_consul("http://127.0.0.1:8500"), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(toward_consul("unix:///run/consul.sock"), IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
}
