//! Who may call us, as Consul says: intentions by blocking queries, with what holds where none is of the caller. An error
//! never widens or narrows anything: the last good answer stays.

use std::time::{Duration, SystemTime};

use prometheus::Gauge;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::intention_rows::{default_policy, intention};
use crate::access::{DefaultPolicy, Intentions};
use crate::consul::{Answer, Api, Client, ConsulError, Snapshot};
use crate::names::ServiceName;
use crate::registry::follow::Origin;
use crate::registry::pace::{Backoff, Pace};
use crate::telemetry::Metrics;

/// What is in force from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct IntentionUpdate {
    pub intentions: Intentions,
    pub origin: Origin,
}

/// Runs until dropped. `sink` is called with the first answer and with each one that differs; it must not block.
///
/// - Errors, 403 among them, never reach `sink`; they are retried from the start with jittered back-off and logged when
///   they begin and end.
/// - No intentions at all, after some, are asked for again before they are believed: a Consul that lost its state would
///   open what it had closed.
/// - With a snapshot, what is believed is saved, and handed out when Consul does not answer at start.
pub async fn follow_intentions(
    client: Client,
    service: ServiceName,
    metrics: &Metrics,
    snapshot: Option<Snapshot>,
    sink: impl FnMut(IntentionUpdate) + Send,
) {
    let now = Instant::now();
    let follower = Follower {
        entry: format!("intentions/{service}"),
        last_answer: metrics.consul_last_answer("intentions"),
        snapshot_at: snapshot.is_some().then(|| now + FIRST_ANSWER),
        client,
        service,
        snapshot,
        sink,
        seen: Seen::Nothing,
        believed: None,
        handed_out: None,
        default: Fallback::default(),
        doubt: None,
        failing: false,
        pace: Pace::new(now),
        backoff: Backoff::default(),
    };
    follower.run().await;
}

/// What to block on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// The index of `match` itself (1.9 and newer).
    Match(u64),
    /// The index of the list of all intentions: `match` has none in 1.8, where any change of an intention moves this one,
    /// also for a token that may not read what changed.
    List(u64),
}

/// An answer as it goes to the snapshot: rows as Consul wrote them, so that reading goes through the same checks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Rows {
    rows: Vec<Value>,
    /// `true` is allow.
    allow: Option<bool>,
}

/// The policy where no intention is of the caller, which has no index to block on.
#[derive(Default)]
struct Fallback {
    known: Option<DefaultPolicy>,
    at: Option<Instant>,
}

struct Follower<S> {
    client: Client,
    service: ServiceName,
    entry: String,
    last_answer: Gauge,
    snapshot: Option<Snapshot>,
    snapshot_at: Option<Instant>,
    sink: S,
    seen: Seen,
    believed: Option<Rows>,
    /// Where `believed` is from.
    handed_out: Option<Origin>,
    default: Fallback,
    /// When an answer without intentions may be believed.
    doubt: Option<Instant>,
    failing: bool,
    pace: Pace,
    backoff: Backoff,
}

impl<S: FnMut(IntentionUpdate) + Send> Follower<S> {
    async fn run(mut self) {
        loop {
            let now = Instant::now();
            sleep(self.pace.take(now)).await;
            let begun = Instant::now();
            let outcome = match self.snapshot_at {
                Some(at) => timeout_at(at, self.round()).await,
                None => Ok(self.round().await),
            };
            match outcome {
                Ok(Ok(rows)) => {
                    let changed = self.answered(rows);
                    self.pace.answered(changed, begun.elapsed());
                    if let Some(until) = self.doubt {
                        self.seen = Seen::Nothing;
                        sleep(until.saturating_duration_since(Instant::now()).min(CONFIRM)).await;
                    }
                }
                Ok(Err(error)) => {
                    self.failed(&error);
                    sleep(self.backoff.next(fastrand::f64())).await;
                }
                Err(_) => {
                    // What the round had read is lost with it.
                    self.seen = Seen::Nothing;
                    self.hand_out_snapshot();
                }
            }
        }
    }

