//! What carries the packets of a session.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_tunnel::{LinkId, NetQueue, NetSlot};

/// The bytes before a packet on a stream.
pub(crate) const LENGTH: usize = 2;

/// A link, and what is put around packets on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Carrier {
    /// The link.
    pub(crate) link: LinkId,
    /// The server or the relay of a proxy, as packets are addressed; of a stream, the far end of its connection.
    pub(crate) server: SocketAddr,
    /// A stream, in which each packet follows its length.
    pub(crate) stream: bool,
    /// What a proxy wants before each datagram.
    pub(crate) envelope: Option<Arc<[u8]>>,
}

impl Carrier {
    /// The bytes that are put before a packet.
    pub(crate) fn head(&self) -> usize {
        if self.stream { LENGTH } else { self.envelope.as_deref().map_or(0, <[u8]>::len) }
    }

    /// Space for a packet of at most `len` bytes behind [`head`](Self::head) bytes.
    pub(crate) fn reserve<'a>(&self, len: usize, out: &'a mut NetQueue) -> Option<NetSlot<'a>> {
        let to = (!self.stream).then_some(self.server);
        out.reserve(self.link, to, self.head() + len)
    }

    /// Commits a packet of `len` bytes that lies behind [`head`](Self::head) bytes.
    pub(crate) fn commit(&self, mut slot: NetSlot<'_>, len: usize) {
        if let Some(envelope) = &self.envelope {
            slot.split_at_mut(envelope.len()).0.copy_from_slice(envelope);
        }
        if self.stream
            && let Some(length) = slot.first_chunk_mut::<LENGTH>()
        {
            // No packet is longer: the outbox takes none above 64 KiB.
            *length = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        }
        slot.commit(self.head() + len);
    }

    /// Whether a packet of `len` bytes would be taken.
    pub(crate) fn takes(&self, len: usize, out: &mut NetQueue) -> bool {
        self.reserve(len, out).is_some()
    }

    /// Sends a packet; one that is not taken is lost, as any may be.
    pub(crate) fn send(&self, packet: &[u8], out: &mut NetQueue) {
        let head = self.head();
        let Some(mut slot) = self.reserve(packet.len(), out) else { return };
        slot.split_at_mut(head).1.copy_from_slice(packet);
        self.commit(slot, packet.len());
    }
}
