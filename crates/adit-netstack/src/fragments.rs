//! Putting fragmented packets together (RFC 791 §3.2, RFC 8200 §4.5).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_tunnel::Dropped;
use adit_tunnel::view::IpView;

use crate::emit;

/// Packets in pieces at once; the oldest makes room for a newer one.
const MAX_PACKETS: usize = 16;
/// Pieces of one packet: the largest packet in pieces of 1280 bytes.
const MAX_PIECES: usize = 64;
/// How long the rest of a packet is awaited (Linux' value; the RFCs allow 60 s).
const LIFETIME: Duration = Duration::from_secs(30);
/// Length of the IPv6 fragment header.
const V6_HEADER: usize = 8;

/// Packets of which some pieces have come.
#[derive(Debug, Default)]
pub(crate) struct Fragments {
    packets: Vec<Partial>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    identification: u32,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    since: Instant,
    /// Room for an IP header, then the payload as far as a piece of it has come.
    bytes: Vec<u8>,
    /// What has come: disjoint ranges of the payload.
    pieces: Vec<(usize, usize)>,
    /// Length of the payload, once the last piece has come.
    total: Option<usize>,
}

impl Fragments {
    /// Takes a piece; returns the packet when it was the missing one.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] for pieces that contradict each other. Pieces that overlap undo their packet (RFC 5722).
    pub(crate) fn add(&mut self, now: Instant, ip: &IpView<'_>) -> Result<Option<Vec<u8>>, Dropped> {
        self.packets.retain(|partial| partial.since + LIFETIME > now);
        let (identification, start, more) = position(ip).ok_or(Dropped::Malformed)?;
        let (source, destination) = (ip.source(), ip.destination());
        let key = Key { source, destination, protocol: ip.protocol(), identification };
        let end = start + ip.payload().len();
        let header = emit::ip_header_len(destination);
        // All but the last piece are multiples of eight bytes; no packet is longer than its length field can say.
        if end == start || (more && !end.is_multiple_of(8)) || header + end > usize::from(u16::MAX) {
            return Err(Dropped::Malformed);
        }
        let at = match self.packets.iter().position(|partial| partial.key == key) {
            Some(at) => at,
            None => {
                if self.packets.len() == MAX_PACKETS {
                    self.packets.remove(0);
                }
                let bytes = vec![0; header];
                self.packets.push(Partial { key, since: now, bytes, pieces: Vec::new(), total: None });
                self.packets.len() - 1
            }
        };
        let partial = &mut self.packets[at];
        if partial.pieces.contains(&(start, end)) {
            return Ok(None);
        }
        if !partial.fits(start, end, more) {
            self.packets.remove(at);
            return Err(Dropped::Malformed);
        }
        partial.insert(header, start, ip.payload(), more);
        if !partial.is_whole() {
            return Ok(None);
        }
        let mut packet = self.packets.remove(at).bytes;
        emit::fill_ip_header(&mut packet, source, destination, key.protocol);
        Ok(Some(packet))
    }
}

impl Partial {
    fn fits(&self, start: usize, end: usize, more: bool) -> bool {
        let overlaps = self.pieces.iter().any(|&(from, to)| start < to && from < end);
        let beyond = self.total.is_some_and(|total| end > total || !more);
        let short = !more && self.pieces.iter().any(|&(_, to)| to > end);
        !overlaps && !beyond && !short && self.pieces.len() < MAX_PIECES
    }

    fn insert(&mut self, header: usize, start: usize, payload: &[u8], more: bool) {
        let end = start + payload.len();
        if self.bytes.len() < header + end {
            self.bytes.resize(header + end, 0);
        }
        self.bytes[header + start..header + end].copy_from_slice(payload);
        self.pieces.push((start, end));
        if !more {
            self.total = Some(end);
        }
    }

    fn is_whole(&self) -> bool {
        let come: usize = self.pieces.iter().map(|(from, to)| to - from).sum();
        self.total == Some(come)
    }
}

