//! rate-limiting: real requests, in this process, by a fleet, and in a real Redis, with Redis going away and coming back.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::gate_keys::Gate;
use crate::support::client::Connection;
use crate::support::pair::sidecar;
use crate::support::redis::Redis;
use crate::support::{Answer, App, Ask, SOON, Sidecar, eventually};

#[expect(clippy::needless_pass_by_value, reason = "`json!(…)` as an argument reads better than `&json!(…)`")]
fn limit(config: Value) -> Value {
    json!([{ "name": "rate-limiting", "config": config }])
}

fn get() -> Ask {
    Ask::get("/echo").host("users")
}

fn number(answer: &Answer, name: &str) -> u64 {
    answer.header(name).parse().unwrap_or_else(|_| panic!("{name} is no number in {answer:?}"))
}

/// An hour that ends while a test runs would be two windows; tests that count in hours begin outside its last seconds.
fn not_at_the_end_of_an_hour() {
    let left = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        3600 - now % 3600
    };
    eventually(Duration::from_secs(100), "the next hour begins", || (left() > 60).then_some(()));
}

/// How many of `each` requests of 64 clients passed, over the sidecars in turn.
fn passed(sidecars: &[&Sidecar], each: usize) -> usize {
    let passed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 0..64 {
            let (passed, to) = (&passed, sidecars[client % sidecars.len()].inbound());
            scope.spawn(move || {
                let mut connection = Connection::to(to).unwrap();
                for _ in 0..each {
                    let answer = connection.ask(&get()).unwrap();
                    assert!(matches!(answer.status, 200 | 429), "{answer:?}");
                    passed.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                }
            });
        }
    });
    passed.into_inner()
}

#[test]
fn sixty_four_clients_at_once_never_get_more_than_the_limit() {
    not_at_the_end_of_an_hour();
    let gate = Gate::built(limit(json!({ "hour": 100, "day": 150, "limit_by": "ip" })), |users| {
        users.set("workers", json!(2))
    });
    assert_eq!(passed(&[&gate.users], 10), 100);
    assert_eq!(gate.app.seen("/echo"), 100);
    let labels = [("plugin", "rate-limiting"), ("decision", "refused")];
    gate.users.wait_for_metric("outrigger_plugin_decisions_total", &labels, 540.0);
    gate.users.wait_for_metric("outrigger_requests_total", &[("reason", "rate_limited")], 540.0);
}

#[test]
fn callers_are_told_their_limits_on_every_answer() {
    not_at_the_end_of_an_hour();
    let gate = Gate::with(limit(json!({ "hour": 2, "day": 1000, "limit_by": "ip" })));
    for left in [1, 0] {
        let answer = gate.send(&get());
        assert_eq!(answer.status, 200);
        for (name, value) in [
            ("X-RateLimit-Limit-Hour", 2),
            ("X-RateLimit-Remaining-Hour", left),
            ("X-RateLimit-Limit-Day", 1000),
            ("X-RateLimit-Remaining-Day", 998 + left),
            ("RateLimit-Limit", 2),
            ("RateLimit-Remaining", left),
        ] {
            assert_eq!(number(&answer, name), value, "{name}");
        }
        assert!((1..=3600).contains(&number(&answer, "RateLimit-Reset")) && !answer.has("Retry-After"));
    }
    let id = format!("limited-{}", fastrand::u64(..));
    let refused = gate.send(&get().header("x-request-id", &id));
    refused.assert_reason(429, "rate_limited");
    assert_eq!((number(&refused, "RateLimit-Remaining"), number(&refused, "X-RateLimit-Remaining-Day")), (0, 998));
    assert_eq!(number(&refused, "Retry-After"), number(&refused, "RateLimit-Reset"));
    let line = gate.users.access_of(&id);
    assert_eq!((&line["status"], &line["reason"]), (&json!(429), &json!("rate_limited")));
    assert_eq!(line["detail"], "rate-limiting: refuse rate_limited: 2 a hour by ip");
    let grpc = get().header("content-type", "application/grpc");
    assert_eq!(gate.send(&grpc).header("grpc-status"), "8");
}

