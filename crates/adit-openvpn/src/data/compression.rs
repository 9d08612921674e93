//! The framing that compression options bring. Nothing is ever compressed here: what an attacker can mix with a secret
//! before it is compressed tells the secret by its length (VORACLE). What a peer compressed is read.

use adit_tunnel::Dropped;

use crate::Compression;

/// What the first byte says.
mod head {
    /// A plain packet follows.
    pub(super) const PLAIN: u8 = 0xfa;
    /// A plain packet whose first byte is the message's last.
    pub(super) const PLAIN_SWAPPED: u8 = 0xfb;
    /// LZO1X.
    pub(super) const LZO: u8 = 0x66;
    /// An LZ4 block, whose first byte is the message's last.
    pub(super) const LZ4_SWAPPED: u8 = 0x69;
    /// Two bytes of framing of the second version; otherwise there are none.
    pub(super) const V2: u8 = 0x50;
}

/// The second byte behind [`head::V2`].
const V2_PLAIN: u8 = 0;
const V2_LZ4: u8 = 1;

impl Compression {
    /// How many bytes the framing of an IP packet adds.
    pub(super) fn overhead(self) -> usize {
        match self {
            Self::None | Self::StubV2 => 0,
            Self::Lzo | Self::Stub => 1,
        }
    }

    /// Where a packet that begins with `first` must lie for [`frame`](Self::frame), and how many bytes it needs after
    /// its end.
    pub(super) fn space(self, first: Option<u8>) -> (usize, usize) {
        match self {
            Self::None => (0, 0),
            Self::Lzo => (1, 0),
            Self::Stub => (0, 1),
            Self::StubV2 if first == Some(head::V2) => (2, 0),
            Self::StubV2 => (0, 0),
        }
    }

    /// Frames the packet of `packet` bytes that lies in `slot`, which is exactly as long as packet and
    /// [`space`](Self::space).
    pub(super) fn frame(self, slot: &mut [u8], packet: usize) -> Result<(), Dropped> {
        let prefixed = slot.len() == packet + 2;
        match (self, slot) {
            (Self::None, _) => {}
            (Self::Lzo, [first, ..]) => *first = head::PLAIN,
            (Self::Stub, [first, .., last]) => {
                *last = *first;
                *first = head::PLAIN_SWAPPED;
            }
            (Self::StubV2, [first, second, ..]) if prefixed => (*first, *second) = (head::V2, V2_PLAIN),
            (Self::StubV2, _) => {}
            _ => return Err(Dropped::Malformed),
        }
        Ok(())
    }

    /// Takes the framing off. What the peer compressed is written to `scratch`, whose length is the limit for it.
    ///
    /// # Errors
    /// [`Dropped::Malformed`] for framing of another kind and for bytes that do not decompress into `scratch`.
    pub(super) fn unframe<'a>(
        self,
        message: &'a mut [u8],
        scratch: &'a mut [u8],
    ) -> Result<&'a mut [u8], Dropped> {
        match self {
            Self::None => Ok(message),
            Self::Lzo => match message.split_first_mut() {
                Some((&mut head::PLAIN, packet)) => Ok(packet),
                Some((&mut head::LZO, block)) => {
                    let length = lzokay::decompress::decompress(block, scratch);
                    scratch.get_mut(..length.map_err(|_| Dropped::Malformed)?).ok_or(Dropped::Malformed)
                }
                _ => Err(Dropped::Malformed),
            },
            Self::Stub => {
                let (last, packet) = message.split_last_mut().ok_or(Dropped::Malformed)?;
                let first = packet.first_mut().ok_or(Dropped::Malformed)?;
                match std::mem::replace(first, *last) {
                    head::PLAIN_SWAPPED => Ok(packet),
                    head::LZ4_SWAPPED => lz4(packet, scratch),
                    _ => Err(Dropped::Malformed),
                }
            }
            Self::StubV2 if message.first() == Some(&head::V2) => match message {
                [_, V2_PLAIN, packet @ ..] => Ok(packet),
                [_, V2_LZ4, block @ ..] => lz4(block, scratch),
                _ => Err(Dropped::Malformed),
            },
            Self::StubV2 => Ok(message),
        }
    }
}

