//! How the certificate of a relay is checked.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::netmap::DerpCertificate;

/// What TLS with relays is made with.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<WebPkiServerVerifier>>,
}

impl Tls {
    /// Certificates are checked against these roots.
    pub(crate) fn new(roots: &Arc<RootCertStore>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider)).build();
        // Without any root no certificate passes, which is what the absence of a verifier does below.
        Self { provider, roots: roots.ok() }
    }

    /// The client's side of a connection with `host`.
    pub(crate) fn connect(
        &self,
        host: &str,
        check: &DerpCertificate,
    ) -> Result<rustls::ClientConnection, Error> {
        let check = match check {
            DerpCertificate::HostName => Check::Name(None),
            DerpCertificate::Name(name) => Check::Name(Some(server_name(name)?)),
            DerpCertificate::Sha256(digest) => Check::Leaf(*digest),
            DerpCertificate::Unchecked => Check::Nothing,
        };
        let verifier = Verifier { tls: self.clone(), check };
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        rustls::ClientConnection::new(Arc::new(config), server_name(host)?)
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|_| Error::General(format!("`{name}` is no host name")))
}

#[derive(Debug)]
enum Check {
    /// The chain, for the host name or for another.
    Name(Option<ServerName<'static>>),
    /// The SHA-256 of the leaf.
    Leaf([u8; 32]),
    Nothing,
}

#[derive(Debug)]
struct Verifier {
    tls: Tls,
    check: Check,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.check {
            Check::Name(other) => {
                let name = other.as_ref().unwrap_or(server_name);
                let roots = self.tls.roots.as_ref().ok_or(CertificateError::UnknownIssuer)?;
                roots.verify_server_cert(leaf, intermediates, name, ocsp, now)
            }
            Check::Leaf(digest) => {
                let found = ring::digest::digest(&ring::digest::SHA256, leaf);
                if found.as_ref() == digest {
                    Ok(ServerCertVerified::assertion())
                } else {
                    Err(CertificateError::ApplicationVerificationFailure.into())
                }
            }
            Check::Nothing => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.tls.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.tls.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.tls.provider.signature_verification_algorithms.supported_schemes()
    }
}
