//! key-auth, basic-auth and acl: real requests to a sidecar's inbound port, what its app sees, what is counted and logged.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::certs::Authority;
use crate::support::client::echoed;
use crate::support::pair::sidecar;
use crate::support::sidecar::{Builder, outrigger};
use crate::support::{Answer, App, Ask, Embedded, SOON, Sidecar, eventually};

/// `users` with `plugins` before its app, reached in plain text.
pub struct Gate {
    pub users: Sidecar,
    pub app: App,
    pub authority: Authority,
    pub registry: Embedded,
}

impl Gate {
    pub fn with(plugins: Value) -> Self {
        Self::built(plugins, |users| users)
    }

    pub fn built(plugins: Value, more: impl FnOnce(Builder) -> Builder) -> Self {
        let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), App::start("users-1"));
        let users = sidecar("users", registry.agent(), &authority)
            .app(&app)
            .set("inbound.mtls", json!("off"))
            .set("inbound.plugins", plugins)
            .set("consumers", consumers());
        Self { users: more(users).start(), app, authority, registry }
    }

    #[track_caller]
    pub fn send(&self, ask: &Ask) -> Answer {
        ask.send(self.users.inbound())
    }

    /// Reloads with `change`, and waits until it is in force.
    #[track_caller]
    pub fn reload(&self, change: impl FnOnce(&mut Value)) {
        self.users.rewrite(change);
        let reload = Ask::new("POST", "/reload").host("localhost").body("").send(self.users.admin());
        assert_eq!(reload.status, 200, "{reload:?}");
    }
}

pub fn consumers() -> Value {
    json!([
        {
            "username": "alice", "custom_id": "4711", "id": "a-1", "groups": ["gold"], "acls": [{ "group": "staff" }],
            "keyauth_credentials": [{ "key": "key-of-alice" }, { "key": "second-of-alice", "id": "spare" }],
            "basicauth_credentials": [{ "username": "al", "password": "pass:word" }],
        },
        { "username": "bob", "groups": ["tin"], "keyauth_credentials": [{ "key": "key-of-bob" }] },
        { "username": "guest" },
    ])
}

fn echo() -> Ask {
    Ask::get("/echo").host("users")
}

#[test]
fn a_key_names_its_consumer_to_the_app_and_is_hidden_from_it() {
    let gate = Gate::with(json!([{ "name": "key-auth" }]));
    let spoofed = echo()
        .header("apikey", "key-of-alice")
        .header("X-Consumer-Username", "root")
        .header("X_Consumer_Groups", "admins")
        .header("X-Anonymous-Consumer", "true");
    let answer = gate.send(&spoofed);
    for (name, value) in [
        ("x-consumer-id", "a-1"),
        ("x-consumer-username", "alice"),
        ("x-consumer-custom-id", "4711"),
        ("x-credential-identifier", "alice-1"),
    ] {
        assert_eq!(echoed(&answer, name), [value], "{name}");
    }
    for name in ["apikey", "x_consumer_groups", "x-consumer-groups", "x-anonymous-consumer"] {
        assert!(echoed(&answer, name).is_empty(), "{name} reached the app");
    }
    let in_query = gate.send(&Ask::get("/echo?a=1&apikey=second-of-alice&b").host("users"));
    assert_eq!(echoed(&in_query, "x-credential-identifier"), ["spare"]);
    assert_eq!(in_query.json()["target"], "/echo?a=1&b");
    gate.users.wait_for_metric(
        "outrigger_plugin_decisions_total",
        &[("plugin", "key-auth"), ("decision", "passed")],
        2.0,
    );
}

#[test]
fn who_shows_no_good_key_is_told_how_to_be_identified_and_the_app_sees_nothing() {
    let gate = Gate::with(json!([{ "name": "key-auth", "config": { "realm": "users" } }]));
    for (ask, message, detail) in [
        (echo(), "No API key found in request", "no key"),
        (echo().header("apikey", "wr0ng-s3cret"), "This API key is not known", "unknown key"),
        (echo().header("apikey", "key-of-bob").header("apikey", "key-of-alice"), "Duplicate API key", "several keys"),
    ] {
        let id = format!("key-{}", fastrand::u64(..));
        let answer = gate.send(&ask.header("x-request-id", &id));
        answer.assert_reason(401, "not_identified");
        assert_eq!(answer.header("www-authenticate"), "Key realm=\"users\"");
        assert!(answer.json()["message"].as_str().unwrap().starts_with(message), "{answer:?}");
        let line = gate.users.access_of(&id);
        assert_eq!((&line["status"], &line["reason"]), (&json!(401), &json!("not_identified")));
        assert_eq!(line["detail"], format!("key-auth: refuse not_identified: {detail}"));
    }
    assert_eq!(gate.app.seen("/echo"), 0);
    gate.users.wait_for_metric(
        "outrigger_plugin_decisions_total",
        &[("plugin", "key-auth"), ("decision", "refused")],
        3.0,
    );
    gate.users.wait_for_metric("outrigger_requests_total", &[("reason", "not_identified")], 3.0);
    // No key is ever written anywhere, good or bad.
    gate.send(&Ask::get("/echo?apikey=key-of-alice").host("users"));
    eventually(SOON, "the last line is written", || (gate.users.access().len() >= 4).then_some(()));
    let shown = Ask::get("/config").host("localhost").send(gate.users.admin()).text();
    let said = format!("{:?}{}{shown}", gate.users.access(), gate.users.process.log());
    for secret in ["wr0ng-s3cret", "key-of-alice", "key-of-bob", "pass:word"] {
        assert!(!said.contains(secret), "{secret} was written");
    }
}

