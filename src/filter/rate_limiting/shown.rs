//! What a caller is told of its limits: Kong's headers, those of the windows and those of the tightest one
//! (draft-polli-ratelimit-headers, as Kong writes them).

use http::header::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::Quota;
use super::counters::Taken;
use super::windows::Unit;

/// Left in the stash for the answer.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    windows: SmallVec<[One; 3]>,
    tightest: usize,
}

#[derive(Debug, Clone, Copy)]
struct One {
    unit: Unit,
    limit: u32,
    remaining: u32,
    /// Seconds until the window ends, at least 1.
    reset: u64,
}

impl Shown {
    /// `now` is in seconds since 1970.
    pub(super) fn new(taken: &Taken, quotas: &[Quota], now: u64) -> Self {
        let one = |(quota, used): (&Quota, &u32)| One {
            unit: quota.unit,
            limit: quota.limit,
            remaining: quota.limit.saturating_sub(*used),
            reset: quota.window.end.saturating_sub(now).max(1),
        };
        let windows: SmallVec<[One; 3]> = quotas.iter().zip(&taken.used).map(one).collect();
        // The fewest left; of several the longest, which comes last.
        let tightest = (0..windows.len()).rev().min_by_key(|at| windows[*at].remaining).unwrap_or(0);
        Self { windows, tightest }
    }

    /// Seconds until the tightest window ends.
    pub(super) fn reset(&self) -> u64 {
        self.windows.get(self.tightest).map_or(1, |one| one.reset)
    }

    pub(super) fn write(&self, headers: &mut HeaderMap) {
        for one in &self.windows {
            let (limit, remaining) = names(one.unit);
            headers.insert(limit, HeaderValue::from(one.limit));
            headers.insert(remaining, HeaderValue::from(one.remaining));
        }
        if let Some(one) = self.windows.get(self.tightest) {
            headers.insert(LIMIT, HeaderValue::from(one.limit));
            headers.insert(REMAINING, HeaderValue::from(one.remaining));
            headers.insert(RESET, HeaderValue::from(one.reset));
        }
    }
}

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

const fn names(unit: Unit) -> (HeaderName, HeaderName) {
    let (limit, remaining) = match unit {
        Unit::Second => ("x-ratelimit-limit-second", "x-ratelimit-remaining-second"),
        Unit::Minute => ("x-ratelimit-limit-minute", "x-ratelimit-remaining-minute"),
        Unit::Hour => ("x-ratelimit-limit-hour", "x-ratelimit-remaining-hour"),
        Unit::Day => ("x-ratelimit-limit-day", "x-ratelimit-remaining-day"),
        Unit::Month => ("x-ratelimit-limit-month", "x-ratelimit-remaining-month"),
        Unit::Year => ("x-ratelimit-limit-year", "x-ratelimit-remaining-year"),
    };
    (HeaderName::from_static(limit), HeaderName::from_static(remaining))
}