#[test]
fn status_words_and_silence_are_the_configurations() {
    let config = json!({ "hour": 1, "limit_by": "service", "error_code": 420, "error_message": "Slow \"down\"",
        "hide_client_headers": true });
    let gate = Gate::with(limit(config));
    assert!(!gate.send(&get()).has("RateLimit-Limit"));
    let id = format!("words-{}", fastrand::u64(..));
    let refused = gate.send(&get().header("x-request-id", &id));
    assert_eq!((refused.status, refused.reason()), (420, "rate_limited"));
    assert_eq!(refused.json()["message"], "Slow \"down\"");
    assert!(refused.has("Retry-After") && !refused.has("RateLimit-Limit") && !refused.has("X-RateLimit-Limit-Hour"));
    assert_eq!(gate.users.access_of(&id)["status"], 420);
}

#[test]
fn a_second_ends_and_the_next_one_begins() {
    let gate = Gate::with(limit(json!({ "second": 1, "limit_by": "ip" })));
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (start, first) = (Instant::now(), second());
    let mut passed = 0;
    while start.elapsed() < Duration::from_millis(3200) {
        passed += u64::from(gate.send(&get()).status == 200);
    }
    // One for each second that was touched; the last one may have begun just now.
    let touched = second() - first + 1;
    assert!((touched - 1..=touched).contains(&passed), "{passed} in {touched} seconds");
}

#[test]
fn consumers_are_counted_apart_and_a_trusted_proxys_clients_too() {
    let gate = Gate::with(json!([
        { "name": "key-auth", "config": { "anonymous": "guest" } },
        { "name": "rate-limiting", "config": { "hour": 1 } },
    ]));
    for key in ["key-of-alice", "key-of-bob"] {
        assert_eq!(gate.send(&get().header("apikey", key)).status, 200, "{key}");
        assert_eq!(gate.send(&get().header("apikey", key)).status, 429, "{key}");
    }
    assert_eq!((gate.send(&get()).status, gate.send(&get()).status), (200, 429));
    gate.reload(|config| {
        config["inbound"]["plugins"] = limit(json!({ "hour": 1, "limit_by": "ip" }));
        config["inbound"]["trusted_ips"] = json!(["127.0.0.0/8", "10.1.0.0/16"]);
    });
    let from = |forwarded: &str| gate.send(&get().header("x-forwarded-for", forwarded)).status;
    // The last address that is not trusted is the client's; what stands before it the client may have made up.
    assert_eq!([from("192.0.2.1"), from("6.6.6.6, 192.0.2.1, 10.1.2.3"), from("192.0.2.2")], [200, 429, 200]);
    gate.reload(|config| config["inbound"]["plugins"] = limit(json!({ "day": 1, "limit_by": "ip" })));
    assert_eq!([from("192.0.2.1"), from("192.0.2.2")], [200, 429], "nobody is trusted any more");
}

#[test]
fn a_shadow_refuses_nobody() {
    let gate = Gate::with(json!([{ "name": "rate-limiting", "mode": "shadow", "config": { "hour": 1 } }]));
    for _ in 0..3 {
        let answer = gate.send(&get());
        assert!(answer.status == 200 && !answer.has("RateLimit-Limit"), "{answer:?}");
    }
    let labels = [("plugin", "rate-limiting"), ("decision", "would_refuse")];
    gate.users.wait_for_metric("outrigger_plugin_decisions_total", &labels, 2.0);
}

#[test]
fn a_reload_keeps_what_was_used() {
    not_at_the_end_of_an_hour();
    let gate = Gate::with(limit(json!({ "hour": 3, "limit_by": "ip" })));
    assert_eq!(number(&gate.send(&get()), "RateLimit-Remaining"), 2);
    gate.reload(|config| config["inbound"]["limits"] = json!({ "headers": 90 }));
    assert_eq!(number(&gate.send(&get()), "RateLimit-Remaining"), 1);
    gate.reload(|config| config["inbound"]["plugins"] = limit(json!({ "hour": 4, "limit_by": "ip" })));
    assert_eq!(number(&gate.send(&get()), "RateLimit-Remaining"), 1, "a raised limit keeps what was used");
    gate.reload(|config| config["inbound"]["plugins"] = limit(json!({ "hour": 4, "limit_by": "service" })));
    assert_eq!(number(&gate.send(&get()), "RateLimit-Remaining"), 3, "something else is counted anew");
}

