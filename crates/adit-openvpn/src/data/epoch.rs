//! AEAD with epochs (`protocol-flags aead-epoch`, OpenVPN 2.7): `header | epoch and counter | ciphertext | tag`.
//!
//! Each direction has a chain of secrets, one for each epoch, and a key of each. The sender moves on when its key's
//! limit asks for it; the receiver follows whoever proves to know a later key, and lifts its own epoch with it.

use adit_tunnel::Dropped;
use ring::aead::{Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

use super::aead::{MAX_FORGERIES, Usage};
use super::replay::Replay;
use super::{Direction, TAG};
use crate::mac::Mac;

/// Header of `P_DATA_V2`, and epoch with counter: all that is authenticated.
const FRONT: usize = 12;
const HEADER: usize = 4;
/// The counter has 48 bits.
const MAX_COUNTER: u64 = (1 << 48) - 1;
/// How many epochs the receiver is ready for beyond the present one.
const FUTURE: usize = 4;
/// From this epoch on new keys are due.
const RENEGOTIATE_AT: u16 = 0xf000;

/// The keys of both directions.
#[derive(Debug)]
pub(super) struct Epochs {
    algorithm: &'static Algorithm,
    send_secret: Secret,
    send: EpochKey,
    /// The counter of the next packet; beyond [`MAX_COUNTER`] when all are used.
    next: u64,
    sent: Usage,
    /// The secret of the last future key.
    open_secret: Secret,
    open: EpochKey,
    opened: Usage,
    replay: Replay,
    future: [EpochKey; FUTURE],
    retired: Option<EpochKey>,
    retired_replay: Replay,
    forgeries: u64,
}

struct Secret {
    epoch: u16,
    bytes: Zeroizing<[u8; 32]>,
}

#[derive(Debug)]
struct EpochKey {
    epoch: u16,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
}

impl Secret {
    /// The secret of the first epoch.
    fn first(slot: &[u8; 64]) -> Self {
        Self {
            epoch: 1,
            bytes: Zeroizing::new(*slot.first_chunk().expect("a slot of 64 bytes begins with 32")),
        }
    }

    /// Moves on to the next epoch; past the last one it stays, since who is there renegotiated long ago.
    fn advance(&mut self) {
        let next = expand(&self.bytes, b"datakey upd", 32);
        self.bytes = next;
        self.epoch = self.epoch.saturating_add(1);
    }

    fn key(&self, algorithm: &'static Algorithm) -> EpochKey {
        let key = expand(&self.bytes, b"data_key", algorithm.key_len());
        let key = UnboundKey::new(algorithm, &key[..algorithm.key_len()]);
        let mut iv = [0; NONCE_LEN];
        iv.copy_from_slice(&expand(&self.bytes, b"data_iv", NONCE_LEN)[..NONCE_LEN]);
        let key = LessSafeKey::new(key.expect("the key is as long as the algorithm says"));
        EpochKey { epoch: self.epoch, key, iv }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// HKDF-Expand with SHA-256 (RFC 5869 §2.3) to at most 32 bytes, with the info of HKDF-Expand-Label (RFC 8446 §7.1)
/// under the prefix `ovpn ` and without context.
fn expand(secret: &[u8; 32], label: &[u8], length: usize) -> Zeroizing<[u8; 32]> {
    const PREFIX: &[u8] = b"ovpn ";
    let length = [0, length as u8];
    let label_length = [(PREFIX.len() + label.len()) as u8];
    let mac = Mac::new(crate::Algorithm::Sha256, secret);
    let tag = mac.sign(&[&length, &label_length, PREFIX, label, &[0, 1]]);
    Zeroizing::new(*tag.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
}

impl EpochKey {
    /// `front` holds the epoch and the counter behind the header.
    fn nonce(&self, front: &[u8; FRONT]) -> Nonce {
        let mut nonce = self.iv;
        nonce.iter_mut().zip(&front[HEADER..]).for_each(|(byte, counter)| *byte ^= counter);
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Epochs {
    pub(super) fn new(
        algorithm: &'static Algorithm,
        seal: Direction<'_>,
        open: Direction<'_>,
        window: u32,
    ) -> Self {
        let send_secret = Secret::first(seal.cipher);
        let mut open_secret = Secret::first(open.cipher);
        let current = open_secret.key(algorithm);
        let future = std::array::from_fn(|_| {
            open_secret.advance();
            open_secret.key(algorithm)
        });
        Self {
            algorithm,
            send: send_secret.key(algorithm),
            send_secret,
            next: 1,
            sent: Usage::new(algorithm),
            open_secret,
            open: current,
            opened: Usage::new(algorithm),
            replay: Replay::new(window),
            future,
            retired: None,
            retired_replay: Replay::new(window),
            forgeries: 0,
        }
    }

    /// Moves our sending on to the next epoch.
    pub(super) fn advance(&mut self) {
        if self.send_secret.epoch == u16::MAX {
            return;
        }
        self.send_secret.advance();
        self.send = self.send_secret.key(self.algorithm);
        self.next = 1;
        self.sent = Usage::new(self.algorithm);
    }

    /// Seals `payload` bytes that lie behind the counter; the header is written already.
    pub(super) fn seal(&mut self, slot: &mut [u8], payload: usize) -> Result<usize, Dropped> {
        let (front, rest) = slot.split_first_chunk_mut::<FRONT>().ok_or(Dropped::TooBig)?;
        let (text, rest) = rest.split_at_mut_checked(payload).ok_or(Dropped::TooBig)?;
        let tag = rest.first_chunk_mut::<TAG>().ok_or(Dropped::TooBig)?;
        // A peer whose key is used up by what it sends us moves on once it sees that we did.
        let theirs = self.send.epoch == self.open.epoch && self.opened.is_near_limit();
        if self.next > MAX_COUNTER || self.sent.is_near_limit() || theirs {
            self.advance();
        }
        if self.next > MAX_COUNTER {
            return Err(Dropped::OverBudget);
        }
        let field = u64::from(self.send.epoch) << 48 | self.next;
        front[HEADER..].copy_from_slice(&field.to_be_bytes());
        let nonce = self.send.nonce(front);
        let sealed = self.send.key.seal_in_place_separate_tag(nonce, Aad::from(&front[..]), text);
        tag.copy_from_slice(sealed.map_err(|_| Dropped::TooBig)?.as_ref());
        self.next += 1;
        self.sent.count(payload);
        Ok(FRONT + payload + TAG)
    }

    /// Opens a message.
    pub(super) fn open<'a>(&mut self, message: &'a mut [u8]) -> Result<&'a mut [u8], Dropped> {
        let (front, rest) = message.split_first_chunk_mut::<FRONT>().ok_or(Dropped::Malformed)?;
        let text = rest.len().checked_sub(TAG).ok_or(Dropped::Malformed)?;
        let (text, tag) = rest.split_at_mut(text);
        let (tag, _) = tag.split_first_chunk_mut::<TAG>().ok_or(Dropped::Malformed)?;
        let (_, field) = front.split_last_chunk::<8>().ok_or(Dropped::Malformed)?;
        let field = u64::from_be_bytes(*field);
        let (epoch, counter) = ((field >> 48) as u16, field & MAX_COUNTER);
        // How far ahead of the present epoch; `None` for the retired one.
        let ahead = match usize::from(epoch).checked_sub(usize::from(self.open.epoch)) {
            Some(ahead) => Some(ahead),
            None if self.retired.as_ref().is_some_and(|key| key.epoch == epoch) => None,
            None => return Err(Dropped::Replayed),
        };
        let (key, replay) = match ahead {
            None => (self.retired.as_ref(), Some(&self.retired_replay)),
            Some(0) => (Some(&self.open), Some(&self.replay)),
            Some(ahead) => (self.future.get(ahead - 1).filter(|key| key.epoch == epoch), None),
        };
        let key = key.ok_or(Dropped::Unauthentic)?;
        if counter == 0 || replay.is_some_and(|replay| !replay.is_fresh(counter)) {
            return Err(Dropped::Replayed);
        }
        if self.forgeries >= MAX_FORGERIES {
            return Err(Dropped::OverBudget);
        }
        let (nonce, tag) = (key.nonce(front), Tag::from(*tag));
        let opened = key.key.open_in_place_separate_tag(nonce, Aad::from(&front[..]), tag, text, 0..);
        let Ok(text) = opened else {
            self.forgeries += 1;
            return Err(Dropped::Unauthentic);
        };
        match ahead {
            None => self.retired_replay.accept(counter),
            Some(ahead) => {
                self.follow(ahead);
                self.opened.count(text.len());
                self.replay.accept(counter)
            }
        };
        Ok(text)
    }

    /// Makes the key that many epochs ahead the present one.
    fn follow(&mut self, ahead: usize) {
        for step in 0..ahead.min(FUTURE) {
            self.future.rotate_left(1);
            self.open_secret.advance();
            let last = self.open_secret.key(self.algorithm);
            let next = std::mem::replace(&mut self.future[FUTURE - 1], last);
            let previous = std::mem::replace(&mut self.open, next);
            // Of the epochs that are passed at once only the first was ever used.
            if step == 0 {
                self.retired = Some(previous);
                std::mem::swap(&mut self.replay, &mut self.retired_replay);
                self.replay.reset();
                self.opened = Usage::new(self.algorithm);
            }
        }
        while self.send.epoch < self.open.epoch {
            self.advance();
        }
    }

    pub(super) fn needs_renegotiation(&self) -> bool {
        self.send.epoch >= RENEGOTIATE_AT || self.forgeries >= MAX_FORGERIES
    }

    #[cfg(test)]
    pub(super) fn set_next(&mut self, next: u64) {
        self.next = next;
    }

    #[cfg(test)]
    pub(super) fn set_usage(&mut self, sent: u64, opened: u64) {
        self.sent.set(sent);
        self.opened.set(opened);
    }

    #[cfg(test)]
    pub(super) fn epochs(&self) -> (u16, u16) {
        (self.send.epoch, self.open.epoch)
    }
}
