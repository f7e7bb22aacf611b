//! Succession of endpoint sets, tiers, zones and slow start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::endpoints::Shared;
use super::*;
use crate::names::ServiceName;

pub(super) fn listing(id: &str, weight: u32, health: Health) -> Listing {
    let port = id.bytes().fold(1000u16, |p, b| p.wrapping_mul(31).wrapping_add(u16::from(b))) | 1;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Listing { id: id.into(), address, weight, health, wire: Wire::Plain, zone: None }
}

pub(super) fn passing<const N: usize>(ids: [&str; N]) -> Vec<Listing> {
    ids.map(|id| listing(id, 1, Health::Passing)).to_vec()
}

pub(super) fn in_zone(zone: &str, ids: &[&str]) -> Vec<Listing> {
    ids.iter().map(|id| Listing { zone: Some(zone.into()), ..listing(id, 1, Health::Passing) }).collect()
}

pub(super) fn service(policy: Policy, listed: Vec<Listing>) -> (Service, Instant) {
    let now = Instant::now();
    let service = Service::new(ServiceName::parse("orders").unwrap(), policy, now);
    service.list(listed, now);
    (service, now)
}

/// How often each endpoint is picked.
pub(super) fn shares(service: &Service, now: Instant, picks: u32) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..picks {
        let lease = service.lease(&Ask { tried: &[], now, entropy: rng.u64(..), key: None }).unwrap();
        *counts.entry(lease.endpoint().listing.id.to_string()).or_default() += 1;
    }
    counts
}

pub(super) fn endpoint(service: &Service, id: &str) -> Arc<Endpoint> {
    service.endpoints().all().iter().find(|e| &*e.listing.id == id).unwrap().clone()
}

/// A lease at just this endpoint.
pub(super) fn lease_of(service: &Service, id: &str, now: Instant) -> Lease {
    let all = service.endpoints();
    let others: Vec<u64> = all.all().iter().filter(|e| &*e.listing.id != id).map(|e| e.number()).collect();
    let lease = service.lease(&Ask { tried: &others, now, entropy: 1, key: None }).unwrap();
    assert_eq!(&*lease.endpoint().listing.id, id);
    lease
}

/// Ejects an endpoint by failures in a row.
pub(super) fn eject(service: &Service, id: &str, now: Instant) -> Option<Transition> {
    (0..5).find_map(|_| lease_of(service, id, now).answered(now, now, false))
}

#[test]
fn survivors_keep_their_state_and_leavers_are_unwanted() {
    let (service, now) = service(Policy::default(), passing(["a", "b"]));
    let (a, b) = (endpoint(&service, "a"), endpoint(&service, "b"));
    service.list(vec![listing("b", 5, Health::Passing), listing("c", 1, Health::Critical)], now);
    let second = service.endpoints();
    assert_eq!(second.all()[0].number(), b.number(), "a change of weight is no change of the endpoint");
    assert_eq!(second.all()[0].listing.weight, 5);
    assert!(!a.is_wanted() && b.is_wanted());
    assert_eq!(second.members.usable.len(), 1, "critical ones are known but not used");
    assert!(!second.all()[1].is_wanted());
}

#[test]
fn an_endpoint_that_recovers_in_the_registry_is_in_use_at_once() {
    let half = Policy::default();
    let (service, now) = service(half, passing(["a", "b"]));
    assert_eq!(eject(&service, "a", now).map(|t| t.to), Some(BreakerState::Open));
    lease_of(&service, "b", now).unreachable(now);
    let ill = |id| listing(id, 1, Health::Critical);
    assert!(service.list(vec![ill("a"), ill("b")], now).is_empty());
    assert_eq!(endpoint(&service, "b").reachable(now), Reachable::No);
    let closed = service.list(passing(["a", "b"]), now);
    let told: Vec<_> = closed.iter().map(|(e, t)| (&*e.listing.id, t.to, t.cause)).collect();
    assert_eq!(told, [("a", BreakerState::Closed, Cause::Recovered)]);
    assert_eq!(endpoint(&service, "a").breaker(now).state, BreakerState::Closed);
    assert_eq!(endpoint(&service, "b").reachable(now), Reachable::Yes);
}

