//! The retry budget: never more than a share of the requests and the floor.

use proptest::prelude::*;

use super::budget::RetryBudget;
use super::policy::BudgetPolicy;

#[test]
fn with_every_request_failing_retries_stay_within_a_fifth_and_the_floor() {
    let budget = RetryBudget::new(BudgetPolicy::default());
    let mut retries = 0;
    for millis in 0..10_000u64 {
        budget.deposit();
        while budget.withdraw(millis) {
            retries += 1;
        }
    }
    assert!((2_000..=2_000 + 10 * 10 + 10).contains(&retries), "{retries} retries for 10,000 requests in 10 s");
}

#[test]
fn a_quiet_service_may_still_retry() {
    let budget = RetryBudget::new(BudgetPolicy::default());
    assert!((0..10).all(|_| budget.withdraw(0)));
    assert!(!budget.withdraw(0));
    assert!(budget.withdraw(150));
    assert_eq!((0..100).filter(|_| budget.withdraw(3_600_000)).count(), 10, "an hour earns one second's worth");
}

#[test]
fn savings_are_bounded() {
    let budget = RetryBudget::new(BudgetPolicy::default());
    (0..1_000_000).for_each(|_| budget.deposit());
    assert_eq!((0..10_000).filter(|_| budget.withdraw(0)).count(), 500);
}

proptest! {
    #[test]
    fn retries_never_exceed_ratio_times_requests_plus_the_floor(
        ratio in 0u32..=100,
        floor in 0u32..50,
        steps in prop::collection::vec((0u64..400, 0u32..30, 0u32..30), 1..80),
    ) {
        let budget = RetryBudget::new(BudgetPolicy { ratio: f64::from(ratio) / 100.0, min_per_second: floor });
        let (mut now, mut requests, mut retries) = (0, 0, 0);
        for (millis, asked, wanted) in steps {
            now += millis;
            (0..asked).for_each(|_| budget.deposit());
            requests += asked;
            retries += (0..wanted).filter(|_| budget.withdraw(now)).count() as u32;
            let allowed = f64::from(requests * ratio) / 100.0 + f64::from(floor) * (1.0 + now as f64 / 1000.0);
            prop_assert!(f64::from(retries) <= allowed + 1e-6, "{retries} of {allowed}");
        }
    }
}
