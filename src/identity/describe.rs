//! What a certificate file says, for people: `outrigger ca show`.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::certificate;

/// The facts of one certificate. `Display` writes one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub subject: String,
    pub uris: Vec<String>,
    pub issuer: String,
    pub authority: bool,
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// SHA-256 of the DER, as `openssl x509 -fingerprint -sha256` prints it.
    pub fingerprint: String,
}

/// Every certificate of a PEM file, in its order.
///
/// # Errors
/// A sentence with the file's name, when it cannot be read or holds no certificate.
pub fn describe(file: &Path) -> Result<Vec<Description>, String> {
    let fault = |cause: &dyn fmt::Display| format!("{}: {cause}", file.display());
    let pem = fs::read(file).map_err(|error| fault(&error))?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| fault(&error))?;
    if found.is_empty() {
        return Err(fault(&"no certificate in the file; it should be PEM"));
    }
    found.iter().map(|der| description(der).map_err(|error| fault(&error))).collect()
}

fn description(der: &CertificateDer<'_>) -> Result<Description, super::PeerError> {
    let certificate = certificate::parse(der)?;
    let facts = certificate::facts(der)?;
    let digest = digest::digest(&digest::SHA256, der);
    let fingerprint: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(Description {
        subject: printable(&certificate.subject().to_string()),
        uris: certificate::uris(&certificate)?.into_iter().map(printable).collect(),
        issuer: printable(&certificate.issuer().to_string()),
        authority: certificate.is_ca(),
        serial: facts.serial,
        not_before: facts.not_before,
        not_after: facts.not_after,
        fingerprint: fingerprint.join(":"),
    })
}

/// A certificate may come from anyone, and goes to a terminal.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |at| humantime::format_rfc3339_seconds(at);
        let now = SystemTime::now();
        let state = match self.not_after.duration_since(now) {
            Err(_) => "expired".into(),
            Ok(_) if self.not_before > now => "not yet valid".into(),
            Ok(left) => format!("{} left", coarse(left)),
        };
        writeln!(f, "subject:     {}", self.subject)?;
        for uri in &self.uris {
            writeln!(f, "uri:         {uri}")?;
        }
        writeln!(f, "issuer:      {}", self.issuer)?;
        writeln!(f, "kind:        {}", if self.authority { "authority" } else { "leaf" })?;
        writeln!(f, "serial:      {}", self.serial)?;
        writeln!(f, "valid:       {} to {} ({state})", time(self.not_before), time(self.not_after))?;
        writeln!(f, "fingerprint: SHA256 {}", self.fingerprint)
    }
}

/// Days, hours or minutes: whatever is largest.
fn coarse(left: std::time::Duration) -> String {
    let minutes = left.as_secs() / 60;
    match minutes {
        0..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ca::Ca;
    use crate::names::ServiceName;

    #[test]
    fn a_leaf_and_its_ca_are_told_in_full() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::init(dir.path(), "dev.local").unwrap();
        let issued = ca.issue(&ServiceName::parse("web").unwrap(), crate::identity::ca::DEFAULT_TTL).unwrap();
        let bundle = dir.path().join("bundle.pem");
        fs::write(&bundle, issued.cert.clone() + ca.pem()).unwrap();
        let found = describe(&bundle).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].uris, ["spiffe://dev.local/ns/default/dc/dc1/svc/web"]);
        assert_eq!(found[0].issuer, found[1].subject);
        assert_eq!((found[0].authority, found[1].authority), (false, true));
        assert_eq!(found[0].fingerprint.len(), 95);
        let text = found[0].to_string();
        for part in ["subject:     CN=web", "23 h left", "kind:        leaf"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_file_without_a_certificate_is_told_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        for file in [empty, dir.path().join("missing.pem")] {
            let error = describe(&file).unwrap_err();
            assert!(error.starts_with(&file.display().to_string()), "{error}");
        }
    }
}
