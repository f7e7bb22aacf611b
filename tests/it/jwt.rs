//! The plugin jwt before a real app, with tokens that PyJWT made and key sets from a server that does as told.

use std::sync::{Arc, LazyLock, Mutex};

use serde_json::{Value, json};

use super::gate_keys::Gate;
use crate::support::client::echoed;
use crate::support::endpoint::{Endpoint, Reply, answer};
use crate::support::{Ask, SOON, eventually, python};

const ISSUER: &str = "https://id.test/";

static MADE: LazyLock<Value> = LazyLock::new(|| {
    let (code, said) = python::start("token_maker", &["make", ISSUER]).finish(3 * SOON);
    assert_eq!(code, Some(0), "{said}");
    let line = said.lines().find(|line| line.starts_with('{')).expect("the maker prints JSON");
    serde_json::from_str(line).expect("JSON")
});

fn token(kind: &str, name: &str) -> &'static str {
    MADE[kind][name].as_str().unwrap_or_else(|| panic!("a token {name}"))
}

fn ask(token: &str) -> Ask {
    Ask::get("/echo").host("users").header("authorization", &format!("Bearer {token}"))
}

const ALL: [&str; 10] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

/// `more` is merged into a provider that takes every algorithm.
fn plugin(more: &Value) -> Value {
    let mut config = json!({ "issuer": ISSUER, "algorithms": ALL, "audiences": ["users"] });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!([{ "name": "jwt", "config": config }])
}

/// A key-set server: what it says now, and how often it was asked.
struct KeyServer {
    says: Arc<Mutex<Reply>>,
    endpoint: Endpoint,
}

impl KeyServer {
    fn start(first: Reply) -> Self {
        let says = Arc::new(Mutex::new(first));
        let now = says.clone();
        Self { says, endpoint: Endpoint::start(move |_| now.lock().unwrap().clone()) }
    }

    fn says(&self, reply: Reply) {
        *self.says.lock().unwrap() = reply;
    }

    fn uri(&self) -> String {
        format!("http://{}/keys", self.endpoint.address())
    }
}

fn set(name: &str) -> Reply {
    Reply::Close(answer(200, "connection: close\r\n", &MADE["jwks"][name].to_string()))
}

