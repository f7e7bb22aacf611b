//! Rules of `outbound.routes` and `inbound.routes` as the data path wants them, and the services that are a rule's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use super::upstreams::{Running, Upstreams, route};
use crate::config::{
    AppRouteSettings, ForwardSettings, OutboundSettings, RouteAction, RouteSettings, UpstreamSettings,
};
use crate::filter::{Chain, Plugin};
use crate::names::ServiceName;
use crate::route::{Action, Forward, MOST_MIRRORED, Matcher, Mirror, Route, Rule, Slots, Split};
use crate::service::Service;
use crate::telemetry::{Flow, Metrics};

/// Services whose policy is one rule's, by rule and name. A rule that says nothing of the service itself shares the
/// declared one.
pub(super) type OwnServices = BTreeMap<(String, ServiceName), Running>;

impl Upstreams {
    /// Makes the rules those of `outbound`, whose upstreams run already. What stays keeps what was learned.
    pub(super) fn apply_routes(&mut self, outbound: &OutboundSettings) -> Result<(), Failure> {
        let mut before = std::mem::take(&mut self.own);
        let mut rules = Vec::with_capacity(outbound.routes.len());
        for settings in &outbound.routes {
            let action = match &settings.action {
                RouteAction::Answer(reply, plugins) => {
                    Action::Answer(reply.clone(), Chain::build(plugins, self.metrics()))
                }
                RouteAction::Forward(forward) => {
                    Action::Forward(self.forward(settings, forward, outbound, &mut before)?)
                }
            };
            let (name, matcher) = (settings.name.as_str().into(), settings.matcher.clone());
            rules.push(Arc::new(Rule { name, matcher, action }));
        }
        for gone in before.into_values() {
            gone.end();
        }
        self.rules = rules;
        Ok(())
    }

    fn forward(
        &mut self,
        settings: &RouteSettings,
        forward: &ForwardSettings,
        outbound: &OutboundSettings,
        before: &mut OwnServices,
    ) -> Result<Forward, Failure> {
        let mut targets = Vec::with_capacity(forward.targets.len());
        for (weight, upstream) in &forward.targets {
            let filters = Chain::build(&upstream.plugins, self.metrics());
            let (service, flow) = self.service_of(settings, upstream, outbound, before)?;
            let before = self.before(&settings.name, &upstream.service);
            let mut target = route(upstream, outbound, (&service, &flow), filters, before.as_deref())?;
            if !forward.rewrite_host {
                target.authority = None;
            }
            targets.push((upstream.service.to_string(), *weight, Arc::new(target)));
        }
        let mirror = match &forward.mirror {
            Some((upstream, share)) => {
                let (service, flow) = self.service_of(settings, upstream, outbound, before)?;
                let mut copies = route(upstream, outbound, (&service, &flow), Chain::default(), None)?;
                copies.retry.attempts = 0;
                copies.hedge = None;
                let head = *copies.timeout.get_or_insert(MIRROR_HEAD);
                if !forward.rewrite_host {
                    copies.authority = None;
                }
                let slots = Arc::new(Slots::new(MOST_MIRRORED));
                Some(Mirror { route: Arc::new(copies), share: *share, slots, limit: head + MIRROR_BODY })
            }
            None => None,
        };
        let split = Split::new(targets, forward.sticky.clone());
        Ok(Forward { targets: split, rewrite: forward.rewrite.clone(), mirror, slots: None })
    }

    /// What a rule's target was until now.
    fn before(&self, rule: &str, service: &ServiceName) -> Option<Arc<Route>> {
        let forward = self.rules.iter().find(|one| &*one.name == rule)?.forward()?;
        forward.targets.iter().find(|route| route.service.name() == service).cloned()
    }

