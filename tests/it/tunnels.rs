//! What leaves HTTP beside WebSocket and TCP, its faults, its part in a drain; streams that must not be held back; old
//! clients.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use http::{Method, Request};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::certs::Authority;
use crate::support::pair::sidecar;
use crate::support::tcp::{connect, expect};
use crate::support::{Ask, Embedded, Pair, SOON, Script, Sidecar, TcpApp, eventually, python, runtime};

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo/1\r\n\r\n";

#[track_caller]
fn comes_to_rest(sidecar: &Sidecar) {
    eventually(SOON, "nothing is in flight", || {
        let busy = sidecar.metric("outrigger_requests_in_flight", &[])
            + sidecar.metric("outrigger_connections", &[("direction", "outbound")]);
        (busy < 0.5).then_some(())
    });
}

/// Asks for `foo/1` and reads the head of the answer.
fn ask_for_foo(to: SocketAddr) -> (TcpStream, String) {
    let mut socket = connect(to);
    socket.write_all(b"GET /foo HTTP/1.1\r\nHost: users\r\nConnection: Upgrade\r\nUpgrade: foo/1\r\n\r\n").unwrap();
    let head = head_of(&mut socket);
    (socket, head.to_ascii_lowercase())
}

/// A pair whose `users` is that app.
fn before(app: &TcpApp) -> Pair {
    let port = json!(app.address().port());
    Pair::with(|users| users.set("service.port", port).set("service.check", json!({ "tcp": true })), |web| web)
}

fn plain(app: &TcpApp) -> Value {
    json!({ "mtls": "off", "endpoints": [app.address().to_string()], "timeout": "1s" })
}

#[test]
fn any_other_protocol_crosses_two_sidecars() {
    let app = TcpApp::start(Script::Say(SWITCHED));
    let pair = before(&app);
    let (mut socket, head) = ask_for_foo(pair.web.upstream("users"));
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: foo/1\r\n"), "{head}");
    socket.write_all(b"not HTTP at all \0\x01").unwrap();
    expect(&mut socket, "not HTTP at all \0\x01");
    socket.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    socket.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, " bye", "its half-close came through, and ours does not cut what still comes");
    for sidecar in [&pair.web, &pair.users] {
        let line =
            eventually(SOON, "an access line", || sidecar.access().into_iter().find(|line| line["path"] == "/foo"));
        assert_eq!((&line["status"], &line["protocol"]), (&json!(101), &json!("HTTP/1.1")), "{line}");
        assert_eq!((&line["bytes_in"], &line["bytes_out"], &line["reason"]), (&json!(18), &json!(22), &json!("")));
        comes_to_rest(sidecar);
    }
}

#[test]
fn bytes_that_look_like_a_refusal_pass_in_a_tunnel() {
    let text = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let app = TcpApp::start(Script::Say(SWITCHED));
    let pair = before(&app);
    let (mut socket, _) = ask_for_foo(pair.web.upstream("users"));
    socket.write_all(text.as_bytes()).unwrap();
    expect(&mut socket, text);
}

#[test]
fn each_fault_at_an_upgrade_has_its_reason_and_leaves_nothing_behind() {
    const OTHER: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";
    let registry = Embedded::start();
    let authority = Authority::new("mesh.test");
    for (script, status, reason) in [
        (Script::Silent, 504, "deadline"),
        (Script::Reset, 502, "upstream_reset"),
        (Script::Say("nonsense\r\n\r\n"), 502, "bad_response"),
        (Script::Say(OTHER), 502, "bad_response"),
    ] {
        let app = TcpApp::start(script);
        let web = sidecar("web", registry.agent(), &authority).upstream("users", plain(&app)).start();
        let ask = Ask::get("/foo").host("users").header("Connection", "upgrade").header("Upgrade", "foo/1");
        ask.send(web.upstream("users")).assert_reason(status, reason);
        let line = eventually(SOON, "an access line", || web.access().into_iter().find(|line| line["path"] == "/foo"));
        assert_eq!((&line["reason"], &line["attempts"]), (&json!(reason), &json!(1)), "{script:?}: {line}");
        comes_to_rest(&web);
        eventually(SOON, "the endpoint's connection ends", || (app.ended() == app.accepted()).then_some(()));
    }
    // A switch that nobody asked for is no answer.
    let app = TcpApp::start(Script::Say(SWITCHED));
    let web = sidecar("web", registry.agent(), &authority).upstream("users", plain(&app)).start();
    Ask::new("POST", "/").host("users").send(web.upstream("users")).assert_reason(502, "bad_response");
    comes_to_rest(&web);
}

