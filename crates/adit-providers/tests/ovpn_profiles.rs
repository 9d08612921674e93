//! Profiles after the shape of what servers and vendors export, good and bad, and what adit says of each.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_openvpn::{Clock, Config, Credentials};
use adit_providers::ovpn::options::{self, Treatment};
use adit_providers::ovpn::{Files, NoFiles, Ovpn, Supplied};
use adit_providers::{Problem, Problems, Reader, Secret};
use proptest::prelude::*;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The files of the profiles' directory, and the keys as if they stood beside them.
struct Beside(Reader);

impl Files for Beside {
    fn read(&mut self, path: &Path, what: &str, secret: bool) -> Result<(Secret, Option<Problem>), Problem> {
        let key = directory("keys").join(path.file_name().unwrap_or_default());
        let beside = path.parent() == Some(&directory("profiles")) && !path.exists();
        let path = if beside { &key } else { path };
        let read = Files::read(&mut self.0, path, what, secret)?;
        // Checked out files have whatever mode git gives them.
        Ok((read.0, None))
    }
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory("profiles"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ovpn"))
        .collect();
    files.sort();
    files
}

/// A profile with keys in place of their names, in its own encoding.
fn content(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let wide = bytes.starts_with(&[0xff, 0xfe]);
    let text = if wide {
        let units = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
        char::decode_utf16(units).map(Result::unwrap).collect()
    } else {
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => return error.into_bytes(),
        }
    };
    let fill = |line: &str| {
        let name = line.trim().strip_prefix('@').and_then(|rest| rest.strip_suffix('@'));
        match name {
            Some(name) => fs::read_to_string(directory("keys").join(name)).unwrap(),
            None => line.to_owned(),
        }
    };
    let text: String = text.split_inclusive('\n').map(fill).collect();
    if wide { text.encode_utf16().flat_map(u16::to_le_bytes).collect() } else { text.into_bytes() }
}

fn read(path: &Path) -> Result<Ovpn, Problems> {
    let mut files = Beside(Reader { insecure_perms: true, ..Reader::default() });
    Ovpn::read(&content(path), path, &mut files)
}

fn supplied() -> Supplied {
    Supplied {
        credentials: Some(Credentials {
            username: "alice".to_owned(),
            password: "canary-password-2".to_owned().into(),
        }),
        key_pass: Some(Secret::new(b"test-password".to_vec())),
        challenge: None,
        protected: Vec::new(),
        sso: Vec::new(),
        race: None,
        // 2027-01-15, within the validity of the certificates.
        clock: Clock { instant: Instant::now(), unix: Duration::from_secs(1_800_000_000) },
    }
}

fn config(name: &str) -> Config {
    read(&directory("profiles").join(format!("{name}.ovpn"))).unwrap().tunnel_config(supplied()).unwrap()
}

fn describe(problem: &Problem) -> String {
    let mut text = format!("{problem}\n");
    if let Some(place) = &problem.place {
        let _ = writeln!(text, "  | {}", place.text);
        let _ = writeln!(text, "  | {}{}", " ".repeat(place.column - 1), "^".repeat(place.length));
    }
    for evidence in &problem.evidence {
        let _ = writeln!(text, "  seen: {evidence}");
    }
    for fix in &problem.fix {
        let _ = writeln!(text, "  fix:  {fix}");
    }
    text.replace(env!("CARGO_MANIFEST_DIR"), "[HERE]")
}

fn judge(path: &Path) -> Result<String, String> {
    let profile = match read(path) {
        Ok(profile) => profile,
        Err(problems) => return Err(problems.0.iter().map(describe).collect()),
    };
    let mut text = String::new();
    for fact in profile.explain() {
        let _ = writeln!(text, "{:12} {}", fact.key, fact.values.join("\n             "));
    }
    text.extend(profile.warnings.iter().map(describe));
    profile.tunnel_config(supplied()).map_err(|problems| problems.to_string())?;
    Ok(text)
}

