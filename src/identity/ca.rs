//! A small certificate authority for development: `outrigger ca`, and `identity: ca`, where a sidecar signs its own leaf.
//! Whoever can read its key can be any service.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::certificate::{self, Facts};
use super::{IdentityError, Material};
use crate::names::{ServiceName, SpiffeError, SpiffeId};

/// What a CA is called unless `--trust-domain` says otherwise. `.local` names resolve nowhere beyond the machine's link.
pub const DEFAULT_TRUST_DOMAIN: &str = "outrigger.local";
/// How long a leaf lives unless `--ttl` says otherwise; also of those that a sidecar signs for itself.
pub const DEFAULT_TTL: Duration = Duration::from_hours(24);

/// A CA in a folder: `ca.crt` and `ca.key` (P-256, only its owner can read it).
pub struct Ca {
    certificate: CertificateDer<'static>,
    pem: String,
    not_after: SystemTime,
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A leaf and its key, as PEM (the key as PKCS #8).
pub struct Issued {
    pub cert: String,
    pub key: String,
    pub id: SpiffeId,
}

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{path}: {cause}", path = .path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("{path} is there already; a CA is never overwritten", path = .path.display())]
    Exists { path: PathBuf },
    #[error("{path} is no CA of `outrigger ca init`: {cause}", path = .path.display())]
    NotOurs { path: PathBuf, cause: String },
    #[error("trust domain {name:?}: {cause}")]
    TrustDomain { name: String, cause: SpiffeError },
    #[error("a leaf lives between {} and the CA's own end at {}", humantime::format_duration(MIN_TTL), humantime::format_rfc3339_seconds(*.ca_ends))]
    Ttl { ca_ends: SystemTime },
    #[error("signing: {0}")]
    Sign(#[from] rcgen::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Ca {
    /// Makes a CA in `dir`, which is made too if need be.
    ///
    /// # Errors
    /// When there is one already, whole or half; then nothing is touched.
    pub fn init(dir: &Path, trust_domain: &str) -> Result<Self, CaError> {
        let (cert_path, key_path) = (dir.join(CERT), dir.join(KEY));
        if let Some(path) = [&cert_path, &key_path].into_iter().find(|path| path.symlink_metadata().is_ok()) {
            return Err(CaError::Exists { path: path.clone() });
        }
        let uri = authority_uri(trust_domain)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(&uri, &format!("outrigger CA of {trust_domain}"), CA_TTL)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        fs::create_dir_all(dir).map_err(|cause| CaError::File { path: dir.into(), cause })?;
        create(&key_path, 0o600, &key.serialize_pem())?;
        create(&cert_path, 0o644, &certificate.pem())?;
        Self::open(dir)
    }

    /// # Errors
    /// When the folder holds no CA of `init`, or its key is another's.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let (cert_path, key_path) = (dir.join(CERT), dir.join(KEY));
        let pem = fs::read_to_string(&cert_path).map_err(|cause| CaError::File { path: cert_path.clone(), cause })?;
        let not_ours = |cause: String| CaError::NotOurs { path: cert_path.clone(), cause };
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| not_ours(error.to_string()))?;
        let parsed = certificate::parse(&certificate).map_err(|error| not_ours(error.to_string()))?;
        let trust_domain = match certificate::uris(&parsed).map_err(|error| not_ours(error.to_string()))?.as_slice() {
            [uri] => uri.strip_prefix("spiffe://").unwrap_or_default().to_owned(),
            _ => return Err(not_ours("its one URI name should be its trust domain".into())),
        };
        authority_uri(&trust_domain)?;
        let secret = fs::read_to_string(&key_path).map_err(|cause| CaError::File { path: key_path.clone(), cause })?;
        let key = KeyPair::from_pem(&secret)?;
        if parsed.public_key().subject_public_key.data != key.der_bytes() {
            return Err(not_ours(format!("{} is not its key", key_path.display())));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let Facts { not_after, .. } = certificate::facts(&certificate).map_err(|error| not_ours(error.to_string()))?;
        Ok(Self { certificate, pem, not_after, trust_domain, issuer })
    }

    /// The CA's certificate as PEM: what peers trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a leaf with a new P-256 key for `service`, good at both ends of a connection.
    ///
    /// # Errors
    /// When `ttl` is under a minute, or longer than the CA itself lives.
    pub fn issue(&self, service: &ServiceName, ttl: Duration) -> Result<Issued, CaError> {
        // Consul's open-source names; a development mesh has one datacenter.
        let id = SpiffeId::new(&self.trust_domain, "default", "dc1", service)
            .map_err(|cause| CaError::TrustDomain { name: self.trust_domain.clone(), cause })?;
        let not_after = SystemTime::now() + ttl.min(CA_TTL * 2);
        if ttl < MIN_TTL || not_after > self.not_after {
            return Err(CaError::Ttl { ca_ends: self.not_after });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(id.as_str(), service.as_str(), ttl)?;
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert: cert.pem(), key: key.serialize_pem(), id })
    }

