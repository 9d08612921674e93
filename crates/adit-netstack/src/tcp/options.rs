//! TCP options: maximum segment size (RFC 9293 §3.7.1), window scale and timestamps (RFC 7323), selective
//! acknowledgment (RFC 2018).

/// Bytes of options that fit into a header.
pub(crate) const MAX_OPTIONS: usize = 40;
/// SACK blocks that fit into a header without other options.
pub(crate) const MAX_BLOCKS: usize = 4;
/// Bytes that timestamps take, with their padding.
pub(crate) const TIMESTAMPS_LEN: u16 = 12;
/// The largest shift that counts (RFC 7323 §2.3).
pub(crate) const MAX_SHIFT: u8 = 14;

mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const MSS: u8 = 2;
    pub(super) const WINDOW_SCALE: u8 = 3;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const SACK: u8 = 5;
    pub(super) const TIMESTAMPS: u8 = 8;
}

/// The timestamps option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timestamps {
    /// The sender's clock (TSval).
    pub(crate) value: u32,
    /// The clock of the other side that the sender saw last (TSecr).
    pub(crate) echo: u32,
}

/// The options of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// What the sender takes in one segment, without options.
    pub(crate) mss: Option<u16>,
    /// By how many bits windows are shifted.
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    pub(crate) timestamps: Option<Timestamps>,
    pub(crate) blocks: [(u32, u32); MAX_BLOCKS],
    pub(crate) block_count: u8,
}

