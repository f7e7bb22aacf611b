//! When a slow try gets a second one beside it, and the latencies that this goes by.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// After how long a second try goes out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HedgeAfter {
    Fixed(Duration),
    /// This share of the answers came sooner, 0.0 to 1.0 (0.95 is p95).
    Quantile(f64),
}

/// Hedging of one upstream. It outlives reloads that do not change it.
pub struct Hedge {
    after: HedgeAfter,
    latencies: Latencies,
}

impl Hedge {
    pub fn new(after: HedgeAfter) -> Self {
        Self { after, latencies: Latencies::default() }
    }

    pub fn is(&self, after: HedgeAfter) -> bool {
        self.after == after
    }

    /// How long to wait for the first try; `None` while too few answers were seen to know.
    pub fn after(&self) -> Option<Duration> {
        match self.after {
            HedgeAfter::Fixed(after) => Some(after),
            HedgeAfter::Quantile(_) => match self.latencies.quantile.load(Ordering::Relaxed) {
                0 => None,
                micros => Some(Duration::from_micros(micros).max(SHORTEST)),
            },
        }
    }

    /// Takes in how long an answer's head took.
    pub fn observe(&self, latency: Duration) {
        if let HedgeAfter::Quantile(quantile) = self.after {
            self.latencies.observe(latency, quantile);
        }
    }
}

/// Below this a hedge costs more than it saves.
const SHORTEST: Duration = Duration::from_millis(1);

/// A histogram of latencies in buckets that grow by an eighth of their power of two, so that a quantile is known within
/// 12.5 %. Older answers fade: all counts are halved once there are `MOST`.
struct Latencies {
    counts: Box<[AtomicU32]>,
    total: AtomicU32,
    /// Microseconds; 0 while unknown. Computed anew every `EVERY` answers, so that reading it costs one load.
    quantile: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        let counts = (0..BUCKETS).map(|_| AtomicU32::new(0)).collect();
        Self { counts, total: AtomicU32::new(0), quantile: AtomicU64::new(0) }
    }
}

impl Latencies {
    fn observe(&self, latency: Duration, quantile: f64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)].fetch_add(1, Ordering::Relaxed);
        // Each value is seen by one thread alone, so one thread halves and one computes.
        let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        if total == MOST {
            self.halve();
        }
        if total.is_multiple_of(EVERY) {
            self.quantile.store(self.value_at(quantile), Ordering::Relaxed);
        }
    }

    fn halve(&self) {
        let mut left = 0;
        for count in &self.counts {
            let half = count.load(Ordering::Relaxed) / 2;
            count.fetch_sub(half, Ordering::Relaxed);
            left += half;
        }
        self.total.fetch_sub(MOST - left.min(MOST), Ordering::Relaxed);
    }

    fn value_at(&self, quantile: f64) -> u64 {
        let counts: Vec<u32> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let wanted = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (at, count) in counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return upper(at);
            }
        }
        upper(BUCKETS - 1)
    }
}

/// Eight buckets a power of two, from 0 to about nineteen hours.
fn bucket(micros: u64) -> usize {
    if micros < 8 {
        return micros as usize;
    }
    let power = micros.ilog2();
    let eighth = (micros >> (power - 3)) & 7;
    ((power as usize - 2) * 8 + eighth as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    let (power, eighth) = (bucket / 8 + 2, (bucket % 8) as u64);
    ((9 + eighth) << (power - 3)) - 1
}

const BUCKETS: usize = 8 * 35;
const MOST: u32 = 4096;
/// Also how many answers are seen before the first quantile.
const EVERY: u32 = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quantile_is_known_after_enough_answers_and_follows_them() {
        let hedge = Hedge::new(HedgeAfter::Quantile(0.95));
        for at in 0..63 {
            assert_eq!(hedge.after(), None, "{at}");
            hedge.observe(Duration::from_millis(10));
        }
        hedge.observe(Duration::from_millis(10));
        let first = hedge.after().unwrap();
        assert!((Duration::from_millis(10)..Duration::from_micros(11_300)).contains(&first), "{first:?}");
        for at in 0..20_000 {
            hedge.observe(Duration::from_millis(if at % 10 == 0 { 200 } else { 20 }));
        }
        let later = hedge.after().unwrap();
        assert!((Duration::from_millis(200)..Duration::from_millis(226)).contains(&later), "{later:?}");
    }

    #[test]
    fn what_is_fixed_needs_no_answers() {
        let hedge = Hedge::new(HedgeAfter::Fixed(Duration::from_millis(30)));
        assert_eq!(hedge.after(), Some(Duration::from_millis(30)));
    }

    #[test]
    fn a_quick_service_is_not_hedged_at_once() {
        let hedge = Hedge::new(HedgeAfter::Quantile(0.5));
        (0..64).for_each(|_| hedge.observe(Duration::from_micros(50)));
        assert_eq!(hedge.after(), Some(SHORTEST));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_values_within_an_eighth(micros in 0u64..60_000_000_000) {
            let upper = upper(bucket(micros));
            prop_assert!(upper >= micros && upper as f64 <= micros as f64 * 1.125 + 1.0, "{micros} in {upper}");
        }
    }
}
