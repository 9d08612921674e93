//! TLS inside control packets: rustls over ring, on byte queues instead of a socket.
//!
//! No server name and no resumption are sent, as OpenVPN does; each negotiation is a session of its own.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{ClientConnection, ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, SignatureScheme, SupportedProtocolVersion, version};
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use crate::config::{TlsConfig, TlsVersion, Trust};
use crate::trust::{ServerVerifier, TrustError};

/// The most plaintext that one read takes from a session: longer messages come in several.
const READ: usize = 4096;

/// Why a configuration of TLS cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsConfigError {
    /// `tls-version-min` is above `tls-version-max`.
    #[error("`tls-version-min` is above `tls-version-max`")]
    Versions,
    /// `tls-cipher` and `tls-ciphersuites` name nothing that there is.
    #[error("none of the suites of `tls-cipher` and `tls-ciphersuites` is supported")]
    Suites,
    /// `tls-groups` names nothing that there is.
    #[error("none of the groups of `tls-groups` is supported: X25519, P-256 and P-384 are")]
    Groups,
    /// Our private key cannot be used.
    #[error("the private key cannot be used: {0}")]
    Key(String),
    /// Nobody is to be believed.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// How TLS sessions are made.
#[derive(Debug)]
pub struct Sessions {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    trust: Arc<Trust>,
    identity: Option<Arc<CertifiedKey>>,
}

impl Sessions {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`TlsConfigError`].
    pub fn new(config: &TlsConfig) -> Result<Self, TlsConfigError> {
        let mut provider = provider::default_provider();
        select_suites(&mut provider, config)?;
        if !config.groups.is_empty() {
            provider.kx_groups.retain(|group| config.groups.iter().any(|name| is_group(name, group.name())));
            if provider.kx_groups.is_empty() {
                return Err(TlsConfigError::Groups);
            }
        }
        let versions: Vec<_> = [(TlsVersion::V13, &version::TLS13), (TlsVersion::V12, &version::TLS12)]
            .into_iter()
            .filter(|(version, _)| (config.min..=config.max).contains(version))
            .map(|(_, version)| version)
            .collect();
        if versions.is_empty() {
            return Err(TlsConfigError::Versions);
        }
        let has_suite = |version: &&SupportedProtocolVersion| {
            provider.cipher_suites.iter().any(|suite| suite.version().version == version.version)
        };
        if !versions.iter().any(has_suite) {
            return Err(TlsConfigError::Suites);
        }
        let identity = match &config.identity {
            Some(identity) => {
                let key = provider
                    .key_provider
                    .load_private_key(identity.key.clone_key())
                    .map_err(|error| TlsConfigError::Key(error.to_string()))?;
                // Not compared here: rustls cannot read certificates of version 1.
                Some(Arc::new(CertifiedKey::new(identity.chain.clone(), key)))
            }
            None => None,
        };
        let trust = Arc::new(config.trust.clone());
        // Says now what would otherwise fail in every handshake.
        ServerVerifier::new(trust.clone(), Duration::ZERO, provider.signature_verification_algorithms)?;
        let versions = versions.into_iter().filter(has_suite).collect();
        Ok(Self { provider: Arc::new(provider), versions, trust, identity })
    }

    /// A session that begins now; `unix` is the time since 1970 that certificates are measured by.
    ///
    /// # Errors
    /// Of rustls, for a configuration that passed [`new`](Self::new) only without randomness.
    pub fn begin(&self, unix: Duration) -> Result<TlsClient, rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms;
        let verifier = Arc::new(ServerVerifier::new(self.trust.clone(), unix, algorithms)?);
        let builder = ClientConfig::builder_with_details(self.provider.clone(), verifier.clone())
            .with_protocol_versions(&self.versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            Some(key) => builder.with_client_cert_resolver(Arc::new(OurKey(key.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        // Never sent and never looked at; rustls wants one.
        let name = ServerName::try_from("openvpn.invalid")
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut connection = ClientConnection::new(Arc::new(config), name)?;
        // Passwords of some dialects are longer than what rustls holds back by default.
        connection.set_buffer_limit(None);
        Ok(TlsClient { connection })
    }

    /// What we offer, for a server that has nothing of it.
    pub fn offer(&self) -> String {
        let versions: Vec<_> = self.versions.iter().map(|version| version_name(version.version)).collect();
        let suites: Vec<_> = self
            .provider
            .cipher_suites
            .iter()
            .filter(|suite| self.versions.contains(&suite.version()))
            .map(|suite| suite.suite().as_str().unwrap_or("?").replace("TLS13_", "TLS_"))
            .collect();
        let groups: Vec<_> =
            self.provider.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect();
        format!(
            "we offer {} with {} and the groups {}",
            versions.join(" and "),
            suites.join(", "),
            groups.join(", ")
        )
    }
}

fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLS 1.2",
        ProtocolVersion::TLSv1_3 => "TLS 1.3",
        _ => "TLS",
    }
}

