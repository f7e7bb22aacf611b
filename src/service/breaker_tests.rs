//! The breaker's states, one by one and as a service sees them.

use std::time::{Duration, Instant};

use super::breaker::{Breaker, Ticket};
use super::gate::Gate;
use super::set_tests::{eject, endpoint, lease_of, passing, service};
use super::*;

const SECOND: u64 = 1000;

fn policy() -> BreakerPolicy {
    BreakerPolicy::default()
}

/// Fails as often as told; the last transition.
fn fail(breaker: &Breaker, room: &Gate, times: u32, now: u64) -> Option<Transition> {
    (0..times).filter_map(|_| breaker.failed(breaker.ticket(), &policy(), room, now)).last()
}

fn opened(cause: Cause, seconds: u64) -> Transition {
    Transition { to: BreakerState::Open, cause, open_for: Duration::from_secs(seconds) }
}

#[test]
fn failures_in_a_row_open_it_and_a_good_answer_begins_anew() {
    let (breaker, room) = (Breaker::new(), Gate::new(1));
    assert_eq!(fail(&breaker, &room, 4, 0), None);
    assert_eq!(breaker.succeeded(breaker.ticket(), &policy(), &room, 0), None);
    assert_eq!(fail(&breaker, &room, 4, 0), None);
    assert_eq!(fail(&breaker, &room, 1, 0), Some(opened(Cause::Consecutive, 30)));
    assert_eq!(breaker.ticket(), Ticket::Uncounted);
    let view = breaker.view(&policy(), 10 * SECOND);
    assert_eq!((view.state, view.ejections), (BreakerState::Open, 1));
    assert_eq!(view.open_for_remaining, Duration::from_secs(20));
}

#[test]
fn a_share_of_failures_within_the_window_opens_it() {
    let (breaker, room) = (Breaker::new(), Gate::new(1));
    let policy = policy();
    let answer = |good: bool, now| {
        let ticket = breaker.ticket();
        if good { breaker.succeeded(ticket, &policy, &room, now) } else { breaker.failed(ticket, &policy, &room, now) }
    };
    // Nineteen answers say nothing, whatever their share; the twentieth decides.
    for nth in 0..19u64 {
        assert_eq!(answer(nth % 2 == 0, nth * 500), None);
    }
    assert_eq!(answer(false, 9_500), Some(opened(Cause::ErrorRate, 30)));
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let (breaker, room) = (Breaker::new(), Gate::new(1));
    for nth in 0..40u64 {
        // Two failures, then a good one; slowly, so that at no time there are twenty within ten seconds.
        let ticket = breaker.ticket();
        let now = nth * 600;
        let changed = if nth % 3 == 2 {
            breaker.succeeded(ticket, &policy(), &room, now)
        } else {
            breaker.failed(ticket, &policy(), &room, now)
        };
        assert_eq!(changed, None, "{nth}");
    }
    let view = breaker.view(&policy(), 40 * 600);
    assert!(view.requests <= 17 && (0.6..0.72).contains(&view.error_rate), "{view:?}");
    assert_eq!(breaker.view(&policy(), 60 * SECOND).requests, 0);
}

#[test]
fn exactly_one_request_probes_and_decides() {
    let (breaker, room) = (Breaker::new(), Gate::new(1));
    fail(&breaker, &room, 5, 0);
    assert_eq!(breaker.claim(29_999), None, "the pause is not over");
    let probe = breaker.claim(30_000).unwrap();
    assert_eq!(breaker.claim(30_000), None, "one request, not two");
    assert_eq!(breaker.view(&policy(), 30_000).state, BreakerState::HalfOpen);
    let closed = breaker.succeeded(probe, &policy(), &room, 30_100).unwrap();
    assert_eq!((closed.to, closed.cause), (BreakerState::Closed, Cause::ProbeSucceeded));
    assert_eq!(room.held(), 0);
    let view = breaker.view(&policy(), 30_100);
    assert_eq!((view.consecutive, view.requests), (0, 0), "what was before says nothing of what comes");
}

#[test]
fn each_failed_probe_doubles_the_pause_up_to_the_cap() {
    let (breaker, room) = (Breaker::new(), Gate::new(1));
    let mut now = 0;
    fail(&breaker, &room, 5, now);
    for seconds in [60, 120, 240, 300, 300] {
        now = breaker.due().unwrap();
        let probe = breaker.claim(now).unwrap();
        assert_eq!(breaker.failed(probe, &policy(), &room, now), Some(opened(Cause::ProbeFailed, seconds)));
    }
    assert_eq!(room.held(), 1, "one place, however often it failed");
}

#[test]
fn the_doubling_falls_back_with_time_in_health() {
    let ejected_after = |healthy: u64| {
        let (breaker, room) = (Breaker::new(), Gate::new(1));
        fail(&breaker, &room, 5, 0);
        let probe = breaker.claim(30 * SECOND).unwrap();
        breaker.failed(probe, &policy(), &room, 30 * SECOND);
        let probe = breaker.claim(90 * SECOND).unwrap();
        breaker.succeeded(probe, &policy(), &room, 90 * SECOND);
        fail(&breaker, &room, 5, (90 + healthy) * SECOND).unwrap().open_for.as_secs()
    };
    // Two ejections came before: a third would last four times as long; each pause in health takes one off.
    assert_eq!([0, 29, 30, 59, 60, 600].map(ejected_after), [120, 120, 60, 60, 30, 30]);
}

