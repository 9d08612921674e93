//! The data channel: keys, and what happens to a packet between the IP layer and the datagram.
//!
//! [`DataKeys`] is one key of the channel with both directions, the packet numbers and the replay window. A packet is
//! sealed and opened where it lies; nothing here allocates per packet. [`Channel`] is the rest of the path: mssfix,
//! compression framing, fragments, pings.

mod aead;
mod cbc;
mod channel;
mod compression;
mod epoch;
mod fragment;
mod keys;
mod mss;
mod replay;

use std::fmt;

use zeroize::Zeroizing;

use crate::{Algorithm, Cipher};

pub use channel::{Channel, Destination, Inner, OCC_EXIT, PING, Shape, occ};
pub use keys::{DataKeys, Parameters, Traffic};

/// The opcode of `P_DATA_V1`.
pub const DATA_V1: u8 = 6;
/// The opcode of `P_DATA_V2`.
pub const DATA_V2: u8 = 9;
/// An authentication tag of GCM and of Poly1305 has this many bytes.
const TAG: usize = 16;

/// Which side of the connection we are: it decides which half of the key material seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The TLS client.
    Client,
    /// The TLS server.
    Server,
}

/// What the data channel is sealed with, as negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// The cipher.
    pub cipher: Cipher,
    /// The HMAC; CBC only.
    pub auth: Algorithm,
    /// The layout with epochs (`protocol-flags aead-epoch`); AEAD ciphers only.
    pub epoch: bool,
}

impl Suite {
    fn has_epochs(&self) -> bool {
        self.epoch && self.cipher.is_aead()
    }

    /// The bytes before the payload, for a header with or without peer-id.
    pub fn head(&self, peer_id: bool) -> usize {
        let header = if peer_id || self.has_epochs() { 4 } else { 1 };
        match (self.cipher.is_aead(), self.epoch) {
            (true, true) => header + 8,
            (true, false) => header + 4 + TAG,
            (false, _) => header + self.auth.digest_len() + BLOCK + 4,
        }
    }

    /// The length of a sealed payload of `payload` bytes.
    pub fn sealed_len(&self, peer_id: bool, payload: usize) -> usize {
        let head = self.head(peer_id);
        match (self.cipher.is_aead(), self.epoch) {
            (true, true) => head + payload + TAG,
            (true, false) => head + payload,
            // The packet id is encrypted with the payload, and the padding has at least one byte (PKCS #7).
            (false, _) => head - 4 + (4 + payload + 1).next_multiple_of(BLOCK),
        }
    }
}

/// The block of AES in bytes.
const BLOCK: usize = 16;

/// The keys of both directions as they leave the key derivation: cipher and HMAC of client to server, then of server
/// to client, 64 bytes each.
#[derive(Clone)]
pub struct KeyMaterial(Zeroizing<[u8; 256]>);

/// The keys of one direction, each as long as any cipher or digest may need.
#[derive(Clone, Copy)]
struct Direction<'a> {
    cipher: &'a [u8; 64],
    hmac: &'a [u8; 64],
}

impl KeyMaterial {
    /// Takes derived keys.
    pub fn new(bytes: Zeroizing<[u8; 256]>) -> Self {
        Self(bytes)
    }

    /// The directions (sealing, opening).
    fn directions(&self, role: Role) -> (Direction<'_>, Direction<'_>) {
        let slot = |index: usize| {
            self.0[64 * index..].first_chunk().expect("256 bytes hold four slots of 64, and index is below 4")
        };
        let to_server = Direction { cipher: slot(0), hmac: slot(1) };
        let to_client = Direction { cipher: slot(2), hmac: slot(3) };
        match role {
            Role::Client => (to_server, to_client),
            Role::Server => (to_client, to_server),
        }
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial")
    }
}
