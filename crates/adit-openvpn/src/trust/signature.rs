//! Who signed what.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::der_parser::asn1_rs::BitString;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::certificate::Certificate;
use super::error::TrustError;

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ED25519: &str = "1.3.101.112";

/// Why a signature does not hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It was not made by this key.
    Wrong,
    /// It was made with an algorithm that must not be used.
    Weak(&'static str),
    /// It cannot be checked.
    Unsupported(String),
    /// The RSA key that made it has only so many bits.
    Key(usize),
}

/// Checks that the key of `issuer` signed `child`. `modern` forbids SHA-1 and short keys.
pub(super) fn issued(
    child: &Certificate<'_>,
    issuer: &Certificate<'_>,
    modern: bool,
) -> Result<(), TrustError> {
    let x509 = &child.x509;
    let fault = check(
        x509.tbs_certificate.as_ref(),
        &x509.signature_algorithm,
        &x509.signature_value,
        issuer,
        modern,
    );
    fault.map_err(|fault| match fault {
        Fault::Wrong => TrustError::WrongAuthority { certificate: child.info(), authority: issuer.info() },
        Fault::Weak(algorithm) => {
            TrustError::WeakSignature { certificate: child.info(), algorithm: algorithm.to_owned() }
        }
        Fault::Unsupported(algorithm) => {
            TrustError::UnsupportedSignature { certificate: child.info(), algorithm }
        }
        Fault::Key(bits) => TrustError::WeakKey { certificate: issuer.info(), bits },
    })
}

/// Checks a signature over `message` by the key of `signer`.
pub(super) fn check(
    message: &[u8],
    algorithm: &AlgorithmIdentifier<'_>,
    value: &BitString<'_>,
    signer: &Certificate<'_>,
    modern: bool,
) -> Result<(), Fault> {
    let key = signer.x509.public_key();
    let bits = signer.rsa_bits();
    if let Some(bits) = bits.filter(|bits| *bits < if modern { 2048 } else { 1024 }) {
        return Err(Fault::Key(bits));
    }
    let (name, verification) = verification(algorithm, key, bits)?;
    if modern && name.contains("SHA-1") {
        return Err(Fault::Weak(name));
    }
    UnparsedPublicKey::new(verification, &key.subject_public_key.data)
        .verify(message, &value.data)
        .map_err(|_| Fault::Wrong)
}

/// What checks a signature of this algorithm by a key of this type, with its name.
fn verification(
    algorithm: &AlgorithmIdentifier<'_>,
    key: &SubjectPublicKeyInfo<'_>,
    bits: Option<usize>,
) -> Result<(&'static str, &'static dyn VerificationAlgorithm), Fault> {
    let oid = algorithm.algorithm.to_id_string();
    let unsupported = |name: &str| Err(Fault::Unsupported(name.to_owned()));
    let short = bits.is_some_and(|bits| bits < 2048);
    let kind = key.algorithm.algorithm.to_id_string();
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
    let (name, verification): (_, &'static dyn VerificationAlgorithm) = match (kind.as_str(), oid.as_str()) {
        (RSA, "1.2.840.113549.1.1.5" | "1.3.14.3.2.29") => {
            ("RSA with SHA-1", &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY)
        }
        (RSA, "1.2.840.113549.1.1.11") if short => {
            ("RSA with SHA-256", &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY)
        }
        (RSA, "1.2.840.113549.1.1.13") if short => {
            ("RSA with SHA-512", &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY)
        }
        (RSA, "1.2.840.113549.1.1.11") => ("RSA with SHA-256", &signature::RSA_PKCS1_2048_8192_SHA256),
        (RSA, "1.2.840.113549.1.1.12") => ("RSA with SHA-384", &signature::RSA_PKCS1_2048_8192_SHA384),
        (RSA, "1.2.840.113549.1.1.13") => ("RSA with SHA-512", &signature::RSA_PKCS1_2048_8192_SHA512),
        (RSA, "1.2.840.113549.1.1.10") => pss(algorithm)?,
        (EC, oid) => match (curve.as_str(), oid) {
            (P256, "1.2.840.10045.4.3.2") => ("ECDSA with SHA-256", &signature::ECDSA_P256_SHA256_ASN1),
            (P256, "1.2.840.10045.4.3.3") => ("ECDSA with SHA-384", &signature::ECDSA_P256_SHA384_ASN1),
            (P384, "1.2.840.10045.4.3.2") => ("ECDSA with SHA-256", &signature::ECDSA_P384_SHA256_ASN1),
            (P384, "1.2.840.10045.4.3.3") => ("ECDSA with SHA-384", &signature::ECDSA_P384_SHA384_ASN1),
            (P256 | P384, "1.2.840.10045.4.1") => return unsupported("ECDSA with SHA-1"),
            (P256 | P384, "1.2.840.10045.4.3.4") => return unsupported("ECDSA with SHA-512"),
            (P256 | P384, _) => return Err(Fault::Wrong),
            _ => return unsupported("ECDSA on another curve than P-256 and P-384"),
        },
        (ED25519, ED25519) => ("Ed25519", &signature::ED25519),
        (RSA, "1.2.840.113549.1.1.4") => return unsupported("RSA with MD5 (issue the certificates anew)"),
        (RSA, "1.2.840.113549.1.1.14") => return unsupported("RSA with SHA-224"),
        // A key of another type cannot have made the signature.
        (RSA | ED25519, _) => return Err(Fault::Wrong),
        (kind, _) => return unsupported(&format!("a key of type {kind}")),
    };
    Ok((name, verification))
}

/// RSASSA-PSS (RFC 4055 §3.1) in the form that TLS 1.3 uses: one hash for all, and a salt as long as it.
fn pss(
    algorithm: &AlgorithmIdentifier<'_>,
) -> Result<(&'static str, &'static dyn VerificationAlgorithm), Fault> {
    let unsupported = || Fault::Unsupported("RSA-PSS with unusual parameters".to_owned());
    let parameters = algorithm.parameters.as_ref().ok_or_else(unsupported)?;
    let parameters = RsaSsaPssParams::try_from(parameters).map_err(|_| unsupported())?;
    let mask = parameters.mask_gen_algorithm().map_err(|_| unsupported())?;
    let hash = parameters.hash_algorithm_oid();
    if mask.mgf.to_id_string() != "1.2.840.113549.1.1.8"
        || mask.hash != *hash
        || parameters.trailer_field() != 1
    {
        return Err(unsupported());
    }
    match (hash.to_id_string().as_str(), parameters.salt_length()) {
        ("2.16.840.1.101.3.4.2.1", 32) => Ok(("RSA-PSS with SHA-256", &signature::RSA_PSS_2048_8192_SHA256)),
        ("2.16.840.1.101.3.4.2.2", 48) => Ok(("RSA-PSS with SHA-384", &signature::RSA_PSS_2048_8192_SHA384)),
        ("2.16.840.1.101.3.4.2.3", 64) => Ok(("RSA-PSS with SHA-512", &signature::RSA_PSS_2048_8192_SHA512)),
        _ => Err(unsupported()),
    }
}
