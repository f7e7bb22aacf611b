//! Whether an endpoint could be reached lately. A refused connection leaves the endpoint out at once, without waiting for
//! the registry; after a pause one real request tries it again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Reachability of one endpoint. It outlives changes of the endpoint set.
pub struct Reach {
    epoch: Instant,
    failures: AtomicU32,
    /// Milliseconds since `epoch` until which the endpoint is left out; 0 while it is reachable.
    shut_until: AtomicU64,
}

/// What a pick may do with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachable {
    Yes,
    /// The pause is over: the request that claims it is the probe.
    Due,
    No,
}

impl Reach {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, failures: AtomicU32::new(0), shut_until: AtomicU64::new(0) }
    }

    pub fn state(&self, now: Instant) -> Reachable {
        match self.shut_until.load(Ordering::Relaxed) {
            0 => Reachable::Yes,
            until if self.millis(now) >= until => Reachable::Due,
            _ => Reachable::No,
        }
    }

    /// Milliseconds since the epoch until which it is left out; 0 while it is reachable.
    pub(super) fn until(&self) -> u64 {
        self.shut_until.load(Ordering::Relaxed)
    }

    /// Makes the caller the only one to probe; false where another was quicker or the pause is not over.
    pub(super) fn claim(&self, now: Instant) -> bool {
        let until = self.shut_until.load(Ordering::Relaxed);
        until != 0
            && self.millis(now) >= until
            && self
                .shut_until
                .compare_exchange(until, self.millis(now + PROBE_LIMIT), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// A connection failed: shut for a pause that doubles with each failure in a row. The pause, if it was open before.
    pub(super) fn failed(&self, now: Instant) -> Option<Duration> {
        let before = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(before)).min(LONGEST_PAUSE);
        (self.shut_until.swap(self.millis(now + pause).max(1), Ordering::Relaxed) == 0).then_some(pause)
    }

    /// It answered, or the registry says that it is well anew. True if it was shut before.
    pub(super) fn open(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) == 0 && self.shut_until.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.shut_until.swap(0, Ordering::Relaxed) != 0
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// After this a probe that said nothing no longer keeps others from probing.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shuts_and_one_request_probes_after_the_pause() {
        let start = Instant::now();
        let reach = Reach::new(start);
        assert_eq!(reach.state(start), Reachable::Yes);
        assert_eq!(reach.failed(start), Some(FIRST_PAUSE));
        assert_eq!(reach.state(start + Duration::from_millis(499)), Reachable::No);
        let due = start + Duration::from_millis(501);
        assert_eq!(reach.state(due), Reachable::Due);
        assert!(reach.claim(due));
        assert!(!reach.claim(due), "one request probes, not all of them");
        assert_eq!(reach.failed(due), None, "it was shut already");
        assert_eq!(reach.state(due + Duration::from_millis(900)), Reachable::No, "the pause doubles");
        assert!(reach.open());
        assert_eq!(reach.state(due), Reachable::Yes);
    }
}
