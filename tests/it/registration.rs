//! One record per instance in Consul, its heartbeat, and what happens when Consul or the app goes away and comes back.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{App, Ask, Consul, SOON, Sidecar, eventually, throughout};

#[test]
fn an_instance_is_registered_as_configured() {
    let consul = Consul::start();
    let app = App::start("users-1");
    let users = Sidecar::of("users")
        .consul(consul.agent())
        .app(&app)
        .id("users-7f9c")
        .set("service.tags", json!(["v2", "eu"]))
        .set("service.meta", json!({ "version": "2.3.1" }))
        .set("service.weights", json!({ "passing": 10, "warning": 2 }))
        .start();
    let record = consul.agent().service("users-7f9c").expect("it is registered once it is ready");
    assert_eq!(record["Service"], "users");
    assert_eq!(record["Connect"]["Native"], true);
    assert_eq!((&record["Address"], &record["Port"]), (&json!("127.0.0.1"), &json!(users.inbound().port())));
    assert_eq!(record["Tags"], json!(["v2", "eu"]));
    assert_eq!(record["Meta"]["version"], "2.3.1");
    assert!(record["Meta"]["outrigger_owner"].as_str().is_some_and(|owner| !owner.is_empty()), "{record}");
    assert_eq!(record["Weights"], json!({ "Passing": 10, "Warning": 2 }));
    assert_eq!(users.ready()["id"], "users-7f9c");
    consul.agent().wait_for("users", "users-7f9c", "passing");
    let check = consul.agent().get("/v1/agent/checks").json();
    let check = check.as_object().unwrap().values().find(|check| check["ServiceID"] == "users-7f9c").cloned();
    assert_eq!(check.expect("it has a check")["Type"], "ttl");
    users.wait_for_metric("outrigger_registered", &[], 1.0);
    users.wait_for_metric("outrigger_heartbeats_total", &[("outcome", "passing")], 2.0);
}

#[test]
fn a_check_is_critical_until_the_app_answers_its_probe() {
    let consul = Consul::start();
    let app = App::start("users-1");
    app.set_healthy(false);
    let users = Sidecar::of("users").consul(consul.agent()).app(&app).start();
    consul.agent().wait_for("users", users.id(), "critical");
    users.wait_for_metric("outrigger_heartbeats_total", &[("outcome", "critical")], 1.0);
    assert!((users.metric("outrigger_heartbeats_total", &[("outcome", "passing")])).abs() < 0.5);
    app.set_healthy(true);
    consul.agent().wait_for("users", users.id(), "passing");
}

#[test]
fn each_kind_of_probe_finds_the_app_well() {
    let consul = Consul::start();
    let app = App::start("users-1");
    let timing = json!({ "interval": "200ms", "timeout": "1s", "ttl": "3s" });
    for (kind, value) in [("http", json!("/healthz")), ("tcp", json!(true)), ("grpc", json!("users.v1.Users"))] {
        let mut check = timing.clone();
        check[kind] = value;
        let mut users = Sidecar::of("users").consul(consul.agent()).app(&app).set("service.check", check).start();
        consul.agent().wait_for("users", users.id(), "passing");
        assert_eq!(users.stop(), Some(0), "{kind}");
    }
    assert!(app.seen("/grpc.health.v1.Health/Check") >= 1);
    let sign_of_life = Sidecar::of("users").consul(consul.agent()).start();
    consul.agent().wait_for("users", sign_of_life.id(), "passing");
}

#[test]
fn an_app_that_dies_turns_critical_in_time_and_recovers() {
    let consul = Consul::start();
    let mut app = App::start("users-1");
    let users = Sidecar::of("users").consul(consul.agent()).app(&app).start();
    consul.agent().wait_for("users", users.id(), "passing");
    app.stop();
    let died = Instant::now();
    consul.agent().wait_for("users", users.id(), "critical");
    // interval 200 ms, twice, and a second; a further second for a loaded machine.
    assert!(died.elapsed() < Duration::from_millis(2400), "after {:?}", died.elapsed());
    app.restart();
    consul.agent().wait_for("users", users.id(), "passing");
}

