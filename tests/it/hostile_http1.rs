//! Requests that two recipients could read in two ways (RFC 9112 §11): each is refused, or reaches the app as one request by
//! the letter. What hides behind them never arrives. Thrown at both sides, before apps that keep every byte.

use std::time::{Duration, Instant};

use crate::support::client::Connection;
use crate::support::exposed::{SIDES, Side};
use crate::support::{Ask, Exposed, Recorder, SOON, eventually};

/// What must become of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    /// 400 `bad_request` (431 where it is the head's size), nothing at the app, and the connection is closed.
    Fall,
    /// Refused, or one request by the letter and the connection is closed.
    BeOne,
    /// One request by the letter, with that body.
    Arrive(&'static str),
    /// Refused, or its connection is closed before the app has a whole request.
    Break,
    /// As `Break`, where no more bytes come.
    Cut,
}
use Must::{Arrive, BeOne, Break, Cut, Fall};

const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: users\r\n\r\n";

/// Head lines, what comes after the head, and what must become of them.
fn framing() -> Vec<(String, String, Must)> {
    let chunked = |lines: &str| format!("{lines}\r\n");
    let mut cases: Vec<(String, String, Must)> = Vec::new();
    let mut add = |lines: &str, body: &str, must| cases.push((chunked(lines), body.to_owned(), must));
    let end = format!("0\r\n\r\n{HIDDEN}");
    // Content-Length and Transfer-Encoding together (RFC 9112 §6.1; CVE-2020-35863).
    add("Content-Length: 44\r\nTransfer-Encoding: chunked", &end, BeOne);
    add("Transfer-Encoding: chunked\r\nContent-Length: 44", &end, BeOne);
    add("Transfer-Encoding: chunked\r\nContent-Length: 44\r\nContent-Length: 5", &end, BeOne);
    add("Content-Length: x\r\nTransfer-Encoding: chunked", &end, BeOne);
    // Two or odd codings (CVE-2021-21299).
    for odd in [
        "xchunked",
        "chunkedx",
        "cow",
        "identity",
        "chunked, identity",
        "chunked, cow",
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "chunked;a=b",
        "\"chunked\"",
        ",",
        "",
        "\u{a0}chunked",
        "chunked\u{a0}",
        "\u{b}chunked",
        "chunked\u{c}",
        "chunked\0",
        "chun\rked",
    ] {
        add(&format!("Transfer-Encoding: {odd}"), &end, Fall);
    }
    add("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow", &end, Fall);
    add("Transfer-Encoding: cow\r\nTransfer-Encoding: chunked", &end, Fall);
    add("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", &end, Fall);
    add("Transfer-Encoding : chunked", &end, Fall);
    add(" Transfer-Encoding: chunked", &end, Fall);
    add("Transfer_Encoding: chunked", "", Arrive(""));
    add("Transfer-Encoding: CHUNKED", "5\r\nhello\r\n0\r\n\r\n", Arrive("hello"));
    add("Transfer-Encoding:\t chunked \t", "5\r\nhello\r\n0\r\n\r\n", Arrive("hello"));
    // Lenient lengths (CVE-2021-32715, CVE-2023-40225, CVE-2021-40346).
    for odd in [
        "+5",
        "-5",
        "5, 50",
        "5, 5",
        "5 0",
        "0x5",
        "5.",
        "5e0",
        "",
        "five",
        "18446744073709551621",
        "99999999999999999999999999",
        "\u{661}",
        "5\0",
    ] {
        add(&format!("Content-Length: {odd}"), "hello", Fall);
    }
    add("Content-Length: 5\r\nContent-Length: 50", "hello", Fall);
    add("Content-Length : 5", "hello", Fall);
    add("Content-Length: 005", "hello", Arrive("hello"));
    add("Content-Length: 5\r\nContent-Length: 5", "hello", Arrive("hello"));
    add(&format!("{}: 1\r\nContent-Length: 5", "content-length".repeat(20)), "hello", Arrive("hello"));
    // Lines that are folded (CVE-2024-27982, CVE-2025-32094), end by a bare CR or LF (CVE-2023-30589, CVE-2025-23167) or have
    // no name (CVE-2023-25725).
    add("Content-Length:\r\n 5", "hello", Fall);
    add("X: a\r\n b", "", Fall);
    add("Expect:\r\n 100-continue\r\nContent-Length: 5", "hello", Fall);
    add(": x\r\nContent-Length: 5", "hello", Fall);
    add("X: y\rContent-Length: 5", "hello", Fall);
    add("X: y\r\rContent-Length: 5", "hello", Fall);
    add("X: y\nContent-Length: 5", "hello", Arrive("hello"));
    add("X: a\0b", "", Fall);
    add("X: a\u{7f}b", "", Fall);
    add("X\0Y: a", "", Fall);
    add("X Y: a", "", Fall);
    add("X\tY: a", "", Fall);
    add("no colon", "", Fall);
    add("(x): a", "", Fall);
    cases
}

