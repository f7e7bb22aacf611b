//! Raw TCP: through two sidecars with mTLS, with Consul's built-in proxy at the other end, plain; half-close, failures.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::certs::Authority;
use crate::support::pair::sidecar;
use crate::support::tcp::{connect, expect, reset, talk};
use crate::support::{Ask, Consul, Embedded, SOON, Script, Sidecar, TcpApp, eventually, fixed_port, peers, throughout};

/// `web` toward `db`, a TCP service.
struct Mesh {
    web: Sidecar,
    db: Sidecar,
    app: TcpApp,
    registry: Embedded,
    authority: Authority,
}

impl Mesh {
    fn start(script: Script, mtls: &str) -> Self {
        let (app, registry, authority) = (TcpApp::start(script), Embedded::start(), Authority::new("mesh.test"));
        let db = sidecar("db", registry.agent(), &authority)
            .set("service.port", json!(app.address().port()))
            .set("service.protocol", json!("tcp"))
            .set("service.check", json!({ "tcp": true, "interval": "200ms" }))
            .set("inbound.mtls", json!(mtls))
            .start();
        registry.agent().wait_for("db", db.id(), "passing");
        let web = sidecar("web", registry.agent(), &authority).upstream("db", json!({ "protocol": "tcp" })).start();
        Self { web, db, app, registry, authority }
    }
}

#[track_caller]
fn comes_to_rest(sidecar: &Sidecar) {
    eventually(SOON, "nothing is in flight and no connection is open", || {
        let busy = sidecar.metric("outrigger_requests_in_flight", &[])
            + sidecar.metric("outrigger_connections", &[("direction", "outbound")])
            + sidecar.metric("outrigger_connections", &[("direction", "inbound")]);
        (busy < 0.5).then_some(())
    });
}

/// The first access line whose `bytes_out` is that.
fn line(sidecar: &Sidecar, bytes_out: u64) -> Value {
    eventually(SOON, "an access line", || {
        sidecar.access().into_iter().find(|line| line["protocol"] == "TCP" && line["bytes_out"] == bytes_out)
    })
}

#[test]
fn bytes_cross_two_sidecars_and_each_way_closes_by_itself() {
    let db = Mesh::start(Script::Echo, "strict");
    assert_eq!(talk(db.web.upstream("db"), "select 1").unwrap(), "select 1 bye");
    let (outbound, inbound) = (line(&db.web, 12), line(&db.db, 12));
    assert_eq!((&outbound["method"], &outbound["path"], &outbound["status"]), (&json!(""), &json!(""), &json!(0)));
    assert_eq!(
        (&outbound["service"], &outbound["bytes_in"], &outbound["reason"]),
        (&json!("db"), &json!(8), &json!(""))
    );
    assert_eq!(outbound["endpoint"], db.db.inbound().to_string());
    assert!(inbound["peer"].as_str().is_some_and(|peer| peer.ends_with("/svc/web")), "{inbound}");
    for (sidecar, direction) in [(&db.web, "outbound"), (&db.db, "inbound")] {
        let labels = [("direction", direction), ("service", "db"), ("status_class", "tcp"), ("reason", "")];
        sidecar.wait_for_metric("outrigger_requests_total", &labels, 1.0);
        let bytes = [("direction", direction), ("service", "db"), ("way", "out")];
        assert!((sidecar.metric("outrigger_bytes_total", &bytes) - 12.0).abs() < 0.1);
        comes_to_rest(sidecar);
    }
}

#[test]
fn ip_restriction_closes_connections_before_the_app_hears_of_them() {
    let db = Mesh::start(Script::Echo, "strict");
    let restrict = |mode: &str| {
        db.db.rewrite(|config| {
            config["inbound"]["plugins"] =
                json!([{ "name": "ip-restriction", "mode": mode, "config": { "deny": ["127.0.0.0/8"] } }]);
        });
        assert_eq!(Ask::new("POST", "/reload").host("localhost").body("").send(db.db.admin()).status, 200);
    };
    let logged =
        |detail: &str| eventually(SOON, detail, || db.db.access().into_iter().find(|line| line["detail"] == detail));
    restrict("shadow");
    assert_eq!(talk(db.web.upstream("db"), "select 1").unwrap(), "select 1 bye");
    assert_eq!(logged("ip-restriction: would refuse denied: 127.0.0.1 is in deny")["reason"], "");
    restrict("enforce");
    assert!(talk(db.web.upstream("db"), "select 1").map_or(true, |said| said.is_empty()));
    let line = logged("ip-restriction: refuse denied: 127.0.0.1 is in deny");
    assert_eq!((&line["reason"], &line["bytes_out"], &line["endpoint"]), (&json!("denied"), &json!(0), &json!("")));
    for decision in ["refused", "would_refuse"] {
        let labels = [("plugin", "ip-restriction"), ("decision", decision)];
        db.db.wait_for_metric("outrigger_plugin_decisions_total", &labels, 1.0);
    }
    comes_to_rest(&db.web);
    comes_to_rest(&db.db);
}

