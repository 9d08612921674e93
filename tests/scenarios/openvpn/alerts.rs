//! Servers that say by an alert what they do not like, as 2.7 and others do: Debian's 2.6 says nothing.

use adit_openvpn::{Identity, TlsVersion};
use adit_sim::openvpn::ClientTrust;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls_pki_types::PrivateKeyDer;

use super::lab::{Kind, Lab, configs, secs};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A client's certificate with serial number 7, which is valid until a year.
fn identity(authority: &Authority, until: i32) -> Identity {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(7));
    params.not_after = date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Identity { chain: vec![certificate.der().clone()], key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
}

/// Whom the server lets in: the authority's clients without those of these numbers.
fn trust(authority: &Authority, revoked: &[u64]) -> ClientTrust {
    let entry = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: [3].iter().chain(revoked).map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(authority).unwrap();
    ClientTrust { roots: vec![authority.der().clone()], crls: vec![list.der().clone()] }
}

/// What a client with this certificate is told within a minute.
fn told(client: Option<Identity>, server: ClientTrust, kind: Kind) -> Vec<&'static str> {
    let (mut config, mut server_config) = configs(kind);
    config.tls.identity = client;
    server_config.clients = Some(server);
    let mut lab = Lab::with(0, (config, server_config));
    lab.world.run_for(secs(60));
    lab.said()
}

#[test]
fn a_certificate_that_the_server_does_not_take_is_told_by_its_reason() {
    let (ours, renewed, other) = (authority("Ours"), authority("Ours"), authority("Another"));
    for kind in [Kind::None, Kind::Crypt] {
        let said = |identity, revoked: &[u64]| told(identity, trust(&ours, revoked), kind);
        assert_eq!(said(Some(identity(&ours, 2100)), &[]), ["up"], "{kind:?}");
        assert_eq!(said(Some(identity(&ours, 2100)), &[7]), ["ovpn.client.cert_revoked"], "{kind:?}");
        assert_eq!(said(Some(identity(&ours, 2026)), &[]), ["ovpn.client.cert_expired"], "{kind:?}");
        for foreign in [&renewed, &other] {
            let told = said(Some(identity(foreign, 2100)), &[]);
            assert_eq!(told, ["ovpn.client.cert_unknown"], "{kind:?}");
        }
        assert_eq!(said(None, &[]), ["ovpn.client.cert_unknown"], "{kind:?}");
    }
}

#[test]
fn versions_and_suites_without_a_common_one_are_told() {
    let (mut client, mut server) = configs(Kind::Crypt);
    client.tls.min = TlsVersion::V13;
    server.max_tls = TlsVersion::V12;
    let mut lab = Lab::with(0, (client, server));
    lab.world.run_for(secs(60));
    assert_eq!(lab.said(), ["ovpn.tls.version"]);

    let (mut client, mut server) = configs(Kind::Crypt);
    client.tls.max = TlsVersion::V12;
    // A suite for RSA, and the server's key is of another kind.
    client.tls.suites_12 = vec!["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384".to_owned()];
    server.max_tls = TlsVersion::V12;
    let mut lab = Lab::with(0, (client, server));
    lab.world.run_for(secs(60));
    assert_eq!(lab.said(), ["ovpn.tls.suites"]);
}