/// `users` and a second instance of it, counting in one Redis.
#[expect(clippy::needless_pass_by_value, reason = "as above")]
fn on_redis(redis: &Redis, more: Value) -> (Gate, Sidecar, App) {
    let mut config = json!({ "hour": 50, "day": 60, "limit_by": "ip", "policy": "redis", "redis": redis.settings() });
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let gate = Gate::with(limit(config.clone()));
    let app = App::start("users-2");
    let second = sidecar("users", gate.registry.agent(), &gate.authority)
        .app(&app)
        .set("inbound.mtls", json!("off"))
        .set("inbound.plugins", limit(config))
        .start();
    (gate, second, app)
}

#[test]
fn sidecars_count_together_in_redis_and_never_too_much() {
    not_at_the_end_of_an_hour();
    let redis = Redis::start();
    let (gate, second, app) = on_redis(&redis, json!({}));
    assert_eq!(passed(&[&gate.users, &second], 4), 50);
    assert_eq!(gate.app.seen("/echo") + app.seen("/echo"), 50);
    let refused = gate.send(&get());
    assert_eq!((refused.status, number(&refused, "RateLimit-Remaining")), (429, 0));
    assert_eq!(number(&refused, "X-RateLimit-Remaining-Day"), 10, "a refused request counts in no window");
    // Two windows of one caller, none without an end, none with a name in it.
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).lines().map(str::to_owned).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("outrigger:{") && !key.contains("127.0.0.1"), "{key}");
        assert!(redis.ask(&["TTL", &key]).parse::<i64>().unwrap() > 0);
    }
    // Scripts are forgotten by a flush; the next question brings it again.
    assert_eq!(redis.ask(&["SCRIPT", "FLUSH"]), "OK");
    assert_eq!(gate.send(&get()).status, 429);
}

#[test]
fn without_redis_requests_pass_uncounted_until_it_is_back() {
    let mut redis = Redis::start();
    let (gate, ..) = on_redis(&redis, json!({ "hour": 2 }));
    assert_eq!((gate.send(&get()).status, gate.send(&get()).status, gate.send(&get()).status), (200, 200, 429));
    redis.kill();
    let passes = gate.send(&get());
    assert!(passes.status == 200 && !passes.has("RateLimit-Limit"), "{passes:?}");
    gate.users.wait_for_metric("outrigger_rate_limit_events_total", &[("event", "store_failed_passed")], 1.0);
    gate.users.process.wait_for_log(SOON, "requests pass uncounted");
    redis.restart();
    eventually(SOON, "it counts again", || gate.send(&get()).has("RateLimit-Limit").then_some(()));
}