#[test]
fn an_extended_connect_from_the_app_reaches_a_websocket_server() {
    let (_server, address) = python::server("websocket_peer");
    let registry = Embedded::start();
    let authority = Authority::new("mesh.test");
    let chat = sidecar("chat", registry.agent(), &authority).set("service.port", json!(address.port())).start();
    registry.agent().wait_for("chat", chat.id(), "passing");
    let web = sidecar("web", registry.agent(), &authority).upstream("chat", json!({})).start();
    assert_eq!(extended_connect(web.outbound(), "websocket"), (200, "hello".to_owned()));
    let (status, _) = extended_connect(web.outbound(), "connect-udp");
    assert_eq!(status, 400);
    web.wait_for_metric("outrigger_requests_total", &[("reason", "bad_request")], 1.0);
    let line = eventually(SOON, "an access line", || {
        web.access().into_iter().find(|line| line["path"] == "/echo" && line["status"] == 200)
    });
    assert_eq!((&line["protocol"], &line["method"]), (&json!("HTTP/2"), &json!("CONNECT")), "{line}");
    comes_to_rest(&web);
}

/// Opens `:protocol` on `chat` over h2c, says `hello` in a WebSocket frame, and gives status and what comes back.
fn extended_connect(to: SocketAddr, protocol: &'static str) -> (u16, String) {
    let work = async move {
        let socket = tokio::net::TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = "http://chat/echo".parse().unwrap();
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        request.extensions_mut().insert(Protocol::from_static(protocol));
        // The peer's settings must have come before it may be sent: an answer shows that they have.
        let ordinary = Request::get("http://chat/refuse").body(http_body_util::Empty::new()).unwrap();
        sender.send_request(ordinary).await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let mut heard = String::new();
        if status == 200 {
            let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
            // A text frame, masked with zeros (RFC 6455 §5.2).
            stream.write_all(b"\x81\x85\0\0\0\0hello").await.unwrap();
            let mut frame = [0; 7];
            stream.read_exact(&mut frame).await.unwrap();
            assert_eq!(&frame[..2], b"\x81\x05");
            heard = String::from_utf8_lossy(&frame[2..]).into_owned();
        }
        driver.abort();
        (status, heard)
    };
    let within = async { tokio::time::timeout(SOON, work).await.expect("an answer in time") };
    runtime().block_on(runtime().spawn(within)).unwrap()
}

#[test]
fn a_websocket_outlives_the_stop_within_grace_and_is_closed_after_it() {
    let (server, address) = python::server("websocket_peer");
    let registry = Embedded::start();
    let authority = Authority::new("mesh.test");
    let chat = sidecar("chat", registry.agent(), &authority).set("service.port", json!(address.port())).start();
    registry.agent().wait_for("chat", chat.id(), "passing");
    let web = sidecar("web", registry.agent(), &authority).upstream("chat", json!({}));
    let mut web = web.set("shutdown.grace", json!("2s")).start();
    let client = python::start("websocket_peer", &["hold", &web.upstream("chat").to_string()]);
    assert_eq!(client.next_line(SOON), "open");
    let began = std::time::Instant::now();
    assert_eq!(web.stop(), Some(0));
    assert!(began.elapsed() > Duration::from_millis(1500), "it was given its time: {:?}", began.elapsed());
    assert_eq!(client.next_line(SOON).trim(), "1006", "closed, without a close frame that only its peer may send");
    web.process.wait_for_log(SOON, "grace is over");
    let line = web.access().into_iter().find(|line| line["path"] == "/echo/held").expect("its access line");
    assert_eq!((&line["status"], &line["reason"]), (&json!(101), &json!("draining")), "{line}");
    server.wait_for_log(SOON, "/echo/held 1006");
    comes_to_rest(&chat);
}

