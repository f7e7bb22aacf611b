//! The PROXY protocol on the inbound listener: raw headers of both versions, and a real HAProxy before mTLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::certs::Authority;
use crate::support::client::Connection;
use crate::support::pair::sidecar;
use crate::support::sidecar::Builder;
use crate::support::tcp::expect;
use crate::support::{Answer, App, Ask, Embedded, Process, SOON, Script, Sidecar, TcpApp, eventually, fixed_port};

/// Where load balancers are; everybody else is at 127.0.0.1.
const BALANCER: [u8; 4] = [127, 0, 0, 9];
const CLIENT: [u8; 4] = [127, 0, 0, 1];
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V1: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 443\r\n";

struct Mesh {
    users: Sidecar,
    authority: Authority,
    registry: Embedded,
    _app: App,
}

impl Mesh {
    fn with(mtls: &str, more: impl FnOnce(Builder) -> Builder) -> Self {
        let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), App::start("users-1"));
        let users = more(behind_balancer(sidecar("users", registry.agent(), &authority).app(&app), mtls)).start();
        Self { users, authority, registry, _app: app }
    }

    fn plain() -> Self {
        Self::with("off", |users| users)
    }
}

fn behind_balancer(users: Builder, mtls: &str) -> Builder {
    users
        .set("inbound.mtls", json!(mtls))
        .set("inbound.trusted_ips", json!(["127.0.0.9"]))
        .set("inbound.proxy_protocol", json!(true))
}

/// Version 2 of a client at 203.0.113.10:4660, with TLVs behind.
fn v2(tlvs: &[u8]) -> Vec<u8> {
    let body = [&[203, 0, 113, 10, 10, 0, 0, 1, 0x12, 0x34, 1, 0xBB], tlvs].concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x21, 0x11], &length, &body].concat()
}

fn local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

/// A connection from that address.
#[track_caller]
fn connect(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect_timeout(&to.into(), SOON).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// What comes until the other side closes, in order or by a reset.
fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    match socket.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "closed"),
    }
    heard
}

const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nHost: users\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n";

/// The headers that the app saw, as text, of a `GET /echo` behind those bytes.
fn echoed(from: [u8; 4], users: &Sidecar, header: &[u8]) -> String {
    let mut socket = connect(from, users.inbound());
    socket.write_all(&[header, REQUEST].concat()).unwrap();
    let heard = String::from_utf8(rest(&mut socket)).unwrap();
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    heard
}

