//! Certificates for tests, good and hostile.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Material;

pub(crate) const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

/// An authority: a root, or an intermediate of one.
pub(crate) struct Authority {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Two of the same name differ in their key only.
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(name);
        Self { der: params.self_signed(&key).unwrap().der().clone(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.bent_intermediate(name, |_| ())
    }

    pub(crate) fn bent_intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = authority_params(name);
        change(&mut params);
        Self { der: params.signed_by(&key, &self.issuer).unwrap().der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A leaf of `service`, good for an hour, then bent by `change`.
    pub(crate) fn leaf(&self, service: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = leaf_params(&uri(service));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Leaf { chain: vec![der], params, key }
    }

    /// A good identity of `service` that trusts this authority alone.
    pub(crate) fn material(&self, service: &str) -> Material {
        self.leaf(service, |_| ()).material(&[self])
    }
}

pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
}

impl Leaf {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    pub(crate) fn material(&self, roots: &[&Authority]) -> Material {
        Material {
            chain: self.chain.clone(),
            key: self.key(),
            roots: roots.iter().map(|root| root.der.clone()).collect(),
            trust_domain: TRUST_DOMAIN.into(),
        }
    }
}

pub(crate) fn uri(service: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/{service}")
}

pub(crate) fn uri_name(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

pub(crate) fn from_now(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from(SystemTime::now()) + time::Duration::seconds(seconds)
}

/// Shifts the validity: beginning and end in seconds from now.
pub(crate) fn valid(params: &mut CertificateParams, from: i64, to: i64) {
    params.not_before = from_now(from);
    params.not_after = from_now(to);
}

pub(crate) const HOUR: Duration = Duration::from_hours(1);

fn leaf_params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    valid(&mut params, -60, 3600);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "never looked at");
    params.subject_alt_names = vec![uri_name(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    valid(&mut params, -3600, 86400);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri_name(&format!("spiffe://{TRUST_DOMAIN}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
