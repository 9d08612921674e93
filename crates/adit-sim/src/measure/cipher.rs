//! The cipher alone.

use std::time::{Duration, Instant};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::{Figure, PACKET, cpu};

const TAG: usize = 16;

/// Seals and opens packets of [`PACKET`] bytes in place with ChaCha20-Poly1305 for `time`, on this thread: what both ends
/// of a WireGuard tunnel cost together at least.
pub fn cipher(time: Duration) -> Figure {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).expect("32 bytes are a key of this cipher");
    let key = LessSafeKey::new(key);
    let mut buffer = vec![0; PACKET + TAG];
    let (start, work) = (Instant::now(), cpu::this_thread());
    let mut packets = 0_u64;
    while start.elapsed() < time {
        // Some hundred microseconds between two looks at the clock.
        for _ in 0..256 {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&packets.to_le_bytes());
            let nonce = || Nonce::assume_unique_for_key(nonce);
            let (packet, space) = buffer.split_at_mut(PACKET);
            let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), packet);
            space.copy_from_slice(tag.expect("a packet is shorter than the cipher's limit").as_ref());
            key.open_in_place(nonce(), Aad::empty(), &mut buffer).expect("what was sealed opens");
            packets += 1;
        }
    }
    Figure { bytes: packets * PACKET as u64, wall: start.elapsed(), cpu: cpu::this_thread() - work }
}
