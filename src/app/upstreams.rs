//! The declared upstreams: each a service that is followed where it and its failovers are listed. A reload keeps what did
//! not change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::uri::Authority;

use super::routes::OwnServices;
use super::watches::{Source, Watch, Watching, sources};
use super::zone::Zone;
use super::{Failure, settings};
use crate::config::{Config, OutboundSettings, Protocol, UpstreamSettings};
use crate::filter::Chain;
use crate::lifecycle::Lifecycle;
use crate::names::ServiceName;
use crate::route::{Hedge, Route, RouteTable, Rule};
use crate::service::Service;
use crate::telemetry::{Direction, Flow, Metrics};

/// All upstreams by name.
pub(super) struct Upstreams {
    watching: Watching,
    zone: Zone,
    pub(super) running: BTreeMap<ServiceName, Running>,
    pub(super) own: OwnServices,
    pub(super) rules: Vec<Arc<Rule>>,
}

pub(super) struct Running {
    pub(super) settings: UpstreamSettings,
    pub(super) service: Arc<Service>,
    pub(super) flow: Arc<Flow>,
    route: Arc<Route>,
    /// Of the service itself, then of each failover in order; a watch's place is its tier.
    watches: Vec<Watch>,
    /// The listener of its own port, where it has one.
    listening: Option<Lifecycle>,
}

impl Running {
    /// It is no longer declared: nothing is followed, and its connections are let go.
    pub(super) fn end(self) {
        if let Some(listening) = self.listening {
            listening.begin_drain();
        }
        for (tier, watch) in self.watches.into_iter().enumerate() {
            watch.life.kill();
            self.service.list_tier(tier, Vec::new(), Instant::now());
        }
    }
}

impl Upstreams {
    pub(super) fn new(watching: Watching, config: &Config) -> Result<Self, Failure> {
        let (running, own) = (BTreeMap::new(), BTreeMap::new());
        let mut upstreams = Self { zone: Zone::default(), watching, running, own, rules: Vec::new() };
        upstreams.apply(config)?;
        Ok(upstreams)
    }

    /// Makes the running upstreams those of `config`. Services that stay keep their endpoints and what was learned of
    /// them; a watch is begun anew only where its source changed.
    pub(super) fn apply(&mut self, config: &Config) -> Result<(), Failure> {
        let outbound = &config.outbound;
        self.zone.configure(config, &self.watching);
        let before = self.labels();
        let mut next = BTreeMap::new();
        for upstream in &outbound.upstreams {
            let running = match self.running.remove(&upstream.service) {
                Some(running) => self.keep(running, upstream, outbound)?,
                None => self.begin(upstream, outbound)?,
            };
            next.insert(upstream.service.clone(), running);
        }
        for (name, gone) in std::mem::replace(&mut self.running, next) {
            gone.end();
            self.watching.metrics.forget_upstream(name.as_str());
        }
        self.apply_routes(outbound)?;
        for label in before.difference(&self.labels()) {
            self.watching.metrics.forget_watch(label);
        }
        let states = |running: &Running| running.watches.iter().map(|watch| watch.state.clone()).collect();
        self.watching
            .watches
            .store(self.running.iter().map(|(name, running)| (name.clone(), states(running))).collect());
        Ok(())
    }

    /// The `watch` labels in use. Two upstreams may look at the same instances.
    fn labels(&self) -> BTreeSet<String> {
        let all = self.running.values().chain(self.own.values());
        all.flat_map(|running| &running.watches).map(|watch| watch.state.watch.clone()).collect()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.watching.metrics
    }

    pub(super) fn begin(&self, upstream: &UpstreamSettings, outbound: &OutboundSettings) -> Result<Running, Failure> {
        let policy = settings::policy(upstream, self.zone.known());
        let service = Arc::new(Service::new(upstream.service.clone(), policy, Instant::now()));
        let flow = Arc::new(self.watching.metrics.flow(Direction::Outbound, upstream.service.as_str()));
        Ok(Running {
            route: Arc::new(route(upstream, outbound, (&service, &flow), self.filters(upstream), None)?),
            watches: self.follow(Vec::new(), &sources(upstream), &service, &flow),
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
        running.service.reconfigure(settings::policy(upstream, self.zone.known()));
        let (filters, before) = (self.filters(upstream), Some(&*running.route));
        let next = route(upstream, outbound, (&running.service, &running.flow), filters, before)?;
        running.route = Arc::new(next);
        running.watches = self.follow(running.watches, &sources(upstream), &running.service, &running.flow);
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

    /// One watch a source. Those of `old` that look at the same at the same place run on; what others listed stays until
    /// the one in their place has its first answer.
    fn follow(&self, old: Vec<Watch>, sources: &[Source], service: &Arc<Service>, flow: &Arc<Flow>) -> Vec<Watch> {
        let mut old = old.into_iter();
        let mut watches = Vec::with_capacity(sources.len());
        for (tier, source) in sources.iter().enumerate() {
            watches.push(match old.next() {
                Some(watch) if watch.source == *source => watch,
                other => {
                    if let Some(other) = other {
                        other.life.kill();
                    }
                    self.watching.begin(source, tier, service, flow)
                }
            });
        }
        for (more, watch) in old.enumerate() {
            watch.life.kill();
            service.list_tier(sources.len() + more, Vec::new(), Instant::now());
        }
        watches
    }

    /// Resolves when our own zone became known after the start. Cancel safe.
    pub(super) async fn zone_learned(&mut self) {
        self.zone.learned().await;
    }

    /// Gives every upstream the zone that is known by now.
    pub(super) fn adopt_zone(&self) {
        for running in self.running.values().chain(self.own.values()) {
            running.service.reconfigure(settings::policy(&running.settings, self.zone.known()));
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
        tcp: upstream.protocol == Protocol::Tcp,
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
