//! The data channel: ciphers, digests, framing, timers.

use std::time::Duration;

use adit_openvpn::{Algorithm, Cipher};

use super::lex::Directive;
use super::read::{Reading, shown};
use crate::Problem;

const WEAK: &str = "ovpn.cipher.weak";

/// Everything about the data channel, while it is read.
#[derive(Debug)]
pub(super) struct Data {
    listed: Option<(Vec<Cipher>, Directive)>,
    fallback: Option<Cipher>,
    cipher: Option<(Option<Cipher>, Directive)>,
    auth: Option<(Option<Algorithm>, Directive)>,
    pub(super) ping: Option<Duration>,
    pub(super) ping_restart: Option<Duration>,
    pub(super) ping_exit: Option<Duration>,
    pub(super) inactive: Option<(Duration, u64)>,
    pub(super) session_timeout: Option<Duration>,
    pub(super) reneg_interval: Duration,
    pub(super) reneg_bytes: Option<u64>,
    pub(super) reneg_packets: Option<u64>,
    pub(super) tran_window: Duration,
    pub(super) hand_window: Duration,
    pub(super) tls_timeout: Duration,
    pub(super) replay_window: u32,
}

impl Default for Data {
    /// The defaults of the manual.
    fn default() -> Self {
        Self {
            listed: None,
            fallback: None,
            cipher: None,
            auth: None,
            ping: None,
            ping_restart: None,
            ping_exit: None,
            inactive: None,
            session_timeout: None,
            reneg_interval: Duration::from_secs(3600),
            reneg_bytes: None,
            reneg_packets: None,
            tran_window: Duration::from_secs(3600),
            hand_window: Duration::from_secs(60),
            tls_timeout: Duration::from_secs(2),
            replay_window: 64,
        }
    }
}

/// What is offered when a profile says nothing.
const DEFAULT: [Cipher; 3] = [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305];

/// A cipher by its name, in any case.
pub(super) fn cipher(name: &str) -> Option<Cipher> {
    Some(match name.to_ascii_uppercase().as_str() {
        "AES-128-GCM" | "ID-AES128-GCM" => Cipher::Aes128Gcm,
        "AES-256-GCM" | "ID-AES256-GCM" => Cipher::Aes256Gcm,
        "CHACHA20-POLY1305" => Cipher::ChaCha20Poly1305,
        "AES-128-CBC" => Cipher::Aes128Cbc,
        "AES-192-CBC" => Cipher::Aes192Cbc,
        "AES-256-CBC" => Cipher::Aes256Cbc,
        _ => return None,
    })
}

/// A cipher's name.
pub(super) fn cipher_name(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::Aes128Gcm => "AES-128-GCM",
        Cipher::Aes256Gcm => "AES-256-GCM",
        Cipher::ChaCha20Poly1305 => "CHACHA20-POLY1305",
        Cipher::Aes128Cbc => "AES-128-CBC",
        Cipher::Aes192Cbc => "AES-192-CBC",
        Cipher::Aes256Cbc => "AES-256-CBC",
    }
}

/// A digest by its name: `SHA256`, `sha-256`, `RSA-SHA256`.
fn algorithm(name: &str) -> Option<Algorithm> {
    let upper = name.to_ascii_uppercase();
    Some(match upper.strip_prefix("RSA-").unwrap_or(&upper).replace("SHA-", "SHA").as_str() {
        "MD5" => Algorithm::Md5,
        "SHA" | "SHA1" => Algorithm::Sha1,
        "SHA224" | "SHA2-224" => Algorithm::Sha224,
        "SHA256" | "SHA2-256" => Algorithm::Sha256,
        "SHA384" | "SHA2-384" => Algorithm::Sha384,
        "SHA512" | "SHA2-512" => Algorithm::Sha512,
        _ => return None,
    })
}

impl Data {
    /// Takes a directive, if it is about the data channel.
    pub(super) fn apply(&mut self, at: &Directive, reading: &mut Reading<'_>) -> bool {
        let name = at.name.text.as_str();
        match name {
            "data-ciphers" | "ncp-ciphers" => self.list(at, reading),
            "data-ciphers-fallback" => match at.arg(0).map(cipher) {
                Some(Some(found)) => self.fallback = Some(found),
                _ => no_cipher(at, reading),
            },
            "cipher" => self.cipher = Some((at.arg(0).and_then(cipher), at.clone())),
            "auth" => match at.arg(0).unwrap_or("") {
                none if none.eq_ignore_ascii_case("none") => self.auth = Some((None, at.clone())),
                word => match algorithm(word) {
                    Some(found) => self.auth = Some((Some(found), at.clone())),
                    None => reading.refused(
                        at,
                        Some(0),
                        &format!("adit does not have the digest `{}`", shown(word)),
                        "let the server use SHA256, or ask for a profile that does",
                    ),
                },
            },
            "replay-window" => {
                // 0 and 1 would refuse every packet that is overtaken; the least that works is kept.
                if !at.args.is_empty()
                    && let Some(window) = reading.number(at, 0, 0, 65535)
                {
                    self.replay_window = window as u32;
                }
            }
            "ping" => self.ping = seconds(at, 0, reading),
            "ping-restart" => self.ping_restart = seconds(at, 0, reading),
            "ping-exit" => self.ping_exit = seconds(at, 0, reading).filter(|time| !time.is_zero()),
            "keepalive" => {
                self.ping = seconds(at, 0, reading);
                self.ping_restart = seconds(at, 1, reading);
            }
            "inactive" => {
                let bytes = if at.args.len() > 1 { reading.number(at, 1, 0, u64::MAX) } else { Some(0) };
                self.inactive = seconds(at, 0, reading).filter(|time| !time.is_zero()).zip(bytes);
            }
            "session-timeout" => {
                self.session_timeout = seconds(at, 0, reading).filter(|time| !time.is_zero());
            }
            "reneg-sec" => self.reneg_interval = seconds(at, 0, reading).unwrap_or(self.reneg_interval),
            "reneg-bytes" => self.reneg_bytes = limit(at, reading),
            "reneg-pkts" => self.reneg_packets = limit(at, reading),
            "tran-window" => self.tran_window = seconds(at, 0, reading).unwrap_or(self.tran_window),
            "hand-window" => {
                if let Some(time) = reading.number(at, 0, 1, 86400) {
                    self.hand_window = Duration::from_secs(time);
                }
            }
            "tls-timeout" => {
                if let Some(time) = reading.number(at, 0, 1, 3600) {
                    self.tls_timeout = Duration::from_secs(time);
                }
            }
            _ => return false,
        }
        true
    }