    /// Waits for a change, or for Consul's patience to end, and reads everything anew.
    async fn round(&mut self) -> Result<Rows, ConsulError> {
        let rows = match self.seen {
            Seen::Nothing => {
                let Answer { index, value, .. } = self.matches(0).await?;
                match index {
                    Some(index) => {
                        self.seen = Seen::Match(index);
                        value
                    }
                    None => self.past_list(0).await?,
                }
            }
            Seen::Match(seen) => {
                let Answer { index, value, .. } = self.matches(seen).await?;
                // A lower one: the servers began anew.
                self.seen = index.filter(|index| *index >= seen).map_or(Seen::Nothing, Seen::Match);
                value
            }
            Seen::List(seen) => self.past_list(seen).await?,
        };
        self.learn_default().await?;
        let allow = self.default.known.map(|policy| policy == DefaultPolicy::Allow);
        Ok(Rows { rows, allow })
    }

    /// The list's index first, then the rows: they are at least as new as what will be waited past.
    async fn past_list(&mut self, seen: u64) -> Result<Vec<Value>, ConsulError> {
        let list: Answer<IgnoredAny> = self.client.wait_past(Api::Intentions, LIST, &[], seen).await?;
        let rows = self.matches(0).await?.value;
        // Without any index there is only asking now and then, which `pace` slows down.
        self.seen = list.index.filter(|index| *index >= seen).map_or(Seen::Nothing, Seen::List);
        Ok(rows)
    }

    async fn matches(&self, seen: u64) -> Result<Answer<Vec<Value>>, ConsulError> {
        let malformed = |cause: &str| ConsulError::Malformed { path: MATCH.into(), cause: cause.into() };
        let query = [("by", "destination"), ("name", self.service.as_str())];
        let answer: Answer<Value> = self.client.wait_past(Api::IntentionMatch, MATCH, &query, seen).await?;
        // `{"users": null}` where there is none. Enterprise may write the name with its namespace.
        let rows = answer.value.as_object().filter(|map| map.len() == 1).and_then(|map| map.values().next());
        let rows = match rows {
            Some(Value::Null) => Vec::new(),
            Some(Value::Array(rows)) => rows.clone(),
            Some(_) | None => return Err(malformed("it names not one service with its intentions")),
        };
        if answer.filtered_by_acls {
            return Err(ConsulError::Status { status: 403, path: MATCH.into(), text: "filtered by ACLs".into() });
        }
        if let Some(cause) = rows.iter().find_map(|row| intention(row).err()) {
            return Err(malformed(&cause));
        }
        Ok(Answer { index: answer.index, filtered_by_acls: false, value: rows })
    }

    /// It changes with a restart of the agent at most, so now and then is enough.
    async fn learn_default(&mut self) -> Result<(), ConsulError> {
        if self.default.at.is_some_and(|at| at.elapsed() < DEFAULT_AGE) {
            return Ok(());
        }
        let told = match self.client.get::<Value>(Api::AgentSelf, "/v1/agent/self", &[]).await {
            Ok(agent) => default_policy(&agent.value),
            // It takes `agent:read`, which a sidecar's token need not have.
            Err(error) if error.is_denied() => None,
            Err(error) => return Err(error),
        };
        let known = match told {
            Some(policy) => Some(policy),
            None => self.ask_default().await?,
        };
        if known != self.default.known || self.default.at.is_none() {
            let policy = known.map_or("not known; without an intention nobody may call", name_of);
            info!(default = policy, "Consul's policy for callers that no intention names");
        }
        self.default = Fallback { known, at: Some(Instant::now()) };
        Ok(())
    }

    /// Asks the agent about a caller that does not exist. `None` where an intention for any source answers instead: then
    /// the default matters to nobody but those whom none of its permissions lets in.
    async fn ask_default(&self) -> Result<Option<DefaultPolicy>, ConsulError> {
        let settings = self.client.settings();
        let namespace = settings.namespace.as_deref().unwrap_or("default");
        let uri = format!("spiffe://default-policy.consul/ns/{namespace}/dc/dc1/svc/{NOBODY}");
        let body = json!({ "Target": self.service.as_str(), "ClientCertURI": uri, "ClientCertSerial": "00" });
        let answer: Authorized = match self.client.ask(Api::Authorize, "/v1/agent/connect/authorize", &body).await {
            Ok(answer) => answer,
            Err(error) if error.is_denied() || error.status() == Some(404) => return Ok(None),
            Err(error) => return Err(error),
        };
        if answer.reason.starts_with("Matched") {
            return Ok(None);
        }
        Ok(Some(if answer.authorized { DefaultPolicy::Allow } else { DefaultPolicy::Deny }))
    }

