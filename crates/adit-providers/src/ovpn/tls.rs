//! TLS: whom to believe, who we are, and what is offered.

use adit_openvpn::{KeyUsage, NameCheck, TlsVersion, Trust};

use super::identity;
use super::keys::{self, KeyMaterial};
use super::lex::Directive;
use super::read::{Content, Reading, shown};
use super::servers::unfilled;
use super::suites;
use crate::{Problem, Secret, placeholder};
use rustls_pki_types::CertificateDer;

/// Everything about TLS, while it is read.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) trust: Trust,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Option<(KeyMaterial, Directive)>,
    pub(super) pkcs12: Option<(Secret, Directive)>,
    pub(super) askpass: Option<Secret>,
    pub(super) min: TlsVersion,
    pub(super) max: TlsVersion,
    pub(super) suites_12: Vec<String>,
    pub(super) suites_13: Vec<String>,
    pub(super) groups: Vec<String>,
    /// Some of `ca`, `cert`, `key` was there and could not be read, which has been reported.
    broken: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            chain: Vec::new(),
            key: None,
            pkcs12: None,
            askpass: None,
            min: TlsVersion::V12,
            max: TlsVersion::V13,
            suites_12: Vec::new(),
            suites_13: Vec::new(),
            groups: Vec::new(),
            broken: false,
        }
    }
}

impl Tls {
    /// Takes a directive, if it is about TLS.
    pub(super) fn apply(&mut self, at: &Directive, reading: &mut Reading<'_>) -> bool {
        match at.name.text.as_str() {
            "ca" => {
                let roots = self.certificates(at, "the certificate of the authority", reading);
                self.trust.roots.extend(roots);
            }
            "capath" => self.directory(at, reading),
            "extra-certs" => {
                let more = self.certificates(at, "the further certificates", reading);
                self.trust.intermediates.extend(more);
            }
            "cert" => {
                let chain = self.certificates(at, "our certificate", reading);
                self.chain.extend(chain);
            }
            "key" => self.private_key(at, reading),
            "pkcs12" => self.archive(at, reading),
            "askpass" => {
                if at.arg(0).is_some_and(|file| file != "stdin") {
                    self.askpass = reading.content(at, 0, "the key's password", true).map(|c| c.bytes);
                }
            }
            "crl-verify" => self.crl(at, reading),
            "tls-version-min" | "tls-version-max" => self.version(at, reading),
            "tls-cipher" => suites::tls12(at, reading).map_or((), |list| self.suites_12 = list),
            "tls-ciphersuites" => suites::tls13(at, reading).map_or((), |list| self.suites_13 = list),
            "tls-groups" => suites::groups(at, reading).map_or((), |list| self.groups = list),
            "key-method" => {
                if at.arg(0) != Some("2") {
                    reading.refused(at, Some(0), "key-method 1 ended with OpenVPN 2.4", "update the server");
                }
            }
            _ => return self.checks(at, reading),
        }
        true
    }

