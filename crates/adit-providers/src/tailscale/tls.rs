//! Which certificates are believed: Mozilla's list, the system's store (or `SSL_CERT_FILE`), and a file of the user's.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

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
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
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
