//! Secrets that only have to be recognised: kept as keyed digests under a random key of this process, so that no memory
//! dump, log or file holds a credential that could be used elsewhere.

use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use aws_lc_rs::{hmac, rand};
use subtle::ConstantTimeEq;

/// HMAC-SHA256 of a secret. Equal secrets have equal fingerprints within one process, and in no other.
#[derive(Clone, Copy)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of several parts that belong together, such as a name and its password; where a part ends counts.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut context = hmac::Context::with_key(key());
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        Self(digest)
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Fingerprint {}

impl Hash for Fingerprint {
    /// The digest is as good as random already.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        state.write_u64(u64::from_le_bytes(first));
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

fn key() -> &'static hmac::Key {
    static KEY: OnceLock<hmac::Key> = OnceLock::new();
    KEY.get_or_init(|| {
        hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new()).expect("the system has random bytes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_parts_have_the_same_fingerprint() {
        let of = |parts: &[&str]| Fingerprint::of(&parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        assert_eq!(of(&["alice", "s3cret"]), of(&["alice", "s3cret"]));
        for other in [&["alice", "s3cre"][..], &["alices", "3cret"], &["alices3cret"], &["alice", "s3cret", ""]] {
            assert_ne!(of(&["alice", "s3cret"]), of(other), "{other:?}");
        }
        assert_eq!(format!("{:?}", of(&["s3cret"])), "Fingerprint(…)");
    }
}
