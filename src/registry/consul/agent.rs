//! Our record at Consul's agent: registered, kept alive by heartbeats, put right when it differs, removed at the end.
//! Knows nothing of traffic; runs on the control thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::record::{CheckUpdate, Held, OWNER};
use crate::consul::{Api, Client, ConsulError, path_segment};
use crate::published::Published;
use crate::registry::dns::resolve;
use crate::registry::probe::AppHealth;
use crate::telemetry::{HeartbeatOutcome, Metrics};

pub use super::record::{Registration, owner};

/// One instance's life at the agent.
pub struct Agent {
    client: Client,
    wanted: Arc<Published<Registration>>,
    health: watch::Receiver<AppHealth>,
    metrics: Arc<Metrics>,
    registered: watch::Sender<bool>,
    phase: watch::Sender<Phase>,
    /// Held while a registration is on its way, so that none can arrive behind the deregistration.
    registering: Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Left,
}

impl Agent {
    /// `wanted` may be replaced at run time; the agent is told at once. `health` is what the heartbeat says.
    #[must_use]
    pub fn new(
        client: Client,
        wanted: Arc<Published<Registration>>,
        health: watch::Receiver<AppHealth>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (registered, phase) = (watch::Sender::new(false), watch::Sender::new(Phase::Serving));
        Self { client, wanted, health, metrics, registered, phase, registering: Mutex::new(()) }
    }

