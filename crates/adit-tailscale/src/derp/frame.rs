//! Frames of DERP: a type, a length in 32 bits (big-endian), a payload.

use crate::NodeKey;
use crate::seal::{NONCE, Random, Shared, TAG};

/// Length of what stands before a payload.
pub(crate) const HEADER: usize = 5;
/// A longer frame ends the connection.
const MAX_FRAME: usize = 1 << 20;
/// The longest packet that a relay takes.
pub const MAX_PACKET: usize = 64 * 1024;
/// Frames up to this length are of use to us; longer ones are skipped while they pass.
const MAX_KEPT: usize = MAX_PACKET + 64;
/// What a server's greeting begins with.
const MAGIC: &[u8; 8] = b"DERP\xf0\x9f\x94\x91";

mod kind {
    pub(super) const SERVER_KEY: u8 = 0x01;
    pub(super) const CLIENT_INFO: u8 = 0x02;
    pub(super) const SERVER_INFO: u8 = 0x03;
    pub(super) const SEND_PACKET: u8 = 0x04;
    pub(super) const RECV_PACKET: u8 = 0x05;
    pub(super) const KEEP_ALIVE: u8 = 0x06;
    pub(super) const NOTE_PREFERRED: u8 = 0x07;
    pub(super) const PEER_GONE: u8 = 0x08;
    pub(super) const PING: u8 = 0x12;
    pub(super) const PONG: u8 = 0x13;
    pub(super) const HEALTH: u8 = 0x14;
    pub(super) const RESTARTING: u8 = 0x15;
}

/// A frame from a server.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The greeting: the server's key.
    ServerKey([u8; 32]),
    /// Nonce and box with the server's limits.
    ServerInfo(&'a mut [u8]),
    /// A packet that a node sent us.
    Packet {
        /// The node.
        from: NodeKey,
        /// The packet.
        data: &'a mut [u8],
    },
    /// The server is there.
    KeepAlive,
    /// The node is not connected with this server (any more).
    PeerGone(NodeKey),
    /// To be answered with the same eight bytes.
    Ping([u8; 8]),
    /// An answer.
    Pong([u8; 8]),
    /// What is wrong with our connection; empty if nothing is.
    Health(&'a [u8]),
    /// The server restarts; come back after so many milliseconds.
    Restarting(u32),
    /// Something else, to be ignored; a frame that is too short for its type too.
    Unknown(u8),
}

impl<'a> Frame<'a> {
    fn parse(number: u8, body: &'a mut [u8]) -> Self {
        let known = match number {
            kind::SERVER_KEY => {
                body.strip_prefix(MAGIC).and_then(|key| key.first_chunk()).copied().map(Self::ServerKey)
            }
            kind::SERVER_INFO => return Self::ServerInfo(body),
            kind::RECV_PACKET => {
                return match body.split_first_chunk_mut::<32>() {
                    Some((from, data)) => Self::Packet { from: NodeKey(*from), data },
                    None => Self::Unknown(number),
                };
            }
            kind::KEEP_ALIVE => Some(Self::KeepAlive),
            kind::PEER_GONE => body.first_chunk().copied().map(NodeKey).map(Self::PeerGone),
            kind::PING => body.first_chunk().copied().map(Self::Ping),
            kind::PONG => body.first_chunk().copied().map(Self::Pong),
            kind::HEALTH => return Self::Health(body),
            kind::RESTARTING => body.first_chunk().map(|ms| Self::Restarting(u32::from_be_bytes(*ms))),
            _ => None,
        };
        known.unwrap_or(Self::Unknown(number))
    }
}

/// Who deals with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The connection itself.
    Internal,
    /// The owner of the connection.
    Ours,
}

/// A frame is longer than any frame may be: the stream is no DERP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTooLong;

/// The next whole frame at the front of `bytes`, with what is behind it. `None` if it is not whole yet.
///
/// # Errors
/// [`FrameTooLong`].
pub fn split(bytes: &mut [u8]) -> Result<Option<(Frame<'_>, usize)>, FrameTooLong> {
    let Some((number, len)) = header(bytes)? else { return Ok(None) };
    Ok(bytes.get_mut(HEADER..HEADER + len).map(|body| (Frame::parse(number, body), HEADER + len)))
}

/// Type and payload length of the frame at the front.
fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, FrameTooLong> {
    let Some(&[number, a, b, c, d]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > MAX_FRAME { Err(FrameTooLong) } else { Ok(Some((number, len))) }
}

/// A stream of frames that arrives in pieces.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    start: usize,
    skip: usize,
}

