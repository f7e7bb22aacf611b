//! `consumers` and the plugins that let in or keep out: what they mean, and where mistakes are found.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::{GOOD, lines, load};
use crate::filter::Settings;
use crate::filter::consumers::{Consumers, JwtAlgorithm, JwtMaterial};
use crate::filter::rate_limiting::{LimitBy, Policy, Unit};

/// The settings of one plugin of `inbound.plugins`.
pub(super) fn plugin(name: &str, config: &str) -> Settings {
    let text =
        format!("{GOOD}consumers: [{{ username: guest }}]\ninbound: {{ plugins: [{{ name: {name}{config} }}] }}\n");
    load(&text).unwrap_or_else(|problems| panic!("{problems}")).inbound.plugins.remove(0).settings
}

#[test]
fn consumers_are_read_as_kong_writes_them() {
    let text = format!(
        "{GOOD}consumers:\n- username: alice\n  custom_id: \"4711\"\n  groups: [gold, staff]\n  acls: [{{ group: gold }}, {{ group: a b }}]\n  \
         keyauth_credentials: [{{ key: k1 }}, {{ key: k2, id: spare }}]\n  \
         basicauth_credentials: [{{ username: al, password: \"p:w\" }}]\n  \
         jwt_secrets:\n  - {{ key: iss-1, secret: shared }}\n  - key: iss-2\n    algorithm: ES256\n    rsa_public_key: |\n      \
         -----BEGIN PUBLIC KEY-----\n      \
         MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE6wDOQUto527qDvNgTkqNG+7VMTVX\n      \
         jjjLl1Ep/uaxPaPjc+bSz03vVg6GgZjrsXu3G987f8rs+q26VQH2DxVvgQ==\n      -----END PUBLIC KEY-----\n- custom_id: only\n"
    );
    let config = load(&text).unwrap();
    let [alice, only] = config.consumers.as_slice() else { panic!("two consumers") };
    assert_eq!(alice.groups, ["gold", "staff", "a b"]);
    assert_eq!(only.username, None);
    let again = load(&text).unwrap().consumers;
    assert_eq!((&again[0].id, &again[1].id), (&alice.id, &only.id), "ids stay the same");
    assert!(alice.id != only.id && alice.id.len() == 36 && alice.id.as_bytes()[14] == b'8', "{}", alice.id);
    let consumers = Consumers::new(&config.consumers);
    assert_eq!(consumers.by_key(b"k1").unwrap().credential.as_deref(), Some("alice-1"));
    assert_eq!(consumers.by_key(b"k2").unwrap().credential.as_deref(), Some("spare"));
    assert!(consumers.by_password(b"al", b"p:w").is_some());
    let (_, jwt) = consumers.by_jwt_key("iss-1").unwrap();
    let JwtMaterial::Secret(secret) = &jwt.material else { panic!("a secret") };
    assert_eq!((jwt.algorithm, secret.expose_secret()), (JwtAlgorithm::Hs256, "shared"));
    assert_eq!(consumers.by_jwt_key("iss-2").unwrap().1.algorithm, JwtAlgorithm::Es256);
    let said = format!("{config:?}");
    assert!(!["shared", "k1", "p:w"].iter().any(|secret| said.contains(&format!("\"{secret}\""))), "{said}");
}

#[test]
fn defaults_are_kongs_but_for_what_is_hidden() {
    let Settings::KeyAuth(key) = plugin("key-auth", "") else { panic!("key-auth") };
    assert_eq!((key.key_names[0].as_str(), key.hide_credentials, key.anonymous), ("apikey", true, None));
    let Settings::BasicAuth(basic) = plugin("basic-auth", ", config: { anonymous: guest }") else {
        panic!("basic-auth")
    };
    assert_eq!((basic.realm.as_str(), basic.anonymous.as_deref()), ("service", Some("guest")));
    let Settings::RateLimiting(limit) = plugin("rate-limiting", ", config: { hour: 9, second: 3 }") else {
        panic!("limit")
    };
    assert_eq!(limit.limits, [(Unit::Second, 3), (Unit::Hour, 9)]);
    assert_eq!((&limit.limit_by, &limit.policy, limit.error_code.as_u16()), (&LimitBy::Consumer, &Policy::Local, 429));
    let redis = ", config: { minute: 1, policy: redis, redis: { host: r, timeout: 50, password: \"0\" } }";
    let Settings::RateLimiting(limit) = plugin("rate-limiting", redis) else { panic!("limit") };
    let Policy::Redis(redis) = &limit.policy else { panic!("redis") };
    assert_eq!((redis.port, redis.timeout, redis.ssl_verify), (6379, Duration::from_millis(50), true));
}

