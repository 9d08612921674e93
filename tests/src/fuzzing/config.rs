//! Configuration files.

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

/// Values of secret keys that are long enough to be some, and that stand nowhere else in the file.
fn secrets(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(key.trim().to_ascii_lowercase().as_str(), "privatekey" | "presharedkey"))
        .filter_map(|(_, value)| value.split_whitespace().next())
        .filter(move |value| value.len() >= 24 && text.matches(value).count() == 1)
}