#[test]
fn what_leaves_or_turns_critical_frees_its_place_among_the_ejected() {
    let (service, now) = service(Policy::default(), passing(["a", "b", "c", "d"]));
    assert!(eject(&service, "a", now).is_some() && eject(&service, "b", now).is_some());
    assert_eq!(eject(&service, "c", now), None, "half of four are ejected already");
    let listed =
        |a: Health| vec![listing("a", 1, a), listing("c", 1, Health::Passing), listing("d", 1, Health::Passing)];
    service.list([listed(Health::Critical), passing(["e"])].concat(), now);
    assert_eq!(service.shared.room.held(), 0);
    assert_eq!(eject(&service, "c", now).map(|t| t.cause), Some(Cause::Consecutive));
}

#[test]
fn ejections_survive_reloads_and_changes_of_the_set() {
    let (service, now) = service(Policy::default(), passing(["a", "b"]));
    eject(&service, "a", now);
    service.list(passing(["a", "b", "c"]), now);
    service.reconfigure(Policy { balance: Balance::Maglev, ..Policy::default() });
    assert_eq!(endpoint(&service, "a").breaker(now).state, BreakerState::Open);
    assert!(!shares(&service, now + Duration::from_secs(1), 200).contains_key("a"));
}

#[test]
fn a_failover_is_used_only_when_nothing_before_it_can_be() {
    let all_may_go = BreakerPolicy { max_ejected: 1.0, ..BreakerPolicy::default() };
    let (service, now) = service(Policy { breaker: all_may_go, ..Policy::default() }, passing(["a", "b"]));
    service.list_tier(2, passing(["z"]), now);
    service.list_tier(1, passing(["m", "n"]), now);
    assert_eq!(shares(&service, now, 400).keys().collect::<Vec<_>>(), ["a", "b"]);
    eject(&service, "a", now);
    assert_eq!(shares(&service, now, 400).keys().collect::<Vec<_>>(), ["b"], "only when none is left");
    lease_of(&service, "b", now).unreachable(now);
    assert_eq!(shares(&service, now, 400).keys().collect::<Vec<_>>(), ["m", "n"]);
    let ill = ["m", "n"].map(|id| listing(id, 1, Health::Critical)).to_vec();
    service.list_tier(1, ill, now);
    assert_eq!(shares(&service, now, 400).keys().collect::<Vec<_>>(), ["z"]);
    // A request now and then finds out whether the service itself is back.
    let later = now + Duration::from_millis(600);
    let mut rng = fastrand::Rng::with_seed(3);
    let ask = |entropy| Ask { tried: &[], now: later, entropy, key: None };
    let probe = (0..200).map(|_| service.lease(&ask(rng.u64(..))).unwrap()).find(|l| &*l.endpoint().listing.id == "b");
    assert!(probe.unwrap().answered(later, later, true).is_some());
    assert_eq!(shares(&service, later, 400).keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn what_two_tiers_list_belongs_to_the_first() {
    let (service, now) = service(Policy::default(), passing(["a"]));
    let number = endpoint(&service, "a").number();
    service.list_tier(1, passing(["a", "m"]), now);
    assert_eq!(shares(&service, now, 50).keys().collect::<Vec<_>>(), ["a"]);
    service.list(Vec::new(), now);
    assert_eq!(shares(&service, now, 50).len(), 2, "then it is one of the failover's");
    assert_eq!(endpoint(&service, "a").number(), number);
}

#[test]
fn a_zone_keeps_its_traffic_while_seven_tenths_of_it_are_usable() {
    for balance in [Balance::LeastLoaded, Balance::RoundRobin, Balance::Random] {
        let policy = Policy { zone: Some("a".into()), balance, ..Policy::default() };
        let near: Vec<String> = (0..10).map(|at| format!("near-{at}")).collect();
        let near: Vec<&str> = near.iter().map(String::as_str).collect();
        let far = [in_zone("b", &["far-b"]), in_zone("c", &["far-c1", "far-c2"]), passing(["far-none"])].concat();
        let (service, now) = service(policy, [in_zone("a", &near), far].concat());
        let far_share = |picks| {
            let counts = shares(&service, now, picks);
            counts.iter().filter(|(id, _)| id.starts_with("far")).map(|(_, count)| *count).sum::<u32>()
        };
        for id in &near[..2] {
            eject(&service, id, now);
        }
        lease_of(&service, near[2], now).unreachable(now);
        assert_eq!(far_share(1_000), 0, "{balance:?}: seven of ten are enough");
        for id in &near[3..5] {
            lease_of(&service, id, now).unreachable(now);
        }
        // Five tenths of seven stay.
        assert!((2_600..3_100).contains(&far_share(10_000)), "{balance:?}: {}", far_share(10_000));
        for id in &near[5..] {
            lease_of(&service, id, now).unreachable(now);
        }
        assert_eq!(far_share(1_000), 1_000, "{balance:?}");
        assert_eq!(shares(&service, now, 1_000).len(), 4, "in proportion to all others");
    }
}

#[test]
fn critical_endpoints_of_a_zone_count_as_lost_and_one_without_others_keeps_all() {
    let policy = Policy { zone: Some("a".into()), balance: Balance::Random, ..Policy::default() };
    let mut listed = [in_zone("a", &["n1", "n2"]), in_zone("b", &["f1"])].concat();
    let (service, now) = service(policy.clone(), listed.clone());
    assert!(!shares(&service, now, 300).contains_key("f1"));
    listed[0].health = Health::Critical;
    service.list(listed.clone(), now);
    let far = shares(&service, now, 10_000)["f1"];
    assert!((2_600..3_100).contains(&far), "five tenths of seven stay: {far}");
    listed[2].health = Health::Critical;
    service.list(listed, now);
    assert_eq!(shares(&service, now, 100)["n2"], 100);
    service.reconfigure(Policy { zone: Some("elsewhere".into()), ..policy });
    assert_eq!(shares(&service, now, 100)["n2"], 100, "a zone without an endpoint has no say");
}

#[test]
fn a_newcomer_ramps_up_within_ten_seconds() {
    for balance in [Balance::LeastLoaded, Balance::RoundRobin, Balance::Random] {
        let (service, now) = service(Policy { balance, ..Policy::default() }, passing(["a", "b", "c"]));
        let even = shares(&service, now, 3_000);
        assert!(
            even.values().all(|count| (850..1_150).contains(count)),
            "{balance:?}: the first ones do not: {even:?}"
        );
        service.list(passing(["a", "b", "c", "d"]), now + Duration::from_secs(60));
        let share = |seconds: u64| shares(&service, now + Duration::from_secs(60 + seconds), 8_000).get("d").copied();
        let (first, middle, last) = (share(0).unwrap(), share(5).unwrap(), share(10).unwrap());
        assert!((120..500).contains(&first), "{balance:?}: about a tenth of its 2,000: {first}");
        assert!((800..1_600).contains(&middle), "{balance:?}: about half: {middle}");
        assert!((1_800..2_200).contains(&last), "{balance:?}: all: {last}");
    }
}

#[test]
fn hashes_do_not_ramp_and_a_lone_newcomer_takes_everything() {
    let (service, now) = service(Policy { balance: Balance::Maglev, ..Policy::default() }, passing(["a"]));
    service.list(passing(["a", "b"]), now);
    let to_b = (0..1_000).filter(|key| {
        let ask = Ask { tried: &[], now, entropy: *key, key: Some(*key) };
        &*service.lease(&ask).unwrap().endpoint().listing.id == "b"
    });
    assert!((400..600).contains(&to_b.count()));
    service.reconfigure(Policy::default());
    service.list(passing(["b"]), now);
    assert_eq!(shares(&service, now, 100)["b"], 100);
}

proptest! {
    #[test]
    fn succession_lists_what_was_listed_and_keeps_numbers(
        before in prop::collection::btree_set("[a-d]{1,2}", 0..8),
        after in prop::collection::btree_set("[a-d]{1,2}", 0..8),
    ) {
        let epoch = Instant::now();
        let list = |ids: &BTreeSet<String>| {
            vec![ids.iter().rev().map(|id| listing(id, 1, Health::Passing)).collect::<Vec<_>>()]
        };
        let policy = Arc::new(Policy { balance: Balance::RoundRobin, ..Policy::default() });
        let shared = Arc::new(Shared::new(policy.breaker, epoch));
        let first = EndpointSet::empty(&policy, &shared).succeed(&list(&before), &policy, &shared, epoch).0;
        let second = first.succeed(&list(&after), &policy, &shared, epoch).0;
        let ids: Vec<String> = second.listings().map(|l| l.id.to_string()).collect();
        prop_assert_eq!(ids, after.iter().cloned().collect::<Vec<_>>());
        for old in first.all() {
            let kept = second.all().iter().find(|e| e.listing.id == old.listing.id);
            prop_assert_eq!(kept.is_some(), old.is_wanted());
            if let Some(kept) = kept {
                prop_assert_eq!(kept.number(), old.number());
            }
        }
    }
}
