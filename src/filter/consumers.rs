//! Who may call with a credential: consumers, their credentials by fingerprint, and what the app is told of them in
//! Kong's headers (`kong/constants.lua`, `kong/plugins/key-auth/handler.lua`).

use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use rapidhash::RapidHashMap;
use secrecy::{ExposeSecret, SecretString};
use smallvec::SmallVec;

use crate::fingerprint::Fingerprint;

/// A consumer as configured. At least one of `username` and `custom_id` is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Consumer {
    pub id: Arc<str>,
    pub username: Option<Arc<str>>,
    pub custom_id: Option<Arc<str>>,
    /// In the order of the file, each once.
    pub groups: Vec<String>,
    pub keys: Vec<Credential>,
    /// Passwords, each digested with its username.
    pub passwords: Vec<Credential>,
    pub jwt_secrets: Vec<JwtSecret>,
}

/// Something that a consumer shows to be known.
#[derive(Debug, Clone, PartialEq)]
pub struct Credential {
    /// What the app may be told of it: no secret.
    pub id: Arc<str>,
    pub fingerprint: Fingerprint,
}

/// A key for tokens that one consumer's issuer signs (Kong's `jwt_secrets`).
#[derive(Debug, Clone)]
pub struct JwtSecret {
    /// What the token names, by its claim `iss` unless the plugin says otherwise.
    pub key: Arc<str>,
    pub algorithm: JwtAlgorithm,
    pub material: JwtMaterial,
}

#[derive(Debug, Clone)]
pub enum JwtMaterial {
    /// For HS256, HS384 and HS512.
    Secret(SecretString),
    /// PEM, for all others.
    PublicKey(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtAlgorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl JwtAlgorithm {
    pub const NAMES: [&str; 13] = [
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
        "EdDSA",
    ];

    const ALL: [Self; 13] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
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

    /// RFC 7518 §3.1's name of it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().position(|known| *known == name).map(|at| Self::ALL[at])
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Whether signer and verifier share one secret.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

impl PartialEq for JwtSecret {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.material, &other.material) {
            (JwtMaterial::Secret(a), JwtMaterial::Secret(b)) => a.expose_secret() == b.expose_secret(),
            (JwtMaterial::PublicKey(a), JwtMaterial::PublicKey(b)) => a == b,
            _ => false,
        };
        same && self.key == other.key && self.algorithm == other.algorithm
    }
}

/// All consumers of one configuration, to be asked by what a request shows.
#[derive(Debug, Default)]
pub struct Consumers {
    known: Vec<Arc<Known>>,
    /// Position in `known`, and in its consumer's list.
    by_key: RapidHashMap<Fingerprint, (usize, usize)>,
    by_password: RapidHashMap<Fingerprint, (usize, usize)>,
    by_jwt_key: RapidHashMap<Arc<str>, (usize, usize)>,
    /// By id, username and custom id, as Kong looks for `anonymous`.
    by_name: RapidHashMap<Arc<str>, usize>,
}

/// A consumer with its headers.
#[derive(Debug)]
pub struct Known {
    pub consumer: Consumer,
    id: HeaderValue,
    username: Option<HeaderValue>,
    custom_id: Option<HeaderValue>,
    groups: Option<HeaderValue>,
}

impl Consumers {
    #[must_use]
    pub fn new(consumers: &[Consumer]) -> Self {
        let mut all = Self::default();
        for (at, consumer) in consumers.iter().enumerate() {
            let each = |list: &[Credential]| {
                let by = |(n, credential): (usize, &Credential)| (credential.fingerprint, (at, n));
                list.iter().enumerate().map(by).collect::<Vec<_>>()
            };
            all.by_key.extend(each(&consumer.keys));
            all.by_password.extend(each(&consumer.passwords));
            all.by_jwt_key.extend(consumer.jwt_secrets.iter().enumerate().map(|(n, jwt)| (jwt.key.clone(), (at, n))));
            // The id is the strongest name, so it comes last.
            for name in [&consumer.custom_id, &consumer.username, &Some(consumer.id.clone())].into_iter().flatten() {
                all.by_name.insert(name.clone(), at);
            }
            all.known.push(Arc::new(Known::new(consumer.clone())));
        }
        all
    }

    /// Who has this key.
    #[must_use]
    pub fn by_key(&self, key: &[u8]) -> Option<Identified> {
        let (at, n) = *self.by_key.get(&Fingerprint::of(&[key]))?;
        let known = &self.known[at];
        Some(Identified::by(known, &known.consumer.keys[n].id))
    }

