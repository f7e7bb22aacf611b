//! gRPC with a real client and a real server (PyPI `grpcio`): every kind of call, errors, deadlines.

use serde_json::json;

use crate::support::certs::Authority;
use crate::support::pair::sidecar;
use crate::support::{Embedded, SOON, eventually, fixed_port, python};

const SCENARIOS: [&str; 11] = [
    "unary",
    "empty",
    "large",
    "server_stream",
    "client_stream",
    "bidi",
    "trailers_only",
    "fails_late",
    "unknown",
    "deadline",
    "cancelled",
];

#[test]
fn every_kind_of_call_crosses_two_sidecars() {
    let (server, address) = python::server("grpc_peer");
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let echo = sidecar("echo", registry.agent(), &authority)
        .set("service.port", json!(address.port()))
        .set("service.protocol", json!("grpc"))
        .start();
    registry.agent().wait_for("echo", echo.id(), "passing");
    let web = sidecar("web", registry.agent(), &authority).upstream("echo", json!({ "protocol": "grpc" })).start();
    assert_eq!(python::client("grpc_peer", web.upstream("echo")), SCENARIOS);
    for sidecar in [&web, &echo] {
        eventually(SOON, "nothing is in flight", || {
            (sidecar.metric("outrigger_requests_in_flight", &[]) < 0.5).then_some(())
        });
    }
    let streamed = web.access().into_iter().find(|line| line["path"] == "/test.Echo/Bidi").expect("a line of Bidi");
    assert_eq!((&streamed["protocol"], &streamed["status"]), (&json!("HTTP/2"), &json!(200)), "{streamed}");
    drop(server);
    // What outrigger itself has to say comes as a status of gRPC.
    let (_, said) = python::start("grpc_peer", &["call", &web.upstream("echo").to_string(), "5"]).finish(SOON);
    assert!(said.starts_with("UNAVAILABLE ") && !said.contains("127.0.0.1"), "{said}");
}

#[test]
fn reasons_are_grpc_statuses() {
    let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
    let nobody = format!("127.0.0.1:{}", fixed_port());
    let web = sidecar("web", registry.agent(), &authority)
        .upstream("absent", json!({ "protocol": "grpc" }))
        .upstream("refusing", json!({ "protocol": "grpc", "mtls": "off", "endpoints": [nobody] }))
        .start();
    for (upstream, reason) in [("absent", "no_endpoint"), ("refusing", "connect_failed")] {
        let (_, said) = python::start("grpc_peer", &["call", &web.upstream(upstream).to_string(), "5"]).finish(SOON);
        assert!(said.starts_with("UNAVAILABLE "), "{upstream}: {said}");
        web.wait_for_metric("outrigger_requests_total", &[("service", upstream), ("reason", reason)], 1.0);
    }
}