#[test]
fn a_plugin_remembers_by_the_name_of_its_part() {
    let limit = "plugins: [{ name: rate-limiting, config: { minute: 1 } }]";
    let text = format!(
        "{GOOD}inbound: {{ {limit}, routes: [{{ match: {{ path: /a }}, {limit} }}, {{ name: b, {limit} }}] }}\noutbound:\n  \
         defaults: {{ {limit} }}\n  upstreams: [{{ service: orders }}]\n  routes: [{{ name: r, to: orders, {limit} }}]\n"
    );
    let config = load(&text).unwrap();
    let scope = |plugins: &[crate::filter::Plugin]| plugins.last().unwrap().scope.to_string();
    assert_eq!(scope(&config.inbound.plugins), "inbound");
    assert_eq!(scope(&config.inbound.routes[0].plugins), "inbound.routes[0]");
    assert_eq!(scope(&config.inbound.routes[1].plugins), "inbound.routes[b]");
    assert_eq!(scope(&config.outbound.upstreams[0].plugins), "outbound.upstreams[orders]");
    let crate::config::RouteAction::Forward(forward) = &config.outbound.routes[0].action else { panic!("it forwards") };
    let scopes: Vec<&str> = forward.targets[0].1.plugins.iter().map(|plugin| &*plugin.scope).collect();
    assert_eq!(scopes, ["outbound.upstreams[orders]", "outbound.routes[r]"]);
}

/// What stands in `consumers: [ … ]` and its mistakes, from the key on.
const CONSUMERS: &[(&str, &[&str])] = &[
    ("{}", &["consumers[0].username: neither username nor custom_id is there; add username"]),
    ("{ username: a }, { username: a }", &["consumers[1].username: is the same as consumers[0].username; give each"]),
    ("{ custom_id: a }, { custom_id: a }", &["consumers[1].custom_id: is the same as consumers[0].custom_id"]),
    ("{ username: a, id: x }, { username: b, id: x }", &["consumers[1].id: is the same as consumers[0].id"]),
    ("{ username: \"a\u{e9}\" }", &["consumers[0].username: \"a\u{e9}\" cannot stand in a header; use printable"]),
    ("{ username: a, keyauth_credentials: [{}] }", &["consumers[0].keyauth_credentials[0].key: is missing"]),
    (
        "{ username: a, keyauth_credentials: [{ key: s3cret }, { key: s3cret }] }",
        &["consumers[0].keyauth_credentials[1].key: is the same as consumers[0].keyauth_credentials[0].key"],
    ),
    (
        "{ username: a, keyauth_credentials: [{ key: 5318008 }] }",
        &["consumers[0].keyauth_credentials[0].key: must be text, but is a number; put it in quotes"],
    ),
    (
        "{ username: a, keyauth_credentials: [{ key: \"s3cret\\tx\" }] }",
        &["consumers[0].keyauth_credentials[0].key: the text holds control characters"],
    ),
    (
        "{ username: a, keyauth_credentials: [{ key: [s3cret] }] }",
        &["consumers[0].keyauth_credentials[0].key: must be text, but is a list"],
    ),
    (
        "{ username: a, basicauth_credentials: [{ username: \"a:b\", password: s3cret }, { username: c }] }",
        &[
            "consumers[0].basicauth_credentials[0].username: the name holds a colon",
            "consumers[0].basicauth_credentials[1].password: is missing",
        ],
    ),
    (
        "{ username: a, basicauth_credentials: [{ username: x, password: s3cret }] }, { username: b, basicauth_credentials: [{ username: x, password: y }] }",
        &[
            "consumers[1].basicauth_credentials[0].username: is the same as consumers[0].basicauth_credentials[0].username",
        ],
    ),
    (
        "{ username: a, jwt_secrets: [{ key: k }, { key: l, algorithm: none, secret: s3cret }, { key: m, algorithm: RS256, secret: s3cret }, { key: n, algorithm: RS256, rsa_public_key: s3cret }, { key: k, secret: s3cret }] }",
        &[
            "consumers[0].jwt_secrets[0].secret: HS256 needs it; add secret",
            "consumers[0].jwt_secrets[1].algorithm: \"none\" is",
            "consumers[0].jwt_secrets[2].secret: RS256 is not verified with it; write rsa_public_key",
            "consumers[0].jwt_secrets[3].rsa_public_key: cannot be used for RS256: no PEM",
            "consumers[0].jwt_secrets[4].key: is the same as consumers[0].jwt_secrets[0].key",
        ],
    ),
];

