//! Admin and metrics over real sockets, with a view made by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::identity::Identity;
use crate::identity::testing::Authority as Ca;

use super::testing::{Desk, LIMIT, fill, listing, read_to_end, send, try_send};
use crate::service::{Ask, Health};

#[tokio::test]
async fn readiness_is_told_on_both_listeners_in_each_phase() {
    let desk = Desk::open().await;
    let told = |status: u16, said: Value| {
        let desk = &desk;
        async move {
            for answer in [desk.get("/readyz").await, desk.get_metrics("/readyz").await] {
                assert_eq!((answer.status, answer.json()), (status, said.clone()));
            }
        }
    };
    told(503, json!({ "status": "starting", "missing": ["identity", "registration"] })).await;
    desk.view.status.arrived("identity");
    desk.view.status.arrived("registration");
    told(200, json!({ "status": "ready" })).await;
    // The listeners outlive a drain: somebody has to say so.
    desk.lifecycle.begin_drain();
    desk.view.status.drain();
    told(503, json!({ "status": "draining" })).await;
    for answer in [desk.get("/livez").await, desk.get_metrics("/livez").await] {
        assert_eq!((answer.status, answer.json()), (200, json!({ "status": "alive" })));
    }
    assert_eq!(
        desk.lifecycle.stop(Duration::ZERO).await,
        crate::lifecycle::Stopped::Killed { still_running: vec![("admin", 1), ("metrics", 1)] }
    );
    assert!(TcpStream::connect(desk.admin).await.is_err(), "a kill ends the listener");
}

