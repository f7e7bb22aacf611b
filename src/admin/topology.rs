//! The mesh as this sidecar sees it: itself and its upstreams, as JSON or as a Mermaid graph.

use std::collections::BTreeMap;
use std::time::Instant;

use http::StatusCode;
use serde::Serialize;

use super::View;
use super::answer::{self, Answer};
use super::endpoints::{Counts, upstreams};
use crate::access::{DefaultPolicy, Enforced, Intention};

/// `/topology`.
#[derive(Serialize)]
struct Topology {
    service: String,
    id: String,
    /// Sorted by name.
    upstreams: Vec<Edge>,
    /// Connections in plain text to a permissive inbound listener, by address: who would be refused if it were strict.
    plain_text_peers: BTreeMap<String, u64>,
    /// `null` where they are not enforced.
    intentions: Option<InForce>,
}

/// Who may call us, as Consul says; before its first answer nobody.
#[derive(Serialize, Default)]
struct InForce {
    /// Whether they are known.
    known: bool,
    /// `allow` or `deny`; `null` while it is not known, which is deny.
    default: Option<&'static str>,
    /// The first one that is of the caller decides.
    list: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    source: String,
    destination: String,
    action: String,
    precedence: u32,
}

impl InForce {
    fn of(enforced: &Enforced) -> Option<Self> {
        let intentions = match enforced {
            Enforced::Off => return None,
            Enforced::Unanswered => return Some(Self::default()),
            Enforced::On(intentions) => intentions,
        };
        let row = |intention: &Intention| Row {
            source: intention.source.to_string(),
            destination: intention.destination.to_string(),
            action: intention.action.to_string(),
            precedence: intention.precedence,
        };
        let default = intentions.default_policy().map(|policy| match policy {
            DefaultPolicy::Allow => "allow",
            DefaultPolicy::Deny => "deny",
        });
        Some(Self { known: true, default, list: intentions.list().iter().map(row).collect() })
    }
}

#[derive(Serialize)]
struct Edge {
    service: String,
    endpoints: usize,
    healthy: usize,
    /// Finished since the start, by this sidecar.
    requests: u64,
    in_flight: i64,
}

/// `query` may ask for `format=json` (the default) or `format=mermaid`.
pub(super) fn answer(view: &View, query: Option<&str>, now: Instant) -> Answer {
    let format = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("format="));
    match format {
        None | Some("json") => answer::json(StatusCode::OK, &Topology::of(view, now)),
        Some("mermaid") => answer::text("text/plain; charset=utf-8", Topology::of(view, now).mermaid()),
        Some(_) => {
            let message = "The formats of /topology are json and mermaid.";
            answer::error(StatusCode::BAD_REQUEST, "bad_request", message)
        }
    }
}

impl Topology {
    fn of(view: &View, now: Instant) -> Self {
        let edges = upstreams(view).into_iter().map(|route| {
            let endpoints = route.service.endpoints();
            Edge {
                service: route.service.name().to_string(),
                endpoints: endpoints.all().len(),
                healthy: Counts::of(endpoints.all(), now).healthy,
                requests: route.flow.duration.get_sample_count(),
                in_flight: route.flow.in_flight.get(),
            }
        });
        Self {
            service: view.service.to_string(),
            id: view.id.clone(),
            upstreams: edges.collect(),
            plain_text_peers: view.inbound.plain_peers.counts(),
            intentions: InForce::of(view.inbound.entry.gate.peek().enforced()),
        }
    }

    /// Names need no escape here: a `ServiceName` has no quote, bracket or line end.
    fn mermaid(&self) -> String {
        let mut graph = format!("graph LR\n  self([\"{}\"])\n", self.service);
        for (at, edge) in self.upstreams.iter().enumerate() {
            // Dotted where nobody can answer.
            let arrow = if edge.healthy == 0 { "-.->" } else { "-->" };
            graph.push_str(&format!(
                "  self {arrow}|\"{} of {} healthy\"| u{at}[\"{}\"]\n",
                edge.healthy, edge.endpoints, edge.service
            ));
        }
        graph
    }
}
