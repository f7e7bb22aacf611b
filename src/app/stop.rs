//! The end of a sidecar, as contract §6 has it: leave the mesh, finish what is under way, the app, outbound, deregister.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::child::Child;
use super::{Sidecar, ready};
use crate::lifecycle::Lifecycle;

/// Why a sidecar ends.
pub(super) enum Why {
    Signal(i32),
    Quit,
    ChildEnded(ExitStatus),
}

/// The signals that mean something to us.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

pub(super) enum Signal {
    Stop(i32),
    Reload,
}

impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop(SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => Signal::Stop(SignalKind::interrupt().as_raw_value()),
            _ = self.hangup.recv() => Signal::Reload,
        }
    }

    /// Resolves at the next signal to stop.
    async fn stop(&mut self) -> i32 {
        loop {
            if let Signal::Stop(number) = self.next().await {
                return number;
            }
        }
    }
}

/// How grace is spent; logged when the stop begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// For Consul to list us no more.
    unlisted: Duration,
    /// For the exchanges under way inbound, from the same start.
    exchanges: Duration,
    /// For the app, where it is our child, and for its own calls.
    app: Duration,
    grace: Duration,
}

impl Plan {
    fn of(grace: Duration) -> Self {
        Self { unlisted: grace / 3, exchanges: grace * 7 / 10, app: grace * 9 / 10, grace }
    }
}

impl Sidecar {
    /// Not ready, critical in Consul, and no longer listed there; then inbound accepts no more. Ends early at a second
    /// signal, which it returns.
    pub(super) async fn leave_mesh(&mut self, signals: &mut Signals) -> Option<i32> {
        let plan = Plan::of(self.config.grace);
        tracing::info!(?plan, "draining");
        ready::notify(&[sd_notify::NotifyState::Stopping]);
        self.status.drain();
        self.agent.begin_drain();
        let hurried = tokio::select! {
            () = self.unlisted(plan.unlisted) => None,
            number = signals.stop() => Some(number),
        };
        self.data.inbound_life.begin_drain();
        hurried
    }

