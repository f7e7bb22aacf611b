//! Tests of `consul`: its state by hand, and all of it against a real agent in dev mode.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::consul::Settings;
use crate::identity::testing::{Authority, TRUST_DOMAIN};
use crate::identity::{Current, Identity, Source, check_peer, keep, peer_of};
use crate::lifecycle::Lifecycle;
use crate::names::ServiceName;
use crate::telemetry::Metrics;

fn web() -> ServiceName {
    ServiceName::parse("web").unwrap()
}

fn state(snapshot: Option<Snapshot>) -> (State, Arc<Current>) {
    let current = Arc::<Current>::default();
    let keeper = Keeper::new(web(), current.clone(), Metrics::new());
    (State { keeper, snapshot, roots: None, leaf: None, trouble: Trouble::new("test") }, current)
}

fn roots(all: &[&Authority]) -> Roots {
    Roots { trust_domain: TRUST_DOMAIN.into(), anchors: all.iter().map(|root| root.der.clone()).collect() }
}

fn leaf(root: &Authority) -> Leaf {
    let leaf = root.leaf("web", |_| ());
    Leaf { key: leaf.key(), chain: leaf.chain }
}

fn serial(current: &Current) -> Option<String> {
    current.snapshot().as_ref().as_ref().map(|identity| identity.serial.clone())
}

#[test]
fn leaf_and_roots_are_installed_in_whichever_order_they_come() {
    let root = Authority::root("root");
    for roots_first in [true, false] {
        let (mut state, current) = state(None);
        if roots_first {
            state.learn_roots(roots(&[&root]));
        }
        state.learn_leaf(leaf(&root));
        assert_eq!(serial(&current).is_some(), roots_first);
        state.learn_roots(roots(&[&root]));
        assert!(serial(&current).is_some());
    }
}

#[test]
fn a_leaf_that_outruns_its_root_waits_for_it() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let (mut state, current) = state(None);
    state.learn_roots(roots(&[&old]));
    state.learn_leaf(leaf(&old));
    let first = serial(&current);
    state.learn_leaf(leaf(&new));
    assert_eq!(serial(&current), first, "the old leaf serves until the new root is known");
    state.learn_roots(roots(&[&new, &old]));
    assert_ne!(serial(&current), first);
}

#[test]
fn the_saved_identity_serves_a_start_without_consul_unless_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = || Some(Snapshot::new(dir.path()));
    let root = Authority::root("root");
    let (mut first, current) = state(snapshot());
    first.learn_roots(roots(&[&root]));
    first.learn_leaf(leaf(&root));

    let (mut second, restored) = state(snapshot());
    second.restore();
    assert_eq!(serial(&restored), serial(&current));
    second.learn_leaf(leaf(&root));
    assert_ne!(serial(&restored), serial(&current), "Consul's next answer replaces it");
    second.restore();
    assert_ne!(serial(&restored), serial(&current), "what is installed stays");

    let ended = root.leaf("web", |p| crate::identity::testing::valid(p, -7200, -1)).material(&[&root]);
    Snapshot::new(dir.path()).save("identity/web", &Saved::from(&ended)).unwrap();
    let (mut third, none) = state(snapshot());
    third.restore();
    assert_eq!(serial(&none), None);
}

#[test]
fn only_an_outage_brings_the_saved_identity_back() {
    let status = |status| ConsulError::Status { status, path: String::new(), text: String::new() };
    assert!(is_outage(&status(500)) && is_outage(&status(429)));
    assert!(is_outage(&ConsulError::Unreachable { address: String::new(), cause: String::new() }));
    assert!(!is_outage(&status(403)) && !is_outage(&status(404)));
}