#[test]
fn much_goes_both_ways_at_once_without_growth() {
    let db = Mesh::start(Script::Echo, "strict");
    let size = 100 * 1024 * 1024;
    let before = db.web.metric("process_resident_memory_bytes", &[]);
    let mut socket = connect(db.web.upstream("db"));
    let mut sending = socket.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let piece = vec![7; 1024 * 1024];
        for _ in 0..100 {
            sending.write_all(&piece).unwrap();
        }
        sending.shutdown(Shutdown::Write).unwrap();
    });
    let (mut heard, mut piece) = (0, vec![0; 256 * 1024]);
    loop {
        match socket.read(&mut piece).unwrap() {
            0 => break,
            read => heard += read,
        }
    }
    sender.join().unwrap();
    assert_eq!(heard, size + 4);
    let grown = db.web.metric("process_resident_memory_bytes", &[]) - before;
    assert!(grown < 16.0 * 1024.0 * 1024.0, "grew by {grown} bytes");
    comes_to_rest(&db.web);
    comes_to_rest(&db.db);
}

#[test]
fn a_server_that_speaks_first_is_heard_by_plain_and_by_mesh_callers() {
    let db = Mesh::start(Script::Greet, "permissive");
    assert_eq!(talk(db.web.upstream("db"), "x").unwrap(), "220 ready\r\nx bye");
    // In plain text the client is silent until it is greeted.
    let mut plain = connect(db.db.inbound());
    expect(&mut plain, "220 ready\r\n");
    plain.write_all(b"y").unwrap();
    expect(&mut plain, "y");
    drop(plain);
    assert_eq!(talk(db.db.inbound(), "spoken first").unwrap(), "220 ready\r\nspoken first bye");
    assert!(db.db.metric("outrigger_handshakes_total", &[("outcome", "plain_text")]) >= 2.0);
    comes_to_rest(&db.db);
}

#[test]
fn plain_text_is_refused_where_mtls_is_strict_and_nothing_reaches_the_app() {
    let db = Mesh::start(Script::Greet, "strict");
    let before = db.app.accepted();
    let heard = talk(db.db.inbound(), "GET / HTTP/1.1\r\nHost: db\r\n\r\n");
    assert!(
        heard.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, String::is_empty),
        "{heard:?}"
    );
    let refused = [("direction", "inbound"), ("status_class", "tcp"), ("reason", "not_identified")];
    db.db.wait_for_metric("outrigger_requests_total", &refused, 1.0);
    let line = eventually(SOON, "an access line", || {
        db.db.access().into_iter().find(|line| line["reason"] == "not_identified")
    });
    assert_eq!((&line["protocol"], &line["status"]), (&json!("TCP"), &json!(0)), "{line}");
    // Only the probe of the app's health may have come.
    assert!(db.app.ended() >= before, "the probe goes on");
    assert_eq!(db.db.metric("outrigger_bytes_total", &[("direction", "inbound")]) as u64, 0);
}

#[test]
fn a_peer_that_is_someone_else_gets_no_byte() {
    let db = Mesh::start(Script::Echo, "strict");
    // `cache` is said to be where db is.
    let lies = json!({ "protocol": "tcp", "endpoints": [db.db.inbound().to_string()] });
    let web = sidecar("web", db.registry.agent(), &db.authority).upstream("cache", lies).start();
    let heard = talk(web.upstream("cache"), "secret");
    assert!(heard.is_err(), "a reset, since nothing can be said: {heard:?}");
    let line =
        eventually(SOON, "an access line", || web.access().into_iter().find(|line| line["reason"] == "wrong_peer"));
    assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("/svc/db")), "{line}");
    web.wait_for_metric("outrigger_upstream_attempts_total", &[("service", "cache"), ("outcome", "wrong_peer")], 1.0);
    comes_to_rest(&web);
}

#[test]
fn an_endpoint_that_refuses_costs_another_try() {
    let app = TcpApp::start(Script::Echo);
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let nobody = format!("127.0.0.1:{}", fixed_port());
    let endpoints = json!([app.address().to_string(), nobody]);
    let web = sidecar("web", registry.agent(), &authority)
        .upstream("db", json!({ "protocol": "tcp", "mtls": "off", "endpoints": endpoints }))
        .upstream("gone", json!({ "protocol": "tcp", "mtls": "off", "endpoints": [nobody] }))
        .start();
    for turn in 0..20 {
        assert_eq!(talk(web.upstream("db"), "x").unwrap(), "x bye", "turn {turn}");
    }
    assert!(talk(web.upstream("gone"), "x").is_err());
    let failed = [("service", "gone"), ("status_class", "tcp"), ("reason", "connect_failed")];
    web.wait_for_metric("outrigger_requests_total", &failed, 1.0);
    comes_to_rest(&web);
}