fn select_suites(provider: &mut CryptoProvider, config: &TlsConfig) -> Result<(), TlsConfigError> {
    let named = |names: &[String], suite: &str| {
        let plain = |name: &str| name.replace('-', "_").replace("TLS13_", "TLS_").to_ascii_uppercase();
        names.is_empty() || names.iter().any(|name| plain(name) == plain(suite))
    };
    provider.cipher_suites.retain(|suite| {
        let names = match suite.version().version {
            ProtocolVersion::TLSv1_3 => &config.suites_13,
            _ => &config.suites_12,
        };
        suite.suite().as_str().is_some_and(|suite| named(names, suite))
    });
    if provider.cipher_suites.is_empty() { Err(TlsConfigError::Suites) } else { Ok(()) }
}

fn is_group(name: &str, group: NamedGroup) -> bool {
    match name.to_ascii_lowercase().as_str() {
        "x25519" => group == NamedGroup::X25519,
        "prime256v1" | "secp256r1" | "p-256" => group == NamedGroup::secp256r1,
        "secp384r1" | "p-384" => group == NamedGroup::secp384r1,
        _ => false,
    }
}

/// Our certificate, whoever asks: the server decides whether it is one of its authority's.
#[derive(Debug)]
struct OurKey(Arc<CertifiedKey>);

impl ResolvesClientCert for OurKey {
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Without a scheme in common the server hears of no certificate, which is what rustls says then.
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// One session.
#[derive(Debug)]
pub struct TlsClient {
    connection: ClientConnection,
}

impl TlsClient {
    /// Takes bytes of the server.
    ///
    /// # Errors
    /// What is wrong with them, or with the server; what is to be sent then ([`take_output`](Self::take_output)) is an
    /// alert.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), rustls::Error> {
        while !bytes.is_empty() {
            let taken = self
                .connection
                .read_tls(&mut bytes)
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            self.connection.process_new_packets()?;
            if taken == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Appends what is to be sent.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // Writing to a vector does not fail.
            if self.connection.write_tls(out).is_err() {
                return;
            }
        }
    }

    /// Appends what was received, decrypted.
    pub fn read(&mut self, out: &mut Vec<u8>) {
        let mut chunk = Zeroizing::new([0; READ]);
        while let Ok(len @ 1..) = self.connection.reader().read(&mut chunk[..]) {
            out.extend(chunk.iter().take(len));
        }
    }

    /// Sends in as few records as it fits into.
    ///
    /// # Errors
    /// Of rustls; none after the handshake.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), rustls::Error> {
        use std::io::Write as _;
        self.connection.writer().write_all(bytes).map_err(|error| rustls::Error::General(error.to_string()))
    }

    /// Whether the handshake goes on.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Keys from the session (RFC 5705, RFC 8446 §7.5), without a context.
    ///
    /// # Errors
    /// Of rustls, before the handshake is complete.
    pub fn export(&self, label: &[u8]) -> Result<Zeroizing<[u8; 256]>, rustls::Error> {
        self.connection.export_keying_material(Zeroizing::new([0; 256]), label, None)
    }

    /// Whether version 1.2 was agreed on.
    pub(crate) fn is_12(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_2)
    }

    /// Version and suite, once they are agreed on.
    pub fn description(&self) -> Option<String> {
        let version = version_name(self.connection.protocol_version()?);
        let suite = self.connection.negotiated_cipher_suite()?.suite();
        Some(format!("{version}, {}", suite.as_str().unwrap_or("?").replace("TLS13_", "TLS_")))
    }
}
