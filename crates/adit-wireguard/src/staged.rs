//! Packets that wait for a session.

use std::collections::VecDeque;

use adit_tunnel::{Dropped, Segment};

/// Packets that one peer holds; the first are kept, because a connection begins with them.
const MAX_PACKETS: usize = 128;
/// Bytes that one peer holds.
const MAX_BYTES: usize = 192 * 1024;

/// A bounded queue of packets in one piece of memory, which is given back when the queue is empty.
#[derive(Debug, Default)]
pub struct Staged {
    bytes: Vec<u8>,
    lengths: VecDeque<usize>,
    taken: usize,
}

impl Staged {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Keeps a packet.
    ///
    /// # Errors
    /// [`Dropped::NotReady`] when the queue is full: what is missing is the session.
    pub fn push(&mut self, segment: &Segment<'_>) -> Result<(), Dropped> {
        let (start, len) = (self.bytes.len(), segment.len());
        if self.lengths.len() == MAX_PACKETS || start + len > MAX_BYTES {
            return Err(Dropped::NotReady);
        }
        self.bytes.resize(start + len, 0);
        segment.write(&mut self.bytes[start..]);
        self.lengths.push_back(len);
        Ok(())
    }

    /// Hands packets to `send`, oldest first, until it refuses one, which stays.
    pub fn flush(&mut self, mut send: impl FnMut(&[u8]) -> bool) {
        while let Some(&len) = self.lengths.front() {
            if !send(&self.bytes[self.taken..self.taken + len]) {
                return;
            }
            self.taken += len;
            self.lengths.pop_front();
        }
        self.clear();
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_tunnel::HostPacket;

    fn push(staged: &mut Staged, packet: &[u8]) -> Result<(), Dropped> {
        staged.push(&HostPacket::new(packet).segments().unwrap().next().unwrap())
    }

    #[test]
    fn packets_leave_in_order_and_a_refused_one_stays() {
        let mut staged = Staged::default();
        for packet in [&b"one"[..], b"two", b"three"] {
            push(&mut staged, packet).unwrap();
        }
        let mut sent = Vec::new();
        staged.flush(|packet| packet != b"two");
        staged.flush(|packet| {
            sent.push(packet.to_vec());
            true
        });
        assert_eq!(sent, [&b"two"[..], b"three"]);
        assert!(staged.is_empty() && staged.bytes.capacity() == 0);
    }

    #[test]
    fn the_queue_has_a_limit_in_packets_and_in_bytes() {
        let mut staged = Staged::default();
        for _ in 0..MAX_PACKETS {
            push(&mut staged, &[0; 10]).unwrap();
        }
        assert_eq!(push(&mut staged, &[0; 10]), Err(Dropped::NotReady));
        let mut staged = Staged::default();
        push(&mut staged, &vec![0; MAX_BYTES]).unwrap();
        assert_eq!(push(&mut staged, &[0]), Err(Dropped::NotReady));
    }
}
