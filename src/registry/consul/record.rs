//! Our record as Consul's agent stores it: what is sent, and whether what the agent holds is what we want.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::names::ServiceName;

/// What the agent shall hold of us. `name` and `id` stay for life; a reload may change the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub name: ServiceName,
    /// Unique on the agent.
    pub id: String,
    /// Where the mesh reaches us: the sidecar's inbound listener.
    pub address: String,
    pub port: u16,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    /// 1 to 65535.
    pub weight_passing: u16,
    /// 0 to 65535.
    pub weight_warning: u16,
    /// Who may remove a record that was left behind; see `owner`.
    pub owner: String,
    /// The check turns critical this long after the last heartbeat.
    pub ttl: Duration,
    /// The agent removes us after being critical this long; Consul takes one minute at least.
    pub deregister_after: Duration,
}

impl Registration {
    /// The id of our TTL check: Consul's default, so that every tool knows whose it is.
    #[must_use]
    pub fn check_id(&self) -> String {
        format!("service:{}", self.id)
    }

    /// `status` counts only where the agent does not know the check yet.
    pub(super) fn body(&self, status: &'static str) -> RegisterBody<'_> {
        let mut meta: BTreeMap<&str, &str> = self.meta.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        meta.insert(OWNER, &self.owner);
        RegisterBody {
            id: &self.id,
            name: self.name.as_str(),
            address: &self.address,
            port: self.port,
            tags: &self.tags,
            meta,
            weights: Weights { passing: self.weight_passing.into(), warning: self.weight_warning.into() },
            connect: Connect { native: true },
            check: CheckBody {
                check_id: self.check_id(),
                name: "outrigger heartbeat",
                ttl: milliseconds(self.ttl),
                status,
                deregister_after: milliseconds(self.deregister_after),
            },
        }
    }

    /// The first field in which the agent's record is not ours.
    pub(super) fn difference(&self, held: &Held) -> Option<&'static str> {
        let meta_same = held.meta.get(OWNER) == Some(&self.owner)
            && held.meta.len() == self.meta.len() + usize::from(!self.meta.contains_key(OWNER))
            && self.meta.iter().all(|(key, value)| key == OWNER || held.meta.get(key) == Some(value));
        let weights = Weights { passing: self.weight_passing.into(), warning: self.weight_warning.into() };
        match () {
            () if held.service != self.name.as_str() => Some("name"),
            () if held.address != self.address => Some("address"),
            () if held.port != i64::from(self.port) => Some("port"),
            () if held.tags != self.tags => Some("tags"),
            () if !meta_same => Some("meta"),
            () if held.weights.as_ref().is_some_and(|held| *held != weights) => Some("weights"),
            () if !held.connect.as_ref().is_some_and(|connect| connect.native) => Some("connect"),
            () => None,
        }
    }
}

/// Names the owner of a record so that it stays the same over restarts: the service, the host, and the app that it fronts.
#[must_use]
pub fn owner(name: &ServiceName, hostname: &str, app_host: &str, app_port: u16) -> String {
    format!("{name}@{hostname}:{app_host}:{app_port}")
}

/// The body of `PUT /v1/agent/service/register`: only fields that Consul 1.8 knows, since it refuses all others.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RegisterBody<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    address: &'a str,
    port: u16,
    tags: &'a [String],
    meta: BTreeMap<&'a str, &'a str>,
    weights: Weights,
    connect: Connect,
    check: CheckBody,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CheckBody {
    #[serde(rename = "CheckID")]
    check_id: String,
    name: &'static str,
    #[serde(rename = "TTL")]
    ttl: String,
    status: &'static str,
    #[serde(rename = "DeregisterCriticalServiceAfter")]
    deregister_after: String,
}

/// The body of `PUT /v1/agent/check/update/ID`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CheckUpdate {
    pub(super) status: &'static str,
    pub(super) output: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Weights {
    passing: i64,
    warning: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Connect {
    #[serde(default)]
    native: bool,
}

/// A record of the agent's: `GET /v1/agent/service/ID`, and the values of `GET /v1/agent/services`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Held {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) service: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) tags: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) meta: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) address: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) port: i64,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    connect: Option<Connect>,
    /// What stands for this record in a blocking query; empty in lists.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) content_hash: String,
}

/// Consul's Go sends null for empty lists, maps and strings in places.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(source: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(source)?.unwrap_or_default())
}

fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// The key in Meta that says whose a record is.
pub(super) const OWNER: &str = "outrigger_owner";

#[cfg(test)]
pub(super) fn sample() -> Registration {
    let name = ServiceName::parse("users").expect("a good name");
    Registration {
        owner: owner(&name, "host-1", "127.0.0.1", 8080),
        name,
        id: "users-1".into(),
        address: "127.0.0.1".into(),
        port: 20000,
        tags: vec!["v2".into()],
        meta: BTreeMap::from([("version".into(), "2.3.1".into())]),
        weight_passing: 10,
        weight_warning: 1,
        ttl: Duration::from_secs(15),
        deregister_after: Duration::from_mins(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn held_like(wanted: &Registration) -> serde_json::Value {
        let mut body = serde_json::to_value(wanted.body("critical")).unwrap();
        body["Service"] = body["Name"].clone();
        body
    }

    #[test]
    fn only_fields_that_consul_1_8_knows_are_sent() {
        let body = serde_json::to_value(sample().body("critical")).unwrap();
        assert_eq!(
            body,
            json!({
                "ID": "users-1", "Name": "users", "Address": "127.0.0.1", "Port": 20000, "Tags": ["v2"],
                "Meta": {"version": "2.3.1", "outrigger_owner": "users@host-1:127.0.0.1:8080"},
                "Weights": {"Passing": 10, "Warning": 1}, "Connect": {"Native": true},
                "Check": {"CheckID": "service:users-1", "Name": "outrigger heartbeat", "TTL": "15000ms",
                          "Status": "critical", "DeregisterCriticalServiceAfter": "60000ms"},
            })
        );
    }

    #[test]
    fn a_difference_names_its_field() {
        let wanted = sample();
        let held = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = held_like(&wanted);
            change(&mut value);
            wanted.difference(&serde_json::from_value(value).unwrap())
        };
        assert_eq!(held(&|_| {}), None);
        assert_eq!(held(&|v| v["Port"] = json!(1)), Some("port"));
        assert_eq!(held(&|v| v["Address"] = json!(null)), Some("address"));
        assert_eq!(held(&|v| v["Tags"] = json!(null)), Some("tags"));
        assert_eq!(held(&|v| v["Meta"]["more"] = json!("x")), Some("meta"));
        assert_eq!(held(&|v| v["Meta"]["outrigger_owner"] = json!("x")), Some("meta"));
        assert_eq!(held(&|v| v["Weights"]["Passing"] = json!(1)), Some("weights"));
        assert_eq!(held(&|v| v["Connect"] = json!(null)), Some("connect"));
    }

    #[test]
    fn the_agents_nulls_are_empty() {
        let held: Held =
            serde_json::from_value(json!({"ID": "x", "Service": "x", "Tags": null, "Meta": null, "Port": 1})).unwrap();
        assert!(held.tags.is_empty() && held.meta.is_empty() && held.address.is_empty());
    }
}