    /// Who has this name and password.
    #[must_use]
    pub fn by_password(&self, username: &[u8], password: &[u8]) -> Option<Identified> {
        let (at, n) = *self.by_password.get(&Fingerprint::of(&[username, password]))?;
        let known = &self.known[at];
        Some(Identified::by(known, &known.consumer.passwords[n].id))
    }

    /// Whose tokens name this key, and how they are signed.
    #[must_use]
    pub fn by_jwt_key(&self, key: &str) -> Option<(Identified, &JwtSecret)> {
        let (at, n) = *self.by_jwt_key.get(key)?;
        let known = &self.known[at];
        let secret = &known.consumer.jwt_secrets[n];
        Some((Identified::by(known, &secret.key), secret))
    }

    /// Every key for tokens, with whose it is.
    pub fn jwt_secrets(&self) -> impl Iterator<Item = (Identified, &JwtSecret)> {
        self.known.iter().flat_map(|known| {
            known.consumer.jwt_secrets.iter().map(|secret| (Identified::by(known, &secret.key), secret))
        })
    }

    /// The consumer that stands for callers without a credential, by id, username or custom id.
    #[must_use]
    pub fn anonymous(&self, name: &str) -> Option<Identified> {
        let known = &self.known[*self.by_name.get(name)?];
        Some(Identified { consumer: Some(known.clone()), credential: None, anonymous: true })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

impl Known {
    fn new(consumer: Consumer) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        let groups = (!consumer.groups.is_empty()).then(|| value(&consumer.groups.join(", "))).flatten();
        Self {
            // Checked when the configuration was read; an id that we make has no other characters.
            id: value(&consumer.id).unwrap_or(HeaderValue::from_static("-")),
            username: consumer.username.as_deref().and_then(value),
            custom_id: consumer.custom_id.as_deref().and_then(value),
            groups,
            consumer,
        }
    }

    /// The groups as `X-Consumer-Groups` lists them; `None` without any.
    #[must_use]
    pub fn groups_header(&self) -> Option<&HeaderValue> {
        self.groups.as_ref()
    }
}

/// What a plugin that authenticates leaves in the stash for those behind it. Its absence means that nobody was identified.
#[derive(Debug, Clone)]
pub struct Identified {
    /// `None` where the caller proved who it is without being one of `consumers` (a token of an issuer).
    pub consumer: Option<Arc<Known>>,
    /// What the caller was recognised by; no secret.
    pub credential: Option<Arc<str>>,
    /// Nobody proved anything, and the configuration names who stands for such callers.
    pub anonymous: bool,
}

impl Identified {
    fn by(known: &Arc<Known>, credential: &Arc<str>) -> Self {
        Self { consumer: Some(known.clone()), credential: Some(credential.clone()), anonymous: false }
    }

    /// Whether a plugin before this one identified the caller by a credential.
    #[must_use]
    pub fn is_proven(stash: &Extensions) -> bool {
        stash.get::<Self>().is_some_and(|identified| !identified.anonymous)
    }