    /// Whether the agent is known to have us. False again while the agent is away or has forgotten us; readiness should
    /// look at the first `true` only, since an instance serves on without Consul.
    #[must_use]
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.subscribe()
    }

    /// Registers and stays registered until dropped, or until `deregister`.
    pub async fn run(&self) {
        tokio::select! {
            () = self.left() => {}
            () = self.stay_registered() => {}
        }
    }

    /// Turns the check critical with the note "draining", now and at every later heartbeat. `run` must be running.
    pub fn begin_drain(&self) {
        self.phase.send_modify(|phase| *phase = (*phase).max(Phase::Draining));
    }

    /// Whether Consul's answer still lists us among the passing ones.
    pub async fn still_listed(&self) -> Result<bool, ConsulError> {
        let wanted = self.wanted.snapshot();
        let path = format!("/v1/health/service/{}", path_segment(wanted.name.as_str()));
        let answer = self.client.get::<Vec<Listed>>(Api::HealthService, &path, &[("passing", "1")]).await?;
        Ok(answer.value.iter().any(|listed| listed.service.id == wanted.id))
    }

    /// Removes our record and ends `run`. Takes 2 s at most.
    ///
    /// # Errors
    /// When Consul could not be told; it then removes us itself after `deregister_after`.
    pub async fn deregister(&self) -> Result<(), ConsulError> {
        self.phase.send_replace(Phase::Left);
        let ended = tokio::time::timeout(LEAVE, async {
            drop(self.registering.lock().await);
            self.remove(&self.wanted.snapshot().id, LEAVE).await
        });
        let ended = ended.await.unwrap_or_else(|_| Err(self.unreachable("the time to leave was up")));
        if ended.is_ok() {
            self.say(false);
        }
        ended
    }

    async fn left(&self) {
        let mut phase = self.phase.subscribe();
        // The sender is ours, so it cannot be gone.
        let _ = phase.wait_for(|phase| *phase == Phase::Left).await;
        drop(self.registering.lock().await);
    }

    /// Register, beat and watch until that fails; then the same again.
    async fn stay_registered(&self) {
        let (mut trouble, mut pause, mut cleaned) = (Trouble::default(), Pause::default(), false);
        loop {
            if let Err(error) = self.enter().await {
                self.say(false);
                trouble.say(&error);
                tokio::time::sleep(pause.next(error.is_denied())).await;
                continue;
            }
            trouble.over();
            self.say(true);
            let entered = Instant::now();
            let lost = tokio::select! {
                lost = self.beat_on() => lost,
                lost = self.watch_record() => lost,
                () = self.clean_up(&mut cleaned) => continue,
            };
            self.say(false);
            trouble.say(&lost);
            // Losing it again and again (several agents behind one address, say) must not become a race.
            if entered.elapsed() < Duration::from_secs(5) {
                tokio::time::sleep(pause.next(false)).await;
            } else {
                pause = Pause::default();
            }
        }
    }

    /// Registers and beats once: only then does the agent have us and know how we are.
    async fn enter(&self) -> Result<(), ConsulError> {
        self.register().await?;
        self.beat(ENTER).await
    }

    async fn register(&self) -> Result<(), ConsulError> {
        let registering = self.registering.lock().await;
        if *self.phase.borrow() == Phase::Left {
            drop(registering);
            return std::future::pending().await;
        }
        let wanted = self.wanted.snapshot();
        // A check that the agent knows keeps its status, whatever the body says; one that it has forgotten starts with
        // what we know of the app, so that no watcher sees us leave and come back.
        let body = wanted.body(self.condition().status);
        // Without the parameter, checks of an earlier life under other ids would stay, and no heartbeat would reach them.
        let query = [("replace-existing-checks", "true")];
        self.client.put(Api::Register, "/v1/agent/service/register", &query, Some(&body), ENTER).await
    }

    /// Beats at a third of the TTL and at each change of the app's health. Returns what makes a new registration due.
    async fn beat_on(&self) -> ConsulError {
        let (mut health, mut phase) = (self.health.clone(), self.phase.subscribe());
        // A change since the beat of `enter` must not wait for the next period.
        phase.mark_changed();
        let mut failures = 0;
        loop {
            let period = self.wanted.peek().ttl / 3;
            tokio::select! {
                () = tokio::time::sleep(failure_pause(failures, period)) => {}
                () = changed(&mut health) => {}
                () = changed(&mut phase) => {}
            }
            match self.beat((period * 3 / 4).min(ENTER)).await {
                Ok(()) => failures = 0,
                // 429 is the agent's rate limit, and no answer may be chance: neither says that we are forgotten.
                Err(error) if error.status() == Some(429) => failures += 1,
                Err(ConsulError::Unreachable { .. }) if failures == 0 => failures += 1,
                // Consul 1.8 says 500 for an unknown check, 1.11 says 404: the text differs too, so any refusal counts.
                Err(error) => return error,
            }
        }
    }

    async fn beat(&self, limit: Duration) -> Result<(), ConsulError> {
        let path = format!("/v1/agent/check/update/{}", path_segment(&self.wanted.peek().check_id()));
        let update = self.condition();
        let outcome = if update.status == PASSING { HeartbeatOutcome::Passing } else { HeartbeatOutcome::Critical };
        let told = self.client.put(Api::CheckUpdate, &path, &[], Some(&update), limit).await;
        self.metrics.heartbeat(if told.is_ok() { outcome } else { HeartbeatOutcome::Failed });
        told
    }

    fn condition(&self) -> CheckUpdate {
        let (status, output) = match (*self.phase.borrow(), &*self.health.borrow()) {
            (Phase::Draining | Phase::Left, _) => (CRITICAL, "draining".into()),
            (Phase::Serving, AppHealth::Well) => (PASSING, "the app is well".into()),
            (Phase::Serving, AppHealth::Unknown) => (CRITICAL, "the app has not answered its probe yet".into()),
            (Phase::Serving, AppHealth::Ill { why }) => (CRITICAL, why.clone()),
        };
        CheckUpdate { status, output }
    }

    /// Follows our record by a blocking query: its end shows at once, long before the next heartbeat, and so does any
    /// difference. Returns what makes a new registration due.
    async fn watch_record(&self) -> ConsulError {
        let mut versions = self.wanted.versions();
        let mut told = self.wanted.snapshot();
        let (mut hash, mut rest) = (String::new(), Duration::ZERO);
        loop {
            let asked = Instant::now();
            let look = async {
                tokio::time::sleep(rest).await;
                self.look(&told.id, &hash).await
            };
            let seen = tokio::select! {
                seen = look => Some(seen),
                () = changed(&mut versions) => None,
            };
            let difference = match seen {
                None => {
                    let before = std::mem::replace(&mut told, self.wanted.snapshot());
                    (before != told).then_some("config")
                }
                // A token that may not read: the heartbeat alone has to notice.
                Some(Err(error)) if error.is_denied() || error.status() == Some(429) => {
                    rest = RECONCILE;
                    continue;
                }
                Some(Err(error)) => return error,
                Some(Ok(held)) => {
                    let difference = told.difference(&held);
                    let early = asked.elapsed() < rest + Duration::from_millis(500);
                    rest = match () {
                        // Whoever keeps changing it back is answered once a second.
                        () if difference.is_some() => Duration::from_secs(1),
                        () if held.content_hash.is_empty() => RECONCILE,
                        // An agent that ends answers early; one that never holds must not be asked in a circle.
                        () if held.content_hash == hash && early => Duration::from_millis(500),
                        () => Duration::ZERO,
                    };
                    hash = held.content_hash;
                    difference
                }
            };
            if let Some(field) = difference {
                tracing::info!(id = %told.id, field, "the agent's record differs; registering again");
                if let Err(error) = self.register().await {
                    return error;
                }
                hash.clear();
            }
        }
    }

    /// Waits for a record other than the one of `hash`; at once where that is empty.
    async fn look(&self, id: &str, hash: &str) -> Result<Held, ConsulError> {
        let path = format!("/v1/agent/service/{}", path_segment(id));
        // With Consul's sixteenth it stays below the time limit of a plain read.
        let hold = [("hash", hash), ("wait", "8s")];
        let query = if hash.is_empty() { &[][..] } else { &hold[..] };
        self.client.get(Api::AgentService, &path, query).await.map(|answer| answer.value)
    }

    /// Removes what an earlier life of ours left on this agent, once; then pends.
    async fn clean_up(&self, done: &mut bool) {
        while !*done {
            match self.remove_stale().await {
                Ok(()) => *done = true,
                Err(error) => {
                    tracing::debug!(%error, "records of an earlier life could not be looked for");
                    tokio::time::sleep(RECONCILE).await;
                }
            }
        }
        std::future::pending::<()>().await;
    }

    async fn remove_stale(&self) -> Result<(), ConsulError> {
        let wanted = self.wanted.snapshot();
        let all =
            self.client.get::<Option<BTreeMap<String, Held>>>(Api::AgentServices, "/v1/agent/services", &[]).await?;
        for held in all.value.unwrap_or_default().into_values() {
            if held.id == wanted.id || held.meta.get(OWNER) != Some(&wanted.owner) {
                continue;
            }
            // Two sidecars of one host may front the same app: a record is stale only when nobody listens there. Our own
            // port is ours: another id there is an earlier name of ours.
            let ours = held.address == wanted.address && held.port == i64::from(wanted.port);
            if ours || !is_alive(&held).await {
                tracing::info!(id = %held.id, "removing the record of an earlier life");
                self.remove(&held.id, ENTER).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, id: &str, limit: Duration) -> Result<(), ConsulError> {
        let path = format!("/v1/agent/service/deregister/{}", path_segment(id));
        match self.client.put(Api::Deregister, &path, &[], None::<&()>, limit).await {
            // Newer versions, and 1.8 with ACLs on, refuse to remove what is not there.
            Err(ConsulError::Status { status: 404, .. }) => Ok(()),
            Err(ConsulError::Status { status: 500, text, .. }) if text.contains("Unknown service") => Ok(()),
            ended => ended,
        }
    }

    fn say(&self, registered: bool) {
        self.metrics.registered(registered);
        self.registered.send_if_modified(|known| std::mem::replace(known, registered) != registered);
    }

    fn unreachable(&self, cause: &str) -> ConsulError {
        ConsulError::Unreachable { address: self.client.settings().address.clone(), cause: cause.into() }
    }
}

/// Whether something accepts connections where the record points. A name that cannot be looked up is believed to be
/// alive: a removal needs certainty.
async fn is_alive(held: &Held) -> bool {
    let Ok(port) = u16::try_from(held.port) else { return true };
    let Ok(addresses) = resolve(&held.address, port).await else { return true };
    for address in addresses {
        if let Ok(Ok(_)) = tokio::time::timeout(KNOCK, TcpStream::connect(address)).await {
            return true;
        }
    }
    false
}

/// Resolves at the next change; never when nobody is left to make one.
async fn changed<T>(seen: &mut watch::Receiver<T>) {
    if seen.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A failed beat is repeated soon, and more slowly when that fails too.
fn failure_pause(failures: u32, period: Duration) -> Duration {
    match failures {
        0 => period,
        1 => period.min(Duration::from_millis(50)),
        _ => period.min(Duration::from_millis(500)),
    }
}

/// Between tries to register: short enough that we are back within a second of the agent.
#[derive(Debug, Default)]
struct Pause {
    tries: u32,
}

impl Pause {
    fn next(&mut self, denied: bool) -> Duration {
        self.tries += 1;
        // A token that is refused is mended by a person; an agent that is away comes back without notice.
        let most = if denied { 5_000 } else { 750 };
        let ceiling = (100 << self.tries.min(6)).min(most);
        Duration::from_millis(fastrand::u64(ceiling / 2..=ceiling))
    }
}

/// Says a failure once for each cause, and once that it is over.
#[derive(Debug, Default)]
struct Trouble {
    said: Option<String>,
}

impl Trouble {
    fn say(&mut self, error: &ConsulError) {
        let text = error.to_string();
        if self.said.as_ref() != Some(&text) {
            tracing::warn!(error = %text, "not registered in Consul; trying on");
            self.said = Some(text);
        }
    }

    fn over(&mut self) {
        self.said = None;
        tracing::info!("registered in Consul");
    }
}

/// As much of a health answer as it takes to find ourselves.
#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(rename = "Service")]
    service: ListedService,
}

#[derive(Debug, Deserialize)]
struct ListedService {
    #[serde(rename = "ID")]
    id: String,
}

/// Of one look whether somebody listens.
const KNOCK: Duration = Duration::from_millis(500);
const PASSING: &str = "passing";
const CRITICAL: &str = "critical";
/// Of one call while nothing else can go on.
const ENTER: Duration = Duration::from_secs(2);
const LEAVE: Duration = Duration::from_secs(2);
/// How often the record is compared where the agent cannot tell of changes.
const RECONCILE: Duration = Duration::from_secs(30);

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