#[test]
fn late_answers_neither_close_nor_open_it() {
    let (breaker, room) = (Breaker::new(), Gate::new(1));
    let early = breaker.ticket();
    fail(&breaker, &room, 5, 0);
    assert_eq!(breaker.succeeded(early, &policy(), &room, 1), None);
    assert_eq!(breaker.view(&policy(), 1).state, BreakerState::Open);
    let probe = breaker.claim(30 * SECOND).unwrap();
    assert_eq!(breaker.failed(early, &policy(), &room, 30 * SECOND), None);
    assert_eq!(breaker.succeeded(early, &policy(), &room, 30 * SECOND), None);
    assert_eq!(breaker.view(&policy(), 1).state, BreakerState::HalfOpen, "only the probe decides");
    breaker.succeeded(probe, &policy(), &room, 30 * SECOND);
    (0..9).for_each(|_| assert_eq!(breaker.failed(early, &policy(), &room, 31 * SECOND), None));
    assert_eq!(breaker.view(&policy(), 31 * SECOND).consecutive, 0, "they tell of the time before the ejection");
    assert_eq!(breaker.failed(probe, &policy(), &room, 31 * SECOND), None, "it broke later: it has been judged");
}

#[test]
fn a_probe_that_says_nothing_frees_the_next() {
    let (breaker, room) = (Breaker::new(), Gate::new(1));
    fail(&breaker, &room, 5, 0);
    let probe = breaker.claim(30 * SECOND).unwrap();
    assert!(breaker.abandoned(probe));
    let next = breaker.claim(30 * SECOND).unwrap();
    assert!(!breaker.abandoned(probe), "the first has no say any more");
    assert_eq!(breaker.succeeded(probe, &policy(), &room, 30 * SECOND), None);
    assert!(breaker.succeeded(next, &policy(), &room, 30 * SECOND).is_some());
    assert_eq!(room.held(), 0);
}

#[test]
fn nothing_opens_without_room_and_it_opens_once_there_is() {
    let (breaker, room) = (Breaker::new(), Gate::new(0));
    assert_eq!(fail(&breaker, &room, 50, 0), None);
    room.set_bound(1);
    assert_eq!(fail(&breaker, &room, 1, 0), Some(opened(Cause::Consecutive, 30)));
}

#[test]
fn no_more_than_max_ejected_are_ejected_at_once() {
    for (endpoints, most) in [(1, 0), (2, 1), (3, 1), (5, 2)] {
        let listed = passing(["a", "b", "c", "d", "e"])[..endpoints].to_vec();
        let (service, now) = service(Policy::default(), listed);
        let ids = ["a", "b", "c", "d", "e"];
        let ejected = ids[..endpoints].iter().filter(|id| eject(&service, id, now).is_some()).count();
        assert_eq!(ejected, most, "of {endpoints}");
    }
}

#[test]
fn the_probe_s_lease_says_so_and_its_drop_frees_the_probe() {
    let (service, now) = service(Policy::default(), passing(["a", "b"]));
    eject(&service, "a", now);
    let due = now + Duration::from_secs(30);
    let b = [endpoint(&service, "b").number()];
    let ask = |now: Instant| Ask { tried: &b, now, entropy: 1, key: None };
    let probe = service.lease(&ask(due)).unwrap();
    assert_eq!(probe.began().map(|t| (t.to, t.cause)), Some((BreakerState::HalfOpen, Cause::Due)));
    let other = service.lease(&ask(due)).unwrap();
    assert_eq!((&*other.endpoint().listing.id, other.began()), ("b", None), "others go where it works");
    probe.unanswered(due);
    drop(probe);
    let probe = lease_of(&service, "a", due);
    assert!(probe.began().is_some());
    let failed = probe.timed_out(due).unwrap();
    assert_eq!((failed.cause, failed.open_for), (Cause::ProbeFailed, Duration::from_secs(60)));
    drop(probe);
    assert_eq!(endpoint(&service, "a").breaker(due).state, BreakerState::Open, "the drop changes nothing then");
}

#[test]
fn a_flapping_endpoint_is_out_longer_each_time_and_the_others_serve() {
    let (service, start) = service(Policy::default(), passing(["a", "b", "c"]));
    let mut rng = fastrand::Rng::with_seed(11);
    let mut failures = 0;
    // `a` fails whatever it gets, for ten minutes at 20 requests/s.
    for tick in 0..12_000u64 {
        let now = start + Duration::from_millis(tick * 50);
        let lease = service.lease(&Ask { tried: &[], now, entropy: rng.u64(..), key: None }).unwrap();
        let good = &*lease.endpoint().listing.id != "a";
        failures += u32::from(!good);
        lease.answered(now, now, good);
    }
    // Five to open it, then a probe after 30, 60, 120, 240 s.
    assert!((5..=9).contains(&failures), "{failures} requests met it");
}
