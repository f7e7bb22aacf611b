//! Kong's form: its order of checks, its texts, its headers; and where it is stricter.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use http::header::AUTHORIZATION;
use http::{Extensions, Request, request};
use serde_json::json;

use super::super::testing::{Signer, encode};
use super::*;
use crate::filter::Caller;
use crate::filter::consumers::Consumer;

const NOW: u64 = 1_800_000_000;

fn settings() -> Settings {
    Settings {
        places: vec![Place::Query("jwt".into()), Place::Cookie("token".into()), Place::Header(AUTHORIZATION)],
        key_claim_name: "iss".into(),
        secret_is_base64: false,
        verify_exp: false,
        verify_nbf: false,
        maximum_expiration: 0,
        anonymous: None,
        run_on_preflight: true,
        realm: None,
    }
}

fn consumer(name: &str, jwt_secrets: Vec<JwtSecret>) -> Consumer {
    Consumer {
        id: format!("id-of-{name}").into(),
        username: Some(name.into()),
        custom_id: None,
        groups: Vec::new(),
        keys: Vec::new(),
        passwords: Vec::new(),
        jwt_secrets,
    }
}

fn secret(key: &str, algorithm: Algorithm, secret: &str) -> JwtSecret {
    JwtSecret { key: key.into(), algorithm, material: JwtMaterial::Secret(secret.to_owned().into()) }
}

fn filter(change: impl FnOnce(&mut Settings), rs: &Signer) -> KongJwt {
    let public = JwtMaterial::PublicKey(rs.pem());
    let consumers = [
        consumer("alice", vec![secret("alice-key", Algorithm::Hs256, "shared")]),
        consumer("bob", vec![JwtSecret { key: "bob-key".into(), algorithm: Algorithm::Rs256, material: public }]),
        consumer("nobody", Vec::new()),
    ];
    let mut settings = settings();
    change(&mut settings);
    KongJwt::new(settings, &Consumers::new(&consumers))
}

