//! TLS with the certificate's own story: who trusts it, for which names, until when.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_path::Destination;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use adit_tunnel::rfc3339;

use super::Evidence;
use crate::dialer::Stream;
use crate::{Context, Failure, Stage, Warning};

/// Less than this is worth a warning.
const SOON: i64 = 14;

/// Which authorities are trusted: Mozilla's list, the system's store, and a file of the user's.
#[derive(Clone)]
pub struct Trust {
    config: Arc<ClientConfig>,
    sources: String,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl Trust {
    /// Loads the authorities. Without `system`, the system's store is left out.
    ///
    /// # Errors
    ///
    /// The user's file cannot be read or holds no certificate.
    pub fn load(ca_file: Option<&Path>, system: bool) -> io::Result<Self> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let mut sources = "Mozilla's list".to_owned();
        if system {
            let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            sources.push_str(&format!(", {added} of the system"));
        }
        if let Some(path) = ca_file {
            let invalid = |error: &dyn fmt::Display| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
            };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| invalid(&error))?;
            let mut found = 0;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| invalid(&error))?;
                roots.add(certificate).map_err(|error| invalid(&error))?;
                found += 1;
            }
            if found == 0 {
                return Err(invalid(&"there is no certificate in it"));
            }
            sources.push_str(&format!(", {found} of {}", path.display()));
        }
        Self::of(roots, sources).map_err(|error| io::Error::other(error.to_string()))
    }

    fn of(roots: RootCertStore, sources: String) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), sources })
    }
}

/// A TLS connection, and what its certificate says.
pub(crate) struct Session {
    pub(crate) stream: TlsStream<Box<dyn Stream>>,
    pub(crate) evidence: Evidence,
    pub(crate) warning: Option<Warning>,
}

/// Makes the handshake with the host's name as SNI and verifies the certificate.
pub(crate) async fn connect(
    trust: &Trust,
    stream: Box<dyn Stream>,
    host: &Destination,
    context: &Context,
    limit: Duration,
) -> Result<Session, Failure> {
    let context = context.clone().with("host", host).with("now", rfc3339(UnixTime::now().as_secs()));
    let name = match host {
        Destination::Address(address) => ServerName::IpAddress((*address).into()),
        Destination::Name(name) => ServerName::try_from(name.clone())
            .map_err(|_| Failure::of("dns.bad_name", &context.words).at(Stage::Tls))?,
    };
    let handshake = TlsConnector::from(trust.config.clone()).connect(name, stream);
    let stream = match timeout(limit, handshake).await {
        Err(_) => return Err(silent(&context, limit)),
        Ok(Err(error)) => return Err(explain(&error, trust, &context)),
        Ok(Ok(stream)) => stream,
    };
    let (_, session) = stream.get_ref();
    let mut evidence = Evidence::new();
    if let Some(version) = session.protocol_version() {
        evidence.insert("version".to_owned(), format!("{version:?}").into());
    }
    let mut warning = None;
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    if let Some((_, until)) = certificate.and_then(|certificate| validity(certificate)) {
        let days = (until - i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)).div_euclid(86_400);
        evidence.insert("days_left".to_owned(), days.into());
        if days < SOON {
            let soon = Failure::of("tls.expires_soon", &context.words.clone().with("days", days));
            warning = Some(Warning { class: soon.class, summary: soon.summary });
        }
    }
    Ok(Session { stream, evidence, warning })
}

fn silent(context: &Context, limit: Duration) -> Failure {
    let limit = crate::failure::seconds(limit);
    let words = context.words.clone().with("protocol", "TLS").with("duration", &limit);
    Failure::of("app.silent", &words)
        .at(Stage::Tls)
        .seen(format!("the TLS handshake got no answer within {limit}"))
}

