//! How busy and how slow an endpoint is: requests in flight, and a peak-sensitive moving average of its latency. Two
//! atomics, no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Load of one endpoint. It outlives changes of the endpoint set.
pub struct Load {
    epoch: Instant,
    in_flight: AtomicU32,
    /// Average in microseconds (upper half) as of a moment in milliseconds since `epoch` (lower half).
    average: AtomicU64,
}

impl Load {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, in_flight: AtomicU32::new(0), average: AtomicU64::new(0) }
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a latency into the average: a higher one replaces it at once (peak), a lower one pulls it down with the time
    /// that passed since the last one (time constant `DECAY`).
    pub(super) fn observe(&self, latency: Duration, now: Instant) {
        let seen = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        let at = self.millis(now);
        let mut old = self.average.load(Ordering::Relaxed);
        loop {
            let (average, since) = unpack(old);
            let next = if seen >= average {
                seen
            } else {
                let keep = fade(at.saturating_sub(since), DECAY);
                // At least an eighth of the way, so that a burst of quick answers is believed before time passes.
                let keep = keep.min(0.875);
                to_micros(f64::from(average) * keep + f64::from(seen) * (1.0 - keep))
            };
            match self.average.compare_exchange_weak(old, pack(next, at), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => old = current,
            }
        }
    }

    /// The average, faded by the time without an answer: an endpoint that was slow is tried again after a while.
    pub fn latency(&self, now: Instant) -> Duration {
        let (average, since) = unpack(self.average.load(Ordering::Relaxed));
        let faded = f64::from(average) * fade(self.millis(now).saturating_sub(since), UNSEEN);
        Duration::from_micros(u64::from(to_micros(faded)))
    }

    /// Whether one more request costs less here than at `other`: latency times the queue it joins. Latencies within a
    /// factor of two of each other, or both small, count as equal, so that noise does not decide. A `share` is an
    /// endpoint's weight over the mean weight.
    pub(super) fn is_better(&self, share: f64, other: &Self, other_share: f64, now: Instant) -> bool {
        let latency = |load: &Self| load.latency(now).as_secs_f64().max(SMALL.as_secs_f64());
        let queue = |load: &Self, share: f64| f64::from(load.in_flight()) / share;
        let (ours, theirs) = (latency(self), latency(other));
        let (our_queue, their_queue) = (queue(self, share), queue(other, other_share));
        if ours < theirs * 2.0 && theirs < ours * 2.0 {
            return our_queue < their_queue;
        }
        ours * (1.0 + our_queue) < theirs * (1.0 + their_queue)
    }

    fn millis(&self, now: Instant) -> u32 {
        // Wraps after 49 days; then one average is off once, which the next answer mends.
        now.saturating_duration_since(self.epoch).as_millis() as u32
    }
}

/// Share of an old average that is left after `millis` without an answer.
fn fade(millis: u32, time_constant: Duration) -> f64 {
    (-f64::from(millis) / (time_constant.as_millis() as f64)).exp()
}

fn to_micros(value: f64) -> u32 {
    // A float cast saturates, which is what is wanted here.
    value as u32
}

fn pack(micros: u32, at: u32) -> u64 {
    u64::from(micros) << 32 | u64::from(at)
}

fn unpack(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}

/// Time constant of the average (Linkerd's default for its peak EWMA).
const DECAY: Duration = Duration::from_secs(10);
/// Time constant of forgetting while an endpoint is passed over: one slow answer must not keep it out of use for half a
/// minute where there is little traffic.
const UNSEEN: Duration = Duration::from_secs(2);
/// Latencies below this are all the same to a caller.
const SMALL: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades_with_time() {
        let start = Instant::now();
        let load = Load::new(start);
        load.observe(Duration::from_millis(2), start);
        load.observe(Duration::from_millis(100), start);
        assert_eq!(load.latency(start), Duration::from_millis(100));
        let later = load.latency(start + Duration::from_secs(2));
        assert!((30..45).contains(&later.as_millis()), "one time constant leaves about a third: {later:?}");
        assert!(load.latency(start + Duration::from_secs(30)) < Duration::from_micros(10));
    }

    #[test]
    fn quick_answers_are_believed_before_time_passes() {
        let start = Instant::now();
        let load = Load::new(start);
        load.observe(Duration::from_millis(80), start);
        for _ in 0..64 {
            load.observe(Duration::from_millis(1), start);
        }
        assert!(load.latency(start) < Duration::from_millis(2));
    }

    #[test]
    fn noise_does_not_decide_but_queues_and_real_slowness_do() {
        let start = Instant::now();
        let of = |micros| {
            let load = Load::new(start);
            load.observe(Duration::from_micros(micros), start);
            load
        };
        let better = |a: &Load, b: &Load| a.is_better(1.0, b, 1.0, start);
        for (quick, slow) in [(of(90), of(1_900)), (of(30_000), of(50_000))] {
            assert!(!better(&quick, &slow) && !better(&slow, &quick));
            slow.begin();
            assert!(better(&quick, &slow) && !better(&slow, &quick));
        }
        let (quick, slow) = (of(1_000), of(100_000));
        quick.begin();
        assert!(better(&quick, &slow), "a queue of one is shorter than a hundred times the latency");
        assert!(!quick.is_better(0.1, &of(1_000), 1.0, start), "a small share fills sooner");
    }
}
