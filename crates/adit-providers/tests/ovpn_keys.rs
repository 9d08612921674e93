//! Private keys in every form that profiles have, opened with the right password, a wrong one and none.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_openvpn::{Clock, Config};
use adit_providers::ovpn::{Files, Ovpn, Supplied};
use adit_providers::{Problem, Problems, Reader, Secret};
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;

/// 2027-01-15, within the validity of the certificates.
const NOW: Duration = Duration::from_secs(1_800_000_000);

fn keys() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys")
}

fn read(text: &str) -> Result<Ovpn, Problems> {
    let mut reader = Reader { insecure_perms: true, ..Reader::default() };
    let text = format!("client\nremote vpn.example.com\nremote-cert-tls server\n{text}");
    Ovpn::read(text.as_bytes(), &keys().join("client.ovpn"), &mut reader)
}

fn open(profile: &Ovpn, password: Option<&str>, unix: Duration) -> Result<Config, Problem> {
    let supplied = Supplied {
        credentials: None,
        key_pass: password.map(|password| Secret::new(password.as_bytes().to_vec())),
        challenge: None,
        protected: Vec::new(),
        sso: Vec::new(),
        race: None,
        clock: Clock { instant: Instant::now(), unix },
    };
    profile.tunnel_config(supplied).map_err(|problems| problems.0.into_iter().next().unwrap())
}

fn public(config: &Config) -> Vec<u8> {
    let identity = config.tls.identity.as_ref().unwrap();
    rustls::crypto::ring::sign::any_supported_type(&identity.key)
        .unwrap()
        .public_key()
        .unwrap()
        .as_ref()
        .to_vec()
}

fn certificate(name: &str) -> CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::from_pem_file(keys().join(name)).unwrap()
}

fn class(profile: &str) -> (&'static str, String) {
    let problem = match read(profile) {
        Ok(profile) => open(&profile, Some("test-password"), NOW).unwrap_err(),
        Err(problems) => problems.0.into_iter().next().unwrap(),
    };
    (problem.class, problem.summary)
}

#[test]
fn keys_open_in_every_form_and_wrong_passwords_do_not() {
    let expected =
        public(&open(&read("ca ca.crt\ncert client.crt\nkey pkcs8.key").unwrap(), None, NOW).unwrap());
    let mut forms = 0;
    for entry in fs::read_dir(keys()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let form = name.strip_suffix(".key").filter(|form| {
            ["pbe", "scrypt", "traditional", "sec1", "pkcs8"].iter().any(|start| form.starts_with(start))
        });
        if form.is_none() {
            continue;
        }
        forms += 1;
        // Certificate and key in any order, as files and as blocks.
        let block = fs::read_to_string(keys().join(&name)).unwrap();
        for profile in [
            format!("key {name}\nca ca.crt\ncert client.crt\n"),
            format!("<key>\nsome text\n{}</key>\nca ca.crt\ncert client.crt\n", block.replace('\n', "\r\n")),
        ] {
            let profile = read(&profile).unwrap();
            let encrypted = profile.wants_key_pass();
            assert_eq!(encrypted, !matches!(name.as_str(), "sec1.key" | "pkcs8.key"), "{name}");
            let config = open(&profile, Some("test-password"), NOW).unwrap_or_else(|p| panic!("{name}: {p}"));
            assert_eq!(public(&config), expected, "{name}");
            if encrypted {
                let wrong = open(&profile, Some("wrong"), NOW).unwrap_err();
                assert_eq!(wrong.class, "ovpn.key.passphrase", "{name}");
                assert!(wrong.summary.contains("does not open it"), "{wrong}");
                let none = open(&profile, None, NOW).unwrap_err();
                assert!(none.summary.contains("was not given") && none.place.is_some(), "{none}");
            }
        }
    }
    assert_eq!(forms, 18);
}

#[test]
fn a_wrong_password_that_leaves_good_padding_is_still_wrong() {
    // Of 600 wrong passwords, two or three leave a padding that looks right by chance.
    let traditional = read("ca ca.crt\ncert client.crt\nkey traditional-des.key").unwrap();
    for number in 0..600 {
        let problem = open(&traditional, Some(&format!("wrong{number}")), NOW).unwrap_err();
        assert_eq!(problem.class, "ovpn.key.passphrase", "{number}: {problem}");
    }
}

