//! Building and checking a chain from the server's certificate to an authority (RFC 5280 §6.1).

use ring::digest;

use super::certificate::Certificate;
use super::error::TrustError;
use super::{name, revocation, signature, usage};
use crate::config::Trust;

/// The longest chain, with the server's certificate and the authority.
const MAX_DEPTH: usize = 16;
/// How many certificates of the server are looked at.
pub(super) const MAX_SENT: usize = 32;
/// How many signatures are checked at most: names can fit each other in more ways than anyone can try.
const MAX_SIGNATURES: u32 = 100;

/// Looks for a chain from `leaf` over `pool` to one of `anchors` that holds at `now`.
///
/// # Errors
/// Why the most promising chain does not hold.
pub(super) fn check(
    leaf: &Certificate<'_>,
    anchors: &[Certificate<'_>],
    pool: &[Certificate<'_>],
    trust: &Trust,
    now: i64,
) -> Result<(), TrustError> {
    let mut search = Search { anchors, pool, trust, now, signatures: MAX_SIGNATURES, reason: None };
    if search.from(&mut vec![leaf]) {
        return Ok(());
    }
    // The search notes a reason whenever it turns back.
    Err(search.reason.unwrap_or(TrustError::TooComplex))
}

struct Search<'a> {
    anchors: &'a [Certificate<'a>],
    pool: &'a [Certificate<'a>],
    trust: &'a Trust,
    now: i64,
    signatures: u32,
    reason: Option<TrustError>,
}

impl<'a> Search<'a> {
    /// Whether the chain, or a longer one that begins with it, leads to an authority.
    fn from(&mut self, chain: &mut Vec<&'a Certificate<'a>>) -> bool {
        let Some(&last) = chain.last() else { return false };
        // `ca` may hold the server's certificate itself, or an authority that the server sent too.
        if self.anchors.iter().any(|anchor| anchor.x509.as_raw() == last.x509.as_raw()) {
            let result = self.complete(chain);
            return self.note(result);
        }
        let mut named = false;
        let (anchors, pool) = (self.anchors, self.pool);
        for candidate in anchors.iter().chain(pool) {
            if !name::same(candidate.x509.subject(), last.x509.issuer())
                || chain.iter().any(|other| other.x509.as_raw() == candidate.x509.as_raw())
            {
                continue;
            }
            named = true;
            if chain.len() >= MAX_DEPTH {
                return self.note(Err(TrustError::PathTooLong { certificate: last.info() }));
            }
            let result = self.issued(chain, last, candidate);
            if self.note(result) {
                chain.push(candidate);
                if self.from(chain) {
                    return true;
                }
                chain.pop();
            }
            if self.signatures == 0 {
                return self.note(Err(TrustError::TooComplex));
            }
        }
        if !named {
            let authorities = anchors.iter().map(|anchor| name::shown(anchor.x509.subject())).collect();
            self.note(Err(TrustError::UnknownAuthority { certificate: last.info(), authorities }));
        }
        false
    }