#[tokio::test]
async fn the_metrics_listener_has_nothing_but_its_three_paths() {
    let desk = Desk::open().await;
    for path in ["/", "/config", "/endpoints", "/certs", "/topology", "/drain", "/quit", "/app.js", "/metrics/", "//"] {
        let answer = desk.get_metrics(path).await;
        assert_eq!((answer.status, &answer.json()["error"]), (404, &json!("not_found")), "{path}");
    }
    let posted = send(desk.metrics, "POST /quit HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(posted.status, 404);
}

#[tokio::test]
async fn endpoints_show_what_is_known_of_each() {
    let desk = Desk::open().await;
    fill(&desk.orders);
    let listed = desk.get("/endpoints").await.json();
    assert_eq!((&listed["service"], &listed["id"]), (&json!("web"), &json!("web-1")));
    assert_eq!(listed["app"]["endpoints"][0]["address"], "127.0.0.1:8080");
    assert_eq!(
        listed["upstreams"][0],
        json!({
            "service": "billing", "healthy": 0, "ejected": 0, "excluded": 0, "registry": [], "endpoints": []
        })
    );
    let orders = &listed["upstreams"][1];
    assert_eq!((&orders["healthy"], &orders["ejected"], &orders["excluded"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!(
        orders["endpoints"][0],
        json!({
            "id": "orders-1", "address": "127.0.0.1:1", "health": "passing", "state": "healthy", "weight": 7,
            "in_flight": 0, "latency_ms": 0.0, "zone": "a", "mtls": true, "peer": "orders",
            "breaker": {
                "state": "closed", "consecutive": 0, "error_rate": 0.0, "requests": 0, "ejections": 0, "open_for_ms": 0
            }
        })
    );
    let states: Vec<_> = orders["endpoints"].as_array().unwrap().iter().map(|e| e["state"].clone()).collect();
    assert_eq!(states, ["healthy", "ejected", "excluded"]);
    // The one that could not be reached is shut by that, with its breaker still closed.
    let breaker = &orders["endpoints"][1]["breaker"];
    assert_eq!((&breaker["state"], &breaker["consecutive"]), (&json!("closed"), &json!(1)));
}

#[tokio::test]
async fn an_open_breaker_shows_and_counts_as_ejected() {
    let desk = Desk::open().await;
    let now = Instant::now();
    desk.orders.list(vec![listing("orders-1", 1, Health::Passing), listing("orders-2", 2, Health::Passing)], now);
    let lease = || desk.orders.lease(&Ask { tried: &[], now, entropy: 1, key: None }).unwrap();
    let ill = lease().endpoint().number();
    let others: Vec<_> = desk.orders.endpoints().all().iter().map(|e| e.number()).filter(|n| *n != ill).collect();
    for _ in 0..5 {
        let lease = desk.orders.lease(&Ask { tried: &others, now, entropy: 1, key: None }).unwrap();
        lease.answered(now, now, false);
    }
    let listed = desk.get("/endpoints").await.json();
    let orders = &listed["upstreams"][1];
    assert_eq!((&orders["healthy"], &orders["ejected"]), (&json!(1), &json!(1)));
    let open = orders["endpoints"].as_array().unwrap().iter().find(|e| e["state"] == "ejected").unwrap();
    let breaker = &open["breaker"];
    assert_eq!((&breaker["state"], &breaker["error_rate"]), (&json!("open"), &json!(1.0)));
    assert_eq!((&breaker["requests"], &breaker["ejections"]), (&json!(5), &json!(1)));
    let left = breaker["open_for_ms"].as_u64().unwrap();
    assert!((1..=30_000).contains(&left), "{left}");
    let metrics = desk.get_metrics("/metrics").await.body;
    assert!(metrics.contains("outrigger_upstream_endpoints{service=\"orders\",state=\"ejected\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn each_scrape_counts_the_endpoints_as_of_now() {
    let desk = Desk::open().await;
    let before = desk.get_metrics("/metrics").await;
    assert!(before.body.contains("outrigger_upstream_endpoints{service=\"orders\",state=\"healthy\"} 0\n"));
    fill(&desk.orders);
    for answer in [desk.get("/metrics").await, desk.get_metrics("/metrics").await] {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        for state in ["healthy", "ejected", "excluded"] {
            let line = format!("outrigger_upstream_endpoints{{service=\"orders\",state=\"{state}\"}} 1\n");
            assert!(answer.body.contains(&line), "{line}\n{}", answer.body);
        }
        assert_is_prometheus_text(&answer.body);
    }
}

/// What `promtool check metrics` looks at first: each family has HELP and TYPE before its samples, each sample a number.
fn assert_is_prometheus_text(page: &str) {
    assert!(page.ends_with('\n'));
    let mut families = std::collections::BTreeSet::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap_or_else(|| panic!("HELP without text: {line}"));
            assert!(!text.is_empty() && families.insert(name.to_owned()), "told twice: {line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert!(families.contains(kind.split(' ').next().unwrap()), "TYPE without HELP: {line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(families.contains(name) || families.contains(family.unwrap_or_default()), "of no family: {line}");
            assert!(value.parse::<f64>().is_ok(), "no number: {line}");
        }
    }
}

#[tokio::test]
async fn certificates_are_null_until_they_are_issued() {
    let desk = Desk::open().await;
    let none = desk.get("/certs").await;
    assert_eq!((none.status, none.json()), (200, Value::Null));
    let material = Ca::root("root").material("web");
    desk.view.identity.store(Some(Arc::new(Identity::new(&material).unwrap())));
    let answer = desk.get("/certs").await;
    let certs = answer.json();
    assert!(certs["spiffe_id"].as_str().unwrap().ends_with("/ns/default/dc/dc1/svc/web"));
    assert!((3500..=3600).contains(&certs["seconds_left"].as_i64().unwrap()), "{certs}");
    assert!(certs["roots_seconds_left"].as_i64() > certs["seconds_left"].as_i64());
    let serial = certs["serial"].as_str().unwrap();
    assert!(!serial.is_empty(), "{certs}");
    for time in ["not_before", "not_after", "roots_not_after"] {
        let text = certs[time].as_str().unwrap();
        assert!(humantime::parse_rfc3339(text).is_ok(), "{text}");
    }
    assert!(!answer.body.to_lowercase().contains("key"), "{}", answer.body);
}

#[tokio::test]
async fn topology_is_json_or_a_graph() {
    let desk = Desk::open().await;
    fill(&desk.orders);
    assert_eq!(
        desk.get("/topology").await.json(),
        json!({
            "service": "web", "id": "web-1",
            "upstreams": [
                { "service": "billing", "endpoints": 0, "healthy": 0, "requests": 0, "in_flight": 0 },
                { "service": "orders", "endpoints": 3, "healthy": 1, "requests": 0, "in_flight": 0 },
            ],
            "plain_text_peers": {},
            "intentions": null
        })
    );
    let graph = desk.get("/topology?x=y&format=mermaid").await;
    assert_eq!(
        graph.body,
        "graph LR\n  self([\"web\"])\n  self -.->|\"0 of 0 healthy\"| u0[\"billing\"]\n  \
         self -->|\"1 of 3 healthy\"| u1[\"orders\"]\n"
    );
    assert_eq!(desk.get("/topology?format=svg").await.status, 400);
}

#[tokio::test]
async fn config_shows_what_is_in_force_and_what_was_refused() {
    let desk = Desk::open().await;
    let answer = desk.get("/config").await;
    let shown = answer.json();
    assert_eq!(shown["config"]["service"]["name"], "web");
    assert_eq!(shown["refused"], json!(["outrigger.yaml:1:1: a: \"b\""]));
    // Hostile text is quoted as JSON, and no browser takes it for anything else.
    assert_eq!(shown["file"], "</script><script>alert(1)</script>.yaml");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn the_page_brings_all_it_needs_and_runs_nothing_inline() {
    let desk = Desk::open().await;
    let page = desk.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    assert!(page.body.contains("<script src=\"app.js\" defer></script>"));
    for foreign in ["http:", "https:", " style=", " onclick=", "<script>"] {
        assert!(!page.body.contains(foreign), "{foreign}");
    }
    let script = desk.get("/app.js").await;
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    for markup in ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "http:", "https:"] {
        assert!(!script.body.contains(markup), "the page sets text only: {markup}");
    }
    // Every element that the script writes to is on the page.
    for id in script.body.split("at(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(page.body.contains(&format!("id=\"{id}\"")), "{id}");
    }
    let style = desk.get("/app.css").await;
    assert_eq!(style.header("content-type"), Some("text/css; charset=utf-8"));
    assert!(style.body.contains("prefers-color-scheme: dark") && !style.body.contains("url("));
}

#[tokio::test]
async fn each_path_takes_its_methods_only() {
    let desk = Desk::open().await;
    for path in ["/", "/livez", "/readyz", "/config", "/endpoints", "/certs", "/topology", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let answer = desk.ask(method, path, "host: localhost\r\n").await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
            assert_eq!(answer.json()["error"], "method_not_allowed");
        }
    }
    for path in ["/drain", "/reload", "/quit"] {
        for method in ["GET", "PUT"] {
            let answer = desk.ask(method, path, "host: localhost\r\n").await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method} {path}");
        }
    }
    let answer = desk.get("/nothing").await;
    assert_eq!((answer.status, &answer.json()["error"]), (404, &json!("not_found")));
    let head = desk.ask("HEAD", "/livez", "host: localhost\r\n").await;
    assert_eq!((head.status, head.body.as_str(), head.header("content-length")), (200, "", Some("18")));
}

#[tokio::test]
async fn commands_reach_the_app_and_their_outcome_the_caller() {
    let mut desk = Desk::open().await;
    let (answer, ()) = desk
        .with_command("/reload", |_, command| match command {
            Command::Reload(answer) => answer.send(Ok(())).unwrap(),
            Command::Drain | Command::Quit => panic!("not what was asked"),
        })
        .await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "status": "applied" })));
    let (answer, ()) = desk
        .with_command("/reload", |_, command| match command {
            Command::Reload(answer) => answer.send(Err(vec!["a".into(), "b".into()])).unwrap(),
            Command::Drain | Command::Quit => panic!("not what was asked"),
        })
        .await;
    assert_eq!((answer.status, answer.json()), (422, json!({ "status": "refused", "problems": ["a", "b"] })));
    let (answer, ()) = desk.with_command("/reload", |_, command| drop(command)).await;
    assert_eq!((answer.status, &answer.json()["error"]), (503, &json!("stopping")));
    let (answer, is_drain) = desk
        .with_command("/drain", |view, command| {
            view.status.drain();
            matches!(command, Command::Drain)
        })
        .await;
    assert!(is_drain);
    assert_eq!((answer.status, answer.json()), (202, json!({ "status": "draining" })));
    let (answer, is_quit) = desk.with_command("/quit", |_, command| matches!(command, Command::Quit)).await;
    assert!(is_quit);
    assert_eq!((answer.status, answer.json()), (202, json!({ "status": "stopping" })));
}

