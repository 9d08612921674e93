//! One key of the data channel.

use std::fmt;

use adit_tunnel::Dropped;

use super::aead::{self, Aead};
use super::cbc::Cbc;
use super::epoch::Epochs;
use super::{DATA_V1, DATA_V2, KeyMaterial, Role, Suite};

/// What a key of the data channel is used for, beside the keys themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Our side.
    pub role: Role,
    /// The key id, 0 to 7: 0 for the first key of a connection, then 1 to 7 in turn.
    pub key_id: u8,
    /// The pushed peer-id, 24 bits. Without one, and with the 0xffffff that means none, messages are `P_DATA_V1`.
    pub peer_id: Option<u32>,
    /// How many packets may come late (`replay-window`).
    pub replay_window: u32,
}

/// The peer-id that stands for none.
const NO_PEER: u32 = 0x00ff_ffff;

/// One key of the data channel: it seals what we send and opens what comes.
pub struct DataKeys {
    suite: Suite,
    /// Opcode, key id and, where it is known, peer-id.
    header: Header,
    layout: Layout,
    sent: Traffic,
    received: Traffic,
}

/// Packets and bytes under one key in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes outside, headers of this protocol included.
    pub bytes: u64,
}

impl Traffic {
    fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

#[derive(Clone, Copy, Debug)]
enum Header {
    V1([u8; 1]),
    V2([u8; 4]),
}

impl Header {
    fn new(key_id: u8, peer_id: Option<u32>) -> Self {
        let key_id = key_id & 7;
        match peer_id {
            None => Self::V1([DATA_V1 << 3 | key_id]),
            Some(id) => {
                let mut bytes = id.to_be_bytes();
                bytes[0] = DATA_V2 << 3 | key_id;
                Self::V2(bytes)
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::V1(bytes) => bytes,
            Self::V2(bytes) => bytes,
        }
    }
}

enum Layout {
    Aead(Box<Aead>),
    Epochs(Box<Epochs>),
    Cbc(Box<Cbc>),
}

impl DataKeys {
    /// Makes a key of derived material.
    pub fn new(suite: Suite, material: &KeyMaterial, parameters: &Parameters) -> Self {
        let (seal, open) = material.directions(parameters.role);
        let window = parameters.replay_window;
        let layout = match aead::algorithm(suite.cipher) {
            Some(algorithm) if suite.epoch => {
                Layout::Epochs(Box::new(Epochs::new(algorithm, seal, open, window)))
            }
            Some(algorithm) => Layout::Aead(Box::new(Aead::new(algorithm, seal, open, window))),
            None => Layout::Cbc(Box::new(Cbc::new(suite.cipher, suite.auth, seal, open, window))),
        };
        // The layout with epochs has no other header than that with a peer-id.
        let peer_id = parameters.peer_id.filter(|id| *id < NO_PEER);
        let peer_id = if suite.has_epochs() { peer_id.or(Some(NO_PEER)) } else { peer_id };
        let header = Header::new(parameters.key_id, peer_id);
        Self { suite, header, layout, sent: Traffic::default(), received: Traffic::default() }
    }

    /// The key id, which begins every message under this key.
    pub fn key_id(&self) -> u8 {
        self.header.bytes()[0] & 7
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Where in its slot the payload of [`seal`](Self::seal) must lie.
    pub fn head(&self) -> usize {
        self.suite.head(matches!(self.header, Header::V2(_)))
    }

    /// The length of the message that a payload of `payload` bytes becomes.
    pub fn sealed_len(&self, payload: usize) -> usize {
        self.suite.sealed_len(matches!(self.header, Header::V2(_)), payload)
    }

    /// Seals the payload at `slot[head..head + payload]` where it lies, with its header in front; returns the length
    /// of the message at the front of `slot`.
    ///
    /// # Errors
    /// [`Dropped::TooBig`] if `slot` is shorter than [`sealed_len`](Self::sealed_len), [`Dropped::OverBudget`] if all
    /// packet ids are used: no nonce ever comes twice.
    pub fn seal(&mut self, slot: &mut [u8], payload: usize) -> Result<usize, Dropped> {
        let header = self.header.bytes();
        slot.get_mut(..header.len()).ok_or(Dropped::TooBig)?.copy_from_slice(header);
        let header = header.len();
        let length = match &mut self.layout {
            Layout::Aead(aead) => aead.seal(slot, header, payload),
            Layout::Epochs(epochs) => epochs.seal(slot, payload),
            Layout::Cbc(cbc) => cbc.seal(slot, header, payload),
        }?;
        self.sent.count(length);
        Ok(length)
    }

    /// Opens a message where it lies; returns the payload. A message with and one without a peer-id are both taken,
    /// and the peer-id is authenticated but not compared: a server need not send the one that it pushed. The key id is
    /// the caller's to look at.
    ///
    /// # Errors
    /// [`Dropped::Malformed`], [`Dropped::Replayed`], [`Dropped::Unauthentic`]; [`Dropped::OverBudget`] after more
    /// forgeries than a key may see. The message is garbage then, and nothing else changes.
    pub fn open<'a>(&mut self, message: &'a mut [u8]) -> Result<&'a mut [u8], Dropped> {
        let length = message.len();
        let header = match message.first().map(|first| first >> 3) {
            Some(DATA_V1) => 1,
            Some(DATA_V2) => 4,
            _ => return Err(Dropped::Malformed),
        };
        let payload = match &mut self.layout {
            Layout::Aead(aead) => aead.open(message, header),
            Layout::Epochs(_) if header == 1 => Err(Dropped::Malformed),
            Layout::Epochs(epochs) => epochs.open(message),
            Layout::Cbc(cbc) => cbc.open(message, header),
        }?;
        self.received.count(length);
        Ok(payload)
    }

    /// Whether the key is nearly used up: packet ids, or what its cipher may seal. A renegotiation is due.
    pub fn needs_renegotiation(&self) -> bool {
        match &self.layout {
            Layout::Aead(aead) => aead.needs_renegotiation(),
            Layout::Epochs(epochs) => epochs.needs_renegotiation(),
            Layout::Cbc(cbc) => cbc.needs_renegotiation(),
        }
    }

    #[cfg(test)]
    fn set_next(&mut self, next: u32) {
        match &mut self.layout {
            Layout::Aead(aead) => aead.set_next(next),
            Layout::Epochs(epochs) => epochs.set_next(next.into()),
            Layout::Cbc(cbc) => cbc.set_next(next),
        }
    }

    #[cfg(test)]
    fn set_usage(&mut self, blocks: u64) {
        if let Layout::Aead(aead) = &mut self.layout {
            aead.set_usage(blocks);
        }
    }

    /// Moves our sending on to the next epoch before the cipher's limit asks for it; the peer follows. Without epochs
    /// nothing happens.
    pub fn advance_epoch(&mut self) {
        if let Layout::Epochs(epochs) = &mut self.layout {
            epochs.advance();
        }
    }

    /// What was sealed and what was opened under this key.
    pub fn traffic(&self) -> (Traffic, Traffic) {
        (self.sent, self.received)
    }
}

impl fmt::Debug for DataKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKeys")
            .field("key_id", &self.key_id())
            .field("suite", &self.suite)
            .field("sent", &self.sent)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
