//! Packets on a stream: two bytes of length, which do not count themselves, before each.

/// The longest packet of a stream.
pub const MAX_FRAME: usize = u16::MAX as usize;

/// What makes a stream unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A packet of no length: no sender makes one, so the stream is out of step or not of OpenVPN.
    #[error("a packet of length 0")]
    Empty,
}

/// Takes a stream apart into packets.
///
/// Whole packets are handed out where they lie in what was received; only one that came in part is copied.
#[derive(Debug, Default)]
pub struct Framer {
    /// The beginning of a packet, with its length in front.
    partial: Vec<u8>,
}

impl Framer {
    /// Hands every packet that is complete after `data` to `take`, and keeps the rest.
    ///
    /// # Errors
    /// [`StreamError`]: nothing after it can be trusted.
    pub fn push(&mut self, mut data: &mut [u8], mut take: impl FnMut(&mut [u8])) -> Result<(), StreamError> {
        while !self.partial.is_empty() && !data.is_empty() {
            let missing = match self.partial.split_first_chunk::<2>() {
                None => 1,
                Some((length, rest)) => frame_len(*length)?.saturating_sub(rest.len()),
            };
            let (head, tail) = data.split_at_mut(missing.min(data.len()));
            self.partial.extend_from_slice(head);
            data = tail;
            if let Some((length, packet)) = self.partial.split_first_chunk_mut::<2>()
                && frame_len(*length)? == packet.len()
            {
                take(packet);
                self.partial.clear();
            }
        }
        while let Some(length) = data.first_chunk::<2>() {
            let whole = 2 + frame_len(*length)?;
            if data.len() < whole {
                break;
            }
            let (packet, tail) = data.split_at_mut(whole);
            take(packet.split_at_mut(2).1);
            data = tail;
        }
        self.partial.extend_from_slice(data);
        Ok(())
    }
}

fn frame_len(length: [u8; 2]) -> Result<usize, StreamError> {
    match u16::from_be_bytes(length) {
        0 => Err(StreamError::Empty),
        length => Ok(usize::from(length)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_of_zero_ends_the_stream_wherever_it_is_cut() {
        let stream = [0, 1, 7, 0, 0];
        for cut in 0..=stream.len() {
            let mut framer = Framer::default();
            let mut stream = stream;
            let (head, tail) = stream.split_at_mut(cut);
            let mut packets = Vec::new();
            let mut outcome = framer.push(head, |packet| packets.push(packet.to_vec()));
            if outcome.is_ok() {
                outcome = framer.push(tail, |packet| packets.push(packet.to_vec()));
            }
            assert_eq!((outcome, packets), (Err(StreamError::Empty), vec![vec![7]]), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in_however_the_stream_is_cut(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..12),
            cuts in proptest::collection::vec(1usize..200, 1..40),
        ) {
            let mut stream: Vec<u8> = Vec::new();
            for packet in &packets {
                stream.extend((packet.len() as u16).to_be_bytes());
                stream.extend(packet);
            }
            let mut framer = Framer::default();
            let mut seen = Vec::new();
            let mut rest = &mut stream[..];
            for cut in cuts.iter().cycle() {
                let (head, tail) = rest.split_at_mut((*cut).min(rest.len()));
                framer.push(head, |packet| seen.push(packet.to_vec())).unwrap();
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, packets);
        }
    }
}