#[test]
fn server_sent_events_are_not_held_back() {
    let pair = Pair::start();
    let mut socket = connect(pair.web.upstream("users"));
    socket.write_all(b"GET /events HTTP/1.1\r\nHost: users\r\n\r\n").unwrap();
    let heard = std::cell::RefCell::new(String::new());
    let mut until = |text: &str, each: &dyn Fn()| {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        eventually(SOON, text, || {
            each();
            let mut piece = [0; 1024];
            let read = socket.read(&mut piece).unwrap_or(0);
            heard.borrow_mut().push_str(&String::from_utf8_lossy(&piece[..read]));
            heard.borrow().contains(text).then_some(())
        });
    };
    until("data: 1\n\n", &|| {});
    assert!(!heard.borrow().contains("data: 2"));
    // The second is sent only now that the first was seen.
    until("data: 2\n\n", &|| pair.app.release());
}

#[test]
fn http_1_0_clients_are_served_in_their_own_way() {
    let pair = Pair::start();
    let own = pair.web.upstream("users");
    // Neither Host nor keep-alive: the end of the answer is the end of the connection.
    let mut socket = connect(own);
    socket.write_all(b"GET /bytes/200000 HTTP/1.0\r\n\r\n").unwrap();
    let mut all = Vec::new();
    socket.read_to_end(&mut all).unwrap();
    let split = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&all[..split]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.0 200 ") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(all.len() - split - 4, 200_000);
    // Keep-alive where it was asked for and the length is known.
    let mut socket = connect(own);
    for _ in 0..2 {
        socket.write_all(b"GET /status/204 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        let head = head_of(&mut socket).to_ascii_lowercase();
        assert!(head.starts_with("http/1.0 204 ") && head.contains("connection: keep-alive"), "{head}");
    }
    // Without a Host nothing names an upstream on the shared port.
    let mut socket = connect(pair.web.outbound());
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.0 404 ") && said.contains("no_route"), "{said}");
    let line = eventually(SOON, "an access line", || {
        pair.web.access().into_iter().find(|line| line["path"] == "/bytes/200000")
    });
    assert_eq!((&line["protocol"], &line["host"]), (&json!("HTTP/1.0"), &json!("")), "{line}");
}

#[test]
fn field_names_keep_their_case_where_that_is_asked_for() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nX-Answer-Case: 1\r\nCONTENT-LENGTH: 0\r\n\r\n";
    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: old\r\nX-Request-Case: 1\r\nSOAPAction: x\r\n\r\n";
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    for (case, in_answer, in_request) in [
        ("keep", "X-Answer-Case: 1", ["X-Request-Case: 1", "SOAPAction: x"]),
        ("lower", "x-answer-case: 1", ["x-request-case: 1", "soapaction: x"]),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = json!({ "mtls": "off", "endpoints": [listener.local_addr().unwrap().to_string()] });
        let web = sidecar("web", registry.agent(), &authority).upstream("old", upstream);
        let web = web.set("outbound.header_case", json!(case)).start();
        let app = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let head = head_of(&mut socket);
            socket.write_all(ANSWER.as_bytes()).unwrap();
            head
        });
        let mut socket = connect(web.upstream("old"));
        socket.write_all(REQUEST.as_bytes()).unwrap();
        let answer = head_of(&mut socket);
        assert!(answer.contains(in_answer), "{case}: {answer}");
        let request = app.join().unwrap();
        assert!(in_request.iter().all(|field| request.contains(field)), "{case}: {request}");
    }
}

/// Reads a message's head.
#[track_caller]
fn head_of(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head)));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
