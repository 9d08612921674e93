//! NaCl boxes (`crypto_box`: X25519, XSalsa20, Poly1305) between two keys, as DERP's login and disco use them, and the
//! random bytes that this crate needs.

use std::fmt;

use crypto_box::SalsaBox;
use crypto_box::aead::AeadInPlace;
use ring::hmac;

use crate::SecretKey;

/// Length of a nonce.
pub(crate) const NONCE: usize = 24;
/// Length of an authentication tag, which stands before the text.
pub(crate) const TAG: usize = 16;

/// What two keys share. Making one costs a Diffie-Hellman; it is kept.
#[derive(Clone)]
pub struct Shared(std::sync::Arc<SalsaBox>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared(redacted)")
    }
}

impl Shared {
    /// What our secret shares with their public key.
    pub fn new(ours: &SecretKey, theirs: &[u8; 32]) -> Self {
        let secret = crypto_box::SecretKey::from(*ours.as_bytes());
        Self(SalsaBox::new(&crypto_box::PublicKey::from(*theirs), &secret).into())
    }

    /// Encrypts `text` where it is and returns its tag; `None` if it is longer than the cipher allows.
    pub(crate) fn seal(&self, nonce: &[u8; NONCE], text: &mut [u8]) -> Option<[u8; TAG]> {
        self.0.encrypt_in_place_detached(nonce.into(), &[], text).ok().map(Into::into)
    }

    /// Decrypts what [`seal`](Self::seal) made, where it is: nonce, tag, text. Returns the text.
    pub(crate) fn open<'a>(&self, sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (nonce, rest) = sealed.split_first_chunk_mut::<NONCE>()?;
        let (tag, text) = rest.split_first_chunk_mut::<TAG>()?;
        let (nonce, tag): (&[u8; NONCE], &[u8; TAG]) = (nonce, tag);
        self.0.decrypt_in_place_detached(nonce.into(), &[], text, tag.into()).ok()?;
        Some(text)
    }
}

/// Random bytes from a seed: HMAC-SHA-256 of a counter. What is seen of them does not tell the others.
pub(crate) struct Random {
    key: hmac::Key,
    counter: u64,
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random(redacted)")
    }
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &seed.to_le_bytes()), counter: 0 }
    }

    /// `N` bytes; at most 32.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32, "one block of output") };
        self.counter += 1;
        let block = hmac::sign(&self.key, &self.counter.to_le_bytes());
        let mut bytes = [0; N];
        bytes.copy_from_slice(&block.as_ref()[..N]);
        bytes
    }

    /// A number below `limit`; 0 for 0. The bias is below one in four thousand million.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        let drawn = u64::from_le_bytes(self.bytes());
        drawn.checked_rem(limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_example_of_the_nacl_paper_seals_and_opens_and_a_flipped_bit_does_not() {
        // "Cryptography in NaCl" §10: Alice seals for Bob.
        let alice =
            unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a").try_into().unwrap();
        let bob =
            unhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f").try_into().unwrap();
        let nonce = unhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37").try_into().unwrap();
        let plain = unhex(concat!(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc",
            "e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31",
            "0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde",
            "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864",
            "5e0705",
        ));
        let shared = Shared::new(&SecretKey::from_bytes(alice), &bob);
        let mut text = plain.clone();
        let tag = shared.seal(&nonce, &mut text).unwrap();
        assert_eq!(tag[..], unhex("f3ffc7703f9400e52a7dfb4b3d3305d9"));
        assert_eq!(text[..16], unhex("8e993b9f48681273c29650ba32fc76ce"));
        let mut sealed = [&nonce[..], &tag, &text].concat();
        assert_eq!(shared.open(&mut sealed.clone()).unwrap(), plain);
        sealed[NONCE] ^= 1;
        assert!(shared.open(&mut sealed).is_none());
        assert!(shared.open(&mut [0; NONCE + TAG - 1]).is_none());
    }

    #[test]
    fn random_bytes_follow_from_the_seed_and_differ() {
        let (mut one, mut same, mut other) = (Random::new(1), Random::new(1), Random::new(2));
        let first: [u8; 24] = one.bytes();
        assert_eq!(first, same.bytes());
        assert_ne!(first, other.bytes());
        assert_ne!(first, one.bytes());
        assert!(one.below(10) < 10 && one.below(0) == 0);
    }
}
