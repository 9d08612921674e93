//! The three kinds of WireGuard keys, so that none can be taken for another, and no secret can be printed.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A Curve25519 private key. Zeroized when dropped; `Debug` does not show it.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl PrivateKey {
    /// Takes 32 bytes from a secure source of randomness; they are clamped where they are used.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// The public key that belongs to this private key.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    pub(crate) fn secret(&self) -> &StaticSecret {
        &self.0
    }
}

impl PartialEq for PrivateKey {
    /// Keys are equal when their public keys are, so that comparing tells nothing by its duration.
    fn eq(&self, other: &Self) -> bool {
        self.public_key() == other.public_key()
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    /// Reads the base64 form of `wg genkey`.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut bytes = decode(text)?;
        let key = Self::from_bytes(bytes);
        bytes.zeroize();
        Ok(key)
    }
}

/// A Curve25519 public key: the name of a peer. Written in base64, as `wg` does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes the 32 bytes of the key.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads the base64 form of `wg pubkey`.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

/// A symmetric key that both peers mix into the handshake. Zeroized when dropped; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// Takes the 32 bytes of the key.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(redacted)")
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    /// Reads the base64 form of `wg genpsk`.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

/// Why a text is no key. The text itself is not repeated: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("a key is 44 characters of base64, and this is not base64")]
    Encoding,
    /// Base64 of something else.
    #[error("a key is 32 bytes in base64, and this is {0} bytes")]
    Length(usize),
}

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    let mut bytes = STANDARD.decode(text.trim()).map_err(|_| KeyError::Encoding)?;
    let key = bytes.as_slice().try_into().map_err(|_| KeyError::Length(bytes.len()));
    bytes.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_gives_the_public_key_of_rfc_7748() {
        // RFC 7748 §6.1, Alice's keys.
        let private: PrivateKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse().unwrap();
        assert_eq!(private.public_key().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let text = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        let private: PrivateKey = text.parse().unwrap();
        let preshared: PresharedKey = text.parse().unwrap();
        assert_eq!(format!("{private:?} {preshared:?}"), "PrivateKey(redacted) PresharedKey(redacted)");
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        assert_eq!("c2hvcnQ=".parse::<PublicKey>(), Err(KeyError::Length(5)));
        let error = "my secret!".parse::<PrivateKey>().unwrap_err();
        assert_eq!(error, KeyError::Encoding);
        assert!(!error.to_string().contains("secret"));
    }
}