#[test]
fn what_breaks_is_passed_on_as_a_break_and_told() {
    let (resets, echo) = (TcpApp::start(Script::Reset), TcpApp::start(Script::Echo));
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let plain = |app: &TcpApp| json!({ "protocol": "tcp", "mtls": "off", "endpoints": [app.address().to_string()], "idle_timeout": "400ms" });
    let web = sidecar("web", registry.agent(), &authority)
        .upstream("resets", plain(&resets))
        .upstream("echo", plain(&echo))
        .start();
    assert!(talk(web.upstream("resets"), "x").is_err(), "the endpoint's reset is no clean end");
    web.wait_for_metric("outrigger_requests_total", &[("service", "resets"), ("reason", "upstream_reset")], 1.0);
    // The client resets: the endpoint's connection ends too.
    let mut client = connect(web.upstream("echo"));
    client.write_all(b"x").unwrap();
    expect(&mut client, "x");
    reset(&client).unwrap();
    drop(client);
    web.wait_for_metric("outrigger_requests_total", &[("service", "echo"), ("reason", "client_gone")], 1.0);
    eventually(SOON, "the endpoint's connection ends", || (echo.ended() == 1).then_some(()));
    // Nothing either way for too long.
    let began = Instant::now();
    let mut quiet = connect(web.upstream("echo"));
    let mut rest = Vec::new();
    let ended = quiet.read_to_end(&mut rest);
    assert!(ended.is_ok() && began.elapsed() >= Duration::from_millis(400), "{ended:?} {:?}", began.elapsed());
    web.wait_for_metric("outrigger_requests_total", &[("service", "echo"), ("reason", "deadline")], 1.0);
    let line =
        eventually(SOON, "an access line", || web.access().into_iter().find(|line| line["reason"] == "deadline"));
    assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("no byte either way")), "{line}");
    comes_to_rest(&web);
}

#[test]
fn a_listener_takes_no_more_connections_than_its_cap() {
    let app = TcpApp::start(Script::Echo);
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let plain = json!({ "protocol": "tcp", "mtls": "off", "endpoints": [app.address().to_string()] });
    let web = sidecar("web", registry.agent(), &authority)
        .upstream("echo", plain)
        .set("outbound.limits", json!({ "connections": 2 }))
        .start();
    let mut open: Vec<_> = (0..2).map(|_| connect(web.upstream("echo"))).collect();
    for socket in &mut open {
        socket.write_all(b"x").unwrap();
        expect(socket, "x");
    }
    let third = talk(web.upstream("echo"), "x");
    assert!(!third.as_ref().is_ok_and(|heard| heard == "x bye"), "{third:?}");
    web.wait_for_metric("outrigger_requests_total", &[("status_class", "tcp"), ("reason", "overloaded")], 1.0);
    drop(open);
    comes_to_rest(&web);
    assert_eq!(talk(web.upstream("echo"), "x").unwrap(), "x bye");
}

#[test]
fn connect_leads_to_a_declared_tcp_upstream_and_nowhere_else() {
    let db = Mesh::start(Script::Echo, "strict");
    let sentinel = TcpApp::start(Script::Echo);
    let mut socket = connect(db.web.outbound());
    socket.write_all(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\nearly").unwrap();
    expect(&mut socket, "HTTP/1.1 200 OK\r\n\r\n");
    expect(&mut socket, "early");
    socket.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    socket.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, " bye");
    let line =
        eventually(SOON, "an access line", || db.web.access().into_iter().find(|line| line["method"] == "CONNECT"));
    assert_eq!(
        (&line["status"], &line["service"], &line["bytes_in"]),
        (&json!(200), &json!("db"), &json!(5)),
        "{line}"
    );
    for target in [sentinel.address().to_string(), "nobody:80".into(), "db.example:80".into()] {
        let answer = Ask::new("CONNECT", &target).host(&target).send(db.web.outbound());
        answer.assert_reason(400, "bad_request");
    }
    let own_port = Ask::get("/").host("db").send(db.web.outbound());
    own_port.assert_reason(400, "bad_request");
    assert_eq!(sentinel.accepted(), 0);
    comes_to_rest(&db.web);
}

