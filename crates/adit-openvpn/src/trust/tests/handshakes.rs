//! Whole handshakes in memory: rustls with the verifier against rustls as a server.

use std::fmt;

use rustls::client::danger::ServerCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection, SupportedProtocolVersion,
};
use rustls_pki_types::PrivateKeyDer;

use super::*;

struct Fixed(Arc<CertifiedKey>);

impl fmt::Debug for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fixed")
    }
}

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Shakes hands with a server that shows `chain` and signs with `key`.
fn shake(
    verifier: ServerVerifier,
    version: &'static SupportedProtocolVersion,
    chain: Vec<Der>,
    key: &PrivateKeyDer<'_>,
) -> Result<(), Error> {
    let key = provider::sign::any_supported_type(key).unwrap();
    let provider = Arc::new(provider::default_provider());

    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Fixed(Arc::new(CertifiedKey::new(chain, key)))));
    let verifier = Arc::new(verifier);
    let time = Arc::clone(&verifier);
    let client = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(client), "openvpn".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets()?;
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    panic!("the handshake never ends");
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn servers_with_certificates_of_version_1_finish_both_versions_of_tls() {
    let root: Der = testdata!("v1-ca.pem");
    let servers: [(Der, PrivateKeyDer<'static>); 3] = [
        (testdata!("v1-leaf.pem"), testdata!("v1-leaf.key")),
        (testdata!("v1-p256.pem"), testdata!("v1-p256.key")),
        (testdata!("v1-ed25519.pem"), testdata!("v1-ed25519.key")),
    ];
    for version in VERSIONS {
        for (server, key) in &servers {
            let verifier = verifier(trusting(&root), NOW).unwrap();
            shake(verifier, version, vec![server.clone()], key).unwrap();
        }
    }
}

#[test]
fn keys_of_rcgen_finish_both_versions_of_tls() {
    let root = root("Root");
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let server = server_params().signed_by(&key, &root).unwrap().der().clone();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        for version in VERSIONS {
            let verifier = verifier(trusting(root.der()), NOW).unwrap();
            shake(verifier, version, vec![server.clone()], &key).unwrap();
        }
    }
}

#[test]
fn the_reason_comes_back_through_rustls() {
    let (root, other) = (root("Root"), root("Other"));
    let key = KeyPair::generate().unwrap();
    let server = server_params().signed_by(&key, &root).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    for version in VERSIONS {
        let verifier = verifier(trusting(other.der()), NOW).unwrap();
        let error = shake(verifier, version, vec![server.clone()], &key).unwrap_err();
        let reason = TrustError::of(&error).expect("it is one of ours");
        assert!(matches!(reason, TrustError::UnknownAuthority { .. }), "{reason}");
    }
    assert_eq!(TrustError::of(&Error::DecryptError), None);
}

#[test]
fn a_server_that_has_not_the_key_of_its_certificate_fails() {
    let root: Der = testdata!("v1-ca.pem");
    let key = PrivateKeyDer::Pkcs8(KeyPair::generate().unwrap().serialize_der().into());
    for version in VERSIONS {
        let verifier = verifier(trusting(&root), NOW).unwrap();
        let error = shake(verifier, version, vec![testdata!("v1-p256.pem")], &key).unwrap_err();
        assert!(
            matches!(error, Error::InvalidCertificate(rustls::CertificateError::BadSignature)),
            "{error}"
        );
    }
}
