//! Configuration files.

use std::path::PathBuf;

use adit::config::{File, Origin, Overrides, Setting, load_text};
use adit_providers::wgquick::{Supplied, WgQuick};

/// Reads a wg-quick file; neither what it became nor what is wrong with it shows a key.
pub fn wg_quick(bytes: &[u8]) {
    let outcome = WgQuick::parse_bytes(bytes, &Supplied::default());
    let shown = match &outcome {
        Ok(file) => {
            assert!(
                !file.peers.is_empty() && !file.interface.addresses.is_empty(),
                "a file that passes is usable"
            );
            let config = file.tunnel_config(None);
            assert_eq!(config.peers.len(), file.peers.len());
            assert!(config.mtu >= 576, "an MTU that IPv4 cannot do with (RFC 791 §3.1) is refused");
            format!("{file:?} {config:?}")
        }
        Err(problems) => {
            assert!(!problems.0.is_empty(), "a refusal says why");
            for problem in &problems.0 {
                assert!(!problem.class.is_empty() && !problem.summary.is_empty());
            }
            format!("{problems} {problems:?}")
        }
    };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for key in secrets(text) {
        assert!(!shown.contains(key), "a key was printed: {shown}");
    }
}

/// Reads an `adit.toml`, or whatever else is given as the configuration. What is wrong has a class and a place.
pub fn adit_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = || Setting::new(PathBuf::from("adit.toml"), Origin::Default);
    let failures = match load_text(text, file(), &Overrides::default()) {
        Ok(settings) => {
            assert!(!settings.profile.value.is_empty() || text.contains("\"\""), "a run has a profile");
            assert!(!settings.timeout.value.is_zero(), "no time at all is refused");
            for forward in &settings.forwards {
                assert!(matches!(forward.origin, Origin::File { .. }), "a forward stands somewhere");
            }
            return;
        }
        Err(failures) => failures,
    };
    assert!(!failures.0.is_empty(), "a refusal says why");
    for failure in &failures.0 {
        assert!(!failure.class.is_empty() && !failure.summary.is_empty());
        if let Some(location) = &failure.location {
            assert!(location.line >= 1 && location.line <= text.lines().count().max(1) + 1, "{failure:?}");
            assert!(location.column >= 1, "{failure:?}");
        }
    }
    // Every profile is read, not only the one that is chosen.
    let _ = File::parse(text, "adit.toml").map(|file| format!("{file:?}"));
}

/// Values of secret keys that are long enough to be some, and that stand nowhere else in the file. The name of a placeholder
/// is no secret: whoever forgot to fill it in must read it.
fn secrets(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(key.trim().to_ascii_lowercase().as_str(), "privatekey" | "presharedkey"))
        .filter_map(|(_, value)| value.split_whitespace().next())
        .filter(|value| !value.starts_with('$') && !value.contains("{{"))
        .filter(move |value| value.len() >= 24 && text.matches(value).count() == 1)
}
