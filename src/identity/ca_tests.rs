//! Tests of `ca`.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::identity::{Identity, check_chain};

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

#[test]
fn a_ca_signs_leaves_that_make_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::init(&dir.path().join("certs"), "dev.local").unwrap();
    let material = ca.material(&name("web"), DEFAULT_TTL).unwrap();
    let identity = Identity::new(&material).unwrap();
    check_chain(&identity, &material.chain, &material.roots).unwrap();
    assert_eq!(identity.id.as_str(), "spiffe://dev.local/ns/default/dc/dc1/svc/web");
    let life = identity.not_after.duration_since(identity.not_before).unwrap();
    assert_eq!(life, DEFAULT_TTL + BACKDATED);
    let again = Ca::open(&dir.path().join("certs")).unwrap();
    assert_eq!(again.trust_domain, "dev.local");
}

#[test]
fn a_ca_is_never_overwritten_and_its_key_is_private() {
    let dir = tempfile::tempdir().unwrap();
    Ca::init(dir.path(), DEFAULT_TRUST_DOMAIN).unwrap();
    let before = fs::read(dir.path().join(KEY)).unwrap();
    assert!(matches!(Ca::init(dir.path(), DEFAULT_TRUST_DOMAIN), Err(CaError::Exists { .. })));
    fs::remove_file(dir.path().join(CERT)).unwrap();
    assert!(matches!(Ca::init(dir.path(), DEFAULT_TRUST_DOMAIN), Err(CaError::Exists { .. })), "half a CA is one, too");
    assert_eq!(fs::read(dir.path().join(KEY)).unwrap(), before);
    assert_eq!(fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn issued_files_are_replaced_whole_and_the_key_is_private() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ca = Ca::init(dir.path(), DEFAULT_TRUST_DOMAIN).unwrap();
    for _ in 0..2 {
        let issued = ca.issue(&name("web.v2"), MIN_TTL).unwrap();
        let [cert, key, root] = issued.write(&ca, out.path()).unwrap();
        assert_eq!(fs::read_to_string(cert).unwrap(), issued.cert);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(key).unwrap(), issued.key);
        assert_eq!(fs::read_to_string(root).unwrap(), ca.pem());
    }
    let mut left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["ca.crt", "web.v2.crt", "web.v2.key"]);
}

#[test]
fn a_leaf_lives_at_least_a_minute_and_not_longer_than_its_ca() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::init(dir.path(), DEFAULT_TRUST_DOMAIN).unwrap();
    for ttl in [Duration::ZERO, MIN_TTL / 2, CA_TTL + MIN_TTL, Duration::MAX] {
        assert!(matches!(ca.issue(&name("web"), ttl), Err(CaError::Ttl { .. })), "{ttl:?} must be refused");
    }
}

#[test]
fn a_folder_that_is_no_ca_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(matches!(Ca::open(one.path()), Err(CaError::File { .. })));
    Ca::init(one.path(), DEFAULT_TRUST_DOMAIN).unwrap();
    Ca::init(two.path(), DEFAULT_TRUST_DOMAIN).unwrap();
    fs::copy(one.path().join(KEY), two.path().join(KEY)).unwrap();
    assert!(matches!(Ca::open(two.path()), Err(CaError::NotOurs { .. })), "another CA's key");
    fs::write(two.path().join(CERT), "no PEM").unwrap();
    assert!(matches!(Ca::open(two.path()), Err(CaError::NotOurs { .. })));
}

#[test]
fn a_trust_domain_is_a_lower_case_name() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["", "Dev", "a/b", "a b", "a:1", "ü"] {
        let made = Ca::init(&dir.path().join("x"), bad);
        assert!(matches!(made, Err(CaError::TrustDomain { .. })), "{bad:?} must be refused");
    }
    assert!(!dir.path().join("x").exists());
}
