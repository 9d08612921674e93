//! Why a server is not believed.

use std::fmt;

use crate::config::NameCheck;

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateRole {
    /// The server's own.
    Server,
    /// One between, sent by the server or from `extra-certs`.
    Intermediate,
    /// One of `ca`.
    Authority,
}

impl fmt::Display for CertificateRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "the server's certificate",
            Self::Intermediate => "the intermediate certificate",
            Self::Authority => "the certificate of the authority",
        })
    }
}

/// What identifies a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Whose it is.
    pub role: CertificateRole,
    /// The subject, as `verify-x509-name` writes it.
    pub subject: String,
    /// The issuer in the same form.
    pub issuer: String,
    /// The serial number in hexadecimal, as `openssl x509 -serial` prints it.
    pub serial: String,
    /// When it begins, in seconds since 1970.
    pub not_before: i64,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
}

impl CertificateInfo {
    /// The fingerprint as `peer-fingerprint` writes it.
    #[must_use]
    pub fn fingerprint_text(&self) -> String {
        let bytes: Vec<String> = self.fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
        bytes.join(":")
    }
}

impl fmt::Display for CertificateInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.role, self.subject)
    }
}

/// What is wrong with a list of revoked certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrlProblem {
    /// It cannot be read.
    Unreadable,
    /// It has ended at this time, in seconds since 1970.
    Expired(i64),
    /// It begins at this time, in seconds since 1970.
    NotYetValid(i64),
    /// The authority's key did not sign it.
    Signature,
    /// The authority may not sign such lists: its key usage lacks cRLSign.
    NotEntitled,
    /// It has a critical extension that is not known here, or is an indirect list.
    Extension(String),
}

