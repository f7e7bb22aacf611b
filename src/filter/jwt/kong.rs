//! `jwt` in Kong's form: tokens signed with a key of one consumer (`jwt_secrets`), checked in the order and with the
//! outcomes of Kong's `kong/plugins/jwt/handler.lua`. Stricter than Kong in form: what the native form refuses to read is
//! refused here, too.

use std::borrow::Cow;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method};
use rapidhash::RapidHashMap;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};

use super::cache::{Cache, digest_of};
use super::claims;
use super::jose::{self, Token};
use super::keys::{Algorithm, Key};
use super::place::Place;
use crate::filter::consumers::{Consumers, Identified, JwtMaterial, JwtSecret, drop_claims};
use crate::filter::{Call, Decision, End, Filter};
use crate::reason::Reason;

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `uri_param_names`, `cookie_names` and `header_names`.
    pub places: Vec<Place>,
    pub key_claim_name: String,
    /// Secrets of HS algorithms are base64 of what they stand for.
    pub secret_is_base64: bool,
    /// `claims_to_verify`.
    pub verify_exp: bool,
    pub verify_nbf: bool,
    /// Seconds that a token may still be good for; 0: any.
    pub maximum_expiration: i64,
    /// The consumer that stands for callers without a good token: id, username or custom id.
    pub anonymous: Option<String>,
    pub run_on_preflight: bool,
    pub realm: Option<String>,
}

pub struct KongJwt {
    settings: Settings,
    credentials: RapidHashMap<Arc<str>, Credential>,
    anonymous: Option<Identified>,
    verified: Cache<Verified>,
}

struct Credential {
    identified: Identified,
    algorithm: Algorithm,
    /// `None`: the configured key cannot be used.
    verifier: Option<Verifier>,
}

enum Verifier {
    Secret(Box<hmac::Key>),
    Public(Box<Key>),
}

/// A token with a good signature. Its times are looked at each time, as what is asked of them is cheap.
#[derive(Clone)]
struct Verified {
    identified: Identified,
    exp: Option<i64>,
    nbf: Option<i64>,
}

/// The texts are Kong's; they go into the log.
enum Refusal {
    Missing,
    Invalid(Cow<'static, str>),
}

impl Filter for KongJwt {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        if !self.settings.run_on_preflight && call.head.method == Method::OPTIONS {
            if !Identified::is_proven(call.stash) {
                drop_claims(&mut call.head.headers);
            }
            return Decision::PASS;
        }
        // One of several plugins with `anonymous` is enough; another one identified the caller.
        if self.settings.anonymous.is_some() && Identified::is_proven(call.stash) {
            return Decision::PASS;
        }
        let identified = match (self.identify(call), &self.anonymous) {
            (Ok(identified), _) => identified,
            (Err(_), Some(anonymous)) => anonymous.clone(),
            (Err(refusal), None) => {
                drop_claims(&mut call.head.headers);
                return self.refuse(&refusal);
            }
        };
        identified.tell(&mut call.head.headers, call.stash);
        Decision::PASS
    }
}

impl KongJwt {
    pub(in crate::filter) fn new(settings: Settings, consumers: &Consumers) -> Self {
        let credential = |(identified, secret): (Identified, &JwtSecret)| {
            let verifier = verifier(secret, settings.secret_is_base64).ok();
            let credential = Credential { identified, algorithm: secret.algorithm, verifier };
            (secret.key.clone(), credential)
        };
        let credentials = consumers.jwt_secrets().map(credential).collect();
        let anonymous = settings.anonymous.as_deref().and_then(|name| consumers.anonymous(name));
        Self { settings, credentials, anonymous, verified: Cache::new() }
    }

    fn identify(&self, call: &Call<'_>) -> Result<Identified, Refusal> {
        let token = self.token(call)?;
        if token.len() > jose::LONGEST {
            return Err(Refusal::Invalid("Bad token; longer than 16 KiB".into()));
        }
        let digest = digest_of(&token);
        let verified = if let Some(verified) = self.verified.find(&digest) {
            verified
        } else {
            let verified = self.verify(&token)?;
            self.verified.keep(digest, verified.clone());
            verified
        };
        self.check_times(&verified, claims::seconds(call.wall))?;
        Ok(verified.identified)
    }

    /// Kong reads every place; one token in two of them is one token.
    fn token<'r>(&self, call: &'r Call<'_>) -> Result<Cow<'r, str>, Refusal> {
        let mut found: Option<Cow<'r, str>> = None;
        for place in &self.settings.places {
            let token = place.token(call.head).map_err(|fault| Refusal::Invalid(fault.0.into()))?;
            match (&found, token) {
                (None, token) => found = token,
                (Some(first), Some(other)) if *first != other => {
                    return Err(Refusal::Invalid("Multiple tokens provided".into()));
                }
                (Some(_), _) => {}
            }
        }
        found.ok_or(Refusal::Missing)
    }

