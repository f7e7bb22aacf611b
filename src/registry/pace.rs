//! How often a watch may ask: a token bucket against hot loops, and the back-off after errors. Time and chance come in
//! as arguments.

use std::time::Duration;

use tokio::time::Instant;

/// Calls that may follow each other at once.
const BURST: f64 = 2.0;
/// Between calls while answers really change: a rolling deployment reaches us in steps of this.
const LEAST: Duration = Duration::from_millis(50);
/// Between calls that keep coming back early with nothing new.
const MOST: Duration = Duration::from_secs(15);
/// A call that was held this long was a blocking one, whatever it brought.
const HELD: Duration = Duration::from_secs(1);

/// A token bucket of two whose refill slows down while answers come early and unchanged: an agent that never blocks
/// (consul#1244), an index that moves for others (consul#3890).
///
/// It delays calls, never answers, and a call that was held for a while has refilled it: the first change after a quiet
/// time, and the call after it, never wait here.
#[derive(Debug)]
pub(super) struct Pace {
    tokens: f64,
    /// In the future while a wait that `take` handed out lasts: it pays for its call.
    refilled: Instant,
    interval: Duration,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: BURST, refilled: now, interval: LEAST }
    }

    /// Takes the token of one call and says how long to wait before making it.
    pub(super) fn take(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.refilled).as_secs_f64() / self.interval.as_secs_f64();
        let tokens = (self.tokens + earned).min(BURST) - 1.0;
        let wait = self.interval.mul_f64((-tokens).max(0.0));
        self.tokens = tokens.max(0.0);
        self.refilled = now + wait;
        wait
    }

    /// A call brought an answer after `held`.
    pub(super) fn answered(&mut self, changed: bool, held: Duration) {
        self.interval = if changed || held >= HELD { LEAST } else { (self.interval * 2).min(MOST) };
    }
}

/// Exponential back-off, 250 ms doubling to 30 s; each wait is between a half of that and all of it.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const BASE: Duration = Duration::from_millis(250);
    const MAX: Duration = Duration::from_secs(30);

    /// `chance` is in [0, 1).
    pub(super) fn next(&mut self, chance: f64) -> Duration {
        let full = Self::BASE.saturating_mul(1 << self.failures.min(16)).min(Self::MAX);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + chance / 2.0)
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn two_calls_go_at_once_and_the_third_waits() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.take(now), Duration::ZERO);
        assert_eq!(pace.take(now), Duration::ZERO);
        assert_eq!(pace.take(now), LEAST);
    }

    #[test]
    fn early_answers_without_change_slow_the_calls_down_to_fifteen_seconds() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut waits = Vec::new();
        for _ in 0..14 {
            let wait = pace.take(now);
            now += wait;
            pace.answered(false, MS(1));
            waits.push(wait);
        }
        assert!(waits[2..].windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert_eq!(waits.last(), Some(&MOST));
    }

    #[test]
    fn a_change_after_a_long_poll_is_followed_by_a_call_at_once() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..10 {
            assert_eq!(pace.take(now), Duration::ZERO);
            now += Duration::from_secs(55);
            pace.answered(false, Duration::from_secs(55));
        }
        assert_eq!(pace.take(now), Duration::ZERO);
        now += MS(10);
        pace.answered(true, MS(10));
        assert_eq!(pace.take(now), Duration::ZERO);
    }

    #[test]
    fn a_stream_of_changes_is_read_every_fifty_milliseconds() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let start = now;
        for _ in 0..22 {
            now += pace.take(now);
            pace.answered(true, Duration::ZERO);
        }
        assert_eq!((now - start).as_millis(), 20 * LEAST.as_millis());
    }

    #[test]
    fn a_change_that_wakes_two_queries_in_turn_is_read_within_a_tenth_of_a_second() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for changed in [true, false, true, false, true, false] {
            let wait = pace.take(now);
            assert!(wait <= LEAST * 2, "{wait:?}");
            now += wait;
            pace.answered(changed, Duration::ZERO);
        }
    }

    #[test]
    fn wake_ups_slower_than_the_pace_do_not_slow_it_down() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..50 {
            assert_eq!(pace.take(now), Duration::ZERO);
            now += Duration::from_secs(1);
            pace.answered(false, Duration::from_secs(1));
        }
    }

    #[test]
    fn errors_back_off_to_thirty_seconds_and_begin_anew_after_an_answer() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.next(0.999_999)).collect();
        assert!(waits[0] > MS(249) && waits[0] <= MS(250), "{waits:?}");
        assert!(waits[1] > MS(499) && waits[1] <= MS(500), "{waits:?}");
        assert!(waits[9] > MS(29_990) && waits[9] <= MS(30_000), "{waits:?}");
        assert_eq!(backoff.next(0.0), Duration::from_secs(15));
        backoff.reset();
        assert_eq!(backoff.next(0.0), MS(125));
    }
}
