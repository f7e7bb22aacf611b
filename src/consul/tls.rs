//! TLS toward Consul's HTTP API. This is Consul's own certificate world (`consul tls ca create`), apart from the mesh's.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{ConsulError, Settings};

/// # Errors
/// When a file cannot be read or holds nothing usable.
pub(super) fn config(settings: &Settings, https: bool) -> Result<ClientConfig, ConsulError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConsulError::Local(format!("TLS: {error}")))?;
    let builder = if !https {
        builder.with_root_certificates(RootCertStore::empty())
    } else if settings.verify {
        builder.with_root_certificates(roots(settings.ca_file.as_deref())?)
    } else {
        tracing::warn!("Consul's certificate is not verified");
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    };
    let mut config = match (https, &settings.cert_file, &settings.key_file) {
        (true, Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| fault("key", key, &error))?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| fault("certificate", cert, &error))?
        }
        (true, Some(_), None) | (true, None, Some(_)) => {
            return Err(ConsulError::Local("a client certificate needs both cert_file and key_file".into()));
        }
        _ => builder.with_no_client_auth(),
    };
    // One h2 connection carries all long polls, where Consul's 200 connections per client address are soon used up.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, ConsulError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| fault("ca_file", path, &error))?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(ConsulError::Local(
            "this system has no root certificates to verify Consul with; set consul.ca_file".into(),
        ));
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConsulError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(fault("certificate", path, &"no certificate in the file")),
        Ok(found) => Ok(found),
        Err(error) => Err(fault("certificate", path, &error)),
    }
}

fn fault(what: &str, path: &Path, cause: &dyn std::fmt::Display) -> ConsulError {
    ConsulError::Local(format!("{what} {}: {cause}", path.display()))
}

/// CONSUL_HTTP_SSL_VERIFY=false: whoever holds the key of the certificate that it shows.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
