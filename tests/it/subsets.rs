//! Which instances an upstream uses: subsets, other datacenters, failovers, zones.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::certs::Authority;
use crate::support::consul::plain_instance;
use crate::support::pair::sidecar;
use crate::support::{Agent, App, Ask, Consul, Embedded, Load, SOON, Sidecar, eventually, fixed_port, throughout};

fn users() -> Ask {
    Ask::get("/").host("users")
}

fn answered_by(web: &Sidecar) -> Option<String> {
    let answer = users().try_send(web.outbound()).ok()?;
    (answer.status == 200).then(|| answer.app().to_owned())
}

/// Who answers twenty requests.
fn used(web: &Sidecar) -> BTreeSet<String> {
    (0..20).filter_map(|_| answered_by(web)).collect()
}

#[track_caller]
fn wait_used(web: &Sidecar, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|app| (*app).to_owned()).collect();
    eventually(SOON, &format!("users are {wanted:?}"), || (used(web) == wanted).then_some(()));
}

/// `/endpoints` of the first upstream.
fn endpoints(web: &Sidecar) -> Value {
    Ask::get("/endpoints").host("localhost").send(web.admin()).json()["upstreams"][0].clone()
}

fn register(agent: Agent, app: &App, tags: &Value, meta: &Value) {
    let mut body = plain_instance("users", app.name(), app.address());
    body["Tags"] = tags.clone();
    body["Meta"] = meta.clone();
    agent.register(&body);
}

fn upstream_of(config: &mut Value) -> &mut Value {
    &mut config["outbound"]["upstreams"][0]
}

fn subsets(agent: Agent) {
    let apps: Vec<App> = (1..=4).map(|n| App::start(&format!("users-{n}"))).collect();
    let odd = json!({ "a-b": "say \"hi\"\\" });
    register(agent, &apps[0], &json!(["v1"]), &odd);
    register(agent, &apps[1], &json!(["v2", "the \"second\""]), &odd);
    register(agent, &apps[2], &json!(["v2"]), &json!({}));
    let subset = json!({
        "mtls": "off", "balance": "round_robin", "tags": ["v2", "the \"second\""], "meta": odd,
        "filter": "Service.ID == \"users-2\" or Service.ID == \"users-4\"",
    });
    let authority = Authority::new("mesh.test");
    let web = sidecar("web", agent, &authority).upstream("users", subset).start();
    assert_eq!(used(&web), ["users-2".to_owned()].into());
    let watch = endpoints(&web)["registry"][0]["watch"].as_str().unwrap().to_owned();
    assert!(watch.starts_with("health/service/users?"), "{watch}");
    assert!(web.metric("outrigger_consul_last_answer_timestamp_seconds", &[("watch", &watch)]) > 0.0);
    // A new one that fits is used, one that does not is not.
    register(agent, &apps[3], &json!(["v2", "the \"second\""]), &odd);
    wait_used(&web, &["users-2", "users-4"]);
    // A reload that asks for others changes over without a lost request, and the old watch is forgotten.
    let load = Load::start(2, web.outbound(), &users());
    load.after(20);
    web.rewrite(|config| {
        let upstream = upstream_of(config).as_object_mut().unwrap();
        upstream.remove("meta");
        upstream.remove("filter");
        upstream.insert("tags".into(), json!(["v1"]));
    });
    wait_used(&web, &["users-1"]);
    load.after(20);
    load.stop().assert_none_lost();
    assert!(!web.metrics().text.contains(&watch), "{}", web.metrics().text);
}

#[test]
fn tags_meta_and_filter_choose_instances_in_consul() {
    subsets(Consul::start().agent());
}

#[test]
fn tags_meta_and_filter_choose_instances_in_the_embedded_registry() {
    subsets(Embedded::start().agent());
}

fn refused(agent: Agent) {
    let app = App::start("users-1");
    register(agent, &app, &json!([]), &json!({}));
    let authority = Authority::new("mesh.test");
    let web = sidecar("web", agent, &authority).upstream("users", json!({ "mtls": "off" })).start();
    assert_eq!(answered_by(&web).as_deref(), Some("users-1"));
    web.rewrite(|config| upstream_of(config)["filter"] = json!("Service.Foo == \"b\""));
    web.process.wait_for_log(SOON, "Consul refuses the filter");
    let shown = eventually(SOON, "/endpoints shows the error", || {
        endpoints(&web)["registry"][0]["error"].as_str().map(str::to_owned)
    });
    assert!(shown.contains("Service.Foo == \"b\"") && shown.contains("is not valid"), "{shown}");
    assert_eq!(answered_by(&web).as_deref(), Some("users-1"), "the last good endpoints stay");
    assert_eq!(endpoints(&web)["endpoints"][0]["id"], "users-1");
    web.rewrite(|config| upstream_of(config)["filter"] = json!("Service.ID == \"none\""));
    eventually(SOON, "the mended filter is taken", || answered_by(&web).is_none().then_some(()));
    assert_eq!(endpoints(&web)["registry"][0]["error"], Value::Null);
    assert_eq!(users().send(web.outbound()).reason(), "no_endpoint");
}