    fn verify(&self, text: &str) -> Result<Verified, Refusal> {
        let invalid = |text: String| Refusal::Invalid(text.into());
        let token = Token::parse(text).map_err(|fault| invalid(format!("Bad token; {fault}")))?;
        let name = &self.settings.key_claim_name;
        let key = match token.claims.get(name).or_else(|| token.header.get(name)) {
            None | Some(Value::Null) => return Err(invalid(format!("No mandatory '{name}' in claims"))),
            Some(Value::String(key)) if !key.is_empty() => key,
            Some(_) => return Err(invalid(format!("Invalid '{name}' in claims"))),
        };
        let credential = self.credentials.get(&**key);
        let credential = credential.ok_or_else(|| invalid(format!("No credentials found for given '{name}'")))?;
        // The credential's algorithm, never the token's, says how the key is used.
        if token.algorithm != credential.algorithm {
            return Err(Refusal::Invalid("Invalid algorithm".into()));
        }
        let verifier = credential.verifier.as_ref().ok_or(Refusal::Invalid("Invalid key/secret".into()))?;
        let signed = token.signed.as_bytes();
        let good = match verifier {
            Verifier::Secret(secret) => hmac::verify(secret, signed, &token.signature).is_ok(),
            Verifier::Public(key) => key.verifies(credential.algorithm, signed, &token.signature),
        };
        if !good {
            return Err(Refusal::Invalid("Invalid signature".into()));
        }
        let Times { exp, nbf } = self.times(&token.claims)?;
        Ok(Verified { identified: credential.identified.clone(), exp, nbf })
    }

    /// What is to be verified must be there, and be a number.
    fn times(&self, claims: &Map<String, Value>) -> Result<Times, Refusal> {
        let date = |name: &'static str, wanted: bool| match claims::date(claims, name) {
            Ok(None) if wanted => Err(Refusal::Invalid(format!("{name} must be a number").into())),
            Ok(date) => Ok(date),
            Err(_) => Err(Refusal::Invalid(format!("{name} must be a number").into())),
        };
        Ok(Times { exp: date("exp", self.settings.verify_exp)?, nbf: date("nbf", self.settings.verify_nbf)? })
    }

    fn check_times(&self, verified: &Verified, now: i64) -> Result<(), Refusal> {
        let refuse = |text: &'static str| Err(Refusal::Invalid(text.into()));
        let Settings { verify_exp, verify_nbf, maximum_expiration: most, .. } = self.settings;
        match (verified.exp, verified.nbf) {
            (Some(exp), _) if verify_exp && exp <= now => refuse("token expired"),
            (_, Some(nbf)) if verify_nbf && nbf > now => refuse("token not valid yet"),
            (Some(exp), _) if most > 0 && exp.saturating_sub(now) > most => {
                refuse("exceeds maximum allowed expiration")
            }
            _ => Ok(()),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Decision {
        let mut challenge = match &self.settings.realm {
            Some(realm) => format!("Bearer realm=\"{}\"", realm.replace('\\', "\\\\").replace('"', "\\\"")),
            None => "Bearer".to_owned(),
        };
        let detail = match refusal {
            Refusal::Missing => "no token",
            Refusal::Invalid(text) => {
                let gap = if self.settings.realm.is_some() { "," } else { "" };
                challenge += &format!("{gap} error=\"invalid_token\"");
                text
            }
        };
        let mut decision = Decision::refuse(Reason::NotIdentified, detail);
        if let (Some(End::Refuse { headers, .. }), Ok(value)) =
            (decision.end.as_deref_mut(), HeaderValue::try_from(challenge))
        {
            headers.insert(WWW_AUTHENTICATE, value);
        }
        decision
    }
}

struct Times {
    exp: Option<i64>,
    nbf: Option<i64>,
}

/// # Errors
/// When the key cannot be used with its algorithm.
fn verifier(secret: &JwtSecret, is_base64: bool) -> Result<Verifier, &'static str> {
    let kind = match secret.algorithm {
        Algorithm::Hs256 => hmac::HMAC_SHA256,
        Algorithm::Hs384 => hmac::HMAC_SHA384,
        Algorithm::Hs512 => hmac::HMAC_SHA512,
        _ => return public(secret),
    };
    let JwtMaterial::Secret(text) = &secret.material else { return Err("the algorithm needs a secret") };
    let text = text.expose_secret();
    let bytes = if is_base64 { from_base64(text)? } else { text.as_bytes().to_vec() };
    if bytes.is_empty() {
        Err("the secret is empty")
    } else {
        Ok(Verifier::Secret(Box::new(hmac::Key::new(kind, &bytes))))
    }
}

fn public(secret: &JwtSecret) -> Result<Verifier, &'static str> {
    match &secret.material {
        JwtMaterial::PublicKey(pem) => Ok(Verifier::Public(Box::new(Key::from_pem(pem, secret.algorithm)?))),
        JwtMaterial::Secret(_) => Err("the algorithm needs a public key"),
    }
}

/// Either alphabet, with padding or without, as Kong reads it.
fn from_base64(text: &str) -> Result<Vec<u8>, &'static str> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = text.replace('-', "+").replace('_', "/");
    GeneralPurpose::new(&alphabet::STANDARD, config).decode(text).map_err(|_| "the secret is no base64")
}

#[cfg(test)]
#[path = "kong_tests.rs"]
mod tests;