/// The class of a failed handshake. rustls reports through `io::Error`; its own error is inside.
fn explain(error: &io::Error, trust: &Trust, context: &Context) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let failure = |class: &str, context: &Context| Failure::of(class, &context.words).at(Stage::Tls);
    let Some(inner) = inner else {
        let context = context.clone().with("protocol", "TLS");
        let class = match error.kind() {
            io::ErrorKind::ConnectionReset => "target.reset",
            _ => "app.closed",
        };
        return failure(class, &context).seen(error.to_string());
    };
    match inner {
        rustls::Error::InvalidCertificate(found) => certificate(found, trust, context),
        rustls::Error::InvalidMessage(_) => failure("app.protocol", &context.clone().with("protocol", "TLS"))
            .seen(format!("its answer is no TLS record: {inner}")),
        _ => failure("tls.handshake", context).seen(inner.to_string()),
    }
}

fn certificate(found: &CertificateError, trust: &Trust, context: &Context) -> Failure {
    let failure = |class: &str, context: Context| Failure::of(class, &context.words).at(Stage::Tls);
    match found {
        CertificateError::Expired => failure("tls.expired", context.clone()),
        CertificateError::ExpiredContext { not_after, time } => {
            let (until, now) = (rfc3339(not_after.as_secs()), rfc3339(time.as_secs()));
            failure("tls.expired", context.clone().with("when", format!("on {until}")))
                .seen(format!("valid until {until}, and now it is {now}"))
        }
        CertificateError::NotValidYet => failure("tls.not_yet_valid", context.clone()),
        CertificateError::NotValidYetContext { not_before, time } => {
            let (from, now) = (rfc3339(not_before.as_secs()), rfc3339(time.as_secs()));
            failure("tls.not_yet_valid", context.clone().with("when", &from))
                .seen(format!("valid from {from} on, and now it is {now}"))
        }
        CertificateError::NotValidForName => failure("tls.name", context.clone()),
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<_> = presented.iter().take(8).map(|name| plain_name(name)).collect();
            failure("tls.name", context.clone().with("names", names.join(", ")))
                .seen(format!("the certificate is for {}", names.join(", ")))
        }
        CertificateError::UnknownIssuer => failure("tls.untrusted", context.clone())
            .seen(format!("its issuer is not among the trusted authorities ({})", trust.sources)),
        other => failure("tls.untrusted", context.clone()).seen(format!("{other:?}")),
    }
}

/// `DnsName("a")` as rustls prints it, without the wrapping.
fn plain_name(name: &str) -> String {
    name.split_once("(\"").and_then(|(_, rest)| rest.strip_suffix("\")")).unwrap_or(name).to_owned()
}

/// The validity of a certificate as Unix times (RFC 5280 §4.1.2.5); `None` if it does not parse.
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    let (tag, _, rest) = element(fields)?;
    if tag == 0xa0 {
        fields = rest;
    }
    // serialNumber, signature, issuer
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (before_tag, before, rest) = element(validity)?;
    let (after_tag, after, _) = element(rest)?;
    Some((time(before_tag, before)?, time(after_tag, after)?))
}

/// One DER element: tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (length, after) = rest.split_at_checked(count)?;
        rest = after;
        length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// UTCTime (two digits of the year, 1950 to 2049) or GeneralizedTime, both in `Z`.
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        0x17 => {
            let year: i64 = digits.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, digits.get(2..)?)
        }
        0x18 => (digits.get(..4)?.parse().ok()?, digits.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        assert_eq!(time(0x17, b"260101000000Z"), Some(1_767_225_600));
        assert_eq!(
            time(0x18, b"20500301123456Z").map(|t| rfc3339(t as u64)).as_deref(),
            Some("2050-03-01T12:34:56Z")
        );
        assert_eq!(time(0x17, b"490301000000Z"), Some(2_498_169_600));
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(time(0x17, b"26010100000"), None);
    }

    #[test]
    fn a_certificate_that_does_not_parse_has_no_validity() {
        let certificate = rcgen::generate_simple_self_signed(["db.internal".to_owned()]).unwrap().cert;
        let whole: &[u8] = certificate.der();
        assert!(validity(whole).is_some_and(|(from, until)| from < until));
        for length in 0..whole.len() {
            let _no_panic = validity(&whole[..length]);
        }
    }
}