#[test]
fn a_restarted_agent_gets_the_registration_again() {
    let mut consul = Consul::start();
    let app = App::start("users-1");
    let users = Sidecar::of("users").consul(consul.agent()).app(&app).start();
    consul.agent().wait_for("users", users.id(), "passing");
    consul.restart();
    consul.agent().wait_for("users", users.id(), "passing");
    users.wait_for_metric("outrigger_registered", &[], 1.0);
}

#[test]
fn a_registration_that_the_agent_forgot_is_made_again() {
    let consul = Consul::start();
    let app = App::start("users-1");
    let users = Sidecar::of("users").consul(consul.agent()).app(&app).start();
    consul.agent().wait_for("users", users.id(), "passing");
    consul.agent().deregister(users.id());
    let forgotten = Instant::now();
    eventually(SOON, "it is registered again", || consul.agent().service(users.id()));
    // The next heartbeat (ttl/3 = 1 s) notices, and registers within a second.
    assert!(forgotten.elapsed() < Duration::from_secs(3), "after {:?}", forgotten.elapsed());
    consul.agent().wait_for("users", users.id(), "passing");
}

#[test]
fn a_clean_stop_deregisters() {
    let consul = Consul::start();
    let app = App::start("users-1");
    let mut users = Sidecar::of("users").consul(consul.agent()).app(&app).start();
    consul.agent().wait_for("users", users.id(), "passing");
    assert_eq!(users.stop(), Some(0));
    assert!(consul.agent().service(users.id()).is_none());
}

#[test]
fn stale_ids_of_an_earlier_life_are_removed_and_others_are_not() {
    let consul = Consul::start();
    let app = App::start("users-1");
    let mut users = Sidecar::of("users").consul(consul.agent()).app(&app).id("users-a").start();
    let owner = consul.agent().service("users-a").unwrap()["Meta"]["outrigger_owner"].clone();
    users.process.kill();
    assert!(consul.agent().service("users-a").is_some(), "kill -9 leaves the record behind");
    let mut stale = json!({ "ID": "users-old", "Name": "users", "Address": "127.0.0.1", "Port": 1 });
    stale["Meta"] = json!({ "outrigger_owner": owner });
    consul.agent().register(&stale);
    consul.agent().register(&json!({ "ID": "users-foreign", "Name": "users", "Address": "127.0.0.1", "Port": 2 }));
    let users = users.restart();
    eventually(SOON, "the stale id is gone", || consul.agent().service("users-old").is_none().then_some(()));
    assert!(consul.agent().service("users-foreign").is_some());
    assert!(consul.agent().service(users.id()).is_some());
}

#[test]
fn an_unreachable_consul_is_waited_for() {
    let mut consul = Consul::start();
    consul.kill();
    let app = App::start("users-1");
    let builder = Sidecar::of("users").consul(consul.agent()).app(&app);
    let mut users = builder.upstream("orders", json!({})).start_unready();
    throughout(Duration::from_secs(2), "the sidecar waits for Consul, not ready", || {
        users.process.alive() && !users.folder().join("ready.json").exists()
    });
    let said = users.process.log().matches("Consul").count();
    assert!((1..=8).contains(&said), "said once per change, not per try:\n{}", users.process.log());
    consul.restart();
    users.wait_ready();
    consul.agent().wait_for("users", users.id(), "passing");
    Ask::get("/").host("orders").send(users.outbound()).assert_reason(503, "no_endpoint");
}

#[test]
fn a_token_is_sent_and_a_changed_token_file_is_read_again() {
    let secret = "6b1f9a7c-4c0e-4f3a-9a55-1d2f3e4a5b6c";
    let acl = format!(
        "acl {{ enabled = true default_policy = \"deny\" enable_token_persistence = false tokens {{ master = \"{secret}\" agent = \"{secret}\" }} }}"
    );
    let consul = Consul::start_with(&["-hcl", &acl]);
    let app = App::start("users-1");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let mut users =
        Sidecar::of("users").consul(consul.agent()).app(&app).set("consul.token_file", json!(file)).start_unready();
    users.process.wait_for_log(SOON, "403");
    assert!(!users.process.log().contains("11111111-2222"), "a token is never logged");
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    users.wait_ready();
    let path = format!("/v1/agent/service/{}", users.id());
    let own = Ask::get(&path).host("c").header("X-Consul-Token", secret).send(consul.agent().address);
    assert_eq!(own.status, 200, "{}", own.text());
}
