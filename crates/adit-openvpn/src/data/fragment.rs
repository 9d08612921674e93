//! `fragment`: packets that are too large for a datagram travel in pieces, every packet behind a header of four bytes.

use std::time::{Duration, Instant};

use adit_tunnel::Dropped;

/// The header, which whole packets have too: all zero.
pub(super) const HEADER: usize = 4;
/// A packet has at most this many pieces.
const MAX_PIECES: usize = 32;
/// Packets in pieces that may be under way at once, by consecutive sequence numbers.
const WINDOW: usize = 25;
/// What is not complete after this time is dropped.
const LIFETIME: Duration = Duration::from_secs(10);

/// Bits 0–1 of the header.
mod kind {
    pub(super) const WHOLE: u32 = 0;
    pub(super) const NOT_LAST: u32 = 1;
    pub(super) const LAST: u32 = 2;
}

/// How a packet is cut: `count` pieces of `size` bytes, of which the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) size: usize,
    pub(super) count: usize,
}

impl Cut {
    /// Cuts a packet of `length` bytes into even pieces of at most `largest` bytes. `None` if there would be too many.
    pub(super) fn new(length: usize, largest: usize) -> Option<Self> {
        let largest = largest / 4 * 4;
        if largest == 0 || length.div_ceil(largest) > MAX_PIECES {
            return None;
        }
        let size = length.div_ceil(length.div_ceil(largest)).next_multiple_of(4);
        Some(Self { size, count: length.div_ceil(size) })
    }

    /// The header of the piece with this number, of the packet with this sequence number.
    pub(super) fn header(&self, sequence: u8, piece: usize) -> [u8; HEADER] {
        let last = piece + 1 == self.count;
        let kind = if last { kind::LAST } else { kind::NOT_LAST };
        let size = if last { (self.size as u32 / 4) << 15 } else { 0 };
        (kind | u32::from(sequence) << 2 | (piece as u32) << 10 | size).to_be_bytes()
    }
}

/// Puts packets together again. All memory is taken at the beginning.
#[derive(Debug)]
pub(super) struct Reassembly {
    slots: Box<[Slot]>,
    newest: u8,
    limit: usize,
}

#[derive(Debug)]
struct Slot {
    sequence: u8,
    /// When the first piece came; `None` is an empty slot.
    since: Option<Instant>,
    /// The pieces that came, by bit.
    have: u32,
    /// How many there are, once the last came.
    count: Option<usize>,
    /// The length of all but the last, once known.
    size: Option<usize>,
    /// The length of the packet, once the last came.
    length: usize,
    bytes: Box<[u8]>,
}

impl Reassembly {
    /// For packets of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        let slot = |_| Slot {
            sequence: 0,
            since: None,
            have: 0,
            count: None,
            size: None,
            length: 0,
            bytes: vec![0; limit].into_boxed_slice(),
        };
        Self { slots: (0..WINDOW).map(slot).collect(), newest: 0, limit }
    }

    /// Takes what was decrypted. `None` as long as pieces are missing.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] for headers that contradict themselves or earlier ones, [`Dropped::TooBig`] for a packet
    /// above the limit.
    pub(super) fn take<'a>(
        &'a mut self,
        now: Instant,
        message: &'a mut [u8],
    ) -> Result<Option<&'a mut [u8]>, Dropped> {
        let (header, bytes) = message.split_first_chunk_mut::<HEADER>().ok_or(Dropped::Malformed)?;
        let header = u32::from_be_bytes(*header);
        let last = match header & 3 {
            kind::WHOLE if header == 0 => return Ok(Some(bytes)),
            kind::NOT_LAST => false,
            kind::LAST => true,
            _ => return Err(Dropped::Malformed),
        };
        let sequence = (header >> 2) as u8;
        let piece = (header >> 10 & 0x1f) as usize;
        let stated = last.then_some((header >> 15 & 0x3fff) as usize * 4);
        let limit = self.limit;
        let slot = self.slot(now, sequence).ok_or(Dropped::Malformed)?;
        match slot.add(piece, stated, bytes, limit) {
            Ok(true) => {
                slot.since = None;
                Ok(Some(slot.bytes.get_mut(..slot.length).ok_or(Dropped::Malformed)?))
            }
            Ok(false) => Ok(None),
            Err(error) => {
                slot.since = None;
                Err(error)
            }
        }
    }

    /// The slot of a sequence number, after the window moved to it.
    fn slot(&mut self, now: Instant, sequence: u8) -> Option<&mut Slot> {
        let ahead = sequence.wrapping_sub(self.newest) as i8;
        // Far behind is a sender that began anew.
        let restarted = ahead <= -(WINDOW as i8);
        if ahead > 0 || restarted {
            self.newest = sequence;
        }
        let newest = self.newest;
        for slot in &mut self.slots {
            let outside = usize::from(newest.wrapping_sub(slot.sequence)) >= WINDOW;
            let expired = slot.since.is_some_and(|since| now.saturating_duration_since(since) > LIFETIME);
            if outside || expired || restarted {
                slot.since = None;
            }
        }
        let open = |slot: &Slot| slot.since.is_some() && slot.sequence == sequence;
        let at = match self.slots.iter().position(open) {
            Some(at) => at,
            None => {
                let free = self.slots.iter().position(|slot| slot.since.is_none())?;
                self.slots.get_mut(free)?.begin(now, sequence);
                free
            }
        };
        self.slots.get_mut(at)
    }
}

