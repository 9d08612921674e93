//! Names of cipher suites and groups: those of OpenSSL, and those of IANA that rustls has.

use super::lex::Directive;
use super::read::{Reading, shown};

/// The suites of TLS 1.2 in adit: the name of IANA, and that of OpenSSL.
const TLS12: [(&str, &str); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
];

/// The suites of TLS 1.3 in adit.
const TLS13: [&str; 3] = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"];

/// The groups in adit: the name that is kept, and others for it.
const GROUPS: [(&str, &[&str]); 3] = [
    ("X25519", &["x25519"]),
    ("secp256r1", &["secp256r1", "prime256v1", "p-256"]),
    ("secp384r1", &["secp384r1", "p-384"]),
];

/// `tls-cipher`: OpenSSL's language of lists, as far as it names suites. Empty for all that adit has.
pub(super) fn tls12(at: &Directive, reading: &mut Reading<'_>) -> Option<Vec<String>> {
    let mut chosen: Vec<String> = Vec::new();
    let mut whole_families = false;
    for word in at.arg(0)?.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        // `!` and `-` take suites away, none of which adit has; `@` sets levels and orders.
        if word.starts_with(['!', '-', '@']) {
            continue;
        }
        let iana = word.to_ascii_uppercase().replace('-', "_");
        match TLS12.iter().find(|(name, openssl)| *name == iana || openssl.eq_ignore_ascii_case(word)) {
            Some((name, _)) if chosen.iter().any(|known| known == name) => {}
            Some((name, _)) => chosen.push((*name).to_owned()),
            None => whole_families |= family(word),
        }
    }
    if whole_families {
        return Some(Vec::new());
    }
    if chosen.is_empty() {
        reading.refused(
            at,
            Some(0),
            "tls-cipher allows only suites that adit does not have: without forward secrecy, with DHE, or with CBC",
            "delete the line, if the server allows an ECDHE suite with AES-GCM; else change the server",
        );
        return None;
    }
    Some(chosen)
}

/// Words of OpenSSL for sets of suites that contain some of adit's.
fn family(word: &str) -> bool {
    const SETS: [&str; 13] = [
        "DEFAULT", "ALL", "HIGH", "ECDHE", "EECDH", "KECDHE", "KEECDH", "AESGCM", "AES", "AES128", "AES256",
        "CHACHA20", "TLSV1.2",
    ];
    let mut parts = word.split('+').map(str::to_ascii_uppercase).peekable();
    parts.peek().is_some()
        && parts.all(|part| {
            SETS.contains(&part.as_str())
                || matches!(part.as_str(), "ARSA" | "AECDSA" | "ECDSA" | "RSA" | "SHA256" | "SHA384")
                    && word.contains("EC")
        })
}

/// `tls-ciphersuites`. Empty for all that adit has.
pub(super) fn tls13(at: &Directive, reading: &mut Reading<'_>) -> Option<Vec<String>> {
    let words = at.arg(0)?.split([':', ',']).map(|word| word.trim().to_ascii_uppercase().replace('-', "_"));
    let chosen: Vec<String> = words.filter(|word| TLS13.contains(&word.as_str())).collect();
    if chosen.is_empty() {
        let have = TLS13.join(", ");
        reading.refused(
            at,
            Some(0),
            &format!("tls-ciphersuites names no suite that adit has: {have}"),
            "delete the line",
        );
        return None;
    }
    Some(chosen)
}

/// `tls-groups`. Empty for all that adit has.
pub(super) fn groups(at: &Directive, reading: &mut Reading<'_>) -> Option<Vec<String>> {
    let mut chosen: Vec<String> = Vec::new();
    let mut left_out = Vec::new();
    for word in at.arg(0)?.split([':', ',']).filter(|word| !word.is_empty()) {
        let lower = word.to_ascii_lowercase();
        match GROUPS.iter().find(|(_, names)| names.contains(&lower.as_str())) {
            Some((name, _)) => chosen.push((*name).to_owned()),
            None => left_out.push(shown(word)),
        }
    }
    if chosen.is_empty() {
        reading.refused(
            at,
            Some(0),
            "tls-groups names no group that adit has: X25519, secp256r1, secp384r1",
            "delete the line, or allow one of them on the server",
        );
        return None;
    }
    if !left_out.is_empty() {
        tracing::debug!(groups = %left_out.join(":"), "groups that adit does not have are left out");
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::super::lex::lex;
    use super::super::read::NoFiles;
    use super::*;

    fn said(line: &str, choose: fn(&Directive, &mut Reading<'_>) -> Option<Vec<String>>) -> Option<String> {
        let mut files = NoFiles;
        let mut reading = Reading::new(&mut files, std::path::Path::new("x.ovpn"));
        let chosen = choose(&lex(line, 1, None).directives[0], &mut reading);
        assert_eq!(chosen.is_none(), !reading.problems.is_empty());
        chosen.map(|chosen| chosen.join(":"))
    }

    #[test]
    fn openssl_names_become_those_of_iana_and_others_are_refused() {
        for (list, expected) in [
            ("TLS-ECDHE-RSA-WITH-AES-128-GCM-SHA256", Some("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")),
            ("ECDHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES256-SHA", Some("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")),
            ("DEFAULT:!EXP:!LOW:!MEDIUM", Some("")),
            ("ECDHE+AESGCM:ECDHE+CHACHA20", Some("")),
            ("DEFAULT:@SECLEVEL=0", Some("")),
            ("TLS-DHE-RSA-WITH-AES-256-CBC-SHA", None),
            ("AES256-SHA:@SECLEVEL=0", None),
            ("ECDHE-RSA-AES256-SHA384", None),
        ] {
            assert_eq!(said(&format!("tls-cipher {list}"), tls12).as_deref(), expected, "{list}");
        }
    }

    #[test]
    fn suites_and_groups_that_are_not_here_drop_out() {
        assert_eq!(
            said("tls-ciphersuites TLS_AES_256_GCM_SHA384:TLS_AES_128_CCM_SHA256", tls13).as_deref(),
            Some("TLS_AES_256_GCM_SHA384")
        );
        assert_eq!(said("tls-ciphersuites TLS_AES_128_CCM_SHA256", tls13), None);
        assert_eq!(
            said("tls-groups prime256v1:secp521r1:X25519", groups).as_deref(),
            Some("secp256r1:X25519")
        );
        assert_eq!(said("tls-groups secp521r1", groups), None);
    }
}
