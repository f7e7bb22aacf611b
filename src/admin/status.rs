//! Where the sidecar is in its life, and what it still waits for.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// The sidecar's life, as `/readyz` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// With what is still missing: `identity`, `registration`, `upstream orders`.
    Starting {
        missing: BTreeSet<String>,
    },
    Ready,
    Draining,
}

/// The one truth about readiness.
pub struct Status {
    phase: watch::Sender<Phase>,
}

impl Status {
    pub fn starting(missing: impl IntoIterator<Item = String>) -> Self {
        let missing = missing.into_iter().collect();
        Self { phase: watch::Sender::new(Phase::Starting { missing }) }
    }

    /// One thing less is missing; ready when it was the last.
    pub fn arrived(&self, what: &str) {
        self.phase.send_if_modified(|phase| {
            let Phase::Starting { missing } = phase else { return false };
            let removed = missing.remove(what);
            if missing.is_empty() {
                *phase = Phase::Ready;
            }
            removed
        });
    }

    /// From here on not ready, for good.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_nothing_is_missing_and_draining_is_final() {
        let status = Status::starting(["identity".into(), "registration".into()]);
        status.arrived("identity");
        status.arrived("identity");
        assert_eq!(status.phase(), Phase::Starting { missing: ["registration".into()].into() });
        status.arrived("registration");
        assert_eq!(status.phase(), Phase::Ready);
        status.drain();
        status.arrived("registration");
        assert_eq!(status.phase(), Phase::Draining);
    }
}