    /// What the server's certificate must be like.
    fn checks(&mut self, at: &Directive, reading: &mut Reading<'_>) -> bool {
        let first = at.arg(0).unwrap_or("");
        match at.name.text.as_str() {
            "remote-cert-tls" | "ns-cert-type" => match first {
                "server" if at.name.text == "remote-cert-tls" => self.trust.usage.push(KeyUsage::Server),
                "server" => self.trust.usage.push(KeyUsage::NetscapeServer),
                _ => reading.wrong(
                    at,
                    Some(0),
                    "a client expects the certificate of a server",
                    "write remote-cert-tls server",
                ),
            },
            "remote-cert-ku" => {
                let bits = |text: &str| u16::from_str_radix(text.trim_start_matches("0x"), 16).ok();
                let found: Option<Vec<u16>> = at.args.iter().map(|token| bits(&token.text)).collect();
                match found {
                    // Without values any key usage will do, as long as there is one.
                    Some(found) if found.is_empty() => {
                        self.trust.usage.push(KeyUsage::Bits((0..8).map(|bit| 1 << bit).collect()));
                    }
                    Some(found) => self.trust.usage.push(KeyUsage::Bits(found)),
                    None => reading.wrong(
                        at,
                        Some(0),
                        "key usages are hexadecimal numbers",
                        "write remote-cert-ku a0 88",
                    ),
                }
            }
            "remote-cert-eku" => self.trust.usage.push(KeyUsage::Extended(first.to_owned())),
            "tls-remote" => self.trust.name = Some(NameCheck::Prefix(first.to_owned())),
            "verify-x509-name" => {
                if placeholder(first).is_some() {
                    reading.problems.push(at.problem(Some(0), unfilled("the server's name", first)));
                    return true;
                }
                self.trust.name = match at.arg(1) {
                    None | Some("subject") => Some(NameCheck::Subject(first.to_owned())),
                    Some("name") => Some(NameCheck::Name(first.to_owned())),
                    Some("name-prefix") => Some(NameCheck::Prefix(first.to_owned())),
                    Some(_) => {
                        reading.wrong(
                            at,
                            Some(1),
                            "the way to compare is subject, name or name-prefix",
                            "write verify-x509-name NAME name",
                        );
                        None
                    }
                };
            }
            "peer-fingerprint" => self.fingerprints(at, reading),
            "verify-hash" => {
                let text = match &at.block {
                    Some(block) => block.text.to_string(),
                    None => first.to_owned(),
                };
                match hexadecimal(text.trim()).filter(|hash| matches!(hash.len(), 20 | 32)) {
                    Some(hash) => self.trust.issuer_hash = Some(hash),
                    None => reading.wrong(
                        at,
                        Some(0),
                        "this is no hash of a certificate",
                        "write the 32 bytes of its SHA-256 in hexadecimal, with colons",
                    ),
                }
            }
            "tls-cert-profile" => match first {
                "insecure" | "legacy" => self.trust.modern = false,
                "preferred" | "suiteb" => self.trust.modern = true,
                _ => reading.wrong(
                    at,
                    Some(0),
                    "tls-cert-profile is insecure, legacy, preferred or suiteb",
                    "write legacy, or delete the line",
                ),
            },
            _ => return false,
        }
        true
    }