#[test]
fn consuls_built_in_proxy_calls_our_tcp_service_and_is_called() {
    let (consul, app) = (Consul::start(), TcpApp::start(Script::Greet));
    let db = Sidecar::of("db")
        .consul(consul.agent())
        .set("service.port", json!(app.address().port()))
        .set("service.protocol", json!("tcp"))
        .start();
    consul.agent().wait_for("db", db.id(), "passing");
    let caller = peers::BuiltIn::toward(consul.agent(), "web", "db");
    let mut socket = eventually(SOON, "the built-in proxy carries", || {
        let mut socket = std::net::TcpStream::connect(caller.listen).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut first = [0; 11];
        (socket.read_exact(&mut first).is_ok() && &first == b"220 ready\r\n").then_some(socket)
    });
    socket.write_all(b"through both").unwrap();
    expect(&mut socket, "through both");
    drop(socket);
    let line = eventually(SOON, "an access line", || db.access().into_iter().find(|line| line["bytes_in"] == 12));
    assert!(line["peer"].as_str().is_some_and(|peer| peer.ends_with("/svc/web")), "{line}");

    let legacy = TcpApp::start(Script::Greet);
    let _guard = peers::BuiltIn::before(consul.agent(), "legacy", legacy.address());
    let web = Sidecar::of("web").consul(consul.agent()).upstream("legacy", json!({ "protocol": "tcp" })).start();
    let mut socket = eventually(SOON, "the built-in proxy answers", || {
        let mut socket = std::net::TcpStream::connect(web.upstream("legacy")).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut first = [0; 11];
        (socket.read_exact(&mut first).is_ok() && &first == b"220 ready\r\n").then_some(socket)
    });
    socket.write_all(b"and back").unwrap();
    expect(&mut socket, "and back");
    drop(socket);
    comes_to_rest(&web);
}

#[test]
fn a_stop_lets_connections_finish_and_cuts_what_outlasts_grace() {
    let mut db = Mesh::start(Script::Echo, "strict");
    let upstream = db.web.upstream("db");
    let mut kept = connect(upstream);
    kept.write_all(b"x").unwrap();
    expect(&mut kept, "x");
    db.web.process.signal("TERM");
    eventually(SOON, "no new connection is taken", || std::net::TcpStream::connect(upstream).err());
    // It goes on while grace lasts, and the sidecar waits for it.
    throughout(Duration::from_millis(500), "the open connection is served", || {
        kept.write_all(b"y").unwrap();
        expect(&mut kept, "y");
        db.web.process.alive()
    });
    kept.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    kept.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, " bye");
    assert_eq!(db.web.process.wait(SOON).code(), Some(0));
    let web = sidecar("web", db.registry.agent(), &db.authority)
        .upstream("db", json!({ "protocol": "tcp" }))
        .set("shutdown.grace", json!("1s"));
    let mut web = web.start();
    let mut kept = connect(web.upstream("db"));
    kept.write_all(b"x").unwrap();
    expect(&mut kept, "x");
    web.process.signal("TERM");
    let mut rest = Vec::new();
    kept.read_to_end(&mut rest).expect("a FIN and no reset");
    assert_eq!(web.process.wait(SOON).code(), Some(0));
    let line = web.access().into_iter().find(|line| line["reason"] == "draining").expect("its line tells of the cut");
    assert_eq!((&line["detail"], &line["bytes_in"]), (&json!("grace is over"), &json!(1)), "{line}");
    comes_to_rest(&db.db);
}

#[test]
fn a_removed_upstreams_port_drains() {
    let db = Mesh::start(Script::Echo, "strict");
    let upstream = db.web.upstream("db");
    let mut kept = connect(upstream);
    kept.write_all(b"x").unwrap();
    expect(&mut kept, "x");
    db.web.rewrite(|config| config["outbound"]["upstreams"] = json!([]));
    eventually(SOON, "the port is closed", || std::net::TcpStream::connect(upstream).err());
    kept.write_all(b"still here").unwrap();
    expect(&mut kept, "still here");
    drop(kept);
    comes_to_rest(&db.web);
}

#[test]
fn a_handshake_that_does_not_come_is_given_up() {
    let (app, registry, authority) = (TcpApp::start(Script::Echo), Embedded::start(), Authority::new("mesh.test"));
    let db = sidecar("db", registry.agent(), &authority)
        .set("service.port", json!(app.address().port()))
        .set("service.protocol", json!("tcp"))
        .set("inbound.timeouts", json!({ "handshake": "300ms" }))
        .start();
    // Silent, and stuck within its first record.
    for first in [&b""[..], b"\x16\x03\x01"] {
        let mut socket = connect(db.inbound());
        socket.write_all(first).unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    db.wait_for_metric("outrigger_handshakes_total", &[("outcome", "timed_out")], 2.0);
    comes_to_rest(&db);
}