#[tokio::test]
async fn a_command_that_nobody_takes_is_answered_all_the_same() {
    let mut desk = Desk::open().await;
    assert_eq!(desk.post("/quit").await.status, 202, "the queue has one place");
    let full = desk.post("/quit").await;
    assert_eq!((full.status, &full.json()["error"], full.header("retry-after")), (503, &json!("busy"), Some("1")));
    desk.commands.close();
    let closed = desk.post("/drain").await;
    assert_eq!((closed.status, &closed.json()["error"]), (503, &json!("stopping")));
}

#[tokio::test]
async fn a_page_of_another_site_gets_nothing_and_moves_nothing() {
    let mut desk = Desk::open().await;
    let own = format!("host: {}\r\n", desk.admin);
    for (headers, status) in [
        ("host: evil.example\r\n".to_owned(), 403),
        ("host: localhost\r\norigin: http://evil.example\r\n".into(), 403),
        ("host: localhost\r\norigin: null\r\n".into(), 403),
        (format!("{own}origin: http://localhost:3000\r\n"), 403),
        (format!("{own}sec-fetch-site: cross-site\r\n"), 403),
        ("host: localhost\r\nhost: localhost\r\n".into(), 400),
        (String::new(), 400),
    ] {
        for (method, path) in [("GET", "/config"), ("POST", "/quit"), ("POST", "/drain"), ("GET", "/nothing")] {
            let answer = desk.ask(method, path, &headers).await;
            assert_eq!(answer.status, status, "{method} {path} {headers}");
            assert!(answer.json()["message"].is_string());
        }
    }
    assert!(desk.commands.try_recv().is_err(), "no command may have been taken");
    let ours = format!("{own}origin: http://{}\r\nsec-fetch-site: same-origin\r\n", desk.admin);
    assert_eq!(desk.ask("POST", "/quit", &ours).await.status, 202);
}

