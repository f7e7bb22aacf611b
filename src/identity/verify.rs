//! Who is at the other end: chain, purpose, validity and the one URI SAN. Never the DNS name, which leaves do not carry,
//! and never the common name.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, InvalidMessage, OtherError, RootCertStore,
    SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::certificate::spiffe_id;
use crate::names::{ServiceName, SpiffeError, SpiffeId};
use crate::telemetry::HandshakeOutcome;

/// Why a peer is not who it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("the peer showed no certificate")]
    NoCertificate,
    #[error("the peer's certificate cannot be read: {cause}")]
    Malformed { cause: String },
    #[error("the peer's certificate is that of an authority, not a leaf")]
    Authority,
    #[error("the peer's certificate does not lead to our roots: {cause}")]
    Chain { cause: String },
    #[error("the peer's certificate has no URI name")]
    NoUri,
    #[error("the peer's certificate has {count} URI names; exactly one is an identity")]
    SeveralUris { count: usize },
    #[error("the peer's URI {uri:?} is no service's SPIFFE id: {cause}")]
    NotSpiffe { uri: String, cause: SpiffeError },
    #[error("the peer {found} is of another trust domain than {ours}")]
    ForeignTrustDomain { ours: String, found: SpiffeId },
    #[error("the peer {found} is of another namespace or partition than {ours}")]
    ForeignNamespace { ours: String, found: SpiffeId },
    #[error("the peer is {found}, not service {wanted}")]
    WrongPeer { wanted: ServiceName, found: SpiffeId },
}

/// The dialling side's last check, after the handshake and before any byte is sent: is this the service that was asked
/// for? Chain and trust domain were verified in the handshake.
pub fn check_peer(certs: &[CertificateDer<'_>], wanted: &ServiceName) -> Result<SpiffeId, PeerError> {
    let found = peer_of(certs)?;
    if found.service() != wanted {
        return Err(PeerError::WrongPeer { wanted: wanted.clone(), found });
    }
    Ok(found)
}

/// Who called: for the accepting side, after the handshake.
pub fn peer_of(certs: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    spiffe_id(certs.first().ok_or(PeerError::NoCertificate)?)
}

/// How a handshake on a listener failed, from the error that it ended with.
#[must_use]
pub fn classify(error: &io::Error) -> HandshakeOutcome {
    match tls_error(error) {
        Some(rustls::Error::NoCertificatesPresented) => HandshakeOutcome::NoCertificate,
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => HandshakeOutcome::PlainText,
        Some(rustls::Error::InvalidCertificate(cause)) => classify_certificate(cause),
        _ if error.kind() == io::ErrorKind::TimedOut => HandshakeOutcome::TimedOut,
        _ => HandshakeOutcome::Malformed,
    }
}

/// Whether the dialling side's handshake failed because of what the peer is: its certificate is expired, foreign, or in
/// another's name. Else it is a failure to connect.
#[must_use]
pub fn is_wrong_peer(error: &io::Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn classify_certificate(cause: &CertificateError) -> HandshakeOutcome {
    match cause {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => HandshakeOutcome::Expired,
        CertificateError::UnknownIssuer => HandshakeOutcome::ForeignRoot,
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(PeerError::Chain { .. }) => HandshakeOutcome::ForeignRoot,
            Some(PeerError::NoCertificate) => HandshakeOutcome::NoCertificate,
            Some(PeerError::Malformed { .. } | PeerError::Authority) | None => HandshakeOutcome::Malformed,
            Some(
                PeerError::NoUri
                | PeerError::SeveralUris { .. }
                | PeerError::NotSpiffe { .. }
                | PeerError::ForeignTrustDomain { .. }
                | PeerError::ForeignNamespace { .. }
                | PeerError::WrongPeer { .. },
            ) => HandshakeOutcome::WrongName,
        },
        _ => HandshakeOutcome::Malformed,
    }
}

/// Verifies peers of our trust domain, at either end.
#[derive(Debug)]
pub(super) struct Verifier {
    ours: SpiffeId,
    roots: Arc<RootCertStore>,
    /// How many authorities may stand below each of `roots`; webpki looks at those of intermediates alone.
    path_lens: Vec<Option<u32>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(ours: SpiffeId, roots: Arc<RootCertStore>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { ours, roots, path_lens: Vec::new(), algorithms }
    }

    /// Holds chains to the `pathLenConstraint` of the root that they lead to, in the order of the roots.
    pub(super) fn with_path_lens(self, path_lens: Vec<Option<u32>>) -> Self {
        Self { path_lens, ..self }
    }

    /// RFC 5280 §4.2.1.9: authorities between root and leaf, self-issued ones apart, as they appear when keys change.
    fn check_length(&self, path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
        let below = path.intermediate_certificates().filter(|middle| middle.subject() != middle.issuer()).count();
        let anchor = path.anchor();
        let limits = self.roots.roots.iter().zip(&self.path_lens);
        let mut own = limits.filter(|(root, _)| *root == anchor).map(|(_, limit)| *limit).peekable();
        // One of them that is listed twice may be listed without a limit.
        if own.peek().is_none() || own.any(|limit| limit.is_none_or(|most| below <= most as usize)) {
            return Ok(());
        }
        Err(webpki::Error::PathLenConstraintViolated)
    }

    /// Chain, purpose and validity of any chain; also used on our own, before it is installed.
    pub(super) fn chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), rustls::Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(|error| refusal(&error))?;
        let anchors = &self.roots.roots;
        let length = |path: &VerifiedPath<'_>| self.check_length(path);
        certificate
            .verify_for_usage(self.algorithms.all, anchors, intermediates, now, usage, None, Some(&length))
            .map(drop)
            .map_err(|error| refusal(&error))
    }

    fn peer(&self, leaf: &CertificateDer<'_>) -> Result<SpiffeId, PeerError> {
        let found = spiffe_id(leaf)?;
        if found.trust_domain() != self.ours.trust_domain() {
            return Err(PeerError::ForeignTrustDomain { ours: self.ours.trust_domain().into(), found });
        }
        Ok(found)
    }

    /// An upstream is looked up in our own namespace and partition, so only a peer of these can be it.
    fn upstream(&self, leaf: &CertificateDer<'_>) -> Result<(), PeerError> {
        let found = self.peer(leaf)?;
        if (found.namespace(), found.partition()) != (self.ours.namespace(), self.ours.partition()) {
            return Err(PeerError::ForeignNamespace { ours: self.ours.to_string(), found });
        }
        Ok(())
    }
}

impl ClientCertVerifier for Verifier {
    /// None: a Go client sends no certificate at all when its issuer is not among the hints, which happens in the
    /// middle of a CA rotation.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.chain(leaf, intermediates, now, KeyUsage::client_auth())?;
        self.peer(leaf).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.chain(leaf, intermediates, now, KeyUsage::server_auth())?;
        self.upstream(leaf).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refused(error: PeerError) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// A bad signature *in the chain* becomes an unknown issuer (its name is right and its key is not), so that
/// `BadSignature` is left for a peer that does not hold the key of its certificate.
fn refusal(error: &webpki::Error) -> rustls::Error {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding.into()
        }
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time: *time, not_after: *not_after }.into()
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time: *time, not_before: *not_before }.into()
        }
        webpki::Error::InvalidCertValidity => CertificateError::BadEncoding.into(),
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            CertificateError::UnknownIssuer.into()
        }
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose.into(),
        webpki::Error::CaUsedAsEndEntity => refused(PeerError::Authority),
        other => refused(PeerError::Chain { cause: other.to_string() }),
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
