//! Tests of `rotate`.

use super::*;
use crate::identity::testing::{Authority, HOUR, TRUST_DOMAIN, valid};

fn keeper() -> Keeper {
    Keeper::new(ServiceName::parse("web").unwrap(), Arc::default(), Metrics::new())
}

/// A leaf of `web` that begins and ends at these seconds from now.
fn leaf(root: &Authority, from: i64, to: i64) -> Material {
    root.leaf("web", |p| valid(p, from, to)).material(&[root])
}

fn serial(keeper: &Keeper) -> Option<String> {
    keeper.current.peek().as_ref().as_ref().map(|identity| identity.serial.clone())
}

#[test]
fn the_same_parts_again_change_nothing() {
    let (root, mut keeper) = (Authority::root("root"), keeper());
    let versions = keeper.current.versions();
    let material = root.material("web");
    assert_eq!(keeper.install(material.clone()), Ok(Change::Leaf));
    assert_eq!(keeper.install(material), Ok(Change::Nothing));
    assert_eq!(*versions.borrow(), 1);
    let page = String::from_utf8(keeper.metrics.render()).unwrap();
    for kind in ["leaf", "root"] {
        assert!(
            page.contains(&format!("outrigger_certificate_expiry_timestamp_seconds{{kind=\"{kind}\"}} 1")),
            "{page}"
        );
    }
}

#[test]
fn a_leaf_that_ended_or_is_another_services_is_never_installed() {
    let (root, mut keeper) = (Authority::root("root"), keeper());
    assert!(matches!(keeper.install(leaf(&root, -7200, -1)), Err(InstallError::Expired { .. })));
    assert!(matches!(keeper.install(root.material("web2")), Err(InstallError::OtherService { .. })));
    assert_eq!(serial(&keeper), None);
    assert_eq!(keeper.install(root.material("web")), Ok(Change::Leaf));
}

#[test]
fn an_older_leaf_does_not_replace_a_newer_one_but_a_shorter_new_one_does() {
    let (root, mut keeper) = (Authority::root("root"), keeper());
    keeper.install(leaf(&root, -100, 3600)).unwrap();
    let installed = serial(&keeper);
    assert!(matches!(keeper.install(leaf(&root, -200, 3500)), Err(InstallError::Older { .. })));
    assert_eq!(serial(&keeper), installed);
    assert_eq!(keeper.install(leaf(&root, -50, 600)), Ok(Change::Leaf));
    assert_eq!(keeper.install(leaf(&root, -300, 7200)), Ok(Change::Leaf), "it began earlier and serves longer");
}

#[test]
fn after_a_change_of_authority_any_leaf_of_the_new_one_will_do() {
    let (old, new, mut keeper) = (Authority::root("old"), Authority::root("new"), keeper());
    keeper.install(leaf(&old, -100, 3600)).unwrap();
    assert_eq!(keeper.install(leaf(&new, -200, 3500)), Ok(Change::Leaf));
}

#[test]
fn a_leaf_of_no_trusted_root_is_refused_until_its_root_is_known() {
    let (old, new, mut keeper) = (Authority::root("old"), Authority::root("new"), keeper());
    let first = old.leaf("web", |_| ());
    keeper.install(first.material(&[&old])).unwrap();
    let next = new.leaf("web", |p| valid(p, -10, 3600));
    let refused = keeper.install(next.material(&[&old]));
    assert!(matches!(refused, Err(InstallError::Identity(IdentityError::NotOfRoots(_)))), "{refused:?}");
    assert_eq!(keeper.install(first.material(&[&old, &new])), Ok(Change::Roots), "trust comes first");
    assert_eq!(keeper.install(next.material(&[&new, &old])), Ok(Change::Leaf));
    assert_eq!(keeper.install(next.material(&[&old, &new])), Ok(Change::Nothing), "order of roots means nothing");
}

#[test]
fn a_root_that_is_taken_away_is_no_longer_trusted_even_if_our_leaf_hangs_on_it() {
    let (old, new, mut keeper) = (Authority::root("old"), Authority::root("new"), keeper());
    let first = old.leaf("web", |_| ());
    keeper.install(first.material(&[&old])).unwrap();
    assert_eq!(keeper.install(first.material(&[&new])), Ok(Change::Roots));
}

#[test]
fn parts_that_do_not_belong_together_are_refused_with_the_reason() {
    let (root, mut keeper) = (Authority::root("root"), keeper());
    let mut of = |change: &dyn Fn(&mut Material)| {
        let mut material = root.material("web");
        change(&mut material);
        keeper.install(material).unwrap_err()
    };
    let other_key = root.leaf("web", |_| ());
    assert_eq!(of(&|m| m.key = other_key.key()), IdentityError::OtherKey.into());
    assert_eq!(of(&|m| m.chain.clear()), IdentityError::NoLeaf.into());
    assert_eq!(of(&|m| m.roots.clear()), IdentityError::NoRoots.into());
    let domains = IdentityError::TrustDomains { leaf: TRUST_DOMAIN.into(), roots: "other".into() };
    assert_eq!(of(&|m| m.trust_domain = "other".into()), domains.into());
}

#[test]
fn renewal_is_due_at_two_thirds_and_ever_more_often_after() {
    let begin = SystemTime::UNIX_EPOCH + HOUR;
    let end = begin + 3 * HOUR;
    let at = |hours: f64| renew_in(begin, end, begin + HOUR.mul_f64(hours));
    assert_eq!(at(0.0), 2 * HOUR);
    assert_eq!(at(1.5), HOUR / 2);
    assert_eq!(at(2.0), HOUR / 4);
    assert_eq!(at(2.8), HOUR / 20);
    assert_eq!(at(3.0), Duration::from_secs(30));
    assert_eq!(at(9.0), Duration::from_secs(30));
}

#[test]
fn the_end_of_a_leaf_is_near_in_its_last_tenth() {
    let begin = SystemTime::UNIX_EPOCH;
    let at = |minutes: u32| nearness(begin, begin + HOUR, begin + HOUR / 60 * minutes);
    assert_eq!([at(0), at(53), at(55), at(61)], [Nearness::Far, Nearness::Far, Nearness::Near, Nearness::Over]);
}

#[test]
fn pauses_double_to_half_a_minute_and_are_jittered() {
    let mut backoff = Backoff::new();
    let first = backoff.pause();
    assert!(first >= FIRST / 2 && first <= FIRST);
    let last = (0..20).map(|_| backoff.pause()).last().unwrap();
    assert!(last >= LONGEST / 2 && last <= LONGEST);
    backoff.reset();
    assert!(backoff.pause() <= FIRST);
}