    fn fingerprints(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let text = match &at.block {
            Some(block) => block.text.to_string(),
            None => at.arg(0).unwrap_or("").to_owned(),
        };
        let lines = text.lines().map(|line| line.split(['#', ';']).next().unwrap_or("").trim());
        let mut found = 0;
        for line in lines.filter(|line| !line.is_empty()) {
            match hexadecimal(line).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
                Some(fingerprint) if self.trust.fingerprints.len() < 256 => {
                    self.trust.fingerprints.push(fingerprint);
                    found += 1;
                }
                _ => {
                    self.broken = true;
                    return reading.wrong(at, None, &format!("`{}` is no SHA-256 fingerprint", shown(line)), "write 32 bytes in hexadecimal with colons: openssl x509 -fingerprint -sha256 -noout -in server.crt");
                }
            }
        }
        if found == 0 {
            self.broken = true;
            reading.problems.push(at.problem(None, unfilled("peer-fingerprint", "nothing")));
        }
    }

    fn version(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let least = at.name.text == "tls-version-min";
        let version = match at.arg(0) {
            Some("1.0" | "1.1") if least => TlsVersion::V12,
            Some("1.0" | "1.1") => {
                return reading.refused(
                    at,
                    Some(0),
                    "the profile forbids TLS 1.2 and later, and adit has nothing older",
                    "delete the line; if the server has no TLS 1.2, update it",
                );
            }
            Some("1.2") => TlsVersion::V12,
            Some("1.3") => TlsVersion::V13,
            _ => return reading.wrong(at, Some(0), "there is no such version of TLS", "write 1.2 or 1.3"),
        };
        if least {
            self.min = version;
        } else {
            self.max = version;
        }
    }

    fn crl(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        if at.arg(1) == Some("dir") {
            let names = reading.list(at, 0, "the directory of revoked certificates").unwrap_or_default();
            self.trust.revoked.extend(names.iter().filter_map(|name| serial(name)));
            return;
        }
        let Some(content) = reading.content(at, 0, "the list of revoked certificates", false) else { return };
        match keys::crls(content.bytes.expose()) {
            Ok(lists) => self.trust.crls.extend(lists),
            Err(problem) => self.damaged(at, &content, "crl-verify", problem, reading),
        }
    }

    /// Authorities and lists of revoked certificates under the names that OpenSSL gives them.
    fn directory(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let what = "the directory of authorities";
        let Some(names) = reading.list(at, 0, what) else {
            self.broken = true;
            return;
        };
        let before = self.trust.roots.len();
        for name in names {
            let Some(list) = hashed(&name) else { continue };
            let Some(content) = reading.member(at, 0, &name, what) else { continue };
            let read = match list {
                true => keys::crls(content.expose()).map(|lists| self.trust.crls.extend(lists)),
                false => keys::certificates(content.expose()).map(|(found, _)| {
                    let whole = found.into_iter().filter(|der| identity::parse(der).is_some());
                    self.trust.roots.extend(whole);
                }),
            };
            if let Err(problem) = read {
                let problem = Problem { summary: format!("{name}: {}", problem.summary), ..problem };
                reading.problems.push(at.problem(Some(0), problem));
            }
        }
        if self.trust.roots.len() == before {
            let summary = "the directory has no authority under a name that OpenSSL looks for";
            reading.wrong(at, Some(0), summary, "run openssl rehash DIRECTORY, or name one file: ca FILE");
        }
    }

    fn certificates(
        &mut self,
        at: &Directive,
        what: &str,
        reading: &mut Reading<'_>,
    ) -> Vec<CertificateDer<'static>> {
        let name = at.name.text.clone();
        let Some(content) = reading.content(at, 0, what, false) else {
            self.broken = true;
            return Vec::new();
        };
        match keys::certificates(content.bytes.expose()) {
            Ok((certificates, key)) => {
                if let Some(index) = certificates.iter().position(|der| identity::parse(der).is_none()) {
                    let summary = format!("certificate {} is damaged: it is no X.509 certificate", index + 1);
                    let problem = Problem::new("ovpn.key.format", summary).fix("get the profile again");
                    self.damaged(at, &content, &name, problem, reading);
                    return Vec::new();
                }
                if name == "ca"
                    && let [Some(curve), rest @ ..] =
                        certificates.iter().map(identity::odd_curve).collect::<Vec<_>>().as_slice()
                    && rest.iter().all(Option::is_some)
                {
                    let summary =
                        format!("the authority has a key on the curve {curve}, which adit cannot use");
                    let problem = Problem::new("ovpn.key.unsupported", summary)
                        .fix("have the authority issued anew: RSA, ECDSA P-256 or P-384, or Ed25519");
                    self.damaged(at, &content, &name, problem, reading);
                    return Vec::new();
                }
                // Certificate and key in one file, as some exporters write it.
                if let Some(key) = key.filter(|_| name == "cert" && self.key.is_none()) {
                    self.key = Some((key, at.clone()));
                }
                certificates
            }
            Err(problem) => {
                self.damaged(at, &content, &name, problem, reading);
                Vec::new()
            }
        }
    }

    fn private_key(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let Some(content) = reading.content(at, 0, "our private key", true) else {
            self.broken = true;
            return;
        };
        match keys::private_key(content.bytes.expose()) {
            Ok((key, certificates)) => {
                self.key = Some((key, at.clone()));
                if self.chain.is_empty() {
                    self.chain = certificates;
                }
            }
            Err(problem) => self.damaged(at, &content, "key", problem, reading),
        }
    }

    fn archive(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let Some(content) = reading.content(at, 0, "the PKCS#12 archive", true) else {
            self.broken = true;
            return;
        };
        match keys::archive(content.bytes.expose()) {
            Some(der) => self.pkcs12 = Some((der, at.clone())),
            None => {
                let problem = Problem::new("ovpn.key.format", "this is no PKCS#12 archive")
                    .fix("export it again: openssl pkcs12 -export -inkey client.key -in client.crt -out client.p12");
                self.damaged(at, &content, "pkcs12", problem, reading);
            }
        }
    }

    /// A block or file that holds nothing usable: empty, a placeholder, or damaged.
    fn damaged(
        &mut self,
        at: &Directive,
        content: &Content,
        name: &str,
        problem: Problem,
        reading: &mut Reading<'_>,
    ) {
        self.broken = true;
        let text = content.bytes.expose_text().unwrap_or("");
        let secret = matches!(name, "key" | "pkcs12");
        let mut problem = match placeholder(text) {
            Some(found) if !text.contains("-----BEGIN") => unfilled(name, found),
            _ if text.is_empty() && content.bytes.is_blank() => unfilled(name, "nothing"),
            _ => Problem { summary: format!("{name}: {}", problem.summary), ..problem },
        };
        if secret && problem.class == "ovpn.config.placeholder" {
            problem.class = "credential.placeholder";
        }
        if let Some(file) = &content.file {
            problem = problem.seen(format!("in {}", file.display()));
        }
        let index = Some(0).filter(|_| at.block.is_none());
        reading.problems.push(at.problem(index, problem));
    }

    /// What is missing or does not fit, after everything was read.
    pub(super) fn finish(&self, no_certificate: bool, password: bool, reading: &mut Reading<'_>) {
        // What else is wrong may be the reason for what is missing.
        if self.broken || !reading.problems.is_empty() {
            return;
        }
        let missing = |what: &str, fix: &str| Problem::new("ovpn.config.missing", what).fix(fix);
        if self.min > self.max {
            reading.problems.push(
                Problem::new("ovpn.config.parse", "tls-version-min is above tls-version-max")
                    .fix("delete tls-version-max"),
            );
        }
        if self.trust.roots.is_empty() && self.trust.fingerprints.is_empty() && self.pkcs12.is_none() {
            reading.problems.push(missing(
                "the profile has no `ca`, so the server cannot be recognised",
                "add the authority's certificate: <ca> … </ca>, or `ca ca.crt` with the file next to the profile",
            ));
        }
        match (&self.key, self.chain.is_empty()) {
            (Some((_, at)), true) => reading.problems.push(at.problem(
                None,
                missing("the profile has a key and no certificate", "add the certificate: <cert> … </cert>"),
            )),
            (None, false) => reading.problems.push(missing(
                "the profile has a certificate and no private key",
                "add the key: <key> … </key>, or `key client.key` with the file next to the profile",
            )),
            (None, true) if self.pkcs12.is_none() && !no_certificate && !password => {
                reading.problems.push(missing(
                    "the profile has neither a certificate nor `auth-user-pass`, so it cannot say who we are",
                    "add <cert> and <key>, as your administrator gave them to you",
                ));
            }
            _ => {}
        }
        let trust = &self.trust;
        if trust.usage.is_empty()
            && trust.name.is_none()
            && trust.fingerprints.is_empty()
            && trust.issuer_hash.is_none()
        {
            reading.warnings.push(
                Problem::new(
                    "ovpn.server.unchecked",
                    "the profile does not check that the server is a server",
                )
                .seen("any certificate of the same authority would be believed")
                .fix("add: remote-cert-tls server"),
            );
        }
    }
}

