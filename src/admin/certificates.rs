//! Our leaf and roots as `/certs` shows them. No key ever comes here.

use std::time::SystemTime;

use serde::Serialize;

use crate::identity::Identity;

/// Times in RFC 3339, UTC; `…_seconds_left` is negative once it ended.
#[derive(Serialize)]
pub(super) struct Shown {
    spiffe_id: String,
    serial: String,
    not_before: String,
    not_after: String,
    seconds_left: i64,
    roots_not_after: String,
    roots_seconds_left: i64,
}

impl Shown {
    pub(super) fn of(identity: &Identity, now: SystemTime) -> Self {
        Self {
            spiffe_id: identity.id.to_string(),
            serial: identity.serial.clone(),
            not_before: rfc3339(identity.not_before),
            not_after: rfc3339(identity.not_after),
            seconds_left: seconds_between(now, identity.not_after),
            roots_not_after: rfc3339(identity.roots_not_after),
            roots_seconds_left: seconds_between(now, identity.roots_not_after),
        }
    }
}

fn seconds_between(now: SystemTime, end: SystemTime) -> i64 {
    let seconds = |span: std::time::Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    }
}

/// Not humantime's, which panics before 1970: a certificate may begin in 1950 (RFC 5280 §4.1.2.5.1) and end in 9999.
fn rfc3339(at: SystemTime) -> String {
    use time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_else(|_| "9999-12-31T23:59:59Z".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn what_ended_has_less_than_nothing_left() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(seconds_between(now, UNIX_EPOCH + Duration::from_secs(1_060)), 60);
        assert_eq!(seconds_between(now, UNIX_EPOCH + Duration::from_secs(940)), -60);
    }

    #[test]
    fn every_time_that_a_certificate_may_hold_is_shown() {
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(86_400)), "1970-01-02T00:00:00Z");
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(631_152_000)), "1950-01-01T00:00:00Z");
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(253_402_300_799)), "9999-12-31T23:59:59Z");
    }
}
