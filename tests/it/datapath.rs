//! Requests through two sidecars: every way in, both protocols, bodies, and what becomes of failures.

use std::time::{Duration, Instant};

use http::Request;
use serde_json::json;

use crate::support::client::Connection;
use crate::support::{App, Ask, Pair, eventually, h2c};

#[test]
fn every_way_in_leads_to_the_service() {
    let pair = Pair::start();
    let outbound = pair.web.outbound();
    let ways = [
        Ask::get("/").host("users"),
        Ask::get("/").host("users:8080"),
        Ask::get("/").host("users.mesh"),
        Ask::get("/").host("USERS"),
        Ask::get("http://users/").host("users"),
        Ask::get("http://users.mesh:80/").host("something-else"),
        Ask::get("http://users").host("users"),
        // No fragment belongs here (RFC 9112 §3.2); with it gone, the app must still be sent a path.
        Ask::get("http://users#x").host("users"),
    ];
    for ask in &ways {
        let answer = ask.send(outbound);
        assert_eq!((answer.status, answer.app()), (200, "users-1"), "{ask:?}: {answer:?}");
    }
    let own = Ask::get("/").host("localhost:9101").header("X-Request-Id", "own-port").send(pair.web.upstream("users"));
    assert_eq!(own.app(), "users-1");
    let counted = 1.0 + f64::from(u32::try_from(ways.len()).unwrap());
    let (ok, to_users) = (("status_class", "2xx"), ("service", "users"));
    pair.web.wait_for_metric("outrigger_requests_total", &[("direction", "outbound"), to_users, ok], counted);
    pair.users.wait_for_metric("outrigger_requests_total", &[("direction", "inbound"), ok], counted);
    let line = pair.web.access_of("own-port");
    assert_eq!(
        (&line["service"], &line["direction"], &line["status"]),
        (&json!("users"), &json!("outbound"), &json!(200))
    );
    assert_eq!(line["attempts"], 1);
    let theirs = pair.users.access_of("own-port");
    assert_eq!((&theirs["peer"], &theirs["direction"]), (&json!(pair.authority.id("web")), &json!("inbound")));
}

#[test]
fn what_leads_nowhere_is_answered_with_its_reason() {
    let pair = Pair::start();
    let outbound = pair.web.outbound();
    Ask::get("/").host("nobody").send(outbound).assert_reason(503, "unknown_service");
    Ask::get("/").host("203.0.113.1:80").send(outbound).assert_reason(404, "no_route");
    let refused = Ask::get("http://nobody.mesh/x?apikey=secret").host("x").send(outbound);
    refused.assert_reason(503, "unknown_service");
    let line = pair.web.access_of(refused.header("x-request-id"));
    assert_eq!((&line["reason"], &line["status"]), (&json!("unknown_service"), &json!(503)));
    assert!(!line.to_string().contains("secret"), "{line}");
    pair.web.wait_for_metric("outrigger_requests_total", &[("reason", "unknown_service")], 2.0);
    pair.web.wait_for_metric("outrigger_requests_total", &[("reason", "no_route")], 1.0);
}

#[test]
fn an_upstream_without_instances_is_no_endpoint() {
    let pair = Pair::with(|users| users, |web| web.upstream("orders", json!({})));
    Ask::get("/").host("orders").send(pair.web.outbound()).assert_reason(503, "no_endpoint");
    pair.web.wait_for_metric("outrigger_requests_total", &[("service", "orders"), ("reason", "no_endpoint")], 1.0);
}

#[test]
fn an_app_may_speak_http2() {
    let pair = Pair::start();
    let request = Request::post("http://users/echo").header("te", "trailers").body(b"over h2".to_vec()).unwrap();
    let answer = h2c::send(pair.web.outbound(), request);
    assert_eq!((answer.status, answer.app(), &answer.json()["body"]), (200, "users-1", &json!("over h2")));
    let own = h2c::send(pair.web.upstream("users"), Request::get("http://any/trailers").body(Vec::new()).unwrap());
    assert_eq!(own.text(), "hello");
    let refused = h2c::send(pair.web.outbound(), Request::get("http://nobody/").body(Vec::new()).unwrap());
    refused.assert_reason(503, "unknown_service");
}

#[test]
fn an_http2_app_gets_http2_and_grpc_gets_its_status() {
    let grpc = |builder: crate::support::sidecar::Builder| builder.set("service.protocol", json!("grpc"));
    let pair = Pair::with(grpc, |web| web.upstream("nobody", json!({ "protocol": "grpc" })));
    let call = |host: &str| {
        let request = Request::post(format!("http://{host}/grpc.health.v1.Health/Check"));
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        h2c::send(pair.web.outbound(), request.body(b"\0\0\0\0\0".to_vec()).unwrap())
    };
    let answer = call("users");
    assert_eq!((answer.status, answer.trailers.as_slice()), (200, &[("grpc-status".to_owned(), "0".to_owned())][..]));
    // Trailers-only: status 200, the gRPC status in the head.
    let refused = call("nobody");
    assert_eq!((refused.status, refused.header("grpc-status"), refused.reason()), (200, "14", "no_endpoint"));
    let echo = Ask::get("/echo").host("users").send(pair.web.outbound());
    assert_eq!(echo.json()["version"], "HTTP/2.0");
}

#[test]
fn answers_without_a_body_have_none_and_keep_the_connection() {
    let pair = Pair::start();
    let mut kept = Connection::to(pair.web.outbound()).unwrap();
    let head = kept.ask(&Ask::new("HEAD", "/bytes/5000").host("users")).unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    for code in [204, 304] {
        let answer = kept.ask(&Ask::get(&format!("/empty/{code}")).host("users")).unwrap();
        assert_eq!((answer.status, answer.body.len()), (code, 0));
        assert!(!answer.has("transfer-encoding"), "{answer:?}");
    }
    assert_eq!(kept.ask(&Ask::get("/").host("users")).unwrap().text(), "users-1");
}