    /// Waits until Consul's answer has us no more among the passing, at most `limit`.
    async fn unlisted(&self, limit: Duration) {
        if !*self.agent.registered().borrow() {
            // Nobody can be told; who knows us keeps us until we refuse.
            tracing::info!("not registered in Consul: nobody to wait for");
            return;
        }
        let asked = Instant::now();
        let mut failures = 0;
        while asked.elapsed() < limit {
            match self.agent.still_listed().await {
                Ok(false) => {
                    // The same answer is on its way to everyone who watches us.
                    tokio::time::sleep(PROPAGATION.min(limit)).await;
                    tracing::info!(took = ?asked.elapsed(), "Consul lists us no more");
                    return;
                }
                Ok(true) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures == 3 {
                        tracing::warn!(%error, "Consul cannot tell whether it still lists us; going on");
                        return;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tracing::warn!(?limit, "Consul still lists us; going on");
    }

    /// Ends everything and gives the exit code.
    pub(super) async fn stop(mut self, why: Why, mut child: Child, mut signals: Signals, drained: bool) -> u8 {
        let began = Instant::now();
        let plan = Plan::of(self.config.grace);
        let reason = match &why {
            Why::Signal(number) => format!("signal {number}"),
            Why::Quit => "asked to quit".into(),
            Why::ChildEnded(status) => format!("the app ended: {status}"),
        };
        tracing::info!(reason, "stopping");
        let hurried = match (&why, drained) {
            (_, true) => None,
            // Without the app nothing can be answered: there is no use in waiting before saying so.
            (Why::ChildEnded(_), false) => {
                self.status.drain();
                self.agent.begin_drain();
                None
            }
            (_, false) => self.leave_mesh(&mut signals).await,
        };
        let hurried = if let Some(number) = hurried {
            Some(number)
        } else {
            tokio::select! {
                () = self.finish(&plan, began, &mut child) => None,
                number = signals.stop() => Some(number),
            }
        };
        let child_status = if hurried.is_some() { child.kill().await } else { child.stop(Duration::ZERO).await };
        self.leave(hurried).await;
        exit_code(&why, child_status, hurried)
    }

    /// Exchanges, the app, its own calls; each within its part of grace.
    async fn finish(&mut self, plan: &Plan, began: Instant, child: &mut Child) {
        let left = |until: Duration| until.saturating_sub(began.elapsed());
        self.cut("inbound", &self.data.inbound_life, left(plan.exchanges)).await;
        child.stop(left(plan.app)).await;
        self.cut("outbound", &self.data.outbound_life, left(plan.grace)).await;
    }

    /// Drains one direction; what is still under way when `limit` is over is counted and cut.
    async fn cut(&self, direction: &str, life: &Lifecycle, limit: Duration) {
        life.begin_drain();
        if tokio::time::timeout(limit, life.finished()).await.is_err() {
            let in_flight = self.data.in_flight();
            self.metrics.exchanges_cut(u64::try_from(in_flight).unwrap_or(0));
            tracing::warn!(direction, in_flight, running = ?life.running(), "grace is over: what is left is cut");
            // Tunnels close in order; the rest is ended where it stands.
            life.begin_cut();
            let _ = tokio::time::timeout(CLOSING, life.finished()).await;
            life.stop(Duration::ZERO).await;
        }
    }

    async fn leave(self, hurried: Option<i32>) {
        if let Some(number) = hurried {
            tracing::warn!(signal = number, in_flight = self.data.in_flight(), "ended at once by a second signal");
        }
        if let Err(error) = self.agent.deregister().await {
            tracing::warn!(%error, "not deregistered; Consul does it after deregister_after");
        }
        self.data.end().await;
        self.control.stop(Duration::ZERO).await;
        tracing::info!("stopped");
    }
}

/// Contract §1: with a COMMAND the app's own code; 0 after a clean end; 128+n where a second signal cut it.
fn exit_code(why: &Why, child: Option<ExitStatus>, hurried: Option<i32>) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let by_signal = |number: i32| u8::try_from(128 + number).unwrap_or(u8::MAX);
    let own = |status: ExitStatus| match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(1),
        (None, Some(number)) => by_signal(number),
        (None, None) => 1,
    };
    match (why, child, hurried) {
        (Why::ChildEnded(status), _, _) => own(*status),
        (_, _, Some(number)) => by_signal(number),
        // It ended by the SIGTERM that we sent it, which is how it was asked to.
        (_, Some(status), None) if status.signal() == Some(SignalKind::terminate().as_raw_value()) => 0,
        (_, Some(status), None) => own(status),
        (_, None, None) => 0,
    }
}

/// What tunnels get to close in order once grace is over.
const CLOSING: Duration = Duration::from_millis(200);
/// For watchers to act on the answer in which we are missing (Consul wakes them within milliseconds).
const PROPAGATION: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_exit_code_is_the_apps_own_where_there_is_one() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let killed = ExitStatus::from_raw;
        assert_eq!(exit_code(&Why::ChildEnded(exited(7)), None, None), 7);
        assert_eq!(exit_code(&Why::ChildEnded(killed(9)), None, None), 137);
        assert_eq!(exit_code(&Why::Signal(15), Some(killed(15)), None), 0);
        assert_eq!(exit_code(&Why::Signal(15), Some(exited(3)), None), 3);
        assert_eq!(exit_code(&Why::Signal(15), None, None), 0);
        assert_eq!(exit_code(&Why::Quit, None, Some(2)), 130);
    }

    #[test]
    fn the_plan_leaves_time_for_everyone() {
        let plan = Plan::of(Duration::from_secs(30));
        assert!(plan.unlisted < plan.exchanges && plan.exchanges < plan.app && plan.app < plan.grace);
        assert_eq!(plan.unlisted, Duration::from_secs(10));
    }
}