#[test]
fn a_grpc_caller_gets_a_status() {
    let gate = Gate::with(json!([{ "name": "key-auth" }]));
    let ask = Ask::new("POST", "/users.v1.Users/Get").host("users").header("content-type", "application/grpc").body("");
    let answer = gate.send(&ask);
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "16"));
    assert_eq!(answer.header("grpc-message"), "No API key found in request; send one.");
}

#[test]
fn several_plugins_are_alternatives_with_anonymous_and_acl_has_the_last_word() {
    let gate = Gate::with(json!([
        { "name": "acl", "config": { "allow": ["gold", "silver"] } },
        { "name": "key-auth", "config": { "anonymous": "guest" } },
        { "name": "basic-auth", "config": { "anonymous": "guest" } },
    ]));
    let basic = |text: &str| echo().header("authorization", &format!("Basic {}", STANDARD.encode(text)));
    let by_key = gate.send(&echo().header("apikey", "key-of-alice"));
    assert_eq!(echoed(&by_key, "x-consumer-groups"), ["gold, staff"]);
    let by_password = gate.send(&basic("al:pass:word"));
    assert_eq!(echoed(&by_password, "x-credential-identifier"), ["al"]);
    assert!(
        echoed(&by_password, "authorization").is_empty() && echoed(&by_password, "x-anonymous-consumer").is_empty()
    );
    for ask in [echo(), basic("al:wrong"), echo().header("apikey", "key-of-bob")] {
        gate.send(&ask).assert_reason(403, "denied");
    }
    assert_eq!(gate.app.seen("/echo"), 2);
}

#[test]
fn basic_auth_challenges_and_anonymous_callers_are_marked() {
    let gate = Gate::with(json!([{ "name": "basic-auth", "config": { "realm": "mesh", "hide_credentials": false } }]));
    let refused = gate.send(&echo());
    refused.assert_reason(401, "not_identified");
    assert_eq!(refused.header("www-authenticate"), "Basic realm=\"mesh\"");
    let kept = format!("Basic {}", STANDARD.encode("al:pass:word"));
    assert_eq!(echoed(&gate.send(&echo().header("authorization", &kept)), "authorization"), [kept]);
    gate.reload(|config| {
        config["inbound"]["plugins"] = json!([{ "name": "key-auth", "config": { "anonymous": "guest" } }]);
    });
    let anonymous = gate.send(&echo().header("apikey", "wrong"));
    assert_eq!(echoed(&anonymous, "x-anonymous-consumer"), ["true"]);
    assert_eq!(echoed(&anonymous, "x-consumer-username"), ["guest"]);
    assert!(echoed(&anonymous, "apikey").is_empty());
}

#[test]
fn acl_without_a_plugin_that_identifies_lets_nobody_in() {
    let gate = Gate::with(json!([{ "name": "acl", "config": { "deny": ["tin"] } }]));
    gate.send(&echo().header("x-consumer-groups", "gold")).assert_reason(401, "not_identified");
}

#[test]
fn a_shadow_counts_and_lets_pass_as_it_came() {
    let gate = Gate::with(json!([{ "name": "key-auth", "mode": "shadow" }]));
    let id = format!("shadow-{}", fastrand::u64(..));
    let answer = gate.send(&echo().header("apikey", "wrong").header("x-request-id", &id));
    assert_eq!(echoed(&answer, "apikey"), ["wrong"]);
    assert!(echoed(&answer, "x-consumer-username").is_empty());
    let line = gate.users.access_of(&id);
    assert_eq!(line["detail"], "key-auth: would refuse not_identified: unknown key");
    gate.users.wait_for_metric(
        "outrigger_plugin_decisions_total",
        &[("plugin", "key-auth"), ("decision", "would_refuse")],
        1.0,
    );
}

#[test]
fn a_reload_takes_a_key_away_and_brings_another() {
    let gate = Gate::with(json!([{ "name": "key-auth" }]));
    assert_eq!(gate.send(&echo().header("apikey", "key-of-bob")).status, 200);
    gate.reload(|config| config["consumers"][1]["keyauth_credentials"] = json!([{ "key": "new-of-bob" }]));
    gate.send(&echo().header("apikey", "key-of-bob")).assert_reason(401, "not_identified");
    assert_eq!(echoed(&gate.send(&echo().header("apikey", "new-of-bob")), "x-consumer-username"), ["bob"]);
}

#[test]
fn a_route_guards_its_part_of_the_app_alone() {
    let gate = Gate::built(json!([]), |users| {
        let guarded =
            json!([{ "name": "admin", "match": { "path": "/echo/admin" }, "plugins": [{ "name": "key-auth" }] }]);
        users.set("inbound.routes", guarded)
    });
    assert_eq!(gate.send(&echo()).status, 200);
    for target in ["/echo/admin", "/echo/x/../admin", "/echo//admin/x", "/echo/%61dmin"] {
        gate.send(&Ask::get(target).host("users")).assert_reason(401, "not_identified");
    }
}

#[test]
fn mistakes_name_their_place_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("o.yaml");
    std::fs::write(
        &file,
        "service: { name: users, port: 8080 }\nconsumers:\n- username: alice\n  keyauth_credentials:\n  - key: s3cret\n\
         - username: bob\n  keyauth_credentials:\n  - key: s3cret\n",
    )
    .unwrap();
    let (code, said) = outrigger(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{said}");
    let wanted = "o.yaml:8:10: consumers[1].keyauth_credentials[0].key: is the same as \
                  consumers[0].keyauth_credentials[0].key; give each its own";
    assert!(said.contains(wanted) && !said.contains("s3cret"), "{said}");
}