#[test]
fn rsa_keys_open_in_the_older_forms() {
    for key in ["rsa-pkcs1.key", "rsa-traditional-aes256.key"] {
        let profile = read(&format!("ca ca.crt\ncert rsa.crt\nkey {key}")).unwrap();
        open(&profile, Some("test-password"), NOW).unwrap_or_else(|problem| panic!("{key}: {problem}"));
    }
}

#[test]
fn archives_open_with_certificate_chain_and_authority() {
    for (name, password) in [
        ("default.p12", "test-password"),
        ("legacy.p12", "test-password"),
        ("descert.p12", "test-password"),
        ("sha512.p12", "test-password"),
        ("empty.p12", ""),
        ("plain.p12", ""),
    ] {
        use base64::Engine as _;
        let der = fs::read(keys().join(name)).unwrap();
        let inline = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> =
            inline.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        for profile in [format!("pkcs12 {name}"), format!("<pkcs12>\n{}\n</pkcs12>", lines.join("\n"))] {
            let profile = read(&profile).unwrap();
            let config =
                open(&profile, Some(password), NOW).unwrap_or_else(|problem| panic!("{name}: {problem}"));
            let identity = config.tls.identity.as_ref().unwrap();
            assert_eq!(identity.chain[0], certificate("client.crt"), "{name}");
            assert_eq!(config.tls.trust.roots, [certificate("ca.crt")], "{name}");
            if !password.is_empty() {
                assert_eq!(
                    open(&profile, Some("wrong"), NOW).unwrap_err().class,
                    "ovpn.key.passphrase",
                    "{name}"
                );
                assert_eq!(open(&profile, None, NOW).unwrap_err().class, "ovpn.key.passphrase", "{name}");
            }
        }
    }
}

