//! Reads what we need to know from one certificate. Judges its form, not its issuer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::FromDer;

use super::PeerError;
use crate::names::SpiffeId;

/// A certificate's end and beginning, and its serial number as hex bytes with colons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PeerError::Malformed { cause: "bytes after the certificate".into() }),
        Err(error) => Err(PeerError::Malformed { cause: error.to_string() }),
    }
}

pub(super) fn facts(der: &CertificateDer<'_>) -> Result<Facts, PeerError> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok(Facts {
        serial: certificate.raw_serial_as_string(),
        not_before: time(validity.not_before.timestamp()),
        not_after: time(validity.not_after.timestamp()),
    })
}

/// How many authorities may stand between this one and a leaf; `None` where it does not say.
pub(super) fn path_len(der: &CertificateDer<'_>) -> Result<Option<u32>, PeerError> {
    let certificate = parse(der)?;
    let constraints = certificate.basic_constraints();
    let constraints = constraints.map_err(|error| PeerError::Malformed { cause: error.to_string() })?;
    Ok(constraints.and_then(|extension| extension.value.path_len_constraint))
}

/// The identity that a leaf claims: its one URI SAN. A leaf with two is two identities, so it is none
/// (SPIFFE X509-SVID §2); the common name is never looked at.
pub(super) fn spiffe_id(der: &CertificateDer<'_>) -> Result<SpiffeId, PeerError> {
    let certificate = parse(der)?;
    match uris(&certificate)?.as_slice() {
        [] => Err(PeerError::NoUri),
        [uri] => SpiffeId::parse(uri).map_err(|cause| PeerError::NotSpiffe { uri: cut(uri), cause }),
        several => Err(PeerError::SeveralUris { count: several.len() }),
    }
}

/// Every URI SAN; a name that cannot be read is an error and not a name less.
pub(super) fn uris<'a>(certificate: &X509Certificate<'a>) -> Result<Vec<&'a str>, PeerError> {
    let mut found = Vec::new();
    let mut seen = false;
    for extension in certificate.extensions().iter().filter(|e| e.oid == OID_X509_EXT_SUBJECT_ALT_NAME) {
        let malformed = |cause: &str| PeerError::Malformed { cause: cause.into() };
        if std::mem::replace(&mut seen, true) {
            return Err(malformed("two subject alternative name extensions"));
        }
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return Err(malformed("the subject alternative names cannot be read"));
        };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => found.push(*uri),
                GeneralName::Invalid(..) => return Err(malformed("a subject alternative name cannot be read")),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// A stranger's text for our log: short, and nothing that moves the cursor.
fn cut(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Times before 1970 count as 1970.
fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
