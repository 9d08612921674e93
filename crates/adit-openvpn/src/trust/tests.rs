mod chains;
mod handshakes;
mod old;

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use rustls::crypto::ring as provider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{ServerVerifier, TrustError};
use crate::config::Trust;

/// 2027-01-15, when all that is made here is valid unless it says otherwise.
const NOW: u64 = 1_800_000_000;

type Authority = CertifiedIssuer<'static, KeyPair>;
type Der = CertificateDer<'static>;

fn verifier(trust: Trust, now: u64) -> Result<ServerVerifier, TrustError> {
    let algorithms = provider::default_provider().signature_verification_algorithms;
    ServerVerifier::new(Arc::new(trust), Duration::from_secs(now), algorithms)
}

/// What is said about a server with this certificate.
fn check(trust: &Trust, leaf: &Der, sent: &[&Der]) -> Result<(), TrustError> {
    let sent: Vec<Der> = sent.iter().map(|der| (*der).clone()).collect();
    verifier(trust.clone(), NOW)?.check(leaf, &sent)
}

fn trusting(root: &Der) -> Trust {
    Trust { roots: vec![root.clone()], ..Trust::default() }
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "DE");
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = params(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server_params() -> CertificateParams {
    let mut params = params("vpn.example.test");
    params.serial_number = Some(SerialNumber::from(vec![0x7a, 0x01]));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn root(common_name: &str) -> Authority {
    Authority::self_signed(authority_params(common_name), KeyPair::generate().unwrap()).unwrap()
}

fn below(parent: &Authority, params: CertificateParams) -> Authority {
    Authority::signed_by(params, KeyPair::generate().unwrap(), parent).unwrap()
}

fn leaf(parent: &Authority, params: &CertificateParams) -> Der {
    params.signed_by(&KeyPair::generate().unwrap(), parent).unwrap().der().clone()
}

/// A certificate or a key of `testdata`.
macro_rules! testdata {
    ($name:literal) => {
        PemObject::from_pem_slice(include_bytes!(concat!("../testdata/", $name))).unwrap()
    };
}
use testdata;
