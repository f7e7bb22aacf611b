//! The development CA of the embedded registry: made when it starts, gone when it ends, leaves in Consul's shape. Anyone
//! who reaches the registry gets any service's certificate, as with a Consul without ACLs.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use serde_json::{Value, json};

use super::state::DATACENTER;
use crate::names::{ServiceName, SpiffeId};

/// One root key, and the leaf that each name has now.
pub(super) struct Ca {
    trust_domain: String,
    root_id: String,
    root_pem: String,
    root_valid: (SystemTime, SystemTime),
    issuer: Issuer<'static, KeyPair>,
    leaves: Mutex<BTreeMap<ServiceName, Leaf>>,
}

#[derive(Clone)]
struct Leaf {
    index: u64,
    renew_at: SystemTime,
    value: Value,
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("making a key failed")]
    Key,
    #[error("making a certificate failed: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error(transparent)]
    Name(#[from] crate::names::SpiffeError),
    #[error("the certificate authority holds {max} leaves already")]
    Full { max: usize },
}

impl Ca {
    pub(super) fn new() -> Result<Self, CaError> {
        let cluster = uuid::Uuid::new_v4().to_string();
        let trust_domain = format!("{cluster}.consul");
        let now = SystemTime::now();
        let valid = (now - Duration::from_mins(1), now + ROOT_LIFE);
        let (key, _) = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("embedded.consul.ca.{}.consul", &cluster[..8]));
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from(7));
        (params.not_before, params.not_after) = (valid.0.into(), valid.1.into());
        let root = params.self_signed(&key)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, root.der());
        Ok(Self {
            root_id: colons(digest.as_ref()),
            root_pem: root.pem(),
            root_valid: valid,
            issuer: Issuer::new(params, key),
            leaves: Mutex::default(),
            trust_domain,
        })
    }

    /// `GET /v1/agent/connect/ca/roots`.
    pub(super) fn roots(&self) -> Value {
        json!({
            "ActiveRootID": self.root_id, "TrustDomain": self.trust_domain,
            "Roots": [{
                "ID": self.root_id, "Name": "Embedded registry CA Root Cert", "SerialNumber": 7,
                "SigningKeyID": self.root_id, "ExternalTrustDomain": self.trust_domain.trim_end_matches(".consul"),
                "NotBefore": rfc3339(self.root_valid.0), "NotAfter": rfc3339(self.root_valid.1),
                "RootCert": self.root_pem, "IntermediateCerts": null, "Active": true, "PrivateKeyType": "ec",
                "PrivateKeyBits": 256, "CreateIndex": ROOTS_INDEX, "ModifyIndex": ROOTS_INDEX,
            }],
        })
    }

    /// `GET /v1/agent/connect/ca/leaf/NAME`: the leaf that the name has, or a new one when that is past three quarters of
    /// its life. `next_index` counts a new leaf as a change.
    pub(super) fn leaf(&self, name: &ServiceName, next_index: impl FnOnce() -> u64) -> Result<(u64, Value), CaError> {
        let mut leaves = self.leaves.lock();
        let now = SystemTime::now();
        if let Some(leaf) = leaves.get(name).filter(|leaf| now < leaf.renew_at) {
            return Ok((leaf.index, leaf.value.clone()));
        }
        if leaves.len() >= MAX_LEAVES && !leaves.contains_key(name) {
            return Err(CaError::Full { max: MAX_LEAVES });
        }
        let index = next_index();
        let value = self.issue(name, now, index)?;
        leaves.insert(name.clone(), Leaf { index, renew_at: now + LEAF_LIFE * 3 / 4, value: value.clone() });
        Ok((index, value))
    }

    fn issue(&self, name: &ServiceName, now: SystemTime, index: u64) -> Result<Value, CaError> {
        let id = SpiffeId::new(&self.trust_domain, "default", DATACENTER, name)?;
        // Consul's leaves begin a minute early, so that clocks may differ by that much.
        let valid = (now - Duration::from_mins(1), now + LEAF_LIFE);
        let (key, key_pem) = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{name}.svc.default.consul"));
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::DataEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from(index));
        (params.not_before, params.not_after) = (valid.0.into(), valid.1.into());
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(json!({
            "SerialNumber": format!("{index:02x}"), "CertPEM": leaf.pem(), "PrivateKeyPEM": key_pem,
            "Service": name.as_str(), "ServiceURI": id.as_str(), "ValidAfter": rfc3339(valid.0),
            "ValidBefore": rfc3339(valid.1), "CreateIndex": index, "ModifyIndex": index,
        }))
    }
}

/// A P-256 key, and its PEM in the form in which Consul hands keys out.
fn new_key() -> Result<(KeyPair, String), CaError> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| CaError::Key)?;
    let secret: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().map_err(|_| CaError::Key)?;
    let pkcs8 = pair.to_pkcs8v1().map_err(|_| CaError::Key)?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.as_ref().into(), &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let pem = sec1_pem(secret.as_ref(), key.public_key_raw());
    Ok((key, pem))
}

/// RFC 5915 §3, ECPrivateKey of prime256v1: version 1, the key, tag 0 the curve, tag 1 the public point.
fn sec1_pem(secret: &[u8], public: &[u8]) -> String {
    let mut der = vec![0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
    der.extend_from_slice(secret);
    der.extend_from_slice(&[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
    der.extend_from_slice(&[0xa1, 0x44, 0x03, 0x42, 0x00]);
    der.extend_from_slice(public);
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN EC PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + "-----END EC PRIVATE KEY-----\n"
}

fn colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// When the roots are said to have changed: before anything else did.
pub(super) const ROOTS_INDEX: u64 = 9;
/// Consul's defaults: `LeafCertTTL` 72 h, root ten years.
const LEAF_LIFE: Duration = Duration::from_hours(72);
const ROOT_LIFE: Duration = Duration::from_hours(87_600);
const MAX_LEAVES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    #[test]
    fn a_leaf_verifies_against_the_root_and_its_key_is_its_own() {
        let ca = Ca::new().unwrap();
        let name = ServiceName::parse("web").unwrap();
        let (index, leaf) = ca.leaf(&name, || 42).unwrap();
        assert_eq!(index, 42);
        assert_eq!(ca.leaf(&name, || 43).unwrap().0, 42, "the same leaf as long as it is young");
        let text = |key: &str| leaf[key].as_str().unwrap().to_owned();
        assert_eq!(text("ServiceURI"), format!("spiffe://{}/ns/default/dc/dc1/svc/web", ca.trust_domain));
        let chain = vec![CertificateDer::from_pem_slice(text("CertPEM").as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(text("PrivateKeyPEM").as_bytes()).unwrap();
        assert!(matches!(key, PrivateKeyDer::Sec1(_)), "as Consul sends it");
        let root = CertificateDer::from_pem_slice(ca.root_pem.as_bytes()).unwrap();
        let anchor = webpki::anchor_from_trusted_cert(&root).unwrap();
        let found = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
        found
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &[anchor],
                &[],
                rustls_pki_types::UnixTime::now(),
                webpki::KeyUsage::client_auth(),
                None,
                None,
            )
            .unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap().keys_match().unwrap();
    }
}
