//! Keys of an issuer: read from a JWK set (RFC 7517) or PEM, each bound to the algorithms that it may verify.

use std::fmt::{Debug, Formatter};

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};
use serde_json::{Map, Value};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::jose;
pub use crate::filter::consumers::JwtAlgorithm as Algorithm;

/// What kind of key an algorithm works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
    Secret,
}

impl Algorithm {
    /// Those that verify with a public key.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) const PUBLIC: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => Kind::Rsa,
            Self::Es256 => Kind::P256,
            Self::Es384 => Kind::P384,
            Self::Es512 => Kind::P521,
            Self::EdDsa => Kind::Ed25519,
            Self::Hs256 | Self::Hs384 | Self::Hs512 => Kind::Secret,
        }
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es256 | Self::Es384 | Self::Es512 | Self::EdDsa | Self::Hs256 | Self::Hs384 | Self::Hs512 => {
                return None;
            }
        })
    }

    /// `None` for the symmetric ones.
    fn verification(self) -> Option<&'static dyn VerificationAlgorithm> {
        match self {
            // FIXED: r and s side by side (RFC 7518 §3.4); a DER-encoded signature has another length.
            Self::Es256 => Some(&signature::ECDSA_P256_SHA256_FIXED),
            Self::Es384 => Some(&signature::ECDSA_P384_SHA384_FIXED),
            Self::Es512 => Some(&signature::ECDSA_P521_SHA512_FIXED),
            Self::EdDsa => Some(&signature::ED25519),
            Self::Hs256 | Self::Hs384 | Self::Hs512 => None,
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => {
                self.rsa().map(|rsa| rsa as &dyn VerificationAlgorithm)
            }
        }
    }
}

/// A public key with the algorithms that it is pinned to.
pub struct Key {
    kid: Option<Box<str>>,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

impl Key {
    /// From the text of a PEM file: a public key, as `openssl pkey -pubout` writes it, for one algorithm.
    ///
    /// # Errors
    /// When it is no public key of the algorithm's kind.
    pub fn from_pem(pem: &str, algorithm: Algorithm) -> Result<Self, &'static str> {
        let verification = algorithm.verification().ok_or("the algorithm has no public key")?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| "no PEM")?;
        let der = pem.contents.as_slice();
        let rsa = match pem.label.as_str() {
            "PUBLIC KEY" => {
                let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| "no public key")?;
                match info.parsed() {
                    Ok(PublicKey::RSA(rsa)) => Some((trim(rsa.modulus).to_vec(), trim(rsa.exponent).to_vec())),
                    Ok(_) | Err(_) => None,
                }
            }
            // PKCS #1.
            "RSA PUBLIC KEY" => {
                let (_, rsa) = RSAPublicKey::from_der(der).map_err(|_| "no RSA public key")?;
                Some((trim(rsa.modulus).to_vec(), trim(rsa.exponent).to_vec()))
            }
            _ => return Err("no PEM of a public key"),
        };
        if let Some((n, e)) = rsa {
            check_rsa(&n, &e)?;
        }
        let key = ParsedPublicKey::new(verification, der).map_err(|_| "the key does not fit the algorithm")?;
        Ok(Self { kid: None, verifiers: vec![(algorithm, key)] })
    }

    fn from_jwk(jwk: &Map<String, Value>, allowed: &[Algorithm]) -> Result<Self, &'static str> {
        let text = |name: &str| match jwk.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err("a member is no text"),
        };
        let number = |name: &str| text(name)?.ok_or("a number of the key is missing").and_then(jose::bytes);
        if jwk.contains_key("d") || jwk.contains_key("k") {
            return Err("a key that signs does not belong into a set that others read");
        }
        if text("use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("the key is not for signatures");
        }
        if let Some(operations) = jwk.get("key_ops")
            && !operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"))
        {
            return Err("the key is not for verifying");
        }
        let (kind, public) = match (text("kty")?, text("crv")?) {
            (Some("RSA"), _) => (Kind::Rsa, Public::Rsa { n: number("n")?, e: number("e")? }),
            (Some("EC"), Some("P-256")) => (Kind::P256, point(&number("x")?, &number("y")?, 32)?),
            (Some("EC"), Some("P-384")) => (Kind::P384, point(&number("x")?, &number("y")?, 48)?),
            (Some("EC"), Some("P-521")) => (Kind::P521, point(&number("x")?, &number("y")?, 66)?),
            (Some("OKP"), Some("Ed25519")) => (Kind::Ed25519, Public::Bytes(number("x")?)),
            _ => return Err("a kind of key that is not used"),
        };
        let pinned = match text("alg")? {
            None => None,
            Some(name) => Some(Algorithm::named(name).ok_or("an algorithm that is not used")?),
        };
        let fits = |algorithm: &&Algorithm| algorithm.kind() == kind && pinned.is_none_or(|one| one == **algorithm);
        let verifiers: Vec<_> = allowed
            .iter()
            .filter(fits)
            .map(|algorithm| Ok((*algorithm, public.parsed(*algorithm)?)))
            .collect::<Result<_, &'static str>>()?;
        if verifiers.is_empty() {
            return Err("no accepted algorithm fits the key");
        }
        Ok(Self { kid: text("kid")?.map(Into::into), verifiers })
    }

    /// Whether `signature` is this key's, by an algorithm that it is pinned to.
    #[must_use]
    pub fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let verifier = self.verifiers.iter().find(|(known, _)| *known == algorithm);
        verifier.is_some_and(|(_, key)| key.verify_sig(signed, signature).is_ok())
    }

    fn takes(&self, algorithm: Algorithm) -> bool {
        self.verifiers.iter().any(|(known, _)| *known == algorithm)
    }
}