#[test]
fn a_filter_that_consul_refuses_is_told_and_changes_nothing() {
    refused(Consul::start().agent());
}

#[test]
fn a_filter_that_the_embedded_registry_refuses_is_told_and_changes_nothing() {
    refused(Embedded::start().agent());
}

#[test]
fn where_no_instance_is_left_requests_fail_over_to_another_service_and_come_back() {
    let (consul, authority) = (Consul::start(), Authority::new("mesh.test"));
    let agent = consul.agent();
    let (first, second) = (App::start("users-1"), App::start("backup-1"));
    let mut users_sidecar = sidecar("users", agent, &authority).app(&first).start();
    let backup = sidecar("users-backup", agent, &authority).app(&second).start();
    agent.wait_for("users", users_sidecar.id(), "passing");
    agent.wait_for("users-backup", backup.id(), "passing");
    let more = json!({ "failover": [{ "service": "users-backup" }] });
    let web = sidecar("web", agent, &authority).upstream("users", more).start();
    throughout(Duration::from_millis(300), "the service itself comes first", || {
        answered_by(&web).as_deref() == Some("users-1")
    });
    let shown = endpoints(&web);
    let watches: Vec<&str> = shown["registry"].as_array().unwrap().iter().filter_map(|w| w["watch"].as_str()).collect();
    assert_eq!(watches, ["health/connect/users", "health/connect/users-backup"]);
    let peers: BTreeSet<&str> =
        shown["endpoints"].as_array().unwrap().iter().filter_map(|one| one["peer"].as_str()).collect();
    assert_eq!(peers, ["users", "users-backup"].into(), "each proves to be who it is");
    // A clean leave: not one request is lost on the way over.
    let load = Load::start(2, web.outbound(), &users());
    load.after(20);
    assert_eq!(users_sidecar.stop(), Some(0));
    wait_used(&web, &["backup-1"]);
    load.after(20);
    // Back as soon as Consul lists it again.
    let again = users_sidecar.restart();
    agent.wait_for("users", again.id(), "passing");
    wait_used(&web, &["users-1"]);
    load.after(20);
    load.stop().assert_none_lost();
}

