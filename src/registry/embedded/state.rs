//! What the agent holds: instances, their checks, and the index at which each name last changed. Knows nothing of HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::decode::{CheckSpec, Refused, Registration, Status};
use super::filter::Filter;

/// Everything that a write can change, under one lock.
pub(super) struct State {
    /// Rises by one at each change, as Raft's does.
    index: u64,
    services: BTreeMap<String, Service>,
    checks: BTreeMap<String, Check>,
    /// When each name with instances last changed.
    changed: BTreeMap<String, u64>,
    /// What a name without instances is said to have changed at.
    floor: u64,
    /// When any name or tag last changed.
    catalog: u64,
    node: Value,
}

struct Service {
    registration: Registration,
    created: u64,
    modified: u64,
}

struct Check {
    service: String,
    name: String,
    notes: String,
    kind: &'static str,
    status: Status,
    output: String,
    created: u64,
    modified: u64,
    /// `None` for maintenance, which nothing ends but a call.
    ttl: Option<Duration>,
    expires: Option<Instant>,
    critical_since: Option<Instant>,
    deregister_after: Option<Duration>,
}

impl State {
    pub(super) fn new(node_id: &str) -> Self {
        let node = json!({
            "ID": node_id, "Node": NODE, "Address": ADDRESS, "Datacenter": DATACENTER,
            "TaggedAddresses": {"lan": ADDRESS, "lan_ipv4": ADDRESS, "wan": ADDRESS, "wan_ipv4": ADDRESS},
            "Meta": {"consul-network-segment": ""}, "CreateIndex": FIRST, "ModifyIndex": FIRST,
        });
        Self {
            index: FIRST,
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            changed: BTreeMap::new(),
            floor: FIRST,
            catalog: FIRST,
            node,
        }
    }

