//! HMAC (RFC 2104) with every digest that OpenVPN names, and the digests themselves.
//!
//! ring computes what it has in assembly, the crates of RustCrypto the rest: ring's SHA-1 is portable code that costs
//! five times as much as one with the processor's instructions.

use std::fmt;

use hmac::Mac as _;
use md5::Md5;
use ring::hmac as fast;
use sha1::Sha1;
use sha2::Sha224;
use subtle::ConstantTimeEq;

use crate::Algorithm;

/// The longest tag in bytes: that of SHA-512.
pub const MAX_TAG: usize = 64;

impl Algorithm {
    /// Every digest.
    pub const ALL: [Self; 6] =
        [Self::Md5, Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The length of a digest, and of the HMAC key that OpenVPN takes from a key slot, in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The name in options and in the options string.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA1",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }
}

/// A keyed HMAC, ready for any number of messages.
#[derive(Clone)]
pub struct Mac {
    kind: Kind,
    len: usize,
}

#[derive(Clone)]
enum Kind {
    Fast(fast::Key),
    Md5(hmac::Hmac<Md5>),
    Sha1(hmac::Hmac<Sha1>),
    Sha224(hmac::Hmac<Sha224>),
}

/// A tag of up to [`MAX_TAG`] bytes.
#[derive(Clone, Copy)]
pub struct Tag {
    bytes: [u8; MAX_TAG],
    len: usize,
}

impl Mac {
    /// An HMAC under `key`, of any length.
    pub fn new(algorithm: Algorithm, key: &[u8]) -> Self {
        let fast = |algorithm| Kind::Fast(fast::Key::new(algorithm, key));
        let any = "HMAC takes keys of every length (RFC 2104 §2)";
        let kind = match algorithm {
            Algorithm::Md5 => Kind::Md5(hmac::Hmac::new_from_slice(key).expect(any)),
            Algorithm::Sha224 => Kind::Sha224(hmac::Hmac::new_from_slice(key).expect(any)),
            Algorithm::Sha1 => Kind::Sha1(hmac::Hmac::new_from_slice(key).expect(any)),
            Algorithm::Sha256 => fast(fast::HMAC_SHA256),
            Algorithm::Sha384 => fast(fast::HMAC_SHA384),
            Algorithm::Sha512 => fast(fast::HMAC_SHA512),
        };
        Self { kind, len: algorithm.digest_len() }
    }

    /// An HMAC under the beginning of a key slot of 64 bytes, as OpenVPN uses them.
    pub fn from_slot(algorithm: Algorithm, slot: &[u8; 64]) -> Self {
        let (key, _) = slot.split_at(algorithm.digest_len());
        Self::new(algorithm, key)
    }

    /// The length of a tag in bytes.
    pub fn tag_len(&self) -> usize {
        self.len
    }

    /// The tag of the concatenation of `parts`.
    pub fn sign(&self, parts: &[&[u8]]) -> Tag {
        let mut bytes = [0; MAX_TAG];
        let mut fill = |tag: &[u8]| {
            for (to, from) in bytes.iter_mut().zip(tag) {
                *to = *from;
            }
        };
        match &self.kind {
            Kind::Fast(key) => {
                let mut context = fast::Context::with_key(key);
                parts.iter().for_each(|part| context.update(part));
                fill(context.sign().as_ref());
            }
            Kind::Md5(mac) => {
                let mut mac = mac.clone();
                parts.iter().for_each(|part| mac.update(part));
                fill(&mac.finalize().into_bytes());
            }
            Kind::Sha1(mac) => {
                let mut mac = mac.clone();
                parts.iter().for_each(|part| mac.update(part));
                fill(&mac.finalize().into_bytes());
            }
            Kind::Sha224(mac) => {
                let mut mac = mac.clone();
                parts.iter().for_each(|part| mac.update(part));
                fill(&mac.finalize().into_bytes());
            }
        }
        Tag { bytes, len: self.len }
    }

    /// Whether `tag` is that of the concatenation of `parts`; takes the same time wherever they differ.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.sign(parts).as_ref().ct_eq(tag).into()
    }
}

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        self.bytes.split_at(self.len).0
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mac").field("tag_len", &self.len).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 2202 §2 and §3, RFC 4231 §4.3: key "Jefe".
    const JEFE: [(Algorithm, &str); 6] = [
        (Algorithm::Md5, "750c783e6ab0b503eaa86e310a5db738"),
        (Algorithm::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (Algorithm::Sha224, "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44"),
        (Algorithm::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            Algorithm::Sha384,
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            Algorithm::Sha512,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
             caeab1a34d4a6b4b636e070a38bce737",
        ),
    ];

    #[test]
    fn tags_are_those_of_the_rfcs_however_the_message_is_cut() {
        for (algorithm, expected) in JEFE {
            let mac = Mac::new(algorithm, b"Jefe");
            let tag = mac.sign(&[b"what do ya want ", b"", b"for nothing?"]);
            assert_eq!(hex(tag.as_ref()), expected, "{}", algorithm.name());
            assert_eq!((mac.tag_len(), expected.len()), (algorithm.digest_len(), 2 * algorithm.digest_len()));
            assert!(mac.verify(&[b"what do ya want for nothing?"], tag.as_ref()));
        }
    }

    #[test]
    fn a_shorter_or_different_tag_does_not_verify() {
        let mac = Mac::new(Algorithm::Sha1, b"key");
        let tag = mac.sign(&[b"message"]);
        assert!(!mac.verify(&[b"message"], &tag.as_ref()[..10]));
        assert!(!mac.verify(&[b"massage"], tag.as_ref()));
    }

    #[test]
    fn a_slot_gives_as_many_bytes_of_key_as_the_digest_has() {
        let slot: [u8; 64] = std::array::from_fn(|at| at as u8);
        let tag = Mac::from_slot(Algorithm::Sha1, &slot).sign(&[b"x"]);
        assert!(Mac::new(Algorithm::Sha1, &slot[..20]).verify(&[b"x"], tag.as_ref()));
    }
}