#[test]
fn a_killed_service_costs_no_get_where_there_is_a_failover() {
    let (agent, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let (first, second) = (App::start("users-1"), App::start("backup-1"));
    let mut users_sidecar = sidecar("users", agent.agent(), &authority).app(&first).start();
    let backup = sidecar("users-backup", agent.agent(), &authority).app(&second).start();
    agent.agent().wait_for("users", users_sidecar.id(), "passing");
    agent.agent().wait_for("users-backup", backup.id(), "passing");
    let more = json!({ "failover": [{ "service": "users-backup" }] });
    let web = sidecar("web", agent.agent(), &authority).upstream("users", more).start();
    assert_eq!(answered_by(&web).as_deref(), Some("users-1"));
    let load = Load::start(2, web.outbound(), &users());
    load.after(20);
    users_sidecar.process.kill();
    // Consul lists it until its TTL is over; what cannot be reached is passed over before that.
    wait_used(&web, &["backup-1"]);
    load.after(100);
    load.stop().assert_none_lost();
    assert!(
        web.metric("outrigger_upstream_attempts_total", &[("service", "users"), ("outcome", "connect_failed")]) >= 1.0
    );
}

/// Leaves of Consul's own CA: the second datacenter's is signed by the first one's.
#[test]
fn mtls_reaches_into_another_datacenter() {
    let (dc1, dc2) = datacenters();
    let app = App::start("far");
    let there = Sidecar::of("users").consul(dc2.agent()).app(&app).start();
    dc2.agent().wait_for("users", there.id(), "passing");
    let upstream = json!({ "datacenter": "dc2" });
    let web = Sidecar::of("web").consul(dc1.agent()).upstream("users", upstream).start();
    wait_used(&web, &["far"]);
    assert_eq!(endpoints(&web)["endpoints"][0]["peer"], "users");
}

#[test]
fn a_reload_takes_failovers_away_and_gives_them() {
    let (agent, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let backup = App::start("backup-1");
    agent.agent().register(&plain_instance("users-backup", "backup-1", backup.address()));
    let upstream = json!({ "mtls": "off", "failover": [{ "service": "users-backup" }] });
    let web = sidecar("web", agent.agent(), &authority).upstream("users", upstream).start();
    wait_used(&web, &["backup-1"]);
    web.rewrite(|config| {
        upstream_of(config).as_object_mut().unwrap().remove("failover");
    });
    eventually(SOON, "there is no failover any more", || answered_by(&web).is_none().then_some(()));
    assert_eq!(endpoints(&web)["registry"].as_array().unwrap().len(), 1);
    web.rewrite(|config| upstream_of(config)["failover"] = json!([{ "service": "users-backup" }]));
    wait_used(&web, &["backup-1"]);
}

/// Two datacenters, the second one joined to the first.
fn datacenters() -> (Consul, Consul) {
    let wan = fixed_port();
    let first = Consul::start_with(&[&format!("-serf-wan-port={wan}")]);
    let second = Consul::start_with(&[
        "-datacenter=dc2",
        &format!("-serf-wan-port={}", fixed_port()),
        &format!("-retry-join-wan=127.0.0.1:{wan}"),
        "-hcl=primary_datacenter = \"dc1\"",
    ]);
    eventually(SOON, "dc1 reaches dc2", || {
        let answer =
            Ask::get("/v1/health/service/consul?dc=dc2").host("consul").try_send(first.agent().address).ok()?;
        (answer.status == 200 && answer.text().contains("dc2")).then_some(())
    });
    (first, second)
}

#[test]
fn another_datacenters_instances_are_used_and_failed_over_to() {
    let (dc1, dc2) = datacenters();
    let authority = Authority::new("mesh.test");
    let (near, far) = (App::start("near"), App::start("far"));
    let instance = |app: &App| plain_instance("users", app.name(), app.address());
    dc1.agent().register(&instance(&near));
    let mut there = instance(&far);
    // Reached from elsewhere by another address only.
    there["TaggedAddresses"] = json!({ "wan": { "Address": "127.0.0.1", "Port": far.port() } });
    there["Port"] = json!(1);
    dc2.agent().register(&there);
    let web = sidecar("web", dc1.agent(), &authority)
        .upstream("users", json!({ "mtls": "off", "failover": [{ "datacenter": "dc2" }] }))
        .start();
    throughout(Duration::from_millis(300), "our own datacenter comes first", || {
        answered_by(&web).as_deref() == Some("near")
    });
    assert_eq!(endpoints(&web)["registry"][1]["watch"], "health/service/users@dc2");
    dc1.agent().deregister("near");
    wait_used(&web, &["far"]);
    web.rewrite(|config| *upstream_of(config) = json!({ "service": "users", "mtls": "off", "datacenter": "dc2" }));
    dc1.agent().register(&instance(&near));
    eventually(SOON, "the reload is taken", || {
        (endpoints(&web)["registry"][0]["watch"] == "health/service/users@dc2").then_some(())
    });
    wait_used(&web, &["far"]);
}

/// `users` in each of these zones; each app is named for its zone.
fn in_zones(agent: Agent, zones: &[&str]) -> Vec<App> {
    let start = |zone: &&str| {
        let app = App::start(zone);
        register(agent, &app, &json!([]), &json!({ "zone": zone }));
        app
    };
    zones.iter().map(start).collect()
}

#[test]
fn endpoints_of_our_own_zone_come_first_and_the_others_when_it_is_down() {
    let (agent, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let _apps = in_zones(agent.agent(), &["a", "b"]);
    let caller = |zone: &str| {
        let more = json!({ "mtls": "off", "prefer_zone": true });
        let web = sidecar("web", agent.agent(), &authority).upstream("users", more);
        web.set("service.meta", json!({ "zone": zone })).start()
    };
    let (a, b) = (caller("a"), caller("b"));
    assert_eq!((used(&a), used(&b)), (["a".to_owned()].into(), ["b".to_owned()].into()));
    agent.agent().deregister("a");
    wait_used(&a, &["b"]);
    a.rewrite(|config| upstream_of(config)["prefer_zone"] = json!(false));
    wait_used(&a, &["b"]);
}

#[test]
fn our_zone_is_the_agents_where_the_service_says_nothing() {
    let (consul, authority) = (Consul::start_with(&["-node-meta=zone:b"]), Authority::new("mesh.test"));
    let _apps = in_zones(consul.agent(), &["a", "b"]);
    let more = json!({ "mtls": "off", "balance": "round_robin", "prefer_zone": true });
    let web = sidecar("web", consul.agent(), &authority).upstream("users", more).start();
    web.process.wait_for_log(SOON, "our zone is that of the agent's node");
    wait_used(&web, &["b"]);
}

#[test]
fn an_agent_that_comes_up_after_us_tells_its_zone_then() {
    let (mut consul, authority) = (Consul::start_with(&["-node-meta=zone:b"]), Authority::new("mesh.test"));
    consul.kill();
    let more = json!({ "mtls": "off", "balance": "round_robin", "prefer_zone": true });
    let mut web = sidecar("web", consul.agent(), &authority).upstream("users", more).start_unready();
    web.process.wait_for_log(SOON, "the agent does not tell its node's zone");
    consul.restart();
    let _apps = in_zones(consul.agent(), &["a", "b"]);
    web.wait_ready();
    wait_used(&web, &["b"]);
}

#[test]
fn where_no_zone_is_known_that_is_said_and_all_are_used() {
    let (consul, authority) = (Consul::start(), Authority::new("mesh.test"));
    let _apps = in_zones(consul.agent(), &["a", "b"]);
    let more = json!({ "mtls": "off", "balance": "round_robin", "prefer_zone": true });
    let web = sidecar("web", consul.agent(), &authority).upstream("users", more).start();
    web.process.wait_for_log(SOON, "our zone is not known");
    wait_used(&web, &["a", "b"]);
}