    fn list(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let mut ciphers: Vec<Cipher> = Vec::new();
        let mut left_out = Vec::new();
        for word in at.arg(0).unwrap_or("").split(':').filter(|word| !word.is_empty()) {
            let optional = word.starts_with('?');
            let word = word.trim_start_matches('?');
            if word == "DEFAULT" {
                ciphers.extend(DEFAULT);
            } else if let Some(found) = cipher(word) {
                ciphers.push(found);
            } else if !optional {
                left_out.push(shown(word));
            }
        }
        let mut seen = std::collections::HashSet::new();
        ciphers.retain(|cipher| seen.insert(*cipher));
        if ciphers.is_empty() {
            return no_cipher(at, reading);
        }
        if !left_out.is_empty() {
            let what = format!(
                "these ciphers are left out, because adit does not have them: {}",
                left_out.join(", ")
            );
            reading.doubt(at, Some(0), WEAK, what, "delete them, if the server does not insist on them");
        }
        self.listed = Some((ciphers, at.clone()));
    }

    /// The digest of tls-auth and of CBC ciphers; `None` for `auth none`.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        self.auth.as_ref().map_or(Some(Algorithm::Sha1), |(algorithm, _)| *algorithm)
    }

    /// What is offered, and what is used with servers that negotiate nothing.
    pub(super) fn ciphers(&self, reading: &mut Reading<'_>) -> (Vec<Cipher>, Option<Cipher>) {
        let mut offered = match &self.listed {
            Some((ciphers, _)) => ciphers.clone(),
            None => DEFAULT.to_vec(),
        };
        let fallback = self.fallback.or(self.cipher.as_ref().and_then(|(cipher, _)| *cipher));
        match &self.cipher {
            // What clients before 2.5 did, and what the servers of that time count on.
            Some((Some(cipher), _)) if self.listed.is_none() && !offered.contains(cipher) => {
                offered.push(*cipher)
            }
            Some((None, at)) => match at.arg(0) {
                Some(none) if none.eq_ignore_ascii_case("none") => reading.refused(
                    at,
                    Some(0),
                    "`cipher none` sends everything in clear, which adit does not do",
                    "let the server use AES-256-GCM",
                ),
                word => {
                    let word = shown(word.unwrap_or(""));
                    let summary = format!(
                        "adit does not have the cipher `{word}`; a server that has no other cannot be used"
                    );
                    reading.doubt(
                        at,
                        Some(0),
                        WEAK,
                        summary,
                        "delete the line: servers since 2.4 negotiate AES-256-GCM",
                    );
                }
            },
            _ => {}
        }
        if let Some((None, at)) = &self.auth
            && offered
                .iter()
                .chain(&fallback)
                .any(|cipher| matches!(cipher, Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc))
        {
            reading.refused(
                at,
                Some(0),
                "a CBC cipher with `auth none` would not be authenticated, which adit does not do",
                "let the server use AES-256-GCM",
            );
        }
        if let Some((Some(Algorithm::Md5), at)) = &self.auth {
            reading.doubt(at, Some(0), WEAK, "MD5 is a weak digest", "let the server use SHA256");
        }
        (offered, fallback)
    }
}

fn no_cipher(at: &Directive, reading: &mut Reading<'_>) {
    let names: Vec<_> = [
        Cipher::Aes256Gcm,
        Cipher::Aes128Gcm,
        Cipher::ChaCha20Poly1305,
        Cipher::Aes256Cbc,
        Cipher::Aes192Cbc,
        Cipher::Aes128Cbc,
    ]
    .map(cipher_name)
    .to_vec();
    let summary = format!("adit has no cipher of `{}`", shown(at.arg(0).unwrap_or("")));
    let problem = Problem::new("ovpn.config.unsupported", summary)
        .seen(format!("it has {}", names.join(", ")))
        .fix("let the server use AES-256-GCM; BF-CBC and DES are broken");
    reading.problems.push(at.problem(Some(0), problem));
}

fn seconds(at: &Directive, index: usize, reading: &mut Reading<'_>) -> Option<Duration> {
    reading.number(at, index, 0, 10 * 365 * 86400).map(Duration::from_secs)
}

/// A limit of bytes or packets; 0 is none.
fn limit(at: &Directive, reading: &mut Reading<'_>) -> Option<u64> {
    reading.number(at, 0, 0, u64::MAX).filter(|limit| *limit != 0)
}