impl Reader {
    /// Takes a piece of the stream.
    pub(crate) fn push(&mut self, mut piece: &[u8]) {
        if self.start > 0 {
            self.bytes.copy_within(self.start.., 0);
            self.bytes.truncate(self.bytes.len() - self.start);
            self.start = 0;
        }
        let skipped = self.skip.min(piece.len());
        piece = piece.get(skipped..).unwrap_or_default();
        self.skip -= skipped;
        self.bytes.extend_from_slice(piece);
    }

    /// Who deals with the next frame, if it is whole.
    pub(crate) fn peek(&self) -> Result<Option<Kind>, FrameTooLong> {
        let waiting = self.bytes.get(self.start..).unwrap_or_default();
        let Some((number, len)) = header(waiting)? else { return Ok(None) };
        if waiting.len() < HEADER + len && len <= MAX_KEPT {
            return Ok(None);
        }
        let ours = matches!(number, kind::RECV_PACKET | kind::PEER_GONE | kind::HEALTH | kind::RESTARTING);
        // A frame of a known type that is too short or too long for it is read, and found to be nothing.
        let sound = (32..=MAX_KEPT).contains(&len) || !matches!(number, kind::RECV_PACKET | kind::PEER_GONE);
        let sound = sound && (number != kind::RESTARTING || len >= 4) && len <= MAX_KEPT;
        Ok(Some(if ours && sound { Kind::Ours } else { Kind::Internal }))
    }

    /// The next whole frame.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, FrameTooLong> {
        let waiting = self.bytes.get(self.start..).unwrap_or_default();
        if let Some((_, len)) = header(waiting)?
            && len > MAX_KEPT
        {
            let whole = HEADER + len;
            self.skip = whole.saturating_sub(waiting.len());
            self.start += whole.min(waiting.len());
            return Ok(Some(Frame::Unknown(0)));
        }
        let (bytes, start) = (self.bytes.as_mut_slice(), &mut self.start);
        match split(bytes.get_mut(*start..).unwrap_or_default())? {
            Some((frame, used)) => {
                *start += used;
                Ok(Some(frame))
            }
            None => Ok(None),
        }
    }
}

/// Writes the header of a frame that sends `len` bytes to a node; they follow.
pub(crate) fn put_packet_header(out: &mut Vec<u8>, to: &NodeKey, len: usize) {
    put_header(out, kind::SEND_PACKET, 32 + len);
    out.extend_from_slice(&to.0);
}

/// Writes the answer to a ping.
pub(crate) fn put_pong(out: &mut Vec<u8>, data: &[u8; 8]) {
    put_header(out, kind::PONG, data.len());
    out.extend_from_slice(data);
}

/// Writes whether the server is the one where others look for us.
pub(crate) fn put_preferred(out: &mut Vec<u8>, preferred: bool) {
    put_header(out, kind::NOTE_PREFERRED, 1);
    out.push(preferred.into());
}

/// Writes the login: our key, and in a box for the server what we can do.
pub(crate) fn put_client_info(out: &mut Vec<u8>, ours: &NodeKey, shared: &Shared, random: &mut Random) {
    let nonce: [u8; NONCE] = random.bytes();
    let mut text = *b"{\"version\":2,\"CanAckPings\":true}";
    let Some(tag) = shared.seal(&nonce, &mut text) else { return };
    put_header(out, kind::CLIENT_INFO, 32 + NONCE + TAG + text.len());
    for part in [&ours.0[..], &nonce, &tag, &text] {
        out.extend_from_slice(part);
    }
}

fn put_header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.push(kind);
    // Every length here is bounded by `MAX_PACKET`.
    out.extend_from_slice(&(len as u32).to_be_bytes());
}

/// The server's side, for simulated relays and tests.
pub mod server {
    use super::{HEADER, MAGIC, NodeKey, kind, put_header};

