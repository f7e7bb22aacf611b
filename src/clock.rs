//! The data path's clock: that of the runtime, so that a test can stop it and let hours pass at once.
//!
//! A look at it costs as much as a header does; what need not be exact goes by an earlier look.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    static WALL: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
}

/// The time now.
pub fn now() -> Instant {
    let now = tokio::time::Instant::now().into_std();
    LAST.set(Some(now));
    now
}

/// When this thread looked at the clock last: on a worker under load a moment ago, at rest at most a second (its pools are
/// swept so often).
pub fn recent() -> Instant {
    LAST.get().unwrap_or_else(now)
}

/// The wall clock's time at `now`. That it was set is seen within a second.
pub fn wall(now: Instant) -> SystemTime {
    let known = WALL.get().filter(|(at, _)| now.checked_duration_since(*at).is_some_and(|age| age < KNOWN_FOR));
    let (at, wall) = known.unwrap_or_else(|| {
        let fresh = (now, SystemTime::now());
        WALL.set(Some(fresh));
        fresh
    });
    wall + now.saturating_duration_since(at)
}

const KNOWN_FOR: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_earlier_look_is_told_again_until_the_next() {
        let first = now();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(recent(), first);
        let second = now();
        assert_eq!((second - first, recent()), (Duration::from_secs(5), second));
    }

    #[test]
    fn the_wall_clock_is_looked_at_once_a_second() {
        let (began, before) = (Instant::now(), SystemTime::now());
        let first = wall(began);
        assert!(first >= before && first <= SystemTime::now());
        assert_eq!(wall(began + Duration::from_millis(999)), first + Duration::from_millis(999));
        assert!(wall(began + Duration::from_secs(3600)) <= SystemTime::now(), "it was looked at anew");
        assert!(wall(began) <= SystemTime::now(), "an earlier moment is looked at anew, too");
    }
}
