//! Identity from Consul's own CA: roots and leaf, each by a blocking query that never rests. Consul renews a leaf, and
//! hands out that of a new root, only to those who block on it.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Material;
use super::rotate::{Backoff, Change, Keeper, Trouble};
use crate::consul::{Answer, Api, Client, ConsulError, Snapshot, path_segment};

pub(super) async fn follow(client: Client, snapshot: Option<Snapshot>, keeper: Keeper) {
    let leaf_path = format!("/v1/agent/connect/ca/leaf/{}", path_segment(keeper.service.as_str()));
    let gauge = |watch: &str| keeper.metrics.consul_last_answer(watch);
    let roots = Poll::new(client.clone(), Api::CaRoots, "/v1/agent/connect/ca/roots".into(), gauge("ca/roots"));
    let leaf = Poll::new(client, Api::CaLeaf, leaf_path, gauge("ca/leaf"));
    let state = State { keeper, snapshot, roots: None, leaf: None, trouble: Trouble::new("installing Consul's leaf") };
    let state = Mutex::new(state);
    tokio::join!(follow_roots(roots, &state), follow_leaf(leaf, &state));
}

async fn follow_roots(mut poll: Poll, state: &Mutex<State>) {
    loop {
        let answer: RootsAnswer = poll.next(state).await;
        match answer.roots() {
            Ok(roots) => state.lock().learn_roots(roots),
            Err(cause) => state.lock().trouble.is(&cause),
        }
    }
}

async fn follow_leaf(mut poll: Poll, state: &Mutex<State>) {
    loop {
        // Our own timer beside Consul's signal: an agent that slept through the time of renewal is asked plainly.
        let wait = state.lock().keeper.renew_in().unwrap_or(Duration::from_hours(1));
        let Ok(answer) = timeout(wait, poll.next::<LeafAnswer>(state)).await else {
            poll.seen = 0;
            continue;
        };
        match answer.leaf() {
            Ok(leaf) => state.lock().learn_leaf(leaf),
            Err(cause) => state.lock().trouble.is(&cause),
        }
        state.lock().keeper.mind_end();
    }
}

/// What Consul said last. Each half may be newer than the other; they are installed as soon as they fit together.
struct State {
    keeper: Keeper,
    snapshot: Option<Snapshot>,
    roots: Option<Roots>,
    leaf: Option<Leaf>,
    trouble: Trouble,
}

struct Roots {
    trust_domain: String,
    anchors: Vec<CertificateDer<'static>>,
}

struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl State {
    fn learn_roots(&mut self, roots: Roots) {
        self.roots = Some(roots);
        self.install();
    }

    fn learn_leaf(&mut self, leaf: Leaf) {
        self.leaf = Some(leaf);
        self.install();
    }

    fn install(&mut self) {
        let (Some(roots), Some(leaf)) = (&self.roots, &self.leaf) else { return };
        let material = Material {
            chain: leaf.chain.clone(),
            key: leaf.key.clone_key(),
            roots: roots.anchors.clone(),
            trust_domain: roots.trust_domain.clone(),
        };
        match self.keeper.install(material) {
            Ok(change) => {
                self.trouble.over();
                if change != Change::Nothing {
                    self.save();
                }
            }
            Err(error) => self.trouble.is(&error),
        }
    }

    fn save(&self) {
        let (Some(snapshot), Some(material)) = (&self.snapshot, self.keeper.installed()) else { return };
        if let Err(error) = snapshot.save(&self.snapshot_name(), &Saved::from(material)) {
            tracing::warn!(%error, "the identity cannot be kept for a restart");
        }
    }

    /// Consul cannot answer and there is nothing yet: what an earlier life of ours saved has to do, if it still holds.
    fn restore(&mut self) {
        let Some(snapshot) = self.snapshot.take_if(|_| self.keeper.installed().is_none()) else { return };
        let saved: Option<Saved> = snapshot.load(&self.snapshot_name());
        let material = saved.as_ref().and_then(Saved::material);
        self.snapshot = Some(snapshot);
        let Some(Material { chain, key, roots, trust_domain }) = material else { return };
        tracing::info!("Consul cannot be reached; the saved identity is tried");
        self.roots.get_or_insert(Roots { trust_domain, anchors: roots });
        self.leaf.get_or_insert(Leaf { chain, key });
        self.install();
    }

    fn snapshot_name(&self) -> String {
        format!("identity/{}", self.keeper.service)
    }
}

/// One blocking query, for ever.
struct Poll {
    client: Client,
    api: Api,
    path: String,
    seen: u64,
    backoff: Backoff,
    trouble: Trouble,
    last_answer: prometheus::Gauge,
    not_before: Instant,
    /// Neither an answer nor a snapshot was seen yet.
    fresh: bool,
}

