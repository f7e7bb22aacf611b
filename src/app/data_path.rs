//! The data path put together: one pool a worker and direction, the listeners, what they share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plugins::Plugins;
use super::upstreams::Upstreams;
use super::watches::Watching;
use super::{Failure, access, routes, settings};
use crate::clock;
use crate::config::{Config, Probe, Protocol};
use crate::filter::{Chain, Context};
use crate::identity;
use crate::lifecycle::Lifecycle;
use crate::listen::{self, Bound, Listener, OpenConnections, Security, Target};
use crate::names::ServiceName;
use crate::proxy::{Entry, Inbound, InboundShared, InboundView, Outbound, OutboundShared};
use crate::published::Published;
use crate::registry::{FixedWatch, Registry, WatchState, follow};
use crate::route::{Route, RouteTable, Rule, StatusSet};
use crate::service::{Service, Wire};
use crate::telemetry::{AccessLog, Direction, Metrics};
use crate::upstream::{Dialer, Pool, PoolSettings};
use crate::worker::Workers;

/// All that carries requests.
pub(super) struct DataPath {
    workers: Workers,
    metrics: Arc<Metrics>,
    pub(super) inbound: Arc<InboundShared>,
    pub(super) outbound: Arc<OutboundShared>,
    pub(super) access_log: Arc<Published<Option<AccessLog>>>,
    pub(super) upstreams: Upstreams,
    app: Arc<Service>,
    security: Security,
    inbound_settings: Arc<Published<listen::Settings>>,
    outbound_settings: Arc<Published<listen::Settings>>,
    /// Load balancers that speak the PROXY protocol.
    proxied_by: Arc<Published<Vec<ipnet::IpNet>>>,
    /// Those of the mesh with us, while they serve.
    pub(super) inbound_open: OpenConnections,
    inbound_pools: Vec<Pool>,
    outbound_pools: Vec<Pool>,
    /// Inbound connections; drained first.
    pub(super) inbound_life: Lifecycle,
    /// Connections of our app; drained last.
    pub(super) outbound_life: Lifecycle,
    /// Connections to endpoints and to the app.
    pools_life: Lifecycle,
    control: Lifecycle,
    /// Until they accept.
    sockets: Option<Sockets>,
}

/// The data path's bound listeners.
pub(super) struct Sockets {
    pub inbound: Bound,
    pub outbound: Bound,
    /// The upstreams' own ports.
    pub upstreams: Vec<(ServiceName, Bound)>,
}

impl DataPath {
    pub(super) fn build(
        config: &Config,
        workers: Workers,
        identity: Arc<identity::Current>,
        watching: Watching,
        sockets: Sockets,
    ) -> Result<Self, Failure> {
        let metrics = watching.metrics.clone();
        let control = watching.control.clone();
        let access_log = Arc::new(Published::new(open_log(config, &metrics)?));
        let app =
            Arc::new(Service::new(config.service.name.clone(), settings::app_policy(&config.inbound), Instant::now()));
        let flow = Arc::new(metrics.flow(Direction::Inbound, config.service.name.as_str()));
        let plugins = Plugins::new(config, &watching);
        let view = inbound_view(config, &app, &flow, (&[], &plugins.context))?;
        let inbound = Arc::new(InboundShared {
            view: Published::new(view),
            entry: Entry::new(access::first(config), &metrics),
            plain_peers: Arc::default(),
            access_log: access_log.clone(),
        });
        let pools_life = Lifecycle::new();
        let outbound = Arc::new(OutboundShared {
            routes: Published::new(RouteTable::default()),
            unrouted: Arc::new(metrics.flow(Direction::Outbound, UNROUTED)),
            access_log: access_log.clone(),
            mirrors: pools_life.part(),
        });
        let pools = |idle: Duration, keeps_case: bool| -> Vec<Pool> {
            // One for each direction: a service may call itself, from outbound to inbound.
            let dialer = Dialer::new(identity.clone());
            let pool = |_| Pool::new(dialer.clone(), PoolSettings { idle, keeps_case }, pools_life.clone());
            workers.iter().map(pool).collect()
        };
        Ok(Self {
            inbound_open: OpenConnections::default(),
            inbound_pools: pools(settings::APP_IDLE, config.inbound.keeps_case),
            outbound_pools: pools(settings::MESH_IDLE, config.outbound.keeps_case),
            security: settings::security(config.inbound.mtls, identity),
            inbound_settings: Arc::new(Published::new(settings::listen(
                config.inbound.timeouts,
                config.inbound.limits,
                config.inbound.keeps_case,
            ))),
            outbound_settings: Arc::new(Published::new(settings::listen(
                config.outbound.timeouts,
                config.outbound.limits,
                config.outbound.keeps_case,
            ))),
            proxied_by: Arc::new(Published::new(settings::proxied_by(&config.inbound))),
            upstreams: Upstreams::new(watching, plugins, config)?,
            workers,
            metrics,
            inbound,
            outbound,
            access_log,
            app,
            inbound_life: Lifecycle::new(),
            outbound_life: Lifecycle::new(),
            pools_life,
            control,
            sockets: Some(sockets),
        })
    }

