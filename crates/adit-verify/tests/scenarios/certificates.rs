//! Certificates: what verification says about each kind that is not right.

use std::io::Write as _;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// The authority's certificate as a file that the user trusts.
    fn trust(&self) -> Trust {
        let path = std::env::temp_dir().join(format!("adit-verify-ca-{}-{:p}.pem", std::process::id(), self));
        std::fs::File::create(&path).unwrap().write_all(self.0.pem().as_bytes()).unwrap();
        let trust = Trust::load(Some(&path), false).unwrap();
        std::fs::remove_file(&path).unwrap();
        trust
    }

    /// An HTTPS server with a certificate for `name`, valid until the year.
    fn server(&self, name: &str, from: i32, until: i32) -> Service {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Service::serve(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ended = services::http(stream, "db.internal").await;
                }
            }
        })
    }
}

async fn https(service: Service, trust: Option<Trust>) -> Report {
    let network = network(Host::new().tcp(443, service));
    run(&network, &Plan { trust, ..plan(&["https://db.internal/healthz"]) }).await
}

#[tokio::test]
async fn a_certificate_of_a_trusted_authority_passes_and_its_days_are_counted() {
    let authority = Authority::new();
    let report = https(authority.server("db.internal", 2020, 2199), Some(authority.trust())).await;
    assert!(report.ok, "{report:#?}");
    let tls = report.stages.iter().find(|stage| stage.id == Stage::Tls).unwrap();
    assert!(tls.evidence["days_left"].as_i64().unwrap() > 30_000, "{tls:?}");
    assert_eq!(report.stages.last().unwrap().evidence["status"], 200);
}

#[tokio::test]
async fn expired_foreign_and_untrusted_certificates_are_told_apart() {
    let authority = Authority::new();
    let trust = || Some(authority.trust());
    for (service, trust, class, seen) in [
        (authority.server("db.internal", 2020, 2021), trust(), "tls.expired", "valid until 2021-01-01"),
        (authority.server("db.internal", 2190, 2199), trust(), "tls.not_yet_valid", "valid from 2190-01-01"),
        (authority.server("other.internal", 2020, 2199), trust(), "tls.name", "other.internal"),
        (authority.server("db.internal", 2020, 2199), None, "tls.untrusted", "issuer is not among"),
    ] {
        let report = https(service, trust).await;
        assert_eq!(failed(&report), (class, Exit::TargetTls, Stage::Tls));
        let failure = report.failure.unwrap();
        assert!(failure.evidence.join(" ").contains(seen), "{failure:?}");
    }
}

#[tokio::test]
async fn a_plain_server_on_a_tls_port_is_another_protocol() {
    let plain = Service::serve(|stream| async move { drop(services::http(stream, "x").await) });
    let report = https(plain, None).await;
    assert_eq!(failed(&report), ("app.protocol", Exit::Application, Stage::Tls));
}
