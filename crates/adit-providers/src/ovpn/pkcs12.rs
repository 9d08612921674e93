//! PKCS#12 archives (RFC 7292): a key and certificates under a password.

use ring::hmac;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::der::{CONTEXT_0, Der, IMPLICIT_0, OCTETS, OID, SEQUENCE, damaged};
use super::pbe::{self, Closed};
use crate::Problem;

const WHAT: &str = "the PKCS#12 archive";
/// No archive for a client has more parts.
const MAX_BAGS: usize = 256;

const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 6];
/// `bagtypes`; the last number says which.
const BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1];
const X509: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 22, 1];

/// What an archive holds.
pub(super) struct Archive {
    /// The first private key.
    pub(super) key: Option<PrivateKeyDer<'static>>,
    /// All certificates, in their order.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// Opens an archive.
pub(super) fn open(der: &[u8], password: &str) -> Result<Archive, Closed> {
    let broken = || Closed::Problem(damaged(WHAT).seen("it is no DER, or it was cut"));
    let mut archive = Der(der).enter(SEQUENCE).ok_or_else(broken)?;
    if archive.number().ok_or_else(broken)? != 3 {
        return Err(broken());
    }
    let mut safe = archive.enter(SEQUENCE).ok_or_else(broken)?;
    if safe.take(OID).ok_or_else(broken)? != DATA {
        let why = "it is signed with a certificate in place of a password";
        return Err(Problem::new("ovpn.key.unsupported", "the PKCS#12 archive has no password")
            .seen(why)
            .fix("export it again with a password")
            .into());
    }
    let content = safe.enter(CONTEXT_0).and_then(|mut inner| inner.take(OCTETS)).ok_or_else(broken)?;
    let password = authenticated(archive, content, password)?;
    let mut parts = Der(content).enter(SEQUENCE).ok_or_else(broken)?;
    let mut found = Archive { key: None, certificates: Vec::new() };
    let mut budget = MAX_BAGS;
    while !parts.is_empty() {
        let mut part = parts.enter(SEQUENCE).ok_or_else(broken)?;
        let kind = part.take(OID).ok_or_else(broken)?;
        let mut inner = part.enter(CONTEXT_0).ok_or_else(broken)?;
        match kind {
            DATA => bags(inner.take(OCTETS).ok_or_else(broken)?, &password, &mut budget, &mut found)?,
            ENCRYPTED_DATA => {
                let mut encrypted = inner.enter(SEQUENCE).ok_or_else(broken)?;
                encrypted.number().ok_or_else(broken)?;
                let mut info = encrypted.enter(SEQUENCE).ok_or_else(broken)?;
                info.take(OID).ok_or_else(broken)?;
                let algorithm = info.take(SEQUENCE).ok_or_else(broken)?;
                let data = info.take(IMPLICIT_0).ok_or_else(broken)?;
                let opened = pbe::open(algorithm, data, &password, WHAT)?;
                bags(&opened, &password, &mut budget, &mut found).map_err(|_| Closed::Password)?;
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Checks the MAC over the content, where there is one that is known. An archive with an empty password may have been
/// made with none.
fn authenticated(mut archive: Der<'_>, content: &[u8], password: &str) -> Result<Zeroizing<String>, Closed> {
    let good = || Zeroizing::new(password.to_owned());
    let Some(mut mac) = archive.enter(SEQUENCE) else { return Ok(good()) };
    let broken = || Closed::Problem(damaged(WHAT));
    let mut info = mac.enter(SEQUENCE).ok_or_else(broken)?;
    info.take(SEQUENCE).ok_or_else(broken)?;
    let digest = info.take(OCTETS).ok_or_else(broken)?;
    let salt = mac.take(OCTETS).ok_or_else(broken)?;
    let rounds = if mac.is_empty() { 1 } else { mac.number().ok_or_else(broken)? };
    let algorithm = match digest.len() {
        20 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        32 => hmac::HMAC_SHA256,
        48 => hmac::HMAC_SHA384,
        64 => hmac::HMAC_SHA512,
        // Newer ways to authenticate; the padding shows a wrong password as well.
        _ => return Ok(good()),
    };
    let encoded = pbe::utf16(password);
    let candidates: &[&[u8]] = if password.is_empty() { &[&encoded, &[]] } else { &[&encoded] };
    for candidate in candidates {
        let key = pbe::mac_key(digest.len(), candidate, salt, rounds).ok_or_else(broken)?;
        if hmac::verify(&hmac::Key::new(algorithm, &key), content, digest).is_ok() {
            return Ok(good());
        }
    }
    Err(Closed::Password)
}

fn bags(content: &[u8], password: &str, budget: &mut usize, found: &mut Archive) -> Result<(), Closed> {
    let broken = || Closed::Problem(damaged(WHAT));
    let mut list = Der(content).enter(SEQUENCE).ok_or_else(broken)?;
    while !list.is_empty() {
        *budget = budget.checked_sub(1).ok_or_else(broken)?;
        let mut bag = list.enter(SEQUENCE).ok_or_else(broken)?;
        let kind = bag.take(OID).ok_or_else(broken)?;
        let value = bag.take(CONTEXT_0).ok_or_else(broken)?;
        match kind.strip_prefix(BAG) {
            Some([1]) => key(value, found),
            Some([2]) => {
                let opened = shrouded(value, password)?;
                key(&opened, found);
            }
            Some([3]) => {
                let mut certificate = Der(value).enter(SEQUENCE).ok_or_else(broken)?;
                if certificate.take(OID) == Some(X509)
                    && let Some(der) = certificate.enter(CONTEXT_0).and_then(|mut inner| inner.take(OCTETS))
                {
                    found.certificates.push(CertificateDer::from(der.to_vec()));
                }
            }
            // Lists in lists, revocation lists and secrets of other programs.
            _ => {}
        }
    }
    Ok(())
}

fn key(der: &[u8], found: &mut Archive) {
    if found.key.is_none() {
        found.key = Some(PrivatePkcs8KeyDer::from(der.to_vec()).into());
    }
}

/// An `EncryptedPrivateKeyInfo` (RFC 5958 §3).
pub(super) fn shrouded(der: &[u8], password: &str) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let what = "the encrypted private key";
    let broken = || Closed::Problem(damaged(what));
    let mut info = Der(der).enter(SEQUENCE).ok_or_else(broken)?;
    let algorithm = info.take(SEQUENCE).ok_or_else(broken)?;
    let data = info.take(OCTETS).ok_or_else(broken)?;
    let opened = pbe::open(algorithm, data, password, what)?;
    // One wrong password in 256 leaves a padding that looks right.
    let whole = Der(&opened).enter(SEQUENCE).and_then(|mut inner| inner.number()).is_some();
    if whole { Ok(opened) } else { Err(Closed::Password) }
}