    /// Starts accepting, watching and sweeping.
    pub(super) fn start(&mut self) {
        self.outbound.routes.store(self.upstreams.table());
        self.watch_app();
        let first = self.workers.first().runtime.clone();
        if let Some(Sockets { inbound, outbound, upstreams }) = self.sockets.take() {
            let listener = self.inbound_listener();
            self.inbound_life.spawn_on(&first, "accept-inbound", listener.run(inbound));
            self.accept_outbound(outbound, None);
            for (service, bound) in upstreams {
                self.accept_outbound(bound, Some(service));
            }
        }
        for (worker, pools) in self.workers.iter().zip(self.inbound_pools.iter().zip(&self.outbound_pools)) {
            let pools = [pools.0.clone(), pools.1.clone()];
            self.pools_life.spawn_on(&worker.runtime, "sweep", sweep(pools));
        }
    }

    /// The app's address is followed like any other: a name may come to mean another container.
    fn watch_app(&self) {
        let address = vec![self.app_address()];
        let registry = Arc::new(FixedWatch::new(self.app.name(), address, Wire::Plain));
        let app = self.app.clone();
        let state = Arc::new(WatchState::new(registry.describe()));
        let followed = follow(registry, self.metrics.clone(), None, state, move |update| {
            app.list(update.listings, Instant::now());
        });
        self.control.spawn("watch-app", followed);
    }

    fn app_address(&self) -> (String, u16) {
        let view = self.inbound.view.peek();
        (view.app_host.clone(), view.app_port)
    }

    fn inbound_listener(&self) -> Listener<Inbound> {
        let target = |(worker, pool): (&crate::worker::Worker, &Pool)| Target {
            runtime: worker.runtime.clone(),
            load: worker.load.clone(),
            handler: Arc::new(Inbound::new(self.inbound.clone(), pool.clone(), self.inbound_life.clone())),
        };
        Listener {
            direction: Direction::Inbound,
            security: self.security.clone(),
            settings: self.inbound_settings.clone(),
            proxied_by: self.proxied_by.clone(),
            targets: self.workers.iter().zip(&self.inbound_pools).map(target).collect(),
            metrics: self.metrics.clone(),
            lifecycle: self.inbound_life.clone(),
            open: self.inbound_open.clone(),
            plain_peers: self.inbound.plain_peers.clone(),
        }
    }

    /// Accepts on the shared port (`None`) or on an upstream's own.
    pub(super) fn accept_outbound(&mut self, bound: Bound, upstream: Option<ServiceName>) {
        let lifecycle = self.outbound_life.part();
        let target = |(worker, pool): (&crate::worker::Worker, &Pool)| Target {
            runtime: worker.runtime.clone(),
            load: worker.load.clone(),
            handler: Arc::new(Outbound::new(self.outbound.clone(), pool.clone(), upstream.clone(), lifecycle.clone())),
        };
        let listener = Listener {
            direction: Direction::Outbound,
            security: Security::Plain,
            settings: self.outbound_settings.clone(),
            proxied_by: Arc::default(),
            targets: self.workers.iter().zip(&self.outbound_pools).map(target).collect(),
            metrics: self.metrics.clone(),
            lifecycle: lifecycle.clone(),
            open: OpenConnections::default(),
            plain_peers: Arc::default(),
        };
        lifecycle.spawn_on(&self.workers.first().runtime, "accept-outbound", listener.run(bound));
        if let Some(upstream) = upstream {
            self.upstreams.listens(&upstream, lifecycle);
        }
    }

