//! Packets: the first byte, the body of control packets, and the framing of streams.
//!
//! The layout is that of `draft-openvpn-wire-protocol` with its mistakes corrected: an acknowledged id has four bytes.
//! Every integer is big-endian.

mod control;
mod framing;

pub use control::{ACKS_RECEIVED, Acks, Control};
pub use framing::{Framer, MAX_FRAME, StreamError};

/// The random name of one side of a connection. It stays over renegotiations.
pub type SessionId = [u8; 8];

/// The kind of a packet: the upper five bits of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Begins a renegotiation, from either side.
    SoftReset = 3,
    /// Carries bytes of TLS.
    Control = 4,
    /// Acknowledges, and is not acknowledged itself.
    Ack = 5,
    /// Data without a peer id.
    DataV1 = 6,
    /// A client's first packet.
    HardResetClientV2 = 7,
    /// A server's answer to it.
    HardResetServerV2 = 8,
    /// Data with a peer id.
    DataV2 = 9,
    /// A client's first packet with tls-crypt-v2; the wrapped client key follows.
    HardResetClientV3 = 10,
    /// [`Self::Control`] followed by the wrapped client key.
    ControlWrappedKey = 11,
}

impl Opcode {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            3 => Self::SoftReset,
            4 => Self::Control,
            5 => Self::Ack,
            6 => Self::DataV1,
            7 => Self::HardResetClientV2,
            8 => Self::HardResetServerV2,
            9 => Self::DataV2,
            10 => Self::HardResetClientV3,
            11 => Self::ControlWrappedKey,
            _ => return None,
        })
    }

    /// Whether packets of this kind carry data of the tunnel.
    pub const fn is_data(self) -> bool {
        matches!(self, Self::DataV1 | Self::DataV2)
    }

    /// Whether the wrapped client key of tls-crypt-v2 follows the packet in clear.
    pub const fn has_wrapped_key(self) -> bool {
        matches!(self, Self::HardResetClientV3 | Self::ControlWrappedKey)
    }
}

/// A first byte: what kind of packet, and which of the up to eight keys it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// The kind.
    pub opcode: Opcode,
    /// The key, 0 to 7. 0 is that of the first negotiation of a connection alone.
    pub key_id: u8,
}

impl First {
    /// Takes a first byte apart; `None` for kinds that nobody sends any more (key method 1) or that are unknown.
    pub fn parse(byte: u8) -> Option<Self> {
        Some(Self { opcode: Opcode::from_number(byte >> 3)?, key_id: byte & 7 })
    }

    /// The byte.
    pub const fn byte(self) -> u8 {
        (self.opcode as u8) << 3 | self.key_id & 7
    }
}

/// The key id of the negotiation after one with `key_id`: 1 to 7, then 1 again.
pub const fn next_key_id(key_id: u8) -> u8 {
    match key_id {
        7.. => 1,
        id => id + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_survive_the_way_and_old_kinds_are_unknown() {
        let known = (0..=255u8).filter_map(|byte| First::parse(byte).map(|first| (byte, first)));
        let mut count = 0;
        for (byte, first) in known {
            assert_eq!(first.byte(), byte);
            count += 1;
        }
        assert_eq!(count, 9 * 8);
        assert_eq!(First::parse(0x38), Some(First { opcode: Opcode::HardResetClientV2, key_id: 0 }));
        assert_eq!(First::parse(0x08), None, "key method 1 is gone");
    }

    #[test]
    fn key_ids_never_come_back_to_zero() {
        let ids: Vec<u8> = (0..9).scan(0, |id, _| Some(std::mem::replace(id, next_key_id(*id)))).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7, 1]);
    }
}
