//! AEAD as all versions since 2.4 speak it: header, packet id, tag, ciphertext.

use adit_tunnel::Dropped;
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey,
};

use super::replay::Replay;
use super::{Direction, TAG};
use crate::Cipher;

/// From this packet id on a new key is due (the last 2^24 leave time to agree on one).
pub(super) const RENEGOTIATE_AT: u32 = 0xff00_0000;
/// Blocks and packets of one GCM key in one direction (draft-irtf-cfrg-aead-limits: 2^-57 of an adversary's advantage).
pub(super) const GCM_LIMIT: u64 = (1 << 36) - 1;
/// Forged packets that one key survives.
pub(super) const MAX_FORGERIES: u64 = 1 << 36;

/// One direction's usage of a key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    blocks: u64,
    limited: bool,
}

impl Usage {
    pub(super) fn new(algorithm: &Algorithm) -> Self {
        Self { blocks: 0, limited: *algorithm != CHACHA20_POLY1305 }
    }

    /// Counts a packet: its blocks, and one for the packet itself.
    pub(super) fn count(&mut self, payload: usize) {
        self.blocks += payload.div_ceil(16) as u64 + 1;
    }

    /// Whether seven eighths of what the key may do are done.
    pub(super) fn is_near_limit(&self) -> bool {
        self.limited && self.blocks >= GCM_LIMIT / 8 * 7
    }

    #[cfg(test)]
    pub(super) fn set(&mut self, blocks: u64) {
        self.blocks = blocks;
    }
}

/// The algorithm of ring, for an AEAD cipher.
pub(super) fn algorithm(cipher: Cipher) -> Option<&'static Algorithm> {
    match cipher {
        Cipher::Aes128Gcm => Some(&AES_128_GCM),
        Cipher::Aes256Gcm => Some(&AES_256_GCM),
        Cipher::ChaCha20Poly1305 => Some(&CHACHA20_POLY1305),
        Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => None,
    }
}

/// Makes ring's key of the first bytes of a slot.
fn ring_key(algorithm: &'static Algorithm, bytes: &[u8; 64]) -> LessSafeKey {
    let key = UnboundKey::new(algorithm, &bytes[..algorithm.key_len()]);
    LessSafeKey::new(key.expect("the key is as long as the algorithm says"))
}

/// A key in both directions.
#[derive(Debug)]
pub(super) struct Aead {
    seal: Half,
    open: Half,
    /// The packet id of the next packet; zero when all are used.
    next: u32,
    replay: Replay,
    forgeries: u64,
}

#[derive(Debug)]
struct Half {
    key: LessSafeKey,
    /// The last eight bytes of each nonce.
    salt: [u8; 8],
    usage: Usage,
}

impl Half {
    fn new(algorithm: &'static Algorithm, keys: Direction<'_>) -> Self {
        let salt = *keys.hmac.first_chunk().expect("a slot of 64 bytes begins with 8");
        Self { key: ring_key(algorithm, keys.cipher), salt, usage: Usage::new(algorithm) }
    }

    fn nonce(&self, id: [u8; 4]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&id);
        nonce[4..].copy_from_slice(&self.salt);
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Aead {
    pub(super) fn new(
        algorithm: &'static Algorithm,
        seal: Direction<'_>,
        open: Direction<'_>,
        window: u32,
    ) -> Self {
        Self {
            seal: Half::new(algorithm, seal),
            open: Half::new(algorithm, open),
            next: 1,
            replay: Replay::new(window),
            forgeries: 0,
        }
    }

    /// Seals `payload` bytes that lie behind the packet id and the tag; `header` bytes before them are written already.
    pub(super) fn seal(&mut self, slot: &mut [u8], header: usize, payload: usize) -> Result<usize, Dropped> {
        let id = self.next.to_be_bytes();
        let (front, rest) = slot.split_at_mut_checked(header + 4).ok_or(Dropped::TooBig)?;
        let (tag, rest) = rest.split_first_chunk_mut::<TAG>().ok_or(Dropped::TooBig)?;
        let text = rest.get_mut(..payload).ok_or(Dropped::TooBig)?;
        if self.next == 0 {
            return Err(Dropped::OverBudget);
        }
        front[header..].copy_from_slice(&id);
        let aad = Aad::from(authenticated(front, header));
        let sealed = self.seal.key.seal_in_place_separate_tag(self.seal.nonce(id), aad, text);
        tag.copy_from_slice(sealed.map_err(|_| Dropped::TooBig)?.as_ref());
        self.next = self.next.wrapping_add(1);
        self.seal.usage.count(payload);
        Ok(header + 4 + TAG + payload)
    }

    /// Opens a message with a header of `header` bytes.
    pub(super) fn open<'a>(&mut self, message: &'a mut [u8], header: usize) -> Result<&'a mut [u8], Dropped> {
        let (front, rest) = message.split_at_mut_checked(header + 4).ok_or(Dropped::Malformed)?;
        let id = *front.last_chunk::<4>().ok_or(Dropped::Malformed)?;
        let (tag, text) = rest.split_first_chunk_mut::<TAG>().ok_or(Dropped::Malformed)?;
        let number = u64::from(u32::from_be_bytes(id));
        if !self.replay.is_fresh(number) {
            return Err(Dropped::Replayed);
        }
        if self.forgeries >= MAX_FORGERIES {
            return Err(Dropped::OverBudget);
        }
        let aad = Aad::from(authenticated(front, header));
        let tag = Tag::from(*tag);
        match self.open.key.open_in_place_separate_tag(self.open.nonce(id), aad, tag, text, 0..) {
            Ok(text) => {
                self.replay.accept(number);
                self.open.usage.count(text.len());
                Ok(text)
            }
            Err(_) => {
                self.forgeries += 1;
                Err(Dropped::Unauthentic)
            }
        }
    }

    pub(super) fn needs_renegotiation(&self) -> bool {
        self.next >= RENEGOTIATE_AT
            || self.next == 0
            || self.seal.usage.is_near_limit()
            || self.open.usage.is_near_limit()
            || self.forgeries >= MAX_FORGERIES
    }

    #[cfg(test)]
    pub(super) fn set_next(&mut self, next: u32) {
        self.next = next;
    }

    #[cfg(test)]
    pub(super) fn set_usage(&mut self, blocks: u64) {
        self.seal.usage.set(blocks);
    }
}

/// The additional data: header and packet id with `P_DATA_V2`, the packet id alone with `P_DATA_V1`.
fn authenticated(front: &[u8], header: usize) -> &[u8] {
    if header == 1 { &front[1..] } else { front }
}
