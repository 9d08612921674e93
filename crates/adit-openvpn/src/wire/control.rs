//! The body of a control packet: what lies between the session id of its sender and its end.

use adit_tunnel::Dropped;

use super::{Opcode, SessionId};

/// The most ids that one received packet may acknowledge, as in the reference.
pub const ACKS_RECEIVED: usize = 8;

/// Acknowledged packet ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acks {
    ids: [u32; ACKS_RECEIVED],
    len: usize,
}

impl Acks {
    /// Adds an id, unless there is no room; returns whether there was.
    pub fn push(&mut self, id: u32) -> bool {
        let Some(slot) = self.ids.get_mut(self.len) else { return false };
        *slot = id;
        self.len += 1;
        true
    }

    /// The ids.
    pub fn ids(&self) -> &[u32] {
        self.ids.split_at(self.len).0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The body of a control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control<'a> {
    /// What it acknowledges.
    pub acks: Acks,
    /// Whose packets it acknowledges; there iff something is acknowledged.
    pub peer: Option<SessionId>,
    /// Its own id; absent in [`Opcode::Ack`].
    pub id: Option<u32>,
    /// Bytes of TLS, or parameters of the early negotiation.
    pub payload: &'a [u8],
}

impl<'a> Control<'a> {
    /// Bytes of a body without payload.
    pub const fn overhead(acks: usize, with_id: bool) -> usize {
        1 + 4 * acks + if acks > 0 { 8 } else { 0 } + if with_id { 4 } else { 0 }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] if it is too short or acknowledges more than [`ACKS_RECEIVED`] packets.
    pub fn parse(opcode: Opcode, body: &'a [u8]) -> Result<Self, Dropped> {
        let (&count, mut rest) = body.split_first().ok_or(Dropped::Malformed)?;
        let mut acks = Acks::default();
        for _ in 0..count {
            if !acks.push(take_u32(&mut rest)?) {
                return Err(Dropped::Malformed);
            }
        }
        let peer = match count {
            0 => None,
            _ => {
                let (peer, tail) = rest.split_first_chunk::<8>().ok_or(Dropped::Malformed)?;
                rest = tail;
                Some(*peer)
            }
        };
        let id = match opcode {
            Opcode::Ack => None,
            _ => Some(take_u32(&mut rest)?),
        };
        Ok(Self { acks, peer, id, payload: rest })
    }

    /// Appends the body to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(self.acks.ids().len() as u8);
        for id in self.acks.ids() {
            out.extend(id.to_be_bytes());
        }
        if !self.acks.is_empty() {
            out.extend(self.peer.unwrap_or_default());
        }
        if let Some(id) = self.id {
            out.extend(id.to_be_bytes());
        }
        out.extend(self.payload);
    }
}

fn take_u32(bytes: &mut &[u8]) -> Result<u32, Dropped> {
    let (word, rest) = bytes.split_first_chunk::<4>().ok_or(Dropped::Malformed)?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_captured_first_answer_is_read() {
        // A server's HARD_RESET_SERVER_V2 without protection: one acknowledgement, its own id 0.
        let body = [1, 0, 0, 0, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0];
        let control = Control::parse(Opcode::HardResetServerV2, &body).unwrap();
        assert_eq!(control.acks.ids(), [0]);
        assert_eq!(control.peer, Some([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]));
        assert_eq!((control.id, control.payload), (Some(0), &[][..]));
        assert_eq!(body.len(), Control::overhead(1, true));
    }

    #[test]
    fn more_than_eight_acknowledgements_are_refused() {
        let mut body = vec![9];
        body.extend([0; 9 * 4 + 8]);
        assert_eq!(Control::parse(Opcode::Ack, &body), Err(Dropped::Malformed));
        body[0] = 8;
        assert!(Control::parse(Opcode::Ack, &body).is_ok());
    }

    proptest! {
        #[test]
        fn bodies_survive_the_way(
            ids in proptest::collection::vec(any::<u32>(), 0..=8),
            peer in any::<[u8; 8]>(),
            id in proptest::option::of(any::<u32>()),
            payload in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut acks = Acks::default();
            for id in &ids {
                prop_assert!(acks.push(*id));
            }
            let control = Control { acks, peer: (!ids.is_empty()).then_some(peer), id, payload: &payload };
            let mut bytes = Vec::new();
            control.write(&mut bytes);
            prop_assert_eq!(bytes.len(), Control::overhead(ids.len(), id.is_some()) + payload.len());
            let opcode = if id.is_some() { Opcode::Control } else { Opcode::Ack };
            prop_assert_eq!(Control::parse(opcode, &bytes), Ok(control));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(ack in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Control::parse(if ack { Opcode::Ack } else { Opcode::Control }, &bytes);
        }
    }
}