fn forwarded_for(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    let pair = body["headers"].as_array().into_iter().flatten().find(|pair| pair[0] == "x-forwarded-for").cloned();
    pair.map(|pair| pair[1].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

fn counted(users: &Sidecar, outcome: &str, times: f64) {
    users.wait_for_metric("outrigger_proxy_headers_total", &[("outcome", outcome)], times);
}

#[test]
fn the_headers_address_is_the_clients_everywhere() {
    let limit = json!([{ "name": "rate-limiting", "config": { "hour": 2, "limit_by": "ip" } }]);
    let mesh = Mesh::with("off", |users| users.set("inbound.plugins", limit));
    let users = &mesh.users;
    let tlvs = [4, 0, 3, 0, 0, 0, 0xEA, 0, 1, 7];
    let v6 = b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n";
    for (header, client) in [
        (V1, "203.0.113.9"),
        (&v2(&tlvs), "203.0.113.10"),
        (v6, "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.9"),
        (&local(), "127.0.0.9"),
    ] {
        // The balancer is trusted for its header alone: what its client writes is not believed for that.
        let seen = if client == "127.0.0.9" { "6.6.6.6, 127.0.0.9" } else { client };
        assert!(echoed(BALANCER, users, header).contains(&format!("\"{seen}\"")), "{client}");
        eventually(SOON, "an access line", || {
            users.access().into_iter().find(|line| line["peer"] == client && line["status"] == 200)
        });
    }
    counted(users, "client", 3.0);
    counted(users, "sender", 2.0);
    // Each client has a limit of its own.
    echoed(BALANCER, users, V1);
    let mut third = connect(BALANCER, users.inbound());
    third.write_all(&[V1, REQUEST].concat()).unwrap();
    assert!(String::from_utf8(rest(&mut third)).unwrap().starts_with("HTTP/1.1 429"));
    echoed(BALANCER, users, &v2(&[]));
    assert!(users.metric("outrigger_requests_total", &[("reason", "bad_request")]) < 0.5);
    users.comes_to_rest();
}

#[test]
fn a_header_may_come_byte_by_byte_and_nothing_behind_it_is_lost() {
    let mesh = Mesh::plain();
    let users = &mesh.users;
    for header in [V1.to_vec(), v2(&[4, 0, 2, 0, 0])] {
        let mut socket = connect(BALANCER, users.inbound());
        for byte in header.iter().chain(REQUEST) {
            socket.write_all(&[*byte]).unwrap();
        }
        let heard = String::from_utf8(rest(&mut socket)).unwrap();
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    }
    // Longer than one look, and the longest that is taken.
    let long = v2(&[&[4, 0x0F, 0xE1][..], &[0; 0xFE1]].concat());
    assert_eq!(long.len(), 4096);
    echoed(BALANCER, users, &long);
    // Without TLS, HTTP/2 and kept connections are as ever.
    let mut kept = Connection::from(connect(BALANCER, users.inbound()));
    kept.write(V1).unwrap();
    for _ in 0..3 {
        assert_eq!(forwarded_for(&kept.ask(&Ask::get("/echo").host("users")).unwrap()), "203.0.113.9");
    }
    counted(users, "client", 4.0);
}

#[test]
fn what_breaks_the_rules_is_closed_and_told() {
    let mesh = Mesh::plain();
    let users = &mesh.users;
    let bad_sum = v2(&[3, 0, 4, 1, 2, 3, 4]);
    let get = b"GET / HTTP/1.1\r\nHost: users\r\n\r\n";
    let cases: [(&[u8], &str, &str); 11] = [
        (get, "missing", "begins with no PROXY header"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "missing", "begins with no PROXY header"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "missing", "begins with no PROXY header"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", "malformed", "PROXY line is malformed"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", "malformed", "PROXY line is malformed"),
        (&[b'P'; 4000], "missing", "begins with no PROXY header"),
        (&[&b"PROXY UNKNOWN "[..], &[b'x'; 4000]].concat(), "malformed", "longer than 107 bytes"),
        (&[SIGNATURE, &[0x21, 0x11, 0xFF, 0xFF]].concat(), "malformed", "longer than 4096 bytes"),
        (&[SIGNATURE, &[0x21, 0x12, 0, 12], &[0; 12]].concat(), "malformed", "family or protocol"),
        (&bad_sum, "malformed", "CRC32C"),
        (&[SIGNATURE, &[0x31, 0x11, 0, 12], &[0; 12]].concat(), "malformed", "version"),
    ];
    for (bytes, outcome, detail) in cases {
        let before = users.metric("outrigger_proxy_headers_total", &[("outcome", outcome)]);
        let lines = users.access().len();
        let mut socket = connect(BALANCER, users.inbound());
        socket.write_all(bytes).unwrap();
        assert_eq!(rest(&mut socket), b"", "{detail}");
        counted(users, outcome, before + 1.0);
        let line = eventually(SOON, "an access line", || users.access().into_iter().nth(lines));
        assert_eq!((&line["reason"], &line["peer"]), (&json!("bad_request"), &json!("127.0.0.9")), "{line}");
        assert!(line["detail"].as_str().is_some_and(|told| told.contains(detail)), "{line}");
    }
    // A header that its sender does not finish, and a look whether we listen.
    for (bytes, outcome) in [(&V1[..20], "malformed"), (&v2(&[])[..20], "malformed"), (b"", "closed")] {
        let before = users.metric("outrigger_proxy_headers_total", &[("outcome", outcome)]);
        let mut socket = connect(BALANCER, users.inbound());
        socket.write_all(bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(rest(&mut socket), b"");
        counted(users, outcome, before + 1.0);
    }
    echoed(BALANCER, users, V1);
    users.comes_to_rest();
}

#[test]
fn a_slow_header_is_not_waited_for() {
    let mesh = Mesh::with("off", |users| users.set("inbound.timeouts", json!({ "head": "300ms" })));
    let users = &mesh.users;
    let begun = Instant::now();
    let mut sockets = [&b""[..], b"PROXY ", &V1[..V1.len() - 1], &SIGNATURE[..3]].map(|bytes| {
        let mut socket = connect(BALANCER, users.inbound());
        socket.write_all(bytes).unwrap();
        socket
    });
    for socket in &mut sockets {
        assert_eq!(rest(socket), b"");
    }
    // One who is not trusted and begins as if it sent one.
    let mut stranger = connect(CLIENT, users.inbound());
    stranger.write_all(b"PROX").unwrap();
    assert_eq!(rest(&mut stranger), b"");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    counted(users, "timed_out", 5.0);
    users.comes_to_rest();
}

#[test]
fn others_are_served_without_a_header_and_refused_with_one() {
    let mesh = Mesh::plain();
    let users = &mesh.users;
    let answer = Ask::get("/echo").host("users").header("x-forwarded-for", "6.6.6.6").send(users.inbound());
    assert_eq!(forwarded_for(&answer), "127.0.0.1");
    let mut in_pieces = connect(CLIENT, users.inbound());
    for piece in [&b"P"[..], b"OST /echo HTTP/1.1\r\nHost: users\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"] {
        in_pieces.write_all(piece).unwrap();
    }
    assert!(rest(&mut in_pieces).starts_with(b"HTTP/1.1 200"));
    for (at, header) in [V1.to_vec(), v2(&[]), local()].iter().enumerate() {
        let mut socket = connect(CLIENT, users.inbound());
        if at == 0 {
            for byte in header {
                // It is closed as soon as it is known for what it is.
                if socket.write_all(&[*byte]).is_err() {
                    break;
                }
            }
        } else {
            socket.write_all(&[header, REQUEST].concat()).unwrap();
        }
        assert_eq!(rest(&mut socket), b"");
        counted(users, "untrusted", at as f64 + 1.0);
    }
    let line =
        eventually(SOON, "an access line", || users.access().into_iter().find(|line| line["reason"] == "bad_request"));
    assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("not in inbound.trusted_ips")), "{line}");
    users.comes_to_rest();
}

/// A HAProxy that takes HTTP or TCP connections as they are and speaks mTLS as `web` behind its PROXY header.
fn haproxy(leaf: &Authority, to: SocketAddr, option: &str) -> (Process, SocketAddr, tempfile::TempDir) {
    let (folder, port, leaf) = (tempfile::tempdir().unwrap(), fixed_port(), leaf.leaf("web"));
    let pem = ["cert", "key"].map(|part| std::fs::read_to_string(if part == "cert" { &leaf.cert } else { &leaf.key }));
    std::fs::write(folder.path().join("web.pem"), pem.map(Result::unwrap).concat()).unwrap();
    let roots = leaf.roots.display();
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
         listen users\n  bind 127.0.0.1:{port}\n  source 127.0.0.9\n  \
         server users {to} {option} ssl crt web.pem ca-file {roots} verify required\n"
    );
    std::fs::write(folder.path().join("haproxy.cfg"), text).unwrap();
    let mut command = Command::new("haproxy");
    command.current_dir(folder.path()).args(["-db", "-f", "haproxy.cfg"]);
    let process = Process::start("haproxy", command);
    let address = SocketAddr::from((CLIENT, port));
    eventually(SOON, "haproxy accepts (tests/run installs it)", || TcpStream::connect(address).ok());
    (process, address, folder)
}

