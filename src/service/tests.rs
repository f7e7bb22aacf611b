//! A service as a whole: leases, permits, reloads.

use std::time::{Duration, Instant};

use super::set_tests::{endpoint, lease_of, passing, service, shares};
use super::*;

#[test]
fn a_lease_counts_in_flight_until_it_is_dropped() {
    let now = Instant::now();
    let service = Service::new(ServiceName::parse("orders").unwrap(), Policy::default(), now);
    let ask = Ask { tried: &[], now, entropy: 1, key: None };
    assert_eq!(service.lease(&ask).map(|_| ()).unwrap_err(), Reason::NoEndpoint);
    service.list(passing(["a"]), now);
    let lease = service.lease(&ask).unwrap();
    let endpoint = lease.endpoint().clone();
    assert_eq!(endpoint.load().in_flight(), 1);
    drop(lease);
    assert_eq!(endpoint.load().in_flight(), 0);
}

#[test]
fn a_reload_of_the_balancer_keeps_what_was_learned() {
    let (service, now) = service(Policy::default(), passing(["a", "b"]));
    let before = endpoint(&service, "a").number();
    lease_of(&service, "a", now).unreachable(now);
    for balance in [Balance::RoundRobin, Balance::Random, Balance::RingHash, Balance::Maglev] {
        service.reconfigure(Policy { balance, ..Policy::default() });
        assert_eq!(endpoint(&service, "a").number(), before);
        assert_eq!(shares(&service, now, 100)["b"], 100);
    }
}

#[test]
fn as_many_requests_as_allowed_are_let_in() {
    let limits = Limits { requests: 2, ..Limits::default() };
    let (service, now) = service(Policy { limits, ..Policy::default() }, Vec::new());
    let (first, _second) = (service.admit(now).unwrap(), service.admit(now).unwrap());
    assert_eq!(service.admit(now).map(|_| ()).unwrap_err(), Reason::Overloaded);
    drop(first);
    let _third = service.admit(now).unwrap();
    assert_eq!(service.requests(), (2, 2));
    service.reconfigure(Policy { limits: Limits { requests: 1, ..limits }, ..Policy::default() });
    assert!(service.admit(now).is_err(), "those who are in stay; nobody else comes");
    service.reconfigure(Policy { limits: Limits { requests: 3, ..limits }, ..Policy::default() });
    assert!(service.admit(now).is_ok());
}

#[test]
fn a_refused_connection_shuts_at_once_and_counts_as_a_failure() {
    let (service, now) = service(Policy::default(), passing(["a", "b"]));
    let shut = lease_of(&service, "a", now).unreachable(now).unwrap();
    assert_eq!(
        (shut.to, shut.cause, shut.open_for),
        (BreakerState::Open, Cause::Unreachable, Duration::from_millis(500))
    );
    assert_eq!(endpoint(&service, "a").breaker(now).consecutive, 1);
    // Not bounded by max_ejected: both may be shut, and are tried as nothing else is left.
    assert!(lease_of(&service, "b", now).unreachable(now).is_some());
    let lease = lease_of(&service, "a", now);
    let open = lease.answered(now, now, true).unwrap();
    assert_eq!((open.to, open.cause), (BreakerState::Closed, Cause::ProbeSucceeded));
    assert_eq!(endpoint(&service, "a").breaker(now).consecutive, 0);
}

#[test]
fn one_request_is_one_failure() {
    let (service, now) = service(Policy::default(), passing(["a", "b"]));
    let lease = lease_of(&service, "a", now);
    lease.answered(now, now, false);
    lease.broke(Duration::from_millis(250), now);
    lease.timed_out(now);
    assert_eq!(endpoint(&service, "a").breaker(now).consecutive, 1);
}

#[test]
fn the_retry_budget_follows_the_policy() {
    let budget = BudgetPolicy { ratio: 0.0, min_per_second: 3 };
    let (service, now) = service(Policy { budget, ..Policy::default() }, Vec::new());
    (0..100).for_each(|_| service.note_request());
    assert_eq!((0..10).filter(|_| service.may_retry(now)).count(), 3);
    service.reconfigure(Policy { budget: BudgetPolicy { ratio: 0.5, min_per_second: 0 }, ..Policy::default() });
    (0..10).for_each(|_| service.note_request());
    assert_eq!((0..10).filter(|_| service.may_retry(now)).count(), 5);
}
