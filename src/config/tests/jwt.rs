//! The plugin jwt: which form a configuration has, what it means, and where mistakes are found.

use std::time::Duration;

use serde_json::json;

use super::{GOOD, lines, load};
use crate::filter::Settings;
use crate::filter::jwt::{Algorithm, Location, Place, Settings as Jwt, Test, kong};

const KEYS: &str = r#"jwks: { keys: [{ kty: OKP, crv: Ed25519, x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] }"#;

fn settings(config: &str) -> Settings {
    let text = format!(
        "{GOOD}consumers: [{{ username: guest }}]\ninbound: {{ plugins: [{{ name: jwt, config: {{ {config} }} }}] }}\n"
    );
    load(&text).unwrap_or_else(|problems| panic!("{problems}")).inbound.plugins.remove(0).settings
}

fn native(config: &str) -> Jwt {
    let Settings::Jwt(settings) = settings(config) else { panic!("native: {config}") };
    settings
}

fn kongs(config: &str) -> kong::Settings {
    let Settings::KongJwt(settings) = settings(config) else { panic!("Kong's: {config}") };
    settings
}

#[test]
fn the_contracts_example_is_read_with_its_defaults() {
    let mut settings = native(
        "issuer: https://id.example, jwks_uri: https://id.example/keys, audiences: [users], cookie: session, query: token, \
         claims: { scope: { contains: read }, tier: { any_of: [gold, 7] }, ok: { equals: true } }, \
         forward_claims: { sub: X-User-Id }",
    );
    let provider = settings.providers.remove(0);
    let source = &provider.source;
    assert_eq!(source.algorithms, [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa]);
    assert_eq!((source.refresh, source.stale_for), (Duration::from_secs(300), Duration::from_secs(86400)));
    assert_eq!(source.location, Location::Uri { uri: "https://id.example/keys".into(), ca_file: None });
    let header = Place::Header(http::header::AUTHORIZATION);
    assert_eq!(provider.places, [header, Place::Cookie("session".into()), Place::Query("token".into())]);
    assert_eq!((provider.leeway, provider.hide_credentials), (Duration::from_secs(30), false));
    assert_eq!(provider.forward_claims[0].1, "x-user-id");
    let tests: Vec<&Test> = provider.claims.iter().map(|required| &required.test).collect();
    let wanted =
        [Test::Contains(vec![json!("read")]), Test::AnyOf(vec![json!("gold"), json!(7)]), Test::Equals(json!(true))];
    assert_eq!(tests, wanted.iter().collect::<Vec<_>>());
    assert!(!settings.anonymous && settings.providers.is_empty());
}

#[test]
fn keys_may_stand_in_the_file_as_a_section_or_as_text() {
    let as_text = KEYS.replacen("jwks: ", "", 1).replace("kty: OKP", "\"kty\": \"OKP\"");
    let as_text =
        as_text.replace("keys:", "\"keys\":").replace("crv: Ed25519", "\"crv\": \"Ed25519\"").replace(" x:", " \"x\":");
    for keys in [KEYS.to_owned(), format!("jwks: '{as_text}'")] {
        let settings = native(&format!("issuer: a, {keys}, leeway: off"));
        assert!(matches!(&settings.providers[0].source.location, Location::Inline(text) if text.contains("11qYAY")));
        assert_eq!(settings.providers[0].leeway, Duration::ZERO);
    }
    let two = native(&format!("anonymous: true, providers: [{{ issuer: a, {KEYS} }}, {{ issuer: b, {KEYS} }}]"));
    assert_eq!((two.providers.len(), two.anonymous), (2, true));
}

#[test]
fn without_an_issuer_it_is_kongs_form() {
    let settings = kongs("claims_to_verify: [exp], maximum_expiration: 600, anonymous: guest, cookie_names: [c]");
    assert_eq!((settings.key_claim_name.as_str(), settings.verify_exp, settings.verify_nbf), ("iss", true, false));
    assert_eq!((settings.maximum_expiration, settings.anonymous.as_deref()), (600, Some("guest")));
    let header = Place::Header(http::header::AUTHORIZATION);
    assert_eq!(settings.places, [Place::Query("jwt".into()), Place::Cookie("c".into()), header]);
    assert_eq!(kongs("").places.len(), 2);
}