impl Poll {
    fn new(client: Client, api: Api, path: String, last_answer: prometheus::Gauge) -> Self {
        let trouble = Trouble::new(match api {
            Api::CaLeaf => "asking Consul for our leaf",
            _ => "asking Consul for its roots",
        });
        let backoff = Backoff::new();
        Self { client, api, path, seen: 0, backoff, trouble, last_answer, not_before: Instant::now(), fresh: true }
    }

    /// The next answer, however long that takes. Cancel safe.
    async fn next<T: DeserializeOwned>(&mut self, state: &Mutex<State>) -> T {
        loop {
            // One change may wake a watcher twice, and a misbehaving agent any number of times.
            sleep_until(self.not_before).await;
            match self.client.wait_past(self.api, &self.path, &[], self.seen).await {
                Ok(answer) => return self.take(answer),
                Err(error) => {
                    // Consul may have restarted with other indexes (consul.io/api-docs/features/blocking).
                    self.seen = 0;
                    self.trouble.is(&error);
                    if self.fresh && is_outage(&error) {
                        self.fresh = false;
                        state.lock().restore();
                    }
                    state.lock().keeper.mind_end();
                    sleep(self.backoff.pause()).await;
                }
            }
        }
    }

    fn take<T>(&mut self, answer: Answer<T>) -> T {
        self.trouble.over();
        self.backoff.reset();
        self.fresh = false;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_answer.set(now.as_secs_f64());
        // An index that went back, or none: ask plainly, or we block on a number that never comes.
        self.seen = answer.index.filter(|index| *index >= self.seen).unwrap_or(0);
        let pause = if answer.index.is_some() { GAP } else { Duration::from_secs(10) };
        self.not_before = Instant::now() + pause;
        answer.value
    }
}

/// A refused token is no outage: who may no longer be this service does not get its old identity back.
fn is_outage(error: &ConsulError) -> bool {
    match error {
        ConsulError::Unreachable { .. } => true,
        ConsulError::Status { status, .. } => *status >= 500 || *status == 429,
        ConsulError::Malformed { .. } | ConsulError::Local(_) => false,
    }
}

/// `GET /v1/agent/connect/ca/roots`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootsAnswer {
    #[serde(default)]
    trust_domain: Option<String>,
    #[serde(default)]
    roots: Option<Vec<RootAnswer>>,
}

/// Intermediates are left out on purpose: they are no anchors.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootAnswer {
    root_cert: String,
}

/// `GET /v1/agent/connect/ca/leaf/NAME`.
#[derive(Deserialize)]
struct LeafAnswer {
    #[serde(rename = "CertPEM")]
    cert: String,
    /// SEC1, as a rule.
    #[serde(rename = "PrivateKeyPEM")]
    key: String,
}

impl RootsAnswer {
    /// All roots, active or not: peers hold leaves of the old one for days.
    fn roots(&self) -> Result<Roots, String> {
        let trust_domain = self.trust_domain.clone().unwrap_or_default().to_ascii_lowercase();
        let anchors: Result<Vec<_>, _> =
            self.roots.iter().flatten().map(|root| CertificateDer::from_pem_slice(root.root_cert.as_bytes())).collect();
        match anchors {
            Ok(anchors) if anchors.is_empty() || trust_domain.is_empty() => {
                Err("Consul has no CA; is connect on?".into())
            }
            Ok(anchors) => Ok(Roots { trust_domain, anchors }),
            Err(error) => Err(format!("a root of Consul's: {error}")),
        }
    }
}

impl LeafAnswer {
    /// The leaf and the intermediates behind it, which are sent along: after a rotation they lead to the old root.
    fn leaf(&self) -> Result<Leaf, String> {
        let fault = |error: rustls::pki_types::pem::Error| format!("Consul's leaf: {error}");
        let chain = CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<_, _>>().map_err(fault)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(fault)?;
        Ok(Leaf { chain, key })
    }
}

/// What is kept for a restart; DER as base64.
#[derive(Serialize, Deserialize)]
struct Saved {
    chain: Vec<String>,
    key: String,
    roots: Vec<String>,
    trust_domain: String,
}

impl Saved {
    fn from(material: &Material) -> Self {
        let encoded = |list: &[CertificateDer<'_>]| list.iter().map(|der| BASE64.encode(der)).collect();
        Self {
            chain: encoded(&material.chain),
            key: BASE64.encode(material.key.secret_der()),
            roots: encoded(&material.roots),
            trust_domain: material.trust_domain.clone(),
        }
    }

    fn material(&self) -> Option<Material> {
        let decoded = |list: &[String]| -> Option<Vec<_>> {
            list.iter().map(|text| BASE64.decode(text).ok().map(CertificateDer::from)).collect()
        };
        Some(Material {
            chain: decoded(&self.chain)?,
            key: PrivateKeyDer::try_from(BASE64.decode(&self.key).ok()?).ok()?,
            roots: decoded(&self.roots)?,
            trust_domain: self.trust_domain.clone(),
        })
    }
}

/// Least time between two answers' questions.
const GAP: Duration = Duration::from_millis(200);

#[cfg(test)]
#[path = "consul_tests.rs"]
mod tests;