impl Debug for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let algorithms: Vec<&str> = self.verifiers.iter().map(|(algorithm, _)| algorithm.as_str()).collect();
        f.debug_struct("Key").field("kid", &self.kid).field("algorithms", &algorithms).finish()
    }
}

enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Bytes(Vec<u8>),
}

impl Public {
    fn parsed(&self, algorithm: Algorithm) -> Result<ParsedPublicKey, &'static str> {
        match (self, algorithm.rsa(), algorithm.verification()) {
            (Self::Rsa { n, e }, Some(rsa), _) => {
                let (n, e) = (trim(n), trim(e));
                check_rsa(n, e)?;
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(rsa).map_err(|_| "no RSA key")
            }
            (Self::Bytes(bytes), None, Some(other)) => {
                ParsedPublicKey::new(other, bytes).map_err(|_| "no point of the curve")
            }
            _ => Err("the key does not fit the algorithm"),
        }
    }
}

/// Some issuers write the sign byte of a DER number (RFC 7518 §6.3.1.1 forbids it).
fn trim(number: &[u8]) -> &[u8] {
    &number[number.iter().position(|byte| *byte != 0).unwrap_or(number.len())..]
}

/// 2048 to 8192 bits (RFC 7518 §3.3 and what a verification may cost), and no exponent that loose padding could be
/// forged for (CVE-2006-4339): 65537 and more, at most 32 bits.
fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), &'static str> {
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    let exponent = (e.len() <= 4).then(|| e.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)));
    match exponent {
        _ if !(2048..=8192).contains(&bits) => Err("an RSA key of less than 2048 or more than 8192 bits"),
        Some(exponent) if exponent >= 65537 && exponent % 2 == 1 => Ok(()),
        Some(_) | None => Err("an RSA key with a public exponent other than 65537 to 2^32"),
    }
}

/// An uncompressed point (SEC 1 §2.3.3); both coordinates have the field's full length (RFC 7518 §6.2.1.2).
fn point(x: &[u8], y: &[u8], length: usize) -> Result<Public, &'static str> {
    if x.len() != length || y.len() != length {
        return Err("a coordinate of another length than the curve's");
    }
    Ok(Public::Bytes([&[4], x, y].concat()))
}

/// The keys of one issuer at one time.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// Keys of one set.
const MOST_KEYS: usize = 100;
/// Keys that one token is tried with: without `kid`, each costs a verification.
const MOST_TRIES: usize = 8;

/// What a set says to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Bad,
    /// The set has no key of the token's `kid` and algorithm.
    Unknown,
}

impl KeySet {
    /// Reads a JWK set for the algorithms of `allowed`. Keys that are for something else are left out, as other
    /// readers have uses for them (RFC 7517 §5).
    ///
    /// # Errors
    /// When the text is no JWK set, or none of its keys can be used.
    pub fn parse(text: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        let set = jose::object(text).map_err(|fault| format!("{fault} of keys"))?;
        let Some(listed) = set.get("keys").and_then(Value::as_array) else {
            return Err("no list of keys".into());
        };
        if listed.len() > MOST_KEYS {
            return Err(format!("more than {MOST_KEYS} keys"));
        }
        let (mut keys, mut faults) = (Vec::new(), Vec::new());
        for jwk in listed {
            match jwk.as_object().ok_or("no object").and_then(|jwk| Key::from_jwk(jwk, allowed)) {
                Ok(key) => keys.push(key),
                Err(fault) => faults.push(fault),
            }
        }
        if keys.is_empty() {
            faults.dedup();
            let why = if faults.is_empty() { "it is empty".into() } else { faults.join(", ") };
            return Err(format!("no key of the set can be used: {why}"));
        }
        Ok(Self { keys })
    }

    /// Whether a key of the set signed. A `kid` chooses among the keys, as text and nothing else; keys without one of
    /// their own are tried, too.
    pub(super) fn verify(&self, kid: Option<&str>, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> Verdict {
        let named = |key: &&Key| match (kid, key.kid.as_deref()) {
            (Some(wanted), Some(found)) => wanted == found,
            (None, _) | (_, None) => true,
        };
        let mut candidates = self.keys.iter().filter(|key| key.takes(algorithm)).filter(named).peekable();
        if candidates.peek().is_none() {
            return Verdict::Unknown;
        }
        let good = candidates.take(MOST_TRIES).any(|key| key.verifies(algorithm, signed, signature));
        if good { Verdict::Good } else { Verdict::Bad }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
