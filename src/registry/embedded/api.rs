//! Consul's paths: which one leads where, what is waited for, and which headers an answer carries.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, VARY};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Shared;
use super::ca::ROOTS_INDEX;
use super::decode::{self, Refused, Status};
use super::query::Query;
use super::state::{ADDRESS, DATACENTER, NODE, State};
use crate::names::ServiceName;

pub(super) type Answer = Response<Full<Bytes>>;

/// Which methods a path takes, and what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Leader,
    AgentSelf,
    Services,
    Checks,
    Register,
    Deregister,
    Maintenance,
    Service,
    CheckPass,
    CheckWarn,
    CheckFail,
    CheckUpdate,
    Health,
    HealthConnect,
    CatalogServices,
    CatalogService,
    Roots,
    Leaf,
    Intentions,
    IntentionMatch,
}

/// Longer prefixes first: `/v1/agent/service/` would take them all.
const ROUTES: &[(&str, Endpoint)] = &[
    ("/v1/status/leader", Endpoint::Leader),
    ("/v1/agent/self", Endpoint::AgentSelf),
    ("/v1/agent/services", Endpoint::Services),
    ("/v1/agent/checks", Endpoint::Checks),
    ("/v1/agent/service/register", Endpoint::Register),
    ("/v1/agent/service/deregister/", Endpoint::Deregister),
    ("/v1/agent/service/maintenance/", Endpoint::Maintenance),
    ("/v1/agent/service/", Endpoint::Service),
    ("/v1/agent/check/pass/", Endpoint::CheckPass),
    ("/v1/agent/check/warn/", Endpoint::CheckWarn),
    ("/v1/agent/check/fail/", Endpoint::CheckFail),
    ("/v1/agent/check/update/", Endpoint::CheckUpdate),
    ("/v1/health/service/", Endpoint::Health),
    ("/v1/health/connect/", Endpoint::HealthConnect),
    ("/v1/catalog/services", Endpoint::CatalogServices),
    ("/v1/catalog/service/", Endpoint::CatalogService),
    ("/v1/agent/connect/ca/roots", Endpoint::Roots),
    ("/v1/agent/connect/ca/leaf/", Endpoint::Leaf),
    ("/v1/connect/intentions/match", Endpoint::IntentionMatch),
    ("/v1/connect/intentions", Endpoint::Intentions),
];

impl Endpoint {
    /// The endpoint of a path, and what the path names there.
    fn find(path: &str) -> Option<(Self, String)> {
        let (prefix, endpoint) = ROUTES.iter().find(|(known, _)| match known.strip_suffix('/') {
            Some(_) => path.starts_with(known),
            None => path == *known,
        })?;
        let rest = percent_encoding::percent_decode_str(&path[prefix.len()..]).decode_utf8_lossy().into_owned();
        Some((*endpoint, rest))
    }

    const fn is_write(self) -> bool {
        match self {
            Self::Register
            | Self::Deregister
            | Self::Maintenance
            | Self::CheckPass
            | Self::CheckWarn
            | Self::CheckFail
            | Self::CheckUpdate => true,
            Self::Leader
            | Self::AgentSelf
            | Self::Services
            | Self::Checks
            | Self::Service
            | Self::Health
            | Self::HealthConnect
            | Self::CatalogServices
            | Self::CatalogService
            | Self::Roots
            | Self::Leaf
            | Self::Intentions
            | Self::IntentionMatch => false,
        }
    }
}

