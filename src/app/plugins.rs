//! What plugins have beside their settings: the consumers of the configuration, counters that outlive it, and the number of
//! healthy instances of our service, followed while a limit is divided by it.

use std::sync::Arc;

use super::watches::Watching;
use crate::config::{Config, RouteAction};
use crate::counters::Redises;
use crate::filter::consumers::Consumers;
use crate::filter::rate_limiting::{Limiters, Policy};
use crate::filter::{Context, Plugin, Settings};
use crate::lifecycle::Lifecycle;
use crate::names::ServiceName;
use crate::registry::{HealthWatch, MeshMode, Registry, Selection, WatchState, follow};
use crate::service::Health;

/// The plugins' part of a running sidecar.
pub(super) struct Plugins {
    pub(super) context: Context,
    service: ServiceName,
    /// Ends the watch of our own service.
    fleet: Option<Lifecycle>,
}

impl Plugins {
    pub(super) fn new(config: &Config, watching: &Watching) -> Self {
        let limiters = Arc::new(Limiters::new(config.service.name.as_str(), Arc::new(Redises::default())));
        let context = Context::new(watching.metrics.clone(), limiters);
        let sources = context.jwt.sources.clone();
        let keys = crate::jwks::follow(sources, watching.control.clone(), watching.metrics.clone());
        watching.control.spawn("jwks-sources", keys);
        let mut plugins = Self { context, service: config.service.name.clone(), fleet: None };
        plugins.reconfigure(config, watching);
        plugins
    }

    /// Takes what chains are built with from now on.
    pub(super) fn reconfigure(&mut self, config: &Config, watching: &Watching) {
        self.context.consumers = Arc::new(Consumers::new(&config.consumers));
        let wanted = all(config).any(|plugin| match &plugin.settings {
            Settings::RateLimiting(settings) => settings.policy == Policy::Fleet,
            _ => false,
        });
        match (&self.fleet, wanted) {
            (None, true) => self.fleet = Some(self.follow_fleet(watching)),
            (Some(watch), false) => {
                watch.kill();
                self.fleet = None;
            }
            (Some(_), true) | (None, false) => {}
        }
    }

    /// The last number holds while Consul is down.
    fn follow_fleet(&self, watching: &Watching) -> Lifecycle {
        let watch = watching.control.part();
        let (client, all) = (watching.client.clone(), Selection::default());
        let registry = Arc::new(HealthWatch::new(client, self.service.clone(), MeshMode::Mesh, all));
        let state = Arc::new(WatchState::new(registry.describe()));
        let fleet = self.context.limiters.fleet();
        let sink = move |update: crate::registry::Update| {
            let healthy = update.listings.iter().filter(|listing| listing.health != Health::Critical).count();
            tracing::info!(instances = healthy, "limits of the fleet are divided anew");
            fleet.heard(healthy);
        };
        let followed = follow(registry, watching.metrics.clone(), watching.snapshot.clone(), state, sink);
        watch.spawn("watch-fleet", followed);
        watch
    }
}

/// Every plugin of a configuration, those of parts that share it several times.
fn all(config: &Config) -> impl Iterator<Item = &Plugin> {
    let outbound = &config.outbound;
    let of_rules = outbound.routes.iter().flat_map(|route| match &route.action {
        RouteAction::Answer(_, plugins) => vec![plugins],
        RouteAction::Forward(forward) => forward.targets.iter().map(|(_, target)| &target.plugins).collect(),
    });
    let of_upstreams = outbound.upstreams.iter().map(|upstream| &upstream.plugins);
    let of_parts = config.inbound.routes.iter().map(|route| &route.plugins);
    of_rules.chain(of_upstreams).chain(of_parts).chain([&config.inbound.plugins]).flatten()
}