#[test]
fn haproxy_tells_whose_connection_it_passes_on_before_mtls() {
    let mesh = Mesh::with("strict", |users| users);
    let users = &mesh.users;
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let (_process, address, _folder) = haproxy(&mesh.authority, users.inbound(), option);
        let mut socket = connect([127, 0, 0, 77], address);
        socket.write_all(b"GET /echo HTTP/1.1\r\nHost: users\r\nConnection: close\r\n\r\n").unwrap();
        let heard = String::from_utf8(rest(&mut socket)).unwrap();
        assert!(heard.starts_with("HTTP/1.1 200") && heard.contains("\"127.0.0.77\""), "{option}: {heard}");
        assert!(heard.contains("svc/web"), "{option}: {heard}");
    }
    // Peers of the mesh come without one, and a balancer that forgets it is refused before TLS.
    mesh.registry.agent().wait_for("users", users.id(), "passing");
    let web = sidecar("web", mesh.registry.agent(), &mesh.authority).upstream("users", json!({})).start();
    assert_eq!(Ask::get("/").host("users").send(web.outbound()).status, 200);
    let handshakes = || users.metric("outrigger_handshakes_total", &[("outcome", "accepted")]);
    let before = handshakes();
    let (_process, address, _folder) = haproxy(&mesh.authority, users.inbound(), "");
    let mut socket = connect(CLIENT, address);
    socket.write_all(REQUEST).unwrap();
    assert_eq!(rest(&mut socket), b"");
    counted(users, "missing", 1.0);
    assert!(handshakes() - before < 0.5, "no TLS was done");
    users.comes_to_rest();
}

