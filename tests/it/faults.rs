//! Endpoints that break, lie or keep silent: each has its reason, nothing hangs, nothing stays counted as under way.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::Connection;
use crate::support::endpoint::{Endpoint, Reply, answer};
use crate::support::lone::Lone;
use crate::support::{Answer, Ask, SOON, eventually};

/// One try, no breaker: each fault is seen as it is.
fn bare(timeout: &str) -> Value {
    json!({ "timeout": timeout, "retry": { "attempts": 0 }, "breaker": { "max_ejected": 0 } })
}

fn post(web: &Lone) -> Answer {
    Ask::new("POST", "/").host("users").body("x").send(web.outbound())
}

/// What was counted in is counted out again.
#[track_caller]
fn at_rest(web: &Lone) {
    eventually(SOON, "nothing is under way", || (web.metric("outrigger_requests_in_flight", &[]) < 0.5).then_some(()));
    let shown = Ask::get("/endpoints").host("localhost").send(web.admin()).text();
    assert!(!shown.contains("\"in_flight\":1"), "{shown}");
}

#[test]
fn an_endpoint_that_breaks_before_its_answer_is_a_reset() {
    for reply in [Reply::Reset(Vec::new()), Reply::Close(Vec::new()), Reply::Reset(b"HTTP/1.1 20".to_vec())] {
        let bad = Endpoint::start(move |_| reply.clone());
        let web = Lone::of(&[&bad], &bare("5s"));
        post(&web).assert_reason(502, "upstream_reset");
        web.wait_for_metric("outrigger_upstream_attempts_total", &[("outcome", "reset")], 1.0);
        at_rest(&web);
    }
}

#[test]
fn what_is_no_http_is_a_bad_response() {
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "a".repeat(600_000));
    for garbage in [
        b"\x16\x03\x01garbage\r\n\r\n".to_vec(),
        b"HTTP/1.1 abc OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!".to_vec(),
        long.into_bytes(),
    ] {
        let bad = Endpoint::start(move |_| Reply::Close(garbage.clone()));
        let web = Lone::of(&[&bad], &bare("5s"));
        post(&web).assert_reason(502, "bad_response");
        at_rest(&web);
    }
}

#[test]
fn an_answer_that_breaks_off_is_never_a_clean_end() {
    let half: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n5\r\nhello\r\n0\r\nx: 1",
    ];
    for bytes in half {
        let bad = Endpoint::start(move |_| Reply::Reset(bytes.to_vec()));
        let web = Lone::of(&[&bad], &bare("5s"));
        let ask = Ask::new("POST", "/").host("users").header("x-request-id", "broken-off-1").body("x");
        match ask.try_send(web.outbound()) {
            Err(_) => {}
            Ok(answer) => answer.assert_reason(502, "upstream_reset"),
        }
        let line = web.access_of("broken-off-1");
        assert_eq!(line["reason"], "upstream_reset", "{line}");
        at_rest(&web);
    }
}

#[test]
fn more_than_was_announced_poisons_no_other_answer() {
    let bad = Endpoint::start(|_| {
        let mut bytes = answer(200, "", "right");
        bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong");
        Reply::Bytes(bytes)
    });
    let web = Lone::of(&[&bad], &bare("5s"));
    let mut client = Connection::to(web.outbound()).unwrap();
    for _ in 0..5 {
        let answer = client.ask(&Ask::get("/").host("users")).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "right"));
    }
    at_rest(&web);
}

#[test]
fn an_endpoint_that_never_answers_is_given_up_in_time() {
    let silent = Endpoint::start(|_| Reply::Silence);
    let web = Lone::of(&[&silent], &bare("300ms"));
    let start = Instant::now();
    post(&web).assert_reason(504, "deadline");
    assert!(start.elapsed() < Duration::from_secs(5));
    web.wait_for_metric("outrigger_upstream_attempts_total", &[("outcome", "timed_out")], 1.0);
    at_rest(&web);
}

#[test]
fn an_endpoint_that_nobody_listens_on_cannot_be_connected() {
    let mut upstream = bare("2s");
    upstream["service"] = json!("users");
    upstream["mtls"] = json!("off");
    upstream["endpoints"] = json!([format!("127.0.0.1:{}", crate::support::fixed_port())]);
    let web = Lone::with(&[], &json!({ "mtls": "off" }), |web| web.set("outbound.upstreams", json!([upstream])));
    post(&web).assert_reason(502, "connect_failed");
    at_rest(&web);
}

#[test]
fn the_race_of_a_kept_connection_never_shows() {
    // Every second request on a connection meets its end, as when an idle limit strikes at that moment.
    let racy = Endpoint::start(|seen| {
        if seen.on_connection == 1 { Reply::Reset(Vec::new()) } else { Reply::Bytes(answer(200, "", "fine")) }
    });
    let web = Lone::of(&[&racy], &json!({ "retry": { "budget": { "ratio": 1.0, "min_per_second": 100 } } }));
    let mut client = Connection::to(web.outbound()).unwrap();
    for at in 0..20 {
        let answer = client.ask(&Ask::get("/").host("users")).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "request {at}: {}", answer.reason());
    }
    at_rest(&web);
}

#[test]
fn breakers_open_are_seen_and_close_again() {
    let ill = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let told = ill.clone();
    let one = Endpoint::start(move |_| {
        let status = if told.load(std::sync::atomic::Ordering::Relaxed) { 503 } else { 200 };
        Reply::Bytes(answer(status, "", "one"))
    });
    let policy = json!({ "retry": { "attempts": 0 }, "breaker": {
        "consecutive": 3, "max_ejected": 1.0, "open_for": { "base": "500ms", "max": "1s" } } });
    let web = Lone::of(&[&one], &policy);
    for _ in 0..3 {
        assert_eq!((post(&web).status, one.count() <= 3), (503, true));
    }
    post(&web).assert_reason(503, "all_ejected");
    assert_eq!(one.count(), 3, "an ejected endpoint is left alone");
    web.wait_for_metric("outrigger_breaker_transitions_total", &[("service", "users"), ("to", "open")], 1.0);
    web.wait_for_metric("outrigger_upstream_endpoints", &[("service", "users"), ("state", "ejected")], 1.0);
    let shown = Ask::get("/endpoints").host("localhost").send(web.admin()).text();
    assert!(shown.contains("open"), "{shown}");
    ill.store(false, std::sync::atomic::Ordering::Relaxed);
    eventually(SOON, "the probe finds it well", || (post(&web).status == 200).then_some(()));
    web.wait_for_metric("outrigger_breaker_transitions_total", &[("to", "half_open")], 1.0);
    web.wait_for_metric("outrigger_breaker_transitions_total", &[("to", "closed")], 1.0);
    assert!(web.process.log().contains("endpoint ejected"), "{}", web.process.log());
    at_rest(&web);
}