#[test]
fn a_silent_redis_costs_its_timeout_at_most_and_then_nothing() {
    let redis = Redis::start();
    let (gate, ..) = on_redis(&redis, json!({ "hour": 1000, "day": 1000 }));
    assert!(gate.send(&get()).has("RateLimit-Limit"));
    redis.signal("STOP");
    let slow = Instant::now();
    for _ in 0..3 {
        assert_eq!(gate.send(&get()).status, 200);
    }
    let waited = slow.elapsed();
    assert!((Duration::from_millis(1400)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    // It is left alone now.
    let quick = Instant::now();
    assert_eq!(gate.send(&get()).status, 200);
    assert!(quick.elapsed() < Duration::from_millis(400), "{:?}", quick.elapsed());
    redis.signal("CONT");
    eventually(SOON, "it counts again", || gate.send(&get()).has("RateLimit-Limit").then_some(()));
}

#[test]
fn where_it_is_told_so_nobody_passes_without_redis() {
    let mut redis = Redis::start();
    let (gate, ..) = on_redis(&redis, json!({ "fault_tolerant": false }));
    assert_eq!(gate.send(&get()).status, 200);
    redis.kill();
    let id = format!("redis-{}", fastrand::u64(..));
    let refused = gate.send(&get().header("x-request-id", &id));
    refused.assert_reason(503, "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    let line = gate.users.access_of(&id);
    assert!(line["detail"].as_str().unwrap().starts_with("rate-limiting: refuse overloaded: redis: "), "{line}");
    gate.users.wait_for_metric("outrigger_rate_limit_events_total", &[("event", "store_failed_refused")], 1.0);
    redis.restart();
    eventually(SOON, "it counts again", || (gate.send(&get()).status == 200).then_some(()));
}

#[test]
fn redis_is_spoken_to_with_a_password_over_tls() {
    let made = |folder: &std::path::Path| {
        let names = ["-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"];
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem",
            ])
            .args(names)
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let folder = tempfile::tempdir().unwrap();
    made(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let port = crate::support::fixed_port();
    let options = |_: &std::path::Path| {
        let tls =
            ["--tls-cert-file", &path("cert.pem"), "--tls-key-file", &path("key.pem"), "--tls-auth-clients", "no"];
        let mut options: Vec<String> = tls.iter().map(|word| (*word).to_owned()).collect();
        options.extend(["--tls-port".to_owned(), port.to_string(), "--requirepass".to_owned(), "s3cret".to_owned()]);
        options
    };
    let redis = Redis::start_with(options);
    let tls = |more: Value| {
        let mut settings =
            json!({ "host": "127.0.0.1", "port": port, "timeout": 2000, "password": "s3cret", "ssl": true });
        for (key, value) in more.as_object().into_iter().flatten() {
            settings[key] = value.clone();
        }
        limit(json!({ "hour": 100, "limit_by": "ip", "policy": "redis", "fault_tolerant": false, "redis": settings }))
    };
    let gate = Gate::with(tls(json!({ "ca_file": path("cert.pem") })));
    assert_eq!(gate.send(&get()).status, 200, "{}", gate.users.process.log());
    // Another root, or another password, and there is no answer.
    gate.reload(|config| config["inbound"]["plugins"] = tls(json!({})));
    gate.send(&get()).assert_reason(503, "overloaded");
    gate.reload(|config| config["inbound"]["plugins"] = tls(json!({ "ssl_verify": false })));
    assert_eq!(gate.send(&get()).status, 200);
    gate.reload(|config| {
        config["inbound"]["plugins"] = tls(json!({ "ca_file": path("cert.pem"), "password": "wr0ng" }));
    });
    gate.send(&get()).assert_reason(503, "overloaded");
    let log = gate.users.process.log();
    assert!(!log.contains("s3cret") && !log.contains("wr0ng"), "{log}");
    drop(redis);
}

#[test]
fn a_fleet_shares_the_limit_by_its_healthy_instances() {
    let config = || limit(json!({ "hour": 10, "limit_by": "header", "header_name": "x-who", "policy": "fleet" }));
    let mut gate = Gate::with(config());
    let agent = gate.registry.agent();
    agent.wait_for("users", gate.users.id(), "passing");
    let share = |sidecar: &Sidecar| {
        let who = fastrand::u64(..).to_string();
        number(&get().header("x-who", &who).send(sidecar.inbound()), "RateLimit-Limit")
    };
    eventually(SOON, "one instance has all", || (share(&gate.users) == 10).then_some(()));
    let app = App::start("users-2");
    let second = sidecar("users", agent, &gate.authority)
        .app(&app)
        .set("inbound.mtls", json!("off"))
        .set("inbound.plugins", config())
        .start();
    for sidecar in [&gate.users, &second] {
        eventually(SOON, "two instances have half each", || (share(sidecar) == 5).then_some(()));
        let statuses: Vec<u16> = (0..7).map(|_| get().header("x-who", "same").send(sidecar.inbound()).status).collect();
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
    }
    app.set_healthy(false);
    eventually(SOON, "an unhealthy instance has no share", || (share(&gate.users) == 10).then_some(()));
    app.set_healthy(true);
    eventually(SOON, "and a healthy one has", || (share(&gate.users) == 5).then_some(()));
    gate.registry.kill();
    crate::support::throughout(Duration::from_secs(2), "the last number holds", || share(&gate.users) == 5);
}
