//! The declared upstreams: each a service that is followed in its registry. A reload keeps what did not change.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::uri::Authority;

use super::routes::OwnServices;
use super::{Failure, settings};
use crate::admin::Status;
use crate::config::{EndpointSource, OutboundSettings, UpstreamMtls, UpstreamSettings};
use crate::consul::{Client, Snapshot};
use crate::filter::Chain;
use crate::lifecycle::Lifecycle;
use crate::names::ServiceName;
use crate::registry::{DnsSettings, DnsWatch, FixedWatch, HealthWatch, MeshMode, Origin, Records, Registry, follow};
use crate::route::{Hedge, Route, RouteTable, Rule};
use crate::service::{Service, Wire};
use crate::telemetry::{Direction, Flow, Metrics};

/// What a watch needs.
pub(super) struct Watching {
    pub client: Client,
    pub snapshot: Option<Snapshot>,
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    pub control: Lifecycle,
}

/// All upstreams by name.
pub(super) struct Upstreams {
    watching: Watching,
    pub(super) running: BTreeMap<ServiceName, Running>,
    pub(super) own: OwnServices,
    pub(super) rules: Vec<Arc<Rule>>,
}

pub(super) struct Running {
    pub(super) settings: UpstreamSettings,
    pub(super) service: Arc<Service>,
    pub(super) flow: Arc<Flow>,
    route: Arc<Route>,
    pub(super) watch: Lifecycle,
    /// The listener of its own port, where it has one.
    listening: Option<Lifecycle>,
}

/// What readiness calls the first answer of an upstream.
pub(super) fn waits_for(service: &ServiceName) -> String {
    format!("upstream {service}")
}

impl Upstreams {
    pub(super) fn new(watching: Watching, outbound: &OutboundSettings) -> Result<Self, Failure> {
        let mut upstreams = Self { watching, running: BTreeMap::new(), own: BTreeMap::new(), rules: Vec::new() };
        upstreams.apply(outbound)?;
        Ok(upstreams)
    }

    /// Makes the running upstreams those of `outbound`. Services that stay keep their endpoints and what was learned of
    /// them; a watch is begun anew only where its source changed.
    pub(super) fn apply(&mut self, outbound: &OutboundSettings) -> Result<(), Failure> {
        let mut next = BTreeMap::new();
        for upstream in &outbound.upstreams {
            let running = match self.running.remove(&upstream.service) {
                Some(running) => self.keep(running, upstream, outbound)?,
                None => self.begin(upstream, outbound)?,
            };
            next.insert(upstream.service.clone(), running);
        }
        for (name, gone) in std::mem::replace(&mut self.running, next) {
            gone.watch.kill();
            if let Some(listening) = gone.listening {
                listening.begin_drain();
            }
            gone.service.list(Vec::new(), Instant::now());
            self.watching.metrics.forget_upstream(name.as_str());
        }
        self.apply_routes(outbound)
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.watching.metrics
    }

    pub(super) fn begin(&self, upstream: &UpstreamSettings, outbound: &OutboundSettings) -> Result<Running, Failure> {
        let service =
            Arc::new(Service::new(upstream.service.clone(), settings::policy(upstream, None), Instant::now()));
        let flow = Arc::new(self.watching.metrics.flow(Direction::Outbound, upstream.service.as_str()));
        Ok(Running {
            route: Arc::new(route(upstream, outbound, (&service, &flow), self.filters(upstream), None)?),
            watch: self.watch(upstream, &service),
            settings: upstream.clone(),
            service,
            flow,
            listening: None,
        })
    }

    pub(super) fn keep(
        &self,
        mut running: Running,
        upstream: &UpstreamSettings,
        outbound: &OutboundSettings,
    ) -> Result<Running, Failure> {
        running.service.reconfigure(settings::policy(upstream, None));
        let (filters, before) = (self.filters(upstream), Some(&*running.route));
        let next = route(upstream, outbound, (&running.service, &running.flow), filters, before)?;
        running.route = Arc::new(next);
        let source = |u: &UpstreamSettings| (u.source.clone(), u.mtls);
        if source(&running.settings) != source(upstream) {
            running.watch.kill();
            running.watch = self.watch(upstream, &running.service);
        }
        if running.settings.listen != upstream.listen
            && let Some(listening) = running.listening.take()
        {
            listening.begin_drain();
        }
        running.settings = upstream.clone();
        Ok(running)
    }

    fn filters(&self, upstream: &UpstreamSettings) -> Chain {
        Chain::build(&upstream.plugins, self.metrics())
    }

