//! What the three programs share: their flags, and TLS that does the same work in all of them.

pub mod late;

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, NamedGroup, RootCertStore, ServerConfig};

/// `--name value`; a name without a value is a switch.
pub struct Flags(HashMap<String, String>);

impl Flags {
    pub fn of_process() -> Self {
        let mut flags = HashMap::new();
        let mut words = std::env::args().skip(1).peekable();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").unwrap_or_else(|| panic!("{word}: flags begin with --")).to_owned();
            let value = words.next_if(|next| !next.starts_with("--")).unwrap_or_default();
            flags.insert(name, value);
        }
        Self(flags)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value, or `default` where the flag is absent.
    pub fn or<T: FromStr>(&self, name: &str, default: T) -> T {
        self.text(name).map_or(default, |value| parsed(name, value))
    }

    pub fn required<T: FromStr>(&self, name: &str) -> T {
        parsed(name, self.text(name).unwrap_or_else(|| panic!("--{name} is missing")))
    }
}

fn parsed<T: FromStr>(name: &str, value: &str) -> T {
    value.parse().unwrap_or_else(|_| panic!("--{name}: {value} is not understood"))
}

/// The name that the inbound side's certificate bears.
pub fn inbound_name() -> ServerName<'static> {
    ServerName::try_from("inbound.mesh").expect("a DNS name")
}

/// X25519 and TLS_AES_128_GCM_SHA256 alone: what every contender is held to.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    Arc::new(provider)
}

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    found.map(|certificate| certificate.expect("a certificate")).collect()
}

fn key(path: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn roots(folder: &Path) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    for root in chain(&folder.join("ca.pem")) {
        store.add(root).expect("a root");
    }
    Arc::new(store)
}

/// As `server`, with a client certificate demanded and no resumption. `folder` holds ca.pem, server.pem and server.key.
pub fn server(folder: &Path) -> Arc<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(folder), provider()).build().expect("a verifier");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(&folder.join("server.pem")), key(&folder.join("server.key")))
        .expect("the server's certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// As `client`, offering that protocol alone. `folder` holds ca.pem, client.pem and client.key.
pub fn client(folder: &Path, protocol: &str) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots(folder))
        .with_client_auth_cert(chain(&folder.join("client.pem")), key(&folder.join("client.key")))
        .expect("the client's certificate");
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}
