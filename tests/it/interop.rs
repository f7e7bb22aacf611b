//! With Consul's built-in proxy and with Envoy as the other end, both ways, on Consul's own certificates.

use serde_json::json;

use crate::support::{App, Ask, Consul, Load, SOON, Sidecar, eventually, peers};

#[test]
fn consuls_own_proxy_calls_us() {
    let (consul, app) = (Consul::start(), App::start("users-1"));
    let users = Sidecar::of("users").consul(consul.agent()).app(&app).start();
    consul.agent().wait_for("users", users.id(), "passing");
    let caller = peers::BuiltIn::toward(consul.agent(), "web", "users");
    peers::wait_for_app(caller.listen, "/", "users-1");
    let echo = Ask::new("POST", "/echo").host("users").body("through both").send(caller.listen);
    assert_eq!(echo.json()["body"], "through both");
    users.wait_for_metric("outrigger_handshakes_total", &[("outcome", "accepted")], 1.0);
    let line = eventually(SOON, "an access line", || users.access().into_iter().find(|line| line["path"] == "/echo"));
    assert!(line["peer"].as_str().is_some_and(|peer| peer.ends_with("/svc/web")), "{line}");
}

#[test]
fn we_call_consuls_own_proxy() {
    let (consul, app) = (Consul::start(), App::start("db-1"));
    let _guard = peers::BuiltIn::before(consul.agent(), "db", app.address());
    let web = Sidecar::of("web").consul(consul.agent()).upstream("db", json!({})).start();
    peers::wait_for_app(web.upstream("db"), "/", "db-1");
    let load = Load::start(2, web.upstream("db"), &Ask::get("/bytes/5000").host("db"));
    load.after(100);
    load.stop().assert_none_lost();
    assert!(web.metric("outrigger_upstream_attempts_total", &[("service", "db"), ("outcome", "answered")]) >= 100.0);
}

#[test]
fn envoy_calls_us_over_http1_and_http2() {
    let (consul, app) = (Consul::start(), App::start("users-1"));
    let users = Sidecar::of("users").consul(consul.agent()).app(&app).start();
    consul.agent().wait_for("users", users.id(), "passing");
    let domain = consul.agent().get("/v1/agent/connect/ca/roots").json()["TrustDomain"].as_str().unwrap().to_owned();
    let wanted = format!("spiffe://{domain}/ns/default/dc/dc1/svc/users");
    for h2 in [false, true] {
        let envoy = peers::Envoy::toward(consul.agent(), "web", users.inbound(), &wanted, h2);
        peers::wait_for_app(envoy.listen, "/", "users-1");
        let echo = Ask::new("POST", "/echo").host("users").body("x".repeat(100_000)).send(envoy.listen);
        assert_eq!(echo.json()["length"], 100_000);
    }
}

#[test]
fn we_call_envoy() {
    let (consul, app) = (Consul::start(), App::start("legacy-1"));
    let envoy = peers::Envoy::before(consul.agent(), "legacy", app.address());
    consul.agent().register(&json!({ "ID": "legacy-1", "Name": "legacy", "Address": "127.0.0.1",
        "Port": envoy.listen.port(), "Connect": { "Native": true } }));
    for protocol in ["http", "http2"] {
        let web = Sidecar::of("web").consul(consul.agent()).upstream("legacy", json!({ "protocol": protocol }));
        let web = web.start();
        peers::wait_for_app(web.upstream("legacy"), "/", "legacy-1");
        let echo = Ask::new("POST", "/echo").host("legacy").body("y".repeat(100_000)).send(web.upstream("legacy"));
        assert_eq!(echo.json()["length"], 100_000, "{protocol}");
    }
}
