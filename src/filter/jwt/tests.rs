//! The native form: what passes, what is refused and how the caller is told, what the app sees, what is remembered.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Extensions, Request, request};
use serde_json::{Value, json};

use super::testing::{Signer, encode};
use super::*;
use crate::filter::{Caller, End};
use crate::reason::Reason;

const ISSUER: &str = "https://id.example/";
const NOW: u64 = 1_800_000_000;

/// An issuer, and a filter that knows it.
struct Bench {
    signer: Signer,
    filter: Arc<Jwt>,
    shared: Shared,
    now: Instant,
    wall: SystemTime,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Provider)) -> Self {
        let signer = Signer::new(Algorithm::Es256);
        let jwks = json!({ "keys": [signer.jwk_with(&json!({ "kid": "a" }))] });
        let mut provider = provider(ISSUER, Location::Inline(jwks.to_string()));
        change(&mut provider);
        Self::of(signer, &Settings { providers: vec![provider], anonymous: false })
    }

    fn of(signer: Signer, settings: &Settings) -> Self {
        let shared = Shared::default();
        let filter = shared.filter(settings);
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        Self { signer, filter, shared, now: Instant::now(), wall }
    }

    fn token(&self, more: &Value) -> String {
        let mut claims = json!({ "iss": ISSUER, "sub": "alice", "exp": NOW + 60 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.signer.token(Algorithm::Es256, &json!({ "kid": "a" }), &claims)
    }

    fn call<'a>(&self, head: &'a mut request::Parts, stash: &'a mut Extensions) -> Call<'a> {
        let caller = Caller::at(Ipv4Addr::LOCALHOST);
        Call { head, caller, stash, now: self.now, wall: self.wall, entropy: 0 }
    }

    fn run(&self, head: &mut request::Parts) -> Outcome {
        let mut stash = Extensions::new();
        let decision = self.filter.request(&mut self.call(head, &mut stash));
        match decision.end.map(|end| *end) {
            None => {
                Outcome::Passed(stash.get::<Identified>().and_then(|who| who.credential.as_deref().map(Into::into)))
            }
            Some(End::Refuse { reason, detail, headers, .. }) => {
                let challenge = headers.get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap().to_owned());
                Outcome::Refused(reason, detail, challenge.unwrap_or_default())
            }
            Some(other) => panic!("{other:?}"),
        }
    }

    fn bearer(&self, token: &str) -> Outcome {
        self.run(&mut head("/", &[("authorization", &format!("Bearer {token}"))]))
    }

    /// Why a token is refused as invalid.
    fn fault(&self, token: &str) -> String {
        match self.bearer(token) {
            Outcome::Refused(Reason::NotIdentified, detail, challenge) => {
                assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
                detail
            }
            other => format!("{other:?}"),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Passed(Option<String>),
    /// Reason, detail, challenge.
    Refused(Reason, String, String),
}

fn alice() -> Outcome {
    Outcome::Passed(Some(format!("{ISSUER} alice")))
}

fn provider(issuer: &str, location: Location) -> Provider {
    Provider {
        source: Source {
            issuer: issuer.into(),
            location,
            algorithms: vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa],
            refresh: Duration::from_secs(300),
            stale_for: Duration::from_secs(3600),
        },
        audiences: Vec::new(),
        places: vec![Place::Header(AUTHORIZATION)],
        hide_credentials: false,
        claims: Vec::new(),
        forward_claims: Vec::new(),
        leeway: Duration::from_secs(30),
    }
}

fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let builder = headers.iter().fold(Request::get(uri), |builder, (name, value)| builder.header(*name, *value));
    builder.body(()).unwrap().into_parts().0
}

#[test]
fn a_good_token_passes_and_says_who_calls() {
    let bench = Bench::new(|_| {});
    assert_eq!(bench.bearer(&bench.token(&json!({}))), alice());
}

