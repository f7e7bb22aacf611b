//! Which upstream a request is for, and by which policy it is sent. No sockets, no clock, no config text.

mod hash;
mod hedge;
mod matcher;
mod path;
mod retry;
mod rule;
mod slots;
mod split;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::uri::Authority;

use crate::filter::Chain;
use crate::names::ServiceName;
use crate::reason::Reason;
use crate::service::Service;
use crate::telemetry::Flow;

pub use hash::HashOn;
pub use hedge::{Hedge, HedgeAfter};
pub use matcher::{Condition, HostMatch, Matcher, PathMatch, Pattern, Subject};
pub use path::{is_ambiguous, normalised, widest};
pub use retry::{Backoff, Failure, OnReset, RetryPolicy, StatusSet};
pub use rule::{Action, Forward, MOST_MIRRORED, Mirror, Redirect, Reply, Rewrite, Rule};
pub use slots::{Slot, Slots};
pub use split::Split;

/// One declared upstream with its policy.
pub struct Route {
    pub service: Arc<Service>,
    /// The service's name as HTTP/2's authority; `None` where the caller's Host is passed on.
    pub authority: Option<Authority>,
    /// The same as Host.
    pub host: HeaderValue,
    pub flow: Arc<Flow>,
    /// HTTP/2 to plain endpoints too (h2c by prior knowledge), and offered alone to mesh peers that are not ours.
    pub http2: bool,
    /// Bytes and no HTTP: whatever of HTTP stands below means nothing for it.
    pub tcp: bool,
    pub connect_timeout: Duration,
    /// From the request's head to the answer's head, retries included.
    pub timeout: Option<Duration>,
    /// Of a request body without a byte before the answer's head.
    pub body_idle: Duration,
    /// Of a stream without a byte: an answer's body, and a request's once the answer began.
    pub idle_timeout: Duration,
    pub retry: RetryPolicy,
    /// The plugins of all scopes that the request is in.
    pub filters: Chain,
    /// The number of the try travels with the request. Not toward our own app, which is told the caller's.
    pub counts_attempts: bool,
    /// A second try beside a slow first one.
    pub hedge: Option<Arc<Hedge>>,
    /// Statuses that an endpoint's breaker counts as failures.
    pub failures: StatusSet,
    /// What `ring_hash` and `maglev` go by.
    pub hash_on: Option<HashOn>,
}

/// All declared upstreams by name. Immutable; a reload publishes the next one.
#[derive(Default)]
pub struct RouteTable {
    by_name: HashMap<ServiceName, Arc<Route>>,
    rules: Vec<Arc<Rule>>,
}

impl RouteTable {
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>, rules: Vec<Arc<Rule>>) -> Self {
        Self { by_name: routes.into_iter().map(|r| (r.service.name().clone(), r)).collect(), rules }
    }

    /// The rules that stand before the Host rule, in order.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The upstream that a Host (or authority) names: `orders`, `orders:PORT` or `orders.mesh`, in any case.
    ///
    /// # Errors
    /// `UnknownService` where it looks like a service's name but is not declared, else `NoRoute`.
    pub fn by_host(&self, host: &str) -> Result<&Arc<Route>, Reason> {
        let name = without_port(host);
        let lower;
        let name = if name.bytes().any(|c| c.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            lower.as_str()
        } else {
            name
        };
        if let Some(route) = self.by_name.get(name) {
            return Ok(route);
        }
        let bare = name.strip_suffix(MESH_SUFFIX);
        if let Some(route) = bare.and_then(|bare| self.by_name.get(bare)) {
            return Ok(route);
        }
        let is_name = match bare {
            Some(bare) => ServiceName::parse(bare).is_ok(),
            // A dotted name may be any host of the world; an unknown single label can only be meant as a service.
            None => name != "localhost" && !name.contains('.') && ServiceName::parse(name).is_ok(),
        };
        Err(if is_name { Reason::UnknownService } else { Reason::NoRoute })
    }

    pub fn by_name(&self, name: &str) -> Option<&Arc<Route>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.by_name.values()
    }

    /// Services that are one rule's own, with its name: where a rule says something of the service itself.
    pub fn own_services(&self) -> Vec<(&str, &Arc<Service>)> {
        let mut own: Vec<(&str, &Arc<Service>)> = Vec::new();
        for rule in &self.rules {
            let Some(forward) = rule.forward() else { continue };
            let mirror = forward.mirror.iter().map(|mirror| &mirror.route);
            for route in forward.targets.iter().chain(mirror) {
                let declared = self.by_name.get(route.service.name());
                let known = declared.into_iter().map(|route| &route.service).chain(own.iter().map(|(_, known)| *known));
                if !known.into_iter().any(|known| Arc::ptr_eq(known, &route.service)) {
                    own.push((&rule.name, &route.service));
                }
            }
        }
        own
    }
}

/// The first rule that matches.
pub fn first<'a>(rules: &'a [Arc<Rule>], subject: &Subject<'_>) -> Option<&'a Arc<Rule>> {
    rules.iter().find(|rule| rule.matcher.matches(subject))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    }
}

/// `orders.mesh` is `orders`: a name with a dot passes resolvers and proxy settings that skip single labels.
const MESH_SUFFIX: &str = ".mesh";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Policy;
    use crate::telemetry::{Direction, Metrics};
    use std::time::Instant;

    #[test]
    fn hosts_name_upstreams_in_every_documented_form() {
        let metrics = Metrics::new();
        let route = |name: &str| {
            let name = ServiceName::parse(name).unwrap();
            Arc::new(Route {
                flow: Arc::new(metrics.flow(Direction::Outbound, name.as_str())),
                authority: None,
                host: HeaderValue::from_static("x"),
                service: Arc::new(Service::new(name, Policy::default(), Instant::now())),
                http2: false,
                tcp: false,
                connect_timeout: Duration::from_secs(1),
                timeout: None,
                body_idle: Duration::from_secs(1),
                idle_timeout: Duration::from_secs(1),
                retry: RetryPolicy::default(),
                filters: Chain::default(),
                counts_attempts: true,
                hedge: None,
                failures: StatusSet::GATEWAY,
                hash_on: None,
            })
        };
        let table = RouteTable::new([route("orders"), route("a.b")], Vec::new());
        for host in ["orders", "orders:9101", "orders.mesh", "orders.mesh:80", "ORDERS", "Orders.Mesh"] {
            assert_eq!(table.by_host(host).unwrap().service.name().as_str(), "orders", "{host}");
        }
        assert_eq!(table.by_host("a.b").unwrap().service.name().as_str(), "a.b");
        for host in ["users", "users:80", "users.mesh"] {
            assert_eq!(table.by_host(host).err(), Some(Reason::UnknownService), "{host}");
        }
        for host in
            ["", "localhost", "localhost:15001", "127.0.0.1:15001", "[::1]:15001", "::1", "example.com", "or ders"]
        {
            assert_eq!(table.by_host(host).err(), Some(Reason::NoRoute), "{host}");
        }
    }
}