impl Options {
    /// Reads options as far as they make sense; unknown ones are skipped (RFC 9293 §3.1, MUST-6 and MUST-7).
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut options = Self::default();
        // What nearly every segment has.
        if let [kind::NO_OPERATION, kind::NO_OPERATION, kind::TIMESTAMPS, 10, value @ ..] = bytes
            && bytes.len() == usize::from(TIMESTAMPS_LEN)
        {
            options.timestamps = timestamps(value);
            return options;
        }
        let mut rest = bytes;
        while let Some((&kind, after)) = rest.split_first() {
            match kind {
                kind::END => break,
                kind::NO_OPERATION => rest = after,
                _ => {
                    let length = after.first().map_or(0, |&length| usize::from(length));
                    let Some(value) = rest.get(2..length) else { break };
                    options.read(kind, value);
                    rest = &rest[length..];
                }
            }
        }
        options
    }

    fn read(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (kind::MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            (kind::WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(MAX_SHIFT)),
            (kind::SACK_PERMITTED, []) => self.sack_permitted = true,
            (kind::TIMESTAMPS, [_, _, _, _, _, _, _, _]) => self.timestamps = timestamps(value),
            (kind::SACK, _) => {
                self.block_count = 0;
                for block in value.as_chunks::<8>().0 {
                    let [a, b, c, d, e, f, g, h] = *block;
                    self.add_block((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
                }
            }
            _ => {}
        }
    }

    /// The SACK blocks, the most telling one first.
    pub(crate) fn blocks(&self) -> &[(u32, u32)] {
        self.blocks.get(..usize::from(self.block_count)).unwrap_or_default()
    }

    /// Adds a SACK block, if there is room beside the timestamps.
    pub(crate) fn add_block(&mut self, block: (u32, u32)) {
        if usize::from(self.block_count) < max_blocks(self.timestamps.is_some()) {
            self.blocks[usize::from(self.block_count)] = block;
            self.block_count += 1;
        }
    }

    /// Writes the options, in the order of Linux, to the front of `out`; returns their length, a multiple of four.
    pub(crate) fn write(&self, out: &mut [u8; MAX_OPTIONS]) -> usize {
        let mut writer = Writer { out, len: 0 };
        if let Some(mss) = self.mss {
            writer.put(&[kind::MSS, 4]);
            writer.put(&mss.to_be_bytes());
        }
        if self.sack_permitted {
            // In the place of the padding in front of the timestamps.
            let padding: &[u8] =
                if self.timestamps.is_some() { &[] } else { &[kind::NO_OPERATION, kind::NO_OPERATION] };
            writer.put(padding);
            writer.put(&[kind::SACK_PERMITTED, 2]);
        } else if self.timestamps.is_some() {
            writer.put(&[kind::NO_OPERATION, kind::NO_OPERATION]);
        }
        if let Some(Timestamps { value, echo }) = self.timestamps {
            writer.put(&[kind::TIMESTAMPS, 10]);
            writer.put(&value.to_be_bytes());
            writer.put(&echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            writer.put(&[kind::NO_OPERATION, kind::WINDOW_SCALE, 3, shift]);
        }
        if self.block_count > 0 {
            writer.put(&[kind::NO_OPERATION, kind::NO_OPERATION, kind::SACK, 2 + 8 * self.block_count]);
            for (from, to) in self.blocks() {
                writer.put(&from.to_be_bytes());
                writer.put(&to.to_be_bytes());
            }
        }
        writer.len
    }
}

/// How many SACK blocks fit beside the timestamps, or without them.
pub(crate) fn max_blocks(timestamps: bool) -> usize {
    if timestamps { 3 } else { MAX_BLOCKS }
}

fn timestamps(value: &[u8]) -> Option<Timestamps> {
    let &[a, b, c, d, e, f, g, h] = value else { return None };
    Some(Timestamps { value: u32::from_be_bytes([a, b, c, d]), echo: u32::from_be_bytes([e, f, g, h]) })
}

struct Writer<'a> {
    out: &'a mut [u8; MAX_OPTIONS],
    len: usize,
}

impl Writer<'_> {
    /// Appends bytes; a connection never has a combination of options that is too long, which would be cut off.
    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.out.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_syn_of_linux_is_read_and_written_byte_for_byte() {
        let wire = [2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0x5d, 0x5e, 0x1f, 0x02, 0, 0, 0, 0, 1, 3, 3, 7];
        let options = Options::parse(&wire);
        assert_eq!((options.mss, options.window_scale, options.sack_permitted), (Some(1460), Some(7), true));
        assert_eq!(options.timestamps, Some(Timestamps { value: 0x5d5e_1f02, echo: 0 }));
        let mut out = [0; MAX_OPTIONS];
        let len = options.write(&mut out);
        assert_eq!(out[..len], wire);
    }

    #[test]
    fn three_blocks_fit_beside_timestamps_and_four_without() {
        for (timestamps, expected) in [(Some(Timestamps::default()), 3), (None, 4)] {
            let mut options = Options { timestamps, ..Options::default() };
            for n in 0..5 {
                options.add_block((n * 10, n * 10 + 5));
            }
            assert_eq!(options.blocks().len(), expected);
            let mut out = [0; MAX_OPTIONS];
            let len = options.write(&mut out);
            assert_eq!(Options::parse(&out[..len]), options);
        }
    }

    #[test]
    fn what_is_misshapen_ends_the_list_and_what_is_unknown_does_not() {
        let good = [2, 4, 0x05, 0xb4];
        for (front, found) in [
            (&[254, 4, 1, 1][..], true),
            (&[2, 3, 9], true),
            (&[30, 0], false),
            (&[30, 1], false),
            (&[30, 99], false),
            (&[0], false),
        ] {
            let options = Options::parse(&[front, &good].concat());
            assert_eq!(options.mss, found.then_some(1460), "{front:?}");
        }
        assert_eq!(Options::parse(&[2]), Options::default());
        assert_eq!(Options::parse(&[2, 4, 1]), Options::default());
        assert_eq!(Options::parse(&[3, 3, 200]).window_scale, Some(MAX_SHIFT));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            mss in any::<Option<u16>>(), shift in proptest::option::of(0..=MAX_SHIFT), sack_permitted in any::<bool>(),
            timestamps in any::<Option<(u32, u32)>>(), blocks in proptest::collection::vec(any::<(u32, u32)>(), 0..5),
            is_syn in any::<bool>(),
        ) {
            let mut options = Options {
                timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo }), ..Options::default()
            };
            if is_syn {
                options = Options { mss, window_scale: shift, sack_permitted, ..options };
            } else {
                blocks.into_iter().for_each(|block| options.add_block(block));
            }
            let mut out = [0; MAX_OPTIONS];
            let len = options.write(&mut out);
            prop_assert!(len.is_multiple_of(4));
            prop_assert_eq!(Options::parse(&out[..len]), options);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let options = Options::parse(&bytes);
            prop_assert!(options.blocks().len() <= MAX_BLOCKS);
        }
    }
}
