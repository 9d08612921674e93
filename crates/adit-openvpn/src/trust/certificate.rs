//! One certificate, with what the checks ask it.

use ring::digest;
use x509_parser::asn1_rs::{Any, FromDer, Oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, ParsedExtension};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Version;

use super::error::{CertificateInfo, CertificateRole, TrustError};
use super::name;

/// A certificate that was read.
#[derive(Debug)]
pub(super) struct Certificate<'a> {
    pub(super) x509: X509Certificate<'a>,
    pub(super) role: CertificateRole,
    /// BasicConstraints: whether it is an authority, and how many may follow it.
    pub(super) constraints: Option<(bool, Option<u32>)>,
    /// The bits of KeyUsage (RFC 5280 §4.2.1.3): digitalSignature is bit 0.
    pub(super) key_usage: Option<u16>,
    /// The object identifiers of ExtendedKeyUsage in dotted form.
    pub(super) extended: Option<Vec<String>>,
    /// nsCertType: whether for a server, and whether for an authority of TLS.
    pub(super) netscape: Option<(bool, bool)>,
    /// A critical extension that is not known.
    pub(super) unhandled: Option<String>,
}

impl<'a> Certificate<'a> {
    /// Reads a certificate of version 1, 2 or 3.
    pub(super) fn parse(der: &'a [u8], role: CertificateRole) -> Result<Self, TrustError> {
        let unreadable = |reason: &str| TrustError::Unreadable { role, reason: reason.to_owned() };
        let (rest, x509) =
            X509Certificate::from_der(der).map_err(|_| unreadable("it is not DER of a certificate"))?;
        if !rest.is_empty() {
            return Err(unreadable("bytes follow it"));
        }
        if x509.signature_algorithm != x509.tbs_certificate.signature {
            return Err(unreadable("it names two signature algorithms"));
        }
        let mut certificate = Self {
            x509,
            role,
            constraints: None,
            key_usage: None,
            extended: None,
            netscape: None,
            unhandled: None,
        };
        certificate.read_extensions().map_err(|reason| unreadable(&reason))?;
        Ok(certificate)
    }

    fn read_extensions(&mut self) -> Result<(), String> {
        let extensions = self.x509.extensions();
        for (at, extension) in extensions.iter().enumerate() {
            let oid = extension.oid.to_id_string();
            // RFC 5280 §4.2: each at most once.
            if extensions.iter().take(at).any(|other| other.oid == extension.oid) {
                return Err(format!("it has the extension {oid} twice"));
            }
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(value) => {
                    self.constraints = Some((value.ca, value.path_len_constraint));
                }
                ParsedExtension::KeyUsage(value) => self.key_usage = Some(value.flags),
                ParsedExtension::ExtendedKeyUsage(value) => self.extended = Some(identifiers(value)),
                ParsedExtension::NSCertType(value) => {
                    self.netscape = Some((value.ssl_server(), value.ssl_ca()));
                }
                // Named by what is not evaluated: names of hosts, policies and places.
                ParsedExtension::SubjectAlternativeName(_)
                | ParsedExtension::IssuerAlternativeName(_)
                | ParsedExtension::CertificatePolicies(_)
                | ParsedExtension::PolicyMappings(_)
                | ParsedExtension::PolicyConstraints(_)
                | ParsedExtension::InhibitAnyPolicy(_)
                | ParsedExtension::CRLDistributionPoints(_)
                | ParsedExtension::AuthorityKeyIdentifier(_)
                | ParsedExtension::SubjectKeyIdentifier(_) => {}
                _ if extension.critical => self.unhandled = Some(oid),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it is of version 1 or 2, which cannot say who is an authority.
    pub(super) fn is_old(&self) -> bool {
        self.x509.version() != X509Version::V3
    }

    /// Subject and issuer are the same name.
    pub(super) fn is_self_issued(&self) -> bool {
        name::same(self.x509.subject(), self.x509.issuer())
    }

    /// The bytes inside the key's AlgorithmIdentifier, as rustls compares them.
    pub(super) fn key_algorithm(&self) -> Option<&[u8]> {
        let (_, info) = Any::from_der(self.x509.public_key().raw).ok()?;
        let (_, algorithm) = Any::from_der(info.data).ok()?;
        Some(algorithm.data)
    }

    /// The length of an RSA key.
    pub(super) fn rsa_bits(&self) -> Option<usize> {
        match self.x509.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => {
                let mut digits = key.modulus.iter().skip_while(|byte| **byte == 0);
                let first = digits.next()?;
                Some(digits.count() * 8 + 8 - first.leading_zeros() as usize)
            }
            _ => None,
        }
    }

    /// What is said about it in an error.
    pub(super) fn info(&self) -> Box<CertificateInfo> {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, self.x509.as_raw()).as_ref());
        let validity = self.x509.validity();
        Box::new(CertificateInfo {
            role: self.role,
            subject: name::shown(self.x509.subject()),
            issuer: name::shown(self.x509.issuer()),
            serial: self.x509.raw_serial().iter().take(32).map(|byte| format!("{byte:02X}")).collect(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            fingerprint,
        })
    }
}

fn identifiers(usage: &ExtendedKeyUsage<'_>) -> Vec<String> {
    let known = [
        (usage.any, "2.5.29.37.0"),
        (usage.server_auth, "1.3.6.1.5.5.7.3.1"),
        (usage.client_auth, "1.3.6.1.5.5.7.3.2"),
        (usage.code_signing, "1.3.6.1.5.5.7.3.3"),
        (usage.email_protection, "1.3.6.1.5.5.7.3.4"),
        (usage.time_stamping, "1.3.6.1.5.5.7.3.8"),
        (usage.ocsp_signing, "1.3.6.1.5.5.7.3.9"),
    ];
    let known = known.iter().filter(|(set, _)| *set).map(|(_, oid)| (*oid).to_owned());
    known.chain(usage.other.iter().map(Oid::to_id_string)).collect()
}