#[test]
fn every_profile_is_read_or_refused_as_recorded() {
    let files = files();
    let good = files.iter().filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with("bad-"));
    assert!(good.count() >= 60, "profiles are missing");
    let mut canaries = vec!["canary".to_owned()];
    for key in ["pkcs8.key", "ta.key", "tc2-client.key", "traditional-aes256.key"] {
        let text = fs::read_to_string(directory("keys").join(key)).unwrap();
        canaries
            .extend(text.lines().filter(|line| !line.contains("---") && line.len() > 24).map(str::to_owned));
    }
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let said = judge(&path);
        assert_eq!(name.starts_with("bad-"), said.is_err(), "{name}: {said:?}");
        let said = said.unwrap_or_else(|refusal| refusal);
        let shown = format!("{said}{:?}", read(&path));
        for canary in &canaries {
            assert!(!shown.contains(canary.as_str()), "{name} shows a secret:\n{said}");
        }
        insta::assert_snapshot!(format!("ovpn_{name}"), said);
    }
}

#[test]
fn every_option_that_is_used_is_taken_by_a_part_of_the_reader() {
    // In a debug build the reader panics at an option of the table that no part takes.
    for option in options::all().filter(|option| option.treatment == Treatment::Used) {
        for count in option.least..=option.most.min(4) {
            let line = format!("{}{}", option.name, " 1".repeat(count));
            let _ = Ovpn::read(line.as_bytes(), Path::new("x.ovpn"), &mut NoFiles);
        }
        if option.inline {
            let block = format!("<{0}>\nx\n</{0}>\n", option.name);
            let _ = Ovpn::read(block.as_bytes(), Path::new("x.ovpn"), &mut NoFiles);
        }
        if option.connection && option.name != "remote" {
            let line = format!(
                "<connection>\nremote a\n{}{}\n</connection>",
                option.name,
                " 1".repeat(option.least)
            );
            if let Err(problems) = Ovpn::read(line.as_bytes(), Path::new("x.ovpn"), &mut NoFiles) {
                for problem in problems.0 {
                    assert!(!problem.summary.contains("cannot stand in"), "{problem}");
                }
            }
        }
    }
}

#[test]
fn every_refused_option_is_refused_and_every_noted_one_is_noted() {
    let around = |line: &str| {
        let mut files = Beside(Reader { insecure_perms: true, ..Reader::default() });
        let text = format!("client\nremote a\nremote-cert-tls server\nauth-user-pass\nca ca.crt\n{line}\n");
        Ovpn::read(text.as_bytes(), &directory("profiles").join("x.ovpn"), &mut files)
    };
    for option in options::all() {
        let line = format!("{}{}", option.name, " 1".repeat(option.least));
        match option.treatment {
            Treatment::Used => {}
            Treatment::Quiet => assert_eq!(around(&line).unwrap().warnings, [], "{line}"),
            Treatment::Noted(why) => {
                let warnings = around(&line).unwrap().warnings;
                assert_eq!(warnings[0].class, "ovpn.config.ignored");
                assert!(warnings[0].evidence[0].contains(why) && warnings[0].evidence[0].contains("line 6"));
            }
            Treatment::Refused(why) => {
                let problems = around(&line).unwrap_err();
                assert_eq!(problems.0[0].class, "ovpn.config.unsupported", "{line}");
                assert!(problems.0[0].summary.contains(why));
            }
        }
    }
}

#[test]
fn names_of_options_stand_once_in_the_table() {
    let mut seen = BTreeSet::new();
    for option in options::all() {
        assert!(seen.insert(option.name), "{} stands twice", option.name);
        assert!(option.least <= option.most && !option.about.is_empty(), "{}", option.name);
    }
    assert!(seen.len() > 300);
}

