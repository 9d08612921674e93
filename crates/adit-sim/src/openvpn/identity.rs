//! The server's certificate, and whose clients it lets in.

use std::fmt;
use std::sync::Arc;

use adit_openvpn::TlsVersion;
use ring::digest;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};

/// A certificate and its key.
pub struct ServerIdentity {
    /// The certificate, and those that lead to its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

impl ServerIdentity {
    /// SHA-256 of the certificate, for `peer-fingerprint`.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = [0; 32];
        if let Some(leaf) = self.chain.first() {
            fingerprint.copy_from_slice(digest::digest(&digest::SHA256, leaf).as_ref());
        }
        fingerprint
    }

    /// What rustls needs for one version of TLS and older ones.
    pub(super) fn tls(
        &self,
        clients: Option<&ClientTrust>,
        max: TlsVersion,
        unix: u64,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = match max {
            TlsVersion::V12 => &[&rustls::version::TLS12][..],
            TlsVersion::V13 => rustls::ALL_VERSIONS,
        };
        let time = Arc::new(Fixed(UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix))));
        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), time)
            .with_protocol_versions(versions)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ClientTrust { roots, crls }) => {
                let mut store = RootCertStore::empty();
                for root in roots {
                    store.add(root.clone())?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
                    .with_crls(crls.iter().cloned())
                    .allow_unknown_revocation_status()
                    .build()
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(self.chain.clone(), self.key.clone_key())?;
        // OpenVPN never resumes.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl Clone for ServerIdentity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Whose clients are let in.
#[derive(Clone, Debug, Default)]
pub struct ClientTrust {
    /// The authorities.
    pub roots: Vec<CertificateDer<'static>>,
    /// Lists of certificates that they have revoked.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

/// The clock of the handshakes: it stands.
#[derive(Debug)]
struct Fixed(UnixTime);

impl TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}
