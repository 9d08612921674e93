//! OpenVPN profiles, and the keys and certificates that they name.

use std::path::Path;
use std::time::{Duration, Instant};

use adit_openvpn::{Clock, Credentials};
use adit_providers::ovpn::{Files, NoFiles, Ovpn, Supplied};
use adit_providers::{Problem, Problems, Secret};

const PASSWORD: &str = "test-password";

/// What a person gives. 2027-01-15 is within the validity of the corpus's certificates.
fn supplied() -> Supplied {
    Supplied {
        credentials: Some(Credentials { username: "alice".to_owned(), password: PASSWORD.to_owned().into() }),
        key_pass: Some(Secret::new(PASSWORD.into())),
        challenge: None,
        protected: Vec::new(),
        sso: Vec::new(),
        race: None,
        clock: Clock { instant: Instant::now(), unix: Duration::from_secs(1_800_000_000) },
    }
}

/// Everything that is said about a profile, after the checks that hold for all.
fn judged(outcome: Result<Ovpn, Problems>) -> String {
    let explained = |problems: &Problems| {
        assert!(!problems.0.is_empty(), "a refusal says why");
        for problem in &problems.0 {
            assert!(!problem.class.is_empty() && !problem.summary.is_empty() && !problem.fix.is_empty());
            assert!(!problem.summary.contains('\u{1b}'), "a terminal would obey: {problem:?}");
        }
        format!("{problems} {problems:?}")
    };
    let profile = match outcome {
        Ok(profile) => profile,
        Err(problems) => return explained(&problems),
    };
    assert!(
        !profile.remotes.is_empty() && !profile.data_ciphers.is_empty(),
        "a profile that passes is usable"
    );
    let mut shown = format!("{profile:?} {:?}", profile.explain());
    match profile.tunnel_config(supplied()) {
        Ok(config) => {
            let trust = &config.tls.trust;
            assert!(
                !trust.roots.is_empty() || !trust.fingerprints.is_empty(),
                "the server is recognised by something"
            );
            shown.push_str(&format!("{config:?}"));
        }
        Err(problems) => shown.push_str(&explained(&problems)),
    }
    shown
}

/// Reads a profile that is whole in itself; what it keeps secret is not shown.
pub fn openvpn_profile(bytes: &[u8]) {
    let shown = judged(Ovpn::read(bytes, Path::new("corp.ovpn"), &mut NoFiles));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        match line {
            "<key>" | "<pkcs12>" | "<tls-auth>" | "<tls-crypt>" | "<tls-crypt-v2>" => inside = true,
            _ if line.starts_with("</") => inside = false,
            _ if inside && line.len() >= 40 && !line.contains('-') => {
                let elsewhere = text.matches(line).count() > 1;
                assert!(elsewhere || !shown.contains(line), "a key was printed: {shown}");
            }
            _ => {}
        }
    }
}

/// One file behind every name.
struct Always<'a>(&'a [u8]);

impl Files for Always<'_> {
    fn read(&mut self, _: &Path, _: &str, _: bool) -> Result<(Secret, Option<Problem>), Problem> {
        Ok((Secret::new(self.0.to_vec()), None))
    }
}

/// Reads a key, certificate, archive or list: the first byte says as what.
pub fn openvpn_keys(bytes: &[u8]) {
    const CERTIFICATE: &str = include_str!("../../../crates/adit-providers/tests/keys/client.crt");
    let Some((what, content)) = bytes.split_first() else { return };
    let line = match what % 8 {
        0 => "key file",
        1 => "pkcs12 file",
        2 => "ca file",
        3 => "cert file",
        4 => "tls-crypt-v2 file",
        5 => "tls-auth file 1",
        6 => "crl-verify file",
        _ => "tls-crypt file",
    };
    let text = format!(
        "client\nremote a\nremote-cert-tls server\nauth-user-pass\n{line}\n<ca>\n{CERTIFICATE}</ca>\n<cert>\n{CERTIFICATE}</cert>\n"
    );
    judged(Ovpn::read(text.as_bytes(), Path::new("corp.ovpn"), &mut Always(content)));
}
