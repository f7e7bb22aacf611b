//! Malformed and slow heads: refused with their reason, and never at the app.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::Connection;
use crate::support::{Ask, Pair};

#[test]
fn malformed_heads_are_refused_and_never_forwarded() {
    let pair = Pair::start();
    let before = pair.app.seen("/echo");
    let heads: [&[u8]; 8] = [
        b"GET /echo HTTP/1.1\r\nHost: users\r\nbad header\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: users\r\nX: a\0b\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: users\r\n : x\r\n\r\n",
        b"GET /echo\r\nHost: users\r\n\r\n",
        b"G\x01T /echo HTTP/1.1\r\nHost: users\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: users\r\nContent-Length: +5\r\n\r\nhello",
        b"POST /echo HTTP/1.1\r\nHost: users\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /echo HTTP/1.1\r\nHost: users\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ];
    for head in heads {
        let shown = String::from_utf8_lossy(head).into_owned();
        let mut client = Connection::to(pair.web.outbound()).unwrap();
        client.write(head).unwrap();
        let answer = client.read("GET").unwrap_or_else(|error| panic!("{error}: {shown:?}"));
        assert!([400, 501].contains(&answer.status), "{shown:?}: {answer:?}");
        assert_eq!(answer.reason(), "bad_request", "{shown:?}");
        assert!(client.closed(), "what follows a broken head cannot be trusted: {shown:?}");
    }
    // RFC 9112 §3.2: a request without Host is refused; where it ends is plain, so the connection may stay.
    Ask::get("/echo").send(pair.web.outbound()).assert_reason(400, "bad_request");
    assert_eq!(pair.app.seen("/echo"), before);
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_request_smuggled_behind_a_body_never_arrives() {
    let pair = Pair::start();
    let mut client = Connection::to(pair.web.outbound()).unwrap();
    let both = "POST /echo HTTP/1.1\r\nHost: users\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n\
                0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: users\r\n\r\n";
    client.write(both.as_bytes()).unwrap();
    let _ = client.read("POST");
    let _ = client.closed();
    assert_eq!(pair.get("/").status, 200);
    assert_eq!(pair.app.seen("/smuggled"), 0);
}

#[test]
fn a_slow_head_is_given_up() {
    let pair = Pair::with(|users| users, |web| web.set("outbound.timeouts", json!({ "head": "300ms" })));
    let mut client = Connection::to(pair.web.outbound()).unwrap();
    let start = Instant::now();
    client.write(b"GET / HTTP/1.1\r\nHost: us").unwrap();
    if let Ok(answer) = client.read("GET") {
        assert_eq!((answer.status, answer.reason()), (408, "request_timeout"));
    }
    assert!(client.closed());
    assert!(start.elapsed() < Duration::from_secs(5), "after {:?}", start.elapsed());
}

#[test]
fn a_head_over_its_limit_is_refused() {
    let pair = Pair::with(|users| users, |web| web.set("outbound.limits", json!({ "head": "16KiB", "headers": 50 })));
    let large = Ask::get("/").host("users").header("X-Large", &"x".repeat(40_000)).send(pair.web.outbound());
    assert_eq!((large.status, large.reason()), (431, "head_too_large"), "{large:?}");
    let many = (0..80).fold(Ask::get("/").host("users"), |ask, at| ask.header(&format!("X-{at}"), "1"));
    assert_eq!(many.send(pair.web.outbound()).status, 431);
}

#[test]
fn metrics_do_not_grow_with_what_clients_choose() {
    let pair = Pair::start();
    assert_eq!(pair.get("/").status, 200);
    let before = pair.web.metrics().len();
    for at in 0..200 {
        let answer = Ask::new(&format!("M{at}"), &format!("/p{at}")).host(&format!("h{at}")).send(pair.web.outbound());
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    let after = pair.web.metrics().len();
    assert!(after <= before + 25, "{before} series became {after}");
}