/// Why the server is not believed, with what was seen. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The profile names nobody to believe.
    #[error("the profile has neither `ca` nor `peer-fingerprint`: no server could be believed")]
    NoAuthority,
    /// The certificate cannot be read.
    #[error("{role} cannot be read: {reason}")]
    Unreadable {
        /// Whose it is.
        role: CertificateRole,
        /// What is wrong.
        reason: String,
    },
    /// It has ended.
    #[error("{certificate} expired at {}; here it is {}", date(.certificate.not_after), date(*.now))]
    Expired {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// The time here.
        now: i64,
    },
    /// It has not begun. In a fresh sandbox the clock is the usual reason.
    #[error("{certificate} is valid from {}; here it is {}", date(.certificate.not_before), date(*.now))]
    NotYetValid {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// The time here.
        now: i64,
    },
    /// Nobody in `ca` has the name of the issuer.
    #[error("{certificate} is issued by {}, which is not in `ca` ({})", .certificate.issuer, .authorities.join("; "))]
    UnknownAuthority {
        /// The last certificate of the chain.
        certificate: Box<CertificateInfo>,
        /// The subjects of `ca`.
        authorities: Vec<String>,
    },
    /// The name of the issuer is known, but its key did not sign: an authority made anew under the same name.
    #[error("{certificate} is not signed by the key of {authority}: another authority with the same name")]
    WrongAuthority {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// The one with the name of the issuer.
        authority: Box<CertificateInfo>,
    },
    /// A certificate issued another without being entitled to.
    #[error("{certificate} may not issue certificates: {reason}")]
    NotAnAuthority {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// Why not.
        reason: &'static str,
    },
    /// More certificates in a row than an authority allows, or than are looked at.
    #[error("the chain above {certificate} is too long")]
    PathTooLong {
        /// The one that sets the limit, or the last that was looked at.
        certificate: Box<CertificateInfo>,
    },
    /// There are more ways through the sent certificates than are tried.
    #[error("the server sent certificates that fit each other in too many ways")]
    TooComplex,
    /// `tls-cert-profile` forbids the signature.
    #[error("{certificate} is signed with {algorithm}, which `tls-cert-profile` does not allow")]
    WeakSignature {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// With what.
        algorithm: String,
    },
    /// The signature cannot be checked here.
    #[error("{certificate} is signed with {algorithm}, which is not supported")]
    UnsupportedSignature {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// With what.
        algorithm: String,
    },
    /// An RSA key is too short.
    #[error("{certificate} has an RSA key of {bits} bits, which is too short")]
    WeakKey {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// The length of the key.
        bits: usize,
    },
    /// The server's key is none that TLS can use here.
    #[error("{certificate} has a key that is not supported: use RSA, P-256, P-384 or Ed25519")]
    UnsupportedKey {
        /// Which.
        certificate: Box<CertificateInfo>,
    },
    /// A critical extension is not known here.
    #[error("{certificate} has the critical extension {extension}, which is not known")]
    Extension {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// The extension's object identifier.
        extension: String,
    },
    /// It is not meant for a server, or not in the way that the profile wants.
    #[error("{certificate} is not made for this use: wanted {wanted}, it has {found}")]
    Usage {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// The option or the rule that wants it.
        wanted: String,
        /// What it is made for.
        found: String,
    },
    /// `verify-x509-name` is not met.
    #[error("{certificate} has another name than the profile wants: {}", wanted_name(.wanted, .common_name))]
    Name {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// What the profile wants.
        wanted: NameCheck,
        /// Its common name, where there is one.
        common_name: Option<String>,
    },
    /// `peer-fingerprint` is not met.
    #[error("{certificate} has the fingerprint {}, which is not in `peer-fingerprint`", .certificate.fingerprint_text())]
    Fingerprint {
        /// Which.
        certificate: Box<CertificateInfo>,
    },
    /// `verify-hash` is not met.
    #[error("{certificate} issued the server's certificate, and its hash is not that of `verify-hash`")]
    IssuerHash {
        /// The issuer.
        certificate: Box<CertificateInfo>,
    },
    /// It was revoked.
    #[error("{certificate}, serial {}, was revoked on {}", .certificate.serial, date(*.since))]
    Revoked {
        /// Which.
        certificate: Box<CertificateInfo>,
        /// Since when.
        since: i64,
    },
    /// Its serial number stands among the revoked ones.
    #[error("{certificate}, serial {}, stands in the directory of revoked certificates", .certificate.serial)]
    RevokedSerial {
        /// Which.
        certificate: Box<CertificateInfo>,
    },
    /// A list of revoked certificates of an authority in the chain cannot be used.
    #[error("the list of revoked certificates of {issuer} {}", crl(.problem, *.now))]
    Crl {
        /// The authority.
        issuer: String,
        /// What is wrong.
        problem: CrlProblem,
        /// The time here.
        now: i64,
    },
}

fn wanted_name(wanted: &NameCheck, common_name: &Option<String>) -> String {
    let found = common_name.as_deref().unwrap_or("none");
    match wanted {
        NameCheck::Subject(name) => format!("the subject {name}"),
        NameCheck::Name(name) => format!("the common name {name}, found {found}"),
        NameCheck::Prefix(prefix) => format!("a common name that begins with {prefix}, found {found}"),
    }
}

fn crl(problem: &CrlProblem, now: i64) -> String {
    let now = date(now);
    match problem {
        CrlProblem::Unreadable => "cannot be read".into(),
        CrlProblem::Expired(end) => format!("expired on {}; here it is {now}", date(*end)),
        CrlProblem::NotYetValid(start) => format!("is valid from {}; here it is {now}", date(*start)),
        CrlProblem::Signature => "is not signed by its key".into(),
        CrlProblem::NotEntitled => "is signed by a key that is not made for it (cRLSign)".into(),
        CrlProblem::Extension(oid) => format!("has the critical extension {oid}, which is not known"),
    }
}

/// A time in the Gregorian calendar (RFC 3339).
fn date(unix: i64) -> String {
    let (days, seconds) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    // Years begin in March here, so that the day of a leap year is the last; an era has 400 of them.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_478_400, "2026-11-24T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(unix), text);
        }
    }
}
