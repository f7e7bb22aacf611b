//! What is followed for an upstream: the service itself and each of its failovers, all from the start, so that failing over
//! waits for nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::admin::Status;
use crate::config::{EndpointSource, Subset, UpstreamMtls, UpstreamSettings};
use crate::consul::{Client, Snapshot};
use crate::lifecycle::Lifecycle;
use crate::names::ServiceName;
use crate::proxy::note_breaker;
use crate::registry::{
    DnsSettings, DnsWatch, FixedWatch, HealthWatch, MeshMode, Origin, Records, Registry, Selection, WatchState,
    Watches, follow,
};
use crate::service::{Service, Wire};
use crate::telemetry::{Flow, Metrics};

/// What a watch needs.
#[derive(Clone)]
pub(super) struct Watching {
    pub client: Client,
    pub snapshot: Option<Snapshot>,
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    pub watches: Arc<Watches>,
    pub control: Lifecycle,
}

/// One watch that runs.
pub(super) struct Watch {
    pub source: Source,
    pub state: Arc<WatchState>,
    pub life: Lifecycle,
}

/// What a watch looks at. With another source it is another watch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    /// Whose instances they are, and who they must prove to be.
    service: ServiceName,
    from: EndpointSource,
    mtls: UpstreamMtls,
    subset: Subset,
    datacenter: Option<String>,
}

/// The upstream's own source, then that of each failover in order. Tags, Meta and filter are those of the service: they hold
/// for its instances in other datacenters, but not for other services (as a subset does in Consul's service-resolver).
pub(super) fn sources(upstream: &UpstreamSettings) -> Vec<Source> {
    let own = Source {
        service: upstream.service.clone(),
        from: upstream.source.clone(),
        mtls: upstream.mtls,
        subset: upstream.subset.clone(),
        datacenter: upstream.datacenter.clone(),
    };
    let failovers = upstream.failover.iter().map(|target| Source {
        service: target.service.clone(),
        subset: if target.service == own.service { own.subset.clone() } else { Subset::default() },
        datacenter: target.datacenter.clone(),
        ..own.clone()
    });
    [own.clone()].into_iter().chain(failovers).collect()
}

/// What readiness calls the first answer of an upstream.
pub(super) fn waits_for(service: &ServiceName) -> String {
    format!("upstream {service}")
}

impl Watching {
    /// Follows `source` as one tier of `service`. Readiness waits for the first answer of tier 0 alone.
    pub(super) fn begin(&self, source: &Source, tier: usize, service: &Arc<Service>, flow: &Arc<Flow>) -> Watch {
        let life = self.control.part();
        let registry = self.registry(source);
        let state = Arc::new(WatchState::new(registry.describe()));
        let (service, flow, status) = (service.clone(), flow.clone(), self.status.clone());
        let sink = move |update: crate::registry::Update| {
            for (endpoint, transition) in service.list_tier(tier, update.listings, Instant::now()) {
                note_breaker(&flow, &endpoint, transition, &"seen by the registry");
            }
            if tier == 0 && update.origin == Origin::Live {
                status.arrived(&waits_for(service.name()));
            }
        };
        let followed = follow(registry, self.metrics.clone(), self.snapshot.clone(), state.clone(), sink);
        life.spawn("watch-upstream", followed);
        Watch { source: source.clone(), state, life }
    }

    fn registry(&self, source: &Source) -> Arc<dyn Registry> {
        let name = &source.service;
        // Lists and DNS say nothing of mTLS: the upstream's own setting decides.
        let wire = match source.mtls {
            UpstreamMtls::Required => Wire::Mesh { peer: name.clone(), ours: false },
            UpstreamMtls::Preferred | UpstreamMtls::Off => Wire::Plain,
        };
        let dns = |records: Records, server: &Option<SocketAddr>| {
            let servers = server.iter().copied().collect();
            DnsWatch::new(name, records, DnsSettings { servers }, wire.clone())
        };
        match &source.from {
            EndpointSource::Consul => {
                let mode = match source.mtls {
                    UpstreamMtls::Required => MeshMode::Mesh,
                    UpstreamMtls::Preferred => MeshMode::Preferred,
                    UpstreamMtls::Off => MeshMode::Plain,
                };
                let Subset { tags, meta, filter } = &source.subset;
                let selection = Selection::of(source.datacenter.as_deref()).with(tags, meta, filter.as_deref());
                Arc::new(HealthWatch::new(self.client.clone(), name.clone(), mode, selection))
            }
            EndpointSource::Fixed(endpoints) => Arc::new(FixedWatch::new(name, endpoints.clone(), wire)),
            EndpointSource::DnsSrv { names, server } => Arc::new(dns(Records::Srv(names.clone()), server)),
            EndpointSource::DnsA { names, server } => Arc::new(dns(Records::Address(names.clone()), server)),
        }
    }
}
