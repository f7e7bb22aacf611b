//! Fixed windows on the wall clock, in UTC: each second, minute, hour, day, month and year is one.

use std::time::{SystemTime, UNIX_EPOCH};

/// What a limit is said for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Year,
}

/// One window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Numbers the windows of a unit in the order of time.
    pub index: u32,
    /// Seconds since 1970; the end is the start of the next.
    pub start: u64,
    pub end: u64,
}

impl Unit {
    pub const ALL: [Self; 6] = [Self::Second, Self::Minute, Self::Hour, Self::Day, Self::Month, Self::Year];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// The window that holds a time, in seconds since 1970.
    #[must_use]
    pub fn window(self, at: u64) -> Window {
        let even = |length: u64| {
            let index = at / length;
            // Seconds fill 32 bits in 2106.
            Window { index: index as u32, start: index * length, end: (index + 1) * length }
        };
        match self {
            Self::Second => even(1),
            Self::Minute => even(60),
            Self::Hour => even(3600),
            Self::Day => even(DAY),
            Self::Month => {
                let (year, month) = year_and_month(at / DAY);
                let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                Window {
                    index: (year * 12 + month - 1) as u32,
                    start: days_before(year, month) * DAY,
                    end: days_before(next_year, next_month) * DAY,
                }
            }
            Self::Year => {
                let (year, _) = year_and_month(at / DAY);
                Window { index: year as u32, start: days_before(year, 1) * DAY, end: days_before(year + 1, 1) * DAY }
            }
        }
    }
}

/// A clock before 1970 counts as 1970.
pub(super) fn seconds(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Of a day since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn year_and_month(day: u64) -> (u64, u64) {
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month)
}

/// Days from 1970 to the first of a month (`days_from_civil`).
fn days_before(year: u64, month: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start_and_end(unit: Unit, at: &str) -> (String, String) {
        let at = seconds(humantime::parse_rfc3339(at).unwrap());
        let text =
            |at: u64| humantime::format_rfc3339_seconds(UNIX_EPOCH + std::time::Duration::from_secs(at)).to_string();
        let window = unit.window(at);
        (text(window.start), text(window.end))
    }

    #[test]
    fn windows_begin_and_end_with_the_calendar() {
        let at = "2024-02-29T13:37:42Z";
        for (unit, start, end) in [
            (Unit::Second, "2024-02-29T13:37:42Z", "2024-02-29T13:37:43Z"),
            (Unit::Minute, "2024-02-29T13:37:00Z", "2024-02-29T13:38:00Z"),
            (Unit::Hour, "2024-02-29T13:00:00Z", "2024-02-29T14:00:00Z"),
            (Unit::Day, "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"),
            (Unit::Month, "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"),
            (Unit::Year, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
        ] {
            assert_eq!(start_and_end(unit, at), (start.to_owned(), end.to_owned()));
        }
        let new_year = ("2023-12-01T00:00:00Z".to_owned(), "2024-01-01T00:00:00Z".to_owned());
        assert_eq!(start_and_end(Unit::Month, "2023-12-31T23:59:59Z"), new_year);
    }

    proptest! {
        #[test]
        fn every_time_is_in_one_window_and_the_next_one_follows(at in 0_u64..4_000_000_000) {
            for unit in Unit::ALL {
                let window = unit.window(at);
                prop_assert!(window.start <= at && at < window.end);
                let next = unit.window(window.end);
                prop_assert_eq!((next.index, next.start), (window.index + 1, window.end));
                prop_assert_eq!(unit.window(window.end - 1), window);
            }
        }
    }
}
