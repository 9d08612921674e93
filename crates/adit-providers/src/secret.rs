//! Values that must not be seen: they cannot be displayed or serialised, `Debug` shows a tag, and memory is
//! cleared when they go.

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};

use adit_wireguard::{PrivateKey, PublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Secret bytes: a password, a token, a whole file with a key in it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes. The caller must not copy them to a place that outlives the use.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, without the spaces and line ends around it; `None` if they are not UTF-8.
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok().map(str::trim)
    }

    /// Whether there is nothing but white space.
    pub fn is_blank(&self) -> bool {
        self.0.iter().all(u8::is_ascii_whitespace)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        redacted(f, &self.0)
    }
}

/// A WireGuard private or preshared key: 32 bytes.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Takes the bytes over.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes. The caller must not copy them to a place that outlives the use.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the base64 form of 32 bytes (RFC 4648 §4, padded); `None` if the text is anything else.
    pub fn from_base64(text: &str) -> Option<Self> {
        if text.len() != 44 {
            return None;
        }
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        Some(Self(bytes.as_slice().try_into().ok()?))
    }

    /// The public key that belongs to this private key (RFC 7748 §6.1).
    pub fn public(&self) -> PublicKey {
        PrivateKey::from_bytes(self.0).public_key()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        redacted(f, &self.0)
    }
}

/// Sixteen bits of a hash: enough to see that two secrets differ, too little to find one.
fn redacted(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    write!(f, "[redacted:{:04x}]", hasher.finish() & 0xffff)
}

/// The part of a value that shows that a template was never filled in, like `{{ secrets.KEY }}`.
pub fn placeholder(value: &str) -> Option<&str> {
    let from = |start: usize, close: &str| {
        let rest = &value[start..];
        let end = rest.find(close).map_or(rest.len(), |at| at + close.len());
        &rest[..end]
    };
    if let Some(start) = value.find("{{") {
        return Some(from(start, "}}"));
    }
    if let Some(start) = value.find("${") {
        return Some(from(start, "}"));
    }
    let variable = |rest: &str| {
        rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let angle = value.len() > 2 && value.starts_with('<') && value.ends_with('>');
    let upper = value.to_ascii_uppercase();
    let marked = ["YOUR_", "YOUR-", "YOUR ", "CHANGEME", "CHANGE_ME", "REPLACE_ME", "REPLACE-ME", "INSERT_"]
        .iter()
        .any(|mark| upper.starts_with(mark));
    (angle || marked || value.strip_prefix('$').is_some_and(variable)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_a_tag_that_tells_secrets_apart() {
        let (a, b) = (Secret::new(b"canary-7f3a".to_vec()), Secret::new(b"canary-7f3b".to_vec()));
        let shown = format!("{a:?} {b:?}");
        assert!(!shown.contains("canary") && shown.starts_with("[redacted:"), "{shown}");
        assert_ne!(format!("{a:?}"), format!("{b:?}"));
        assert_eq!(format!("{a:?}"), format!("{:?}", Secret::new(a.expose().to_vec())));
    }

    #[test]
    fn placeholders_are_recognised_and_keys_are_not() {
        for (value, found) in [
            ("{{ secrets.WG_KEY }}", "{{ secrets.WG_KEY }}"),
            ("prefix-{{x}}-suffix", "{{x}}"),
            ("${{ secrets.WG_KEY }}", "{{ secrets.WG_KEY }}"),
            ("${WG_KEY}", "${WG_KEY}"),
            ("$WG_KEY", "$WG_KEY"),
            ("<private key>", "<private key>"),
            ("YOUR_PRIVATE_KEY", "YOUR_PRIVATE_KEY"),
        ] {
            assert_eq!(placeholder(value), Some(found));
        }
        for value in ["yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", "", "$", "pa$$word", "<>"] {
            assert_eq!(placeholder(value), None, "{value}");
        }
    }
}