    /// Tells the app who calls, in place of all that the client may have said of itself, and leaves it in the stash.
    pub fn tell(self, headers: &mut HeaderMap, stash: &mut Extensions) {
        drop_claims(headers);
        if let Some(known) = &self.consumer {
            headers.insert(CONSUMER_ID, known.id.clone());
            if let Some(username) = &known.username {
                headers.insert(CONSUMER_USERNAME, username.clone());
            }
            if let Some(custom_id) = &known.custom_id {
                headers.insert(CONSUMER_CUSTOM_ID, custom_id.clone());
            }
        }
        if self.anonymous {
            headers.insert(ANONYMOUS_CONSUMER, HeaderValue::from_static("true"));
        } else if let Some(credential) = self.credential.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(CREDENTIAL_IDENTIFIER, credential);
        }
        stash.insert(self);
    }
}

/// Drops what a client says of who it is. `_` counts as `-`: many apps cannot tell them apart (CGI's rule, RFC 3875 §4.1.18).
pub fn drop_claims(headers: &mut HeaderMap) {
    let claimed: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
}

fn is_claim(name: &str) -> bool {
    // Names are in lower case (`http`), and nearly all end at the first letters.
    name.len() >= 13
        && name.starts_with('x')
        && CLAIMS.iter().any(|claim| {
            claim.len() == name.len()
                && claim.bytes().zip(name.bytes()).all(|(want, is)| want == is || (want == b'-' && is == b'_'))
        })
}

const CLAIMS: [&str; 7] = [
    "x-consumer-id",
    "x-consumer-username",
    "x-consumer-custom-id",
    "x-credential-identifier",
    "x-anonymous-consumer",
    "x-consumer-groups",
    "x-authenticated-groups",
];

const CONSUMER_ID: HeaderName = HeaderName::from_static("x-consumer-id");
const CONSUMER_USERNAME: HeaderName = HeaderName::from_static("x-consumer-username");
const CONSUMER_CUSTOM_ID: HeaderName = HeaderName::from_static("x-consumer-custom-id");
const CREDENTIAL_IDENTIFIER: HeaderName = HeaderName::from_static("x-credential-identifier");
const ANONYMOUS_CONSUMER: HeaderName = HeaderName::from_static("x-anonymous-consumer");
pub(super) const CONSUMER_GROUPS: HeaderName = HeaderName::from_static("x-consumer-groups");

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A consumer with one key, `KEY-of-NAME`, and one password, `NAME` and `PASSWORD-of-NAME`.
    pub(in crate::filter) fn consumer(name: &str, groups: &[&str]) -> Consumer {
        let credential =
            |id: String, parts: &[&[u8]]| Credential { id: id.into(), fingerprint: Fingerprint::of(parts) };
        Consumer {
            id: format!("id-of-{name}").into(),
            username: Some(name.into()),
            custom_id: None,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            keys: vec![credential(format!("{name}-1"), &[format!("KEY-of-{name}").as_bytes()])],
            passwords: vec![credential(name.into(), &[name.as_bytes(), format!("PASSWORD-of-{name}").as_bytes()])],
            jwt_secrets: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::consumer;
    use super::*;

    #[test]
    fn consumers_are_found_by_what_they_show() {
        let mut bob = consumer("bob", &[]);
        let secret = |key: &str| JwtSecret {
            key: key.into(),
            algorithm: JwtAlgorithm::Hs256,
            material: JwtMaterial::Secret("shared".to_owned().into()),
        };
        bob.jwt_secrets = vec![secret("issuer-1"), secret("issuer-2")];
        bob.custom_id = Some("4711".into());
        let consumers = Consumers::new(&[consumer("alice", &["gold"]), bob]);
        let name = |found: Option<Identified>| found?.consumer?.consumer.username.clone();
        assert_eq!(name(consumers.by_key(b"KEY-of-alice")).as_deref(), Some("alice"));
        assert_eq!(name(consumers.by_password(b"bob", b"PASSWORD-of-bob")).as_deref(), Some("bob"));
        assert!(consumers.by_key(b"KEY-of-carol").is_none() && consumers.by_password(b"bob", b"").is_none());
        assert!(consumers.by_password(b"alice", b"PASSWORD-of-bob").is_none());
        let (identified, jwt) = consumers.by_jwt_key("issuer-2").unwrap();
        assert_eq!((identified.credential.as_deref(), &*jwt.key), (Some("issuer-2"), "issuer-2"));
        for anonymous in ["bob", "4711", "id-of-bob"] {
            assert_eq!(name(consumers.anonymous(anonymous)).as_deref(), Some("bob"));
        }
        assert!(consumers.anonymous("carol").is_none());
    }

    #[test]
    fn what_a_client_says_of_itself_is_gone_in_any_spelling() {
        let mut headers = HeaderMap::new();
        for name in ["X-Consumer-Username", "x_consumer_id", "X-Consumer_Groups", "x-anonymous-consumer", "x-consumers"]
        {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("root"));
        }
        headers.append("x-consumer-username", HeaderValue::from_static("admin"));
        let mut stash = Extensions::new();
        let consumers = Consumers::new(&[consumer("alice", &[])]);
        consumers.by_key(b"KEY-of-alice").unwrap().tell(&mut headers, &mut stash);
        let mut left: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(
            left,
            [
                "x-consumer-id=id-of-alice",
                "x-consumer-username=alice",
                "x-consumers=root",
                "x-credential-identifier=alice-1"
            ]
        );
        assert!(Identified::is_proven(&stash));
    }

    #[test]
    fn an_algorithm_is_known_by_its_name_alone() {
        for name in JwtAlgorithm::NAMES {
            assert_eq!(JwtAlgorithm::named(name).unwrap().as_str(), name);
        }
        assert!(JwtAlgorithm::named("none").is_none() && JwtAlgorithm::named("hs256").is_none());
        assert!(JwtAlgorithm::Hs512.is_symmetric() && !JwtAlgorithm::EdDsa.is_symmetric());
    }
}