/// A plugin's name and `config`, and its mistakes, from the key below `inbound.plugins[0]` on.
const PLUGINS: &[(&str, &str, &[&str])] = &[
    ("key-auth", "{ key_names: [] }", &["config.key_names: names no header; write [apikey]"]),
    ("key-auth", "{ key_names: [\"a key\"] }", &["config.key_names[0]: \"a key\" is no name of a header"]),
    (
        "key-auth",
        "{ key_in_header: false, key_in_query: false }",
        &["config.key_in_query: a key is looked for nowhere"],
    ),
    ("key-auth", "{ key_in_body: true }", &["config.key_in_body: unknown key"]),
    ("key-auth", "{ anonymous: nobody }", &["config.anonymous: \"nobody\" is none of consumers; add it"]),
    ("basic-auth", "{ anonymous: nobody }", &["config.anonymous: \"nobody\" is none of consumers; add it"]),
    ("acl", "{}", &["config: has neither allow nor deny; add allow"]),
    ("acl", "{ allow: [a], deny: [b] }", &["config.deny: stands beside allow; keep one"]),
    ("acl", "{ allow: [] }", &["config.allow: names no group"]),
    ("rate-limiting", "{}", &["config: has no limit; add minute: 100"]),
    ("rate-limiting", "{ minute: 0 }", &["config.minute: must be a whole number from 1"]),
    (
        "rate-limiting",
        "{ second: 10, minute: 5, hour: 4 }",
        &["config.minute: 5 is below the 10 of a second", "config.hour: 4 is below the 5 of a minute"],
    ),
    ("rate-limiting", "{ minute: 1, limit_by: header }", &["config.limit_by: header needs header_name; add"]),
    ("rate-limiting", "{ minute: 1, limit_by: path }", &["config.limit_by: path needs path; add"]),
    (
        "rate-limiting",
        "{ minute: 1, path: /a }",
        &["config.path: is there, but limit_by is consumer; write limit_by: path"],
    ),
    ("rate-limiting", "{ minute: 1, policy: cluster }", &["config.policy: \"cluster\" is"]),
    ("rate-limiting", "{ minute: 1, policy: redis }", &["config.policy: redis needs to be told where it is"]),
    ("rate-limiting", "{ minute: 1, redis: { host: a } }", &["config.redis: is there, but policy is local; write"]),
    (
        "rate-limiting",
        "{ minute: 1, policy: redis, redis: { port: 1, timeout: 0, ca_file: x, password: 12345 } }",
        &[
            "config.redis.host: is missing",
            "config.redis.timeout: must be a whole number from 1 to 3600000",
            "config.redis.ca_file: is there, but ssl is false",
            "config.redis.password: must be text, but is a number",
        ],
    ),
];

pub(super) fn assert_mistakes(text: &str, prefix: &str, wanted: &[&str]) {
    let found = lines(text);
    let missing: Vec<_> =
        wanted.iter().filter(|part| !found.iter().any(|line| line.contains(&format!(": {prefix}{part}")))).collect();
    assert!(missing.is_empty() && found.len() == wanted.len(), "{text}\nmissing {missing:#?} in {found:#?}");
    assert!(
        !found.iter().any(|line| line.contains("s3cret") || line.contains("5318008") || line.contains("12345")),
        "{found:#?}"
    );
}

#[test]
fn mistakes_of_consumers_are_found_and_tell_no_secret() {
    for (consumers, wanted) in CONSUMERS {
        assert_mistakes(&format!("{GOOD}consumers: [{consumers}]\n"), "", wanted);
    }
}

#[test]
fn mistakes_of_the_plugins_are_found() {
    for (name, config, wanted) in PLUGINS {
        let text = format!("{GOOD}inbound: {{ plugins: [{{ name: {name}, config: {config} }}] }}\n");
        assert_mistakes(&text, "inbound.plugins[0].", wanted);
    }
}
