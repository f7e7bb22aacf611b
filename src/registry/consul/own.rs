//! What the local agent says of itself: its datacenter, and the zone of its node.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::rows::or_default;
use crate::consul::{Api, Client, ConsulError};
use crate::registry::pace::Backoff;

/// `GET /v1/agent/self`, as far as it is used here. Needs `agent:read` where ACLs are on.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Own {
    #[serde(deserialize_with = "or_default")]
    config: OwnConfig,
    #[serde(deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct OwnConfig {
    #[serde(deserialize_with = "or_default")]
    datacenter: String,
}

impl Own {
    pub(super) async fn read(client: &Client) -> Result<Self, ConsulError> {
        Ok(client.get(Api::AgentSelf, "/v1/agent/self", &[]).await?.value)
    }

    /// Consul compares without case.
    pub(super) fn is_in(&self, datacenter: &str) -> bool {
        self.config.datacenter.eq_ignore_ascii_case(datacenter)
    }

    fn zone(self) -> Option<String> {
        self.meta.into_iter().find(|(key, zone)| key == "zone" && !zone.is_empty()).map(|(_, zone)| zone)
    }
}

/// The zone that the agent's node has in its Meta (`node_meta { zone = "…" }`), as soon as the agent can be asked; `None`
/// where it has none. An agent that comes up later than we do is waited for.
pub async fn node_zone(client: Client) -> Option<String> {
    let mut backoff = Backoff::default();
    let mut told = false;
    loop {
        let error = match Own::read(&client).await {
            Ok(own) => return own.zone(),
            Err(error) => error,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, "the agent does not tell its node's zone; prefer_zone has no effect until then");
        }
        // Only a person can give the token `agent:read`.
        let pause = if error.is_denied() { DENIED } else { backoff.next(fastrand::f64()) };
        tokio::time::sleep(pause).await;
    }
}

const DENIED: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consuls_own_answer_is_read() {
        let own: Own = serde_json::from_str(
            r#"{"Config":{"Datacenter":"dc1","NodeName":"a1","Server":true},"Coord":null,"Member":{"Name":"a1"},
            "Meta":{"consul-network-segment":"","zone":"a"}}"#,
        )
        .unwrap();
        assert!(own.is_in("DC1") && !own.is_in("dc2"));
        assert_eq!(own.zone().as_deref(), Some("a"));
        for none in [r#"{"Meta":{"zone":""}}"#, r#"{"Meta":null,"Config":null}"#, "{}"] {
            assert_eq!(serde_json::from_str::<Own>(none).unwrap().zone(), None, "{none}");
        }
    }
}
