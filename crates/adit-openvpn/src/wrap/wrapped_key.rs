//! The wrapped client key of tls-crypt-v2: the client's key under one that only servers have.
//!
//! A client passes it on unread ([`wrapped_key_is_whole`], [`split_wrapped_key`]). Servers — the one of the simulator
//! and the tests — make and open it with a [`ServerKey`].

use super::crypt::CryptKeys;
use super::{CRYPT_TAG, slot};
use crate::StaticKey;
use zeroize::Zeroizing;

/// The longest wrapped key: tag, key, metadata and length.
pub const MAX_WRAPPED_KEY: usize = 1024;
/// Its length, at its end.
const LENGTH: usize = 2;
/// The shortest: no metadata.
const MIN_WRAPPED_KEY: usize = CRYPT_TAG + 256 + LENGTH;

/// Why a wrapped key is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrappedKeyError {
    /// Its length is impossible.
    #[error("the wrapped key has an impossible length")]
    Length,
    /// It was not made with this server key.
    #[error("the wrapped key was made with another server key")]
    Unauthentic,
}

/// Whether the last two bytes say how long the wrapped key is, as those of every undamaged one do.
pub fn wrapped_key_is_whole(wrapped: &[u8]) -> bool {
    (MIN_WRAPPED_KEY..=MAX_WRAPPED_KEY).contains(&wrapped.len())
        && wrapped
            .last_chunk::<LENGTH>()
            .is_some_and(|length| usize::from(u16::from_be_bytes(*length)) == wrapped.len())
}

/// Takes the wrapped key off the end of a packet that carries one: the packet proper, and the key.
pub fn split_wrapped_key(packet: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let length = usize::from(u16::from_be_bytes(*packet.last_chunk::<LENGTH>()?));
    let at = packet.len().checked_sub(length)?;
    let (packet, wrapped) = packet.split_at_mut_checked(at)?;
    wrapped_key_is_whole(wrapped).then_some((packet, wrapped))
}

/// The key of a tls-crypt-v2 server: the first 128 bytes of its file.
pub struct ServerKey(CryptKeys);

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerKey")
    }
}

impl ServerKey {
    /// The key whose file holds these 128 bytes.
    pub fn new(bytes: &[u8; 128]) -> Self {
        let mut key = StaticKey(Zeroizing::new([0; 256]));
        key.0.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(CryptKeys::new(slot(&key, 0), slot(&key, 64)))
    }

    /// Wraps a client's key with metadata, which must leave the result within [`MAX_WRAPPED_KEY`].
    ///
    /// # Errors
    /// [`WrappedKeyError::Length`].
    pub fn wrap(&self, client: &StaticKey, metadata: &[u8]) -> Result<Vec<u8>, WrappedKeyError> {
        let length = MIN_WRAPPED_KEY + metadata.len();
        if length > MAX_WRAPPED_KEY {
            return Err(WrappedKeyError::Length);
        }
        let length = (length as u16).to_be_bytes();
        let plain = Zeroizing::new([&client.0[..], metadata].concat());
        let mut sealed = Vec::new();
        self.0.seal(&length, &plain, &mut sealed);
        // The length is authenticated in front, and sent at the end.
        sealed.rotate_left(LENGTH);
        Ok(sealed)
    }

    /// The client's key and the metadata.
    ///
    /// # Errors
    /// [`WrappedKeyError`].
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<(StaticKey, Vec<u8>), WrappedKeyError> {
        if !wrapped_key_is_whole(wrapped) {
            return Err(WrappedKeyError::Length);
        }
        let (sealed, length) = wrapped.split_last_chunk::<LENGTH>().ok_or(WrappedKeyError::Length)?;
        let (tag, sealed) = sealed.split_first_chunk::<CRYPT_TAG>().ok_or(WrappedKeyError::Length)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        self.0.open(&[length, &[]], tag, &mut plain).map_err(|_| WrappedKeyError::Unauthentic)?;
        let (key, metadata) = plain.split_first_chunk::<256>().ok_or(WrappedKeyError::Length)?;
        Ok((StaticKey(Zeroizing::new(*key)), metadata.to_vec()))
    }
}