    /// A fresh index, for a thing that changes outside of the catalog.
    pub(super) fn advance(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    /// Replaces the service's fields whole; a check that is known keeps its status and output, as Consul's does.
    pub(super) fn register(&mut self, new: Registration, replace_checks: bool, now: Instant) -> Result<(), Refused> {
        if self.services.len() >= MAX_SERVICES && !self.services.contains_key(&new.id) {
            return Err(Refused::failed(format!("The embedded registry holds at most {MAX_SERVICES} services")));
        }
        let old = self.services.get(&new.id).map(|service| service.registration.clone());
        let id = new.id.clone();
        let specs = new.checks.clone();
        if old.as_ref().is_none_or(|old| !same_service(old, &new)) {
            let index = self.advance();
            self.catalog = index;
            self.changed.insert(new.name.clone(), index);
            let moved = old.filter(|old| old.name != new.name).map(|old| old.name);
            let created = self.services.get(&id).map_or(index, |service| service.created);
            self.services.insert(id.clone(), Service { registration: new, created, modified: index });
            if let Some(name) = moved {
                self.touch_name(name, index);
            }
        }
        if replace_checks {
            let named: BTreeSet<&str> = specs.iter().map(|spec| spec.id.as_str()).collect();
            self.drop_checks(|check_id, check| check.service == id && !named.contains(check_id));
        }
        for spec in specs {
            self.register_check(&id, spec, now);
        }
        Ok(())
    }

    fn register_check(&mut self, service: &str, spec: CheckSpec, now: Instant) {
        let known = self.checks.remove(&spec.id);
        // Check ids are unique per agent: another service's check of that id is taken over without an error.
        let (status, output, critical_since) = known
            .as_ref()
            .map_or((spec.status, String::new(), (spec.status == Status::Critical).then_some(now)), |known| {
                (known.status, known.output.clone(), known.critical_since)
            });
        let same = known.as_ref().is_some_and(|k| k.service == service && k.name == spec.name && k.notes == spec.notes);
        let touched = [Some(service.to_owned()), known.as_ref().map(|known| known.service.clone())];
        let (created, modified) = match &known {
            Some(known) if same => (known.created, known.modified),
            other => {
                let index = self.touch(touched.iter().flatten());
                (other.as_ref().map_or(index, |known| known.created), index)
            }
        };
        self.checks.insert(
            spec.id,
            Check {
                service: service.to_owned(),
                name: spec.name,
                notes: spec.notes,
                kind: "ttl",
                status,
                output,
                created,
                modified,
                ttl: Some(spec.ttl),
                expires: Some(now + spec.ttl),
                critical_since,
                deregister_after: spec.deregister_after,
            },
        );
    }

    /// Consul answers 200 for unknown ids while ACLs are off, and so do we.
    pub(super) fn deregister(&mut self, id: &str) {
        let Some(service) = self.services.remove(id) else { return };
        self.checks.retain(|_, check| check.service != id);
        let index = self.advance();
        self.catalog = index;
        self.touch_name(service.registration.name, index);
    }

    /// A name without instances is forgotten; Consul then tells of all such names that they changed at the last such end.
    fn touch_name(&mut self, name: String, index: u64) {
        if self.services.values().any(|service| service.registration.name == name) {
            self.changed.insert(name, index);
        } else {
            self.changed.remove(&name);
            self.floor = index;
        }
    }

    pub(super) fn update_check(&mut self, id: &str, status: Status, output: &str, now: Instant) -> Result<(), Refused> {
        let unknown = || Refused::failed(format!("CheckID \"{id}\" does not have associated TTL"));
        let check = self.checks.get_mut(id).ok_or_else(unknown)?;
        let ttl = check.ttl.ok_or_else(unknown)?;
        check.expires = Some(now + ttl);
        output.clone_into(&mut check.output);
        self.set_status(id, status, now);
        Ok(())
    }

    fn set_status(&mut self, id: &str, status: Status, now: Instant) {
        let Some(check) = self.checks.get_mut(id) else { return };
        if check.status == status {
            return;
        }
        check.status = status;
        check.critical_since = (status == Status::Critical).then_some(now);
        let service = check.service.clone();
        let index = self.touch([&service]);
        if let Some(check) = self.checks.get_mut(id) {
            check.modified = index;
        }
    }

    /// `None` takes the service out of maintenance.
    pub(super) fn maintain(&mut self, id: &str, reason: Option<&str>) -> Result<(), Refused> {
        if !self.services.contains_key(id) {
            return Err(Refused::missing(format!("No service registered with ID \"{id}\"")));
        }
        let check_id = format!("_service_maintenance:{id}");
        let Some(reason) = reason else {
            self.drop_checks(|found, _| found == check_id);
            return Ok(());
        };
        if self.checks.contains_key(&check_id) {
            return Ok(());
        }
        let default =
            "Maintenance mode is enabled for this service, but no reason was provided. This is a default message.";
        let index = self.touch([id]);
        let check = Check {
            service: id.to_owned(),
            name: "Service Maintenance Mode".into(),
            notes: if reason.is_empty() { default } else { reason }.into(),
            kind: "maintenance",
            status: Status::Critical,
            output: String::new(),
            created: index,
            modified: index,
            ttl: None,
            expires: None,
            critical_since: None,
            deregister_after: None,
        };
        self.checks.insert(check_id, check);
        Ok(())
    }

    /// Turns TTL checks critical whose time is over and removes services that were critical for too long. Says whether
    /// anything changed, and when something is due next.
    pub(super) fn expire(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let before = self.index;
        let late: Vec<String> = self
            .checks
            .iter()
            .filter(|(_, c)| c.expires.is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            if let Some(check) = self.checks.get_mut(&id) {
                check.expires = None;
                if check.status != Status::Critical {
                    check.output = match check.output.as_str() {
                        "" => "TTL expired".into(),
                        last => format!("TTL expired (last output before timeout follows): {last}"),
                    };
                }
            }
            self.set_status(&id, Status::Critical, now);
        }
        let dead: BTreeSet<String> = self
            .checks
            .values()
            .filter(|check| check.removal().is_some_and(|at| at <= now))
            .map(|check| check.service.clone())
            .collect();
        for id in &dead {
            self.deregister(id);
        }
        let due = self.checks.values().flat_map(|check| [check.expires, check.removal()]).flatten().min();
        (self.index != before, due)
    }

    /// Counts one change of the services given by id.
    fn touch<S: AsRef<str>>(&mut self, services: impl IntoIterator<Item = S>) -> u64 {
        let index = self.advance();
        for id in services {
            if let Some(service) = self.services.get(id.as_ref()) {
                self.changed.insert(service.registration.name.clone(), index);
            }
        }
        index
    }

    fn drop_checks(&mut self, gone: impl Fn(&str, &Check) -> bool) {
        let ids: Vec<String> =
            self.checks.iter().filter(|(id, check)| gone(id, check)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            if let Some(check) = self.checks.remove(&id) {
                self.touch([check.service]);
            }
        }
    }

    // What is read; each with the index that a blocking query waits on.

    pub(super) fn agent_services(&self) -> Value {
        self.services.iter().map(|(id, service)| (id.clone(), agent_service(&service.registration))).collect()
    }

    /// One service as the agent tells it, with the hash that stands for it.
    pub(super) fn agent_service(&self, id: &str) -> Option<(String, Value)> {
        let mut value = agent_service(&self.services.get(id)?.registration);
        let hash = format!("{:016x}", rapidhash::v3::rapidhash_v3(value.to_string().as_bytes()));
        value["ContentHash"] = json!(hash);
        Some((hash, value))
    }

    pub(super) fn agent_checks(&self) -> Value {
        let plain = |id: &String, check: &Check| {
            let mut value = self.check(id, check);
            value["CreateIndex"] = json!(0);
            value["ModifyIndex"] = json!(0);
            value
        };
        self.checks.iter().map(|(id, check)| (id.clone(), plain(id, check))).collect()
    }

    pub(super) fn health(&self, name: &str, wanted: &Wanted) -> (u64, Value) {
        let listed =
            self.named(name, wanted).filter(|(id, _)| !wanted.passing || self.is_passing(id)).map(|(id, service)| {
                let mut checks = vec![serf_health()];
                checks.extend(self.checks.iter().filter(|(_, c)| c.service == *id).map(|(id, c)| self.check(id, c)));
                json!({"Node": self.node, "Service": health_service(service), "Checks": checks})
            });
        let listed = listed.filter(|row| wanted.filter.as_ref().is_none_or(|filter| filter.matches(row)));
        (self.changed_at(name), listed.collect())
    }

    pub(super) fn catalog_service(&self, name: &str, wanted: &Wanted) -> (u64, Value) {
        let listed = self.named(name, wanted).map(|(_, service)| {
            let found = health_service(service);
            let mut row = json!({
                "ID": self.node["ID"], "Node": NODE, "Address": ADDRESS, "Datacenter": DATACENTER,
                "TaggedAddresses": self.node["TaggedAddresses"], "NodeMeta": self.node["Meta"], "ServiceKind": "",
                "ServiceID": found["ID"], "ServiceName": found["Service"], "ServiceTags": found["Tags"],
                "ServiceAddress": found["Address"],
                "ServiceWeights": found["Weights"], "ServiceMeta": service.registration.meta,
                "ServicePort": found["Port"], "ServiceEnableTagOverride": found["EnableTagOverride"],
                "ServiceProxy": found["Proxy"], "ServiceConnect": found["Connect"],
                "CreateIndex": found["CreateIndex"], "ModifyIndex": found["ModifyIndex"],
            });
            if let Some(tagged) = tagged_addresses(&service.registration) {
                row["ServiceTaggedAddresses"] = tagged;
            }
            row
        });
        (self.changed_at(name), listed.collect())
    }

    pub(super) fn catalog_services(&self) -> (u64, Value) {
        let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::from([("consul", BTreeSet::new())]);
        for service in self.services.values() {
            let tags = names.entry(&service.registration.name).or_default();
            tags.extend(service.registration.tags.iter().map(String::as_str));
        }
        (self.catalog, json!(names))
    }

    fn named<'a>(&'a self, name: &'a str, wanted: &'a Wanted) -> impl Iterator<Item = (&'a String, &'a Service)> {
        // Consul compares names and tags without case.
        let tagged =
            |r: &Registration| wanted.tags.iter().all(|tag| r.tags.iter().any(|found| found.eq_ignore_ascii_case(tag)));
        self.services.iter().filter(move |(_, service)| {
            let found = &service.registration;
            found.name.eq_ignore_ascii_case(name) && (!wanted.native || found.native) && tagged(found)
        })
    }

