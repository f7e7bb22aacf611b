//! A health answer of Consul: its JSON, leniently read, and what it means. Only the fields used here are kept, so that
//! two answers that differ elsewhere (a check's output) compare equal.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::names::ServiceName;
use crate::service::Health;

/// `GET /v1/health/{service,connect}/NAME`. Unknown keys are ignored; Consul sends null for empty lists and maps.
#[derive(Debug, Deserialize)]
pub(super) struct Rows(#[serde(deserialize_with = "or_default")] pub(super) Vec<Row>);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Row {
    #[serde(deserialize_with = "or_default")]
    pub(super) node: Node,
    #[serde(deserialize_with = "or_default")]
    pub(super) service: Service,
    #[serde(deserialize_with = "or_default")]
    pub(super) checks: Vec<Check>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(clippy::struct_field_names, reason = "Consul's own names")]
pub(super) struct Node {
    #[serde(deserialize_with = "or_default")]
    pub(super) node: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) address: String,
    #[serde(deserialize_with = "or_default")]
    tagged_addresses: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) meta: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(clippy::struct_field_names, reason = "Consul's own names")]
pub(super) struct Service {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub(super) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) service: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) address: String,
    /// Consul accepts any number (70000, -1) without a word.
    #[serde(deserialize_with = "or_default")]
    pub(super) port: i64,
    #[serde(deserialize_with = "or_default")]
    tagged_addresses: BTreeMap<String, Tagged>,
    #[serde(deserialize_with = "or_default")]
    pub(super) meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) weights: Option<Weights>,
    #[serde(deserialize_with = "or_default")]
    pub(super) proxy: Proxy,
    #[serde(deserialize_with = "or_default")]
    pub(super) connect: Connect,
}

