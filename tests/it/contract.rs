//! What a sidecar relies on in Consul's HTTP API, held against the real Consul and against the embedded registry.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Agent, Answer, Ask, Consul, Embedded, SOON, eventually};

/// Each contract becomes two tests, `consul::NAME` and `embedded::NAME`.
macro_rules! contracts {
    ($($name:ident),+ $(,)?) => {
        mod consul {
            $(#[test] fn $name() { let consul = super::Consul::start(); super::$name(consul.agent()); })+
        }
        mod embedded {
            $(#[test] fn $name() { let registry = super::Embedded::start(); super::$name(registry.agent()); })+
        }
    };
}

contracts! {
    a_registration_is_told_back_as_it_was_made,
    a_ttl_check_starts_critical_and_follows_its_updates,
    a_ttl_check_that_is_not_updated_turns_critical,
    an_update_of_an_unknown_check_is_refused,
    registering_again_keeps_the_status_of_its_check,
    only_mesh_instances_are_listed_under_connect,
    a_blocking_query_wakes_at_a_change_and_at_its_end,
    a_blocking_query_for_an_absent_service_wakes_at_its_first_instance,
    deregistration_removes_at_once,
    bad_registrations_are_refused,
    the_agent_tells_its_version_and_leader,
    passing_leaves_out_what_is_not_well,
}

fn instance(id: &str) -> Value {
    json!({
        "ID": id, "Name": "users", "Address": "127.0.0.1", "Port": 20000, "Tags": ["v1", "eu"],
        "Meta": { "version": "1.2.3", "outrigger_owner": "me" }, "Weights": { "Passing": 7, "Warning": 2 },
        "Connect": { "Native": true },
        "Check": { "CheckID": format!("{id}:ttl"), "Name": "sidecar heartbeat", "TTL": "2s",
                   "DeregisterCriticalServiceAfter": "1m" }
    })
}

fn update(agent: Agent, check: &str, status: &str) -> Answer {
    let body = json!({ "Status": status, "Output": "told by a test" });
    agent.put(&format!("/v1/agent/check/update/{check}"), &body)
}

fn index(answer: &Answer) -> u64 {
    answer.header("x-consul-index").parse().expect("X-Consul-Index is a number")
}

fn a_registration_is_told_back_as_it_was_made(agent: Agent) {
    agent.register(&instance("users-1"));
    let own = agent.service("users-1").expect("the agent has it");
    assert_eq!((&own["ID"], &own["Service"], &own["Port"]), (&json!("users-1"), &json!("users"), &json!(20000)));
    assert_eq!(own["Tags"], json!(["v1", "eu"]));
    assert_eq!(own["Meta"], json!({ "version": "1.2.3", "outrigger_owner": "me" }));
    assert_eq!(own["Weights"], json!({ "Passing": 7, "Warning": 2 }));
    assert_eq!(own["Connect"]["Native"], true);
    let all = agent.get("/v1/agent/services").json();
    assert_eq!(all["users-1"]["Meta"]["outrigger_owner"], "me");
    assert_eq!(all["users-1"]["Service"], "users");
    let listed = agent.get("/v1/health/connect/users").json();
    let listed = &listed[0];
    assert_eq!(listed["Service"]["Weights"], json!({ "Passing": 7, "Warning": 2 }));
    assert_eq!(listed["Service"]["Address"], "127.0.0.1");
    assert!(listed["Node"]["Address"].is_string() && listed["Node"]["Node"].is_string(), "{listed}");
    let check = listed["Checks"].as_array().unwrap().iter().find(|check| check["CheckID"] == "users-1:ttl");
    assert_eq!(check.expect("its check is listed")["ServiceID"], "users-1");
}

fn a_ttl_check_starts_critical_and_follows_its_updates(agent: Agent) {
    agent.register(&instance("users-1"));
    agent.wait_for("users", "users-1", "critical");
    for status in ["passing", "warning", "critical", "passing"] {
        assert_eq!(update(agent, "users-1:ttl", status).status, 200);
        agent.wait_for("users", "users-1", status);
    }
    assert_eq!(update(agent, "users-1:ttl", "maybe").status, 400);
}

fn a_ttl_check_that_is_not_updated_turns_critical(agent: Agent) {
    agent.register(&instance("users-1"));
    assert_eq!(update(agent, "users-1:ttl", "passing").status, 200);
    agent.wait_for("users", "users-1", "passing");
    agent.wait_for("users", "users-1", "critical");
}

fn an_update_of_an_unknown_check_is_refused(agent: Agent) {
    // 500 in Consul 1.8, 404 in newer ones; both mean "register again".
    assert!([404, 500].contains(&update(agent, "nobody:ttl", "passing").status));
    assert_eq!(agent.get("/v1/agent/service/nobody").status, 404);
}

fn registering_again_keeps_the_status_of_its_check(agent: Agent) {
    agent.register(&instance("users-1"));
    assert_eq!(update(agent, "users-1:ttl", "passing").status, 200);
    let mut changed = instance("users-1");
    changed["Tags"] = json!(["v2"]);
    agent.register(&changed);
    assert_eq!(agent.service("users-1").unwrap()["Tags"], json!(["v2"]));
    agent.wait_for("users", "users-1", "passing");
}

fn only_mesh_instances_are_listed_under_connect(agent: Agent) {
    agent.register(&instance("users-1"));
    agent.register(&json!({ "ID": "users-plain", "Name": "users", "Address": "127.0.0.1", "Port": 9 }));
    let ids = |path: &str| -> Vec<String> {
        let listed = agent.get(path).json();
        let mut ids: Vec<String> =
            listed.as_array().unwrap().iter().map(|e| e["Service"]["ID"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    eventually(SOON, "both are listed", || (ids("/v1/health/service/users").len() == 2).then_some(()));
    assert_eq!(ids("/v1/health/service/users"), ["users-1", "users-plain"]);
    assert_eq!(ids("/v1/health/connect/users"), ["users-1"]);
}

fn a_blocking_query_wakes_at_a_change_and_at_its_end(agent: Agent) {
    agent.register(&instance("users-1"));
    agent.wait_for("users", "users-1", "critical");
    // The agent's own syncing may move the index once more after a registration: then a query ends early, with news.
    let seen = eventually(SOON, "a query holds for its whole wait", || {
        let seen = index(&agent.get("/v1/health/connect/users"));
        let start = Instant::now();
        let unchanged = agent.get(&format!("/v1/health/connect/users?index={seen}&wait=1s"));
        let moved = index(&unchanged) != seen;
        assert!(moved || start.elapsed() >= Duration::from_millis(950), "it held for {:?}", start.elapsed());
        (!moved).then_some(seen)
    });
    assert!(seen >= 1);

    let long = format!("/v1/health/connect/users?index={seen}&wait=30s");
    let waiting = thread::spawn(move || (agent.get(&long), Instant::now()));
    // Whether the query is already held or comes later, it has to answer with the change.
    assert_eq!(update(agent, "users-1:ttl", "passing").status, 200);
    let changed = Instant::now();
    let (answer, woken) = waiting.join().unwrap();
    assert!(index(&answer) > seen);
    assert!(woken.saturating_duration_since(changed) < Duration::from_secs(1));
}

fn a_blocking_query_for_an_absent_service_wakes_at_its_first_instance(agent: Agent) {
    let first = agent.get("/v1/health/connect/users");
    assert_eq!((first.status, first.json()), (200, json!([])));
    let waiting = thread::spawn(move || {
        let mut seen = index(&first);
        loop {
            let answer = agent.get(&format!("/v1/health/connect/users?index={seen}&wait=30s"));
            // Consul may wake for what is no news (Consul, "Blocking queries"), but then with another index.
            if answer.json() != json!([]) || index(&answer) == seen {
                return answer;
            }
            seen = index(&answer);
        }
    });
    agent.register(&instance("users-1"));
    let answer = waiting.join().unwrap();
    assert_eq!(answer.json()[0]["Service"]["ID"], "users-1");
}

fn deregistration_removes_at_once(agent: Agent) {
    agent.register(&instance("users-1"));
    agent.wait_for("users", "users-1", "critical");
    agent.deregister("users-1");
    assert!(agent.service("users-1").is_none());
    eventually(SOON, "users has no instance", || agent.instances("users").is_empty().then_some(()));
    assert!([404, 500].contains(&update(agent, "users-1:ttl", "passing").status));
}

fn bad_registrations_are_refused(agent: Agent) {
    let mut unknown_key = instance("users-1");
    unknown_key["Bogus"] = json!(1);
    for body in [unknown_key, json!({ "ID": "x" }), json!([])] {
        assert_eq!(agent.put("/v1/agent/service/register", &body).status, 400, "{body}");
    }
    assert_eq!(agent.get("/v1/nothing").status, 404);
}

fn the_agent_tells_its_version_and_leader(agent: Agent) {
    let own = agent.get("/v1/agent/self").json();
    for key in ["Version", "NodeName", "Datacenter"] {
        assert!(own["Config"][key].as_str().is_some_and(|text| !text.is_empty()), "Config.{key}: {own}");
    }
    let leader = Ask::get("/v1/status/leader").host("consul").send(agent.address);
    assert!(leader.json().as_str().is_some_and(|address| !address.is_empty()));
}

fn passing_leaves_out_what_is_not_well(agent: Agent) {
    agent.register(&instance("users-1"));
    agent.register(&instance("users-2"));
    assert_eq!(update(agent, "users-2:ttl", "passing").status, 200);
    agent.wait_for("users", "users-2", "passing");
    let passing = agent.get("/v1/health/connect/users?passing=true").json();
    assert_eq!(passing.as_array().map(Vec::len), Some(1), "{passing}");
    assert_eq!(passing[0]["Service"]["ID"], "users-2");
}
