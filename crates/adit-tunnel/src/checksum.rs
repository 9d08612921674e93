//! The Internet checksum (RFC 1071) as IPv4, TCP and UDP use it.

use std::net::IpAddr;

/// A one's complement sum in progress.
///
/// Words are added as they lie in memory: the sum does not depend on the byte order in which it is
/// computed, as long as the result is stored the same way (RFC 1071 §2).
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// An empty sum.
    pub fn new() -> Self {
        Self(0)
    }

    /// The pseudo-header of TCP and UDP over IPv4 (RFC 9293 §3.1) and IPv6 (RFC 8200 §8.1); `length` is that
    /// of the transport header and its payload. Addresses of different families are summed as they are.
    pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Self {
        Self::new()
            .address(source)
            .address(destination)
            .word(u16::from(protocol))
            .word((length >> 16) as u16)
            .word(length as u16)
    }

    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => self.bytes(&a.octets()),
            IpAddr::V6(a) => self.bytes(&a.octets()),
        }
    }

    /// Adds one 16-bit word.
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// Adds bytes that begin at an even offset. An odd last byte is padded with zero, so nothing may follow it.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Eight independent lanes let the compiler use vector registers. A lane takes 2^32 words before it
        // could overflow; packets hold 2^14.
        let mut lanes = [0u64; 8];
        let mut blocks = bytes.chunks_exact(32);
        for block in &mut blocks {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
                *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            }
        }
        let mut sum: u64 = lanes.iter().copied().map(halves).sum();
        let mut words = blocks.remainder().chunks_exact(2);
        for word in &mut words {
            sum += u64::from(u16::from_ne_bytes([word[0], word[1]]));
        }
        if let [last] = words.remainder() {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(self.0 + sum)
    }

    /// The folded sum, not complemented: what virtio calls a partial checksum. In host byte order.
    pub fn partial(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(sum as u16)
    }

    /// The checksum to store (big endian, as every field on the wire). Over bytes that contain their own
    /// right checksum the result is 0.
    pub fn finish(self) -> u16 {
        !self.partial()
    }
}

/// Splits a lane into its 16-bit halves' sum, so that lanes can be added without overflow.
fn halves(lane: u64) -> u64 {
    (lane & 0xffff) + (lane >> 16 & 0xffff) + (lane >> 32 & 0xffff) + (lane >> 48)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The algorithm as RFC 1071 §4.1 writes it, one word at a time.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let sum = Checksum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.partial(), 0xddf2);
        assert_eq!(sum.finish(), 0x220d);
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        // An IPv4 header with checksum 0xb861, a widely used example.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(Checksum::new().bytes(&header).finish(), 0);
    }

    proptest! {
        #[test]
        fn lanes_give_what_the_plain_loop_gives(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Checksum::new().bytes(&bytes).finish(), naive(&bytes));
        }
    }
}