    fn is_passing(&self, id: &str) -> bool {
        self.checks.values().all(|check| check.service != *id || check.status == Status::Passing)
    }

    fn changed_at(&self, name: &str) -> u64 {
        let found = self.changed.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, index)| *index);
        found.max().unwrap_or(self.floor)
    }

    fn check(&self, id: &str, check: &Check) -> Value {
        let service = self.services.get(&check.service).map(|service| &service.registration);
        json!({
            "Node": NODE, "CheckID": id, "Name": check.name, "Status": check.status.as_str(), "Notes": check.notes,
            "Output": check.output, "ServiceID": check.service, "ServiceName": service.map_or("", |s| &s.name),
            "ServiceTags": service.map_or(&[][..], |s| &s.tags), "Type": check.kind, "Definition": {},
            "CreateIndex": check.created, "ModifyIndex": check.modified,
        })
    }
}

/// Which instances of a name a reader asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) filter: Option<Filter>,
    pub(super) passing: bool,
    pub(super) native: bool,
    pub(super) tags: Vec<String>,
}

impl Check {
    /// When its service is to be removed for having been critical too long.
    fn removal(&self) -> Option<Instant> {
        Some(self.critical_since? + self.deregister_after?)
    }
}

fn same_service(a: &Registration, b: &Registration) -> bool {
    let bare = |r: &Registration| Registration { checks: Vec::new(), ..r.clone() };
    bare(a) == bare(b)
}

