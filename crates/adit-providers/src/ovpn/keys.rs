//! Certificates and private keys out of PEM, DER and PKCS#12.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer,
    PrivateSec1KeyDer,
};
use zeroize::Zeroizing;

use super::der::{Der, SEQUENCE};
use super::pbe::{self, Closed};
use super::pem::{self, Pem};
use super::pkcs12;
use crate::{Problem, Secret};

const FORMAT: &str = "ovpn.key.format";

/// A private key as it stands in a profile.
pub(super) enum KeyMaterial {
    /// In clear.
    Plain(PrivateKeyDer<'static>),
    /// Under a password: PKCS#8, or the older form with `Proc-Type: 4,ENCRYPTED`.
    Encrypted(Pem),
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Encrypted(_) => "Encrypted",
        })
    }
}

impl Clone for KeyMaterial {
    fn clone(&self) -> Self {
        match self {
            Self::Plain(key) => Self::Plain(key.clone_key()),
            Self::Encrypted(pem) => Self::Encrypted(pem.clone()),
        }
    }
}

/// The text of a file with PEM blocks. Dumps around them may be in any code page.
fn text(bytes: &[u8]) -> Zeroizing<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Zeroizing::new(text.to_owned()),
        Err(_) => Zeroizing::new(bytes.iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// Whether bytes begin like a DER sequence of some length.
fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x80..=0x84, ..])
}

/// The certificates of a block or file, and the key that may stand among them.
///
/// # Errors
///
/// There is none, or one is damaged.
pub(super) fn certificates(
    bytes: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, Option<KeyMaterial>), Problem> {
    if is_der(bytes) {
        return Ok((vec![CertificateDer::from(bytes.to_vec())], None));
    }
    let blocks = pem::blocks(&text(bytes))?;
    let found: Vec<_> = blocks.iter().filter_map(certificate).collect();
    if found.is_empty() {
        return Err(Problem::new(FORMAT, "there is no certificate in it")
            .seen(labels(&blocks))
            .fix("a certificate begins with -----BEGIN CERTIFICATE-----; copy it with this line"));
    }
    let key = blocks.iter().find_map(|block| key(block).transpose()).and_then(Result::ok);
    Ok((found, key))
}

fn certificate(block: &Pem) -> Option<CertificateDer<'static>> {
    let labels = ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];
    labels.contains(&block.label.as_str()).then(|| CertificateDer::from(block.der.to_vec()))
}

fn labels(blocks: &[Pem]) -> String {
    match blocks {
        [] => "it has no PEM block".to_owned(),
        blocks => {
            let labels: Vec<_> = blocks.iter().take(8).map(|block| block.label.as_str()).collect();
            format!("it has: {}", labels.join(", "))
        }
    }
}

/// The private key of a block or file, and the certificates that stand beside it.
///
/// # Errors
///
/// There is none, it is damaged, or of a kind that cannot be used.
pub(super) fn private_key(bytes: &[u8]) -> Result<(KeyMaterial, Vec<CertificateDer<'static>>), Problem> {
    if is_der(bytes) {
        return match PrivateKeyDer::try_from(bytes) {
            Ok(key) => Ok((KeyMaterial::Plain(key.clone_key()), Vec::new())),
            Err(_) => Err(Problem::new(FORMAT, "this is no private key").fix("get the key again")),
        };
    }
    let blocks = pem::blocks(&text(bytes))?;
    for block in &blocks {
        if let Some(found) = key(block)? {
            return Ok((found, blocks.iter().filter_map(certificate).collect()));
        }
    }
    Err(Problem::new(FORMAT, "there is no private key in it")
        .seen(labels(&blocks))
        .fix("a key begins with -----BEGIN PRIVATE KEY----- or the like; copy it with this line"))
}

/// The key of a block; `None` for blocks that are no keys, like `EC PARAMETERS`.
fn key(block: &Pem) -> Result<Option<KeyMaterial>, Problem> {
    let unusable = |what: &str, fix: &str| {
        Err(Problem::new("ovpn.key.unsupported", format!("this is {what}, which TLS cannot use")).fix(fix))
    };
    let der = || block.der.to_vec();
    if block.header("Proc-Type").is_some_and(|value| value.contains("ENCRYPTED")) {
        return Ok(Some(KeyMaterial::Encrypted(block.clone())));
    }
    let plain: PrivateKeyDer<'static> = match block.label.as_str() {
        "PRIVATE KEY" => PrivatePkcs8KeyDer::from(der()).into(),
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der()).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(der()).into(),
        "ENCRYPTED PRIVATE KEY" => return Ok(Some(KeyMaterial::Encrypted(block.clone()))),
        "OPENSSH PRIVATE KEY" => {
            return unusable("a key of OpenSSH", "give the key that belongs to the certificate");
        }
        "DSA PRIVATE KEY" => return unusable("a DSA key", "have a certificate with an RSA or EC key issued"),
        _ => return Ok(None),
    };
    Ok(Some(KeyMaterial::Plain(plain)))
}

/// Opens an encrypted key.
pub(super) fn decrypt(block: &Pem, password: &str) -> Result<PrivateKeyDer<'static>, Closed> {
    if block.label == "ENCRYPTED PRIVATE KEY" {
        let der = pkcs12::shrouded(&block.der, password)?;
        return Ok(PrivatePkcs8KeyDer::from(der.to_vec()).into());
    }
    let der = pbe::open_traditional(block, password)?;
    // One wrong password in 256 leaves a padding that looks right.
    let whole = Der(&der).enter(SEQUENCE).and_then(|mut inner| inner.number()).is_some();
    if !whole {
        return Err(Closed::Password);
    }
    Ok(match block.label.as_str() {
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der.to_vec()).into(),
        "EC PRIVATE KEY" => PrivateSec1KeyDer::from(der.to_vec()).into(),
        _ => PrivatePkcs8KeyDer::from(der.to_vec()).into(),
    })
}

/// The lists of revoked certificates in a block or file.
///
/// # Errors
///
/// There is none, or one is damaged.
pub(super) fn crls(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, Problem> {
    if is_der(bytes) {
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let blocks = pem::blocks(&text(bytes))?;
    let found: Vec<_> = blocks
        .iter()
        .filter(|block| block.label == "X509 CRL")
        .map(|block| CertificateRevocationListDer::from(block.der.to_vec()))
        .collect();
    if found.is_empty() {
        return Err(Problem::new(FORMAT, "there is no list of revoked certificates in it")
            .seen(labels(&blocks))
            .fix("a list begins with -----BEGIN X509 CRL-----"));
    }
    Ok(found)
}

/// The bytes of a PKCS#12 archive: a file is binary, a block is base64.
pub(super) fn archive(bytes: &[u8]) -> Option<Secret> {
    if is_der(bytes) {
        return Some(Secret::new(bytes.to_vec()));
    }
    let text = text(bytes);
    if let Some(block) = pem::blocks(&text).ok()?.first() {
        return (block.label == "PKCS12").then(|| Secret::new(block.der.to_vec()));
    }
    let mut digits = Zeroizing::new(String::with_capacity(text.len()));
    digits.extend(text.chars().filter(|c| !c.is_whitespace()));
    let der = STANDARD.decode(digits.as_bytes()).ok().filter(|der| is_der(der))?;
    Some(Secret::new(der))
}