#[tokio::test]
async fn a_command_takes_no_large_body() {
    let desk = Desk::open().await;
    let declared = desk.ask("POST", "/quit", "host: localhost\r\ncontent-length: 10000000\r\n").await;
    let head = "POST /quit HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n10001\r\n";
    let sent = send(desk.admin, &format!("{head}{}", "x".repeat(0x10001))).await;
    for answer in [declared, sent] {
        assert_eq!((answer.status, &answer.json()["error"]), (413, &json!("body_too_large")));
    }
}

#[tokio::test]
async fn a_connection_is_kept_between_requests() {
    let desk = Desk::open().await;
    let mut socket = TcpStream::connect(desk.admin).await.unwrap();
    let one = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let last = "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all(format!("{one}{one}{last}").as_bytes()).await.unwrap();
    let answer = read_to_end(&mut socket).await.unwrap();
    assert_eq!(answer.body.matches("{\"status\":\"alive\"}").count(), 3, "{answer:?}");
}

#[tokio::test]
async fn over_the_cap_a_client_is_told_and_the_others_are_served() {
    let desk = Desk::open().await;
    let mut held = Vec::new();
    for _ in 0..listener::CONNECTIONS {
        let mut socket = TcpStream::connect(desk.metrics).await.unwrap();
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        socket.read_exact(&mut first).await.unwrap();
        held.push(socket);
    }
    let mut over = TcpStream::connect(desk.metrics).await.unwrap();
    assert_eq!(read_to_end(&mut over).await.unwrap().status, 503);
    assert_eq!(desk.get("/livez").await.status, 200, "each listener has places of its own");
    held.clear();
    let one = "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let served = async {
        while !try_send(desk.metrics, one).await.is_ok_and(|answer| answer.status == 200) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, served).await.expect("places are given back");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_cut_off() {
    let desk = Desk::open().await;
    let mut socket = TcpStream::connect(desk.admin).await.unwrap();
    socket.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").await.unwrap();
    let start = tokio::time::Instant::now();
    // Not `read_to_end`: its limit would be measured by the same paused clock.
    let _ = socket.read_to_end(&mut Vec::new()).await;
    assert_eq!(start.elapsed().as_secs(), 10);
}