    /// Takes what a reload may change of both directions' common settings.
    pub(super) fn reconfigure(&self, config: &Config, log: Option<AccessLog>) -> Result<(), Failure> {
        let before = self.inbound.view.snapshot();
        self.inbound.view.store(inbound_view(
            config,
            &self.app,
            &before.app.flow,
            (&before.rules, &self.upstreams.plugins.context),
        )?);
        self.app.reconfigure(settings::app_policy(&config.inbound));
        self.inbound_settings.store(settings::listen(
            config.inbound.timeouts,
            config.inbound.limits,
            config.inbound.keeps_case,
        ));
        self.proxied_by.store(settings::proxied_by(&config.inbound));
        self.outbound_settings.store(settings::listen(
            config.outbound.timeouts,
            config.outbound.limits,
            config.outbound.keeps_case,
        ));
        self.access_log.store(log);
        Ok(())
    }

    /// Requests under way, both directions.
    pub(super) fn in_flight(&self) -> i64 {
        let inbound = self.inbound.view.peek().app.flow.in_flight.get();
        let routes = self.outbound.routes.peek();
        let outbound: i64 = routes.iter().map(|route| route.flow.in_flight.get()).sum();
        inbound + outbound + self.outbound.unrouted.in_flight.get()
    }

    /// Ends what is left, in any state.
    pub(super) async fn end(self) {
        self.inbound_life.kill();
        self.outbound_life.kill();
        self.pools_life.stop(Duration::ZERO).await;
        if let Some(log) = self.access_log.snapshot().as_ref() {
            log.close(Duration::from_secs(2));
        }
        drop(self.workers);
    }
}

pub(super) fn open_log(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<AccessLog>, Failure> {
    let Some(wanted) = &config.access_log else { return Ok(None) };
    let destination = settings::access_log(&wanted.path);
    AccessLog::open(&destination, wanted.sample, metrics.clone())
        .map(Some)
        .map_err(|error| format!("telemetry.access_log.path: {destination:?} cannot be written: {error}").into())
}

fn inbound_view(
    config: &Config,
    app: &Arc<Service>,
    flow: &Arc<crate::telemetry::Flow>,
    (before, context): (&[Arc<Rule>], &Context),
) -> Result<InboundView, Failure> {
    let route = Route {
        service: app.clone(),
        authority: None,
        host: http::HeaderValue::from_str(config.service.name.as_str())?,
        flow: flow.clone(),
        http2: settings::speaks_http2(config.service.protocol),
        tcp: config.service.protocol == Protocol::Tcp,
        connect_timeout: settings::APP_CONNECT,
        // No request hangs: an app that does not answer is given up when a connection would be called idle.
        timeout: Some(config.inbound.timeouts.idle),
        body_idle: config.inbound.timeouts.body_idle,
        idle_timeout: config.inbound.timeouts.idle,
        retry: settings::retry_to_app(),
        filters: Chain::build(&config.inbound.plugins, context),
        counts_attempts: false,
        hedge: None,
        failures: StatusSet::EMPTY,
        hash_on: None,
    };
    Ok(InboundView {
        rules: routes::of_app(&config.inbound.routes, &config.inbound.plugins, &route, before, context),
        app: Arc::new(route),
        app_host: config.service.address.clone(),
        app_port: config.service.port,
        health: match &config.service.check.probe {
            Probe::Http(path) => Some(path.split('?').next().unwrap_or_default().to_owned()),
            Probe::Tcp | Probe::Grpc(_) | Probe::None => None,
        },
        trusted: config.inbound.trusted_ips.clone(),
    })
}

async fn sweep(pools: [Pool; 2]) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for pool in &pools {
            pool.sweep(clock::now());
        }
    }
}

/// The service label of requests that named no upstream.
const UNROUTED: &str = "-";