#[test]
fn answers_with_nothing_in_them_are_no_identity() {
    for text in [
        r#"{"TrustDomain":"t","Roots":null}"#,
        r#"{"Roots":[]}"#,
        "{}",
        r#"{"TrustDomain":"t","Roots":[{"RootCert":"x"}]}"#,
    ] {
        assert!(serde_json::from_str::<RootsAnswer>(text).unwrap().roots().is_err(), "{text}");
    }
    let leaf: LeafAnswer = serde_json::from_str(r#"{"CertPEM":"","PrivateKeyPEM":""}"#).unwrap();
    assert!(leaf.leaf().is_err());
}

/// A real agent in memory; ends with the value.
struct Consul {
    ports: [u16; 3],
    process: Child,
}

impl Consul {
    async fn start() -> Self {
        // A free port may be taken by another test before the agent has it.
        for _ in 0..5 {
            let ports = [free_port(), free_port(), free_port()];
            let mut consul = Self { ports, process: launch(ports) };
            if consul.leads().await {
                return consul;
            }
        }
        panic!("no Consul came up in five tries");
    }

    async fn restart(&mut self) {
        self.stop();
        self.process = launch(self.ports);
        assert!(self.leads().await, "Consul is back on its ports");
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    async fn leads(&mut self) -> bool {
        let client = self.client();
        for _ in 0..200 {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            match client.get::<String>(Api::AgentServices, "/v1/status/leader", &[]).await {
                Ok(answer) if !answer.value.is_empty() => return true,
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        false
    }

    fn client(&self) -> Client {
        let address = format!("http://127.0.0.1:{}", self.ports[0]);
        let wait = Duration::from_secs(20);
        Client::new(Settings { address, wait, ..Settings::default() }, Metrics::new()).unwrap()
    }

    async fn rotate_root(&self) {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let sec1: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().unwrap();
        let text = BASE64.encode(sec1.as_ref());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let pem = format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", lines.join("\n"));
        let body = json!({"Provider": "consul", "Config": {"LeafCertTTL": "72h", "PrivateKey": pem}});
        let path = "/v1/connect/ca/configuration";
        self.client().put(Api::AgentServices, path, &[], Some(&body), Duration::from_secs(10)).await.unwrap();
    }

    fn identity(&self, service: &str, snapshot: Option<Snapshot>, tasks: &Lifecycle) -> Arc<Current> {
        let (current, service) = (Arc::<Current>::default(), ServiceName::parse(service).unwrap());
        let kept = keep(Source::Consul, service, Some(self.client()), snapshot, current.clone(), Metrics::new());
        tasks.spawn("identity", kept);
        current
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.stop();
    }
}

/// As the integration tests find it.
fn binary() -> String {
    std::env::var("TEST_CONSUL").unwrap_or_else(|_| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/get-consul");
        let said = Command::new(script).output().expect("tests/support/get-consul can be run, or TEST_CONSUL is set");
        String::from_utf8_lossy(&said.stdout).lines().last().unwrap_or_default().to_owned()
    })
}

fn launch([http, serf, server]: [u16; 3]) -> Child {
    Command::new(binary())
        .args(["agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=err"])
        .args(["-dns-port=-1", "-grpc-port=-1", "-serf-wan-port=-1", "-disable-host-node-id"])
        .args([format!("-node=t{http}"), format!("-http-port={http}")])
        .args([format!("-serf-lan-port={serf}"), format!("-server-port={server}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Consul starts")
}

/// Free for TCP and for UDP, which serf wants too.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

async fn until(current: &Current, limit: u64, wanted: impl Fn(&Identity) -> bool) -> Arc<Identity> {
    let mut versions = current.versions();
    let found = timeout(Duration::from_secs(limit), async {
        loop {
            if let Some(identity) = current.snapshot().as_ref().as_ref().filter(|identity| wanted(identity)) {
                return identity.clone();
            }
            versions.changed().await.unwrap();
        }
    });
    found.await.expect("the identity comes in time")
}

async fn handshake(client: &Current, server: &Current, wanted: &str) {
    let of = |current: &Current| current.snapshot().as_ref().clone().unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connect = TlsConnector::from(of(client).client.any.clone()).connect(ServerName::try_from("x").unwrap(), near);
    let acceptor = TlsAcceptor::from(of(server).server.clone());
    let (dialled, accepted) = tokio::join!(connect, acceptor.accept(far));
    accepted.unwrap();
    let dialled = dialled.unwrap();
    let certs = dialled.get_ref().1.peer_certificates().unwrap_or_default();
    check_peer(certs, &ServiceName::parse(wanted).unwrap()).unwrap();
}

#[tokio::test]
async fn a_rotated_root_fails_no_handshake_while_old_and_new_leaves_meet() {
    let (consul, tasks) = (Consul::start().await, Lifecycle::new());
    let (web, db) = (consul.identity("web", None, &tasks), consul.identity("db", None, &tasks));
    let old = until(&web, 10, |_| true).await;
    until(&db, 10, |_| true).await;
    consul.rotate_root().await;
    // Consul hands new leaves out within 30 s, to each at a moment of its own: all mixtures are met on the way.
    let changed = timeout(Duration::from_mins(1), async {
        let serial = |current: &Current| serial(current).unwrap();
        let before = (serial(&web), serial(&db));
        while serial(&web) == before.0 || serial(&db) == before.1 {
            handshake(&web, &db, "db").await;
            handshake(&db, &web, "web").await;
            sleep(Duration::from_millis(20)).await;
        }
        handshake(&web, &db, "db").await;
        handshake(&db, &web, "web").await;
    });
    changed.await.expect("both leaves are renewed");
    assert_eq!(until(&web, 1, |_| true).await.id, old.id);
}

#[tokio::test]
async fn a_restart_during_an_outage_works_from_the_snapshot_and_a_new_cluster_replaces_it() {
    let (mut consul, dir) = (Consul::start().await, tempfile::tempdir().unwrap());
    let snapshot = || Some(Snapshot::new(dir.path()));
    let tasks = Lifecycle::new();
    let before = until(&consul.identity("web", snapshot(), &tasks), 10, |_| true).await;
    tasks.stop(Duration::ZERO).await;
    consul.stop();

    let tasks = Lifecycle::new();
    let current = consul.identity("web", snapshot(), &tasks);
    assert_eq!(until(&current, 10, |_| true).await.serial, before.serial);
    // A dev agent forgets everything: the cluster that comes back has another CA and another trust domain.
    consul.restart().await;
    let after = until(&current, 60, |identity| identity.id != before.id).await;
    assert_ne!(after.id.trust_domain(), before.id.trust_domain());
    assert_eq!(after.id.service(), &web());
}

#[tokio::test]
async fn consuls_leaf_has_the_form_that_we_demand() {
    let (consul, tasks) = (Consul::start().await, Lifecycle::new());
    let current = consul.identity("web", None, &tasks);
    let identity = until(&current, 10, |_| true).await;
    let roots: Value = consul.client().get(Api::CaRoots, "/v1/agent/connect/ca/roots", &[]).await.unwrap().value;
    assert_eq!(Some(identity.id.trust_domain()), roots["TrustDomain"].as_str());
    assert_eq!(identity.not_after.duration_since(identity.not_before).unwrap().as_secs(), 72 * 3600);
}

/// `consul connect proxy`, Consul's built-in sidecar.
struct BuiltIn(Child);

impl BuiltIn {
    fn start(consul: &Consul, arguments: &[String]) -> Self {
        let child = Command::new(binary())
            .args(["connect", "proxy", "-log-level=err", &format!("-http-addr=127.0.0.1:{}", consul.ports[0])])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("Consul's proxy starts"))
    }
}

impl Drop for BuiltIn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends back what it reads, once.
async fn echo(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut said = [0; 5];
    if io.read_exact(&mut said).await.is_ok() {
        let _ = io.write_all(&said).await;
        let _ = io.shutdown().await;
    }
}

async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    io.write_all(b"hello").await?;
    let mut said = [0; 5];
    io.read_exact(&mut said).await?;
    assert_eq!(&said, b"hello");
    Ok(())
}

#[tokio::test]
async fn consuls_built_in_proxy_takes_us_as_a_client() {
    let (consul, tasks) = (Consul::start().await, Lifecycle::new());
    let web = until(&consul.identity("web", None, &tasks), 10, |_| true).await;
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (app_address, port) = (app.local_addr().unwrap(), free_port());
    tasks.spawn("app", async move {
        while let Ok((stream, _)) = app.accept().await {
            echo(stream).await;
        }
    });
    let options = ["-service=db".into(), format!("-service-addr={app_address}"), format!("-listen=127.0.0.1:{port}")];
    let _proxy = BuiltIn::start(&consul, &options);
    let dial = async |config: &Arc<rustls::ClientConfig>| {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let stream = TlsConnector::from(config.clone()).connect(ServerName::try_from("x").unwrap(), stream).await?;
        let certs = stream.get_ref().1.peer_certificates().unwrap_or_default();
        check_peer(certs, &ServiceName::parse("db").unwrap()).unwrap();
        ask(stream).await
    };
    let up = timeout(Duration::from_secs(20), async {
        while dial(&web.client.any).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    up.await.expect("Consul's proxy answers");
    for config in [&web.client.h2, &web.client.http1] {
        dial(config).await.unwrap();
    }
}

#[tokio::test]
async fn consuls_built_in_proxy_finds_and_takes_us_as_a_server() {
    let (consul, tasks) = (Consul::start().await, Lifecycle::new());
    let web = until(&consul.identity("web", None, &tasks), 10, |_| true).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(web.server.clone());
    tasks.spawn("web", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let caller = peer_of(stream.get_ref().1.peer_certificates().unwrap_or_default()).unwrap();
            assert_eq!(caller.service().as_str(), "db");
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "which is no proof of HTTP/2");
            echo(stream).await;
        }
    });
    let body = json!({"Name": "web-sidecar-proxy", "Kind": "connect-proxy", "Address": "127.0.0.1", "Port": ours,
        "Proxy": {"DestinationServiceName": "web"}});
    let path = "/v1/agent/service/register";
    consul.client().put(Api::Register, path, &[], Some(&body), Duration::from_secs(5)).await.unwrap();
    let port = free_port();
    let _proxy = BuiltIn::start(&consul, &["-service=db".into(), format!("-upstream=web:{port}")]);
    let reached = timeout(Duration::from_secs(20), async {
        loop {
            if let Ok(stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await
                && ask(stream).await.is_ok()
            {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    reached.await.expect("Consul's proxy reaches us");
}
