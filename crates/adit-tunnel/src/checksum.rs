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
        // Whole words into two accumulators that are wider than what can overflow them: an addition and an addition
        // with carry for eight bytes, which is faster than the vector code that compilers make of narrower lanes.
        let mut sums = [0u128; 2];
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            for (index, word) in block.as_chunks::<8>().0.iter().enumerate() {
                sums[index % 2] += u128::from(u64::from_ne_bytes(*word));
            }
        }
        let mut sum: u64 = sums.into_iter().map(|sum| halves(sum as u64) + halves((sum >> 64) as u64)).sum();
        let (words, rest) = rest.as_chunks::<8>();
        sum += words.iter().map(|word| halves(u64::from_ne_bytes(*word))).sum::<u64>();
        let (words, rest) = rest.as_chunks::<2>();
        sum += words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum::<u64>();
        if let [last] = rest {
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

/// The sum of a word's four 16-bit parts, which is the same modulo 2^16 - 1.
fn halves(word: u64) -> u64 {
    (word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48)
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
        fn wide_words_give_what_the_plain_loop_gives(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Checksum::new().bytes(&bytes).finish(), naive(&bytes));
        }
    }
}
