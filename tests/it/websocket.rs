//! WebSocket with a real client and a real server (PyPI `websockets`), over each way in and between.

use serde_json::{Value, json};

use crate::support::certs::Authority;
use crate::support::pair::sidecar;
use crate::support::{Ask, Consul, Embedded, Process, SOON, Sidecar, eventually, peers, python};

const SCENARIOS: [&str; 10] = [
    "messages",
    "uncompressed",
    "many_at_once",
    "server_pings",
    "server_closes",
    "client_closes",
    "client_aborts",
    "pushed",
    "told",
    "refused",
];

/// `web` toward `chat` before a WebSocket server.
struct Mesh {
    web: Sidecar,
    chat: Sidecar,
    server: Process,
    _registry: Embedded,
}

impl Mesh {
    fn start() -> Self {
        let (server, address) = python::server("websocket_peer");
        let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
        let chat = sidecar("chat", registry.agent(), &authority).set("service.port", json!(address.port())).start();
        registry.agent().wait_for("chat", chat.id(), "passing");
        let web = sidecar("web", registry.agent(), &authority).upstream("chat", json!({})).start();
        Self { web, chat, server, _registry: registry }
    }
}

/// Waits until no tunnel is left, nor a connection of the app.
#[track_caller]
fn comes_to_rest(sidecar: &Sidecar) {
    eventually(SOON, "nothing is in flight", || {
        let busy = sidecar.metric("outrigger_requests_in_flight", &[])
            + sidecar.metric("outrigger_connections", &[("direction", "outbound")]);
        (busy < 0.5).then_some(())
    });
}

fn line_of(sidecar: &Sidecar, path: &str, status: u16) -> Value {
    eventually(SOON, &format!("an access line of {path}"), || {
        sidecar.access().into_iter().find(|line| line["path"] == path && line["status"] == status)
    })
}

#[test]
fn websockets_cross_two_sidecars_as_streams_of_one_http2_connection() {
    let chat = Mesh::start();
    assert_eq!(python::client("websocket_peer", chat.web.upstream("chat")), SCENARIOS);
    // Outbound speaks HTTP/1.1 with its client, inbound HTTP/2 with its peer.
    let outbound = line_of(&chat.web, "/echo", 101);
    assert_eq!((&outbound["protocol"], &outbound["method"]), (&json!("HTTP/1.1"), &json!("GET")), "{outbound}");
    assert_eq!((&outbound["reason"], &outbound["service"]), (&json!(""), &json!("chat")), "{outbound}");
    let inbound = line_of(&chat.chat, "/echo", 200);
    assert_eq!((&inbound["protocol"], &inbound["method"]), (&json!("HTTP/2"), &json!("CONNECT")), "{inbound}");
    assert!(inbound["peer"].as_str().is_some_and(|peer| peer.ends_with("/svc/web")), "{inbound}");
    let big = chat.web.access().into_iter().any(|line| {
        line["path"] == "/echo"
            && line["bytes_in"].as_u64() > Some(1 << 20)
            && line["bytes_out"].as_u64() > Some(1 << 20)
    });
    assert!(big, "bytes of both ways are counted");
    // One handshake for all of them.
    assert!(chat.chat.metric("outrigger_handshakes_total", &[("outcome", "accepted")]) < 2.5);
    let upgraded = [("direction", "outbound"), ("service", "chat"), ("status_class", "1xx"), ("reason", "")];
    assert!(chat.web.metric("outrigger_requests_total", &upgraded) >= 36.0);
    for text in ["/close/4001 4001 as asked", "/echo/leaves 4002 enough", "/echo/aborts 1006"] {
        chat.server.wait_for_log(SOON, text);
    }
    comes_to_rest(&chat.web);
    comes_to_rest(&chat.chat);
}

