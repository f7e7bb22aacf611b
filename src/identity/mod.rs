//! Who we are: one snapshot with our certificate, the roots that we trust, and the TLS settings made from both. Knows
//! nothing of connections.

pub mod ca;
mod certificate;
mod consul;
mod describe;
mod files;
mod rotate;
#[cfg(test)]
pub(crate) mod testing;
mod verify;

pub use describe::describe;
pub use rotate::keep;
pub use verify::{PeerError, check_peer, classify, is_wrong_peer, peer_of};

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use webpki::KeyUsage;

use crate::names::SpiffeId;
use crate::published::Published;
use verify::Verifier;

/// Where leaf, key and roots come from: the file's `identity` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Consul's own CA, by blocking queries.
    Consul,
    /// PEM files, watched.
    Files { cert: PathBuf, key: PathBuf, roots: PathBuf },
    /// A development CA made by `outrigger ca init`: this sidecar signs its own leaf.
    Ca { dir: PathBuf },
}

/// What a source hands out.
pub struct Material {
    /// The leaf, then any intermediates; all are sent.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// Trust anchors, and nothing else.
    pub roots: Vec<CertificateDer<'static>>,
    /// The only one whose peers are accepted.
    pub trust_domain: String,
}

impl Clone for Material {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            roots: self.roots.clone(),
            trust_domain: self.trust_domain.clone(),
        }
    }
}

/// One issued identity. Immutable: rotation publishes the next one, and running connections keep what they began with.
pub struct Identity {
    pub id: SpiffeId,
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Earliest end of the roots that we trust.
    pub roots_not_after: SystemTime,
    /// Inbound: demands and verifies a client certificate of our trust domain; ALPN `h2`, `http/1.1`; no resumption.
    /// What ALPN chose is no proof of what follows: Consul's built-in proxy offers `h2` for raw TCP, too.
    pub server: Arc<ServerConfig>,
    /// Outbound, by what is offered in ALPN. Chain and server EKU are verified; the URI is compared by `check_peer`.
    pub client: ClientConfigs,
}

/// The same identity with each ALPN offer that a dial may need. No SNI is sent, so any `ServerName` will do.
pub struct ClientConfigs {
    /// `h2`, then `http/1.1`: between sidecars of ours.
    pub any: Arc<ClientConfig>,
    pub h2: Arc<ClientConfig>,
    pub http1: Arc<ClientConfig>,
    /// Nothing: what follows is no HTTP.
    pub bare: Arc<ClientConfig>,
}

/// `None` until the first identity is issued.
pub type Current = Published<Option<Arc<Identity>>>;

/// Why leaf, key and roots make no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("there is no leaf certificate")]
    NoLeaf,
    #[error("there is no root certificate")]
    NoRoots,
    #[error("the leaf: {0}")]
    Leaf(PeerError),
    #[error("a root: {0}")]
    Root(String),
    #[error("the key is not the certificate's")]
    OtherKey,
    #[error("the key cannot be used: {0}")]
    Key(String),
    #[error("the leaf is of trust domain {leaf}, the roots are of {roots}")]
    TrustDomains { leaf: String, roots: String },
    #[error("the leaf is not signed by any of the roots: {0}")]
    NotOfRoots(String),
}

impl Identity {
    /// # Errors
    /// When the parts do not belong together. Validity and chain are judged by `rotate`, not here.
    pub fn new(material: &Material) -> Result<Self, IdentityError> {
        let leaf = material.chain.first().ok_or(IdentityError::NoLeaf)?;
        let facts = certificate::facts(leaf).map_err(IdentityError::Leaf)?;
        let id = certificate::spiffe_id(leaf).map_err(IdentityError::Leaf)?;
        if id.trust_domain() != material.trust_domain {
            return Err(IdentityError::TrustDomains {
                leaf: id.trust_domain().into(),
                roots: material.trust_domain.clone(),
            });
        }
        let (_, roots_not_after) = anchors(&material.roots)?;
        let verifier = Arc::new(verifier(id.clone(), &material.roots)?);
        Ok(Self {
            server: Arc::new(server_config(material, verifier.clone())?),
            client: ClientConfigs::new(&client_config(material, verifier)?),
            serial: facts.serial,
            not_before: facts.not_before,
            not_after: facts.not_after,
            roots_not_after,
            id,
        })
    }
}

impl ClientConfigs {
    fn new(plain: &ClientConfig) -> Self {
        let offering = |protocols: &[&str]| {
            let mut config = plain.clone();
            config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            Arc::new(config)
        };
        Self {
            any: offering(&["h2", "http/1.1"]),
            h2: offering(&["h2"]),
            http1: offering(&["http/1.1"]),
            bare: offering(&[]),
        }
    }
}

/// Whether `chain`, our own, leads to `roots` for both purposes. A leaf of the near future is judged at its beginning:
/// our clock may be behind its issuer's.
fn check_chain(
    identity: &Identity,
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
) -> Result<(), IdentityError> {
    let verifier = verifier(identity.id.clone(), roots)?;
    let (leaf, intermediates) = chain.split_first().ok_or(IdentityError::NoLeaf)?;
    let at = identity.not_before.max(SystemTime::now()).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        verifier
            .chain(leaf, intermediates, UnixTime::since_unix_epoch(at), usage)
            .map_err(|error| IdentityError::NotOfRoots(error.to_string()))?;
    }
    Ok(())
}

fn verifier(id: SpiffeId, roots: &[CertificateDer<'static>]) -> Result<Verifier, IdentityError> {
    let path_lens = roots.iter().map(certificate::path_len).collect::<Result<_, _>>();
    let path_lens = path_lens.map_err(|error| IdentityError::Root(error.to_string()))?;
    let (roots, _) = anchors(roots)?;
    let verifier = Verifier::new(id, Arc::new(roots), PROVIDER.signature_verification_algorithms);
    Ok(verifier.with_path_lens(path_lens))
}

fn anchors(roots: &[CertificateDer<'static>]) -> Result<(RootCertStore, SystemTime), IdentityError> {
    let mut store = RootCertStore::empty();
    let mut ends = Vec::with_capacity(roots.len());
    for root in roots {
        ends.push(certificate::facts(root).map_err(|error| IdentityError::Root(error.to_string()))?.not_after);
        store.add(root.clone()).map_err(|error| IdentityError::Root(error.to_string()))?;
    }
    let first_end = ends.into_iter().min().ok_or(IdentityError::NoRoots)?;
    Ok((store, first_end))
}

fn server_config(material: &Material, verifier: Arc<Verifier>) -> Result<ServerConfig, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| key_error(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(material.chain.clone(), material.key.clone_key())
        .map_err(|error| key_error(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session skips the look at the client's certificate, and with it what changed since: CVE-2022-21654,
    // CVE-2025-23419.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

fn client_config(material: &Material, verifier: Arc<Verifier>) -> Result<ClientConfig, IdentityError> {
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| key_error(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(material.chain.clone(), material.key.clone_key())
        .map_err(|error| key_error(&error))?;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // Leaves carry no DNS name, and Consul's built-in proxy sends none either.
    config.enable_sni = false;
    Ok(config)
}

fn key_error(error: &rustls::Error) -> IdentityError {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => IdentityError::OtherKey,
        rustls::Error::InvalidCertificate(CertificateError::BadEncoding) => {
            IdentityError::Leaf(PeerError::Malformed { cause: error.to_string() })
        }
        other => IdentityError::Key(other.to_string()),
    }
}

/// The only cryptography of the mesh. `prefer-post-quantum` puts X25519MLKEM768 first; a test watches it.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
