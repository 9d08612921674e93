//! Which certificates are believed: Mozilla's list, the system's store (or `SSL_CERT_FILE`), and a file of the user's.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::noise::printable;
use crate::Problem;

/// The authorities that may vouch for control and relay servers.
///
/// # Errors
///
/// The file cannot be read or holds no certificate (`config.file`).
pub fn trusted(ca_file: Option<&Path>) -> Result<Arc<RootCertStore>, Problem> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    // A store that cannot be read adds nothing; the file that the user names must be readable.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let wrong = |why: String| {
            Problem::new("config.file", format!("{} holds no certificates that can be used", path.display()))
                .seen(why)
                .fix("give a PEM file with the certificate of the authority")
        };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(wrong("it has no PEM block of a certificate".to_owned()));
        }
    }
    Ok(Arc::new(roots))
}

/// A configuration for connections to the control server: no ALPN, because HTTP/1.1 is what is upgraded.
pub fn client_config(roots: Arc<RootCertStore>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of TLS 1.2 and 1.3");
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
    let config = match verifier {
        Ok(verifier) => config.dangerous().with_custom_certificate_verifier(Arc::new(Naming(verifier))),
        // Without any authority nobody is believed.
        Err(_) => config.with_root_certificates(RootCertStore::empty()),
    };
    Arc::new(config.with_no_client_auth())
}

/// A certificate that is not believed, and who issued it: a proxy that looks into TLS names itself there.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: CertificateError,
    pub(super) issuer: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Error::InvalidCertificate(self.why.clone()))
    }
}

impl std::error::Error for Refused {}

/// Verifies as usual, and keeps the issuer of what it refuses.
#[derive(Debug)]
struct Naming(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Naming {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| match error {
            Error::InvalidCertificate(why) => {
                let refused = Refused { why, issuer: issuer(end_entity) };
                Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
            }
            other => other,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The name of the authority that a certificate names as its issuer.
fn issuer(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(printable(certificate.issuer().to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_and_the_public_list_is_always_there() {
        assert!(trusted(None).unwrap().len() >= webpki_roots::TLS_SERVER_ROOTS.len());
        for file in ["/dev/null", "/adit/no/such/file.pem"] {
            assert_eq!(trusted(Some(Path::new(file))).unwrap_err().class, "config.file", "{file}");
        }
    }
}
