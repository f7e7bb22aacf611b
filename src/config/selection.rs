//! Which of a service's instances an upstream wants, and where it goes when none is left.

use std::collections::BTreeMap;

use super::problems::Fault;
use super::section::Section;
use super::{EndpointSource, check, upstream_values, values};
use crate::names::ServiceName;

/// A subset of a service's instances in Consul; all of them by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subset {
    /// All of these.
    pub tags: Vec<String>,
    /// All of these.
    pub meta: BTreeMap<String, String>,
    /// An expression in Consul's language, beside tags and meta.
    pub filter: Option<String>,
}

/// Where a request goes when no endpoint before it is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    pub service: ServiceName,
    /// `None`: the agent's own.
    pub datacenter: Option<String>,
}

pub(super) fn subset(section: &Section<'_>) -> Subset {
    Subset {
        tags: section.list("tags", values::text),
        meta: section.find("meta").map(check::texts).unwrap_or_default(),
        filter: section.take("filter", upstream_values::filter),
    }
}

/// The targets in order, each with what it leaves out filled in. Notes a target that is the upstream itself, or an
/// earlier one.
pub(super) fn failover(section: &Section<'_>, service: &ServiceName, datacenter: Option<&str>) -> Vec<Failover> {
    let mut targets = vec![Failover { service: service.clone(), datacenter: datacenter.map(str::to_owned) }];
    for item in section.whole_list("failover") {
        let (to, at) = (item.take("service", values::service), item.take("datacenter", upstream_values::datacenter));
        if item.find("service").is_none() && item.find("datacenter").is_none() {
            item.fault(Fault::new("names neither a service nor a datacenter", "add service, datacenter or both"));
            continue;
        }
        // A wrong name stands for no other.
        if (to.is_none() && item.find("service").is_some()) || (at.is_none() && item.find("datacenter").is_some()) {
            continue;
        }
        let target = Failover {
            service: to.unwrap_or_else(|| service.clone()),
            datacenter: at.or_else(|| datacenter.map(str::to_owned)),
        };
        match targets.iter().position(|known| *known == target) {
            Some(0) => item.fault(Fault::new(
                "is the upstream itself",
                "name another service or another datacenter, or remove it",
            )),
            Some(_) => item.fault(Fault::new("stands in the list already", "remove one of them")),
            None => targets.push(target),
        }
    }
    targets.split_off(1)
}

/// Lists and DNS have no tags, no Meta and no datacenters. What the defaults say is for the upstreams in Consul.
pub(super) fn only_in_consul(section: &Section<'_>, source: &EndpointSource) {
    if *source == EndpointSource::Consul {
        return;
    }
    for key in ["tags", "meta", "filter", "datacenter", "failover"] {
        let empty = |node: &super::tree::Node| node.items().is_empty() && node.entries().is_empty();
        let text = matches!(key, "filter" | "datacenter");
        if section.own(key).is_some_and(|node| text || !empty(node)) {
            note(section, key);
        }
    }
    if section.own("prefer_zone").is_some() && section.take("prefer_zone", values::boolean) == Some(true) {
        note(section, "prefer_zone");
    }
}

fn note(section: &Section<'_>, key: &str) {
    let fault = Fault::new(
        "has no effect beside endpoints, which Consul is not asked for",
        "remove it, or remove endpoints to ask Consul",
    );
    section.mistake(key, fault);
}
