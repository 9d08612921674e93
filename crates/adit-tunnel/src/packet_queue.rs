//! The queue of opened packets on their way to the packet end.

use std::ops::{Deref, DerefMut};

use crate::HostPacket;
use crate::coalesce::Run;

/// Entries before the driver must drain. A drain follows every batch of datagrams, which is smaller.
const MAX_ENTRIES: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    len: usize,
    /// What may follow, if this is a TCP segment that may grow.
    run: Option<Run>,
}

/// IP packets for the packet end.
///
/// Consecutive in-order TCP segments of one flow become one super-segment, as a NIC's receive offload makes
/// them: the packet end then works once per batch. The checksums of merged segments have been verified, and
/// the transport checksum field of a super-segment holds the partial sum over its pseudo-header, as virtio wants it.
#[derive(Debug)]
pub struct PacketQueue {
    bytes: Vec<u8>,
    used: usize,
    entries: Vec<Entry>,
    coalesce: bool,
}

impl PacketQueue {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity], used: 0, entries: Vec::with_capacity(MAX_ENTRIES), coalesce: true }
    }

    /// Whether segments are merged, which they are unless a packet end (a TUN device without offload) takes plain packets only.
    pub fn set_coalesce(&mut self, on: bool) {
        self.coalesce = on;
    }

    /// Space for one packet of at most `len` bytes; `None` is backpressure.
    pub fn reserve(&mut self, len: usize) -> Option<PacketSlot<'_>> {
        if self.free() < len || self.entries.len() >= MAX_ENTRIES {
            return None;
        }
        let start = self.used;
        Some(PacketSlot { queue: self, start, len })
    }

    /// Bytes that can still be reserved.
    pub fn free(&self) -> usize {
        self.bytes.len() - self.used
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Packets (super-segments count once) that wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Hands every packet to `take`, oldest first, and empties the queue.
    pub fn drain(&mut self, mut take: impl FnMut(HostPacket<'_>)) {
        for entry in self.entries.drain(..) {
            let bytes = &mut self.bytes[entry.start..entry.start + entry.len];
            take(match entry.run.and_then(|run| run.finish(bytes)) {
                Some(segment) => HostPacket::segmented(bytes, segment),
                None => HostPacket::new(bytes),
            });
        }
        self.used = 0;
    }

    fn commit(&mut self, start: usize, len: usize) {
        let run = if self.coalesce { Run::start(&self.bytes[start..start + len]) } else { None };
        if let Some(new) = &run
            && let Some(last) = self.entries.last_mut()
            && let Some(tail) = &mut last.run
            && last.start + last.len == start
        {
            let (before, after) = self.bytes.split_at_mut(start);
            if tail.append(&mut before[last.start..], new, &after[..len]) {
                let payload = start + new.header_len()..start + len;
                self.used = start + payload.len();
                last.len += payload.len();
                self.bytes.copy_within(payload, start);
                return;
            }
        }
        self.entries.push(Entry { start, len, run });
        self.used = start + len;
    }
}

/// Reserved space in a [`PacketQueue`]; given back unless committed.
#[derive(Debug)]
pub struct PacketSlot<'a> {
    queue: &'a mut PacketQueue,
    start: usize,
    len: usize,
}

impl PacketSlot<'_> {
    /// Keeps the first `used` bytes as one packet, or as the continuation of the one before.
    ///
    /// # Panics
    /// If `used` exceeds the reservation: a bug of the protocol, not of its input.
    pub fn commit(self, used: usize) {
        assert!(used <= self.len, "committed {used} of {} reserved bytes", self.len);
        if used > 0 {
            self.queue.commit(self.start, used);
        }
    }
}

impl Deref for PacketSlot<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.queue.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for PacketSlot<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.queue.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outbox;

    #[test]
    fn what_is_not_committed_is_given_back() {
        let mut queue = PacketQueue::with_capacity(3000);
        let _ = queue.reserve(2000).unwrap();
        queue.reserve(2000).unwrap().commit(1500);
        assert!(queue.reserve(2000).is_none(), "1500 of 3000 bytes are taken");
        let mut lens = Vec::new();
        queue.drain(|packet| lens.push(packet.bytes().len()));
        assert_eq!(lens, [1500]);
    }

    #[test]
    fn a_full_queue_takes_no_more_until_it_is_drained() {
        let mut out = Outbox::with_capacity(0, MAX_ENTRIES * 2);
        for _ in 0..MAX_ENTRIES {
            out.host.reserve(1).unwrap().commit(1);
        }
        assert!(out.host.reserve(1).is_none());
        out.host.drain(|_| ());
        assert!(out.host.reserve(1).is_some());
    }
}