    /// As `issue`, for use in memory.
    pub(super) fn material(&self, service: &ServiceName, ttl: Duration) -> Result<Material, CaError> {
        let issued = self.issue(service, ttl)?;
        let own = |error: rustls::pki_types::pem::Error| IdentityError::Key(error.to_string());
        Ok(Material {
            chain: vec![CertificateDer::from_pem_slice(issued.cert.as_bytes()).map_err(own)?],
            key: rustls::pki_types::PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).map_err(own)?,
            roots: vec![self.certificate.clone()],
            trust_domain: self.trust_domain.clone(),
        })
    }

    /// The time that is left, so that a CA near its end still signs.
    pub(super) fn remaining(&self) -> Duration {
        self.not_after.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

impl Issued {
    /// Writes `NAME.crt`, `NAME.key` and the CA's `ca.crt` into `dir`, each whole at once, so that a sidecar with
    /// `identity: files` picks them up. Returns the three paths.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, ca: &Ca, dir: &Path) -> Result<[PathBuf; 3], CaError> {
        fs::create_dir_all(dir).map_err(|cause| CaError::File { path: dir.into(), cause })?;
        let name = self.id.service();
        let paths = [dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")), dir.join(CERT)];
        let [cert_path, key_path, root_path] = &paths;
        replace(root_path, 0o644, ca.pem())?;
        replace(key_path, 0o600, &self.key)?;
        replace(cert_path, 0o644, &self.cert)?;
        Ok(paths)
    }
}

fn authority_uri(trust_domain: &str) -> Result<String, CaError> {
    // Parsed as a whole id, so that no leaf of this CA can be one that peers refuse.
    match SpiffeId::parse(&format!("spiffe://{trust_domain}/ns/default/dc/dc1/svc/x")) {
        Ok(id) if id.trust_domain() == trust_domain => Ok(format!("spiffe://{trust_domain}")),
        Ok(_) => Err(CaError::TrustDomain { name: trust_domain.into(), cause: SpiffeError::TrustDomain }),
        Err(cause) => Err(CaError::TrustDomain { name: trust_domain.into(), cause }),
    }
}

fn params(uri: &str, common_name: &str, ttl: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = (SystemTime::now() - BACKDATED).into();
    params.not_after = (SystemTime::now() + ttl).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, &common_name[..common_name.len().min(64)]);
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(params)
}

fn create(path: &Path, mode: u32, text: &str) -> Result<(), CaError> {
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(CaError::Exists { path: path.into() }),
        other => other.map_err(|cause| CaError::File { path: path.into(), cause }),
    }
}

fn replace(path: &Path, mode: u32, text: &str) -> Result<(), CaError> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let temporary = path.with_extension(format!("{}.tmp", fastrand::u64(..)));
    create(&temporary, mode, text)?;
    fs::rename(&temporary, path).map_err(|cause| {
        let _ = fs::remove_file(&temporary);
        CaError::File { path: path.into(), cause }
    })
}

const CERT: &str = "ca.crt";
const KEY: &str = "ca.key";
const CA_TTL: Duration = Duration::from_hours(10 * 365 * 24);
const MIN_TTL: Duration = Duration::from_mins(1);
/// As Consul does: clocks differ.
const BACKDATED: Duration = Duration::from_mins(1);

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
