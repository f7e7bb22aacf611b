//! Who may call our app, kept current: rules from the file, intentions from Consul, and the connections of those who may
//! not any more.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::watches::Watching;
use crate::access::{Enforced, Gate, Rule};
use crate::config::{Config, InboundMtls, IntentionsMode};
use crate::identity;
use crate::lifecycle::Lifecycle;
use crate::listen::{OpenConnections, Peer};
use crate::names::ServiceName;
use crate::proxy::InboundShared;
use crate::registry::{Origin, follow_intentions};

/// What readiness calls the first answer about intentions.
pub(super) const INTENTIONS: &str = "intentions";

/// Whether Consul is asked who may call.
pub(super) fn enforced(config: &Config) -> bool {
    match config.inbound.intentions {
        IntentionsMode::On => true,
        IntentionsMode::Off => false,
        IntentionsMode::Auto => config.identity == identity::Source::Consul && config.inbound.mtls != InboundMtls::Off,
    }
}

/// The gate of a start: shut, where intentions are enforced, until they are known.
pub(super) fn first(config: &Config) -> Gate {
    let enforced = if enforced(config) { Enforced::Unanswered } else { Enforced::Off };
    Gate::new(FIRST, enforced, config.inbound.authz.clone())
}

/// Publishes a gate whenever one of its parts changes.
pub(super) struct Access {
    board: Arc<Board>,
    watching: Watching,
    service: ServiceName,
    watch: Option<Lifecycle>,
}

struct Board {
    inbound: Arc<InboundShared>,
    parts: Mutex<Parts>,
}

struct Parts {
    generation: u32,
    enforced: Enforced,
    rules: Vec<Rule>,
}

impl Board {
    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock();
        change(&mut parts);
        // Four billion changes on, a connection would have to be as old to take one for another.
        parts.generation = parts.generation.wrapping_add(1).max(FIRST);
        self.inbound.entry.gate.store(Gate::new(parts.generation, parts.enforced.clone(), parts.rules.clone()));
    }
}

impl Access {
    pub(super) fn new(config: &Config, inbound: Arc<InboundShared>, watching: Watching) -> Self {
        let enforced = inbound.entry.gate.peek().enforced().clone();
        let parts = Parts { generation: FIRST, enforced, rules: config.inbound.authz.clone() };
        let board = Arc::new(Board { inbound, parts: Mutex::new(parts) });
        Self { board, watching, service: config.service.name.clone(), watch: None }
    }

    pub(super) fn start(&mut self, config: &Config, open: OpenConnections) {
        if enforced(config) {
            self.watch = Some(self.watch());
            if config.inbound.mtls == InboundMtls::Permissive {
                tracing::warn!(
                    "callers in plain text are let in whatever the intentions say, as inbound.mtls is permissive"
                );
            }
        } else if config.identity == identity::Source::Consul && config.inbound.authz.is_empty() {
            tracing::info!("Consul's intentions are not enforced: inbound.intentions or inbound.mtls is off");
        }
        self.watching.control.spawn("close-denied", close_denied(self.board.inbound.clone(), open));
    }

    /// Takes what a reload changed.
    pub(super) fn reconfigure(&mut self, config: &Config) {
        let wanted = enforced(config);
        if !wanted && let Some(watch) = self.watch.take() {
            watch.kill();
        }
        let begins = wanted && self.watch.is_none();
        self.board.change(|parts| {
            parts.rules.clone_from(&config.inbound.authz);
            if begins {
                parts.enforced = Enforced::Unanswered;
            } else if !wanted {
                parts.enforced = Enforced::Off;
            }
        });
        if begins {
            self.watch = Some(self.watch());
        }
    }

    fn watch(&self) -> Lifecycle {
        let watch = self.watching.control.part();
        let (board, watching, service) = (self.board.clone(), self.watching.clone(), self.service.clone());
        watch.spawn("watch-intentions", async move {
            let (client, snapshot) = (watching.client.clone(), watching.snapshot.clone());
            let sink = |update: crate::registry::IntentionUpdate| {
                board.change(|parts| parts.enforced = Enforced::On(update.intentions));
                if update.origin == Origin::Live {
                    watching.status.arrived(INTENTIONS);
                }
            };
            follow_intentions(client, service, &watching.metrics, snapshot, sink).await;
        });
        watch
    }
}

/// At each change asks the connections to close whose peers may do nothing any more, and soon after ends what they have
/// under way: their requests are denied at once, but a stream or an answer without end would go on.
async fn close_denied(inbound: Arc<InboundShared>, open: OpenConnections) {
    let mut versions = inbound.entry.gate.versions();
    let mut cut_at: Option<Instant> = None;
    loop {
        let due = async {
            match cut_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let gate = || inbound.entry.gate.snapshot();
        let raw = || inbound.view.peek().app.tcp;
        tokio::select! {
            changed = versions.changed() => {
                if changed.is_err() {
                    return;
                }
                let gate = gate();
                if open.close_where(|peer| unwanted(&gate, raw(), peer)) {
                    cut_at.get_or_insert(Instant::now() + if raw() { Duration::ZERO } else { PATIENCE });
                }
            }
            () = due => {
                cut_at = None;
                let gate = gate();
                open.cut_where(|peer| unwanted(&gate, raw(), peer));
            }
        }
    }
}

fn unwanted(gate: &Gate, raw: bool, peer: &Peer) -> bool {
    let caller = peer.tls.as_ref().map(|tls| &tls.id);
    if raw { gate.refuses_raw(caller) } else { gate.shuts_out(caller) }
}

/// What a denied peer's exchanges get to end by themselves: with Consul's own delay well under five seconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Generations count from here: 0 is that of a connection that remembers nothing.
const FIRST: u32 = 1;
