//! What is known of each upstream's endpoints and of our own app, and the gauge that counts them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::View;
use crate::registry::WatchState;
use crate::route::Route;
use crate::service::{BreakerState, Endpoint, Health, Reachable, Service, Wire};
use crate::telemetry::EndpointState;
use crate::telemetry::access_log::timestamp;

/// `/endpoints`.
#[derive(Serialize)]
pub(super) struct Listed {
    service: String,
    id: String,
    app: Upstream,
    /// Sorted by name.
    upstreams: Vec<Upstream>,
}

#[derive(Serialize)]
struct Upstream {
    service: String,
    #[serde(flatten)]
    counts: Counts,
    /// Where they are listed: the service's own watch, then those of its failovers. Empty for the app.
    registry: Vec<Watched>,
    endpoints: Vec<Shown>,
}

#[derive(Serialize)]
struct Watched {
    watch: String,
    /// Why there is no news, and since when (RFC 3339); absent while all is well. The last good endpoints stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    address: SocketAddr,
    /// As the registry says.
    health: Health,
    /// What it can be used for now: healthy | ejected | excluded.
    state: &'static str,
    weight: u32,
    in_flight: u32,
    /// The moving average that balancing goes by; 0 before the first answer.
    latency_ms: f64,
    breaker: Breaker,
    zone: Option<String>,
    mtls: bool,
    /// Who it must prove to be.
    peer: Option<String>,
}

/// What was learned of its failures.
#[derive(Serialize)]
struct Breaker {
    /// closed | open | half_open.
    state: &'static str,
    /// Failures in a row.
    consecutive: u32,
    /// Failures over answers within the window, 0.0 to 1.0.
    error_rate: f64,
    /// Answers within the window.
    requests: u64,
    ejections: u32,
    /// Until one request may probe.
    open_for_ms: u64,
}

/// Endpoints of a service by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) healthy: usize,
    ejected: usize,
    excluded: usize,
}

impl Listed {
    pub(super) fn of(view: &View, now: Instant) -> Self {
        let watches = view.watches.snapshot();
        let watched = |service: &Service| watches.get(service.name()).map(Vec::as_slice).unwrap_or_default();
        let upstream = |route: &Arc<Route>| Upstream::of(&route.service, watched(&route.service), now);
        Self {
            service: view.service.to_string(),
            id: view.id.clone(),
            app: Upstream::of(&view.inbound.view.snapshot().app.service, &[], now),
            upstreams: upstreams(view).iter().map(upstream).collect(),
        }
    }
}

impl Upstream {
    fn of(service: &Service, watches: &[Arc<WatchState>], now: Instant) -> Self {
        let endpoints = service.endpoints();
        Self {
            service: service.name().to_string(),
            counts: Counts::of(endpoints.all(), now),
            registry: watches.iter().map(|watch| Watched::of(watch)).collect(),
            endpoints: endpoints.all().iter().map(|endpoint| Shown::of(endpoint, now)).collect(),
        }
    }
}

impl Watched {
    fn of(state: &WatchState) -> Self {
        let (error, since) = state.trouble().map(|trouble| (trouble.error, timestamp(trouble.since))).unzip();
        Self { watch: state.watch.clone(), error, failing_since: since }
    }
}

impl Shown {
    fn of(endpoint: &Endpoint, now: Instant) -> Self {
        let listing = &endpoint.listing;
        let (mtls, peer) = match &listing.wire {
            Wire::Plain => (false, None),
            Wire::Mesh { peer, ours: _ } => (true, Some(peer.to_string())),
        };
        Self {
            id: listing.id.to_string(),
            address: listing.address,
            health: listing.health,
            state: state(endpoint, now).as_str(),
            weight: listing.weight,
            in_flight: endpoint.load().in_flight(),
            latency_ms: (endpoint.load().latency(now).as_secs_f64() * 1e6).round() / 1e3,
            breaker: Breaker::of(endpoint, now),
            zone: listing.zone.as_deref().map(str::to_owned),
            mtls,
            peer,
        }
    }
}

impl Breaker {
    fn of(endpoint: &Endpoint, now: Instant) -> Self {
        let view = endpoint.breaker(now);
        Self {
            state: match view.state {
                BreakerState::Closed => "closed",
                BreakerState::Open => "open",
                BreakerState::HalfOpen => "half_open",
            },
            consecutive: view.consecutive,
            error_rate: (view.error_rate * 1e3).round() / 1e3,
            requests: view.requests,
            ejections: view.ejections,
            open_for_ms: view.open_for_remaining.as_millis() as u64,
        }
    }
}

impl Counts {
    pub(super) fn of(endpoints: &[Arc<Endpoint>], now: Instant) -> Self {
        let mut counts = Self::default();
        for endpoint in endpoints {
            match state(endpoint, now) {
                EndpointState::Healthy => counts.healthy += 1,
                EndpointState::Ejected => counts.ejected += 1,
                EndpointState::Excluded => counts.excluded += 1,
            }
        }
        counts
    }

    fn get(self, state: EndpointState) -> usize {
        match state {
            EndpointState::Healthy => self.healthy,
            EndpointState::Ejected => self.ejected,
            EndpointState::Excluded => self.excluded,
        }
    }
}

/// The declared upstreams, sorted by name.
pub(super) fn upstreams(view: &View) -> Vec<Arc<Route>> {
    let mut routes: Vec<_> = view.outbound.routes.snapshot().iter().cloned().collect();
    routes.sort_by(|a, b| a.service.name().cmp(b.service.name()));
    routes
}

/// Sets `outrigger_upstream_endpoints` as of now: an endpoint's state changes with time alone, too.
pub(super) fn count(view: &View, now: Instant) {
    for route in view.outbound.routes.snapshot().iter() {
        let counts = Counts::of(route.service.endpoints().all(), now);
        for state in EndpointState::ALL {
            view.metrics.endpoints(route.service.name().as_str(), *state, counts.get(*state));
        }
    }
}

fn state(endpoint: &Endpoint, now: Instant) -> EndpointState {
    if endpoint.listing.health == Health::Critical {
        return EndpointState::Excluded;
    }
    match (endpoint.breaker(now).state, endpoint.reachable(now)) {
        (BreakerState::Closed, Reachable::Yes) => EndpointState::Healthy,
        // One whose pause is over is no better before its probe has shown it.
        (BreakerState::Closed | BreakerState::Open | BreakerState::HalfOpen, _) => EndpointState::Ejected,
    }
}
