//! `fault`: delays and aborts by percent and header, as Envoy's fault filter
//! (`envoy/docs/configuration/http/http_filters/fault_filter`): a request may meet both, the delay first.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, StatusCode};

use super::{Answer, Call, Decision, End, Filter, grpc_of, http_of};

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Only requests that carry this header; all when absent.
    pub header: Option<HeaderName>,
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delay {
    pub share: Share,
    pub duration: Duration,
}

/// At least one of the statuses is there; the other is made of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Abort {
    pub share: Share,
    pub status: Option<StatusCode>,
    pub grpc_status: Option<u8>,
}

/// A share of requests: of 2^32 equally likely draws, so many are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    pub const ALL: Self = Self(1 << 32);

    /// From 0.0 to 100.0; what is beyond counts as the bound.
    #[must_use]
    pub fn percent(percent: f64) -> Self {
        Self((percent.clamp(0.0, 100.0) / 100.0 * (1_u64 << 32) as f64).round() as u64)
    }

    #[must_use]
    pub fn has(self, draw: u32) -> bool {
        u64::from(draw) < self.0
    }
}

pub(super) struct Fault {
    settings: Settings,
}

impl Fault {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings }
    }
}

impl Filter for Fault {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        let Settings { header, delay, abort } = &self.settings;
        if header.as_ref().is_some_and(|header| !call.head.headers.contains_key(header)) {
            return Decision::PASS;
        }
        // Two draws from one number: whether a request is delayed says nothing of whether it is aborted.
        let (first, second) = (call.entropy as u32, (call.entropy >> 32) as u32);
        let delay = delay.filter(|delay| delay.share.has(first)).map_or(Duration::ZERO, |delay| delay.duration);
        let end = abort.filter(|abort| abort.share.has(second)).map(|abort| Box::new(End::Answer(abort.answer())));
        Decision { delay, end }
    }
}

impl Abort {
    fn answer(&self) -> Answer {
        let status = self.status.or(self.grpc_status.map(http_of)).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let grpc = Some(self.grpc_status.unwrap_or(grpc_of(status)));
        // The text that Envoy answers with.
        let (headers, body) = (Vec::new(), Bytes::from_static(b"fault filter abort"));
        Answer { status, grpc, headers, body, detail: "abort" }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Instant, SystemTime};

    use http::{Extensions, Request};

    use super::super::Caller;
    use super::*;

    fn decide(fault: &Fault, headers: &[(&'static str, &str)], entropy: u64) -> Decision {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (mut head, ()) = request.into_parts();
        let caller = Caller::at(Ipv4Addr::LOCALHOST);
        let (now, wall, mut stash) = (Instant::now(), SystemTime::now(), Extensions::new());
        fault.request(&mut Call { head: &mut head, caller, stash: &mut stash, now, wall, entropy })
    }

    #[test]
    fn a_share_holds_as_many_draws_as_its_percentage() {
        assert!(!Share::percent(0.0).has(0) && Share::percent(100.0).has(u32::MAX));
        assert_eq!(Share::percent(100.0), Share::ALL);
        let half = Share::percent(50.0);
        assert!(half.has((1 << 31) - 1) && !half.has(1 << 31));
        let rare = Share::percent(0.01);
        assert!(rare.has(429_496) && !rare.has(429_498));
    }

    #[test]
    fn delay_and_abort_are_drawn_apart_and_a_request_may_meet_both() {
        let delay = Delay { share: Share::percent(50.0), duration: Duration::from_secs(2) };
        let abort = Abort { share: Share::percent(50.0), status: None, grpc_status: Some(14) };
        let fault = Fault::new(Settings { header: None, delay: Some(delay), abort: Some(abort) });
        let (hit, miss) = (0_u64, u64::from(u32::MAX));
        for (first, second) in [(hit, hit), (hit, miss), (miss, hit), (miss, miss)] {
            let decision = decide(&fault, &[], second << 32 | first);
            assert_eq!(!decision.delay.is_zero(), first == hit);
            assert_eq!(decision.end.is_some(), second == hit);
        }
    }

    #[test]
    fn only_requests_with_the_header_are_met_where_one_is_named() {
        let abort = Abort { share: Share::ALL, status: Some(StatusCode::IM_A_TEAPOT), grpc_status: None };
        let header = Some(HeaderName::from_static("x-fault"));
        let fault = Fault::new(Settings { header, delay: None, abort: Some(abort) });
        assert!(decide(&fault, &[], 0).end.is_none());
        let Some(End::Answer(answer)) = decide(&fault, &[("x-fault", "1")], 0).end.map(|end| *end) else {
            panic!("an answer")
        };
        assert_eq!((answer.status, answer.grpc), (StatusCode::IM_A_TEAPOT, Some(2)));
    }
}
