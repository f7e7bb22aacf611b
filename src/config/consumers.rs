//! `consumers`: who may call with a key, a password or a token of their own. Written as in Kong's declarative files; no secret
//! is ever part of a mistake's text, and those that only have to be recognised are kept as fingerprints.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use aws_lc_rs::digest;
use secrecy::SecretString;
use uuid::Uuid;

use super::problems::Fault;
use super::section::Section;
use super::shape::{Key, Leaf, Shape};
use super::values;
use crate::filter::consumers::{Consumer, Credential, JwtAlgorithm, JwtMaterial, JwtSecret};
use crate::filter::jwt::Key as PublicKey;
use crate::fingerprint::Fingerprint;

const TEXT: Shape = Shape::Leaf(Leaf::Visible);
const SECRET: Shape = Shape::Leaf(Leaf::Secret);

pub(super) const CONSUMER: &[Key] = &[
    Key::optional(
        "username",
        TEXT,
        "Its name, told to the app as X-Consumer-Username. At least one of `username` and `custom_id`.",
    ),
    Key::optional("custom_id", TEXT, "What another system calls it: X-Consumer-Custom-ID."),
    Key::optional("id", TEXT, "X-Consumer-ID. A UUID made of `username`, else of `custom_id`, when absent."),
    Key::new("groups", Shape::List(Leaf::Visible), "[]", "Groups for the plugin `acl`."),
    Key::new("acls", Shape::Sections(ACL), "[]", "Groups, as Kong's files write them; the same as `groups`."),
    Key::new("keyauth_credentials", Shape::Sections(KEY), "[]", "Keys for the plugin `key-auth`."),
    Key::new(
        "basicauth_credentials",
        Shape::Sections(PASSWORD),
        "[]",
        "Names and passwords for the plugin `basic-auth`.",
    ),
    Key::new("jwt_secrets", Shape::Sections(JWT), "[]", "Keys of its own tokens, for the plugin `jwt`."),
];

const ACL: &[Key] = &[Key::required("group", TEXT, "A group.")];

const KEY: &[Key] = &[
    Key::required("key", SECRET, "The key. Better `${VARIABLE}` than the key itself."),
    Key::optional("id", TEXT, "X-Credential-Identifier. The consumer's name and the key's number when absent."),
];

const PASSWORD: &[Key] = &[
    Key::required("username", TEXT, "The name of RFC 7617, without a colon; also X-Credential-Identifier."),
    Key::required("password", SECRET, "The password."),
];

const JWT: &[Key] = &[
    Key::required("key", TEXT, "What tokens name as their issuer; no secret, also X-Credential-Identifier."),
    Key::new(
        "algorithm",
        Shape::Leaf(Leaf::Choice { values: &JwtAlgorithm::NAMES, later: &[] }),
        "HS256",
        "How its tokens are signed.",
    ),
    Key::optional("secret", SECRET, "The shared secret, for HS256, HS384 and HS512."),
    Key::optional("rsa_public_key", SECRET, "The public key as PEM, for all other algorithms, RSA or not."),
];

/// The consumers of the file, as far as they are right.
pub(super) fn of(root: &Section<'_>) -> Vec<Consumer> {
    let mut seen = Seen::default();
    root.items("consumers").iter().map(|section| consumer(section, &mut seen)).collect()
}

/// Where what must be unique was seen first.
#[derive(Default)]
struct Seen {
    names: HashMap<String, String>,
    custom_ids: HashMap<String, String>,
    ids: HashMap<String, String>,
    keys: HashMap<Fingerprint, String>,
    logins: HashMap<String, String>,
    issuers: HashMap<String, String>,
}

fn consumer(section: &Section<'_>, seen: &mut Seen) -> Consumer {
    let text = |name: &str| section.take(name, values::visible);
    let (username, custom_id, id) = (text("username"), text("custom_id"), text("id"));
    if !section.has("username") && !section.has("custom_id") {
        section.mistake("username", Fault::new("neither username nor custom_id is there", "add username: a-name"));
    }
    if let Some(name) = &username {
        unique(section, "username", name.clone(), &mut seen.names);
    }
    if let Some(name) = &custom_id {
        unique(section, "custom_id", name.clone(), &mut seen.custom_ids);
    }
    if let Some(id) = &id {
        unique(section, "id", id.clone(), &mut seen.ids);
    }
    let mut groups: Vec<String> = Vec::new();
    let acls = section.items("acls").into_iter().filter_map(|acl| acl.take("group", values::visible));
    for group in section.list("groups", values::visible).into_iter().chain(acls) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let name = username.as_deref().or(custom_id.as_deref()).unwrap_or_default();
    let keys = section.items("keyauth_credentials");
    let keys = keys.iter().enumerate().filter_map(|(at, key)| credential(key, name, at, seen)).collect();
    let passwords = section.items("basicauth_credentials");
    let passwords = passwords.iter().filter_map(|password| login(password, seen)).collect();
    let jwt_secrets = section.items("jwt_secrets").iter().filter_map(|jwt| jwt_secret(jwt, seen)).collect();
    let id = id.unwrap_or_else(|| id_of(name));
    let shared = |text: String| Arc::<str>::from(text);
    let (username, custom_id) = (username.map(shared), custom_id.map(shared));
    Consumer { id: id.into(), username, custom_id, groups, keys, passwords, jwt_secrets }
}

