//! Curve25519 keys of a node: the secret ones, and the public ones with the prefixes of their text forms.

use std::fmt;
use std::str::FromStr;

use x25519_dalek::StaticSecret;
use zeroize::ZeroizeOnDrop;

/// A Curve25519 secret. Zeroized when dropped; `Debug` does not show it.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Takes 32 bytes from a secure source of randomness; they are clamped where they are used.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, for storage.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public key that belongs to this secret.
    pub fn public_bytes(&self) -> [u8; 32] {
        x25519_dalek::PublicKey::from(&StaticSecret::from(self.0)).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

/// The secrets that the data side of a node works with. The machine key, which speaks to the control server only, stays
/// with the control side.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The node key: our WireGuard key and our name at DERP servers.
    pub node: SecretKey,
    /// The key of path discovery; new for every process.
    pub disco: SecretKey,
}

impl Keys {
    /// Our public node key.
    pub fn node_key(&self) -> NodeKey {
        NodeKey(self.node.public_bytes())
    }

    /// Our public disco key.
    pub fn disco_key(&self) -> DiscoKey {
        DiscoKey(self.disco.public_bytes())
    }
}

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key of this kind is `{prefix}` and 64 hexadecimal digits")]
pub struct ParseKeyError {
    prefix: &'static str,
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Whether this is the key of 32 zeros, which stands for "none".
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 32]
            }

            /// The 32 bytes of the key.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first digits, enough to tell keys apart in a log.
            pub fn short(&self) -> String {
                hex(&self.0[..5])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseKeyError;

            /// Reads the text form; an empty text is the zero key.
            fn from_str(text: &str) -> Result<Self, ParseKeyError> {
                if text.is_empty() {
                    return Ok(Self::default());
                }
                let error = ParseKeyError { prefix: $prefix };
                text.strip_prefix($prefix).and_then(unhex).map(Self).ok_or(error)
            }
        }
    };
}

public_key! {
    /// The public key of a node, in WireGuard and at DERP servers; written `nodekey:` and hexadecimal digits.
    NodeKey, "nodekey:"
}
public_key! {
    /// The public key of a node in path discovery; written `discokey:` and hexadecimal digits.
    DiscoKey, "discokey:"
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut key = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let [high, low] = pair else { return None };
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_an_empty_text_is_none() {
        let secret = SecretKey::from_bytes([7; 32]);
        let key = NodeKey(secret.public_bytes());
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("".parse(), Ok(DiscoKey::default()));
        assert!(format!("nodekey:{}", "0".repeat(64)).parse::<NodeKey>().unwrap().is_zero());
        for wrong in ["nodekey:00", "discokey:", "nodekey:zz", &format!("mkey:{}", "0".repeat(64))] {
            assert!(wrong.parse::<NodeKey>().is_err(), "{wrong}");
        }
        // Two bytes, one character: the digits are counted in bytes.
        assert!(format!("nodekey:é{}", "0".repeat(62)).parse::<NodeKey>().is_err());
    }

    #[test]
    fn a_secret_does_not_show() {
        let keys = Keys { node: SecretKey::from_bytes([1; 32]), disco: SecretKey::from_bytes([2; 32]) };
        assert!(!format!("{keys:?}").contains('1'));
    }
}
