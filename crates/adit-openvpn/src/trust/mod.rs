//! Whether to believe the server: the checks that a client of OpenVPN makes, as a verifier for rustls.
//!
//! rustls's own verifier knows host names and X.509 v3 alone. OpenVPN has no host names, and its authorities are often
//! of version 1 or signed with SHA-1; so chains are built here (RFC 5280 §6, without policies and name constraints),
//! and the options of the profile decide about the leaf.

mod certificate;
mod chain;
mod error;
mod name;
mod revocation;
mod signature;
mod usage;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, PeerMisbehaved, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};

use crate::config::Trust;
use certificate::Certificate;
pub use error::{CertificateInfo, CertificateRole, CrlProblem, TrustError};

/// Decides about the server's certificate at one moment: each handshake has a verifier of its own.
///
/// It is rustls's clock for that handshake too, so that nothing reads the machine's.
#[derive(Debug)]
pub struct ServerVerifier {
    trust: Arc<Trust>,
    now: UnixTime,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// A verifier for a handshake at `now` (since 1970-01-01T00:00:00Z). `algorithms` are those of the provider that
    /// runs the handshake; they check what is signed in it.
    ///
    /// # Errors
    /// [`TrustError::NoAuthority`] where neither an authority nor a fingerprint is given, and
    /// [`TrustError::Unreadable`] where none of the authorities can be read.
    pub fn new(
        trust: Arc<Trust>,
        now: Duration,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, TrustError> {
        if trust.roots.is_empty() && trust.fingerprints.is_empty() {
            return Err(TrustError::NoAuthority);
        }
        // One odd certificate in a bundle is no reason to refuse the others.
        if readable(&trust.roots, CertificateRole::Authority).is_empty()
            && let Some(root) = trust.roots.first()
        {
            Certificate::parse(root, CertificateRole::Authority)?;
        }
        Ok(Self { trust, now: UnixTime::since_unix_epoch(now), algorithms })
    }

    /// Checks a server's certificate and those that came with it.
    ///
    /// # Errors
    /// The first reason not to believe the server, with its evidence.
    pub fn check(&self, leaf: &[u8], sent: &[CertificateDer<'_>]) -> Result<(), TrustError> {
        let trust = &self.trust;
        let leaf = Certificate::parse(leaf, CertificateRole::Server)?;
        if !trust.fingerprints.is_empty() {
            let seen = digest::digest(&digest::SHA256, leaf.x509.as_raw());
            if !trust.fingerprints.iter().any(|wanted| wanted.as_slice() == seen.as_ref()) {
                return Err(TrustError::Fingerprint { certificate: leaf.info() });
            }
        }
        self.supports_key_of(&leaf)?;
        // A fingerprint alone vouches for the certificate, whoever signed it and until when (`peer-fingerprint`).
        if !trust.roots.is_empty() || trust.issuer_hash.is_some() {
            self.check_chain(&leaf, sent)?;
        }
        for wanted in &trust.usage {
            usage::check(&leaf, wanted)?;
        }
        trust.name.as_ref().map_or(Ok(()), |wanted| name::check(&leaf, wanted))
    }

    fn check_chain(&self, leaf: &Certificate<'_>, sent: &[CertificateDer<'_>]) -> Result<(), TrustError> {
        let sent = sent.get(..chain::MAX_SENT).unwrap_or(sent);
        let anchors = readable(&self.trust.roots, CertificateRole::Authority);
        let mut pool = readable(sent, CertificateRole::Intermediate);
        pool.extend(readable(&self.trust.intermediates, CertificateRole::Intermediate));
        let now = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        chain::check(leaf, &anchors, &pool, &self.trust, now)
    }

    /// Says early and by name what the handshake would refuse later without one.
    fn supports_key_of(&self, leaf: &Certificate<'_>) -> Result<(), TrustError> {
        if let Some(bits) = leaf.rsa_bits().filter(|bits| *bits < 2048) {
            return Err(TrustError::WeakKey { certificate: leaf.info(), bits });
        }
        let known = leaf.key_algorithm().is_some_and(|algorithm| {
            self.algorithms.all.iter().any(|known| known.public_key_alg_id().as_ref() == algorithm)
        });
        if known { Ok(()) } else { Err(TrustError::UnsupportedKey { certificate: leaf.info() }) }
    }
}

/// The certificates that can be read: others help nobody to build a chain.
fn readable<'a>(ders: &'a [CertificateDer<'_>], role: CertificateRole) -> Vec<Certificate<'a>> {
    ders.iter().filter_map(|der| Certificate::parse(der, role).ok()).collect()
}

impl TimeProvider for ServerVerifier {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now)
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    /// Like rustls's own, but by the key alone: rustls reads no certificate of version 1.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let certificate = Certificate::parse(cert, CertificateRole::Server)?;
        let key = certificate.x509.public_key().subject_public_key.as_ref();
        let algorithm = certificate.key_algorithm().ok_or(CertificateError::BadEncoding)?;
        let (_, candidates) = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == dss.scheme)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        // The scheme of TLS 1.2 says nothing about the curve, so there are several.
        let fitting =
            candidates.iter().filter(|candidate| candidate.public_key_alg_id().as_ref() == algorithm);
        for candidate in fitting {
            if candidate.verify_signature(key, message, dss.signature()).is_ok() {
                return Ok(HandshakeSignatureValid::assertion());
            }
        }
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let certificate = Certificate::parse(cert, CertificateRole::Server)?;
        let key = SubjectPublicKeyInfoDer::from(certificate.x509.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl From<TrustError> for rustls::Error {
    fn from(error: TrustError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

impl TrustError {
    /// The reason inside of what a handshake with a [`ServerVerifier`] ended with.
    #[must_use]
    pub fn of(error: &rustls::Error) -> Option<&Self> {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }
}