fn agent_service(found: &Registration) -> Value {
    let mut value = json!({
        "ID": found.id, "Service": found.name, "Tags": found.tags, "Meta": found.meta, "Port": found.port,
        "Address": found.address, "Weights": {"Passing": found.weights.0, "Warning": found.weights.1},
        "EnableTagOverride": found.enable_tag_override,
    });
    if let Some(tagged) = tagged_addresses(found) {
        value["TaggedAddresses"] = tagged;
    }
    if found.native {
        value["Connect"] = json!({"Native": true});
    }
    value
}

fn health_service(service: &Service) -> Value {
    let mut value = agent_service(&service.registration);
    if service.registration.meta.is_empty() {
        // Consul says null here, and `{}` on the agent's own endpoints.
        value["Meta"] = Value::Null;
    }
    value["Proxy"] = json!({"MeshGateway": {}, "Expose": {}});
    value["Connect"] = if service.registration.native { json!({"Native": true}) } else { json!({}) };
    value["CreateIndex"] = json!(service.created);
    value["ModifyIndex"] = json!(service.modified);
    value
}

fn tagged_addresses(found: &Registration) -> Option<Value> {
    let address: std::net::IpAddr = found.address.parse().ok()?;
    let here = json!({"Address": found.address, "Port": found.port});
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    Some(json!({format!("lan_{family}"): here, format!("wan_{family}"): here}))
}

fn serf_health() -> Value {
    json!({
        "Node": NODE, "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing", "Notes": "",
        "Output": "Agent alive and reachable", "ServiceID": "", "ServiceName": "", "ServiceTags": [], "Type": "",
        "Definition": {}, "CreateIndex": FIRST, "ModifyIndex": FIRST,
    })
}

pub(super) const NODE: &str = "embedded";
pub(super) const ADDRESS: &str = "127.0.0.1";
pub(super) const DATACENTER: &str = "dc1";
const FIRST: u64 = 10;
const MAX_SERVICES: usize = 4096;
