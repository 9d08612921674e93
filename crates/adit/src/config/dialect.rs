//! What kind of configuration a text is, by its content.

use adit_providers::{ovpn, wgquick};

/// A kind of configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `adit.toml`
    Adit,
    /// A wg-quick file.
    WgQuick,
    /// An OpenVPN client configuration.
    OpenVpn,
    /// A key of Tailscale or Headscale, alone.
    TailscaleKey,
}

impl Dialect {
    /// Guesses by content; what is nothing else is taken for an `adit.toml`.
    pub fn of(text: &str) -> Self {
        let start = text.trim_start();
        if ["tskey-", "hskey-"].iter().any(|prefix| start.starts_with(prefix)) {
            Self::TailscaleKey
        } else if wgquick::looks_like(text) {
            Self::WgQuick
        } else if ovpn::looks_like(text) {
            Self::OpenVpn
        } else {
            Self::Adit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_content() {
        for (text, dialect) in [
            ("# x\n[Interface]\nPrivateKey = a\n", Dialect::WgQuick),
            ("[peer]\n", Dialect::WgQuick),
            ("client\ndev tun\nremote vpn.example.com 1194\n", Dialect::OpenVpn),
            ("  <ca>\n", Dialect::OpenVpn),
            ("<?xml version=\"1.0\"?>\n<AzVpnProfile>\n</AzVpnProfile>\n", Dialect::OpenVpn),
            ("tskey-auth-x\n", Dialect::TailscaleKey),
            ("version = 1\n[profile.client]\nremote = 3\n", Dialect::Adit),
            ("", Dialect::Adit),
        ] {
            assert_eq!(Dialect::of(text), dialect, "{text}");
        }
    }
}
