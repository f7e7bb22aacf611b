//! Tests of `consul`: its state by hand, and all of it against a real agent in dev mode.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::consul::Settings;
use crate::identity::testing::{Authority, TRUST_DOMAIN};
use crate::identity::{Current, Identity, Source, check_peer, keep};
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
            match client.get::<String>(Api::AgentSelf, "/v1/status/leader", &[]).await {
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
        self.client().put(Api::AgentSelf, path, &[], Some(&body), Duration::from_secs(10)).await.unwrap();
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

fn launch([http, serf, server]: [u16; 3]) -> Child {
    let binary = std::env::var("TEST_CONSUL").unwrap_or_else(|_| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/get-consul");
        let said = Command::new(script).output().expect("tests/support/get-consul can be run, or TEST_CONSUL is set");
        String::from_utf8_lossy(&said.stdout).lines().last().unwrap_or_default().to_owned()
    });
    Command::new(binary)
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
    let changed = timeout(Duration::from_secs(60), async {
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
