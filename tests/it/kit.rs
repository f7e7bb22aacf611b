//! The tests' own tools, held to what they promise.

use std::time::Duration;

use http::Request;

use crate::support::client::Connection;
use crate::support::{App, Ask, Consul, Load, h2c, peers};

#[test]
fn the_scripted_app_does_what_its_paths_say() {
    let app = App::start("users-1");
    let echo = Ask::new("POST", "/echo").host("x").header("a", "1").body("hello").chunked().send(app.address());
    assert_eq!((echo.status, echo.app()), (200, "users-1"));
    assert_eq!((&echo.json()["body"], &echo.json()["method"]), (&"hello".into(), &"POST".into()));
    let trailers = Ask::get("/trailers").host("x").header("TE", "trailers").send(app.address());
    assert_eq!(trailers.trailers, [("x-checksum".to_owned(), "5d41".to_owned())]);
    assert_eq!(Ask::get("/bytes/200000").host("x").send(app.address()).body.len(), 200_000);
    assert!(Ask::get("/reset").host("x").try_send(app.address()).is_err());
    assert!(Ask::get("/drop").host("x").try_send(app.address()).is_err());
    let h2 = h2c::send(app.address(), Request::get("http://x/trailers").body(Vec::new()).unwrap());
    assert_eq!((h2.text().as_str(), h2.trailers.len()), ("hello", 1));
    assert_eq!(app.seen("/trailers"), 2);
}

#[test]
fn a_stopped_app_refuses_and_comes_back_on_its_port() {
    let mut app = App::start("users-1");
    let mut kept = Connection::to(app.address()).unwrap();
    assert_eq!(kept.ask(&Ask::get("/").host("x")).unwrap().status, 200);
    app.stop();
    assert!(kept.closed());
    assert!(Ask::get("/").host("x").try_send(app.address()).is_err());
    app.restart();
    assert_eq!(Ask::get("/").host("x").send(app.address()).app(), "users-1");
}

#[test]
fn load_reports_what_failed() {
    let app = App::start("users-1");
    let load = Load::start(2, app.address(), &Ask::get("/status/503").host("x"));
    load.after(20);
    let report = load.stop();
    assert!(report.answered == 0 && report.failures.len() >= 20, "{report:?}");
    let load = Load::start(2, app.address(), &Ask::get("/").host("x"));
    load.after(20);
    load.stop().assert_none_lost();
}

#[test]
fn other_peoples_proxies_reach_each_other_with_consuls_certificates() {
    let consul = Consul::start();
    let app = App::start("users-1");
    let built_in = peers::BuiltIn::before(consul.agent(), "users", app.address());
    let caller = peers::BuiltIn::toward(consul.agent(), "web", "users");
    peers::wait_for_app(caller.listen, "/", "users-1");
    let domain = consul.agent().get("/v1/agent/connect/ca/roots").json()["TrustDomain"].as_str().unwrap().to_owned();
    let id = format!("spiffe://{domain}/ns/default/dc/dc1/svc/users");
    let envoy = peers::Envoy::before(consul.agent(), "users", app.address());
    let through = peers::Envoy::toward(consul.agent(), "web", envoy.listen, &id, true);
    peers::wait_for_app(through.listen, "/", "users-1");
    drop(built_in);
}

#[test]
fn a_restarted_consul_is_empty_and_on_the_same_port() {
    let mut consul = Consul::start();
    let agent = consul.agent();
    agent.register(&serde_json::json!({ "ID": "a", "Name": "a", "Address": "127.0.0.1", "Port": 1 }));
    consul.kill();
    assert!(Ask::get("/v1/status/leader").host("x").try_send(agent.address).is_err());
    consul.restart();
    assert!(agent.service("a").is_none());
    let before = agent.get("/v1/agent/connect/ca/roots").json()["ActiveRootID"].clone();
    consul.rotate_root();
    crate::support::eventually(Duration::from_secs(10), "there is a new root", || {
        (agent.get("/v1/agent/connect/ca/roots").json()["ActiveRootID"] != before).then_some(())
    });
}

/// No figure of a benchmark is published without its run.
#[test]
fn the_published_figures_are_those_of_their_run() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let told = std::process::Command::new("python3")
        .args(["-B", "benches/mesh/mesh.py", "--table", "benches/mesh/results/main.json"])
        .current_dir(here)
        .output()
        .unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let page = std::fs::read_to_string(here.join("docs/performance.md")).unwrap();
    let tables = String::from_utf8(told.stdout).unwrap();
    let rows: Vec<&str> = tables.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 50, "{tables}");
    for row in rows {
        assert!(page.lines().any(|line| line == row), "docs/performance.md lacks {row}");
    }
}