#[test]
fn a_damaged_archive_is_refused_at_every_byte_without_a_panic() {
    let der = fs::read(keys().join("legacy.p12")).unwrap();
    for end in (0..der.len()).step_by(7) {
        use base64::Engine as _;
        let inline = base64::engine::general_purpose::STANDARD.encode(&der[..end]);
        let said = class(&format!("<pkcs12>\n{inline}\n</pkcs12>"));
        assert!(said.0.starts_with("ovpn.key.") || said.0 == "credential.placeholder", "{end}: {said:?}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_before_a_server_is_called() {
    for (profile, expected, word) in [
        ("ca ca.crt\ncert rsa1024.crt\nkey rsa1024.key", "ovpn.key.unsupported", "RSA key of 1024 bits"),
        ("ca ca.crt\ncert p521.crt\nkey p521.key", "ovpn.key.unsupported", "P-521"),
        ("ca ca.crt\ncert k1.crt\nkey k1.key", "ovpn.key.unsupported", "secp256k1"),
        ("ca ca.crt\ncert md5.crt\nkey rsa-pkcs1.key", "ovpn.key.unsupported", "MD5"),
        ("ca ca.crt\ncert client.crt\nkey rsa-pkcs1.key", "ovpn.key.mismatch", "does not belong"),
        ("ca ca.crt\ncert client.crt\nkey client.crt", "ovpn.key.format", "no private key"),
        ("ca pkcs8.key\ncert client.crt\nkey pkcs8.key", "ovpn.key.format", "no certificate"),
        ("ca ca.crt\ncert client.crt\nkey nowhere.key", "ovpn.file.missing", "nowhere.key"),
        ("ca ca.crt\npkcs12 ca.crt", "ovpn.key.format", "no PKCS#12"),
        ("ca p521.crt\ncert client.crt\nkey pkcs8.key", "ovpn.key.unsupported", "P-521"),
        (
            "<ca>\n-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----\n</ca>\ncert client.crt\nkey pkcs8.key",
            "ovpn.key.format",
            "certificate 1 is damaged",
        ),
    ] {
        let said = class(profile);
        assert_eq!(said.0, expected, "{profile}: {said:?}");
        assert!(said.1.contains(word), "{said:?}");
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused_with_the_date() {
    let profile = read("ca ca.crt\ncert client.crt\nkey pkcs8.key").unwrap();
    let future = open(&profile, None, Duration::from_secs(1_000_000_000)).unwrap_err();
    assert_eq!(future.class, "ovpn.client.cert_future");
    let past = open(&profile, None, Duration::from_secs(10_000_000_000)).unwrap_err();
    assert_eq!(past.class, "ovpn.client.cert_expired");
    assert!(past.evidence[0].contains("valid until"), "{past:?}");
}

#[test]
fn a_file_with_a_key_that_others_can_read_is_refused_wherever_it_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    // Not under the temporary directory, which may be in memory and is tolerated then.
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("open-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let put = |name: &str, mode: u32, text: &str| {
        fs::write(directory.join(name), text).unwrap();
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let key = fs::read_to_string(keys().join("pkcs8.key")).unwrap();
    put("client.key", 0o644, &key);
    put("part.inc", 0o644, &format!("<key>\n{key}</key>\n"));
    put("plain.inc", 0o644, "remote vpn.example.com\n");
    let read = |line: &str| {
        let text = format!(
            "client\nremote a\nremote-cert-tls server\nca {0}/ca.crt\ncert {0}/client.crt\n{line}\n",
            keys().display()
        );
        Ovpn::read(text.as_bytes(), &directory.join("x.ovpn"), &mut Reader::default())
    };
    for line in ["key client.key", "config part.inc"] {
        let problem = read(line).unwrap_err().0.remove(0);
        assert_eq!(problem.class, "credential.permissions", "{line}: {problem}");
        assert!(problem.place.is_some() && !format!("{problem:?}").contains(key.lines().nth(1).unwrap()));
    }
    put("client.key", 0o600, &key);
    put("part.inc", 0o600, &format!("<key>\n{key}</key>\n"));
    read("key client.key\nconfig plain.inc").unwrap();
    read("config part.inc").unwrap();
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_password_may_stand_in_a_file_of_the_profile() {
    let directory = std::env::temp_dir().join(format!("adit-askpass-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("pass");
    fs::write(&file, "test-password\n").unwrap();
    let text = format!("ca ca.crt\ncert client.crt\nkey pbes2-aes256.key\naskpass {}", file.display());
    let profile = read(&text).unwrap();
    assert!(!profile.wants_key_pass());
    open(&profile, None, NOW).unwrap();
    fs::remove_dir_all(directory).unwrap();
}

/// One file behind every name.
struct Always(Vec<u8>);

impl Files for Always {
    fn read(&mut self, _: &Path, _: &str, _: bool) -> Result<(Secret, Option<Problem>), Problem> {
        Ok((Secret::new(self.0.clone()), None))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_damaged_key_or_archive_is_refused_with_a_reason_or_still_fits(
        file in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut files: Vec<_> = fs::read_dir(keys())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "key" || end == "p12"))
            .collect();
        files.sort();
        let path = file.get(&files);
        let mut bytes = fs::read(path).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()) + 1);
        }
        let option = if path.extension().is_some_and(|end| end == "p12") { "pkcs12" } else { "key" };
        let certificate = |name: &str| fs::read_to_string(keys().join(name)).unwrap();
        let text = format!(
            "client\nremote a\nremote-cert-tls server\n{option} x\n<ca>\n{}</ca>\n{}",
            certificate("ca.crt"),
            if option == "key" { format!("<cert>\n{}</cert>\n", certificate("client.crt")) } else { String::new() },
        );
        let said = match Ovpn::read(text.as_bytes(), Path::new("x.ovpn"), &mut Always(bytes)) {
            Ok(profile) => match open(&profile, Some("test-password"), NOW) {
                Ok(_) => return Ok(()),
                Err(problem) => problem,
            },
            Err(problems) => problems.0.into_iter().next().unwrap(),
        };
        prop_assert!(said.class.starts_with("ovpn.") || said.class.starts_with("credential."), "{said}");
        prop_assert!(!said.fix.is_empty(), "{said:?}");
    }
}
