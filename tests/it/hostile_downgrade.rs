//! Requests of HTTP/2 that would be others once they are HTTP/1.1 behind us: reset or refused, and the app, which takes what it
//! gets by the letter, sees nothing of them.

use serde_json::json;

use crate::support::endpoint::{self, Endpoint, Reply};
use crate::support::h2raw::{
    DATA, END_HEADERS, END_STREAM, Fate, HEADERS, RST_STREAM, Raw, block, frame, headers, request,
};
use crate::support::pair::sidecar;
use crate::support::{Embedded, Pair, Sidecar};

/// A sidecar in plain text before an endpoint that keeps what it was sent, byte by byte.
fn before_an_oracle() -> (Sidecar, Endpoint, Embedded) {
    let registry = Embedded::start();
    let authority = crate::support::certs::Authority::new("mesh.test");
    let oracle = Endpoint::start(|_| Reply::Bytes(endpoint::answer(200, "", "seen")));
    let users = sidecar("users", registry.agent(), &authority)
        .set("inbound.mtls", json!("off"))
        .set("service.port", json!(oracle.address().port()))
        .start();
    (users, oracle, registry)
}

#[test]
fn a_malformed_request_never_reaches_the_app() {
    let (users, oracle, _registry) = before_an_oracle();
    type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;
    let good: Fields = vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"users"), (b":path", b"/x")];
    let with = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = good.clone();
        fields.push((name, value));
        fields
    };
    let instead = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = good.clone();
        fields.iter_mut().find(|field| field.0 == name).unwrap().1 = value;
        fields
    };
    let without = |name: &[u8]| good.iter().filter(|field| field.0 != name).copied().collect::<Fields>();
    let cases: Vec<Fields> = vec![
        // Bytes that would end a line behind us.
        with(b"x-a", b"1\r\nx-b: 2"),
        with(b"x-a", b"1\nx-b: 2"),
        with(b"x-a", b"1\0"),
        with(b"x-a\r\nx-b", b"1"),
        with(b"x-a: 1\r\nx-b", b"1"),
        with(b"x-a:", b"1"),
        with(b"x a", b"1"),
        with(b"", b"1"),
        with(b"X-Upper", b"1"),
        instead(b":path", b"/x HTTP/1.1\r\nHost: users\r\n\r\nGET /smuggled"),
        instead(b":path", b"/x\r\nx-b: 2"),
        instead(b":path", b"/x y"),
        instead(b":path", b"/x\0"),
        instead(b":method", b"GET /smuggled HTTP/1.1\r\nHost: users\r\n\r\nGET"),
        instead(b":method", b"GET /smuggled"),
        instead(b":method", b""),
        instead(b":scheme", b"http://users/smuggled?"),
        instead(b":authority", b"users\r\nx-b: 2"),
        instead(b":authority", b"users/smuggled"),
        instead(b":authority", b"someone@users"),
        // Paths that mean another thing behind us (CVE-2026-33186).
        instead(b":path", b"noslash"),
        instead(b":path", b""),
        instead(b":path", b"*"),
        instead(b":path", b"http://elsewhere/"),
        // Pseudo headers (RFC 9113 §8.3).
        with(b":path", b"/smuggled"),
        with(b":method", b"POST"),
        with(b":authority", b"elsewhere"),
        with(b":status", b"200"),
        with(b":unknown", b"1"),
        without(b":path"),
        without(b":method"),
        without(b":scheme"),
        [vec![(&b"x-first"[..], &b"1"[..])], good.clone()].concat(),
        // What frames a message of HTTP/1.1 (RFC 9113 §8.2.2).
        with(b"transfer-encoding", b"chunked"),
        with(b"connection", b"close"),
        with(b"keep-alive", b"timeout=5"),
        with(b"upgrade", b"h2c"),
        with(b"te", b"gzip"),
        with(b"content-length", b"5"),
        with(b"content-length", b"+0"),
        with(b"content-length", b"0, 0"),
        [with(b"content-length", b"0"), vec![(&b"content-length"[..], &b"7"[..])]].concat(),
        [with(b"host", b"users"), vec![(&b"host"[..], &b"elsewhere"[..])]].concat(),
    ];
    for fields in cases {
        let shown = fields
            .iter()
            .map(|(n, v)| format!("{}={}", String::from_utf8_lossy(n), String::from_utf8_lossy(v)))
            .collect::<Vec<_>>()
            .join(" ");
        let mut attacker = Raw::to(users.inbound());
        attacker.send(&headers(1, &block(&fields), true)).unwrap();
        let fate = attacker.fate(1);
        assert!(matches!(fate, Fate::Reset | Fate::Ended | Fate::Answered(400)), "{shown:?}: {fate:?}");
        assert_eq!(oracle.count(), 0, "{shown:?} reached the app: {:?}", oracle.seen());
    }
    let mut client = Raw::to(users.inbound());
    client.send(&headers(1, &block(&good), true)).unwrap();
    assert_eq!(client.fate(1), Fate::Answered(200));
    assert_eq!(oracle.count(), 1);
}

