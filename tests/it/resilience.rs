//! The three promises under load: an instance killed, the agent restarted, an instance stopped: nothing is lost.

use std::process::Command;

use serde_json::json;

use crate::support::{Agent, App, Ask, Consul, Load, SOON, Sidecar, eventually};

/// `users` twice and `web`, all on a real Consul and its CA.
struct Mesh {
    web: Sidecar,
    users: Vec<Sidecar>,
    apps: Vec<App>,
    consul: Consul,
}

impl Mesh {
    fn start() -> Self {
        let consul = Consul::start();
        let apps = vec![App::start("users-1"), App::start("users-2")];
        let users: Vec<Sidecar> = apps.iter().map(|app| users(consul.agent(), app)).collect();
        let web = Sidecar::of("web").consul(consul.agent()).upstream("users", json!({})).start();
        let mesh = Self { web, users, apps, consul };
        mesh.both_serve();
        mesh
    }

    /// Waits until both instances have answered.
    fn both_serve(&self) {
        let mut seen = std::collections::BTreeSet::new();
        eventually(SOON, "both instances answer", || {
            let answer = Ask::get("/").host("users").try_send(self.web.outbound()).ok()?;
            seen.insert(answer.app().to_owned());
            (seen.contains("users-1") && seen.contains("users-2")).then_some(())
        });
    }

    fn load(&self) -> Load {
        let load = Load::start(8, self.web.outbound(), &Ask::get("/bytes/1024").host("users"));
        load.after(500);
        load
    }
}

fn users(agent: Agent, app: &App) -> Sidecar {
    let users = Sidecar::of("users").consul(agent).app(app).start();
    agent.wait_for("users", users.id(), "passing");
    users
}

#[test]
fn killing_an_instance_under_load_loses_no_idempotent_request() {
    let mut mesh = Mesh::start();
    let load = mesh.load();
    mesh.users[0].process.kill();
    mesh.apps[0].stop();
    load.after(2000);
    let report = load.stop();
    report.assert_none_lost();
    assert!(report.by_app["users-2"] > 500, "{:?}", report.by_app);
    let failed = mesh.web.metric("outrigger_upstream_attempts_total", &[("service", "users")])
        - mesh.web.metric("outrigger_upstream_attempts_total", &[("service", "users"), ("outcome", "answered")]);
    assert!(failed >= 1.0, "some tries failed, and were made good");
    let tried_twice = mesh.web.access().iter().any(|line| line["attempts"].as_u64() > Some(1) && line["status"] == 200);
    assert!(tried_twice, "an access line tells of the second try");
}

#[test]
fn an_app_that_dies_behind_its_sidecar_is_left_and_comes_back() {
    let mut mesh = Mesh::start();
    mesh.apps[0].stop();
    mesh.consul.agent().wait_for("users", mesh.users[0].id(), "critical");
    eventually(SOON, "web has left it", || {
        let healthy = [("service", "users"), ("state", "healthy")];
        ((mesh.web.metric("outrigger_upstream_endpoints", &healthy) - 1.0).abs() < 0.1).then_some(())
    });
    let load = mesh.load();
    load.stop().assert_none_lost();
    mesh.apps[0].restart();
    mesh.both_serve();
}

#[test]
fn restarting_the_agent_under_load_loses_nothing() {
    let mut mesh = Mesh::start();
    let load = mesh.load();
    mesh.consul.restart();
    load.after(500);
    for users in &mesh.users {
        mesh.consul.agent().wait_for("users", users.id(), "passing");
    }
    load.after(500);
    load.stop().assert_none_lost();
    mesh.both_serve();
}

#[test]
fn stopping_an_instance_under_load_loses_nothing() {
    let mut mesh = Mesh::start();
    let load = mesh.load();
    assert_eq!(mesh.users[0].stop(), Some(0));
    load.after(500);
    load.stop().assert_none_lost();
    assert!(mesh.consul.agent().service(mesh.users[0].id()).is_none());
    assert!((mesh.users.len(), mesh.apps.len()) == (2, 2));
}

#[test]
fn stopping_an_instance_under_h2load_loses_nothing() {
    let mut mesh = Mesh::start();
    let (outbound, url) = (mesh.web.outbound(), format!("http://{}/bytes/1024", mesh.web.upstream("users")));
    let running = std::thread::spawn(move || {
        let arguments = ["--no-tls-proto=h2c", "-D", "4", "-c", "4", "-m", "8", &url];
        Command::new("h2load").args(arguments).output().expect("h2load is installed; tests/run installs it")
    });
    let served = [("direction", "outbound"), ("service", "users")];
    let so_far = mesh.web.metric("outrigger_requests_total", &served);
    mesh.web.wait_for_metric("outrigger_requests_total", &served, so_far + 500.0);
    assert_eq!(mesh.users[0].stop(), Some(0));
    let output = running.join().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.starts_with("requests:")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(" 0 failed") && line.contains(" 0 errored"), "{said}");
    let codes = said.lines().find(|line| line.starts_with("status codes:")).unwrap_or_default();
    assert!(codes.contains(" 0 4xx, 0 5xx"), "{said}");
    assert_eq!(Ask::get("/").host("users").send(outbound).app(), "users-2");
}