#[test]
fn the_page_of_options_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openvpn-options.md");
    let page = options::markdown();
    if std::env::var_os("INSTA_UPDATE").is_some_and(|value| value == "always") {
        fs::write(&path, &page).unwrap();
    }
    assert!(
        fs::read_to_string(path).unwrap() == page,
        "INSTA_UPDATE=always cargo test -p adit-providers writes it"
    );
}

#[test]
fn a_profile_of_azures_own_client_is_told_with_what_to_download_instead() {
    let text = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<AzVpnProfile xmlns:i=\"x\">\n  <clientauth>\n    <aad>\n";
    let problems = Ovpn::read(text.as_bytes(), Path::new("azurevpnconfig.xml"), &mut NoFiles).unwrap_err();
    let [problem] = problems.0.as_slice() else { panic!("{problems:?}") };
    assert_eq!(problem.class, "ovpn.config.unsupported");
    assert!(problem.fix.iter().any(|fix| fix.contains("OpenVPN/vpnconfig.ovpn")), "{problem:?}");
}

#[test]
fn names_in_routes_are_kept_and_what_is_none_is_told() {
    let around = |line: &str| {
        let mut files = Beside(Reader { insecure_perms: true, ..Reader::default() });
        let text = format!("client\nremote a\nremote-cert-tls server\nauth-user-pass\nca ca.crt\n{line}\n");
        Ovpn::read(text.as_bytes(), &directory("profiles").join("x.ovpn"), &mut files)
    };
    for line in ["route intranet.corp.example", "route a_b.example 255.255.255.0 net_gateway"] {
        assert_eq!(around(line).unwrap().warnings, [], "{line}");
    }
    for line in ["route 10.8.0.256", "route a..b", "route -- 1", "route a/b"] {
        assert!(around(line).is_err(), "{line}");
    }
}

#[test]
fn what_stands_in_a_block_holds_for_its_server_alone() {
    use adit_openvpn::{Compression, MssFix};
    let text = "client\nauth-user-pass\nca ca.crt\nremote-cert-tls server\ncomp-lzo no\ntun-mtu 1400\nmssfix 1300\n\
                remote a\n<connection>\nremote b\ncompress stub-v2\ntun-mtu 1280\nmssfix 0\nfragment 1100\n\
                </connection>\n<connection>\nremote c\nfragment 1000\n</connection>\n";
    let mut files = Beside(Reader { insecure_perms: true, ..Reader::default() });
    let profile = Ovpn::read(text.as_bytes(), &directory("profiles").join("x.ovpn"), &mut files).unwrap();
    let said: Vec<_> = profile
        .remotes
        .iter()
        .map(|remote| (remote.compression, remote.tun_mtu, remote.mssfix, remote.fragment))
        .collect();
    assert_eq!(
        said,
        [
            (Compression::Lzo, 1400, MssFix::Payload(1300), None),
            (Compression::StubV2, 1280, MssFix::Off, Some(1100)),
            (Compression::Lzo, 1400, MssFix::Payload(1300), Some(1000)),
        ]
    );
}

