//! The records inside the secure channel of the control protocol (ts2021): sealed frames of at most 4 KiB, and what the
//! server says ahead of HTTP/2. Free of I/O.

use std::fmt;
use std::io;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

pub(super) const RECORD: u8 = 4;
/// Type and length.
pub(super) const HEADER: usize = 3;
pub(super) const TAG: usize = 16;
/// The largest frame, header included.
pub(super) const FRAME: usize = 4096;
/// The most that a record carries.
pub const PLAIN: usize = FRAME - HEADER - TAG;
/// What the early payload begins with; no HTTP/2 frame does.
pub(super) const EARLY: [u8; 5] = [0xff, 0xff, 0xff, b'T', b'S'];
/// Magic and length.
const EARLY_HEADER: usize = 9;
/// No early payload is larger.
const EARLY_LIMIT: usize = 64 * 1024;

/// One direction's key, and how many records have passed. The nonces are big-endian, which is not as Noise has them.
struct Cipher {
    key: LessSafeKey,
    counter: u64,
}

impl Cipher {
    fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the algorithm's length");
        Self { key: LessSafeKey::new(key), counter: 0 }
    }

    fn nonce(&mut self) -> io::Result<Nonce> {
        let counter = self.counter;
        // The last number is not used (Noise §5.1).
        self.counter = counter.checked_add(1).ok_or_else(|| io::Error::other("the channel is used up"))?;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Makes the records of one direction.
pub struct Sealer(Cipher);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("records", &self.0.counter).finish_non_exhaustive()
    }
}

impl Sealer {
    /// With the key of this direction.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Cipher::new(key))
    }

    /// Appends a record with the first [`PLAIN`] bytes of `plain` in it; returns how many those are.
    ///
    /// # Errors
    ///
    /// The numbers of records are used up.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let plain = &plain[..plain.len().min(PLAIN)];
        let start = out.len() + HEADER;
        out.push(RECORD);
        out.extend_from_slice(&((plain.len() + TAG) as u16).to_be_bytes());
        out.extend_from_slice(plain);
        let nonce = self.0.nonce()?;
        let tag = self
            .0
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[start..])
            .map_err(|_| io::Error::other("the record cannot be sealed"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(plain.len())
    }
}

/// Opens the records of one direction, cut wherever they come. What the server sends ahead of HTTP/2 (the early
/// payload) is taken out.
pub struct Opener {
    cipher: Cipher,
    /// Received and not opened yet: less than a frame, and what was received last.
    raw: Vec<u8>,
    /// Opened; read up to `taken`.
    plain: Vec<u8>,
    taken: usize,
    /// Whether what comes first has been looked at.
    early_done: bool,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("records", &self.cipher.counter).finish_non_exhaustive()
    }
}

impl Opener {
    /// With the key of this direction.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { cipher: Cipher::new(key), raw: Vec::new(), plain: Vec::new(), taken: 0, early_done: false }
    }

    /// Takes received bytes.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
    }

    /// Whether nothing is left of a record that has begun.
    pub fn is_between_records(&self) -> bool {
        self.raw.is_empty()
    }

    /// Opened bytes, at most `limit`; `None` if more must be received.
    ///
    /// # Errors
    ///
    /// A record is not authentic or of an impossible length, or the early payload is too large. The channel is of no
    /// use any more.
    pub fn read(&mut self, limit: usize) -> io::Result<Option<&[u8]>> {
        // A record may be empty, which is no end of the stream.
        while !(self.skip_early()? && self.taken < self.plain.len()) {
            if !self.open_frame()? {
                return Ok(None);
            }
        }
        let start = self.taken;
        self.taken += limit.min(self.plain.len() - start);
        Ok(Some(&self.plain[start..self.taken]))
    }

    /// Opens the next frame, if all of it is here. Returns whether it was.
    fn open_frame(&mut self) -> io::Result<bool> {
        let Some((header, body)) = self.raw.split_first_chunk_mut::<HEADER>() else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
        match header[0] {
            RECORD if (TAG..=FRAME - HEADER).contains(&length) => {}
            RECORD => return Err(invalid("a record of the control connection has an impossible length")),
            _ => return Err(invalid("the control connection has a frame that is no record")),
        }
        let Some(sealed) = body.get_mut(..length) else { return Ok(false) };
        let nonce = self.cipher.nonce()?;
        let plain = self
            .cipher
            .key
            .open_in_place(nonce, Aad::empty(), sealed)
            .map_err(|_| invalid("a record of the control connection is not authentic"))?;
        if self.taken == self.plain.len() {
            self.plain.clear();
            self.taken = 0;
        }
        self.plain.extend_from_slice(plain);
        self.raw.drain(..HEADER + length);
        Ok(true)
    }

    /// Takes the early payload out of what came first. Returns whether reading can go on.
    fn skip_early(&mut self) -> io::Result<bool> {
        if self.early_done {
            return Ok(true);
        }
        let seen = self.plain.len().min(EARLY.len());
        if self.plain[..seen] != EARLY[..seen] {
            self.early_done = true;
            return Ok(true);
        }
        let Some(header) = self.plain.first_chunk::<EARLY_HEADER>() else { return Ok(false) };
        let length = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) as usize;
        if length > EARLY_LIMIT {
            return Err(invalid("the early payload of the control connection is too large"));
        }
        if self.plain.len() < EARLY_HEADER + length {
            return Ok(false);
        }
        self.taken = EARLY_HEADER + length;
        self.early_done = true;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_a_record_is_big_endian() {
        let mut sealer = Sealer::new(&[3; 32]);
        let mut out = Vec::new();
        sealer.seal(b"zero", &mut out).unwrap();
        out.clear();
        sealer.seal(b"one", &mut out).unwrap();
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[3; 32]).unwrap());
        let nonce = Nonce::assume_unique_for_key([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(key.open_in_place(nonce, Aad::empty(), &mut out[HEADER..]).unwrap(), b"one");
    }
}