#[test]
fn a_client_that_expects_100_is_told_to_go_on() {
    let pair = Pair::start();
    let mut client = Connection::to(pair.web.outbound()).unwrap();
    client.write(b"POST /echo HTTP/1.1\r\nHost: users\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(client.read_interim().unwrap(), 100);
    client.write(b"body").unwrap();
    let answer = client.read("POST").unwrap();
    assert_eq!((answer.status, &answer.json()["body"]), (200, &json!("body")));
}

#[test]
fn trailers_pass_both_ways() {
    let pair = Pair::start();
    let answer = Ask::get("/trailers").host("users").header("TE", "trailers").send(pair.web.outbound());
    assert_eq!(answer.trailers, [("x-checksum".to_owned(), "5d41".to_owned())]);
    let mut client = Connection::to(pair.web.outbound()).unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: users\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
    client.write(head.as_bytes()).unwrap();
    client.write(b"4\r\nbody\r\n0\r\nx-sum: 9\r\n\r\n").unwrap();
    assert_eq!(client.read("POST").unwrap().json()["trailers"], json!([["x-sum", "9"]]));
}

#[test]
fn big_bodies_stream_both_ways_in_bounded_memory() {
    let pair = Pair::start();
    let size = 64 * 1024 * 1024;
    let before = pair.web.metric("process_resident_memory_bytes", &[]);
    let down = Ask::get(&format!("/bytes/{size}")).host("users").send(pair.web.outbound());
    assert_eq!(down.body.len(), size);
    let up = Ask::new("POST", "/echo").host("users").body(vec![b'y'; size]).send(pair.web.outbound());
    assert_eq!(up.json()["length"], size);
    let both = Ask::new("POST", "/echo").host("users").body(vec![b'z'; 3 << 20]).chunked().send(pair.web.outbound());
    assert_eq!(both.json()["length"], 3 << 20);
    let grown = pair.web.metric("process_resident_memory_bytes", &[]) - before;
    assert!(grown < 24.0 * 1024.0 * 1024.0, "resident memory grew by {grown} bytes");
    let least = f64::from(u32::try_from(size).unwrap());
    for way in ["in", "out"] {
        pair.web.wait_for_metric("outrigger_bytes_total", &[("service", "users"), ("way", way)], least);
    }
}

#[test]
fn an_app_that_takes_too_long_is_a_deadline() {
    let pair = Pair::with(
        |users| users,
        |web| web.set("outbound.upstreams", json!([{ "service": "users", "timeout": "300ms" }])),
    );
    let start = Instant::now();
    let answer = pair.get("/delay/10000");
    answer.assert_reason(504, "deadline");
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(pair.web.access_of(answer.header("x-request-id"))["reason"], "deadline");
    pair.web.wait_for_metric("outrigger_requests_total", &[("reason", "deadline")], 1.0);
}

#[test]
fn a_body_that_breaks_off_never_looks_whole() {
    let pair = Pair::start();
    // What cannot be asked for again is streamed: the connection, or the stream, is cut.
    let answer = Ask::new("POST", "/reset").host("users").body("once").try_send(pair.web.outbound());
    assert!(answer.is_err() || answer.as_ref().is_ok_and(|answer| answer.status == 502), "{answer:?}");
    let post = Request::post("http://users/reset").body(b"once".to_vec()).unwrap();
    let answer = h2c::try_send(pair.web.outbound(), post);
    assert!(answer.is_err() || answer.as_ref().is_ok_and(|answer| answer.status == 502), "{answer:?}");
    // A short answer to what can be asked for again is waited for, so that its end can still be told properly.
    pair.get("/reset").assert_reason(502, "upstream_reset");
}

#[test]
fn an_app_that_hangs_up_before_it_answers_is_an_upstream_reset() {
    let pair = Pair::start();
    let answer = Ask::new("POST", "/drop").host("users").body("x").send(pair.web.outbound());
    answer.assert_reason(502, "upstream_reset");
    assert_eq!(pair.app.seen("/drop"), 1, "a POST that may have been seen is not sent again");
}

#[test]
fn an_app_that_is_not_there_is_connect_failed() {
    let mut pair = Pair::with(|users| users.set("service.check", json!({ "ttl": "30s" })), |web| web);
    pair.app.stop();
    pair.get("/").assert_reason(502, "connect_failed");
}

#[test]
fn load_is_balanced_by_weight() {
    let mut pair = Pair::with(
        |users| users.set("service.weights", json!({ "passing": 1, "warning": 1 })),
        |web| web.set("outbound.upstreams", json!([{ "service": "users", "balance": "round_robin" }])),
    );
    let app = App::start("users-2");
    let heavy = crate::support::pair::sidecar("users", pair.registry.agent(), &pair.authority);
    let _heavy = heavy.app(&app).set("service.weights", json!({ "passing": 3, "warning": 1 })).start();
    eventually(crate::support::SOON, "users-2 is used", || (pair.get("/").app() == "users-2").then_some(()));
    // Whoever is there at the start is no newcomer, who would get its full share only bit by bit.
    pair.web = pair.web.restart();
    let answers: Vec<String> = (0..400).map(|_| pair.get("/").app().to_owned()).collect();
    let second = answers.iter().filter(|app| *app == "users-2").count();
    assert!((270..=330).contains(&second), "{second} of 400 went to the endpoint of weight 3 beside 1");
}
