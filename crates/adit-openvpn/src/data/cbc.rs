//! AES-CBC with an HMAC: the data channel of servers before 2.4, and of many small devices.
//!
//! `header | HMAC | IV | CBC(packet id | payload | padding)`; the HMAC covers IV and ciphertext, not the header.

use adit_tunnel::Dropped;
use aes::cipher::inout::InOutBuf;
use aes::cipher::{BlockDecryptMut, BlockEncrypt, BlockEncryptMut, InnerIvInit, KeyInit};
use aes::{Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256Dec, Aes256Enc};

use super::aead::{MAX_FORGERIES, RENEGOTIATE_AT};
use super::replay::Replay;
use super::{BLOCK, Direction};
use crate::mac::Mac;
use crate::{Algorithm, Cipher};

/// A key in both directions.
pub(super) struct Cbc {
    encrypt: Encrypt,
    decrypt: Decrypt,
    seal_mac: Mac,
    open_mac: Mac,
    /// Enciphers the packet id to an IV that nobody without the key can foretell (NIST SP 800-38A, appendix C).
    iv: Aes128Enc,
    /// The length of the HMAC.
    mac: usize,
    /// The packet id of the next packet; zero when all are used.
    next: u32,
    replay: Replay,
    forgeries: u64,
}

enum Encrypt {
    Aes128(Aes128Enc),
    Aes192(Aes192Enc),
    Aes256(Aes256Enc),
}

enum Decrypt {
    Aes128(Aes128Dec),
    Aes192(Aes192Dec),
    Aes256(Aes256Dec),
}

/// The beginning of a slot, as long as a key of the type in question.
macro_rules! key {
    ($slot:expr) => {
        KeyInit::new_from_slice(&$slot.cipher[..$slot.length])
            .expect("the key is as long as the cipher's name says")
    };
}

struct Slot<'a> {
    cipher: &'a [u8; 64],
    length: usize,
}

impl Cbc {
    /// `cipher` is one of CBC; any other is taken for AES-256.
    pub(super) fn new(
        cipher: Cipher,
        auth: Algorithm,
        seal: Direction<'_>,
        open: Direction<'_>,
        window: u32,
    ) -> Self {
        let length = match cipher {
            Cipher::Aes128Cbc => 16,
            Cipher::Aes192Cbc => 24,
            _ => 32,
        };
        let (sealing, opening) = (Slot { cipher: seal.cipher, length }, Slot { cipher: open.cipher, length });
        let (encrypt, decrypt) = match length {
            16 => (Encrypt::Aes128(key!(sealing)), Decrypt::Aes128(key!(opening))),
            24 => (Encrypt::Aes192(key!(sealing)), Decrypt::Aes192(key!(opening))),
            _ => (Encrypt::Aes256(key!(sealing)), Decrypt::Aes256(key!(opening))),
        };
        let mac = auth.digest_len();
        Self {
            encrypt,
            decrypt,
            seal_mac: Mac::from_slot(auth, seal.hmac),
            open_mac: Mac::from_slot(auth, open.hmac),
            iv: iv_key(seal),
            mac,
            next: 1,
            replay: Replay::new(window),
            forgeries: 0,
        }
    }

    /// Seals `payload` bytes that lie behind HMAC, IV and packet id.
    pub(super) fn seal(&mut self, slot: &mut [u8], header: usize, payload: usize) -> Result<usize, Dropped> {
        let text = 4 + payload;
        let padded = (text + 1).next_multiple_of(BLOCK);
        let body = slot.get_mut(header..).ok_or(Dropped::TooBig)?;
        let (tag, body) = body.split_at_mut_checked(self.mac).ok_or(Dropped::TooBig)?;
        let body = body.get_mut(..BLOCK + padded).ok_or(Dropped::TooBig)?;
        let (iv, blocks) = body.split_first_chunk_mut::<BLOCK>().ok_or(Dropped::TooBig)?;
        if self.next == 0 {
            return Err(Dropped::OverBudget);
        }
        let id = self.next.to_be_bytes();
        *iv = [0; BLOCK];
        iv[BLOCK - 4..].copy_from_slice(&id);
        self.iv.encrypt_block(iv.into());
        blocks[..4].copy_from_slice(&id);
        blocks[text..].fill((padded - text) as u8);
        self.encrypt.run(iv, blocks);
        tag.copy_from_slice(self.seal_mac.sign(&[body]).as_ref());
        self.next = self.next.wrapping_add(1);
        Ok(header + self.mac + BLOCK + padded)
    }