#[test]
fn the_tunnel_gets_what_the_profile_says() {
    use adit_openvpn::{Cipher, Compression, Direction, MssFix, Transport, Via, Wrap};
    let nord = config("nordvpn");
    assert!(nord.remote_random && nord.pull && !nord.wide_strings);
    assert_eq!(
        (nord.remotes[0].compression, nord.ping, nord.ping_restart),
        (Compression::Lzo, Some(Duration::from_secs(15)), Some(Duration::ZERO))
    );
    assert_eq!((nord.reneg_interval, nord.remotes[0].mssfix), (Duration::ZERO, MssFix::Payload(1450)));
    assert!(matches!(
        nord.remotes[1].wrap,
        Wrap::Auth { direction: Direction::Inverse, algorithm: adit_openvpn::Algorithm::Sha512, .. }
    ));
    // The cipher of old profiles goes behind what is offered anyway.
    assert_eq!(nord.data_ciphers.last(), Some(&Cipher::Aes256Cbc));
    assert_eq!((nord.data_ciphers[0], nord.fallback_cipher), (Cipher::Aes256Gcm, Some(Cipher::Aes256Cbc)));

    let blocks = config("connection-blocks").remotes;
    assert_eq!((blocks.len(), blocks[0].exit_notify, blocks[0].mssfix), (3, 2, MssFix::Payload(1300)));
    assert!(matches!(&blocks[1].via, Some(Via::Http { proxy, .. }) if proxy.port == 8080));
    assert_eq!((blocks[1].transport, blocks[1].exit_notify), (Transport::Tcp, 0));
    assert_eq!((blocks[2].host.port, blocks[2].family, blocks[2].fragment), (1300, Some(6), Some(1200)));
    assert!(matches!(blocks[2].wrap, Wrap::Crypt(_)) && matches!(blocks[1].wrap, Wrap::None));

    let saml = config("aws-saml");
    assert!(saml.wide_strings && saml.auth_nocache && saml.remotes[0].random_hostname);

    let key = config("as-tls-crypt-v2");
    match &key.remotes[0].wrap {
        Wrap::CryptV2 { wrapped, .. } => assert_eq!(wrapped.len(), 302),
        other => panic!("{other:?}"),
    }
    assert_eq!(key.static_challenge.unwrap().text, "Enter Authenticator Code");
}

#[test]
fn passwords_come_from_the_profile_where_nobody_gives_others() {
    let path = directory("profiles").join("user-and-password-inside.ovpn");
    let profile = read(&path).unwrap();
    let own = profile.tunnel_config(Supplied { credentials: None, ..supplied() }).unwrap();
    assert_eq!(own.credentials.unwrap().password.as_str(), "canary-password-1");
    let given = profile.tunnel_config(supplied()).unwrap();
    assert_eq!(given.credentials.unwrap().password.as_str(), "canary-password-2");
    let alone = read(&directory("profiles").join("user-alone-inside.ovpn")).unwrap();
    let problem = alone.tunnel_config(Supplied { credentials: None, ..supplied() }).unwrap_err();
    assert_eq!(problem.0[0].class, "ovpn.creds.missing");
    assert!(problem.0[0].summary.contains("alice"));
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic_and_every_refusal_says_why(text in "(\\PC|\n|\"|'|\\\\|<|>|/|#|remote|client|<ca>|</ca>|connection|proto| ){0,200}") {
        if let Err(problems) = Ovpn::read(text.as_bytes(), Path::new("x.ovpn"), &mut NoFiles) {
            prop_assert!(!problems.0.is_empty());
            for problem in problems.0 {
                prop_assert!(!problem.summary.is_empty() && !problem.fix.is_empty(), "{problem:?}");
            }
        }
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Ovpn::read(&bytes, Path::new("x.ovpn"), &mut NoFiles);
    }

    #[test]
    fn any_parameters_of_any_option_are_judged_without_a_panic(
        option in any::<prop::sample::Index>(),
        words in prop::collection::vec("[!-~]{0,12}|[0-9]{1,20}|10\\.8\\.0\\.[0-9]{1,3}|fd00::/[0-9]{1,3}", 0..5),
    ) {
        let all: Vec<_> = options::all().collect();
        let text = format!("client\nremote a\n{} {}\n", option.get(&all).name, words.join(" "));
        let _ = Ovpn::read(text.as_bytes(), Path::new("x.ovpn"), &mut NoFiles);
    }

    #[test]
    fn a_damaged_profile_is_judged_without_a_panic(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let files = files();
        let path = file.get(&files);
        let mut bytes = content(path);
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut beside = Beside(Reader { insecure_perms: true, ..Reader::default() });
        if let Ok(profile) = Ovpn::read(&bytes, path, &mut beside) {
            let _ = (profile.explain(), profile.tunnel_config(supplied()));
        }
    }
}