impl Slot {
    fn begin(&mut self, now: Instant, sequence: u8) {
        self.sequence = sequence;
        self.since = Some(now);
        (self.have, self.count, self.size, self.length) = (0, None, None, 0);
    }

    /// Adds a piece; the last one states how long the others are. Whether the packet is whole.
    fn add(
        &mut self,
        piece: usize,
        stated: Option<usize>,
        bytes: &[u8],
        limit: usize,
    ) -> Result<bool, Dropped> {
        if self.have & 1 << piece != 0 {
            // A datagram that came twice.
            return Ok(false);
        }
        let size = stated.unwrap_or(bytes.len());
        let agrees = self.size.is_none_or(|known| known == size)
            && self.count.is_none_or(|count| piece + 1 < count)
            && size != 0
            && size.is_multiple_of(4)
            && !bytes.is_empty()
            && bytes.len() <= size;
        if !agrees || (stated.is_some() && self.have >> piece != 0) {
            return Err(Dropped::Malformed);
        }
        let start = piece * size;
        let end = start + bytes.len();
        if end > limit {
            return Err(Dropped::TooBig);
        }
        self.bytes.get_mut(start..end).ok_or(Dropped::TooBig)?.copy_from_slice(bytes);
        self.size = Some(size);
        self.have |= 1 << piece;
        if stated.is_some() {
            (self.count, self.length) = (Some(piece + 1), end);
        }
        let all = |count: usize| u32::MAX >> (MAX_PIECES - count);
        Ok(self.count.is_some_and(|count| self.have == all(count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1600;

    fn pieces(packet: &[u8], largest: usize, sequence: u8) -> Vec<Vec<u8>> {
        let cut = Cut::new(packet.len(), largest).unwrap();
        let pieces: Vec<_> = packet
            .chunks(cut.size)
            .enumerate()
            .map(|(piece, bytes)| [&cut.header(sequence, piece), bytes].concat())
            .collect();
        assert_eq!(pieces.len(), cut.count);
        pieces
    }

    fn take(reassembly: &mut Reassembly, now: Instant, piece: &[u8]) -> Result<Option<Vec<u8>>, Dropped> {
        let taken = reassembly.take(now, &mut piece.to_vec())?.map(|packet| packet.to_vec());
        Ok(taken)
    }

    #[test]
    fn the_header_has_its_bits_where_they_belong() {
        let cut = Cut::new(1400, 500).unwrap();
        assert_eq!(cut, Cut { size: 468, count: 3 });
        assert_eq!(cut.header(0xa5, 0), (1u32 | 0xa5 << 2).to_be_bytes());
        assert_eq!(cut.header(0xa5, 1), (1u32 | 0xa5 << 2 | 1 << 10).to_be_bytes());
        assert_eq!(cut.header(0xa5, 2), (2u32 | 0xa5 << 2 | 2 << 10 | 117 << 15).to_be_bytes());
        assert_eq!(Cut::new(1400, 43), None, "40 bytes make 35 pieces");
        assert_eq!(Cut::new(10, 3), None);
    }

    #[test]
    fn packets_that_cross_each_other_come_out_whole() {
        let (mut reassembly, now) = (Reassembly::new(LIMIT), Instant::now());
        let packets: Vec<Vec<u8>> = (0..25u8).map(|n| vec![n; 1000 + usize::from(n)]).collect();
        let sequence = |n: usize| 250u8.wrapping_add(n as u8);
        let all: Vec<_> =
            packets.iter().enumerate().map(|(n, packet)| pieces(packet, 300, sequence(n))).collect();
        for round in (0..4).rev() {
            for (packet, pieces) in packets.iter().zip(&all) {
                let taken = take(&mut reassembly, now, &pieces[round]).unwrap();
                assert_eq!(taken, (round == 0).then(|| packet.clone()));
            }
        }
    }

    #[test]
    fn what_stays_incomplete_is_dropped_by_age_and_by_distance() {
        let (mut reassembly, now) = (Reassembly::new(LIMIT), Instant::now());
        let packet = pieces(&[1; 1000], 600, 7);
        assert_eq!(take(&mut reassembly, now, &packet[0]), Ok(None));
        assert_eq!(take(&mut reassembly, now + Duration::from_secs(11), &packet[1]), Ok(None));
        assert_eq!(take(&mut reassembly, now + Duration::from_secs(11), &packet[0]), Ok(Some(vec![1; 1000])));
        assert_eq!(take(&mut reassembly, now, &packet[0]), Ok(None));
        assert_eq!(take(&mut reassembly, now, &pieces(&[1; 1000], 600, 32)[0]), Ok(None));
        assert_eq!(take(&mut reassembly, now, &packet[1]), Ok(None), "25 numbers later it is forgotten");
    }

    #[test]
    fn whole_packets_pass_and_contradictions_do_not() {
        let (mut reassembly, now) = (Reassembly::new(LIMIT), Instant::now());
        assert_eq!(take(&mut reassembly, now, b"\0\0\0\0abc"), Ok(Some(b"abc".to_vec())));
        let header = |bits: u32| [&bits.to_be_bytes()[..], &[9; 8]].concat();
        for bits in [4, 3, 2, 2 | 1 << 15, 1 << 30] {
            assert_eq!(take(&mut reassembly, now, &header(bits)), Err(Dropped::Malformed), "{bits:#x}");
        }
        assert_eq!(take(&mut reassembly, now, b"\0\0\0"), Err(Dropped::Malformed));
        // Number 3 is the last, but number 5 came.
        assert_eq!(take(&mut reassembly, now, &header(1 | 5 << 10)), Ok(None));
        assert_eq!(take(&mut reassembly, now, &header(2 | 3 << 10 | 2 << 15)), Err(Dropped::Malformed));
        // Two lengths.
        assert_eq!(take(&mut reassembly, now, &header(1)), Ok(None));
        assert_eq!(take(&mut reassembly, now, &header(2 | 1 << 10 | 3 << 15)), Err(Dropped::Malformed));
        assert_eq!(
            take(&mut reassembly, now, &header(2 | 31 << 10 | 0x3fff << 15)),
            Err(Dropped::TooBig),
            "memory is bounded"
        );
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_and_twice_make_the_packet_once(
            length in 1usize..LIMIT, largest in 52usize..700, sequence in any::<u8>(),
            order in Just((0..64usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let packet: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let pieces = pieces(&packet, largest, sequence);
            let (mut reassembly, now) = (Reassembly::new(LIMIT), Instant::now());
            let mut out = Vec::new();
            let mut left = pieces.len();
            let mut seen = [false; 32];
            for at in order.iter().map(|at| at % 32).filter(|at| *at < pieces.len()) {
                if let Some(packet) = take(&mut reassembly, now, &pieces[at]).unwrap() {
                    out.push(packet);
                }
                left -= usize::from(!std::mem::replace(&mut seen[at], true));
                if left == 0 {
                    break;
                }
            }
            prop_assert_eq!(out, [packet]);
        }

        #[test]
        fn no_bytes_make_the_reassembly_panic(messages in proptest::collection::vec(
            (any::<u32>(), 0usize..3, proptest::collection::vec(any::<u8>(), 0..20)), 0..100,
        )) {
            let (mut reassembly, now) = (Reassembly::new(LIMIT), Instant::now());
            for (header, kind, bytes) in messages {
                // Few sequence numbers and pieces, so that they meet.
                let header = header & 0x0007_0c0c | kind as u32;
                let _ = take(&mut reassembly, now, &[&header.to_be_bytes(), &bytes[..]].concat());
            }
        }
    }
}