fn lz4<'a>(block: &[u8], scratch: &'a mut [u8]) -> Result<&'a mut [u8], Dropped> {
    let length = lz4_flex::block::decompress_into(block, scratch).map_err(|_| Dropped::Malformed)?;
    scratch.get_mut(..length).ok_or(Dropped::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Compression; 4] =
        [Compression::None, Compression::Lzo, Compression::Stub, Compression::StubV2];

    fn frame(mode: Compression, packet: &[u8]) -> Vec<u8> {
        let (before, after) = mode.space(packet.first().copied());
        let mut slot = [vec![0xee; before], packet.to_vec(), vec![0xee; after]].concat();
        mode.frame(&mut slot, packet.len()).unwrap();
        slot
    }

    fn unframe(mode: Compression, message: &[u8], limit: usize) -> Result<Vec<u8>, Dropped> {
        mode.unframe(&mut message.to_vec(), &mut vec![0; limit]).map(|packet| packet.to_vec())
    }

    #[test]
    fn framing_is_what_the_option_means() {
        assert_eq!(frame(Compression::None, b"Eabc"), b"Eabc");
        assert_eq!(frame(Compression::Lzo, b"Eabc"), b"\xfaEabc");
        assert_eq!(frame(Compression::Stub, b"Eabc"), b"\xfbabcE");
        assert_eq!(frame(Compression::StubV2, b"Eabc"), b"Eabc");
        assert_eq!(frame(Compression::StubV2, b"\x50abc"), b"\x50\x00\x50abc");
        for mode in ALL {
            assert_eq!(mode.overhead(), frame(mode, b"Eabc").len() - 4);
        }
    }

    #[test]
    fn what_a_server_compressed_is_read_up_to_the_limit() {
        let packet = [b"E".as_slice(), &[7; 1000], b"the end"].concat();
        let lzo = [&[head::LZO][..], &lzokay::compress::compress(&packet).unwrap()].concat();
        assert!(lzo.len() < 200);
        let mut block = vec![0; lz4_flex::block::get_maximum_output_size(packet.len())];
        let length = lz4_flex::block::compress_into(&packet, &mut block).unwrap();
        block.truncate(length);
        let (first, rest) = block.split_first().unwrap();
        let v1 = [&[head::LZ4_SWAPPED], rest, &[*first]].concat();
        let v2 = [&[head::V2, V2_LZ4], &block[..]].concat();
        for (mode, message) in [(Compression::Lzo, lzo), (Compression::Stub, v1), (Compression::StubV2, v2)] {
            assert_eq!(unframe(mode, &message, packet.len()), Ok(packet.clone()), "{mode:?}");
            assert_eq!(unframe(mode, &message, packet.len() - 1), Err(Dropped::Malformed), "{mode:?}");
        }
    }

    #[test]
    fn an_lzo_block_after_the_description_of_the_format_is_read() {
        // Linux, Documentation/staging/lzo.rst: one literal, a match of 63 bytes at distance 1, the end.
        let block = [0x12, 0x41, 0x20, 0x1e, 0x00, 0x00, 0x11, 0x00, 0x00];
        let message = [&[head::LZO][..], &block].concat();
        assert_eq!(unframe(Compression::Lzo, &message, 100), Ok(vec![0x41; 64]));
    }

    #[test]
    fn framing_of_another_kind_is_refused() {
        for (mode, message) in [
            (Compression::Lzo, &b"\xfbabcE"[..]),
            (Compression::Lzo, b"\x69abcE"),
            (Compression::Lzo, b""),
            (Compression::Stub, b"\xfaEabc"),
            (Compression::Stub, b"\xfb"),
            (Compression::Stub, b""),
            (Compression::StubV2, b"\x50"),
            (Compression::StubV2, b"\x50\x02abc"),
        ] {
            assert_eq!(unframe(mode, message, 100), Err(Dropped::Malformed), "{mode:?} {message:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_framed_unframes_to_the_same(
            mode in prop::sample::select(ALL.to_vec()), packet in proptest::collection::vec(any::<u8>(), 1..100),
        ) {
            prop_assert_eq!(unframe(mode, &frame(mode, &packet), 0), Ok(packet));
        }

        #[test]
        fn no_bytes_make_the_framing_panic(
            mode in prop::sample::select(ALL.to_vec()),
            first in prop::sample::select(vec![0x66u8, 0x69, 0x50, 0xfa, 0xfb]),
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let message = [&[first], &bytes[..]].concat();
            if let Ok(packet) = unframe(mode, &message, 1500) {
                prop_assert!(packet.len() <= 1500);
            }
        }
    }
}
