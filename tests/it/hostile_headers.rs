//! Who a request says that it comes from, whom it is for and what it asks for: the app sees what was judged, and nobody speaks
//! in another's name. Thrown at apps that keep every byte.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::certs::Authority;
use crate::support::client::Connection;
use crate::support::exposed::{SIDES, Side};
use crate::support::pair::sidecar;
use crate::support::strict::Message;
use crate::support::{Ask, Embedded, Exposed, Recorder, fixed_port};

/// Sends the bytes and gives what the app was sent for them; `None` where they were refused.
#[track_caller]
fn arrives(web: &Exposed, side: Side, bytes: &str) -> Option<Message> {
    let before = web.behind(side).count();
    let thrown = web.throw(side, bytes.as_bytes());
    web.behind(side).assert_strict(bytes);
    let after = web.behind(side).messages();
    assert!(after.len() <= before + 1, "{side:?} {bytes}: more than one request");
    if after.len() == before {
        let answer = thrown.answers.first().unwrap_or_else(|| panic!("{side:?} {bytes}: no answer"));
        assert!(answer.status >= 400 && !answer.reason().is_empty(), "{side:?} {bytes}: {answer:?}");
        return None;
    }
    assert_eq!(thrown.statuses(), [200], "{side:?} {bytes}");
    // The order of connections is not that of requests: each has a mark of its own where it matters.
    after.into_iter().find(|message| bytes.contains(&message.header("x-mark")) && !message.header("x-mark").is_empty())
}

/// A GET with a mark of its own and these lines.
fn get(target: &str, lines: &str) -> String {
    let mark: String = std::iter::repeat_with(fastrand::alphanumeric).take(16).collect();
    format!("GET {target} HTTP/1.1\r\nHost: users\r\nX-Mark: {mark}\r\n{lines}\r\n")
}

const CLAIMS: [&str; 9] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-client-cert",
    "forwarded",
    "x-real-ip",
    "x-consumer-username",
    "x-authenticated-groups",
    "x-credential-identifier",
];

#[test]
fn no_claim_of_a_client_reaches_the_app_in_any_spelling() {
    // CVE-2024-45806, and CGI's rule that `_` is `-`.
    let web = Exposed::start();
    for name in CLAIMS {
        for spelling in [name.to_owned(), name.to_uppercase(), name.replace('-', "_"), name.replacen('-', "_", 1)] {
            let lines = format!("{spelling}: forged\r\n{spelling}: again, forged\r\n");
            let seen = arrives(&web, Side::Inbound, &get("/a", &lines)).expect("it passes");
            let told: Vec<_> = seen.headers.iter().filter(|(_, value)| value.contains("forged")).collect();
            assert!(told.is_empty(), "{spelling}: {told:?}");
        }
    }
    web.assert_lives(Side::Inbound);
}

#[test]
fn trailers_tell_the_app_nothing_about_its_caller() {
    let web = Exposed::start();
    for side in SIDES {
        let names: Vec<String> = CLAIMS.iter().flat_map(|name| [(*name).to_owned(), name.replace('-', "_")]).collect();
        let rest = ["authorization", "cookie", "host", "content-length", "transfer-encoding", "x-outrigger-attempt"];
        let all: Vec<&str> = names.iter().map(String::as_str).chain(rest).collect();
        let fields = all.iter().fold(String::new(), |mut fields, name| {
            let _ = write!(fields, "{name}: 7\r\n");
            fields
        });
        let bytes = format!(
            "POST /t HTTP/1.1\r\nHost: users\r\nX-Mark: trailers-{}\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
             Trailer: x-sum, {}\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n{fields}\r\n",
            side.name(),
            all.join(", ")
        );
        let seen = arrives(&web, side, &bytes).expect("it passes");
        assert_eq!(seen.trailers, [("x-sum".to_owned(), "1".to_owned())], "{side:?}");
        web.assert_lives(side);
    }
}

