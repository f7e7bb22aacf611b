//! Other people's proxies that hold Consul's leaf certificates: Consul's built-in one, and Envoy.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::certs::Leaf;
use super::client::Ask;
use super::consul::consul_binary;
use super::{Agent, Process, SOON, eventually, fixed_port};

/// `consul connect proxy`.
pub struct BuiltIn {
    pub process: Process,
    pub listen: SocketAddr,
}

impl BuiltIn {
    /// Guards `app` as `service`, registered.
    pub fn before(agent: Agent, service: &str, app: SocketAddr) -> Self {
        let listen = local(fixed_port());
        agent.register(&json!({ "ID": service, "Name": service, "Address": "127.0.0.1", "Port": app.port() }));
        let arguments = [
            format!("-service={service}"),
            format!("-service-addr={app}"),
            format!("-listen={listen}"),
            "-register".into(),
        ];
        Self::start(agent, &arguments, listen)
    }

    /// Gives `service` a local port to reach `upstream`.
    pub fn toward(agent: Agent, service: &str, upstream: &str) -> Self {
        let listen = local(fixed_port());
        let arguments = [format!("-service={service}"), format!("-upstream={upstream}:{listen}")];
        Self::start(agent, &arguments, listen)
    }

    fn start(agent: Agent, arguments: &[String], listen: SocketAddr) -> Self {
        let mut command = Command::new(consul_binary());
        command.args(["connect", "proxy", "-log-level=warn"]).args(arguments);
        command.env("CONSUL_HTTP_ADDR", agent.address.to_string());
        Self { process: Process::start("consul connect proxy", command), listen }
    }
}

/// Consul's leaf of a service and all its roots, as files.
pub fn consul_leaf(agent: Agent, service: &str, folder: &Path) -> Leaf {
    let leaf = agent.get(&format!("/v1/agent/connect/ca/leaf/{service}")).json();
    let roots = agent.get("/v1/agent/connect/ca/roots").json();
    let roots: String =
        roots["Roots"].as_array().unwrap().iter().filter_map(|root| root["RootCert"].as_str()).collect();
    Leaf::write(folder, leaf["CertPEM"].as_str().unwrap(), leaf["PrivateKeyPEM"].as_str().unwrap(), &roots)
}

/// An Envoy with one listener and one cluster.
pub struct Envoy {
    pub process: Process,
    pub listen: SocketAddr,
    _folder: TempDir,
}

impl Envoy {
    /// mTLS toward the mesh with Consul's leaf of `service`, plain to `app`.
    pub fn before(agent: Agent, service: &str, app: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let leaf = consul_leaf(agent, service, folder.path());
        let tls = json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": common_tls(&leaf, &["h2", "http/1.1"], None) } });
        Self::start(folder, Some(tls), None, false, app)
    }

    /// Plain for its clients, mTLS as `service` to `inbound`, which has to be `wanted` (a SPIFFE id).
    pub fn toward(agent: Agent, service: &str, inbound: SocketAddr, wanted: &str, h2: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let leaf = consul_leaf(agent, service, folder.path());
        let alpn: &[&str] = if h2 { &["h2"] } else { &["http/1.1"] };
        let tls = json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": common_tls(&leaf, alpn, Some(wanted)) } });
        Self::start(folder, None, Some(tls), h2, inbound)
    }

    fn start(folder: TempDir, listener: Option<Value>, cluster: Option<Value>, h2: bool, upstream: SocketAddr) -> Self {
        let listen = local(fixed_port());
        let mut config = static_config(listen, upstream, h2);
        if let Some(tls) = listener {
            config["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] = tls;
        }
        if let Some(tls) = cluster {
            config["static_resources"]["clusters"][0]["transport_socket"] = tls;
        }
        let path = folder.path().join("envoy.json");
        fs::write(&path, config.to_string()).unwrap();
        let mut command = Command::new(envoy_binary());
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c"]).arg(&path);
        let process = Process::start("envoy", command);
        eventually(SOON, "Envoy listens", || std::net::TcpStream::connect(listen).ok());
        Self { process, listen, _folder: folder }
    }
}

fn static_config(listen: SocketAddr, upstream: SocketAddr, h2: bool) -> Value {
    let protocol = if h2 { "http2_protocol_options" } else { "http_protocol_options" };
    let mut explicit = json!({});
    explicit[protocol] = json!({});
    json!({ "static_resources": {
        "listeners": [{ "name": "in", "address": socket(listen), "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "in",
                "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "up" } }] }] },
                "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }] } }] }] }],
        "clusters": [{ "name": "up", "type": "STATIC", "connect_timeout": "2s",
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": explicit } },
            "load_assignment": { "cluster_name": "up", "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": socket(upstream) } }] }] } }] } })
}

fn common_tls(leaf: &Leaf, alpn: &[&str], wanted: Option<&str>) -> Value {
    let mut validation = json!({ "trusted_ca": { "filename": leaf.roots } });
    if let Some(id) = wanted {
        validation["match_typed_subject_alt_names"] = json!([{ "san_type": "URI", "matcher": { "exact": id } }]);
    }
    json!({ "alpn_protocols": alpn, "validation_context": validation, "tls_certificates": [{
        "certificate_chain": { "filename": leaf.cert }, "private_key": { "filename": leaf.key } }] })
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn envoy_binary() -> PathBuf {
    let path = std::env::var_os("TEST_ENVOY")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-venv/envoy-1.40.0"), PathBuf::from);
    assert!(path.exists(), "no Envoy at {}: run tests/run once, it installs it", path.display());
    path
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Waits until `GET path` through `address` is answered by that app; peers need a moment for their first certificate.
#[track_caller]
pub fn wait_for_app(address: SocketAddr, path: &str, app: &str) {
    eventually(SOON, &format!("{app} answers at {address}"), || {
        let answer = Ask::get(path).host("peer").try_send(address).ok()?;
        (answer.status == 200 && answer.app() == app).then_some(())
    });
}

/// Waits until `GET path` through `address` is answered by that status.
#[track_caller]
pub fn wait_for_status(address: SocketAddr, path: &str, status: u16) {
    eventually(SOON, &format!("{path} is answered {status} at {address}"), || {
        (Ask::get(path).host("peer").try_send(address).ok()?.status == status).then_some(())
    });
}
