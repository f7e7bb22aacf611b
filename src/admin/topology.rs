//! The mesh as this sidecar sees it: itself and its upstreams, as JSON or as a Mermaid graph.

use std::time::Instant;

use http::StatusCode;
use serde::Serialize;

use super::View;
use super::answer::{self, Answer};
use super::endpoints::{Counts, upstreams};

/// `/topology`.
#[derive(Serialize)]
struct Topology {
    service: String,
    id: String,
    /// Sorted by name.
    upstreams: Vec<Edge>,
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
        Self { service: view.service.to_string(), id: view.id.clone(), upstreams: edges.collect() }
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
