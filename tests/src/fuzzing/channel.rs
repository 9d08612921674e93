//! What a Tailscale control server sends: records of the secure channel, and answers to requests outside it.

use adit_providers::tailscale::{Opener, PLAIN, Sealer, answer};

use super::pieces;

const KEY: [u8; 32] = [7; 32];
/// What the early payload begins with, and its length behind that.
const EARLY: &[u8] = &[0xff, 0xff, 0xff, b'T', b'S'];

/// Opens a stream of records. The first byte says how many bytes come at a time; of the pieces behind it, one that
/// begins with an even byte is sealed, and any other is sent as it is. What is sealed comes out, up to the first piece
/// that is not.
pub fn control_records(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let (mut sealer, mut sent, mut sealed, mut sound) = (Sealer::new(&KEY), Vec::new(), Vec::new(), true);
    for piece in pieces(bytes) {
        match piece.split_first() {
            Some((kind, plain)) if kind % 2 == 0 => {
                let taken = sealer.seal(plain, &mut sent).expect("few records");
                assert_eq!(taken, plain.len().min(PLAIN));
                if sound {
                    sealed.extend_from_slice(&plain[..taken]);
                }
            }
            Some((_, raw)) if !raw.is_empty() => {
                sound = false;
                sent.extend_from_slice(raw);
            }
            _ => {}
        }
    }
    let mut opener = Opener::new(&KEY);
    let mut opened = Vec::new();
    for chunk in sent.chunks(usize::from(size) + 1) {
        opener.receive(chunk);
        loop {
            match opener.read(97) {
                Ok(Some(plain)) => opened.extend_from_slice(plain),
                Ok(None) => break,
                Err(_) => {
                    assert!(!sound || sealed.starts_with(EARLY), "sound records are refused");
                    assert!(opener.read(1).is_err(), "the channel is of no use any more");
                    return;
                }
            }
        }
    }
    if EARLY.starts_with(&sealed[..sealed.len().min(EARLY.len())]) {
        assert!(sealed.ends_with(&opened) || !sound, "nothing comes out that was not sealed");
    } else {
        assert!(sealed.starts_with(&opened), "nothing comes out that was not sealed");
        assert!(!sound || opener.is_between_records() && opened == sealed, "everything comes out");
    }
}

/// Reads an answer of HTTP/1.1. What is taken is bounded and was in the bytes.
pub fn control_answer(bytes: &[u8]) {
    if let Ok((status, body)) = answer(bytes) {
        assert!((200..1000).contains(&status) || status == 101 || status < 100, "{status}");
        assert!(body.len() <= bytes.len() && body.len() <= 64 * 1024);
    }
}
