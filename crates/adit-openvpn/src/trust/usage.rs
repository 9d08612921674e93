//! What a certificate is made for: `remote-cert-tls`, `remote-cert-ku`, `remote-cert-eku`, `ns-cert-type`, and what every
//! client of TLS asks.

use super::certificate::Certificate;
use super::error::{CertificateRole, TrustError};
use crate::config::KeyUsage;

/// keyCertSign.
pub(super) const KEY_CERT_SIGN: u16 = 1 << 5;
/// cRLSign.
pub(super) const CRL_SIGN: u16 = 1 << 6;
/// One of digitalSignature, keyEncipherment and keyAgreement: what TLS needs.
const FOR_TLS: u16 = 1 | 1 << 2 | 1 << 4;

const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
const ANY: &str = "2.5.29.37.0";
/// Server Gated Cryptography of Microsoft and of Netscape, which old authorities wrote beside serverAuth.
const GATED: [&str; 2] = ["1.3.6.1.4.1.311.10.3.3", "2.16.840.1.113730.4.1"];

/// The names that OpenSSL has for extended key usages, short and long.
const EXTENDED: &[(&str, &str, &str)] = &[
    ("serverAuth", "TLS Web Server Authentication", SERVER_AUTH),
    ("clientAuth", "TLS Web Client Authentication", "1.3.6.1.5.5.7.3.2"),
    ("codeSigning", "Code Signing", "1.3.6.1.5.5.7.3.3"),
    ("emailProtection", "E-mail Protection", "1.3.6.1.5.5.7.3.4"),
    ("timeStamping", "Time Stamping", "1.3.6.1.5.5.7.3.8"),
    ("OCSPSigning", "OCSP Signing", "1.3.6.1.5.5.7.3.9"),
    ("ipsecEndSystem", "IPSec End System", "1.3.6.1.5.5.7.3.5"),
    ("ipsecTunnel", "IPSec Tunnel", "1.3.6.1.5.5.7.3.6"),
    ("ipsecUser", "IPSec User", "1.3.6.1.5.5.7.3.7"),
    ("ipsecIKE", "ipsec Internet Key Exchange", "1.3.6.1.5.5.7.3.17"),
    ("anyExtendedKeyUsage", "Any Extended Key Usage", ANY),
];

const BITS: [&str; 9] = [
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
];

/// One option of the profile about the server's certificate.
pub(super) fn check(certificate: &Certificate<'_>, wanted: &KeyUsage) -> Result<(), TrustError> {
    let (met, wanted) = match wanted {
        KeyUsage::Server => (
            certificate.key_usage.is_some() && has(certificate, SERVER_AUTH),
            "`remote-cert-tls server`: a key usage, and the extended key usage serverAuth".to_owned(),
        ),
        KeyUsage::NetscapeServer => (
            certificate.netscape.is_some_and(|(server, _)| server) || has(certificate, SERVER_AUTH),
            "`ns-cert-type server`".to_owned(),
        ),
        KeyUsage::Bits(values) => {
            let own = option_bits(certificate.key_usage.unwrap_or(0));
            let met = values.iter().any(|value| *value != 0 && own & value == *value);
            let values: Vec<String> = values.iter().map(|value| format!("{value:02x}")).collect();
            (met, format!("`remote-cert-ku {}`", values.join(" ")))
        }
        KeyUsage::Extended(usage) => {
            let oid = EXTENDED.iter().find(|(short, long, _)| usage == short || usage == long);
            let oid = oid.map_or(usage.as_str(), |(_, _, oid)| oid);
            (has(certificate, oid), format!("`remote-cert-eku {usage}`"))
        }
    };
    if met { Ok(()) } else { Err(misused(certificate, wanted)) }
}

/// What every client of TLS asks of a chain: a certificate that says what it is for must be for a server. An authority
/// that says so limits those below it.
pub(super) fn for_tls_server(certificate: &Certificate<'_>) -> Result<(), TrustError> {
    let wanted = "a certificate for a server of TLS";
    let extended = certificate.extended.as_ref().is_none_or(|usages| {
        usages
            .iter()
            .any(|usage| [SERVER_AUTH, ANY].contains(&usage.as_str()) || GATED.contains(&usage.as_str()))
    });
    let key = certificate.role != CertificateRole::Server
        || certificate.key_usage.is_none_or(|bits| bits & FOR_TLS != 0);
    if extended && key { Ok(()) } else { Err(misused(certificate, wanted.to_owned())) }
}

fn has(certificate: &Certificate<'_>, oid: &str) -> bool {
    certificate.extended.as_ref().is_some_and(|usages| usages.iter().any(|usage| usage == oid))
}

/// The bits as `remote-cert-ku` writes them: the first is the highest of the low byte, the ninth of the high byte.
fn option_bits(bits: u16) -> u16 {
    let low = (0..8).filter(|at| bits >> at & 1 == 1).fold(0, |sum, at| sum | 0x80 >> at);
    low | if bits >> 8 & 1 == 1 { 0x8000 } else { 0 }
}

fn misused(certificate: &Certificate<'_>, wanted: String) -> TrustError {
    let mut found = Vec::new();
    if let Some(bits) = certificate.key_usage {
        let names: Vec<&str> =
            BITS.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, name)| *name).collect();
        found.push(format!("key usage {}", names.join(", ")));
    }
    if let Some(usages) = &certificate.extended {
        let name = |oid: &String| {
            EXTENDED
                .iter()
                .find(|(_, _, known)| known == oid)
                .map_or(oid.clone(), |(short, ..)| (*short).to_owned())
        };
        let names: Vec<String> = usages.iter().take(16).map(name).collect();
        found.push(format!("extended key usage {}", names.join(", ")));
    }
    if let Some((server, authority)) = certificate.netscape {
        found.push(format!("nsCertType server {server}, authority {authority}"));
    }
    if found.is_empty() {
        found.push("no statement about its use".to_owned());
    }
    TrustError::Usage { certificate: certificate.info(), wanted, found: found.join("; ") }
}
