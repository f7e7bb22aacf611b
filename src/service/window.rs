//! Answers and failures within a sliding window: ten buckets, each one atomic word, no lock.

use super::sync::{AtomicU64, Ordering};

/// Counts of the last nine to ten tenths of a window. Each bucket packs the number of its tenth (24 bits), its answers
/// (20 bits, saturating) and how many of them failed (20 bits), so that a bucket is emptied and counted into in one step.
pub struct Window {
    buckets: [AtomicU64; BUCKETS as usize],
}

impl Window {
    pub fn new() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// `now` in milliseconds, `width` of a window in the same.
    pub fn record(&self, now: u64, width: u64, failed: bool) {
        let tenth = tenth(now, width);
        let bucket = &self.buckets[(tenth % BUCKETS) as usize];
        let mut old = bucket.load(Ordering::Relaxed);
        loop {
            let (stamp, total, bad) = unpack(old);
            let (total, bad) = if stamp == tenth & STAMP { (total, bad) } else { (0, 0) };
            if total == MOST {
                return;
            }
            let next = pack(tenth & STAMP, total + 1, bad + u64::from(failed));
            match bucket.compare_exchange_weak(old, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => old = current,
            }
        }
    }

    /// Answers and, of those, failures within the window that ends now.
    pub fn sums(&self, now: u64, width: u64) -> (u64, u64) {
        let tenth = tenth(now, width);
        let mut sums = (0, 0);
        for age in 0..BUCKETS.min(tenth + 1) {
            let (stamp, total, bad) = unpack(self.buckets[((tenth - age) % BUCKETS) as usize].load(Ordering::Relaxed));
            if stamp == (tenth - age) & STAMP {
                sums = (sums.0 + total, sums.1 + bad);
            }
        }
        sums
    }

    pub fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }
}

fn tenth(now: u64, width: u64) -> u64 {
    now / (width / BUCKETS).max(1)
}

fn pack(stamp: u64, total: u64, bad: u64) -> u64 {
    stamp << 40 | total << 20 | bad
}

fn unpack(word: u64) -> (u64, u64, u64) {
    (word >> 40, (word >> 20) & MOST, word & MOST)
}

const BUCKETS: u64 = 10;
const MOST: u64 = (1 << 20) - 1;
const STAMP: u64 = (1 << 24) - 1;
