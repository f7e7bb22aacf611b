//! How long a request may take: the route's timeout, what its caller has left of its own, and what gRPC says. The rest
//! travels with the request, so that no hop works for a caller that has given up.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::answer::Dialect;
use crate::scrap;

/// The time that a request has, as it was when its head came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    began: Instant,
    /// From the head to the answer's head; `None` without any limit.
    whole: Option<Duration>,
    /// The caller set the shorter limit: an endpoint that misses it is not to blame.
    by_caller: bool,
    grpc: Option<Duration>,
    per_try: Option<Duration>,
}

impl Allowance {
    /// `timeout` and `per_try` are the route's.
    pub(super) fn new(
        timeout: Option<Duration>,
        per_try: Option<Duration>,
        headers: &HeaderMap,
        began: Instant,
    ) -> Self {
        let told =
            headers.get(&DEADLINE).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_millis);
        let grpc = match headers.get(&GRPC_TIMEOUT) {
            Some(value) if Dialect::of(headers) == Dialect::Grpc => grpc_timeout(value.as_bytes()),
            Some(_) | None => None,
        };
        let caller = [told, grpc].into_iter().flatten().min();
        let by_caller = caller.is_some_and(|caller| timeout.is_none_or(|timeout| caller < timeout));
        Self { began, whole: if by_caller { caller } else { timeout }, by_caller, grpc, per_try }
    }

    /// The whole of it.
    pub(super) fn whole(&self) -> Option<Duration> {
        self.whole
    }

    /// When a try that begins `now` is given up.
    pub(super) fn limit(&self, now: Instant) -> Option<Instant> {
        let whole = self.whole.map(|whole| self.began + whole);
        let one = self.per_try.map(|per_try| now + per_try);
        whole.into_iter().chain(one).min()
    }

    /// Whether nothing is left at `now`.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.whole.is_some_and(|whole| now >= self.began + whole)
    }

    /// Whether an endpoint that has not answered by `now` missed the route's own limit, not just its caller's.
    pub(super) fn blames(&self, now: Instant) -> bool {
        !(self.by_caller && self.is_over(now))
    }

    /// Writes what is left at `now` into a request that leaves. `now` may be as early as the head's coming.
    pub(super) fn tell(&self, headers: &mut HeaderMap, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        if let Some(whole) = self.whole {
            let left = whole.saturating_sub(elapsed).as_millis();
            headers.insert(DEADLINE, scrap::number(u64::try_from(left).unwrap_or(u64::MAX)));
        }
        if let Some(grpc) = self.grpc
            && let Ok(value) = HeaderValue::try_from(grpc_text(grpc.saturating_sub(elapsed)))
        {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

/// gRPC over HTTP/2, `Timeout`: at most eight digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// In the finest unit whose number has eight digits at most; never longer than `left`.
fn grpc_text(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let micros = left.as_micros();
    if micros <= MOST {
        format!("{micros}u")
    } else if micros / 1000 <= MOST {
        format!("{}m", micros / 1000)
    } else {
        format!("{}S", u128::from(left.as_secs()).min(MOST))
    }
}

/// Milliseconds that the caller waits on.
pub(super) const DEADLINE: HeaderName = HeaderName::from_static("x-outrigger-deadline-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn head(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn allowance(timeout: Option<Duration>, pairs: &[(&'static str, &'static str)]) -> (Allowance, Instant) {
        let began = Instant::now();
        (Allowance::new(timeout, None, &head(pairs), began), began)
    }

    #[test]
    fn the_shortest_limit_holds() {
        let deadline = ("x-outrigger-deadline-ms", "200");
        let grpc = [("content-type", "application/grpc+proto"), ("grpc-timeout", "50m")];
        let whole = |timeout, pairs: &[_]| allowance(timeout, pairs).0.whole();
        assert_eq!(whole(Some(SECOND), &[]), Some(SECOND));
        assert_eq!(whole(None, &[]), None);
        assert_eq!(whole(Some(SECOND), &[deadline]), Some(Duration::from_millis(200)));
        assert_eq!(whole(None, &[deadline]), Some(Duration::from_millis(200)));
        assert_eq!(whole(Some(SECOND / 10), &[deadline]), Some(SECOND / 10), "a caller cannot lengthen it");
        assert_eq!(whole(Some(SECOND), &[deadline, grpc[0], grpc[1]]), Some(Duration::from_millis(50)));
        assert_eq!(whole(Some(SECOND), &[grpc[1]]), Some(SECOND), "not a gRPC request");
        for nonsense in ["", "-1", "1.5", "1s", "99999999999999999999999"] {
            assert_eq!(whole(Some(SECOND), &[("x-outrigger-deadline-ms", nonsense)]), Some(SECOND), "{nonsense}");
        }
    }

    #[test]
    fn what_is_left_travels() {
        let pairs = [("content-type", "application/grpc"), ("grpc-timeout", "2S"), ("x-outrigger-deadline-ms", "x")];
        let (allowance, began) = allowance(Some(SECOND), &pairs);
        let mut headers = HeaderMap::new();
        allowance.tell(&mut headers, began + Duration::from_millis(300));
        assert_eq!(headers, head(&[("x-outrigger-deadline-ms", "700"), ("grpc-timeout", "1700000u")]));
        allowance.tell(&mut headers, began + 5 * SECOND);
        assert_eq!(headers, head(&[("x-outrigger-deadline-ms", "0"), ("grpc-timeout", "0u")]));
        assert!(allowance.is_over(began + SECOND) && !allowance.is_over(began + SECOND / 2));
    }

    #[test]
    fn an_endpoint_is_not_blamed_for_a_caller_in_a_hurry() {
        let (allowance, began) = allowance(Some(SECOND), &[("x-outrigger-deadline-ms", "10")]);
        assert!(!allowance.blames(began + Duration::from_millis(10)));
        let (own, began) = self::allowance(Some(SECOND), &[("x-outrigger-deadline-ms", "5000")]);
        assert!(own.blames(began + SECOND));
    }

    #[test]
    fn a_try_ends_with_its_own_limit_or_the_requests() {
        let began = Instant::now();
        let allowance = Allowance::new(Some(SECOND), Some(SECOND / 2), &HeaderMap::new(), began);
        assert_eq!(allowance.limit(began), Some(began + SECOND / 2));
        assert_eq!(allowance.limit(began + SECOND * 3 / 4), Some(began + SECOND));
    }

    #[test]
    fn grpc_timeouts_are_read_and_written() {
        for (text, wanted) in [
            ("1H", Some(SECOND * 3600)),
            ("2M", Some(SECOND * 120)),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("", None),
            ("S", None),
            ("999999999S", None),
            ("1s", None),
            ("+1S", None),
            ("-1S", None),
            ("1 S", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), wanted, "{text}");
        }
        for (left, text) in [
            (Duration::ZERO, "0u"),
            (Duration::from_millis(99_999), "99999000u"),
            (SECOND * 100, "100000m"),
            (SECOND * 100_000, "100000S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(grpc_text(left), text);
        }
    }
}