impl Shared {
    /// One request, from its line and body to its answer.
    pub(super) async fn answer(&self, method: &Method, path: &str, query: &str, body: Bytes) -> Answer {
        let Some((endpoint, name)) = Endpoint::find(path) else {
            return plain(StatusCode::NOT_FOUND, "");
        };
        let (wanted, allow) =
            if endpoint.is_write() { (Method::PUT, "OPTIONS,PUT") } else { (Method::GET, "OPTIONS,GET") };
        if *method != wanted {
            let mut answer = match *method {
                Method::OPTIONS => bare(StatusCode::OK),
                _ => text(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed")),
            };
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            return answer;
        }
        let done = match Query::parse(query) {
            Ok(query) if endpoint.is_write() => self.write(endpoint, &name, &query, &body),
            Ok(query) => self.read(endpoint, &name, &query).await,
            Err(refused) => Err(refused),
        };
        done.unwrap_or_else(|refused| {
            let mut answer = text(refused.status, refused.text);
            if refused.status.is_server_error() && matches!(endpoint, Endpoint::Health | Endpoint::HealthConnect) {
                // As Consul does: an index that nobody should use.
                set(&mut answer, "x-consul-index", "1");
                set(&mut answer, "x-consul-knownleader", "false");
                set(&mut answer, "x-consul-lastcontact", "0");
            }
            answer
        })
    }

    fn write(&self, endpoint: Endpoint, name: &str, query: &Query, body: &[u8]) -> Result<Answer, Refused> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let note = query.value("note").unwrap_or_default();
        let done = match endpoint {
            Endpoint::Register => {
                let replace = query.has("replace-existing-checks");
                decode::registration(body).and_then(|new| state.register(new, replace, now))
            }
            Endpoint::Deregister if name.is_empty() => Err(Refused::failed("ServiceID missing")),
            Endpoint::Deregister => {
                state.deregister(name);
                Ok(())
            }
            Endpoint::Maintenance if name.is_empty() => Err(Refused::bad("Missing service ID")),
            Endpoint::Maintenance => query.enable().and_then(|on| {
                let reason = query.value("reason").unwrap_or_default();
                state.maintain(name, on.then_some(reason))
            }),
            Endpoint::CheckPass => state.update_check(name, Status::Passing, note, now),
            Endpoint::CheckWarn => state.update_check(name, Status::Warning, note, now),
            Endpoint::CheckFail => state.update_check(name, Status::Critical, note, now),
            _ => decode::check_update(body)
                .and_then(|(status, output)| state.update_check(name, status, &cut(output), now)),
        };
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        done.map(|()| bare(StatusCode::OK))
    }

    async fn read(&self, endpoint: Endpoint, name: &str, query: &Query) -> Result<Answer, Refused> {
        match endpoint {
            Endpoint::Leader => Ok(json_answer(&json!(self.address))),
            Endpoint::AgentSelf => Ok(json_answer(&self.agent_self())),
            Endpoint::Services => Ok(json_answer(&self.state.lock().agent_services())),
            Endpoint::Checks => Ok(json_answer(&self.state.lock().agent_checks())),
            Endpoint::Service => self.agent_service(name, query).await,
            Endpoint::Health | Endpoint::HealthConnect | Endpoint::CatalogService if name.is_empty() => {
                Err(Refused::bad("Missing service name"))
            }
            Endpoint::Health | Endpoint::HealthConnect => {
                let wanted = query.wanted(endpoint == Endpoint::HealthConnect)?;
                Ok(indexed(query, self.past(query, |state| state.health(name, &wanted)).await))
            }
            Endpoint::CatalogService => {
                query.no_filter()?;
                let wanted = query.wanted(false)?;
                Ok(indexed(query, self.past(query, |state| state.catalog_service(name, &wanted)).await))
            }
            Endpoint::CatalogServices => Ok(indexed(query, self.past(query, State::catalog_services).await)),
            Endpoint::Roots => {
                let found = self.past(query, |_| (ROOTS_INDEX, self.ca.roots())).await;
                let mut answer = indexed(query, found);
                // Consul says so even when all is well.
                set(&mut answer, "x-consul-knownleader", "false");
                answer.headers_mut().remove("x-consul-effective-consistency");
                set(&mut answer, "x-cache", "HIT");
                Ok(answer)
            }
            Endpoint::Leaf => self.leaf(name, query).await,
            Endpoint::Intentions => {
                let mut answer = indexed(query, self.past(query, |_| (1, json!([]))).await);
                answer.headers_mut().remove("x-consul-effective-consistency");
                Ok(answer)
            }
            _ => self.intention_match(query).await,
        }
    }

    async fn agent_service(&self, id: &str, query: &Query) -> Result<Answer, Refused> {
        let unknown = || Refused::missing(format!("unknown service ID: {id}"));
        let deadline = Instant::now() + query.jittered_wait();
        loop {
            let mut changed = self.changed.subscribe();
            let (hash, value) = self.state.lock().agent_service(id).ok_or_else(unknown)?;
            let waits = query.hash.as_ref() == Some(&hash);
            if !waits || !self.changes_before(&mut changed, deadline).await {
                let mut answer = json_answer(&value);
                set(&mut answer, "x-consul-contenthash", &hash);
                return Ok(answer);
            }
        }
    }