#[test]
fn what_plugins_judged_has_nothing_added_behind_its_body() {
    let limit = json!([{ "name": "rate-limiting", "config": { "hour": 1000 } }]);
    let web = Exposed::with(|web| web.set("inbound.plugins", limit));
    let bytes = "POST /t HTTP/1.1\r\nHost: users\r\nX-Mark: behind-plugins\r\nTransfer-Encoding: chunked\r\n\
                 Trailer: x-user-id\r\n\r\n2\r\nhi\r\n0\r\nx-user-id: root\r\n\r\n";
    let seen = arrives(&web, Side::Inbound, bytes).expect("it passes");
    assert_eq!((seen.body.as_slice(), seen.trailers.len()), (&b"hi"[..], 0));
    assert!(!web.app.was_sent("root"));
}

#[test]
fn connection_takes_away_what_it_names_and_nothing_of_ours() {
    // RFC 9110 §7.6.1; CVE-2022-31813, CVE-2021-32813, CVE-2024-45410.
    let web = Exposed::start();
    for side in SIDES {
        let lines = "Connection: close, X-Secret, x-forwarded-for, x-forwarded-proto, x-forwarded-host, x-request-id\r\n\
                     Connection: traceparent, x-outrigger-attempt, x-outrigger-deadline-ms, host, X_Other\r\n\
                     X-Secret: 1\r\nX_Other: 1\r\nX-Request-Id: mine\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
                     Proxy-Authorization: Basic eDp5\r\nTE: gzip\r\nExpect: 100-continue\r\n";
        let seen = arrives(&web, side, &get("/a", lines)).expect("it passes");
        let gone = [
            "x-secret",
            "x_other",
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "te",
            "expect",
        ];
        for name in gone {
            assert_eq!(seen.header(name), "", "{side:?} {name}");
        }
        let kept = ["host", "x-request-id", "traceparent"];
        let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
        for name in kept.iter().chain(ours.iter().filter(|_| side == Side::Inbound)) {
            assert_ne!(seen.header(name), "", "{side:?}: {name} was taken away");
        }
        assert_ne!(seen.header("x-request-id"), "mine", "{side:?}: named by Connection, it ends here");
    }
}

