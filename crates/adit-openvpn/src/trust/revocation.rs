//! Lists of revoked certificates (`crl-verify`; RFC 5280 §5 and §6.3).

use x509_parser::asn1_rs::FromDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::Certificate;
use super::error::{CrlProblem, TrustError};
use super::{name, signature, usage};
use crate::config::Trust;

/// Checks that `issuer` did not revoke `certificate`. An authority without a list revokes nothing, as in OpenVPN.
pub(super) fn check(
    certificate: &Certificate<'_>,
    issuer: &Certificate<'_>,
    trust: &Trust,
    now: i64,
) -> Result<(), TrustError> {
    let failed = |problem| TrustError::Crl { issuer: name::shown(issuer.x509.subject()), problem, now };
    if trust.revoked.iter().any(|serial| serial == digits(certificate.x509.raw_serial())) {
        return Err(TrustError::RevokedSerial { certificate: certificate.info() });
    }
    let mut foreign = false;
    let mut signed = false;
    for der in &trust.crls {
        let (_, list) =
            CertificateRevocationList::from_der(der).map_err(|_| failed(CrlProblem::Unreadable))?;
        if !name::same(list.issuer(), issuer.x509.subject()) {
            continue;
        }
        let message = list.tbs_cert_list.as_ref();
        let (algorithm, value) = (&list.signature_algorithm, &list.signature_value);
        // An authority that was made anew under its name leaves a list of the old key behind.
        if signature::check(message, algorithm, value, issuer, trust.modern).is_err() {
            foreign = true;
            continue;
        }
        signed = true;
        usable(&list, issuer, now).map_err(failed)?;
        let serial = certificate.x509.raw_serial();
        if let Some(entry) =
            list.iter_revoked_certificates().find(|entry| digits(entry.raw_serial()) == digits(serial))
        {
            let since = entry.revocation_date.timestamp();
            return Err(TrustError::Revoked { certificate: certificate.info(), since });
        }
    }
    if foreign && !signed { Err(failed(CrlProblem::Signature)) } else { Ok(()) }
}

fn usable(
    list: &CertificateRevocationList<'_>,
    issuer: &Certificate<'_>,
    now: i64,
) -> Result<(), CrlProblem> {
    if issuer.key_usage.is_some_and(|bits| bits & usage::CRL_SIGN == 0) {
        return Err(CrlProblem::NotEntitled);
    }
    if now < list.last_update().timestamp() {
        return Err(CrlProblem::NotYetValid(list.last_update().timestamp()));
    }
    if let Some(end) = list.next_update().map(|end| end.timestamp()).filter(|end| now > *end) {
        return Err(CrlProblem::Expired(end));
    }
    let unknown = list.extensions().iter().find(|extension| match extension.parsed_extension() {
        ParsedExtension::IssuingDistributionPoint(point) => point.indirect_crl,
        ParsedExtension::CRLNumber(_) | ParsedExtension::AuthorityKeyIdentifier(_) => false,
        _ => extension.critical,
    });
    unknown.map_or(Ok(()), |extension| Err(CrlProblem::Extension(extension.oid.to_id_string())))
}

/// A serial number without the zeros that an encoder may put in front.
fn digits(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}
