//! Where a tunnel writes what it produces: datagrams for the network below, packets for the packet end.
//!
//! Protocols *reserve, fill, commit*. The driver owns the one [`Outbox`] of a loop for the life of the
//! process, so nothing here allocates after construction.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use crate::{LinkId, PacketQueue};

/// The largest datagram a slot holds: the largest UDP payload.
pub const MAX_DATAGRAM: usize = 65_507;
/// The largest IP packet a slot holds.
pub const MAX_PACKET: usize = 65_535;
/// One UDP GSO send carries at most this many datagrams (Linux `UDP_MAX_SEGMENTS` is 128 since 6.9, 64 before).
const MAX_SEGMENTS: usize = 64;

/// Everything a tunnel produces.
#[derive(Debug)]
pub struct Outbox {
    /// For the network below.
    pub net: NetQueue,
    /// For the packet end.
    pub host: PacketQueue,
}

impl Outbox {
    /// An outbox with the given capacities, in bytes.
    pub fn with_capacity(net: usize, host: usize) -> Self {
        Self { net: NetQueue::with_capacity(net), host: PacketQueue::with_capacity(host) }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self::with_capacity(512 * 1024, 512 * 1024)
    }
}

/// One system call's worth of underlay data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// The link to send on.
    pub link: LinkId,
    /// The destination of datagrams; `None` on a stream link.
    pub to: Option<SocketAddr>,
    /// The size of each datagram in `data` (the last may be shorter); equals `data.len()` for one datagram.
    pub segment: usize,
    /// The bytes.
    pub data: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct Batch {
    link: LinkId,
    to: Option<SocketAddr>,
    start: usize,
    len: usize,
    segment: usize,
    segments: usize,
    closed: bool,
}

/// Underlay-bound data, grouped as it is committed so that one batch is one GSO send.
#[derive(Debug)]
pub struct NetQueue {
    bytes: Vec<u8>,
    used: usize,
    batches: Vec<Batch>,
    max_batches: usize,
    blocked: Vec<LinkId>,
}

impl NetQueue {
    fn with_capacity(capacity: usize) -> Self {
        let max_batches = 1024;
        Self {
            bytes: vec![0; capacity],
            used: 0,
            batches: Vec::with_capacity(max_batches),
            max_batches,
            blocked: Vec::new(),
        }
    }

    /// Space for one datagram of at most `len` bytes (or `len` stream bytes when `to` is `None`).
    /// `None` is backpressure: the driver must flush first.
    pub fn reserve(&mut self, link: LinkId, to: Option<SocketAddr>, len: usize) -> Option<NetSlot<'_>> {
        if self.free() < len || self.batches.len() >= self.max_batches || len > MAX_PACKET {
            return None;
        }
        if self.is_blocked(link) {
            return None;
        }
        let start = self.used;
        Some(NetSlot { queue: self, link, to, start, len })
    }

    /// Refuses reservations for a stream link whose backlog is full, until [`unblock`](Self::unblock).
    pub fn block(&mut self, link: LinkId) {
        if !self.is_blocked(link) {
            self.blocked.push(link);
        }
    }

    /// Allows reservations for a link again.
    pub fn unblock(&mut self, link: LinkId) {
        self.blocked.retain(|blocked| *blocked != link);
    }

    /// Whether reservations for a stream link are refused.
    pub fn is_blocked(&self, link: LinkId) -> bool {
        self.blocked.contains(&link)
    }

    /// Throws away what waits for a link that is closed: a new one under the same name begins with nothing.
    pub fn forget(&mut self, link: LinkId) {
        self.unblock(link);
        self.batches.retain(|batch| batch.link != link);
        if self.batches.is_empty() {
            self.used = 0;
        }
    }

    /// Bytes that can still be reserved.
    pub fn free(&self) -> usize {
        self.bytes.len() - self.used
    }

    /// Bytes that wait to be flushed.
    pub fn waiting(&self) -> usize {
        self.used
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Hands batches to `send`, oldest first, until it takes less than a whole one; what it did not take stays.
    /// `send` returns the bytes taken: of datagrams, whole ones. Returns whether the queue is empty now.
    pub fn flush(&mut self, mut send: impl FnMut(Transmit<'_>) -> usize) -> bool {
        let mut done = 0;
        for batch in &mut self.batches {
            let data = &self.bytes[batch.start..batch.start + batch.len];
            let taken = send(Transmit { link: batch.link, to: batch.to, segment: batch.segment, data });
            if taken < data.len() {
                batch.start += taken;
                batch.len -= taken;
                break;
            }
            done += 1;
        }
        self.batches.drain(..done);
        // What stays moves to the front, so that it never costs more space than its own length.
        match self.batches.first().map(|batch| batch.start) {
            None => self.used = 0,
            Some(0) => {}
            Some(start) => {
                self.bytes.copy_within(start..self.used, 0);
                self.used -= start;
                for batch in &mut self.batches {
                    batch.start -= start;
                }
            }
        }
        self.batches.is_empty()
    }

    /// Hands every batch to `send`, oldest first, and empties the queue.
    pub fn drain(&mut self, mut send: impl FnMut(Transmit<'_>)) {
        for batch in self.batches.drain(..) {
            send(Transmit {
                link: batch.link,
                to: batch.to,
                segment: batch.segment,
                data: &self.bytes[batch.start..batch.start + batch.len],
            });
        }
        self.used = 0;
    }

    fn commit(&mut self, link: LinkId, to: Option<SocketAddr>, len: usize) {
        let start = self.used;
        self.used += len;
        if let Some(last) = self.batches.last_mut()
            && last.link == link
            && last.to == to
            && (to.is_none() || (!last.closed && len <= last.segment && last.segments < MAX_SEGMENTS))
            && last.len + len <= MAX_DATAGRAM
        {
            last.len += len;
            last.segments += 1;
            // A GSO send allows a shorter datagram only at its end.
            last.closed = len < last.segment;
            if to.is_none() {
                last.segment = last.len;
            }
            return;
        }
        self.batches.push(Batch { link, to, start, len, segment: len, segments: 1, closed: false });
    }
}

/// Reserved space in a [`NetQueue`]; given back unless committed.
#[derive(Debug)]
pub struct NetSlot<'a> {
    queue: &'a mut NetQueue,
    link: LinkId,
    to: Option<SocketAddr>,
    start: usize,
    len: usize,
}

impl NetSlot<'_> {
    /// Keeps the first `used` bytes as one datagram.
    ///
    /// # Panics
    /// If `used` exceeds the reservation: a bug of the protocol, not of its input.
    pub fn commit(self, used: usize) {
        assert!(used <= self.len, "committed {used} of {} reserved bytes", self.len);
        if used > 0 {
            self.queue.commit(self.link, self.to, used);
        }
    }
}

