//! Picks: weights, load, turns, and what is passed over.

use std::time::Duration;

use super::set_tests::{eject, endpoint, lease_of, listing, passing, service, shares};
use super::*;

const ALL: [Balance; 5] =
    [Balance::LeastLoaded, Balance::RoundRobin, Balance::Random, Balance::RingHash, Balance::Maglev];

fn policy(balance: Balance) -> Policy {
    Policy { balance, ..Policy::default() }
}

#[test]
fn round_robin_takes_turns_and_spreads_weights_evenly() {
    let weighted = |id, weight| listing(id, weight, Health::Passing);
    let listed = vec![weighted("a", 30), weighted("b", 10), weighted("c", 10)];
    let (service, now) = service(policy(Balance::RoundRobin), listed);
    let ask = Ask { tried: &[], now, entropy: 0, key: None };
    let order: String = (0..10).map(|_| service.lease(&ask).unwrap().endpoint().listing.id.to_string()).collect();
    assert_eq!(order, "abacaabaca");
}

#[test]
fn every_balancer_obeys_weights() {
    for balance in ALL {
        let listed = vec![listing("a", 10, Health::Passing), listing("b", 1, Health::Warning)];
        let (service, now) = service(policy(balance), listed);
        let counts = shares(&service, now, 11_000);
        assert!((9_700..10_300).contains(&counts["a"]), "{balance:?}: {counts:?}");
    }
}

#[test]
fn keys_are_spread_by_weight() {
    for balance in [Balance::RingHash, Balance::Maglev] {
        let listed = vec![listing("a", 10, Health::Passing), listing("b", 1, Health::Passing)];
        let (service, now) = service(policy(balance), listed);
        let to_a = (0..11_000u64).filter(|key| {
            let ask = Ask { tried: &[], now, entropy: 0, key: Some(*key) };
            &*service.lease(&ask).unwrap().endpoint().listing.id == "a"
        });
        let to_a = to_a.count();
        assert!((9_500..10_500).contains(&to_a), "{balance:?}: {to_a}");
    }
}

#[test]
fn equal_endpoints_share_evenly() {
    let (service, now) = service(Policy::default(), passing(["a", "b", "c", "d", "e"]));
    for (id, count) in shares(&service, now, 10_000) {
        assert!((1_700..2_300).contains(&count), "{id}: {count}");
    }
}

#[test]
fn a_busy_or_slow_endpoint_gets_less() {
    let (service, now) = service(Policy::default(), passing(["a", "b", "c"]));
    endpoint(&service, "a").load().observe(Duration::from_millis(400), now);
    endpoint(&service, "b").load().begin();
    let counts = shares(&service, now, 3_000);
    assert_eq!(counts.get("a"), None, "never the worse of two: {counts:?}");
    assert!(counts["c"] > counts["b"]);
}

#[test]
fn shut_and_tried_endpoints_are_passed_over_while_others_are_left() {
    for balance in ALL {
        let (service, now) = service(policy(balance), passing(["a", "b", "c"]));
        lease_of(&service, "a", now).unreachable(now);
        let number = |id| endpoint(&service, id).number();
        let tried = [number("b")];
        for entropy in (0..64).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let ask = Ask { tried: &tried, now, entropy, key: Some(entropy) };
            assert_eq!(&*service.lease(&ask).unwrap().endpoint().listing.id, "c");
        }
        // Nothing else is left: the shut one is tried rather than the request refused.
        let ask = Ask { tried: &[number("b"), number("c")], now, entropy: 1, key: None };
        assert_eq!(&*service.lease(&ask).unwrap().endpoint().listing.id, "a");
    }
}

#[test]
fn an_endpoint_whose_pause_is_over_gets_one_probe() {
    for balance in ALL {
        let (service, now) = service(policy(balance), passing(["a", "b"]));
        lease_of(&service, "a", now).unreachable(now);
        assert_eq!(shares(&service, now, 200).get("a"), None, "{balance:?}");
        let counts = shares(&service, now + Duration::from_secs(1), 200);
        assert_eq!(counts.get("a"), Some(&1), "{balance:?}: one request probes: {counts:?}");
    }
}

#[test]
fn no_usable_endpoint_is_no_pick() {
    let (service, now) = service(Policy::default(), vec![listing("a", 1, Health::Critical)]);
    let refused = service.lease(&Ask { tried: &[], now, entropy: 3, key: None });
    assert_eq!(refused.map(|_| ()).unwrap_err(), Reason::NoEndpoint);
}

#[test]
fn where_all_are_ejected_a_request_fails_or_is_tried_anyway() {
    for balance in ALL {
        let breaker = BreakerPolicy { max_ejected: 1.0, ..BreakerPolicy::default() };
        let (service, now) = service(Policy { breaker, ..policy(balance) }, passing(["a", "b"]));
        eject(&service, "a", now);
        let a = endpoint(&service, "a").number();
        eject(&service, "b", now);
        let ask = Ask { tried: &[a], now, entropy: 3, key: Some(3) };
        assert_eq!(service.lease(&ask).map(|_| ()).unwrap_err(), Reason::AllEjected, "{balance:?}");
        let breaker = BreakerPolicy { on_all_open: OnAllOpen::TryAnyway, ..breaker };
        service.reconfigure(Policy { breaker, ..policy(balance) });
        let lease = service.lease(&ask).unwrap();
        assert_eq!((&*lease.endpoint().listing.id, lease.began()), ("b", None), "{balance:?}: the untried first");
        assert_eq!(lease.answered(now, now, true), None, "that says nothing: the probe decides");
        assert_eq!(lease.endpoint().breaker(now).state, BreakerState::Open);
    }
}

#[test]
fn picks_of_a_large_set_stay_right_while_nearly_all_of_it_is_shut() {
    for balance in ALL {
        let listed = (0..2_000).map(|at| listing(&format!("e{at:04}"), 1 + at % 3, Health::Passing)).collect();
        let (service, now) = service(policy(balance), listed);
        for endpoint in &service.endpoints().all()[..1_990] {
            endpoint.state.reach.failed(now);
        }
        service.shared.changed();
        let soon = now + Duration::from_millis(20);
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..500 {
            let entropy = rng.u64(..);
            let lease = service.lease(&Ask { tried: &[], now: soon, entropy, key: Some(entropy) }).unwrap();
            assert!(&*lease.endpoint().listing.id >= "e1990", "{balance:?}");
        }
    }
}

#[test]
fn a_retry_without_another_endpoint_takes_the_same_again() {
    let (service, now) = service(Policy::default(), passing(["a"]));
    let tried = [endpoint(&service, "a").number()];
    assert!(service.lease(&Ask { tried: &tried, now, entropy: 3, key: None }).is_ok());
}
