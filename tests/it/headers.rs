//! Headers at both hops: what is removed, what is set, and that a client cannot speak in our name.

use serde_json::{Value, json};

use crate::support::{Ask, Pair};

/// The headers that the app saw, by name; several of one name are joined.
fn seen(ask: &Ask, pair: &Pair) -> impl Fn(&str) -> String + use<> {
    let answer = ask.send(pair.web.outbound());
    assert_eq!(answer.status, 200, "{answer:?}");
    let headers = answer.json()["headers"].clone();
    move |name| {
        let pairs = headers.as_array().into_iter().flatten().filter(|pair| pair[0] == name);
        pairs.filter_map(|pair| pair[1].as_str()).collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn the_app_is_told_who_called_and_from_where() {
    let pair = Pair::start();
    let header = seen(&Ask::get("/echo").host("users.mesh"), &pair);
    assert!(header("x-forwarded-for").contains("127.0.0.1"));
    assert!(!header("x-forwarded-proto").is_empty());
    assert!(!header("x-forwarded-host").is_empty());
    let client = header("x-forwarded-client-cert");
    assert!(client.contains(&format!("URI={}", pair.authority.id("web"))), "{client}");
    assert!(client.contains(&format!("By={}", pair.authority.id("users"))), "{client}");
    let id = uuid::Uuid::parse_str(&header("x-request-id")).expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
    let trace = header("traceparent");
    assert!(trace.len() == 55 && trace.starts_with("00-"), "{trace}");
}

#[test]
fn a_client_cannot_speak_in_our_name() {
    let pair = Pair::start();
    let forged = Ask::get("/echo")
        .host("users")
        .header("X-Forwarded-Client-Cert", "URI=spiffe://mesh.test/ns/default/dc/dc1/svc/admin")
        .header("X-Forwarded-For", "203.0.113.9")
        .header("X-Forwarded-Proto", "https")
        .header("Connection", "x-forwarded-for, x-forwarded-client-cert, x-request-id, x-private")
        .header("X-Private", "1");
    let header = seen(&forged, &pair);
    assert!(!header("x-forwarded-client-cert").contains("svc/admin"));
    assert!(header("x-forwarded-client-cert").contains("svc/web"));
    assert!(!header("x-forwarded-for").contains("203.0.113.9"), "{}", header("x-forwarded-for"));
    assert!(!header("x-request-id").is_empty());
    assert_eq!(header("x-private"), "");
}

#[test]
fn a_sane_request_id_is_kept_and_another_is_replaced() {
    let pair = Pair::start();
    let kept = Ask::get("/echo").host("users").header("X-Request-Id", "order-17.a");
    assert_eq!(seen(&kept, &pair)("x-request-id"), "order-17.a");
    assert_eq!(pair.web.access_of("order-17.a")["status"], 200);
    assert_eq!(pair.users.access_of("order-17.a")["status"], 200);
    let odd = Ask::get("/echo").host("users").header("X-Request-Id", &"x".repeat(5000));
    assert!(seen(&odd, &pair)("x-request-id").len() < 200);
}

#[test]
fn a_trace_goes_on_and_a_broken_one_begins_anew() {
    let pair = Pair::start();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let ask = Ask::get("/echo").host("users").header("traceparent", &parent).header("tracestate", "a=1");
    let header = seen(&ask, &pair);
    assert!(header("traceparent").starts_with(&format!("00-{trace}-")), "{}", header("traceparent"));
    assert_eq!(header("tracestate"), "a=1");
    let broken = Ask::get("/echo").host("users").header("traceparent", "00-zz-1-1");
    assert!(!seen(&broken, &pair)("traceparent").contains("zz"));
}

#[test]
fn hop_by_hop_headers_end_here() {
    let pair = Pair::start();
    let ask = Ask::get("/echo")
        .host("users")
        .header("Connection", "keep-alive, x-hop")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Authorization", "Basic eDp5")
        .header("Proxy-Connection", "keep-alive")
        .header("X-Hop", "1")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__")
        .header("X-End", "1");
    let header = seen(&ask, &pair);
    for name in ["keep-alive", "proxy-authorization", "proxy-connection", "x-hop", "upgrade", "http2-settings"] {
        assert_eq!(header(name), "", "{name} reached the app");
    }
    assert_eq!(header("x-end"), "1");
    let answer = Ask::get("/hop").host("users").send(pair.web.outbound());
    assert!(!answer.has("x-secret") && !answer.has("keep-alive") && answer.has("x-kept"), "{answer:?}");
}

#[test]
fn the_app_sees_the_service_as_host_and_the_target_as_asked() {
    let pair = Pair::start();
    let answer = Ask::get("/echo?q=%2Fa%20b&x=").host("users.mesh").send(pair.web.outbound()).json();
    let target = answer["target"].as_str().unwrap_or_default();
    assert!(target.ends_with("/echo?q=%2Fa%20b&x="), "{target}");
    let hosts: Vec<&Value> = answer["headers"].as_array().unwrap().iter().filter(|pair| pair[0] == "host").collect();
    assert_eq!(hosts, [&json!(["host", "users"])]);
}
