//! `mssfix`: the largest TCP segments whose packets fit the path outside.

use super::{BLOCK, Shape, fragment};
use crate::{MssFix, Transport};

/// IP and TCP headers without options.
const HEADERS_V4: usize = 40;
const HEADERS_V6: usize = 60;
/// The default: this many bytes outside, where the MTU inside is Ethernet's.
const DEFAULT_OUTSIDE: u16 = 1492;
const ETHERNET: u16 = 1500;
/// No connection is squeezed below this, whatever a profile says.
const LEAST: usize = 88;

/// The maximum segment sizes for IPv4 and IPv6 inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clamp {
    pub(super) v4: u16,
    pub(super) v6: u16,
}

impl Clamp {
    /// What the option asks for. `None` clamps nothing.
    pub(super) fn new(shape: &Shape) -> Option<Self> {
        let inner = match (shape.mssfix, shape.fragment) {
            (MssFix::Off, _) => return None,
            (MssFix::Fixed(inner), _) => usize::from(inner),
            (MssFix::Payload(largest), _) => shape.largest_packet(usize::from(largest)),
            (MssFix::Mtu(largest), _) => {
                shape.largest_packet(usize::from(largest).saturating_sub(shape.outside_headers()))
            }
            // Segments that fit one datagram need no pieces.
            (MssFix::Default, Some(largest)) => shape.largest_packet(usize::from(largest)),
            (MssFix::Default, None) if shape.tun_mtu == ETHERNET => {
                shape.largest_packet(usize::from(DEFAULT_OUTSIDE) - shape.outside_headers())
            }
            (MssFix::Default, None) => usize::from(shape.tun_mtu),
        };
        let segment = |headers| inner.saturating_sub(headers).max(LEAST).min(usize::from(u16::MAX)) as u16;
        Some(Self { v4: segment(HEADERS_V4), v6: segment(HEADERS_V6) })
    }
}

impl Shape {
    /// The headers of the path outside: of IP, of UDP or TCP, and of a proxy.
    fn outside_headers(&self) -> usize {
        let ip = if self.outside_v6 { 40 } else { 20 };
        ip + match self.transport {
            Transport::Udp => 8 + usize::from(self.envelope),
            Transport::Tcp => 20,
        }
    }

    /// The bytes of all framing inside the encryption.
    fn inner_framing(&self) -> usize {
        self.compression.overhead() + self.fragment.map_or(0, |_| fragment::HEADER)
    }

    /// What may be encrypted (with its framing) so that the message is at most `largest` bytes long; on a stream two of
    /// them tell the length.
    pub(super) fn largest_payload(&self, largest: usize) -> usize {
        let stream = match self.transport {
            Transport::Udp => 0,
            Transport::Tcp => 2,
        };
        let fixed = stream + self.suite.sealed_len(self.peer_id, 0);
        if self.suite.cipher.is_aead() {
            return largest.saturating_sub(fixed);
        }
        // An empty payload fills a block with packet id and padding; whole blocks add their length.
        let blocks = largest.saturating_sub(fixed - BLOCK) / BLOCK * BLOCK;
        blocks.saturating_sub(4 + 1)
    }

    /// The largest IP packet whose message is at most `largest` bytes long.
    fn largest_packet(&self, largest: usize) -> usize {
        self.largest_payload(largest).saturating_sub(self.inner_framing())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Shape, Suite};
    use super::*;
    use crate::{Algorithm, Cipher, Compression};
    use proptest::prelude::*;

    fn shape(mssfix: MssFix) -> Shape {
        Shape {
            suite: Suite { cipher: Cipher::Aes256Gcm, auth: Algorithm::Sha1, epoch: false },
            peer_id: true,
            transport: Transport::Udp,
            outside_v6: false,
            compression: Compression::None,
            fragment: None,
            mssfix,
            tun_mtu: 1500,
            envelope: 0,
        }
    }

    fn clamp(shape: Shape) -> (u16, u16) {
        Clamp::new(&shape).map(|clamp| (clamp.v4, clamp.v6)).unwrap()
    }

    #[test]
    fn every_form_is_computed_by_hand() {
        // 1492 outside − 28 IP and UDP − 24 header, id and tag = 1440 inside.
        assert_eq!(clamp(shape(MssFix::Default)), (1400, 1380));
        assert_eq!(clamp(Shape { outside_v6: true, ..shape(MssFix::Default) }), (1380, 1360));
        // − 40 IP and TCP − 2 length.
        assert_eq!(clamp(Shape { transport: Transport::Tcp, ..shape(MssFix::Default) }), (1386, 1366));
        assert_eq!(clamp(Shape { peer_id: false, ..shape(MssFix::Default) }), (1403, 1383));
        assert_eq!(clamp(Shape { envelope: 10, ..shape(MssFix::Default) }), (1390, 1370));
        assert_eq!(clamp(Shape { tun_mtu: 1400, ..shape(MssFix::Default) }), (1360, 1340));
        assert_eq!(clamp(shape(MssFix::Payload(1450))), (1386, 1366));
        assert_eq!(clamp(shape(MssFix::Mtu(1450))), (1358, 1338));
        assert_eq!(clamp(shape(MssFix::Fixed(1450))), (1410, 1390));
        assert_eq!(
            clamp(Shape { compression: Compression::Lzo, ..shape(MssFix::Payload(1450)) }),
            (1385, 1365)
        );
        let fragment = Shape { fragment: Some(1300), ..shape(MssFix::Default) };
        assert_eq!(clamp(fragment), (1300 - 24 - 4 - 40, 1300 - 24 - 4 - 60));
        let epoch = Suite { cipher: Cipher::Aes256Gcm, auth: Algorithm::Sha1, epoch: true };
        assert_eq!(clamp(Shape { suite: epoch, ..shape(MssFix::Payload(1450)) }), (1382, 1362));
        // 1450 − 4 header − 20 HMAC − 16 IV = 1410, of which 88 blocks = 1408, − 4 id − 1 padding = 1403.
        let cbc = Suite { cipher: Cipher::Aes256Cbc, auth: Algorithm::Sha1, epoch: false };
        assert_eq!(clamp(Shape { suite: cbc, ..shape(MssFix::Payload(1450)) }), (1363, 1343));
        assert_eq!(Clamp::new(&shape(MssFix::Off)), None);
        assert_eq!(clamp(shape(MssFix::Payload(1))), (88, 88));
        assert_eq!(clamp(shape(MssFix::Fixed(u16::MAX))), (65495, 65475));
    }

    proptest! {
        #[test]
        fn the_largest_packet_fills_the_path_and_one_byte_more_does_not_fit(
            largest in 300usize..2000, cipher in prop::sample::select(Cipher::ALL.to_vec()), epoch in any::<bool>(),
            peer_id in any::<bool>(),
        ) {
            let suite = Suite { cipher, auth: Algorithm::Sha256, epoch };
            let shape = Shape { suite, peer_id, ..shape(MssFix::Off) };
            let payload = shape.largest_payload(largest);
            prop_assert!(suite.sealed_len(peer_id, payload) <= largest);
            prop_assert!(suite.sealed_len(peer_id, payload + 1) > largest);
        }
    }
}
