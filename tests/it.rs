//! Integration tests: real sidecars, a real Consul, scripted apps. One file a capability; `support` is what they stand
//! on. `tests/run` installs what they need and runs them all.
#![allow(clippy::unwrap_used, reason = "a test may")]
#![allow(clippy::disallowed_methods, reason = "the test process has no lifecycle to own its tasks")]

#[allow(clippy::needless_pass_by_value, reason = "`json!(…)` as an argument reads better than `&json!(…)`")]
#[expect(dead_code, reason = "a kit; not every test uses every tool")]
mod support;

#[path = "it/contract.rs"]
mod contract;
#[path = "it/crowds.rs"]
mod crowds;
#[path = "it/datapath.rs"]
mod datapath;
#[path = "it/demo.rs"]
mod demo;
#[path = "it/discovery.rs"]
mod discovery;
#[path = "it/faults.rs"]
mod faults;
#[path = "it/gate_keys.rs"]
mod gate_keys;
#[path = "it/gate_plugins.rs"]
mod gate_plugins;
#[path = "it/grpc.rs"]
mod grpc;
#[path = "it/headers.rs"]
mod headers;
#[path = "it/hostile_downgrade.rs"]
mod hostile_downgrade;
#[path = "it/hostile_http2.rs"]
mod hostile_http2;
#[path = "it/hostile_tls.rs"]
mod hostile_tls;
#[path = "it/hostile_answers.rs"]
mod hostile_answers;
#[path = "it/hostile_headers.rs"]
mod hostile_headers;
#[path = "it/hostile_http1.rs"]
mod hostile_http1;
#[path = "it/identity.rs"]
mod identity;
#[path = "it/intentions.rs"]
mod intentions;
#[path = "it/interop.rs"]
mod interop;
#[path = "it/jwt.rs"]
mod jwt;
#[path = "it/kit.rs"]
mod kit;
#[path = "it/limits.rs"]
mod limits;
#[path = "it/operation.rs"]
mod operation;
#[path = "it/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "it/rate_limits.rs"]
mod rate_limits;
#[path = "it/registration.rs"]
mod registration;
#[path = "it/reload.rs"]
mod reload;
#[path = "it/resilience.rs"]
mod resilience;
#[path = "it/rest.rs"]
mod rest;
#[path = "it/retries.rs"]
mod retries;
#[path = "it/subsets.rs"]
mod subsets;
#[path = "it/routes.rs"]
mod routes;
#[path = "it/tcp.rs"]
mod tcp;
#[path = "it/tunnels.rs"]
mod tunnels;
#[path = "it/websocket.rs"]
mod websocket;