#[track_caller]
fn passes(gate: &Gate, token: &str) {
    let answer = gate.send(&ask(token));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn fetches(gate: &Gate, outcome: &str) -> f64 {
    gate.users.metric("outrigger_jwks_fetches_total", &[("issuer", ISSUER), ("outcome", outcome)])
}

#[test]
fn tokens_of_every_algorithm_pass_and_their_claims_reach_the_app() {
    let forward = json!({ "sub": "x-user-id", "scope": "x-scope" });
    let gate = Gate::with(plugin(&json!({
        "jwks": MADE["jwks"]["first"], "forward_claims": forward, "claims": { "scope": { "contains": "read" } },
    })));
    for algorithm in ALL {
        let answer =
            gate.send(&ask(token("tokens", algorithm)).header("x-user-id", "root").header("x_user_id", "root"));
        assert_eq!(echoed(&answer, "x-user-id"), ["alice"], "{algorithm}");
        assert_eq!(echoed(&answer, "x-scope"), ["read write"]);
        assert!(echoed(&answer, "x_user_id").is_empty());
        assert_eq!(echoed(&answer, "authorization").len(), 1);
    }
    let scopes = gate.send(&ask(token("tokens", "scopes")));
    assert_eq!(echoed(&scopes, "x-scope"), ["write,read"]);
    let lacking = gate.send(&ask(token("tokens", "no_scope")));
    lacking.assert_reason(403, "denied");
    let challenge = lacking.header("www-authenticate");
    assert_eq!(challenge, "Bearer realm=\"outrigger\", error=\"insufficient_scope\", scope=\"read\"");
    let counted =
        |decision| gate.users.metric("outrigger_plugin_decisions_total", &[("plugin", "jwt"), ("decision", decision)]);
    assert_eq!((counted("passed"), counted("refused")), (11.0, 1.0));
}

#[test]
fn hostile_tokens_are_refused_and_the_log_says_why_without_the_token() {
    let gate = Gate::with(plugin(&json!({ "jwks": MADE["jwks"]["first"] })));
    let bad = MADE["bad"].as_object().unwrap();
    assert!(bad.len() > 15);
    for (name, bad) in bad {
        let bad = bad.as_str().unwrap();
        // Twice: nothing that was refused is remembered as good.
        for _ in 0..2 {
            let answer = gate.send(&ask(bad));
            answer.assert_reason(401, "not_identified");
            let challenge = answer.header("www-authenticate");
            assert!(challenge.contains("error=\"invalid_token\""), "{name}: {challenge}");
            let line = gate.users.access_of(answer.header("x-request-id"));
            let detail = line["detail"].as_str().unwrap();
            assert!(detail.starts_with("jwt: ") && !line.to_string().contains(&bad[..20]), "{name}: {line}");
        }
    }
    assert_eq!(gate.app.seen("/echo"), 0, "nothing reached the app");
    let without = gate.send(&Ask::get("/echo").host("users"));
    without.assert_reason(401, "not_identified");
    assert_eq!(without.header("www-authenticate"), "Bearer realm=\"outrigger\"");
    let good = token("tokens", "ES256");
    let twice = gate.send(&ask(good).header("authorization", &format!("Bearer {good}")));
    assert!(twice.header("www-authenticate").contains("error=\"invalid_request\""), "{twice:?}");
}

#[test]
fn a_cookie_or_a_query_parameter_holds_the_token_and_the_app_does_not_see_it() {
    let places = json!({ "cookie": "session", "query": "access_token", "hide_credentials": true });
    let mut places = places;
    places["jwks"] = MADE["jwks"]["first"].clone();
    let gate = Gate::with(plugin(&places));
    let good = token("tokens", "EdDSA");
    let in_query = Ask::get(&format!("/echo?a=1&access_token={good}&b=2")).host("users");
    let in_query = gate.send(&in_query.header("x-request-id", "in-the-query"));
    assert_eq!(in_query.status, 200, "{in_query:?}");
    assert!(!in_query.text().contains(&good[..30]), "{in_query:?}");
    let line = gate.users.access_of("in-the-query");
    assert!(!line.to_string().contains(&good[..30]), "{line}");
    let in_cookie = gate.send(&Ask::get("/echo").host("users").header("cookie", &format!("a=1; session={good}")));
    assert_eq!(echoed(&in_cookie, "cookie"), ["a=1"]);
    assert!(echoed(&gate.send(&ask(good)), "authorization").is_empty());
    let both =
        Ask::get(&format!("/echo?access_token={good}")).host("users").header("cookie", &format!("session={good}"));
    gate.send(&both).assert_reason(401, "not_identified");
}

#[test]
fn an_outage_at_start_is_503_and_ends_with_it() {
    let server = KeyServer::start(Reply::Reset(Vec::new()));
    let gate = Gate::with(plugin(&json!({ "jwks_uri": server.uri() })));
    gate.users.wait_for_metric("outrigger_jwks_fetches_total", &[("issuer", ISSUER), ("outcome", "failed")], 1.0);
    gate.send(&ask(token("tokens", "RS256"))).assert_reason(503, "keys_unavailable");
    gate.send(&ask("a.b.c")).assert_reason(401, "not_identified");
    gate.send(&Ask::get("/echo").host("users")).assert_reason(401, "not_identified");
    server.says(set("first"));
    eventually(SOON, "the keys are there", || (gate.send(&ask(token("tokens", "RS256"))).status == 200).then_some(()));
    let age = gate.users.metric("outrigger_jwks_last_answer_timestamp_seconds", &[("issuer", ISSUER)]);
    assert!(age > 1.7e9, "{age}");
}

#[test]
fn an_unknown_key_brings_a_fetch_and_a_withdrawn_one_ends_what_was_verified() {
    let server = KeyServer::start(set("first"));
    let gate = Gate::with(plugin(&json!({ "jwks_uri": server.uri(), "refresh": "1h" })));
    let (old, new) = (token("tokens", "ES256"), token("tokens", "rotated"));
    eventually(SOON, "the keys are there", || (gate.send(&ask(old)).status == 200).then_some(()));
    passes(&gate, old);
    server.says(set("rotated"));
    // The first request with it waits for the fetch.
    assert_eq!(gate.send(&ask(new)).status, 200);
    gate.send(&ask(old)).assert_reason(401, "not_identified");
    // That asked for the old key again, which is not fetched before 10 s are over.
    for _ in 0..20 {
        gate.send(&ask(old)).assert_reason(401, "not_identified");
    }
    assert_eq!((server.endpoint.count(), fetches(&gate, "changed")), (2, 2.0));
}

#[test]
fn the_last_good_keys_stay_whatever_the_server_does() {
    let server = KeyServer::start(set("first"));
    let gate = Gate::with(plugin(&json!({ "jwks_uri": server.uri(), "refresh": "1s" })));
    eventually(SOON, "the keys are there", || (gate.send(&ask(token("tokens", "ES256"))).status == 200).then_some(()));
    let huge = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(2 << 20));
    let elsewhere = format!("connection: close\r\nlocation: http://{}/other\r\n", server.endpoint.address());
    for (what, reply) in [
        ("garbage", Reply::Close(answer(200, "connection: close\r\n", "<html>"))),
        ("no keys", Reply::Close(answer(200, "connection: close\r\n", "{\"keys\":[]}"))),
        ("too much", Reply::Close(answer(200, "connection: close\r\n", &huge))),
        ("an error", Reply::Close(answer(500, "connection: close\r\n", &MADE["jwks"]["rotated"].to_string()))),
        ("a redirect", Reply::Close(answer(302, &elsewhere, ""))),
        ("a reset", Reply::Reset(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_vec())),
    ] {
        let before = fetches(&gate, "failed");
        server.says(reply);
        let failed = [("issuer", ISSUER), ("outcome", "failed")];
        gate.users.wait_for_metric("outrigger_jwks_fetches_total", &failed, before + 1.0);
        passes(&gate, token("tokens", "ES256"));
        passes(&gate, token("tokens", "EdDSA"));
        assert!(server.endpoint.seen().iter().all(|seen| !seen.head.contains("/other")), "{what} was followed");
    }
    server.says(set("rotated"));
    eventually(2 * SOON, "the new keys are taken", || {
        (gate.send(&ask(token("tokens", "rotated"))).status == 200).then_some(())
    });
}

