//! A limit on requests under way that follows latency (after Netflix's gradient2 and Envoy's adaptive concurrency): it
//! grows while answers take as long as they do without a queue, and shrinks when they take half as long again.
//!
//! What is measured is the mean latency of a window of at least ten answers and a tenth of a second, each answer counting
//! for four times the usual at most, so that one outlier moves the mean by less than the tolerance. The usual latency is
//! learned while few requests are under way. Under load it is followed down at once and up only slowly, and when it has
//! risen so the limit is halved until the queue has run off, and for one window more, to see what latency is without our own queue (Envoy measures its minRTT
//! so, but at a fixed pace; here a service that is steady never pays for it).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// The limit and what it follows. Counting is lock-free; one answer in a window makes the step.
pub(super) struct Gradient {
    sum: AtomicU64,
    count: AtomicU32,
    /// The most requests under way in this window.
    peak: AtomicU32,
    /// Microseconds beyond which an answer counts no more.
    ceiling: AtomicU64,
    /// Milliseconds at which the window may end.
    ends: AtomicU64,
    limit: AtomicU32,
    learned: Mutex<Learned>,
}

/// What one window tells.
#[derive(Clone, Copy)]
struct Seen {
    /// Mean latency in microseconds.
    latency: f64,
    peak: u32,
    /// Requests under way at its end.
    held: u32,
    /// When it ended, in milliseconds.
    at: u64,
}

struct Learned {
    limit: f64,
    /// Usual latency in microseconds; 0 before the first window.
    usual: f64,
    /// What it was when it was last measured without a queue of our own; 0 before.
    measured: f64,
    /// The last measurement found a queue: half the limit may still be one.
    doubtful: bool,
    phase: Phase,
    /// The next measurement may begin then.
    measure_from: u64,
    last: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Following,
    /// The limit is halved, from `from` with a latency of `before`: what is queued runs off, for some windows.
    Draining {
        from: f64,
        before: f64,
        windows: u32,
    },
    Measuring {
        from: f64,
        before: f64,
    },
}

impl Gradient {
    pub(super) fn new() -> Self {
        let learned = Learned {
            limit: FIRST,
            usual: 0.0,
            measured: 0.0,
            doubtful: false,
            phase: Phase::Following,
            measure_from: MEASURE_PAUSE,
            last: 0,
        };
        Self {
            sum: AtomicU64::new(0),
            count: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            ceiling: AtomicU64::new(u64::from(u32::MAX)),
            ends: AtomicU64::new(0),
            limit: AtomicU32::new(FIRST as u32),
            learned: Mutex::new(learned),
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes an answer into account, with `held` requests under way at `at` milliseconds. The new limit, where it ended
    /// a window.
    pub(super) fn observe(&self, latency: Duration, held: u32, at: u64) -> Option<u32> {
        let micros = (latency.as_micros() as u64).min(self.ceiling.load(Ordering::Relaxed));
        self.sum.fetch_add(micros, Ordering::Relaxed);
        if self.peak.load(Ordering::Relaxed) < held {
            self.peak.fetch_max(held, Ordering::Relaxed);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count < LEAST_ANSWERS || at < self.ends.load(Ordering::Relaxed) {
            return None;
        }
        let mut learned = self.learned.try_lock()?;
        // Another may have ended the window while this one came here.
        if at < self.ends.load(Ordering::Relaxed) {
            return None;
        }
        let count = self.count.swap(0, Ordering::Relaxed).max(1);
        let latency = self.sum.swap(0, Ordering::Relaxed) as f64 / f64::from(count);
        let peak = self.peak.swap(0, Ordering::Relaxed);
        learned.step(Seen { latency, peak, held, at });
        let window = (latency / 500.0) as u64;
        self.ends.store(at + window.clamp(SHORTEST_WINDOW, LONGEST_WINDOW), Ordering::Relaxed);
        self.ceiling.store((learned.usual * CLAMP).max(1000.0) as u64, Ordering::Relaxed);
        let limit = learned.limit.round() as u32;
        self.limit.store(limit, Ordering::Relaxed);
        Some(limit)
    }
}

impl Learned {
    fn step(&mut self, seen: Seen) {
        let passed = seen.at.saturating_sub(self.last) as f64;
        self.last = seen.at;
        match self.phase {
            Phase::Draining { from, before, windows } => {
                let run_off = f64::from(seen.held) <= self.limit.ceil() || windows == 0;
                self.phase = if run_off {
                    Phase::Measuring { from, before }
                } else {
                    Phase::Draining { from, before, windows: windows - 1 }
                };
            }
            Phase::Measuring { from, before } => {
                // Half the requests at the same latency: there was no queue. At half of it: there was nothing else.
                let ratio = (seen.latency / before).clamp(0.5, 1.0);
                self.limit = from * ratio;
                self.doubtful = ratio < 0.75;
                self.measure_from = seen.at + MEASURE_PAUSE;
                (self.usual, self.measured) = (seen.latency, seen.latency);
                self.phase = Phase::Following;
            }
            Phase::Following => self.follow(seen, passed),
        }
        self.limit = self.limit.clamp(LEAST, MOST);
    }

    fn follow(&mut self, seen: Seen, passed: f64) {
        // Fewer than half of the limit do not feel it: their latency is the service's own, and no reason to change it.
        let is_loaded = f64::from(seen.peak) * 2.0 >= self.limit;
        let pull = if self.usual == 0.0 {
            1.0
        } else if seen.latency < self.usual {
            0.3
        } else if is_loaded {
            // Of a slow service over more than its windows, lest its own queue become the usual.
            1.0 - (-passed / DRIFT.max(self.usual / 50.0)).exp()
        } else {
            0.1
        };
        self.usual += (seen.latency - self.usual) * pull;
        if !is_loaded {
            self.measured = self.usual;
            return;
        }
        let gradient = (TOLERANCE * self.usual / seen.latency.max(1.0)).clamp(0.5, 1.0);
        let wanted = if gradient < 1.0 { self.limit * gradient } else { self.limit + self.limit.sqrt() };
        self.limit += (wanted - self.limit) * SMOOTHING;
        if seen.at >= self.measure_from && (self.doubtful || self.usual > self.measured * 1.15) {
            self.phase = Phase::Draining { from: self.limit, before: seen.latency.max(1.0), windows: DRAIN_WINDOWS };
            self.limit *= 0.5;
        }
    }
}

/// Requests: to begin with, and the bounds.
const FIRST: f64 = 100.0;
const LEAST: f64 = 4.0;
const MOST: f64 = 1000.0;
/// Answers of a window, and its length in milliseconds: twice the latency within these.
const LEAST_ANSWERS: u32 = 10;
const SHORTEST_WINDOW: u64 = 100;
const LONGEST_WINDOW: u64 = 10_000;
/// An answer counts for so many times the usual latency at most.
const CLAMP: f64 = 4.0;
/// Latency over the usual that is no sign of a queue.
const TOLERANCE: f64 = 1.5;
const SMOOTHING: f64 = 0.2;
/// Time constant in milliseconds with which the usual latency follows a higher one under load.
const DRIFT: f64 = 20_000.0;
/// Milliseconds between measurements.
const MEASURE_PAUSE: u64 = 2000;
/// A queue that has not run off by then is not ours.
const DRAIN_WINDOWS: u32 = 8;