    /// The declared service where the rule's settings are the same in all that is the service's own, else one of the
    /// rule's, which follows the registry by itself. Both count under the service's name.
    fn service_of(
        &mut self,
        settings: &RouteSettings,
        upstream: &UpstreamSettings,
        outbound: &OutboundSettings,
        before: &mut OwnServices,
    ) -> Result<(Arc<Service>, Arc<Flow>), Failure> {
        if let Some(declared) = self.running.get(&upstream.service)
            && shares_service(upstream, &declared.settings)
        {
            return Ok((declared.service.clone(), declared.flow.clone()));
        }
        let key = (settings.name.clone(), upstream.service.clone());
        if let Some(own) = self.own.get(&key) {
            return Ok((own.service.clone(), own.flow.clone()));
        }
        let running = match before.remove(&key) {
            Some(running) => self.keep(running, upstream, outbound)?,
            None => self.begin(upstream, outbound)?,
        };
        let found = (running.service.clone(), running.flow.clone());
        self.own.insert(key, running);
        Ok(found)
    }
}

/// Whether two upstreams differ at most in what can be said of each request.
fn shares_service(of_rule: &UpstreamSettings, declared: &UpstreamSettings) -> bool {
    let mut declared = declared.clone();
    declared.listen = of_rule.listen;
    declared.connect_timeout = of_rule.connect_timeout;
    declared.timeout = of_rule.timeout;
    declared.idle_timeout = of_rule.idle_timeout;
    let budget = std::mem::replace(&mut declared.retry, of_rule.retry.clone()).budget;
    declared.retry.budget = budget;
    declared.plugins.clone_from(&of_rule.plugins);
    declared.hedge = of_rule.hedge;
    declared == *of_rule
}

/// The rules for parts of the app. A limit that stays keeps its count.
pub(super) fn of_app(
    routes: &[AppRouteSettings],
    plugins: &[Plugin],
    app: &Route,
    before: &[Arc<Rule>],
    metrics: &Metrics,
) -> Vec<Arc<Rule>> {
    let one = |settings: &AppRouteSettings| {
        let filters = Chain::build(&[plugins, &settings.plugins].concat(), metrics);
        let action = match &settings.reply {
            Some(reply) => Action::Answer(reply.clone(), filters),
            None => Action::Forward(to_app(settings, app, filters, before)),
        };
        let matcher: Matcher = settings.matcher.clone();
        Arc::new(Rule { name: settings.name.as_str().into(), matcher, action })
    };
    routes.iter().map(one).collect()
}

fn to_app(settings: &AppRouteSettings, app: &Route, filters: Chain, before: &[Arc<Rule>]) -> Forward {
    let route = Route {
        service: app.service.clone(),
        authority: app.authority.clone(),
        host: app.host.clone(),
        flow: app.flow.clone(),
        http2: app.http2,
        connect_timeout: app.connect_timeout,
        timeout: settings.timeout,
        body_idle: settings.body_idle.unwrap_or(app.body_idle),
        idle_timeout: settings.idle_timeout.unwrap_or(app.idle_timeout),
        retry: app.retry.clone(),
        filters,
        tcp: app.tcp,
        counts_attempts: app.counts_attempts,
        hedge: app.hedge.clone(),
        failures: app.failures,
        hash_on: app.hash_on.clone(),
    };
    let kept = |most: u32| {
        let same = before.iter().find(|rule| *rule.name == *settings.name);
        let slots = same.and_then(|rule| match &rule.action {
            Action::Forward(forward) => forward.slots.clone(),
            Action::Answer(..) => None,
        });
        slots.filter(|slots| slots.most() == most).unwrap_or_else(|| Arc::new(Slots::new(most)))
    };
    Forward {
        targets: Split::new([(String::new(), 1, Arc::new(route))], None),
        rewrite: None,
        mirror: None,
        slots: settings.requests.map(kept),
    }
}

/// A copy's wait for the head of its answer where the upstream has no timeout.
const MIRROR_HEAD: Duration = Duration::from_secs(15);
/// And for the answer's body.
const MIRROR_BODY: Duration = Duration::from_secs(15);