    /// Opens a message with a header of `header` bytes.
    pub(super) fn open<'a>(&mut self, message: &'a mut [u8], header: usize) -> Result<&'a mut [u8], Dropped> {
        let body = message.get_mut(header..).ok_or(Dropped::Malformed)?;
        let (tag, body) = body.split_at_mut_checked(self.mac).ok_or(Dropped::Malformed)?;
        if body.len() < 2 * BLOCK || !body.len().is_multiple_of(BLOCK) {
            return Err(Dropped::Malformed);
        }
        if self.forgeries >= MAX_FORGERIES {
            return Err(Dropped::OverBudget);
        }
        if !self.open_mac.verify(&[body], tag) {
            self.forgeries += 1;
            return Err(Dropped::Unauthentic);
        }
        let (iv, blocks) = body.split_first_chunk_mut::<BLOCK>().ok_or(Dropped::Malformed)?;
        self.decrypt.run(iv, blocks);
        let padding = usize::from(*blocks.last().ok_or(Dropped::Malformed)?);
        let text = blocks.len().checked_sub(padding).filter(|_| (1..=BLOCK).contains(&padding));
        let text = blocks.get_mut(..text.ok_or(Dropped::Malformed)?).ok_or(Dropped::Malformed)?;
        let (id, payload) = text.split_first_chunk_mut::<4>().ok_or(Dropped::Malformed)?;
        if !self.replay.accept(u64::from(u32::from_be_bytes(*id))) {
            return Err(Dropped::Replayed);
        }
        Ok(payload)
    }

    pub(super) fn needs_renegotiation(&self) -> bool {
        self.next >= RENEGOTIATE_AT || self.next == 0 || self.forgeries >= MAX_FORGERIES
    }

    #[cfg(test)]
    pub(super) fn set_next(&mut self, next: u32) {
        self.next = next;
    }
}

impl Encrypt {
    /// Enciphers whole blocks.
    fn run(&self, iv: &[u8; BLOCK], blocks: &mut [u8]) {
        let (blocks, _) = InOutBuf::from(blocks).into_chunks();
        match self {
            Self::Aes128(key) => {
                cbc::Encryptor::inner_iv_init(key, iv.into()).encrypt_blocks_inout_mut(blocks);
            }
            Self::Aes192(key) => {
                cbc::Encryptor::inner_iv_init(key, iv.into()).encrypt_blocks_inout_mut(blocks);
            }
            Self::Aes256(key) => {
                cbc::Encryptor::inner_iv_init(key, iv.into()).encrypt_blocks_inout_mut(blocks);
            }
        }
    }
}

impl Decrypt {
    /// Deciphers whole blocks.
    fn run(&self, iv: &[u8; BLOCK], blocks: &mut [u8]) {
        let (blocks, _) = InOutBuf::from(blocks).into_chunks();
        match self {
            Self::Aes128(key) => {
                cbc::Decryptor::inner_iv_init(key, iv.into()).decrypt_blocks_inout_mut(blocks);
            }
            Self::Aes192(key) => {
                cbc::Decryptor::inner_iv_init(key, iv.into()).decrypt_blocks_inout_mut(blocks);
            }
            Self::Aes256(key) => {
                cbc::Decryptor::inner_iv_init(key, iv.into()).decrypt_blocks_inout_mut(blocks);
            }
        }
    }
}

/// A key for IVs, of the whole direction's material: independent of the keys that are used for the packets.
fn iv_key(seal: Direction<'_>) -> Aes128Enc {
    let key = Mac::new(Algorithm::Sha256, seal.cipher).sign(&[seal.hmac, b"adit cbc iv"]);
    KeyInit::new_from_slice(&key.as_ref()[..16]).expect("a key of AES-128 has 16 bytes")
}
