//! Follows one registry for ever: one state machine that owns every retry. Implementations of `Registry` stay simple
//! because each rule of Consul's blocking queries is obeyed here, once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::Gauge;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use super::guard::{Asked, Guard, Verdict, usable};
use super::pace::{Backoff, Pace};
use super::saved::Saved;
use super::state::WatchState;
use super::{Mark, Registry, RegistryError};
use crate::consul::Snapshot;
use crate::service::Listing;
use crate::telemetry::Metrics;

/// How long a start waits for the registry before it serves from the snapshot meanwhile.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// How long a change may wait to be saved: a rolling deployment must not sync the disk at each step.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// A listing to use from now on. The first one comes even when it is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Sorted by id and address, none twice.
    pub listings: Vec<Listing>,
    pub origin: Origin,
}

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The registry itself, in this life of the process.
    Live,
    /// The registry, in an earlier life; it has not answered in this one.
    Snapshot,
}

/// Runs until dropped. `sink` is called with the first listing and with each one that differs; it must not block.
///
/// - Errors never reach `sink`: the last good listing stays, for as long as it takes. They are retried with jittered
///   back-off (250 ms to 30 s), from START, and logged when they begin and end.
/// - A lower mark, or 0, leads back to START (Consul: an index above the server's own blocks for the whole wait).
/// - Calls that come back early with nothing new are slowed down (`pace`); a change is passed on at once.
/// - An answer without anything usable, after one with, is confirmed before it is believed; after a reconnect answers
///   only add for a while (`guard`).
/// - `state` has the error that is in the way of news, while there is one.
/// - With a snapshot, each believed listing is saved, and the saved one is handed out when the registry fails at start.
pub async fn follow(
    registry: Arc<dyn Registry>,
    metrics: Arc<Metrics>,
    snapshot: Option<Snapshot>,
    state: Arc<WatchState>,
    sink: impl FnMut(Update) + Send,
) {
    Follower::new(registry, &metrics, snapshot, state, sink).run().await;
}

struct Follower<S> {
    registry: Arc<dyn Registry>,
    watch: String,
    last_answer: Gauge,
    saved: Option<Saved>,
    state: Arc<WatchState>,
    sink: S,
    seen: Mark,
    guard: Guard,
    pace: Pace,
    backoff: Backoff,
    /// What the sink has; `None` before its first call.
    origin: Option<Origin>,
    /// Whether the sink has anything to send to.
    usable: Option<bool>,
    failing_since: Option<Instant>,
    /// What fails is what we ask for: said once, even where other failures came before it.
    refused: bool,
    holding: bool,
    /// When to stop waiting for a first answer; `None` once there was one, or the snapshot was tried.
    snapshot_at: Option<Instant>,
    /// When what is believed goes to the snapshot; `None` while it is there.
    save_at: Option<Instant>,
}

impl<S: FnMut(Update) + Send> Follower<S> {
    fn new(
        registry: Arc<dyn Registry>,
        metrics: &Metrics,
        snapshot: Option<Snapshot>,
        state: Arc<WatchState>,
        sink: S,
    ) -> Self {
        let watch = registry.describe();
        let saved = snapshot.map(|folder| Saved::new(folder, &watch));
        Self {
            last_answer: metrics.consul_last_answer(&watch),
            snapshot_at: saved.is_some().then(|| Instant::now() + FIRST_ANSWER),
            saved,
            registry,
            watch,
            state,
            sink,
            seen: Mark::START,
            guard: Guard::default(),
            pace: Pace::new(Instant::now()),
            backoff: Backoff::default(),
            origin: None,
            usable: None,
            failing_since: None,
            refused: false,
            holding: false,
            save_at: None,
        }
    }