#[test]
fn tcp_services_hear_nothing_of_it() {
    let (registry, authority, app) = (Embedded::start(), Authority::new("mesh.test"), TcpApp::start(Script::Greet));
    let db = behind_balancer(sidecar("db", registry.agent(), &authority), "permissive")
        .set("service.port", json!(app.address().port()))
        .set("service.protocol", json!("tcp"))
        .start();
    let mut plain = connect(BALANCER, db.inbound());
    plain.write_all(&[V1, b"select 1"].concat()).unwrap();
    expect(&mut plain, "220 ready\r\nselect 1");
    plain.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut plain), b" bye");
    eventually(SOON, "an access line", || {
        db.access().into_iter().find(|line| line["peer"] == "203.0.113.9" && line["bytes_in"] == 8)
    });
    // Who is not trusted and waits to be spoken to is; who sends a header is not.
    expect(&mut connect(CLIENT, db.inbound()), "220 ready\r\n");
    let mut forged = connect(CLIENT, db.inbound());
    forged.write_all(V1).unwrap();
    assert_eq!(rest(&mut forged), b"");
    counted(&db, "untrusted", 1.0);
    let (_process, address, _folder) = haproxy(&authority, db.inbound(), "send-proxy-v2");
    let mut through = connect(CLIENT, address);
    through.write_all(b"x").unwrap();
    expect(&mut through, "220 ready\r\nx");
}

#[test]
fn a_reload_turns_it_on_and_off() {
    let mesh = Mesh::plain();
    let users = &mesh.users;
    let applied = |times: f64| {
        users.wait_for_metric("outrigger_config_reloads_total", &[("outcome", "applied")], times);
    };
    users.rewrite(|config| config["inbound"]["proxy_protocol"] = json!(false));
    applied(1.0);
    let mut socket = connect(BALANCER, users.inbound());
    socket.write_all(&[V1, REQUEST].concat()).unwrap();
    assert!(rest(&mut socket).starts_with(b"HTTP/1.1 400"), "a PROXY line is no request");
    echoed(BALANCER, users, b"");
    let shown: Value = Ask::get("/config").host("127.0.0.1").send(users.admin()).json();
    assert!(shown.to_string().contains("\"proxy_protocol\":false"), "{shown}");
    users.rewrite(|config| config["inbound"]["proxy_protocol"] = json!(true));
    applied(2.0);
    echoed(BALANCER, users, V1);
}