#[test]
fn websockets_reach_a_plain_endpoint() {
    let (server, address) = python::server("websocket_peer");
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let plain = json!({ "mtls": "off", "endpoints": [address.to_string()] });
    let web = sidecar("web", registry.agent(), &authority).upstream("chat", plain).start();
    // An origin of our own would be refused by nobody here; the Host that the server sees is the service's.
    let client = python::start("websocket_peer", &["client", &web.upstream("chat").to_string()]);
    let (code, said) = client.finish(SOON);
    // A plain endpoint has no sidecar that would tell it of its caller.
    assert!(code == Some(1) && said.contains("ok pushed") && said.contains("x-forwarded-for"), "{said}");
    for text in ["/close/4001 4001 as asked", "/echo/aborts 1006"] {
        server.wait_for_log(SOON, text);
    }
    comes_to_rest(&web);
}

#[test]
fn a_request_that_is_not_granted_its_upgrade_is_answered_as_any_other() {
    let chat = Mesh::start();
    let plain = Ask::get("/echo").host("chat").header("Connection", "upgrade").header("Upgrade", "h2c");
    let answer = plain.header("HTTP2-Settings", "AAMAAABkAAQAAP__").send(chat.web.outbound());
    // The server wants a WebSocket: that h2c was asked for did not reach it.
    assert_eq!(answer.status, 426, "{answer:?}");
    let bad_version = Ask::get("/echo")
        .host("chat")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Sec-WebSocket-Version", "777")
        .send(chat.web.outbound());
    assert!((400..500).contains(&bad_version.status), "{bad_version:?}");
    assert_eq!(bad_version.reason(), "", "it is the endpoint's answer");
    comes_to_rest(&chat.web);
}

#[test]
fn an_app_that_speaks_http2_gets_an_extended_connect() {
    // The outbound port of another sidecar is an app that takes WebSockets over h2c.
    let (_server, address) = python::server("websocket_peer");
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let plain = json!({ "mtls": "off", "endpoints": [address.to_string()] });
    let app = sidecar("app", registry.agent(), &authority).upstream("server", plain).start();
    let chat = sidecar("chat", registry.agent(), &authority)
        .set("service.port", json!(app.upstream("server").port()))
        .set("service.protocol", json!("http2"))
        .start();
    registry.agent().wait_for("chat", chat.id(), "passing");
    let web = sidecar("web", registry.agent(), &authority).upstream("chat", json!({})).start();
    let client = python::start("websocket_peer", &["client", &web.upstream("chat").to_string()]);
    let (_, said) = client.finish(2 * SOON);
    assert!(said.contains("ok pushed"), "{said}");
    let line = line_of(&app, "/echo", 200);
    assert_eq!((&line["protocol"], &line["method"]), (&json!("HTTP/2"), &json!("CONNECT")), "{line}");
    comes_to_rest(&web);
}

#[test]
fn consuls_built_in_proxy_carries_websockets_either_way() {
    let (_server, address) = python::server("websocket_peer");
    let consul = Consul::start();
    let chat = Sidecar::of("chat").consul(consul.agent()).set("service.port", json!(address.port())).start();
    consul.agent().wait_for("chat", chat.id(), "passing");
    let caller = peers::BuiltIn::toward(consul.agent(), "web", "chat");
    peers::wait_for_status(caller.listen, "/refuse", 403);
    assert_eq!(python::client("websocket_peer", caller.listen), SCENARIOS);
    line_of(&chat, "/echo", 101);
    comes_to_rest(&chat);

    let _guard = peers::BuiltIn::before(consul.agent(), "legacy", address);
    let web = Sidecar::of("web").consul(consul.agent()).upstream("legacy", json!({})).start();
    peers::wait_for_status(web.upstream("legacy"), "/refuse", 403);
    let client = python::start("websocket_peer", &["client", &web.upstream("legacy").to_string()]);
    let (_, said) = client.finish(2 * SOON);
    // It tells its app nothing of the caller: `told` is the one that must fail.
    assert!(said.contains("ok pushed"), "{said}");
    comes_to_rest(&web);
}