    async fn run(mut self) {
        loop {
            let recheck = self.guard.recheck_at();
            let due = recheck.is_some_and(|at| at <= Instant::now());
            if due {
                self.seen = Mark::START;
            } else {
                // A recheck is rare by itself (one per hold) and must be in time.
                sleep(self.pace.take(Instant::now())).await;
            }
            self.save_when_due();
            let alarm = recheck.filter(|_| !due).into_iter().chain(self.snapshot_at).chain(self.save_at).min();
            let asked = Asked { at: Instant::now(), fresh: self.seen == Mark::START };
            let registry = self.registry.clone();
            let call = registry.next(self.seen);
            let outcome = match alarm {
                // Cancel safe by the trait's promise.
                Some(at) => timeout_at(at, call).await.ok(),
                None => Some(call.await),
            };
            match outcome {
                Some(Ok((mark, listings))) => self.answered(mark, listings, asked),
                Some(Err(error)) => {
                    self.failed(&error);
                    sleep(self.backoff.next(fastrand::f64())).await;
                }
                // The alarm. A recheck or a save is due at the loop's begin.
                None if self.snapshot_at.is_some_and(|at| at <= Instant::now()) => self.hand_out_snapshot(),
                None => {}
            }
        }
    }

    fn answered(&mut self, mark: Mark, listings: Vec<Listing>, asked: Asked) {
        let now = Instant::now();
        let began_anew = mark != Mark::START && mark < self.seen;
        if let Some(since) = self.failing_since.take() {
            info!(watch = %self.watch, outage = ?(now - since), "registry answers again");
            self.guard.reconnected(now);
        } else if began_anew || self.origin == Some(Origin::Snapshot) {
            debug!(watch = %self.watch, seen = %self.seen, %mark, "registry began anew");
            self.guard.reconnected(now);
        }
        self.snapshot_at = None;
        self.state.answered();
        self.refused = false;
        self.backoff.reset();
        self.seen = if began_anew { Mark::START } else { mark };
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_answer.set(since_1970.as_secs_f64());

        let verdict = self.guard.judge(listings, asked, now);
        self.pace.answered(verdict == Verdict::Changed, now - asked.at);
        self.tell_hold(verdict == Verdict::Held);
        if verdict == Verdict::Changed || self.origin != Some(Origin::Live) {
            self.hand_out(Origin::Live);
        }
    }

    fn failed(&mut self, error: &RegistryError) {
        self.seen = Mark::START;
        self.guard.failed();
        self.state.failed(error.to_string());
        let refused = matches!(error, RegistryError::Filter { .. });
        let news = refused && !std::mem::replace(&mut self.refused, refused);
        if self.failing_since.is_some() && !news {
            debug!(watch = %self.watch, %error, "registry still fails");
            return;
        }
        self.failing_since = self.failing_since.or(Some(Instant::now()));
        self.hand_out_snapshot();
        let kept = self.guard.believed().map_or(0, <[Listing]>::len);
        warn!(watch = %self.watch, %error, kept, "registry fails; the last good endpoints stay");
    }

    /// What an earlier life believed, at most once and only before the first answer.
    fn hand_out_snapshot(&mut self) {
        if self.snapshot_at.take().is_none() {
            return;
        }
        let Some(listings) = self.saved.as_ref().and_then(Saved::load) else { return };
        info!(watch = %self.watch, endpoints = listings.len(), "endpoints from the snapshot");
        self.guard.restore(listings);
        self.hand_out(Origin::Snapshot);
    }

    fn hand_out(&mut self, origin: Origin) {
        let Some(listings) = self.guard.believed() else { return };
        let usable_now = usable(listings);
        if self.usable.replace(usable_now).is_some_and(|before| before != usable_now) {
            info!(watch = %self.watch, usable = usable_now, endpoints = listings.len(), "endpoints changed");
        } else {
            debug!(watch = %self.watch, usable = usable_now, endpoints = listings.len(), "endpoints changed");
        }
        (self.sink)(Update { listings: listings.to_vec(), origin });
        if origin == Origin::Live && self.saved.is_some() {
            let now = Instant::now();
            // The first one at once: a start that is cut short shall leave it to the next.
            let patience = if self.origin == Some(Origin::Live) { SAVE_AFTER } else { Duration::ZERO };
            self.save_at = Some(self.save_at.unwrap_or(now + patience));
        }
        self.origin = Some(origin);
    }

    /// Blocks on the disk, so never before the sink has the listing.
    fn save_when_due(&mut self) {
        if self.save_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.save_at = None;
        if let (Some(saved), Some(listings)) = (&mut self.saved, self.guard.believed()) {
            saved.save(listings);
        }
    }

    fn tell_hold(&mut self, held: bool) {
        if held && !self.holding {
            info!(watch = %self.watch, "answer lacks endpoints that were there; kept until confirmed");
        }
        self.holding = held;
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