/// Identification, offset in bytes, and whether more pieces follow.
fn position(ip: &IpView<'_>) -> Option<(u32, usize, bool)> {
    if ip.is_v4() {
        let bytes = ip.bytes();
        let field = u16::from_be_bytes([bytes[6], bytes[7]]);
        let identification = u16::from_be_bytes([bytes[4], bytes[5]]);
        return Some((identification.into(), usize::from(field & 0x1fff) * 8, field & 0x2000 != 0));
    }
    // The view ends the headers of a fragment with the fragment header.
    let header = ip.bytes().get(ip.header_len().checked_sub(V6_HEADER)?..ip.header_len())?;
    let field = u16::from_be_bytes([header[2], header[3]]);
    let identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Some((identification, usize::from(field & 0xfff8), field & 1 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::Backlog;
    use proptest::prelude::*;

    /// `payload` as the stack itself sends it over a link of `mtu` bytes.
    fn pieces(v6: bool, payload: &[u8], mtu: usize, identification: u32) -> Vec<Vec<u8>> {
        let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        let mut backlog = Backlog::new(1 << 20, 10_000);
        let pair = (a.parse().unwrap(), b.parse().unwrap());
        assert!(emit::datagram(&mut backlog, pair, 17, payload, mtu, identification));
        let mut pieces = Vec::new();
        backlog.drain(|(), packet| {
            pieces.push(packet.to_vec());
            true
        });
        pieces
    }

    fn add(fragments: &mut Fragments, now: Instant, piece: &[u8]) -> Result<Option<Vec<u8>>, Dropped> {
        fragments.add(now, &IpView::parse(piece).unwrap())
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_and_number_make_the_packet(
            v6 in any::<bool>(),
            len in 1300usize..20_000,
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
        ) {
            let payload = crate::testing::pattern(len);
            let pieces = pieces(v6, &payload, 1280, 7);
            let (now, mut fragments) = (Instant::now(), Fragments::default());
            // Any pieces first, some of them twice, then each of them.
            let order = order.iter().map(|at| at.index(pieces.len())).chain(0..pieces.len());
            let mut whole = None;
            for at in order {
                whole = add(&mut fragments, now, &pieces[at]).unwrap();
                if whole.is_some() {
                    break;
                }
            }
            let whole = whole.unwrap();
            let view = IpView::parse(&whole).unwrap();
            prop_assert!(!view.is_fragment());
            prop_assert!(view.payload() == payload);
            prop_assert!(fragments.packets.is_empty());
        }

        #[test]
        fn no_pieces_panic_or_exceed_the_bounds(
            pieces in proptest::collection::vec((0u32..3, any::<u16>(), 0usize..40), 0..300),
        ) {
            let (now, mut fragments) = (Instant::now(), Fragments::default());
            for (identification, field, len) in pieces {
                let mut packet = vec![0; 20 + len];
                emit::fill_ip_header(&mut packet, "10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 17);
                packet[5] = identification as u8;
                packet[6..8].copy_from_slice(&field.to_be_bytes());
                let _ = add(&mut fragments, now, &packet);
            }
            prop_assert!(fragments.packets.iter().all(|partial| partial.pieces.len() <= MAX_PIECES));
        }
    }

    #[test]
    fn overlapping_pieces_undo_their_packet() {
        let (now, mut fragments) = (Instant::now(), Fragments::default());
        let good = pieces(false, &[1; 4000], 1280, 7);
        let other = pieces(false, &[2; 4000], 1000, 7);
        assert_eq!(add(&mut fragments, now, &good[0]), Ok(None));
        assert_eq!(add(&mut fragments, now, &other[1]), Err(Dropped::Malformed));
        assert!(fragments.packets.is_empty());
    }

    #[test]
    fn what_stays_incomplete_is_forgotten_by_number_and_by_time() {
        let (now, mut fragments) = (Instant::now(), Fragments::default());
        for identification in 0..100 {
            assert_eq!(
                add(&mut fragments, now, &pieces(true, &[0; 3000], 1280, identification)[0]),
                Ok(None)
            );
        }
        assert_eq!(fragments.packets.len(), MAX_PACKETS);
        add(&mut fragments, now + LIFETIME, &pieces(true, &[0; 3000], 1280, 100)[0]).unwrap();
        assert_eq!(fragments.packets.len(), 1);
    }
}
