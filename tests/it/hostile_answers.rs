//! Answers that two recipients could end in two places, and answers to nothing: each is refused with its reason, or cut. The
//! next caller gets its own answer (RFC 9112 §6.3, §9.2).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::support::client::Connection;
use crate::support::endpoint::{Endpoint, Reply, answer};
use crate::support::exposed::{SIDES, Side};
use crate::support::lone::Lone;
use crate::support::{Ask, Exposed, Recorder, SOON, eventually};

/// The endpoint answers `/bad` with the bytes, and everything else as it should.
fn against(bad: &[u8], judge: impl Fn(&Exposed, Side)) {
    let answering = |bad: Vec<u8>| {
        Recorder::answering(move |message| match message.target.as_str() {
            "/bad" => bad.clone(),
            target => answer(200, "", target),
        })
    };
    let web = Exposed::of(answering(bad.to_vec()), answering(bad.to_vec()), |web| web);
    for side in SIDES {
        judge(&web, side);
        web.assert_lives(side);
    }
}

#[test]
fn an_answer_with_two_ends_is_refused() {
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(1024 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "a: b\r\n".repeat(5000));
    let wrong = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong";
    let chunks = format!("\r\n\r\n5\r\nhello\r\n0\r\n\r\n{wrong}");
    let plain = format!("\r\n\r\nhello{wrong}");
    let bad = [
        format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6{plain}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5{plain}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 5, 5{plain}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: +5{plain}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551621{plain}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked{chunks}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 50{chunks}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked{chunks}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity{chunks}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked{chunks}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked{chunks}"),
        format!("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked{chunks}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length : 5{plain}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length:\r\n 5{plain}"),
        format!("HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 5{plain}"),
        format!("HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 5{plain}"),
        format!("HTTP/1.1 200 OK\r\n: x\r\ncontent-length: 5{plain}"),
        format!("HTTP/1.1 99 OK\r\ncontent-length: 5{plain}"),
        format!("HTTP/1.1 1000 OK\r\ncontent-length: 5{plain}"),
        format!("HTTP/1.1 2 0 OK\r\ncontent-length: 5{plain}"),
        format!("HTTP/2.0 200 OK\r\ncontent-length: 5{plain}"),
        format!("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n{wrong}"),
        "hello\r\n\r\n".to_owned(),
        long,
        many,
    ];
    for bad in bad {
        let shown = &bad[..bad.len().min(90)];
        against(bad.as_bytes(), |web, side| {
            let mut client = Connection::to(web.way_in(side)).unwrap();
            for _ in 0..3 {
                let refused = client.ask(&Ask::get("/bad").host("users")).unwrap();
                assert_eq!((refused.status, refused.reason()), (502, "bad_response"), "{side:?} {shown}: {refused:?}");
                refused.assert_reason(502, "bad_response");
                let line = web.access_of(refused.header("x-request-id"));
                assert_eq!(
                    (&line["reason"], &line["status"]),
                    (&json!("bad_response"), &json!(502)),
                    "{shown}: {line}"
                );
                let good = client.ask(&Ask::get("/good").host("users")).unwrap();
                assert_eq!((good.status, good.text().as_str()), (200, "/good"), "{side:?} {shown}");
            }
            let labels = [("direction", side.name()), ("reason", "bad_response")];
            assert!(web.metric("outrigger_requests_total", &labels) > 2.5, "{shown}");
        });
    }
}