impl Deref for NetSlot<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.queue.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for NetSlot<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.queue.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(queue: &mut NetQueue) -> Vec<(usize, usize)> {
        let mut batches = Vec::new();
        queue.drain(|t| batches.push((t.segment, t.data.len())));
        batches
    }

    fn put(queue: &mut NetQueue, to: &str, len: usize) {
        // Reserved space is larger than what is used: batches go by what was committed.
        queue.reserve(LinkId(0), Some(to.parse().unwrap()), len + 100).unwrap().commit(len);
    }

    #[test]
    fn datagrams_of_one_size_share_a_batch_and_a_shorter_one_ends_it() {
        let mut queue = NetQueue::with_capacity(100_000);
        for len in [1000, 1000, 400, 1000] {
            put(&mut queue, "127.0.0.1:1", len);
        }
        assert_eq!(drained(&mut queue), [(1000, 2400), (1000, 1000)]);
    }

    #[test]
    fn another_destination_or_a_longer_datagram_starts_a_batch() {
        let mut queue = NetQueue::with_capacity(100_000);
        put(&mut queue, "127.0.0.1:1", 100);
        put(&mut queue, "127.0.0.1:2", 100);
        put(&mut queue, "127.0.0.1:2", 200);
        assert_eq!(drained(&mut queue), [(100, 100), (100, 100), (200, 200)]);
        assert!(queue.is_empty() && queue.free() == 100_000);
    }

    #[test]
    fn what_a_full_socket_does_not_take_stays_in_order() {
        let mut queue = NetQueue::with_capacity(10_000);
        for (to, len) in
            [("127.0.0.1:1", 1000), ("127.0.0.1:2", 600), ("127.0.0.1:2", 600), ("127.0.0.1:3", 50)]
        {
            put(&mut queue, to, len);
        }
        let mut calls = 0;
        let empty = queue.flush(|t| {
            calls += 1;
            // The second batch is two datagrams; the socket takes the first of them.
            if calls == 2 { t.segment } else { t.data.len() }
        });
        assert!(!empty && queue.free() == 10_000 - 650);
        assert_eq!(drained(&mut queue), [(600, 600), (50, 50)]);
        assert!(queue.flush(|_| 0), "an empty queue is empty");
    }

    #[test]
    fn a_blocked_stream_link_refuses_reservations_and_others_do_not() {
        let mut queue = NetQueue::with_capacity(10_000);
        queue.block(LinkId(7));
        assert!(queue.reserve(LinkId(7), None, 10).is_none());
        assert!(queue.reserve(LinkId(8), None, 10).is_some());
        queue.unblock(LinkId(7));
        assert!(queue.reserve(LinkId(7), None, 10).is_some());
    }

    #[test]
    fn a_link_that_is_closed_leaves_nothing_to_its_successor() {
        let mut queue = NetQueue::with_capacity(10_000);
        queue.reserve(LinkId(1), None, 100).unwrap().commit(100);
        put(&mut queue, "127.0.0.1:1", 50);
        queue.block(LinkId(1));
        queue.forget(LinkId(1));
        queue.reserve(LinkId(1), None, 30).expect("not blocked any more").commit(30);
        assert_eq!(drained(&mut queue), [(50, 50), (30, 30)]);
        queue.reserve(LinkId(1), None, 100).unwrap().commit(100);
        queue.forget(LinkId(1));
        assert!(queue.is_empty() && queue.free() == 10_000);
    }
}