#[test]
fn every_mistake_is_found_at_its_place() {
    for (config, wanted) in [
        ("issuer: a".to_owned(), &["config.issuer: has no keys"][..]),
        (KEYS.to_owned(), &["config.issuer: is missing"]),
        (format!("issuer: a, {KEYS}, jwks_uri: https://b/c"), &["config.jwks: stands beside jwks_uri"]),
        (
            format!("issuer: a, {KEYS}, realm: x, run_on_preflight: true"),
            &["config.realm: is a key of Kong's form", "config.run_on_preflight: is a key of Kong's form"],
        ),
        ("audiences: [a], key_claim_name: x".into(), &["config.audiences: is a key of the native form"]),
        (
            format!("issuer: a, {KEYS}, providers: [{{ issuer: b, {KEYS} }}]"),
            &["config.issuer: stands beside providers", "config.jwks: stands beside providers"],
        ),
        ("providers: []".into(), &["config.providers: names no issuer"]),
        (
            format!("providers: [{{ issuer: a, {KEYS} }}, {{ issuer: a, {KEYS} }}]"),
            &["config.providers[1].issuer: the same issuer stands twice"],
        ),
        ("issuer: a, jwks: { keys: [] }".into(), &["config.jwks: gives no keys"]),
        ("issuer: a, jwks: '{'".into(), &["config.jwks: gives no keys"]),
        ("issuer: a, jwks: { keys: [{ kty: oct, k: c2VjcmV0 }] }".into(), &["config.jwks: gives no keys"]),
        ("issuer: a, jwks_file: none.json".into(), &["config.jwks_file: gives no keys"]),
        ("issuer: a, jwks_uri: http://id.example/k".into(), &["config.jwks_uri: \"http://id.example/k\" is http"]),
        ("issuer: a, jwks_uri: ftp://b/c".into(), &["config.jwks_uri: \"ftp://b/c\" is neither"]),
        ("issuer: a, jwks_uri: https://u:p@b/c".into(), &["config.jwks_uri: \"https://u:p@b/c\" holds a user"]),
        ("issuer: a, jwks_uri: b/c".into(), &["config.jwks_uri: \"b/c\" is no URL"]),
        (
            format!("issuer: a, {KEYS}, algorithms: [HS256, none, RS256, EdDSA]"),
            &["config.algorithms[0]: \"HS256\" is not known", "config.algorithms[1]: \"none\" is not known"],
        ),
        (format!("issuer: a, {KEYS}, leeway: 11m"), &["config.leeway: is longer than 10m"]),
        (format!("issuer: a, {KEYS}, refresh: 10m, stale_for: 5m"), &["config.stale_for: is shorter than refresh"]),
        (format!("issuer: a, {KEYS}, anonymous: guest"), &["config.anonymous: must be true or false"]),
        (
            format!(
                "issuer: a, {KEYS}, claims: {{ a: b, c: {{ has: d }}, e: {{ equals: [1, 2] }}, f: {{ contains: {{}} }} }}"
            ),
            &[
                "config.claims.a: is not one test",
                "config.claims.c: is no test",
                "config.claims.e: is no test",
                "config.claims.f: is no test",
            ],
        ),
        (format!("issuer: a, {KEYS}, claims: read"), &["config.claims: must be a section of claims"]),
        (
            format!("issuer: a, {KEYS}, forward_claims: {{ a: x-a, b: X-A, c: Host, d: \"x y\" }}"),
            &[
                "config.forward_claims.b: x-a holds another claim",
                "config.forward_claims.c: host has a meaning",
                "config.forward_claims.d: \"x y\" is no name",
            ],
        ),
        ("maximum_expiration: 60".into(), &["config.maximum_expiration: needs exp"]),
        ("anonymous: carol".into(), &["config.anonymous: \"carol\" is none of consumers"]),
        ("uri_param_names: [], header_names: []".into(), &["config.header_names: a token is looked for nowhere"]),
    ] {
        let found = lines(&format!("{GOOD}inbound: {{ plugins: [{{ name: jwt, config: {{ {config} }} }}] }}\n"));
        let missing: Vec<_> = wanted
            .iter()
            .filter(|part| !found.iter().any(|line| line.contains(&format!(": inbound.plugins[0].{part}"))))
            .collect();
        assert!(missing.is_empty() && found.len() == wanted.len(), "{config}\nmissing {missing:#?} in {found:#?}");
    }
}