#[test]
fn keys_end_when_they_were_stale_for_long_enough() {
    let server = KeyServer::start(set("first"));
    let keys = json!({ "jwks_uri": server.uri(), "refresh": "1s", "stale_for": "2s" });
    let gate = Gate::with(plugin(&keys));
    eventually(SOON, "the keys are there", || (gate.send(&ask(token("tokens", "ES256"))).status == 200).then_some(()));
    server.says(Reply::Silence);
    eventually(2 * SOON, "the keys are too old", || {
        let answer = gate.send(&ask(token("tokens", "ES256")));
        (answer.status == 503 && answer.reason() == "keys_unavailable").then_some(())
    });
}

#[test]
fn a_file_is_read_again_when_it_changes_and_a_bad_one_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, MADE["jwks"]["first"].to_string()).unwrap();
    let gate = Gate::with(plugin(&json!({ "jwks_file": path })));
    let (old, new) = (token("tokens", "ES256"), token("tokens", "rotated"));
    eventually(SOON, "the file is read", || (gate.send(&ask(old)).status == 200).then_some(()));
    std::fs::write(&path, "{").unwrap();
    let failed = [("issuer", ISSUER), ("outcome", "failed")];
    gate.users.wait_for_metric("outrigger_jwks_fetches_total", &failed, 1.0);
    passes(&gate, old);
    std::fs::write(&path, MADE["jwks"]["rotated"].to_string()).unwrap();
    eventually(SOON, "the new keys are read", || (gate.send(&ask(new)).status == 200).then_some(()));
    gate.send(&ask(old)).assert_reason(401, "not_identified");
}

#[test]
fn https_is_verified_with_the_configured_roots() {
    let folder = tempfile::tempdir().unwrap();
    let text = MADE["jwks"]["first"].to_string();
    let process = python::start("token_maker", &["https", folder.path().to_str().unwrap(), &text]);
    let port = process.next_line(3 * SOON).trim().to_owned();
    let uri = format!("https://localhost:{port}/keys");
    let good = Gate::with(plugin(&json!({ "jwks_uri": uri, "jwks_ca_file": folder.path().join("ca.pem") })));
    eventually(SOON, "the keys are there", || (good.send(&ask(token("tokens", "ES256"))).status == 200).then_some(()));
    let strange = Gate::with(plugin(&json!({ "jwks_uri": uri })));
    let failed = [("issuer", ISSUER), ("outcome", "failed")];
    strange.users.wait_for_metric("outrigger_jwks_fetches_total", &failed, 1.0);
    strange.send(&ask(token("tokens", "ES256"))).assert_reason(503, "keys_unavailable");
}