#[test]
fn without_a_token_the_caller_learns_the_scheme_and_no_error() {
    let bench = Bench::new(|_| {});
    let wanted = Outcome::Refused(Reason::NotIdentified, "no token".into(), "Bearer realm=\"outrigger\"".into());
    assert_eq!(bench.run(&mut head("/", &[])), wanted);
    assert_eq!(bench.run(&mut head("/", &[("authorization", "Basic dTpw")])), wanted);
}

#[test]
fn times_hold_with_leeway_and_must_be_numbers() {
    let bench = Bench::new(|_| {});
    for (claims, why) in [
        (json!({ "exp": NOW - 31 }), "expired"),
        (json!({ "exp": NOW - 30 }), "expired"),
        (json!({ "exp": (NOW + 60).to_string() }), "a date is no number"),
        (json!({ "exp": null }), "a date is no number"),
        (json!({ "nbf": NOW + 31 }), "not valid yet"),
        (json!({ "nbf": u64::MAX }), "not valid yet"),
        (json!({ "nbf": "0" }), "a date is no number"),
        (json!({ "iat": NOW + 31 }), "not valid yet"),
        (json!({ "iat": [] }), "a date is no number"),
    ] {
        assert_eq!(bench.fault(&bench.token(&claims)), why, "{claims}");
    }
    for claims in [
        json!({ "exp": NOW - 29 }),
        json!({ "exp": 1.9e9 }),
        json!({ "exp": u64::MAX }),
        json!({ "nbf": NOW + 30, "iat": NOW + 30 }),
        json!({ "nbf": -1 }),
    ] {
        assert_eq!(bench.bearer(&bench.token(&claims)), alice(), "{claims}");
    }
    let endless = bench.signer.token(Algorithm::Es256, &json!({}), &json!({ "iss": ISSUER, "sub": "alice" }));
    assert_eq!(bench.fault(&endless), "no exp: a token that never ends");
}

#[test]
fn a_token_is_of_a_configured_issuer_and_audience() {
    let bench = Bench::new(|provider| provider.audiences = vec!["users".into()]);
    let aud = json!({ "aud": ["other", "users"] });
    assert_eq!(bench.bearer(&bench.token(&aud)), alice());
    for (claims, why) in [
        (json!({}), "the token is for another audience"),
        (json!({ "aud": "other" }), "the token is for another audience"),
        (json!({ "aud": { "users": 1 } }), "aud is neither text nor a list"),
        (json!({ "aud": "users", "iss": "https://id.example" }), "an issuer that is not configured"),
        (json!({ "aud": "users", "iss": "https://ID.example/" }), "an issuer that is not configured"),
        (json!({ "aud": "users", "iss": null }), "iss, sub or jti is no text"),
        (json!({ "aud": "users", "iss": [ISSUER] }), "iss, sub or jti is no text"),
        (json!({ "aud": "users", "sub": 7 }), "iss, sub or jti is no text"),
        (json!({ "aud": "users", "jti": {} }), "iss, sub or jti is no text"),
    ] {
        assert_eq!(bench.fault(&bench.token(&claims)), why, "{claims}");
    }
}

#[test]
fn an_issuer_is_bound_to_its_own_keys() {
    let (mine, theirs) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256));
    let inline = |signer: &Signer| Location::Inline(json!({ "keys": [signer.jwk()] }).to_string());
    let providers = vec![provider(ISSUER, inline(&mine)), provider("https://other.example", inline(&theirs))];
    let bench = Bench::of(mine, &Settings { providers, anonymous: false });
    assert_eq!(bench.bearer(&bench.token(&json!({}))), alice());
    let cross = bench.token(&json!({ "iss": "https://other.example" }));
    assert_eq!(bench.fault(&cross), "a bad signature");
    let theirs = theirs.token(Algorithm::Es256, &json!({}), &json!({ "iss": ISSUER, "exp": NOW + 60 }));
    assert_eq!(bench.fault(&theirs), "a bad signature");
}