    /// The greeting.
    pub fn put_server_key(out: &mut Vec<u8>, key: &[u8; 32]) {
        put_header(out, kind::SERVER_KEY, MAGIC.len() + key.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(key);
    }

    /// A packet that `from` sent.
    pub fn put_packet(out: &mut Vec<u8>, from: &NodeKey, data: &[u8]) {
        put_header(out, kind::RECV_PACKET, 32 + data.len());
        out.extend_from_slice(&from.0);
        out.extend_from_slice(data);
    }

    /// The node is not connected.
    pub fn put_peer_gone(out: &mut Vec<u8>, key: &NodeKey) {
        put_header(out, kind::PEER_GONE, 33);
        out.extend_from_slice(&key.0);
        out.push(1);
    }

    /// What is wrong with the connection.
    pub fn put_health(out: &mut Vec<u8>, text: &str) {
        put_header(out, kind::HEALTH, text.len());
        out.extend_from_slice(text.as_bytes());
    }

    /// The server restarts.
    pub fn put_restarting(out: &mut Vec<u8>, after_ms: u32) {
        put_header(out, kind::RESTARTING, 8);
        out.extend_from_slice(&after_ms.to_be_bytes());
        out.extend_from_slice(&after_ms.to_be_bytes());
    }

    /// What a client sends.
    #[derive(Debug, PartialEq, Eq)]
    pub enum FromClient<'a> {
        /// The login: who it is. (The box is not opened here.)
        Info(NodeKey),
        /// A packet for a node.
        Send(NodeKey, &'a [u8]),
        /// Something else.
        Other(u8),
    }

    /// The next whole frame of a client and its length.
    pub fn split(bytes: &[u8]) -> Option<(FromClient<'_>, usize)> {
        let (number, len) = super::header(bytes).ok()??;
        let body = bytes.get(HEADER..HEADER + len)?;
        let frame = match (number, body.split_first_chunk::<32>()) {
            (kind::CLIENT_INFO, Some((key, _))) => FromClient::Info(NodeKey(*key)),
            (kind::SEND_PACKET, Some((key, data))) => FromClient::Send(NodeKey(*key), data),
            _ => FromClient::Other(number),
        };
        Some((frame, HEADER + len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    #[test]
    fn frames_are_found_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        server::put_server_key(&mut stream, &[1; 32]);
        server::put_packet(&mut stream, &NodeKey([2; 32]), b"hello");
        server::put_peer_gone(&mut stream, &NodeKey([3; 32]));
        server::put_health(&mut stream, "duplicate");
        server::put_restarting(&mut stream, 500);
        put_pong(&mut stream, b"12345678");
        put_header(&mut stream, 0x77, 3);
        stream.extend([0; 3]);
        for cut in 0..stream.len() {
            let (mut reader, mut seen) = (Reader::default(), Vec::new());
            for piece in [&stream[..cut], &stream[cut..]] {
                reader.push(piece);
                while let Some(frame) = reader.next().unwrap() {
                    seen.push(format!("{frame:?}"));
                }
            }
            assert_eq!(seen.len(), 7, "cut at {cut}: {seen:?}");
            assert!(seen[0].starts_with("ServerKey([1,") && seen[1].contains("[104, 101"), "{seen:?}");
            assert_eq!(
                seen[4..],
                ["Restarting(500)", "Pong([49, 50, 51, 52, 53, 54, 55, 56])", "Unknown(119)"]
            );
        }
    }

    #[test]
    fn a_long_frame_of_no_use_passes_without_being_kept_and_a_longer_one_is_an_error() {
        let mut reader = Reader::default();
        let mut stream = Vec::new();
        put_header(&mut stream, 0x77, MAX_FRAME);
        reader.push(&stream);
        assert_eq!(reader.next(), Ok(Some(Frame::Unknown(0))));
        for _ in 0..MAX_FRAME / 1024 {
            reader.push(&[0; 1024]);
            assert_eq!(reader.next(), Ok(None));
            assert!(reader.bytes.len() <= 1024);
        }
        put_pong(&mut stream, b"12345678");
        reader.push(&stream[HEADER..]);
        assert_eq!(reader.next(), Ok(Some(Frame::Pong(*b"12345678"))));
        stream.clear();
        put_header(&mut stream, 0x77, MAX_FRAME + 1);
        reader.push(&stream);
        assert_eq!(reader.next(), Err(FrameTooLong));
    }

    #[test]
    fn short_frames_are_unknown_and_no_panic() {
        for number in 0..=255 {
            for len in 0..40 {
                let mut stream = Vec::new();
                put_header(&mut stream, number, len);
                stream.extend(vec![0; len]);
                let (_, used) = split(&mut stream).unwrap().unwrap();
                assert_eq!(used, HEADER + len);
            }
        }
    }

    #[test]
    fn the_login_opens_for_the_server() {
        let (client, server) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let ours = NodeKey(client.public_bytes());
        let mut out = Vec::new();
        let shared = Shared::new(&client, &server.public_bytes());
        put_client_info(&mut out, &ours, &shared, &mut Random::new(1));
        assert_eq!(server::split(&out), Some((server::FromClient::Info(ours), out.len())));
        let text = Shared::new(&server, &ours.0).open(&mut out[HEADER + 32..]).unwrap().to_vec();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["version"], 2);
    }
}