    fn watch(&self, upstream: &UpstreamSettings, service: &Arc<Service>) -> Lifecycle {
        let watch = self.watching.control.part();
        let (service, status) = (service.clone(), self.watching.status.clone());
        let registry = self.registry(upstream);
        let sink = move |update: crate::registry::Update| {
            service.list(update.listings, Instant::now());
            if update.origin == Origin::Live {
                status.arrived(&waits_for(service.name()));
            }
        };
        let followed = follow(registry, self.watching.metrics.clone(), self.watching.snapshot.clone(), sink);
        watch.spawn("watch-upstream", followed);
        watch
    }

    fn registry(&self, upstream: &UpstreamSettings) -> Arc<dyn Registry> {
        let name = &upstream.service;
        // Lists and DNS say nothing of mTLS: the upstream's own setting decides.
        let wire = match upstream.mtls {
            UpstreamMtls::Required => Wire::Mesh { peer: name.clone(), ours: false },
            UpstreamMtls::Preferred | UpstreamMtls::Off => Wire::Plain,
        };
        let dns = |records: Records, server: &Option<SocketAddr>| {
            let servers = server.iter().copied().collect();
            DnsWatch::new(name, records, DnsSettings { servers }, wire.clone())
        };
        match &upstream.source {
            EndpointSource::Consul => {
                let mode = match upstream.mtls {
                    UpstreamMtls::Required => MeshMode::Mesh,
                    UpstreamMtls::Preferred => MeshMode::Preferred,
                    UpstreamMtls::Off => MeshMode::Plain,
                };
                Arc::new(HealthWatch::new(self.watching.client.clone(), name.clone(), mode))
            }
            EndpointSource::Fixed(endpoints) => Arc::new(FixedWatch::new(name, endpoints.clone(), wire)),
            EndpointSource::DnsSrv { names, server } => Arc::new(dns(Records::Srv(names.clone()), server)),
            EndpointSource::DnsA { names, server } => Arc::new(dns(Records::Address(names.clone()), server)),
        }
    }

    /// The table that these upstreams make.
    pub(super) fn table(&self) -> RouteTable {
        RouteTable::new(self.running.values().map(|running| running.route.clone()), self.rules.clone())
    }

    /// Notes what ends the listener of an upstream's own port.
    pub(super) fn listens(&mut self, upstream: &ServiceName, listener: Lifecycle) {
        if let Some(running) = self.running.get_mut(upstream) {
            running.listening = Some(listener);
        }
    }

    /// The ports that `outbound` wants and that are not accepted on yet.
    pub(super) fn missing_ports(&self, outbound: &OutboundSettings) -> Vec<(ServiceName, SocketAddr)> {
        let wanted = outbound.upstreams.iter().filter_map(|u| Some((u.service.clone(), u.listen?)));
        let is_new = |(name, address): &(ServiceName, SocketAddr)| {
            let running = self.running.get(name);
            running.is_none_or(|running| running.settings.listen != Some(*address))
        };
        wanted.filter(is_new).collect()
    }
}

pub(super) fn route(
    upstream: &UpstreamSettings,
    outbound: &OutboundSettings,
    (service, flow): (&Arc<Service>, &Arc<Flow>),
    filters: Chain,
    before: Option<&Route>,
) -> Result<Route, Failure> {
    Ok(Route {
        service: service.clone(),
        authority: Some(upstream.service.as_str().parse::<Authority>()?),
        host: http::HeaderValue::from_str(upstream.service.as_str())?,
        flow: flow.clone(),
        http2: settings::speaks_http2(upstream.protocol),
        connect_timeout: upstream.connect_timeout,
        timeout: upstream.timeout,
        body_idle: outbound.timeouts.body_idle,
        idle_timeout: upstream.idle_timeout,
        retry: settings::retry(upstream),
        filters,
        counts_attempts: true,
        hedge: hedge(upstream, before),
        failures: upstream.breaker.statuses.iter().copied().collect(),
        hash_on: settings::hash_on(&upstream.balance),
    })
}

/// Hedging goes on by the latencies that it has seen, unless a reload changed it.
fn hedge(upstream: &UpstreamSettings, before: Option<&Route>) -> Option<Arc<Hedge>> {
    let after = settings::hedge(upstream.hedge?);
    let kept = before.and_then(|route| route.hedge.as_ref()).filter(|hedge| hedge.is(after)).cloned();
    Some(kept.unwrap_or_else(|| Arc::new(Hedge::new(after))))
}