    async fn leaf(&self, name: &str, query: &Query) -> Result<Answer, Refused> {
        if name.is_empty() {
            return Err(Refused::failed("URI must be either service or agent"));
        }
        let name = ServiceName::parse(name).map_err(|cause| Refused::bad(format!("Bad service name: {cause}")))?;
        let made = self.ca.leaf(&name, || self.state.lock().advance());
        let found = made.map_err(|cause| Refused::failed(cause.to_string()))?;
        let (index, value) = self.past(query, |_| found.clone()).await;
        let mut answer = json_answer(&value);
        set(&mut answer, "x-consul-index", &index.to_string());
        set(&mut answer, "x-cache", "HIT");
        Ok(answer)
    }

    async fn intention_match(&self, query: &Query) -> Result<Answer, Refused> {
        match query.value("by") {
            None => return Err(Refused::failed("required query parameter 'by' not set")),
            Some("source" | "destination") => {}
            Some(_) => return Err(Refused::failed("'by' parameter must be one of 'source' or 'destination'")),
        }
        let Some(name) = query.value("name") else {
            return Err(Refused::failed("required query parameter 'name' not set"));
        };
        // Consul 1.8 obeys the index here, but sends none.
        let (_, value) = self.past(query, |_| (1, json!({name: null}))).await;
        Ok(json_answer(&value))
    }

    fn agent_self(&self) -> Value {
        json!({
            "Config": {
                "Datacenter": DATACENTER, "NodeName": NODE, "NodeID": self.node_id, "Revision": "", "Server": true,
                "Version": "1.8.7",
            },
            "Coord": {"Vec": [0, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Adjustment": 0, "Height": 1e-5},
            "Member": {"Name": NODE, "Addr": ADDRESS, "Status": 1},
            "Stats": {"build": {"version": concat!("outrigger ", env!("CARGO_PKG_VERSION"))}},
            "Meta": {"consul-network-segment": ""},
            // Without ACLs, whom no intention names is let in.
            "DebugConfig": {"ACLDefaultPolicy": "allow", "ACLsEnabled": false},
        })
    }

    /// A blocking query: reads until the index is above the one that the asker has seen, or its wait is over.
    async fn past<T>(&self, query: &Query, read: impl Fn(&State) -> (u64, T)) -> (u64, T) {
        let deadline = Instant::now() + query.jittered_wait();
        loop {
            // Subscribed before the look: a change in between is not slept over.
            let mut changed = self.changed.subscribe();
            let found = read(&self.state.lock());
            let waits = query.index > 0 && found.0 <= query.index;
            if !waits || !self.changes_before(&mut changed, deadline).await {
                return found;
            }
        }
    }

    /// Whether anything changed before the deadline; a drain ends every wait, as SIGTERM does Consul's.
    async fn changes_before(&self, changed: &mut tokio::sync::watch::Receiver<u64>, deadline: Instant) -> bool {
        tokio::select! {
            seen = changed.changed() => seen.is_ok(),
            () = tokio::time::sleep_until(deadline) => false,
            () = self.drain.cancelled() => false,
        }
    }
}

/// Consul keeps 4 KiB of a check's output.
fn cut(mut output: String) -> String {
    let total = output.len();
    if total > 4096 {
        output.truncate(output.floor_char_boundary(4096));
        output += &format!(" ... (captured 4096 of {total} bytes)");
    }
    output
}

fn indexed(query: &Query, (index, value): (u64, Value)) -> Answer {
    let mut answer = json_answer(&value);
    set(&mut answer, "x-consul-index", &index.to_string());
    set(&mut answer, "x-consul-knownleader", "true");
    set(&mut answer, "x-consul-lastcontact", "0");
    set(&mut answer, "x-consul-effective-consistency", if query.stale { "stale" } else { "leader" });
    answer
}

fn json_answer(value: &Value) -> Answer {
    let mut answer = bare(StatusCode::OK);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *answer.body_mut() = Full::from(value.to_string());
    answer
}

/// An error as Consul sends it: plain text without a newline.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = bare(status);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    *answer.body_mut() = Full::new(text.into());
    answer
}

fn bare(status: StatusCode) -> Answer {
    let mut answer = plain(status, "");
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    answer
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer
}

fn set(answer: &mut Answer, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