fn credential(section: &Section<'_>, consumer: &str, at: usize, seen: &mut Seen) -> Option<Credential> {
    let id = section.take("id", values::visible).unwrap_or_else(|| format!("{consumer}-{}", at + 1));
    let fingerprint =
        section.take("key", |scalar| values::secret(scalar).map(|key| Fingerprint::of(&[key.as_bytes()])))?;
    unique(section, "key", fingerprint, &mut seen.keys);
    Some(Credential { id: id.into(), fingerprint })
}

fn login(section: &Section<'_>, seen: &mut Seen) -> Option<Credential> {
    let username = section.take("username", |scalar| {
        let name = values::visible(scalar)?;
        let colon = || Fault::new("the name holds a colon, where the password would begin", "use another name");
        if name.contains(':') { Err(colon()) } else { Ok(name) }
    });
    let password = section.take("password", values::secret);
    let (username, password) = (username?, password?);
    unique(section, "username", username.clone(), &mut seen.logins);
    let fingerprint = Fingerprint::of(&[username.as_bytes(), password.as_bytes()]);
    Some(Credential { id: username.into(), fingerprint })
}

fn jwt_secret(section: &Section<'_>, seen: &mut Seen) -> Option<JwtSecret> {
    let key = section.take("key", values::visible);
    if let Some(key) = &key {
        unique(section, "key", key.clone(), &mut seen.issuers);
    }
    let algorithm = section.take("algorithm", |scalar| values::choice(scalar, &JwtAlgorithm::NAMES, &[]))?;
    let algorithm = JwtAlgorithm::named(algorithm)?;
    let (secret, public) = (section.take("secret", values::secret), section.take("rsa_public_key", values::secret));
    let missing = |needed: &str, other: &str| {
        let name = algorithm.as_str();
        if section.has(other) {
            section.mistake(
                other,
                Fault::new(format!("{name} is not verified with it"), format!("write {needed} in its place")),
            );
        } else {
            section
                .mistake(needed, Fault::new(format!("{name} needs it"), format!("add {needed}, or change algorithm")));
        }
    };
    let material = if algorithm.is_symmetric() {
        if !section.has("secret") {
            missing("secret", "rsa_public_key");
        }
        JwtMaterial::Secret(SecretString::from(secret?))
    } else {
        if !section.has("rsa_public_key") {
            missing("rsa_public_key", "secret");
        }
        let public = public?;
        if let Err(cause) = PublicKey::from_pem(&public, algorithm) {
            let fault = Fault::new(
                format!("cannot be used for {}: {cause}", algorithm.as_str()),
                "paste it from `-----BEGIN PUBLIC KEY-----` to its end",
            );
            section.mistake("rsa_public_key", fault);
        }
        JwtMaterial::PublicKey(public)
    };
    Some(JwtSecret { key: key?.into(), algorithm, material })
}

/// Notes the second of two equal values at its place, and where the first stands.
fn unique<K: Eq + Hash>(section: &Section<'_>, key: &str, value: K, seen: &mut HashMap<K, String>) {
    let path = section.key_path(key);
    if let Some(first) = seen.get(&value) {
        section.mistake(key, Fault::new(format!("is the same as {first}"), "give each its own"));
    } else {
        seen.insert(value, path);
    }
}

/// The same for the same name in every sidecar (RFC 9562 §5.8: a UUID of version 8, here of SHA-256).
fn id_of(name: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("outrigger consumer {name}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid::from_bytes(bytes).to_string()
}

/// The id, username or custom id of a consumer, as a plugin names who stands for callers that are nobody.
pub(super) fn anonymous(config: &Section<'_>) -> Option<String> {
    let name = config.take("anonymous", values::text)?;
    let consumers = config.shared().consumers.get().map(Vec::as_slice).unwrap_or_default();
    let has = |consumer: &Consumer| {
        let names = [Some(&consumer.id), consumer.username.as_ref(), consumer.custom_id.as_ref()];
        names.into_iter().flatten().any(|known| **known == *name)
    };
    if !consumers.iter().any(has) {
        let fault =
            Fault::new(format!("{name:?} is none of consumers"), format!("add it: consumers: [{{username: {name}}}]"));
        config.mistake("anonymous", fault);
    }
    Some(name)
}
