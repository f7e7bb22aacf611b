//! Ring and table: stable, fair, and when an endpoint leaves only its share of the keys moves.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::set_tests::{eject, endpoint, lease_of, listing, service};
use super::*;

const BOTH: [Balance; 2] = [Balance::RingHash, Balance::Maglev];
const KEYS: u64 = 4_000;

fn policy(balance: Balance) -> Policy {
    Policy { balance, ..Policy::default() }
}

fn listed(count: usize, weight: u32) -> Vec<Listing> {
    (0..count).map(|at| listing(&format!("endpoint-{at}"), weight, Health::Passing)).collect()
}

/// Where each key goes.
fn homes(service: &Service, now: Instant) -> BTreeMap<u64, String> {
    let home = |key: u64| {
        // Keys that differ in their last bits only, and chance that must not matter.
        let ask = Ask { tried: &[], now, entropy: key.wrapping_mul(0x1234_5678_9abc_def1), key: Some(key) };
        (key, service.lease(&ask).unwrap().endpoint().listing.id.to_string())
    };
    (0..KEYS).map(home).collect()
}

#[test]
fn where_a_key_goes_is_the_same_in_every_sidecar_and_version() {
    let of = |balance| {
        let (service, now) = service(policy(balance), listed(5, 1));
        homes(&service, now).into_values().take(12).map(|id| id[9..].to_owned()).collect::<String>()
    };
    // Changing these is a breaking change: every key would move at an upgrade.
    assert_eq!((&*of(Balance::RingHash), &*of(Balance::Maglev)), ("400003144041", "300140333313"));
}

#[test]
fn keys_spread_evenly() {
    for (balance, tolerance) in [(Balance::RingHash, 0.3), (Balance::Maglev, 0.15)] {
        let (service, now) = service(policy(balance), listed(10, 7));
        let mut counts = BTreeMap::<String, u32>::new();
        for id in homes(&service, now).into_values() {
            *counts.entry(id).or_default() += 1;
        }
        for (id, count) in counts {
            let off = f64::from(count) / (KEYS as f64 / 10.0) - 1.0;
            assert!(off.abs() < tolerance, "{balance:?}: {id} has {count}");
        }
    }
}

#[test]
fn an_ejected_endpoint_s_keys_spread_over_the_others_and_come_back() {
    for balance in BOTH {
        let (service, now) = service(policy(balance), listed(8, 1));
        let before = homes(&service, now);
        assert!(eject(&service, "endpoint-3", now).is_some());
        let during = homes(&service, now);
        assert_eq!(during, homes(&service, now), "{balance:?}: consistently");
        let mut heirs = BTreeMap::<&str, u32>::new();
        for (key, home) in &before {
            if home == "endpoint-3" {
                *heirs.entry(&during[key]).or_default() += 1;
            } else {
                assert_eq!(home, &during[key], "{balance:?}: nobody else moves");
            }
        }
        assert!(heirs.len() == 7, "{balance:?}: {heirs:?}");
        let due = now + std::time::Duration::from_secs(30);
        lease_of(&service, "endpoint-3", due).answered(due, due, true);
        assert_eq!(before, homes(&service, due), "{balance:?}");
    }
}

#[test]
fn a_retry_s_second_choice_is_the_same_each_time() {
    for balance in BOTH {
        let (service, now) = service(policy(balance), listed(8, 1));
        let tried = [endpoint(&service, &homes(&service, now)[&7]).number()];
        let second = |entropy| {
            let ask = Ask { tried: &tried, now, entropy, key: Some(7) };
            service.lease(&ask).unwrap().endpoint().number()
        };
        assert_eq!(second(1), second(u64::MAX / 3));
        assert_ne!(second(1), tried[0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn when_one_leaves_about_its_share_of_the_keys_moves(
        count in 2usize..60,
        gone in any::<prop::sample::Index>(),
        weight in prop_oneof![Just(1u32), Just(10), Just(1000)],
        ring in any::<bool>(),
    ) {
        let balance = if ring { Balance::RingHash } else { Balance::Maglev };
        let all = listed(count, weight);
        let (service, now) = service(policy(balance), all.clone());
        let before = homes(&service, now);
        let gone = gone.index(count);
        let name = all[gone].id.to_string();
        let mut rest = all;
        rest.remove(gone);
        service.list(rest, now);
        let after = homes(&service, now);
        let share = KEYS as f64 / count as f64;
        let lost = before.values().filter(|home| **home == name).count() as f64;
        prop_assert!(lost < share * 1.5 + 20.0, "{lost} of {share}");
        let moved = before.iter().filter(|(key, home)| **home != name && after[*key] != **home).count() as f64;
        // The ring moves nobody else; Maglev's table a few, which is the price of its evenness.
        let allowed = if ring { 0.0 } else { share * 0.5 + KEYS as f64 * 0.02 };
        prop_assert!(moved <= allowed, "{balance:?}: {moved} of {count}'s others moved, {share} is a share");
        // And whoever comes back takes its own keys and no other.
        prop_assert!(after.values().all(|home| *home != name));
    }

    #[test]
    fn weights_decide_how_many_keys_an_endpoint_has(heavy in 2u32..10, ring in any::<bool>()) {
        let balance = if ring { Balance::RingHash } else { Balance::Maglev };
        let mut all = listed(6, 10);
        all[2].weight = 10 * heavy;
        let (service, now) = service(policy(balance), all);
        let share = homes(&service, now).values().filter(|home| *home == "endpoint-2").count() as f64 / KEYS as f64;
        let fair = f64::from(heavy) / f64::from(heavy + 5);
        prop_assert!((share / fair - 1.0).abs() < 0.25, "{balance:?}: {share} where {fair} is fair");
    }
}