#[test]
fn one_host_is_routed_and_the_same_is_seen() {
    let web = Exposed::start();
    let sentinel = Recorder::start();
    let target = sentinel.address();
    for side in SIDES {
        // RFC 9112 §3.2: none, several, or what is no host.
        for lines in [
            "",
            "Host: users\r\nHost: users\r\n",
            "Host: users\r\nhost: evil\r\n",
            "Host: users, evil\r\n",
            "Host: evil@users\r\n",
            "Host: users/../evil\r\n",
            "Host: us ers\r\n",
            "Host: users\\evil\r\n",
            "Host: users\"\r\n",
            "Host: users#\r\n",
            "Host : users\r\n",
        ] {
            let bytes = format!("GET /a HTTP/1.1\r\n{lines}\r\n");
            let thrown = web.throw(side, bytes.as_bytes());
            assert_eq!(thrown.statuses(), [400], "{side:?} {lines:?}");
            thrown.answers[0].assert_reason(400, "bad_request");
        }
        // RFC 9112 §3.2.2: the target wins.
        let absolute = arrives(&web, side, &get("http://users:80/abs?x=1", "").replace("Host: users", "Host: evil"));
        let absolute = absolute.expect("it passes");
        assert_eq!(absolute.target, "/abs?x=1", "{side:?}");
        assert!(absolute.header("host").starts_with("users"), "{side:?}: {}", absolute.header("host"));
        assert!(!absolute.headers.iter().any(|(_, value)| value.contains("evil")), "{side:?}: {absolute:?}");
        // Nobody is led anywhere by what a request says (CVE-2021-40438).
        for bytes in [
            format!("GET http://{target}/ HTTP/1.1\r\nHost: users\r\n\r\n"),
            format!("GET http://users@{target}/ HTTP/1.1\r\nHost: users\r\n\r\n"),
            format!("GET /a HTTP/1.1\r\nHost: users@{target}\r\n\r\n"),
            format!("GET //{target}/ HTTP/1.1\r\nHost: users\r\n\r\n"),
            format!("GET @{target}/ HTTP/1.1\r\nHost: users\r\n\r\n"),
            format!("GET {target} HTTP/1.1\r\nHost: users\r\n\r\n"),
            format!("GET ftp://{target}/ HTTP/1.1\r\nHost: users\r\n\r\n"),
            format!("GET /a HTTP/1.1\r\nHost: users\r\nX-Forwarded-Host: {target}\r\nForwarded: host={target}\r\n\r\n"),
            format!("GET /a HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        ] {
            web.throw(side, bytes.as_bytes());
            web.behind(side).assert_strict(&bytes);
        }
        web.assert_lives(side);
    }
    assert_eq!(sentinel.taken().len(), 0, "nobody asked for that address");
}

/// What a path must become.
#[derive(Debug, Clone, Copy)]
enum Path {
    Refused,
    Denied,
    As(&'static str),
}

#[test]
fn policy_and_app_see_the_same_path() {
    use Path::{As, Denied, Refused};
    // CVE-2019-9901, CVE-2021-29492, CVE-2024-10005, CVE-2021-31920.
    let deny = |path: &str| json!({ "paths": [path], "action": "deny" });
    let rules = json!([deny("/admin"), { "paths": ["/"], "action": "allow" }]);
    let web = Exposed::with(|web| web.set("inbound.authz", rules));
    for (path, must) in [
        ("/public/a", As("/public/a")),
        ("/admin", Denied),
        ("/admin/", Denied),
        ("/admin?x=/public", Denied),
        ("//admin", Denied),
        ("/./admin", Denied),
        ("/public/../admin", Denied),
        ("/public/%2e%2e/admin", Denied),
        ("/public/.%2E/admin", Denied),
        ("/%61dmin", Denied),
        ("/public//..//admin", Denied),
        ("/public/x/../../admin/../admin", Denied),
        ("/public/..%2fadmin", Refused),
        ("/public/%2e%2e%2fadmin", Refused),
        ("/public%2f..%2fadmin", Refused),
        ("/public/..;/admin", Refused),
        ("/public/..;a=b/admin", Refused),
        ("/public/%2e%2e;/admin", Refused),
        ("/public/..%3b/admin", Refused),
        ("/public/..\\admin", Refused),
        ("\\admin", Refused),
        ("/\\admin", Refused),
        ("/public/..%5cadmin", Refused),
        ("/admin%00", Refused),
        ("/admin%00/public", Refused),
        ("/admin%2fx", Denied),
        ("/%2fadmin", Denied),
        ("/admin%5cx", Denied),
        ("/admin;a=b", Denied),
        ("/admin;a=b/x", Denied),
        ("/adm;x/in", As("/adm;x/in")),
        ("/public%2fx", As("/public%2Fx")),
        ("/public;v=1/x", As("/public;v=1/x")),
        ("/administer", As("/administer")),
        ("/public/%2561dmin", As("/public/%2561dmin")),
        ("/public/a/../b", As("/public/b")),
        ("/public/%7e", As("/public/~")),
        ("/public//b", As("/public/b")),
        ("/public/%zz", As("/public/%25zz")),
        ("/public?a=../%2e%2e//b", As("/public?a=../%2e%2e//b")),
    ] {
        match must {
            As(wanted) => {
                let seen = arrives(&web, Side::Inbound, &get(path, "")).unwrap_or_else(|| panic!("{path} is refused"));
                assert_eq!(seen.target, wanted, "{path}");
            }
            Refused | Denied => {
                let before = web.app.count();
                let thrown = web.throw(Side::Inbound, get(path, "").as_bytes());
                let (status, code) = if matches!(must, Denied) { (403, "denied") } else { (400, "bad_request") };
                assert_eq!(thrown.statuses(), [status], "{path}");
                thrown.answers[0].assert_reason(status, code);
                assert_eq!(web.app.count(), before, "{path}");
            }
        }
    }
    web.assert_lives(Side::Inbound);
}

#[test]
fn a_path_that_falls_under_another_rule_in_another_reading_is_refused() {
    let rules = json!([
        { "name": "admin", "match": { "path": "/admin" }, "respond": { "status": 401 } },
        { "name": "rest", "match": { "path": "/" } },
    ]);
    let web = Exposed::with(|web| web.set("inbound.routes", rules));
    for path in ["/admin", "//admin", "/x/%2e%2e/admin"] {
        assert_eq!(web.throw(Side::Inbound, get(path, "").as_bytes()).statuses(), [401], "{path}");
    }
    for path in ["/admin%2Fx", "/admin;x", "/%2Fadmin", "/admin%5Cx", "/x/..;/admin", "/x\\..\\admin"] {
        let thrown = web.throw(Side::Inbound, get(path, "").as_bytes());
        assert_eq!(thrown.statuses(), [400], "{path}");
        thrown.answers[0].assert_reason(400, "bad_request");
    }
    assert_eq!(arrives(&web, Side::Inbound, &get("/a%2Fb;v=1", "")).expect("it passes").target, "/a%2Fb;v=1");
    assert!(!web.app.was_sent("admin"));
}

#[test]
fn without_policy_a_path_is_sent_as_it_came_or_refused() {
    let web = Exposed::start();
    for side in SIDES {
        for path in ["/a//b", "/a/../b", "/a%2Fb", "/a;v=1", "/%61", "/a?b=\\"] {
            let seen = arrives(&web, side, &get(path, ""));
            assert!(seen.is_none_or(|seen| seen.target == path), "{side:?} {path}");
        }
        for path in ["/a\\b", "/a/..;/b", "/a/..%2fb", "/a%00"] {
            assert_eq!(web.throw(side, get(path, "").as_bytes()).statuses(), [400], "{side:?} {path}");
        }
    }
}

#[test]
fn a_rule_looks_at_every_value_of_a_header_in_any_case() {
    // CVE-2024-10006, CVE-2020-25017.
    let rules =
        json!([{ "name": "internal", "match": { "headers": { "x-internal": "1" } }, "respond": { "status": 403 } }]);
    let web = Exposed::with(|web| web.set("inbound.routes", rules));
    for lines in [
        "X-Internal: 1\r\n",
        "x-InTeRnAl: 1\r\n",
        "X-Internal: 0\r\nX-Internal: 1\r\n",
        "X-Internal: 1\r\nX-Internal: 0\r\n",
        "X-Internal:\t1 \r\n",
    ] {
        assert_eq!(web.throw(Side::Inbound, get("/a", lines).as_bytes()).statuses(), [403], "{lines:?}");
    }
    assert_eq!(web.throw(Side::Inbound, get("/a", "X-Internal: 10\r\n").as_bytes()).statuses(), [200]);
}

#[test]
fn an_expression_takes_linear_time() {
    // CVE-2019-14993, CVE-2022-24713.
    let rules =
        json!([{ "name": "hard", "match": { "path_regex": "/(a+)+(a|aa)+(.*)*b" }, "respond": { "status": 403 } }]);
    let web = Exposed::with(|web| web.set("inbound.routes", rules));
    let path = format!("/{}", "a".repeat(10 * 1024));
    let mut client = Connection::to(web.way_in(Side::Inbound)).unwrap();
    assert_eq!(client.ask(&Ask::get("/").host("users")).unwrap().status, 200);
    let start = Instant::now();
    assert_eq!(client.ask(&Ask::get(&path).host("users")).unwrap().status, 200);
    // 50 ms, and what a busy machine adds.
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[test]
fn every_line_of_the_logs_is_one_line() {
    // CVE-2024-45808, CVE-2025-58160.
    let web = Exposed::start();
    for side in SIDES {
        for (at, hostile) in
            ["\u{1b}[31m", "%1b[31m", "%0a{\"status\":200}", "\"", "\\\"", "\u{9b}31m", "\u{2028}", "\r", "{}"]
                .iter()
                .enumerate()
        {
            for bytes in [
                format!("GET /a{hostile}b HTTP/1.1\r\nHost: users\r\n\r\n"),
                format!("GET /a?q={hostile} HTTP/1.1\r\nHost: users\r\n\r\n"),
                format!("GET /a HTTP/1.1\r\nHost: us{hostile}ers\r\n\r\n"),
                format!("GET /a HTTP/1.1\r\nHost: users\r\nUser-Agent: {hostile}\r\nReferer: {hostile}\r\n\r\n"),
                format!("GET /a HTTP/1.1\r\nHost: users\r\nX-Request-Id: {hostile}\r\ntraceparent: {hostile}\r\n\r\n"),
                format!("G{hostile}T /a HTTP/1.1\r\nHost: users\r\n\r\n"),
            ] {
                web.throw(side, bytes.as_bytes());
                web.behind(side).assert_strict(&format!("{side:?} {at}"));
            }
        }
        web.assert_lives(side);
    }
    // `access` fails on a line that is no JSON object.
    let lines = web.access();
    assert!(lines.len() >= 90 && lines.iter().all(Value::is_object), "{} lines", lines.len());
    let raw = std::fs::read_to_string(web.folder().join("access.log")).unwrap() + &web.process.log();
    let control = |c: char| c.is_control() && c != '\n';
    assert!(!raw.contains(control), "{:?}", raw.lines().find(|line| line.contains(control)));
}

#[test]
fn what_clients_choose_makes_no_series_and_takes_no_memory() {
    // CVE-2022-21698, CVE-2025-43915.
    let web = Exposed::with(|web| web.set("telemetry", json!({})));
    for side in SIDES {
        web.assert_lives(side);
    }
    let before = web.process.memory();
    for (lane, side) in [Side::Outbound, Side::Outbound, Side::Inbound].into_iter().enumerate() {
        let mut client = Connection::to(web.way_in(side)).unwrap();
        let most = if side == Side::Inbound { 5_000 } else { 22_500 };
        for batch in 0..most / 100 {
            let many = (0..100).fold(String::new(), |mut many, at| {
                let it = format!("{lane}x{batch}x{at}");
                let _ = write!(many, "M{it} /p{it}?q={it} HTTP/1.1\r\nHost: h{it}.test\r\nX-{it}: 1\r\n\r\n");
                many
            });
            client.write(many.as_bytes()).unwrap();
            for _ in 0..100 {
                let status = client.read("GET").unwrap().status;
                assert_eq!(status, if side == Side::Inbound { 200 } else { 404 });
            }
        }
    }
    let scrape = web.metrics();
    assert!(scrape.len() < 2000, "{} series", scrape.len());
    let grown = web.process.memory().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes more");
}

#[test]
fn a_circle_is_seen_at_its_first_round() {
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let (outbound, inbound) = (fixed_port(), fixed_port());
    let to_itself =
        json!({ "mtls": "off", "endpoints": [format!("127.0.0.1:{outbound}")], "retry": { "attempts": 0 } });
    let web = sidecar("web", registry.agent(), &authority)
        .set("outbound.listen", json!(format!("127.0.0.1:{outbound}")))
        .set("inbound", json!({ "listen": format!("127.0.0.1:{inbound}"), "mtls": "off" }))
        // By another name than the one that the config is checked for.
        .set("service.address", json!("LOCALHOST"))
        .set("service.port", json!(inbound))
        .upstream("users", to_itself)
        .start();
    for (to, direction) in [(web.outbound(), "outbound"), (web.inbound(), "inbound")] {
        let mut client = Connection::to(to).unwrap();
        for round in 1..=3 {
            let answer = client.ask(&Ask::get("/a").host("users")).unwrap();
            answer.assert_reason(508, "loop");
            let line = web.access_of(answer.header("x-request-id"));
            assert_eq!(line["status"], 508, "{line}");
            let told = web.metric("outrigger_requests_total", &[("direction", direction), ("reason", "loop")]);
            assert!((told - f64::from(round)).abs() < 0.5, "{direction}: refused {told} times after {round} requests");
        }
        let upgrade = Ask::get("/ws").host("users").header("Connection", "Upgrade").header("Upgrade", "websocket");
        assert_eq!(upgrade.header("Sec-WebSocket-Version", "13").send(to).status, 508, "{direction}");
    }
}

#[test]
fn a_service_may_call_itself() {
    let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), Recorder::start());
    let inbound = fixed_port();
    let web = sidecar("web", registry.agent(), &authority)
        .set("inbound", json!({ "listen": format!("127.0.0.1:{inbound}"), "mtls": "off" }))
        .set("service.port", json!(app.address().port()))
        .upstream("me", json!({ "mtls": "off", "endpoints": [format!("127.0.0.1:{inbound}")] }))
        .start();
    let answer = Ask::get("/a").host("me").send(web.outbound());
    assert_eq!((answer.status, answer.text().as_str()), (200, "/a"), "{answer:?}");
}
