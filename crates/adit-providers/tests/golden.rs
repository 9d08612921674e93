//! wg-quick files, good and bad, and what the parser says of each.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use adit_providers::wgquick::{Supplied, WgQuick};
use adit_providers::{Problem, SecretKey};
use proptest::prelude::*;

/// How the private and preshared keys in the files begin.
const CANARIES: [&str; 3] = ["yAnz5TF", "FpCyhws9", "not!base64"];

fn files() -> Vec<PathBuf> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wgquick");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    files.sort();
    files
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
    text
}

fn judge(bytes: &[u8]) -> String {
    match WgQuick::parse_bytes(bytes, &Supplied::default()) {
        Ok(config) => {
            let warnings: String = config.warnings.iter().map(describe).collect();
            let config = WgQuick { warnings: Vec::new(), ..config };
            format!("{config:#?}\n{warnings}")
        }
        Err(problems) => problems.0.iter().map(describe).collect(),
    }
}

#[test]
fn every_file_is_read_or_refused_as_recorded() {
    let files = files();
    assert!(files.len() >= 15, "only {} files", files.len());
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let said = judge(&fs::read(&path).unwrap());
        assert_eq!(name.starts_with("bad-"), !said.starts_with("WgQuick"), "{name}: {said}");
        for canary in CANARIES {
            assert!(!said.contains(canary), "{name} shows a secret:\n{said}");
        }
        insta::assert_snapshot!(name, said);
    }
}

#[test]
fn a_key_from_elsewhere_replaces_that_of_the_file() {
    let text = "[Interface]\nAddress = 10.8.0.2\n[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n\
                Endpoint = 192.0.2.1:51820\nAllowedIPs = 10.8.0.0/24\n";
    assert_eq!(WgQuick::parse(text).unwrap_err().0[0].class, "wg.key.missing");
    let key = SecretKey::new([7; 32]);
    let supplied = Supplied { private_key: Some(key.clone()), preshared_key: Some(key.clone()) };
    let config = WgQuick::parse_with(text, &supplied).unwrap();
    assert_eq!((&config.interface.private_key, &config.peers[0].preshared_key), (&key, &Some(key.clone())));
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic_and_every_refusal_says_why(text in "(\\PC|\n|=|\\[|\\]|#){0,400}") {
        if let Err(problems) = WgQuick::parse(&text) {
            prop_assert!(!problems.0.is_empty());
            for problem in problems.0 {
                prop_assert!(!problem.summary.is_empty() && !problem.fix.is_empty(), "{problem:?}");
            }
        }
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = WgQuick::parse_bytes(&bytes, &Supplied::default());
    }

    #[test]
    fn a_damaged_file_is_judged_without_a_panic(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let files = files();
        let mut bytes = fs::read(file.get(&files)).unwrap();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = judge(&bytes);
    }
}

#[test]
fn the_tunnel_gets_what_the_file_says() {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wgquick/everything.conf")).unwrap();
    let file = WgQuick::parse(&text).unwrap();
    let config = file.tunnel_config(Some(1500));
    assert_eq!(config.private_key.public_key(), file.public_key());
    assert_eq!((config.mtu, config.listen_port, config.peers.len()), (1380, Some(51821), 2));
    assert_eq!(config.dns.search, ["corp.internal", "lab.internal"]);
    assert_eq!(config.peers[0].persistent_keepalive, Some(25));
    assert!(config.peers[0].preshared_key.is_some());
    let unset = WgQuick {
        interface: adit_providers::wgquick::Interface { mtu: None, ..file.interface.clone() },
        ..file
    };
    assert_eq!((unset.mtu(None), unset.mtu(Some(9000)), unset.mtu(Some(1480))), (1420, 8920, 1400));
}