/// Bytes in hexadecimal, with or without colons.
pub(super) fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !matches!(c, ':' | ' '))
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    (rest.is_empty() && !pairs.is_empty()).then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Whether a file has a name of OpenSSL's for directories, `HASH.N` or `HASH.rN`, and holds revoked certificates.
fn hashed(name: &str) -> Option<bool> {
    let (hash, number) = name.split_once('.')?;
    let (list, number) = number.strip_prefix('r').map_or((false, number), |number| (true, number));
    let digits = |text: &str, test: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(test);
    let is = hash.len() == 8 && digits(hash, u8::is_ascii_hexdigit) && digits(number, u8::is_ascii_digit);
    is.then_some(list)
}

/// The serial number that a file is named by, in decimal; big-endian and without zeros in front.
fn serial(name: &str) -> Option<Vec<u8>> {
    // RFC 5280 §4.1.2.2: no serial number has more than 20 bytes, which are 49 digits.
    if name.is_empty() || name.len() > 49 {
        return None;
    }
    let mut bytes: Vec<u8> = Vec::new();
    for digit in name.bytes() {
        let mut carry = u32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 10;
            *byte = (carry & 0xff) as u8;
            carry >>= 8;
        }
        if carry > 0 {
            bytes.insert(0, carry as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_serial_numbers_in_decimal() {
        assert_eq!(serial("255"), Some(vec![255]));
        assert_eq!(serial("0065536"), Some(vec![1, 0, 0]));
        assert_eq!(serial("340282366920938463463374607431768211455"), Some(vec![0xff; 16]));
        assert_eq!(serial("0"), Some(Vec::new()));
        for other in ["", "12a", "-1", ".gitkeep", "99999999999999999999999999999999999999999999999999"] {
            assert_eq!(serial(other), None, "{other}");
        }
    }

    #[test]
    fn names_of_openssl_tell_authorities_from_lists() {
        assert_eq!(hashed("9d66eef0.0"), Some(false));
        assert_eq!(hashed("9d66eef0.r12"), Some(true));
        for other in ["ca.pem", "9d66eef0.", "9d66eef0.r", "9d66eef.0", "9d66eef0.0.bak", "9d66eefg.0"] {
            assert_eq!(hashed(other), None, "{other}");
        }
    }
}