/// An address of a service for others than its neighbours.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Tagged {
    #[serde(deserialize_with = "or_default")]
    address: String,
    #[serde(deserialize_with = "or_default")]
    port: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Weights {
    #[serde(deserialize_with = "or_default")]
    passing: i64,
    #[serde(deserialize_with = "or_default")]
    warning: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Proxy {
    #[serde(deserialize_with = "or_default")]
    pub(super) destination_service_name: String,
    #[serde(rename = "DestinationServiceID", deserialize_with = "or_default")]
    pub(super) destination_service_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Connect {
    #[serde(deserialize_with = "or_default")]
    pub(super) native: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Check {
    #[serde(rename = "CheckID", deserialize_with = "or_default")]
    check_id: String,
    #[serde(deserialize_with = "or_default")]
    status: String,
}

/// Null is what a missing value is.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Row {
    /// The worst of all checks, the node's (`serfHealth`) and maintenance included; an instance without any is passing,
    /// as in Consul.
    pub(super) fn health(&self) -> Health {
        let worst = self.checks.iter().map(Check::health).max_by_key(|health| match health {
            Health::Passing => 0,
            Health::Warning => 1,
            Health::Critical => 2,
        });
        worst.unwrap_or(Health::Passing)
    }

    /// The weight that belongs to `health`; 1 where none was registered.
    pub(super) fn weight(&self, health: Health) -> u32 {
        let weight = match (&self.service.weights, health) {
            (Some(weights), Health::Passing) => weights.passing,
            (Some(weights), Health::Warning) => weights.warning,
            (None, _) | (_, Health::Critical) => 1,
        };
        u32::try_from(weight.clamp(1, 65_535)).unwrap_or(1)
    }

    /// Where it is reached: the service's own address, else its node's, since `""` means that none was registered. From
    /// another datacenter (`far`) the addresses tagged `wan` come first, in the order of Consul's own proxies
    /// (`CheckServiceNode.BestAddress`). The port is `None` where it is none.
    pub(super) fn target(&self, far: bool) -> (&str, Option<u16>) {
        let (service, node) = (&self.service, &self.node);
        let wan = service.tagged_addresses.get("wan").filter(|tagged| far && !tagged.address.is_empty());
        let (host, port) = match wan {
            Some(tagged) => (tagged.address.as_str(), if tagged.port > 0 { tagged.port } else { service.port }),
            None if !service.address.is_empty() => (service.address.as_str(), service.port),
            None => {
                let wan = node.tagged_addresses.get("wan").filter(|address| far && !address.is_empty());
                (wan.unwrap_or(&node.address).as_str(), service.port)
            }
        };
        (host, u16::try_from(port).ok().filter(|port| *port > 0))
    }

    /// Who the peer proves to be where this instance speaks mTLS: its own name for a native instance, the name that it
    /// stands before for a sidecar. Gateways speak other protocols.
    pub(super) fn mesh_peer(&self) -> Option<&str> {
        match self.service.kind.as_str() {
            "connect-proxy" => Some(self.service.proxy.destination_service_name.as_str()),
            "" if self.service.connect.native => Some(self.service.service.as_str()),
            _ => None,
        }
    }

    /// `mesh_peer`, where it is `wanted`: a peer with another identity is not the service that was asked for.
    pub(super) fn is_mesh_of(&self, wanted: &ServiceName) -> bool {
        self.mesh_peer() == Some(wanted.as_str())
    }

    /// A sidecar of ours says so in its Meta.
    pub(super) fn is_ours(&self) -> bool {
        self.service.meta.contains_key("outrigger_owner")
    }

    pub(super) fn zone(&self) -> Option<&str> {
        let zone = self.service.meta.get("zone").or_else(|| self.node.meta.get("zone"));
        zone.map(String::as_str).filter(|zone| !zone.is_empty())
    }
}

impl Check {
    fn health(&self) -> Health {
        // `_service_maintenance:ID` and `_node_maintenance` take an instance out whatever they say of themselves.
        let maintenance = self.check_id == "_node_maintenance" || self.check_id.starts_with("_service_maintenance");
        match self.status.as_str() {
            _ if maintenance => Health::Critical,
            "passing" => Health::Passing,
            "warning" => Health::Warning,
            // An unknown state is no promise.
            _ => Health::Critical,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(json: &str) -> Vec<Row> {
        serde_json::from_str::<Rows>(json).unwrap().0
    }

    fn with_checks(checks: &str) -> Row {
        rows(&format!(r#"[{{"Service":{{"Weights":{{"Passing":10,"Warning":3}}}},"Checks":{checks}}}]"#)).remove(0)
    }

    #[test]
    fn consuls_own_example_is_read() {
        let row = rows(
            r#"[{"Node":{"ID":"4317","Node":"a1","Address":"127.0.0.1","Datacenter":"dc1","TaggedAddresses":{"lan":"127.0.0.1"},
              "Meta":{"consul-network-segment":""}},
              "Service":{"ID":"web-1","Service":"web","Tags":["v1","eu"],"Address":"127.0.0.2","Port":18080,"Meta":{"version":"1.2.3"},
              "Weights":{"Passing":10,"Warning":1},"Proxy":{"MeshGateway":{},"Expose":{}},"Connect":{}},
              "Checks":[{"CheckID":"serfHealth","Status":"passing"},{"CheckID":"web-1:ttl","Status":"passing","Type":"ttl"}]}]"#,
        )
        .remove(0);
        assert_eq!((row.service.id.as_str(), row.target(false)), ("web-1", ("127.0.0.2", Some(18080))));
        assert_eq!((row.health(), row.weight(Health::Passing)), (Health::Passing, 10));
        assert_eq!((row.mesh_peer(), row.is_ours(), row.zone()), (None, false, None));
    }

    #[test]
    fn null_stands_for_every_empty_thing() {
        assert!(rows("null").is_empty());
        let row = rows(
            r#"[{"Node":{"Node":null,"Address":"10.0.0.9","Meta":null},"Service":{"ID":null,"Service":null,"Address":null,
              "Port":null,"Meta":null,"Weights":null,"Proxy":null,"Connect":null,"Kind":null},"Checks":null}]"#,
        )
        .remove(0);
        assert_eq!((row.target(true), row.health()), (("10.0.0.9", None), Health::Passing));
        assert_eq!(row.weight(Health::Passing), 1);
        assert_eq!(rows(r#"[{"Node":null,"Service":null}]"#)[0].target(false).0, "");
    }

    #[test]
    fn the_worst_check_counts_the_nodes_own_included() {
        let cases = [
            ("[]", Health::Passing, 10),
            (r#"[{"Status":"passing"}]"#, Health::Passing, 10),
            (r#"[{"Status":"passing"},{"Status":"warning"}]"#, Health::Warning, 3),
            (r#"[{"CheckID":"serfHealth","Status":"critical"},{"Status":"passing"}]"#, Health::Critical, 1),
            (r#"[{"CheckID":"_service_maintenance:web-1","Status":"passing"}]"#, Health::Critical, 1),
            (r#"[{"CheckID":"_node_maintenance","Status":"critical"}]"#, Health::Critical, 1),
            (r#"[{"Status":"unheard of"}]"#, Health::Critical, 1),
        ];
        for (checks, health, weight) in cases {
            let row = with_checks(checks);
            assert_eq!((row.health(), row.weight(row.health())), (health, weight), "{checks}");
        }
    }

    #[test]
    fn ports_that_are_none_are_told_apart() {
        for (port, read) in [("70000", None), ("-1", None), ("0", None), ("65535", Some(65_535)), ("1", Some(1))] {
            assert_eq!(rows(&format!(r#"[{{"Service":{{"Port":{port}}}}}]"#))[0].target(false).1, read, "{port}");
        }
    }

    #[test]
    fn from_another_datacenter_the_wan_addresses_come_first() {
        let row = |service: &str| {
            rows(&format!(
                r#"[{{"Node":{{"Address":"10.0.0.9","TaggedAddresses":{{"lan":"10.0.0.9","wan":"203.0.113.9"}}}},"Service":{service}}}]"#
            ))
            .remove(0)
        };
        let both =
            r#"{"Address":"10.0.0.1","Port":80,"TaggedAddresses":{"wan":{"Address":"203.0.113.1","Port":8080}}}"#;
        assert_eq!(row(both).target(true), ("203.0.113.1", Some(8080)));
        assert_eq!(row(both).target(false), ("10.0.0.1", Some(80)));
        let own = r#"{"Address":"10.0.0.1","Port":80,"TaggedAddresses":{"wan_ipv4":{"Address":"10.0.0.1","Port":80}}}"#;
        assert_eq!(row(own).target(true), ("10.0.0.1", Some(80)));
        let of_node = r#"{"Address":"","Port":80,"TaggedAddresses":null}"#;
        assert_eq!(row(of_node).target(true), ("203.0.113.9", Some(80)));
        assert_eq!(row(of_node).target(false), ("10.0.0.9", Some(80)));
    }

    #[test]
    fn a_peer_is_the_native_service_or_what_the_sidecar_stands_before() {
        let native = r#"[{"Service":{"Service":"web","Connect":{"Native":true},"Meta":{"outrigger_owner":"x","zone":"b"}},
            "Node":{"Meta":{"zone":"a"}}}]"#;
        let native = rows(native).remove(0);
        assert_eq!((native.mesh_peer(), native.is_ours(), native.zone()), (Some("web"), true, Some("b")));
        let proxy = r#"[{"Service":{"Service":"web-sidecar-proxy","Kind":"connect-proxy",
            "Proxy":{"DestinationServiceName":"web","DestinationServiceID":"web-1"}},"Node":{"Meta":{"zone":"a"}}}]"#;
        let proxy = rows(proxy).remove(0);
        assert_eq!((proxy.mesh_peer(), proxy.is_ours(), proxy.zone()), (Some("web"), false, Some("a")));
        assert!(proxy.is_mesh_of(&ServiceName::parse("web").unwrap()));
        assert!(!proxy.is_mesh_of(&ServiceName::parse("web-sidecar-proxy").unwrap()));
        let gateway = r#"[{"Service":{"Service":"gw","Kind":"terminating-gateway","Connect":{"Native":true}}}]"#;
        assert_eq!(rows(gateway)[0].mesh_peer(), None);
    }
}