#[test]
fn the_token_does_not_choose_how_it_is_verified() {
    let bench = Bench::new(|_| {});
    let good = bench.token(&json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let payload = signed.split_once('.').unwrap().1;
    let forged = |header: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let signed = format!("{}.{payload}", encode(header));
        let signature = encode(sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    };
    // The public key as a secret: what HS256 would take it for.
    let pem = bench.signer.pem();
    let hs = |signed: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, pem.as_bytes()), signed).as_ref().to_vec();
    let own = Signer::new(Algorithm::Es256);
    let own_signs = |signed: &[u8]| own.sign(Algorithm::Es256, signed);
    let embedded = json!({ "alg": "ES256", "kid": "a", "jwk": own.jwk() }).to_string();
    for (token, why) in [
        (forged(r#"{"alg":"none","kid":"a"}"#, &|_| vec![0]), "an algorithm that is not accepted"),
        (forged(r#"{"alg":"HS256","kid":"a"}"#, &hs), "an algorithm that is not accepted"),
        (forged(r#"{"alg":"RS256","kid":"a"}"#, &own_signs), "a key that the issuer does not list"),
        (forged(r#"{"alg":"ES384","kid":"a"}"#, &own_signs), "an algorithm that is not accepted"),
        (forged(r#"{"alg":"ES256","kid":"a"}"#, &own_signs), "a bad signature"),
        (forged(r#"{"alg":"ES256","kid":"b"}"#, &own_signs), "a key that the issuer does not list"),
        (forged(&embedded, &own_signs), "a key inside the token"),
        (format!("{signed}."), "an empty part"),
        (signed.to_owned(), "not three parts"),
        (format!("{good}.{signature}"), "not three parts"),
        (format!("{}.{signature}", signed.replace('.', "..")), "not three parts"),
        ("x".repeat(jose::LONGEST + 1), "the token is longer than 16 KiB"),
        ("e30.e30.e30".into(), "no algorithm"),
    ] {
        assert_eq!(bench.fault(&token), why, "{token:.100}");
    }
    // One bit of any part changes all.
    for at in [10, signed.len() - 5, good.len() - 20] {
        let mut other = good.clone().into_bytes();
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        assert_ne!(bench.bearer(&String::from_utf8(other).unwrap()), alice());
    }
}

#[test]
fn a_good_token_without_the_required_claims_is_denied() {
    let contains = |words: &[&str]| Test::Contains(words.iter().map(|word| json!(word)).collect());
    let bench = Bench::new(|provider| {
        provider.claims = vec![
            Required { claim: "scope".into(), test: contains(&["read", "write"]) },
            Required { claim: "org.tier".into(), test: Test::AnyOf(vec![json!("gold"), json!("silver")]) },
            Required { claim: "verified".into(), test: Test::Equals(json!(true)) },
        ];
    });
    let good = json!({ "scope": "write read", "org": { "tier": "gold" }, "verified": true });
    assert_eq!(bench.bearer(&bench.token(&good)), alice());
    let realm = "Bearer realm=\"outrigger\", error=\"insufficient_scope\"";
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        bench.bearer(&bench.token(&claims))
    };
    let scopes = Outcome::Refused(
        Reason::Denied,
        "the claim scope is not as required".into(),
        format!("{realm}, scope=\"read write\""),
    );
    assert_eq!(with("scope", json!("read")), scopes);
    assert_eq!(with("scope", json!(["read", 7])), scopes);
    let tier = Outcome::Refused(Reason::Denied, "the claim org.tier is not as required".into(), realm.into());
    assert_eq!(with("org", json!({ "tier": "bronze" })), tier);
    assert_eq!(with("org", json!("gold")), tier);
    assert!(matches!(with("verified", json!("true")), Outcome::Refused(Reason::Denied, ..)));
    // Remembered, and still denied.
    let token = bench.token(&json!({ "scope": "read" }));
    assert_eq!((bench.bearer(&token), bench.bearer(&token)), (scopes, bench.bearer(&token)));
}

#[test]
fn claims_are_forwarded_and_what_the_client_says_in_their_place_is_dropped() {
    let bench = Bench::new(|provider| {
        let forward = |claim: &str, header: &'static str| (claim.to_owned(), HeaderName::from_static(header));
        provider.forward_claims =
            vec![forward("sub", "x-user-id"), forward("groups", "x-groups"), forward("name", "x-name")];
    });
    let token = bench.token(&json!({ "groups": ["a", "b"], "name": "x\r\nx-admin: 1" }));
    let authorization = format!("Bearer {token}");
    let mut head = head(
        "/",
        &[
            ("authorization", &authorization),
            ("x-user-id", "root"),
            ("x_user_id", "root"),
            ("X-User_Id", "root"),
            ("x-name", "root"),
            ("x-consumer-username", "root"),
            ("x-user-ids", "kept"),
        ],
    );
    assert_eq!(bench.run(&mut head), alice());
    let mut seen: Vec<String> = head
        .headers
        .iter()
        .filter(|(name, _)| *name != AUTHORIZATION)
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    seen.sort();
    assert_eq!(seen, ["x-groups=a,b", "x-user-id=alice", "x-user-ids=kept"]);
    assert_eq!(head.headers[AUTHORIZATION], authorization);
}

#[test]
fn anonymous_lets_requests_without_a_token_pass_as_nobody() {
    let signer = Signer::new(Algorithm::Es256);
    let mut of = provider(ISSUER, Location::Inline(json!({ "keys": [signer.jwk()] }).to_string()));
    of.forward_claims = vec![("sub".into(), HeaderName::from_static("x-user-id"))];
    let bench = Bench::of(signer, &Settings { providers: vec![of], anonymous: true });
    let mut bare = head("/", &[("x-user-id", "root")]);
    assert_eq!(bench.run(&mut bare), Outcome::Passed(None));
    assert!(bare.headers.is_empty());
    assert_eq!(bench.fault("a.b.c"), "not base64url", "a bad token is no missing one");
}

#[test]
fn tokens_come_from_every_configured_place_but_from_one_only() {
    let bench = Bench::new(|provider| {
        provider.hide_credentials = true;
        provider.places.extend([Place::Cookie("session".into()), Place::Query("access_token".into())]);
    });
    let token = bench.token(&json!({}));
    let (bearer, cookie) = (format!("Bearer {token}"), format!("a=1; session={token}"));
    let query = format!("/p?a=1&access_token={token}");
    let mut in_header = head("/p?a=1", &[("authorization", &bearer), ("cookie", "a=1")]);
    let mut in_cookie = head("/p?a=1", &[("cookie", &cookie)]);
    let mut in_query = head(&query, &[("cookie", "a=1")]);
    for head in [&mut in_header, &mut in_cookie, &mut in_query] {
        assert_eq!(bench.run(head), alice());
        assert_eq!((head.uri.to_string().as_str(), head.headers.len()), ("/p?a=1", 1), "{head:?}");
        assert_eq!(head.headers["cookie"], "a=1");
    }
    for head in [
        &mut head("/", &[("authorization", &bearer), ("cookie", &cookie)]),
        &mut head(&query, &[("authorization", &bearer)]),
        &mut head("/", &[("authorization", &bearer), ("authorization", &bearer)]),
    ] {
        let Outcome::Refused(Reason::NotIdentified, _, challenge) = bench.run(head) else { panic!("accepted") };
        assert!(challenge.contains("error=\"invalid_request\""), "{challenge}");
    }
}

#[test]
fn an_issuers_tokens_count_in_its_own_places_only() {
    let (a, b) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256));
    let inline = |signer: &Signer| Location::Inline(json!({ "keys": [signer.jwk()] }).to_string());
    let mut second = provider("https://other.example", inline(&b));
    second.places = vec![Place::Cookie("session".into())];
    let bench = Bench::of(a, &Settings { providers: vec![provider(ISSUER, inline(&b)), second], anonymous: false });
    let token = b.token(Algorithm::Es256, &json!({}), &json!({ "iss": "https://other.example", "exp": NOW + 9 }));
    let mut in_cookie = head("/", &[("cookie", &format!("session={token}"))]);
    // In this order too: what is remembered of the token does not open another place.
    assert_eq!(bench.run(&mut in_cookie), Outcome::Passed(None));
    assert_eq!(bench.fault(&token), "the issuer's tokens do not belong there");
}

#[test]
fn before_any_key_was_seen_the_answer_is_503_and_only_for_what_needs_a_key() {
    let location = Location::Uri { uri: "http://127.0.0.1:1/keys".into(), ca_file: None };
    let signer = Signer::new(Algorithm::Es256);
    let mut bench = Bench::of(signer, &Settings { providers: vec![provider(ISSUER, location)], anonymous: false });
    let token = bench.token(&json!({}));
    let unavailable =
        || Outcome::Refused(Reason::KeysUnavailable, "no key of the issuer is known".into(), String::new());
    assert_eq!(bench.bearer(&token), unavailable());
    assert_eq!(bench.fault("a.b.c"), "not base64url");
    let source = bench.filter.sources[0].clone();
    let set = |signer: &Signer| {
        let text = json!({ "keys": [signer.jwk_with(&json!({ "kid": "a" }))] }).to_string();
        KeySet::parse(text.as_bytes(), &source.settings.algorithms).unwrap()
    };
    source.store(Some(set(&bench.signer)), bench.now);
    assert_eq!(bench.bearer(&token), alice());
    // Stale: what is remembered goes with the keys.
    bench.now += Duration::from_secs(3600);
    assert_eq!(bench.bearer(&token), unavailable());
    source.store(None, bench.now);
    assert_eq!(bench.bearer(&token), alice());
    // Other keys: what was verified with the old ones counts no more.
    source.store(Some(set(&Signer::new(Algorithm::Es256))), bench.now);
    assert_eq!(bench.fault(&token), "a bad signature");
}

#[test]
fn an_unknown_key_wakes_the_fetching_once() {
    let bench = Bench::new(|_| {});
    let other = Signer::new(Algorithm::Es256);
    let claims = json!({ "iss": ISSUER, "exp": NOW + 60 });
    let unknown = other.token(Algorithm::Es256, &json!({ "kid": "b" }), &claims);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let woken = || {
        let wanted = std::pin::pin!(bench.filter.sources[0].wanted());
        runtime.block_on(async { futures_util::poll!(wanted).is_ready() })
    };
    assert_eq!(bench.bearer(&bench.token(&json!({}))), alice());
    let bad = other.token(Algorithm::Es256, &json!({ "kid": "a" }), &claims);
    assert_eq!(bench.fault(&bad), "a bad signature");
    assert!(!woken(), "a bad signature of a known key is no reason");
    assert_eq!(bench.fault(&unknown), "a key that the issuer does not list");
    assert_eq!(bench.fault(&unknown), "a key that the issuer does not list");
    assert!(woken());
    assert!(!woken());
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_new_key_waits_for_the_fetch_that_brings_it_once() {
    let (signer, other) = (Signer::new(Algorithm::Es256), Signer::new(Algorithm::Es256));
    let location = Location::Uri { uri: "http://id.test/".into(), ca_file: None };
    let bench = Bench::of(signer, &Settings { providers: vec![provider(ISSUER, location)], anonymous: false });
    let set = |signer: &Signer, kid: &str| {
        let jwks = json!({ "keys": [signer.jwk_with(&json!({ "kid": kid }))] });
        KeySet::parse(jwks.to_string().as_bytes(), &[Algorithm::Es256]).unwrap()
    };
    let source = &bench.filter.sources[0];
    source.store(Some(set(&bench.signer, "a")), bench.now);
    let token = other.token(Algorithm::Es256, &json!({ "kid": "b" }), &json!({ "iss": ISSUER, "exp": NOW + 60 }));
    let asks = || {
        let mut head = head("/", &[("authorization", &format!("Bearer {token}"))]);
        let mut stash = Extensions::new();
        let decision = bench.filter.request(&mut bench.call(&mut head, &mut stash));
        match decision.end.map(|end| *end) {
            Some(End::Ask(ask)) => Ok(ask),
            end => Err(matches!(end, Some(End::Refuse { reason: Reason::NotIdentified, .. }))),
        }
    };
    let decide = |verdict: Verdict| {
        let mut head = head("/", &[("authorization", &format!("Bearer {token}"))]);
        verdict(&mut bench.call(&mut head, &mut Extensions::new())).end
    };
    // A fetch that brings nothing, and one that never ends.
    let asked = asks().expect("a question");
    source.fetched(bench.now);
    assert!(matches!(decide(asked.await).as_deref(), Some(End::Refuse { reason: Reason::NotIdentified, .. })));
    let began = tokio::time::Instant::now();
    assert!(decide(asks().expect("a question").await).is_some());
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    // One that brings the key.
    let asked = asks().expect("a question");
    source.store(Some(set(&other, "b")), bench.now);
    source.fetched(bench.now + Duration::from_secs(10));
    assert!(decide(asked.await).is_none(), "the new key's token passes");
    // Until the next may begin nobody waits.
    source.store(Some(set(&bench.signer, "a")), bench.now);
    assert!(matches!(asks(), Err(true)));
}

#[test]
fn a_remembered_token_ends_when_it_ends_and_costs_no_signature_check() {
    let mut bench = Bench::new(|_| {});
    let token = bench.token(&json!({}));
    assert_eq!(bench.bearer(&token), alice());
    let digest = digest_of(&token);
    let kept = bench.filter.verified.find(&digest).unwrap();
    assert_eq!(bench.bearer(&token), alice());
    assert!(Arc::ptr_eq(&kept, &bench.filter.verified.find(&digest).unwrap()), "verified anew");
    bench.wall += Duration::from_secs(89);
    assert_eq!(bench.bearer(&token), alice());
    bench.wall += Duration::from_secs(1);
    assert_eq!(bench.fault(&token), "expired");
    assert!(bench.filter.verified.find(&digest).is_none(), "a token that ended is forgotten");
    // What was refused is not remembered.
    let bad = bench.token(&json!({ "exp": 1 }));
    assert_eq!(bench.fault(&bad), "expired");
    assert!(bench.filter.verified.find(&digest_of(&bad)).is_none());
}

#[test]
fn equal_settings_share_what_was_verified_and_others_do_not() {
    let bench = Bench::new(|_| {});
    assert!(Arc::ptr_eq(&bench.filter, &bench.shared.filter(&bench.filter.settings)));
    let mut other = bench.filter.settings.clone();
    other.providers[0].audiences = vec!["users".into()];
    let changed = bench.shared.filter(&other);
    assert!(!Arc::ptr_eq(&bench.filter, &changed));
    assert!(Arc::ptr_eq(&bench.filter.sources[0], &changed.sources[0]), "the keys stay");
    other.providers[0].source.refresh += Duration::from_secs(1);
    assert!(!Arc::ptr_eq(&bench.filter.sources[0], &bench.shared.filter(&other).sources[0]));
}

#[test]
fn a_source_is_let_go_when_no_filter_has_it() {
    let location = Location::File("/none".into());
    let settings = Settings { providers: vec![provider(ISSUER, location)], anonymous: false };
    let shared = Shared::default();
    let filter = shared.filter(&settings);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let source = runtime.block_on(shared.sources.next()).upgrade().unwrap();
    assert!(!shared.sources.release(&source));
    drop(filter);
    assert!(shared.sources.release(&source));
    assert!(!Arc::ptr_eq(&source, &shared.filter(&settings).sources[0]), "the task of the old one ended");
}