fn hs256(secret: &[u8], claims: &Value) -> String {
    let signed = format!("{}.{}", encode(r#"{"alg":"HS256","typ":"JWT"}"#), encode(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encode(tag.as_ref()))
}

fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let builder = headers.iter().fold(Request::get(uri), |builder, (name, value)| builder.header(*name, *value));
    builder.body(()).unwrap().into_parts().0
}

/// What the app is told: who calls, or why nobody does, and with which challenge.
fn run(filter: &KongJwt, head: &mut request::Parts) -> Result<String, (String, String)> {
    let mut stash = Extensions::new();
    let caller = Caller::at(Ipv4Addr::LOCALHOST);
    let (now, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
    let decision = filter.request(&mut Call { head, caller, stash: &mut stash, now, wall, entropy: 0 });
    match decision.end.map(|end| *end) {
        None => Ok(head.headers.get("x-consumer-username").map_or("", |name| name.to_str().unwrap()).to_owned()),
        Some(End::Refuse { reason: Reason::NotIdentified, detail, headers, .. }) => {
            Err((detail, headers[WWW_AUTHENTICATE].to_str().unwrap().to_owned()))
        }
        Some(other) => panic!("{other:?}"),
    }
}

fn bearer(filter: &KongJwt, token: &str) -> Result<String, String> {
    run(filter, &mut head("/", &[("authorization", &format!("Bearer {token}"))])).map_err(|(detail, challenge)| {
        assert_eq!(challenge, "Bearer error=\"invalid_token\"");
        detail
    })
}

#[test]
fn the_app_is_told_whose_key_signed_and_nothing_that_the_client_says() {
    let rs = Signer::new(Algorithm::Rs256);
    let filter = filter(|_| {}, &rs);
    let token = hs256(b"shared", &json!({ "iss": "alice-key" }));
    let authorization = format!("Bearer {token}");
    let spoofed = [("authorization", authorization.as_str()), ("x-consumer-username", "root"), ("x_consumer_id", "0")];
    let mut first = head("/", &spoofed);
    assert_eq!(run(&filter, &mut first), Ok("alice".into()));
    assert_eq!(first.headers["x-consumer-id"], "id-of-alice");
    assert_eq!(first.headers["x-credential-identifier"], "alice-key");
    assert!(!first.headers.contains_key("x_consumer_id") && !first.headers.contains_key("x-anonymous-consumer"));
    assert_eq!(bearer(&filter, &token), Ok("alice".into()), "remembered");
    let of_bob = rs.token(Algorithm::Rs256, &json!({}), &json!({ "iss": "bob-key" }));
    assert_eq!(bearer(&filter, &of_bob), Ok("bob".into()));
    let by_header = rs.token(Algorithm::Rs256, &json!({ "iss": "bob-key" }), &json!({}));
    assert_eq!(bearer(&filter, &by_header), Ok("bob".into()), "the key's name may stand in the token's header");
}

#[test]
fn refusals_have_kongs_texts_in_kongs_order() {
    let rs = Signer::new(Algorithm::Rs256);
    let filter = filter(|_| {}, &rs);
    let of_bob = json!({ "iss": "bob-key" });
    let pem_as_secret = hs256(rs.pem().as_bytes(), &of_bob);
    let other = Signer::new(Algorithm::Rs256);
    for (token, why) in [
        ("a.b".to_owned(), "Bad token; not three parts"),
        (hs256(b"shared", &json!({})), "No mandatory 'iss' in claims"),
        (hs256(b"shared", &json!({ "iss": 7 })), "Invalid 'iss' in claims"),
        (hs256(b"shared", &json!({ "iss": "" })), "Invalid 'iss' in claims"),
        (hs256(b"shared", &json!({ "iss": "carol-key" })), "No credentials found for given 'iss'"),
        (pem_as_secret, "Invalid algorithm"),
        (rs.token(Algorithm::Rs512, &json!({}), &of_bob), "Invalid algorithm"),
        (hs256(b"Shared", &json!({ "iss": "alice-key" })), "Invalid signature"),
        (hs256(b"", &json!({ "iss": "alice-key" })), "Invalid signature"),
        (other.token(Algorithm::Rs256, &json!({}), &of_bob), "Invalid signature"),
        (hs256(b"shared", &json!({ "iss": "alice-key", "exp": "1" })), "exp must be a number"),
    ] {
        assert_eq!(bearer(&filter, &token), Err(why.into()), "{token}");
    }
    assert_eq!(run(&filter, &mut head("/", &[])), Err(("no token".into(), "Bearer".into())));
}

#[test]
fn times_are_verified_where_asked_for() {
    let rs = Signer::new(Algorithm::Rs256);
    let lax = filter(|_| {}, &rs);
    let strict = filter(
        |settings| {
            (settings.verify_exp, settings.verify_nbf, settings.maximum_expiration) = (true, true, 600);
        },
        &rs,
    );
    let token = |exp: Value, nbf: Value| hs256(b"shared", &json!({ "iss": "alice-key", "exp": exp, "nbf": nbf }));
    for (exp, nbf, why) in [
        (json!(NOW + 60), json!(NOW), None),
        (json!(NOW), json!(NOW), Some("token expired")),
        (json!(NOW + 60), json!(NOW + 1), Some("token not valid yet")),
        (json!(NOW + 601), json!(NOW), Some("exceeds maximum allowed expiration")),
        (json!(u64::MAX), json!(NOW), Some("exceeds maximum allowed expiration")),
    ] {
        let token = token(exp, nbf);
        let wanted = why.map_or_else(|| Ok("alice".into()), |why| Err(why.into()));
        assert_eq!(bearer(&strict, &token), wanted);
        assert_eq!(bearer(&strict, &token), wanted, "remembered tokens end, too");
        assert_eq!(bearer(&lax, &token), Ok("alice".into()));
    }
    let without = hs256(b"shared", &json!({ "iss": "alice-key" }));
    assert_eq!(bearer(&strict, &without), Err("exp must be a number".into()));
}

#[test]
fn one_token_may_stand_in_several_places_and_two_may_not() {
    let filter = filter(|_| {}, &Signer::new(Algorithm::Rs256));
    let (token, other) =
        (hs256(b"shared", &json!({ "iss": "alice-key" })), hs256(b"shared", &json!({ "iss": "alice-key", "a": 1 })));
    let (query, bearer) = (format!("/?jwt={token}"), format!("Bearer {other}"));
    let cookie = format!("token={token}");
    assert_eq!(run(&filter, &mut head(&query, &[("cookie", &cookie)])), Ok("alice".into()));
    let two = run(&filter, &mut head(&query, &[("authorization", &bearer)]));
    assert_eq!(two, Err(("Multiple tokens provided".into(), "Bearer error=\"invalid_token\"".into())));
}

#[test]
fn anonymous_stands_for_callers_without_a_good_token() {
    let filter = filter(|settings| settings.anonymous = Some("nobody".into()), &Signer::new(Algorithm::Rs256));
    for headers in [&[][..], &[("authorization", "Bearer a.b.c")]] {
        let mut head = head("/", headers);
        assert_eq!(run(&filter, &mut head), Ok("nobody".into()));
        assert_eq!(head.headers["x-anonymous-consumer"], "true");
    }
}

#[test]
fn preflights_pass_where_told_and_the_realm_is_quoted() {
    let filter = filter(
        |settings| {
            (settings.run_on_preflight, settings.realm) = (false, Some("a \"b\"".into()));
        },
        &Signer::new(Algorithm::Rs256),
    );
    let mut preflight = head("/", &[]);
    preflight.method = Method::OPTIONS;
    assert_eq!(run(&filter, &mut preflight), Ok(String::new()));
    let (_, challenge) = run(&filter, &mut head("/", &[("authorization", "Bearer x")])).unwrap_err();
    assert_eq!(challenge, r#"Bearer realm="a \"b\"", error="invalid_token""#);
}

#[test]
fn secrets_may_be_base64_of_either_alphabet() {
    for text in ["--8_", "++8/", "++8"] {
        assert_eq!(from_base64(text).unwrap()[..2], [0xfb, 0xef]);
    }
    for algorithm in [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512] {
        assert!(verifier(&secret("k", algorithm, "AAA="), true).is_ok());
        assert!(verifier(&secret("k", algorithm, "!"), true).is_err());
        assert!(verifier(&secret("k", algorithm, "="), true).is_err());
    }
    assert!(verifier(&secret("k", Algorithm::Rs256, "text"), false).is_err());
}