#[test]
fn what_comes_behind_an_answer_is_nobodys() {
    let wrong = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong";
    for (bad, status, text) in [
        (format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nright{wrong}"), 200, "right"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nrightand more".to_owned(), 200, "right"),
        (format!("HTTP/1.1 204 No Content\r\n\r\n{wrong}"), 204, ""),
        (format!("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nright{wrong}"), 204, ""),
        (
            format!("HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n{wrong}"),
            204,
            "",
        ),
        (format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nright{wrong}"), 304, ""),
        (format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n{wrong}"), 200, "right"),
        (
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nright\r\n0\r\n\r\n{wrong}"),
            200,
            "right",
        ),
        (
            format!(
                "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nright{wrong}"
            ),
            200,
            "right",
        ),
    ] {
        against(bad.as_bytes(), |web, side| {
            let mut client = Connection::to(web.way_in(side)).unwrap();
            for round in 0..10 {
                let first = client.ask(&Ask::get("/bad").host("users")).unwrap();
                assert_eq!((first.status, first.text().as_str()), (status, text), "{side:?} {bad}");
                assert!(status != 204 || !first.has("content-length"), "{first:?}");
                let good = client.ask(&Ask::get("/good").host("users")).unwrap();
                assert_eq!((good.status, good.text().as_str()), (200, "/good"), "{side:?} round {round} {bad}");
            }
        });
    }
}

#[test]
fn a_head_answer_has_no_body_whatever_the_endpoint_sends() {
    let bad = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nrightHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong";
    against(bad.as_bytes(), |web, side| {
        let mut client = Connection::to(web.way_in(side)).unwrap();
        for _ in 0..10 {
            let head = client.ask(&Ask::new("HEAD", "/bad").host("users")).unwrap();
            assert_eq!((head.status, head.header("content-length")), (200, "5"), "{head:?}");
            let good = client.ask(&Ask::get("/good").host("users")).unwrap();
            assert_eq!((good.status, good.text().as_str()), (200, "/good"), "{side:?}");
        }
    });
}

/// All bytes of the answer, until the sidecar closes.
fn raw(web: &Lone, path: &str) -> Vec<u8> {
    let mut socket = TcpStream::connect(web.outbound()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: users\r\n\r\n").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes);
    bytes
}

#[test]
fn an_answer_that_is_cut_is_cut_for_the_caller_too() {
    // Long enough to be on its way before the end fails.
    let long = "x".repeat(64 * 1024);
    for (tail, close) in [
        (String::new(), true),
        (String::new(), false),
        ("5\r\nhel".to_owned(), true),
        ("zz\r\n".to_owned(), false),
        ("ffffffffffffffffff\r\nhello\r\n0\r\n\r\n".to_owned(), false),
        ("5;\nhello\r\n0\r\n\r\n".to_owned(), false),
        ("5\r\nhello!\r\n0\r\n\r\n".to_owned(), false),
        ("0\r\nx y: 1\r\n\r\n".to_owned(), false),
    ] {
        let chunks =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n{tail}", long.len());
        let bad = Endpoint::start(move |_| {
            if close { Reply::Close(chunks.clone().into_bytes()) } else { Reply::Reset(chunks.clone().into_bytes()) }
        });
        let web = Lone::of(&[&bad], &json!({ "retry": { "attempts": 0 } }));
        let got = raw(&web, "/");
        assert!(!got.ends_with(b"0\r\n\r\n"), "{tail:?}: it ends as if it were whole");
    }
    let bad = Endpoint::start(|_| {
        Reply::Close(format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(70_000)).into_bytes())
    });
    let web = Lone::of(&[&bad], &json!({ "retry": { "attempts": 0 } }));
    assert!(raw(&web, "/").len() < 100_000, "no byte was made up");
    eventually(SOON, "the cut is told", || {
        web.access().into_iter().any(|line| line["reason"] == "upstream_reset").then_some(())
    });
}

#[test]
fn interim_answers_without_end_are_given_up() {
    let bad = Endpoint::start(|_| Reply::Bytes(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100_000)));
    let web = Lone::of(&[&bad], &json!({ "retry": { "attempts": 0 }, "timeout": "500ms" }));
    Ask::get("/").host("users").send(web.outbound()).assert_reason(504, "deadline");
}

#[test]
fn fields_of_one_hop_end_here_on_the_way_back_too() {
    let bad = answer(
        200,
        "connection: x-secret, close\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\nupgrade: h2c\r\nx-kept: 1\r\n",
        "ok",
    );
    against(&bad, |web, side| {
        let got = Ask::get("/bad").host("users").send(web.way_in(side));
        for name in ["x-secret", "keep-alive", "proxy-connection", "upgrade"] {
            assert!(!got.has(name), "{side:?} {name}: {got:?}");
        }
        assert_eq!((got.header("x-kept"), got.text().as_str()), ("1", "ok"));
    });
}

/// Writes to both ends of the sidecar as much as it takes.
fn until_stuck(socket: &mut TcpStream, most: usize) -> usize {
    socket.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let (piece, mut sent) = (vec![b'x'; 64 * 1024], 0);
    while sent < most {
        match socket.write(&piece) {
            Ok(written) => sent += written,
            Err(_) => break,
        }
    }
    sent
}

const GIANT: usize = 1 << 30;
/// Socket buffers of four hops' ends, and what the sidecar itself holds.
const HELD: usize = 64 << 20;

#[test]
fn a_slow_reader_stops_the_writer() {
    use std::net::TcpListener;
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endpoint.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut socket, _) = endpoint.accept().unwrap();
        let _ = socket.read(&mut [0; 4096]);
        socket.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {GIANT}\r\n\r\n").as_bytes()).unwrap();
        tell.send(until_stuck(&mut socket, GIANT)).unwrap();
        // Reads nothing of an upload.
        let (socket, _) = endpoint.accept().unwrap();
        let _ = told_apart(&socket);
    });
    let users = json!({ "mtls": "off", "endpoints": [address.to_string()] });
    let web = Lone::with(&[], &json!({ "mtls": "off" }), |web| {
        web.set("outbound.upstreams", json!([])).upstream("users", users)
    });
    let before = web.process.memory();
    let mut reader = TcpStream::connect(web.outbound()).unwrap();
    reader.write_all(b"GET / HTTP/1.1\r\nHost: users\r\n\r\n").unwrap();
    let sent = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(sent < HELD, "the endpoint could send {sent} bytes to a caller that reads none");
    let mut writer = TcpStream::connect(web.outbound()).unwrap();
    writer.write_all(format!("POST / HTTP/1.1\r\nHost: users\r\ncontent-length: {GIANT}\r\n\r\n").as_bytes()).unwrap();
    let sent = until_stuck(&mut writer, GIANT);
    assert!(sent < HELD, "the caller could send {sent} bytes to an endpoint that reads none");
    let grown = web.process.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    drop((reader, writer));
}

/// Holds the socket open until the other side ends it.
fn told_apart(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut one = [0];
    while socket.peek(&mut one)? > 0 {
        std::thread::park_timeout(Duration::from_secs(5));
    }
    Ok(())
}