    /// Whether `issuer` signed `child`, the last of `chain`, and was entitled to.
    fn issued(
        &mut self,
        chain: &[&Certificate<'_>],
        child: &Certificate<'_>,
        issuer: &Certificate<'_>,
    ) -> Result<(), TrustError> {
        self.signatures = self.signatures.checked_sub(1).ok_or(TrustError::TooComplex)?;
        signature::issued(child, issuer, self.trust.modern)?;
        entitled(issuer, self.anchors)?;
        // Self-issued certificates do not count (RFC 5280 §4.2.1.9).
        let between = chain.iter().skip(1).filter(|link| !link.is_self_issued()).count();
        match issuer.constraints {
            Some((_, Some(limit))) if between > limit as usize => {
                Err(TrustError::PathTooLong { certificate: issuer.info() })
            }
            _ => Ok(()),
        }
    }

    /// The checks that need the whole chain.
    fn complete(&self, chain: &[&Certificate<'_>]) -> Result<(), TrustError> {
        for certificate in chain.iter().rev() {
            valid(certificate, self.now)?;
            if let Some(extension) = &certificate.unhandled {
                let extension = extension.clone();
                return Err(TrustError::Extension { certificate: certificate.info(), extension });
            }
            usage::for_tls_server(certificate)?;
        }
        if let Some(wanted) = &self.trust.issuer_hash {
            issuer_hash(chain, wanted)?;
        }
        chain.windows(2).try_for_each(|pair| match pair {
            [child, issuer] => revocation::check(child, issuer, self.trust, self.now),
            _ => Ok(()),
        })
    }

    /// Remembers why a chain does not hold. The reason that was found furthest on the way is the one to tell.
    fn note(&mut self, result: Result<(), TrustError>) -> bool {
        let Err(error) = result else { return true };
        if self.reason.as_ref().is_none_or(|known| progress(&error) > progress(known)) {
            self.reason = Some(error);
        }
        false
    }
}

/// How much of a chain was right when the error was found.
fn progress(error: &TrustError) -> u8 {
    match error {
        TrustError::UnknownAuthority { .. } => 0,
        TrustError::WrongAuthority { .. } => 1,
        TrustError::WeakSignature { .. }
        | TrustError::UnsupportedSignature { .. }
        | TrustError::WeakKey { .. } => 2,
        TrustError::NotAnAuthority { .. } | TrustError::PathTooLong { .. } => 3,
        TrustError::TooComplex => 4,
        _ => 5,
    }
}

fn valid(certificate: &Certificate<'_>, now: i64) -> Result<(), TrustError> {
    let validity = certificate.x509.validity();
    if now < validity.not_before.timestamp() {
        Err(TrustError::NotYetValid { certificate: certificate.info(), now })
    } else if now > validity.not_after.timestamp() {
        Err(TrustError::Expired { certificate: certificate.info(), now })
    } else {
        Ok(())
    }
}

/// Whether the certificate may issue others.
fn entitled(issuer: &Certificate<'_>, anchors: &[Certificate<'_>]) -> Result<(), TrustError> {
    let refused = |reason| Err(TrustError::NotAnAuthority { certificate: issuer.info(), reason });
    if issuer.key_usage.is_some_and(|bits| bits & usage::KEY_CERT_SIGN == 0) {
        return refused("its key usage lacks keyCertSign");
    }
    match issuer.constraints {
        Some((true, _)) => Ok(()),
        Some((false, _)) => refused("its basic constraints say that it is no authority"),
        // Version 1 cannot say so. Whoever put it into `ca` did; one that was sent could be any client's.
        None if issuer.is_old() => {
            if anchors.iter().any(|anchor| anchor.x509.as_raw() == issuer.x509.as_raw()) {
                Ok(())
            } else {
                refused("it is of version 1 and not in `ca`")
            }
        }
        None if issuer.key_usage.is_some() => Ok(()),
        None if issuer.netscape.is_some_and(|(_, authority)| authority) => Ok(()),
        None => refused("it has no basic constraints"),
    }
}

/// `verify-hash`: SHA-256, or SHA-1 where 20 bytes are given, of the certificate above the server's.
fn issuer_hash(chain: &[&Certificate<'_>], wanted: &[u8]) -> Result<(), TrustError> {
    let algorithm = if wanted.len() == digest::SHA1_OUTPUT_LEN {
        &digest::SHA1_FOR_LEGACY_USE_ONLY
    } else {
        &digest::SHA256
    };
    let Some(issuer) = chain.get(1).or(chain.first()) else { return Ok(()) };
    if digest::digest(algorithm, issuer.x509.as_raw()).as_ref() == wanted {
        Ok(())
    } else {
        Err(TrustError::IssuerHash { certificate: issuer.info() })
    }
}
