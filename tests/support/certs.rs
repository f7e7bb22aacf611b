//! A certificate authority of the test's own, so that a leaf can be wrong in just one way; and OpenSSL as a peer.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

/// A root and what it signs; its folder lives as long as any clone.
#[derive(Clone)]
pub struct Authority {
    trust_domain: String,
    root: String,
    issuer: Arc<Issuer<'static, KeyPair>>,
    folder: Arc<TempDir>,
}

/// Files of one issued certificate.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub roots: PathBuf,
}

impl Authority {
    pub fn new(trust_domain: &str) -> Self {
        Self::odd(trust_domain, |_| {})
    }

    /// An authority, but for what `change` does to its root.
    pub fn odd(trust_domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("root of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
        params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(30);
        change(&mut params);
        let root = params.self_signed(&key).unwrap().pem();
        Self {
            trust_domain: trust_domain.to_owned(),
            root,
            issuer: Arc::new(Issuer::new(params, key)),
            folder: Arc::new(tempfile::tempdir().unwrap()),
        }
    }

    pub fn root(&self) -> &str {
        &self.root
    }

    /// A good leaf for that service.
    pub fn leaf(&self, service: &str) -> Leaf {
        self.issue(&self.id(service), OffsetDateTime::now_utc() + Duration::hours(1))
    }

    /// A leaf with that URI, whatever it says.
    pub fn leaf_of(&self, uri: &str) -> Leaf {
        self.issue(uri, OffsetDateTime::now_utc() + Duration::hours(1))
    }

    pub fn expired_leaf(&self, service: &str) -> Leaf {
        self.issue(&self.id(service), OffsetDateTime::now_utc() - Duration::minutes(5))
    }

    /// The SPIFFE id that this authority writes for a service.
    pub fn id(&self, service: &str) -> String {
        format!("spiffe://{}/ns/default/dc/dc1/svc/{service}", self.trust_domain)
    }

    fn issue(&self, uri: &str, not_after: OffsetDateTime) -> Leaf {
        let (params, key) = (leaf_params(uri, not_after), KeyPair::generate().unwrap());
        self.sign(&params, &key)
    }

    /// A good leaf for that service, but for what `change` does to it.
    pub fn odd_leaf(&self, service: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = leaf_params(&self.id(service), OffsetDateTime::now_utc() + Duration::hours(1));
        change(&mut params);
        self.sign(&params, &KeyPair::generate().unwrap())
    }

    /// A leaf of that service which another, good leaf has signed as if it were an authority; both are sent.
    pub fn leaf_signed_by_a_leaf(&self, service: &str) -> Leaf {
        let not_after = OffsetDateTime::now_utc() + Duration::hours(1);
        let (false_issuer, its_key) = (leaf_params(&self.id("other"), not_after), KeyPair::generate().unwrap());
        let middle = false_issuer.signed_by(&its_key, &self.issuer).unwrap().pem();
        self.below(service, &middle, Issuer::new(false_issuer, its_key))
    }

    /// A leaf of that service behind an intermediate authority, which our root (`pathlen:0`) may not have; both are sent.
    pub fn leaf_behind_an_intermediate(&self, service: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "an intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        let middle = params.signed_by(&key, &self.issuer).unwrap().pem();
        self.below(service, &middle, Issuer::new(params, key))
    }

    fn below(&self, service: &str, middle: &str, issuer: Issuer<'static, KeyPair>) -> Leaf {
        let params = leaf_params(&self.id(service), OffsetDateTime::now_utc() + Duration::hours(1));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap().pem();
        self.write(&(cert + middle), &key)
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Leaf {
        self.write(&params.signed_by(key, &self.issuer).unwrap().pem(), key)
    }

    fn write(&self, cert: &str, key: &KeyPair) -> Leaf {
        let folder = self.folder.path().join(format!("{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        Leaf::write(&folder, cert, &key.serialize_pem(), &self.root)
    }
}

fn leaf_params(uri: &str, not_after: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "a leaf of the tests");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = OffsetDateTime::now_utc().min(not_after) - Duration::minutes(1);
    params.not_after = not_after;
    params.use_authority_key_identifier_extension = true;
    params
}

impl Leaf {
    pub fn write(folder: &Path, cert: &str, key: &str, roots: &str) -> Self {
        let leaf = Self { cert: folder.join("tls.crt"), key: folder.join("tls.key"), roots: folder.join("ca.crt") };
        std::fs::write(&leaf.cert, cert).unwrap();
        std::fs::write(&leaf.key, key).unwrap();
        std::fs::write(&leaf.roots, roots).unwrap();
        leaf
    }

    /// The config's `identity` section.
    pub fn identity(&self) -> Value {
        json!({ "files": { "cert": self.cert, "key": self.key, "roots": self.roots } })
    }
}

/// One `GET /` by `openssl s_client`: everything that it printed.
pub fn openssl_get(to: SocketAddr, as_client: Option<&Leaf>, extra: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["10", "openssl", "s_client", "-connect", &to.to_string(), "-ign_eof"]).args(extra);
    if let Some(leaf) = as_client {
        command.arg("-cert").arg(&leaf.cert).arg("-key").arg(&leaf.key).arg("-CAfile").arg(&leaf.roots);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl is installed; tests/run installs it");
    let asked = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    // A refused handshake closes the pipe; what was printed then tells more than this error.
    let _ = child.stdin.take().unwrap().write_all(asked);
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