#[test]
fn a_body_that_is_not_as_long_as_announced_smuggles_nothing() {
    let (users, oracle, _registry) = before_an_oracle();
    let hidden = b"GET /smuggled HTTP/1.1\r\nHost: users\r\n\r\n";
    for (length, data) in [("0", &hidden[..]), ("4", hidden), ("400", hidden), ("18446744073709551621", hidden)] {
        let mut attacker = Raw::to(users.inbound());
        let head = headers(1, &request("POST", "/x", &[("content-length", length)]), false);
        attacker.send(&[head, frame(DATA, END_STREAM, 1, data)].concat()).unwrap();
        let fate = attacker.fate(1);
        assert!(matches!(fate, Fate::Reset | Fate::Ended | Fate::Answered(400)), "{length}: {fate:?}");
    }
    // Whatever is behind a body, a trailer of that name included, is no second request.
    let mut attacker = Raw::to(users.inbound());
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(b"content-length", b"100"), (b"host", b"e")]));
    let head = headers(1, &request("POST", "/x", &[]), false);
    attacker.send(&[head, frame(DATA, 0, 1, hidden), trailers].concat()).unwrap();
    let _ = attacker.fate(1);
    for at in 0..3 {
        let mut client = Raw::to(users.inbound());
        client.send(&headers(1, &request("GET", &format!("/good-{at}"), &[]), true)).unwrap();
        assert_eq!(client.fate(1), Fate::Answered(200));
    }
    for seen in oracle.seen() {
        let line = seen.head.lines().next().unwrap_or_default().to_owned();
        assert!(line.starts_with("POST /x ") || line.starts_with("GET /good-"), "{line}");
    }
}

#[test]
fn the_app_sees_one_host_and_one_cookie() {
    let (users, oracle, _registry) = before_an_oracle();
    let mut client = Raw::to(users.inbound());
    let odd = [("host", "elsewhere"), ("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    client.send(&headers(1, &request("GET", "/x", &odd), true)).unwrap();
    assert_eq!(client.fate(1), Fate::Answered(200));
    let seen = oracle.seen().remove(0);
    assert_eq!((seen.header("host"), seen.header("cookie")), ("users", "a=1; b=2; c=3"));
    let lines = |name: &str| seen.head.lines().filter(|line| line.to_ascii_lowercase().starts_with(name)).count();
    assert_eq!((lines("host:"), lines("cookie:")), (1, 1), "{}", seen.head);
    // And at the way out, where the authority leads.
    let pair = Pair::start();
    let mut client = Raw::to(pair.web.outbound());
    client.send(&headers(1, &request("GET", "/authority", &[("host", "elsewhere")]), true)).unwrap();
    assert_eq!(client.fate(1), Fate::Answered(200));
    assert_eq!(pair.app.seen("/authority"), 1);
}

#[test]
fn a_truncated_answer_is_an_error_in_http2() {
    let (registry, authority) = (Embedded::start(), crate::support::certs::Authority::new("mesh.test"));
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nten bytes.";
    let app = Endpoint::start(|_| Reply::Close(cut.to_vec()));
    let users = sidecar("users", registry.agent(), &authority)
        .set("inbound.mtls", json!("off"))
        .set("service.port", json!(app.address().port()))
        .start();
    let mut client = Raw::to(users.inbound());
    client.send(&headers(1, &request("GET", "/", &[]), true)).unwrap();
    assert_eq!(client.fate(1), Fate::Answered(200));
    assert_ne!(ended(&mut client), Some(DATA), "a part was taken for the whole");
}

/// The kind of the frame that ends stream 1; `None` where the connection ends first.
fn ended(client: &mut Raw) -> Option<u8> {
    while let Ok(frame) = client.read() {
        if frame.stream == 1 && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0) {
            return Some(frame.kind);
        }
    }
    None
}
