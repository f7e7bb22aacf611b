//! Counters: exact under threads, all or nothing over windows, bounded with any number of keys, no limit to be escaped.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::windows::Unit;
use super::*;

fn quotas(at: u64, limits: &[(Unit, u32)]) -> Vec<Quota> {
    limits.iter().map(|(unit, limit)| Quota { unit: *unit, limit: *limit, window: unit.window(at) }).collect()
}

const T: u64 = 1_700_000_000;

#[test]
fn a_window_gives_its_limit_and_no_more() {
    let counters = Counters::new(1);
    let now = quotas(T, &[(Unit::Minute, 3)]);
    let results: Vec<(bool, u32)> =
        (0..5).map(|_| counters.take(0, b"a", &now)).map(|taken| (taken.granted, taken.used[0])).collect();
    assert_eq!(results, [(true, 1), (true, 2), (true, 3), (false, 3), (false, 3)]);
    assert!(counters.take(0, b"b", &now).granted && counters.take(1, b"a", &now).granted);
    assert!(counters.take(0, b"a", &quotas(T + 60, &[(Unit::Minute, 3)])).granted);
}

#[test]
fn what_one_window_refuses_no_other_counts() {
    let counters = Counters::new(2);
    let limits = [(Unit::Second, 1), (Unit::Hour, 3)];
    let mut granted = 0;
    // Ten tries a second, for four seconds.
    for at in (0..4).flat_map(|second| [T + second; 10]) {
        granted += u32::from(counters.take(0, b"a", &quotas(at, &limits)).granted);
    }
    assert_eq!(granted, 3);
}

#[test]
fn threads_never_get_more_than_the_limit() {
    let counters = Arc::new(Counters::new(2));
    let now = quotas(T, &[(Unit::Minute, 1000), (Unit::Hour, 1500)]);
    let threads: Vec<_> = (0..64)
        .map(|_| {
            let (counters, now) = (counters.clone(), now.clone());
            std::thread::spawn(move || (0..100).filter(|_| counters.take(0, b"a", &now).granted).count())
        })
        .collect();
    assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 1000);
}

#[test]
fn a_clock_that_jitters_over_a_boundary_opens_no_second_window() {
    let counters = Counters::new(1);
    let limits = [(Unit::Second, 2)];
    let (before, after) = (quotas(T, &limits), quotas(T + 1, &limits));
    let granted = [&after, &before, &after, &before, &after, &before]
        .iter()
        .filter(|now| counters.take(0, b"a", now).granted)
        .count();
    assert_eq!(granted, 2);
    // Set back by an hour: nobody waits for that hour to come again.
    assert!(counters.take(0, b"a", &quotas(T - 3600, &limits)).granted);
}

#[test]
fn a_million_hostile_keys_stay_below_64_mib_and_exact() {
    for limits in [&[(Unit::Minute, 1)][..], &[(Unit::Minute, 1), (Unit::Hour, 1)]] {
        let counters = Counters::new(limits.len());
        let now = quotas(T, limits);
        for key in 0..1_000_000_u32 {
            let taken = counters.take(0, &key.to_le_bytes(), &now);
            assert!(taken.granted && !taken.shared, "{key}");
        }
        assert!(counters.bytes() < 64 << 20, "{} bytes", counters.bytes());
        for key in (0..1_000_000_u32).step_by(997) {
            assert!(!counters.take(0, &key.to_le_bytes(), &now).granted, "{key}");
        }
    }
}

#[test]
fn six_windows_and_a_million_keys_stay_below_64_mib() {
    let counters = Counters::new(6);
    let now = quotas(T, &Unit::ALL.map(|unit| (unit, 10)));
    for key in 0..1_000_000_u32 {
        counters.take(0, &key.to_le_bytes(), &now);
    }
    assert!(counters.bytes() < 64 << 20, "{} bytes", counters.bytes());
}

#[test]
fn who_floods_it_with_keys_resets_no_counter_and_escapes_no_limit() {
    let counters = Counters::with_budget(1, 64 * 1024);
    let now = quotas(T, &[(Unit::Minute, 5)]);
    let ask = |key: &[u8], now: &[Quota]| counters.take(0, key, now);
    for _ in 0..5 {
        assert!(ask(b"real", &now).granted);
    }
    let mut late = 0;
    for key in 0..100_000_u32 {
        late += u32::from(ask(&key.to_le_bytes(), &now).shared);
    }
    assert!(late > 90_000, "{late} shared");
    assert!(!ask(b"real", &now).granted, "the counter of a real key was reset");
    // A key that shares gets its limit at most.
    let newcomer: Vec<Taken> = (0..50).map(|_| ask(b"newcomer", &now)).collect();
    assert!(newcomer.iter().all(|taken| taken.shared) && newcomer.iter().filter(|taken| taken.granted).count() <= 5);
    assert!(counters.bytes() <= 64 * 1024 + (ROWS * CELLS * 8 * PARTS), "{} bytes", counters.bytes());
    // The next window is everybody's again.
    let next = quotas(T + 60, &[(Unit::Minute, 5)]);
    assert!((0..5).all(|_| ask(b"newcomer", &next).granted) && !ask(b"newcomer", &next).granted);
    assert!(!ask(b"newcomer", &next).shared);
}

#[test]
fn old_keys_make_room_for_new_ones() {
    let counters = Counters::new(1);
    for minute in 0..50 {
        let now = quotas(T + 60 * minute, &[(Unit::Minute, 1)]);
        for key in 0..10_000_u64 {
            assert!(counters.take(0, &(minute << 32 | key).to_le_bytes(), &now).granted);
        }
    }
    assert!(counters.bytes() < 1 << 20, "{} bytes", counters.bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against a model that forgets nothing: in a table too small for its keys, no key ever gets more than the model
    /// grants it, and one with its own counter gets exactly that.
    #[test]
    fn never_more_than_the_model(asked in proptest::collection::vec((0_u16..3000, 0_u64..3), 2000..6000)) {
        let counters = Counters::with_budget(2, 64 * 24 * LEAST);
        let mut model: HashMap<(u16, u64), u32> = HashMap::new();
        let (mut exact, mut any_shared) = (std::collections::HashSet::new(), false);
        let mut asked = asked;
        asked.sort_by_key(|(_, second)| *second);
        for (key, second) in asked {
            let key = key % 1500;
            let now = quotas(T + second, &[(Unit::Second, 2), (Unit::Year, 4)]);
            let in_second = *model.get(&(key, second)).unwrap_or(&0);
            let in_year: u32 = (0..3).filter_map(|s| model.get(&(key, s))).sum();
            let may = in_second < 2 && in_year < 4;
            let taken = counters.take(0, &key.to_le_bytes(), &now);
            prop_assert!(may || !taken.granted, "{} got more than its limit", key);
            any_shared |= taken.shared;
            if !any_shared {
                exact.insert(key);
            }
            if exact.contains(&key) {
                prop_assert!(taken.granted == may && !taken.shared, "{} has a counter of its own", key);
            }
            if taken.granted {
                *model.entry((key, second)).or_default() += 1;
            }
        }
    }
}