/// Bodies in chunks.
fn chunks() -> Vec<(String, Must)> {
    let mut cases: Vec<(String, Must)> = Vec::new();
    let mut add = |body: &str, must| cases.push((body.to_owned(), must));
    let hidden = format!("\r\n0\r\n\r\n{HIDDEN}");
    // Sizes (CVE-2021-32714).
    for odd in ["10000000000000005", "fffffffffffffffff", "+5", "-5", "0x5", "5 5", " 5", "g", "", "5_", "٥"] {
        add(&format!("{odd}\r\nhello{hidden}"), Break);
    }
    add("5\r\nhello\r\n0\r\n\r\n", Arrive("hello"));
    add("00000005\r\nhello\r\n000\r\n\r\n", Arrive("hello"));
    // Extensions are cut off, and end by CR LF alone (CVE-2025-22871, CVE-2025-55315, CVE-2023-39326).
    add("5;a=b\r\nhello\r\n0;c\r\n\r\n", Arrive("hello"));
    add("5;a=\"b\\\"c\"\r\nhello\r\n0\r\n\r\n", Arrive("hello"));
    add(&format!("2;\nxx\r\n4c\r\n0\r\n\r\n{HIDDEN}"), Break);
    add(&format!("2;\rxx\r\n4c\r\n0\r\n\r\n{HIDDEN}"), Break);
    add(&format!("5\nhello{hidden}"), Break);
    add(&format!("5\rhello{hidden}"), Break);
    add(&format!("5;{}\r\nhello{hidden}", "x".repeat(64 * 1024)), Break);
    // A chunk ends where its size says.
    add(&format!("5\r\nhello!{hidden}"), Break);
    add(&format!("5\r\nhell{hidden}"), Break);
    add(&format!("5\r\nhello\n0\r\n\r\n{HIDDEN}"), Break);
    add(&format!("5\r\nhello\r0\r\n\r\n{HIDDEN}"), Break);
    // The end of all chunks.
    add(&format!("0\r\n\rX{HIDDEN}"), Break);
    add(&format!("0\n\n{HIDDEN}"), Break);
    add("0\r\nx y: 1\r\n\r\n", Break);
    add(&format!("0\r\nx: {}\r\n\r\n", "y".repeat(128 * 1024)), Break);
    add(&format!("0\r\n{}\r\n", "x: y\r\n".repeat(1000)), Break);
    // A clean end before the end (RFC 9112 §8).
    add("5\r\nhel", Cut);
    add("5\r\nhello\r\n", Cut);
    add("5\r\nhello\r\n0\r\n", Cut);
    cases
}

/// Request lines.
fn lines() -> Vec<(&'static str, Must)> {
    vec![
        ("GET  /a HTTP/1.1", Fall),
        ("GET /a  HTTP/1.1", Fall),
        ("GET\t/a\tHTTP/1.1", Fall),
        (" GET /a HTTP/1.1", Fall),
        ("GET /a HTTP/1.1 ", Fall),
        ("GET /a b HTTP/1.1", Fall),
        ("GET /a\u{b}HTTP/1.1", Fall),
        ("GET /a\rb HTTP/1.1", Fall),
        ("GET /a\0b HTTP/1.1", Fall),
        ("GET /a", Fall),
        ("GET HTTP/1.1", Fall),
        ("G@T /a HTTP/1.1", Fall),
        ("\"GET\" /a HTTP/1.1", Fall),
        ("GET a HTTP/1.1", Fall),
        ("GET * HTTP/1.1", Fall),
        ("GET ?a HTTP/1.1", Fall),
        ("GET /a http/1.1", Fall),
        ("GET /a HTTP/1.2", Fall),
        ("GET /a HTTP/0.9", Fall),
        ("GET /a HTTP/2.0", Fall),
        ("GET /a HTTP/3", Fall),
        ("GET /a HTTP/1.10", Fall),
        ("GET /a HTTP/11", Fall),
        ("GET /a HTP/1.1", Fall),
        ("GET /a#b HTTP/1.1", Arrive("")),
        ("PRI * HTTP/2.0", Fall),
        ("get /a HTTP/1.1", Arrive("")),
    ]
}