    /// Whether it brought anything new.
    fn answered(&mut self, rows: Rows) -> bool {
        let now = Instant::now();
        self.snapshot_at = None;
        self.last_answer
            .set(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        let after_failure = std::mem::replace(&mut self.failing, false);
        if after_failure {
            info!("Consul answers again about intentions");
        }
        self.backoff.reset();
        let emptied = rows.rows.is_empty() && self.believed.as_ref().is_some_and(|before| !before.rows.is_empty());
        if emptied {
            let patience = if after_failure { CONFIRM_AFTER_FAILURE } else { CONFIRM };
            let until = *self.doubt.get_or_insert_with(|| {
                info!(?patience, "Consul has no intentions any more; the last ones stay until that is confirmed");
                now + patience
            });
            if now < until {
                return false;
            }
        }
        self.doubt = None;
        self.believe(rows, Origin::Live)
    }

    fn believe(&mut self, rows: Rows, origin: Origin) -> bool {
        if self.believed.as_ref() == Some(&rows) && self.handed_out == Some(origin) {
            return false;
        }
        let list: Vec<_> = rows.rows.iter().filter_map(|row| intention(row).ok()).collect();
        let default = rows.allow.map(|allow| if allow { DefaultPolicy::Allow } else { DefaultPolicy::Deny });
        info!(intentions = list.len(), default = default.map_or("unknown", name_of), ?origin, "intentions in force");
        (self.sink)(IntentionUpdate { intentions: Intentions::new(list, default), origin });
        self.handed_out = Some(origin);
        if origin == Origin::Live
            && let Some(snapshot) = &self.snapshot
            && let Err(error) = snapshot.save(&self.entry, &rows)
        {
            warn!(entry = %self.entry, %error, "snapshot cannot be written");
        }
        self.believed = Some(rows);
        true
    }

    fn failed(&mut self, error: &ConsulError) {
        self.seen = Seen::Nothing;
        self.doubt = None;
        // A restarted agent may have another configuration.
        self.default.at = None;
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(%error, "Consul still does not say who may call");
            return;
        }
        self.hand_out_snapshot();
        let stays =
            if self.believed.is_some() { "the last good intentions stay" } else { "nobody may call until it does" };
        let right =
            if error.is_denied() { "; the token needs service:write or intentions:read on this service" } else { "" };
        warn!(%error, "Consul does not say who may call; {stays}{right}");
    }

    /// What an earlier life believed, at most once and only before the first answer.
    fn hand_out_snapshot(&mut self) {
        if self.snapshot_at.take().is_none() {
            return;
        }
        let Some(rows) = self.snapshot.as_ref().and_then(|folder| folder.load::<Rows>(&self.entry)) else { return };
        // One that cannot be read is not passed over: it might be the one that denies.
        if rows.rows.iter().any(|row| intention(row).is_err()) {
            warn!(entry = %self.entry, "the snapshot's intentions cannot be used");
            return;
        }
        self.believe(rows, Origin::Snapshot);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Authorized {
    authorized: bool,
    #[serde(default)]
    reason: String,
}

const fn name_of(policy: DefaultPolicy) -> &'static str {
    match policy {
        DefaultPolicy::Allow => "allow",
        DefaultPolicy::Deny => "deny",
    }
}

const MATCH: &str = "/v1/connect/intentions/match";
const LIST: &str = "/v1/connect/intentions";
/// How long a start waits for Consul before it goes by the snapshot.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Between two answers without intentions, after one with.
const CONFIRM: Duration = Duration::from_secs(1);
/// As above where Consul was away: one that lost its state may be about to get it back.
const CONFIRM_AFTER_FAILURE: Duration = Duration::from_secs(10);
const DEFAULT_AGE: Duration = Duration::from_secs(50);
/// No service is called so.
const NOBODY: &str = "outrigger-asks-for-the-default-policy";

#[cfg(test)]
#[path = "intentions_tests.rs"]
mod tests;