#[test]
fn a_reload_keeps_the_keys_and_other_settings_count_at_once() {
    let server = KeyServer::start(set("first"));
    let gate = Gate::with(plugin(&json!({ "jwks_uri": server.uri(), "refresh": "1h" })));
    let good = token("tokens", "ES256");
    eventually(SOON, "the keys are there", || (gate.send(&ask(good)).status == 200).then_some(()));
    server.says(Reply::Reset(Vec::new()));
    gate.reload(|config| config["inbound"]["limits"] = json!({ "headers": 50 }));
    passes(&gate, good);
    gate.reload(|config| config["inbound"]["plugins"][0]["config"]["audiences"] = json!(["others"]));
    gate.send(&ask(good)).assert_reason(401, "not_identified");
    assert_eq!(server.endpoint.count(), 1, "equal sources are one");
}

#[test]
fn anonymous_and_shadow_let_pass_and_the_app_is_told_nothing_false() {
    let keys = json!({ "jwks": MADE["jwks"]["first"], "anonymous": true, "forward_claims": { "sub": "x-user-id" } });
    let gate = Gate::with(plugin(&keys));
    let nobody = gate.send(&Ask::get("/echo").host("users").header("x-user-id", "root"));
    assert!(echoed(&nobody, "x-user-id").is_empty());
    gate.send(&ask(token("bad", "expired"))).assert_reason(401, "not_identified");
    gate.reload(|config| config["inbound"]["plugins"][0]["mode"] = json!("shadow"));
    let would = gate.send(&ask(token("bad", "expired")).header("x-request-id", "in-the-shadow"));
    assert_eq!(would.status, 200, "{would:?}");
    let line = gate.users.access_of("in-the-shadow");
    assert!(line["detail"].as_str().unwrap().contains("expired"), "{line}");
}

#[test]
fn kongs_form_knows_consumers_by_their_keys() {
    let consumers = json!([
        { "username": "alice", "jwt_secrets": [{ "key": "alice-key", "secret": MADE["secret"] }] },
        {
            "username": "bob", "custom_id": "4711",
            "jwt_secrets": [{ "key": "bob-key", "algorithm": "RS256", "rsa_public_key": MADE["pem"] }],
        },
        { "username": "guest" },
    ]);
    let plugins = json!([{ "name": "jwt", "config": { "claims_to_verify": ["exp"], "cookie_names": ["token"] } }]);
    let gate = Gate::built(plugins, |users| users.set("consumers", consumers));
    for (name, consumer) in [("alice", "alice"), ("bob", "bob")] {
        let answer = gate.send(&ask(token("kong", name)).header("x-consumer-username", "root"));
        assert_eq!(echoed(&answer, "x-consumer-username"), [consumer]);
        assert_eq!(echoed(&answer, "x-credential-identifier"), [format!("{consumer}-key")]);
    }
    let in_query = gate.send(&Ask::get(&format!("/echo?jwt={}", token("kong", "alice"))).host("users"));
    assert_eq!(echoed(&in_query, "x-consumer-username"), ["alice"]);
    for bad in ["alice_expired", "alice_forged", "carol"] {
        let answer = gate.send(&ask(token("kong", bad)));
        answer.assert_reason(401, "not_identified");
        assert_eq!(answer.header("www-authenticate"), "Bearer error=\"invalid_token\"", "{bad}");
    }
    let without = gate.send(&Ask::get("/echo").host("users"));
    assert_eq!((without.status, without.header("www-authenticate")), (401, "Bearer"));
    gate.reload(|config| config["inbound"]["plugins"][0]["config"]["anonymous"] = json!("guest"));
    let guest = gate.send(&ask(token("kong", "alice_forged")));
    assert_eq!(echoed(&guest, "x-consumer-username"), ["guest"]);
    assert_eq!(echoed(&guest, "x-anonymous-consumer"), ["true"]);
}