/// Throws, and holds what came of it against what must.
#[track_caller]
fn judge(web: &Exposed, side: Side, bytes: &[u8], must: Must) {
    let shown = format!("{side:?} {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
    let (behind, recorder) = (web.behind(side).count(), web.behind(side));
    let refused =
        |web: &Exposed| web.metric("outrigger_requests_total", &[("direction", side.name()), ("status_class", "4xx")]);
    let before = refused(web);
    let mut thrown = if must == Cut { web.throw_all(side, bytes) } else { web.throw(side, bytes) };
    let statuses = thrown.statuses();
    let (first, only) = (statuses.first().copied().unwrap_or(0), statuses.len() <= 1);
    match must {
        Fall => assert!([400, 431].contains(&first) && only, "{shown}: answered {statuses:?}"),
        BeOne => assert!([200, 400].contains(&first) && only, "{shown}: answered {statuses:?}"),
        Arrive(_) => assert!(first == 200 && only, "{shown}: answered {statuses:?}"),
        Break => assert!([400, 431].contains(&first) && only, "{shown}: answered {statuses:?}"),
        Cut => assert!([0, 400, 499].contains(&first) && only, "{shown}: answered {statuses:?}"),
    }
    if !matches!(must, Arrive(_)) {
        assert!(thrown.connection.closed(), "{shown}: the connection stays");
    }
    if let Some(answer) = thrown.answers.first().filter(|answer| [400, 431].contains(&answer.status)) {
        let code = if answer.status == 400 { "bad_request" } else { "head_too_large" };
        answer.assert_reason(answer.status, code);
        let line = web.access_of(answer.header("x-request-id"));
        assert_eq!((&line["reason"], &line["direction"]), (&code.into(), &side.name().into()), "{shown}: {line}");
        assert!(refused(web) >= before + 1.0, "{shown}: not counted");
    }
    recorder.assert_strict(&shown);
    let arrived = recorder.count() - behind;
    match must {
        Fall | Break | Cut => assert_eq!(arrived, 0, "{shown}: at the app"),
        BeOne => assert_eq!(arrived, usize::from(first == 200), "{shown}: at the app"),
        Arrive(body) => {
            assert_eq!(arrived, 1, "{shown}: at the app");
            let found = recorder.messages().into_iter().any(|message| message.body == body.as_bytes());
            assert!(found, "{shown}: {body:?} is not at the app");
        }
    }
    assert!(!recorder.was_sent("smuggled"), "{shown}: what was hidden is at the app");
}

#[test]
fn a_head_that_can_be_read_in_two_ways_never_reaches_the_app_as_it_came() {
    let web = Exposed::start();
    for side in SIDES {
        for (lines, body, must) in framing() {
            // Latin-1, so that the table can name single bytes.
            let text = format!("POST /a HTTP/1.1\r\nHost: users\r\n{lines}\r\n{body}");
            let bytes: Vec<u8> =
                text.chars().flat_map(|c| u8::try_from(c).map_or(c.to_string().into(), |b| vec![b])).collect();
            judge(&web, side, &bytes, must);
        }
        for (line, must) in lines() {
            judge(&web, side, format!("{line}\r\nHost: users\r\n\r\n").as_bytes(), must);
        }
        web.assert_lives(side);
    }
}

#[test]
fn chunks_are_decoded_by_the_letter_or_not_at_all() {
    let web = Exposed::start();
    for side in SIDES {
        for (body, must) in chunks() {
            let head = "POST /a HTTP/1.1\r\nHost: users\r\nTransfer-Encoding: chunked\r\n\r\n";
            judge(&web, side, format!("{head}{body}").as_bytes(), must);
        }
        web.assert_lives(side);
    }
}

#[test]
fn http_1_0_has_no_transfer_codings() {
    let web = Exposed::start();
    for side in SIDES {
        // CVE-2026-2835.
        let body = format!("5\r\nhello\r\n0\r\n\r\n{HIDDEN}");
        for lines in ["Transfer-Encoding: chunked", "Content-Length: 3\r\nTransfer-Encoding: chunked"] {
            let head = format!("POST /a HTTP/1.0\r\nHost: users\r\nConnection: keep-alive\r\n{lines}\r\n\r\n");
            judge(&web, side, format!("{head}{body}").as_bytes(), Fall);
        }
        web.assert_lives(side);
    }
}

#[test]
fn a_body_that_breaks_off_is_never_a_whole_one() {
    let web = Exposed::start();
    for side in SIDES {
        for body in ["Content-Length: 100\r\n\r\nonly this", "Transfer-Encoding: chunked\r\n\r\n20\r\nonly this"] {
            let mut client = Connection::to(web.way_in(side)).unwrap();
            client.write(format!("POST /half HTTP/1.1\r\nHost: users\r\n{body}").as_bytes()).unwrap();
            drop(client);
        }
        // Where one of them got as far as the app, its connection is cut.
        eventually(SOON, "no half of a body is left open", || {
            let open = web
                .behind(side)
                .taken()
                .into_iter()
                .any(|taken| String::from_utf8_lossy(&taken.bytes).contains("only this") && !taken.closed);
            (!open).then_some(())
        });
        assert!(web.behind(side).messages().iter().all(|message| message.target != "/half"));
        web.assert_lives(side);
    }
}

#[test]
fn what_an_early_answer_leaves_unread_is_no_request() {
    // Answers at once, whatever of the body is still to come (CVE-2025-4366).
    let web = Exposed::start();
    for side in SIDES {
        // Nobody takes this one: the answer is ours, and comes before the body.
        let early = match side {
            Side::Inbound => "POST /a HTTP/1.1\r\nHost: users\r\nHost: twice\r\n",
            Side::Outbound => "POST /a HTTP/1.1\r\nHost: nobody\r\n",
        };
        for pause in [false, true] {
            let mut client = Connection::to(web.way_in(side)).unwrap();
            client.write(format!("{early}Content-Length: {}\r\n\r\n", HIDDEN.len() + 7).as_bytes()).unwrap();
            if pause {
                assert!(client.read("POST").unwrap().status >= 400);
            }
            // The last bytes never come.
            let _ = client.write(HIDDEN.as_bytes());
            client.end_writing();
            while client.read("POST").is_ok_and(|answer| answer.status >= 400) {}
            assert!(client.closed());
        }
        assert!(!web.behind(side).was_sent("smuggled"), "{side:?}");
        web.assert_lives(side);
    }
}

#[test]
fn bytes_behind_an_upgrade_that_is_refused_are_no_tunnel() {
    // CVE-2026-2833, CVE-2025-64763: the app answers 200, and what came behind is a request like any other.
    let web = Exposed::start();
    for side in SIDES {
        let upgrade = "GET /a HTTP/1.1\r\nHost: users\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 777\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        let behind = "GET /behind HTTP/1.1\r\nHost: users\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
        web.throw(side, format!("{upgrade}{behind}").as_bytes());
        let recorder = web.behind(side);
        recorder.assert_strict("upgrade");
        // Each on a connection of its own, so that no byte of the second can have gone through as it came.
        let seen = recorder.messages().into_iter().find(|message| message.target == "/behind");
        assert!(seen.is_none_or(|seen| !seen.header("x-forwarded-for").contains("6.6.6.6")), "{side:?}");
        web.assert_lives(side);
    }
}

#[test]
fn no_upgrade_and_no_connect_leads_past_the_gate() {
    let web = Exposed::start();
    let sentinel = Recorder::start();
    let target = sentinel.address();
    for side in SIDES {
        for head in [
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n{HIDDEN}"),
            format!("CONNECT users HTTP/1.1\r\nHost: users\r\n\r\n{HIDDEN}"),
            format!("CONNECT / HTTP/1.1\r\nHost: users\r\n\r\n{HIDDEN}"),
        ] {
            let thrown = web.throw(side, head.as_bytes());
            assert_eq!(thrown.statuses().first(), Some(&400), "{side:?} {head}");
            assert!(!thrown.statuses().contains(&200), "{side:?} {head}: {:?}", thrown.statuses());
        }
        // h2c (Bishop Fox 2020): the app sees no offer, and no HTTP/2 follows.
        let h2c = "GET /h2c HTTP/1.1\r\nHost: users\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
        let thrown = web.throw(side, h2c.as_bytes());
        assert_eq!(thrown.statuses(), [200]);
        let seen = web.behind(side).messages().into_iter().find(|message| message.target == "/h2c").unwrap();
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(seen.header(name), "", "{side:?}: {name}");
        }
        assert!(!web.behind(side).was_sent("smuggled"), "{side:?}");
        web.assert_lives(side);
    }
    assert_eq!(sentinel.taken().len(), 0, "nobody is led there");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let web = Exposed::start();
    for side in SIDES {
        let many: Vec<String> = (0..20).map(|at| format!("GET /p{at} HTTP/1.1\r\nHost: users\r\n\r\n")).collect();
        let mut client = Connection::to(web.way_in(side)).unwrap();
        client.write(many.concat().as_bytes()).unwrap();
        for at in 0..20 {
            assert_eq!(client.read("GET").unwrap().text(), format!("/p{at}"), "{side:?}");
        }
        web.behind(side).assert_strict("pipelined");
    }
}

#[test]
fn a_post_is_never_sent_twice_once_it_may_have_been_seen() {
    // The endpoint takes the request, says nothing, and closes: on a new connection and on a kept one.
    let users = Recorder::answering(|message| match message.target.as_str() {
        "/silent" => Vec::new(),
        _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
    });
    let web = Exposed::of(Recorder::start(), users, |web| {
        web.set("outbound.defaults", serde_json::json!({ "timeout": "300ms", "retry": { "attempts": 5 } }))
    });
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(Ask::get("/").host("users").send(web.outbound()).status, 200);
        let before = web.users.count();
        let answer = Ask::new("POST", "/silent").host("users").body("x").send(web.outbound());
        answer.assert_reason(504, "deadline");
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(web.users.count(), before + 1, "sent once");
    }
}
