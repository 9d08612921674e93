//! Who we are: the key is opened, belongs to the certificate, and both can be used now.

use std::time::Duration;

use adit_openvpn::Identity;
use rustls::crypto::ring::sign::any_supported_type;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::Ovpn;
use super::keys::{self, KeyMaterial};
use super::pbe::Closed;
use super::pkcs12;
use crate::{Problem, Secret};

const FORMAT: &str = "ovpn.key.format";

/// Key and certificates out of a profile, opened.
struct Found {
    key: PrivateKeyDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    /// Certificates of an archive that are not ours: authorities.
    others: Vec<CertificateDer<'static>>,
}

/// What an opened profile adds to what stands in it.
pub(super) struct Opened {
    pub(super) identity: Option<Identity>,
    /// Authorities out of an archive, for profiles without `ca`.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

impl Ovpn {
    /// Opens the key with the password that is given, or that of the profile.
    ///
    /// # Errors
    ///
    /// The password is missing or wrong, or key and certificate cannot be used.
    pub(super) fn identity(&self, given: Option<&Secret>, unix: Duration) -> Result<Opened, Problem> {
        let password = given.or(self.tls.askpass.as_ref());
        let password = match password.map(|secret| secret.expose_text().map(first_line)) {
            Some(Some(text)) => Some(text),
            Some(None) => {
                return Err(Problem::new(
                    "ovpn.key.passphrase",
                    "the password of the private key is not UTF-8",
                )
                .fix("give it as text: --key-pass file:PATH"));
            }
            None => None,
        };
        let (found, at) = match (&self.tls.key, &self.tls.pkcs12) {
            (Some((key, at)), _) => {
                let key = open_key(key, password).map_err(|problem| at.problem(None, problem))?;
                (Found { key, chain: self.tls.chain.clone(), others: Vec::new() }, at)
            }
            (None, Some((der, at))) => {
                (open_archive(der, password).map_err(|problem| at.problem(None, problem))?, at)
            }
            (None, None) => return Ok(Opened { identity: None, roots: Vec::new() }),
        };
        usable(&found.chain, &found.key, unix).map_err(|problem| at.problem(None, problem))?;
        let Found { key, chain, others } = found;
        Ok(Opened { identity: Some(Identity { chain, key }), roots: others })
    }
}

/// Files with a password often end with a line feed, and some have a comment below.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

fn closed(closed: Closed, given: bool) -> Problem {
    match closed {
        Closed::Problem(problem) => problem,
        Closed::Password => {
            let why = if given { "the password does not open it" } else { "its password was not given" };
            Problem::new("ovpn.key.passphrase", format!("the private key is encrypted, and {why}"))
                .fix("give it: --key-pass file:PATH (or env:NAME, fd:N, command:…, -)")
                .fix("or decrypt the key once: openssl pkey -in client.key -out plain.key")
        }
    }
}

fn open_key(key: &KeyMaterial, password: Option<&str>) -> Result<PrivateKeyDer<'static>, Problem> {
    match key {
        KeyMaterial::Plain(key) => Ok(key.clone_key()),
        KeyMaterial::Encrypted(pem) => {
            let Some(password) = password else { return Err(closed(Closed::Password, false)) };
            keys::decrypt(pem, password).map_err(|why| closed(why, true))
        }
    }
}

fn open_archive(der: &Secret, password: Option<&str>) -> Result<Found, Problem> {
    let archive =
        pkcs12::open(der.expose(), password.unwrap_or("")).map_err(|why| closed(why, password.is_some()))?;
    let Some(key) = archive.key else {
        return Err(Problem::new(FORMAT, "the PKCS#12 archive has no private key")
            .seen(format!("it has {} certificates", archive.certificates.len()))
            .fix("export it again, with the key"));
    };
    // Ours is the certificate of our key; what issued it follows, and authorities may be roots.
    let ours = any_supported_type(&key).ok().and_then(|key| Some(key.public_key()?.as_ref().to_vec()));
    let position = archive.certificates.iter().position(|certificate| {
        ours.as_ref()
            .is_some_and(|ours| parse(certificate).is_some_and(|c| c.public_key().raw == ours.as_slice()))
    });
    let mut certificates = archive.certificates;
    if certificates.is_empty() {
        return Err(Problem::new(FORMAT, "the PKCS#12 archive has no certificate")
            .fix("export it again, with the certificate"));
    }
    let leaf = certificates.remove(position.unwrap_or(0));
    let mut chain = vec![leaf];
    chain.extend(certificates.iter().filter(|certificate| !self_issued(certificate)).cloned());
    Ok(Found { key, chain, others: certificates })
}

pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate).ok().map(|(_, parsed)| parsed)
}

fn self_issued(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_some_and(|parsed| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// Everything that can be told before a server is called.
fn usable(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>, unix: Duration) -> Result<(), Problem> {
    let Some(der) = chain.first() else {
        return Err(
            Problem::new("ovpn.config.missing", "there is a key and no certificate").fix("add <cert>")
        );
    };
    let Some(leaf) = parse(der) else {
        return Err(Problem::new(FORMAT, "our certificate is damaged: it is no X.509 certificate")
            .fix("get the profile again"));
    };
    if let Some(kind) = unusable(&leaf) {
        return Err(Problem::new(
            "ovpn.key.unsupported",
            format!("our certificate has {kind}, which adit cannot use"),
        )
        .fix("have a new certificate issued: RSA with 2048 to 4096 bits, ECDSA P-256 or P-384, or Ed25519")
        .seen(format!("its subject is {}", leaf.subject())));
    }
    match any_supported_type(key) {
        Ok(key) => {
            if key.public_key().is_some_and(|public| public.as_ref() != leaf.public_key().raw) {
                return Err(Problem::new(
                    "ovpn.key.mismatch",
                    "the private key does not belong to our certificate",
                )
                .seen(format!("the certificate is that of {}", leaf.subject()))
                .fix("use the certificate and the key of the same client"));
            }
        }
        Err(error) => {
            return Err(Problem::new(
                FORMAT,
                "the private key is damaged, or of a kind that adit cannot use",
            )
            .seen(error.to_string())
            .fix("check it: openssl pkey -in client.key -noout"));
        }
    }
    let now = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
    let validity = leaf.validity();
    if now > validity.not_after.timestamp() {
        return Err(Problem::new("ovpn.client.cert_expired", "our certificate has expired")
            .seen(format!("it was valid until {}", validity.not_after))
            .seen(format!("its subject is {}", leaf.subject()))
            .fix("get a new profile")
            .fix("check the clock of this machine: date -u"));
    }
    if now < validity.not_before.timestamp() {
        return Err(Problem::new("ovpn.client.cert_future", "our certificate is not valid yet")
            .seen(format!("it is valid from {}", validity.not_before))
            .fix("check the clock of this machine: date -u"));
    }
    Ok(())
}

/// The curve of a certificate's key, if it has one that nobody here can use.
pub(super) fn odd_curve(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = parse(certificate)?;
    if !matches!(parsed.public_key().parsed(), Ok(PublicKey::EC(_))) {
        return None;
    }
    curve_of(&parsed)
}

fn curve_of(certificate: &X509Certificate<'_>) -> Option<String> {
    let parameters = certificate.public_key().algorithm.parameters.as_ref();
    match parameters.and_then(|any| any.as_oid().ok()).map(|oid| oid.to_id_string()).as_deref() {
        Some("1.2.840.10045.3.1.7" | "1.3.132.0.34") => None,
        Some("1.3.132.0.35") => Some("P-521".to_owned()),
        Some("1.3.132.0.10") => Some("secp256k1".to_owned()),
        Some(other) => Some(other.to_owned()),
        None => Some("without a name".to_owned()),
    }
}

/// What makes a certificate unusable, if anything does.
pub(super) fn unusable(certificate: &X509Certificate<'_>) -> Option<String> {
    const MD5_RSA: &str = "1.2.840.113549.1.1.4";
    const MD2_RSA: &str = "1.2.840.113549.1.1.2";
    let signature = certificate.signature_algorithm.algorithm.to_id_string();
    if signature == MD5_RSA || signature == MD2_RSA {
        return Some("a signature with MD5".to_owned());
    }
    let spki = certificate.public_key();
    if spki.algorithm.algorithm.to_id_string() == "1.2.840.113549.1.1.10" {
        return Some("a key for RSA-PSS only".to_owned());
    }
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let bits = rsa.key_size();
            (!(2048..=4096).contains(&bits)).then(|| format!("an RSA key of {bits} bits"))
        }
        Ok(PublicKey::EC(_)) => curve_of(certificate).map(|curve| format!("a key on the curve {curve}")),
        Ok(PublicKey::DSA(_)) => Some("a DSA key".to_owned()),
        _ => None,
    }
}
