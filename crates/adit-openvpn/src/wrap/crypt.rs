//! The cipher of tls-crypt: AES-256-CTR whose initial counter is the HMAC-SHA256 of the plaintext (RFC 5297 in spirit).

use adit_tunnel::Dropped;
use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::CRYPT_TAG;
use crate::Algorithm;
use crate::mac::{Mac, Tag};

type Ctr = ctr::Ctr128BE<Aes256>;

/// The keys of one direction.
pub(super) struct CryptKeys {
    encrypt: Zeroizing<[u8; 32]>,
    mac: Mac,
}

impl CryptKeys {
    pub(super) fn new(encrypt: &[u8; 64], authenticate: &[u8; 64]) -> Self {
        let (key, _) = encrypt.split_first_chunk::<32>().expect("64 bytes hold 32");
        Self { encrypt: Zeroizing::new(*key), mac: Mac::from_slot(Algorithm::Sha256, authenticate) }
    }

    /// Appends `header`, the tag and the encrypted `body`.
    pub(super) fn seal(&self, header: &[u8], body: &[u8], out: &mut Vec<u8>) {
        let tag = self.mac.sign(&[header, body]);
        out.extend(header);
        out.extend(tag.as_ref());
        let start = out.len();
        out.extend(body);
        self.apply(tag.as_ref(), out.split_at_mut(start).1);
    }

    /// Decrypts `body` in place and checks the tag over `header` and what it became.
    pub(super) fn open(
        &self,
        header: &[&[u8]; 2],
        tag: &[u8; CRYPT_TAG],
        body: &mut [u8],
    ) -> Result<(), Dropped> {
        self.apply(tag, body);
        let [first, second] = header;
        let expected: Tag = self.mac.sign(&[first, second, body]);
        match bool::from(expected.as_ref().ct_eq(tag)) {
            true => Ok(()),
            false => Err(Dropped::Unauthentic),
        }
    }

    fn apply(&self, tag: &[u8], bytes: &mut [u8]) {
        let Some(iv) = tag.first_chunk::<16>() else { return };
        Ctr::new((&*self.encrypt).into(), iv.into()).apply_keystream(bytes);
    }
}
