//! The secure channel of the control protocol (ts2021): `Noise_IK_25519_ChaChaPoly_BLAKE2s` (the Noise Protocol
//! Framework, §7.5), framed, with one deviation: the nonces of transport records are big-endian.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use adit_tailscale::SecretKey;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use snow::HandshakeState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize as _;

use super::keys::MachineKey;

const PROTOCOL: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &str = "Tailscale Control Protocol v";
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const ERROR: u8 = 3;
const RECORD: u8 = 4;
/// Type and length.
const HEADER: usize = 3;
const TAG: usize = 16;
/// The largest frame, header included.
const FRAME: usize = 4096;
/// The most that a record carries.
const PLAIN: usize = FRAME - HEADER - TAG;
/// What the early payload begins with; no HTTP/2 frame does.
const EARLY: [u8; 5] = [0xff, 0xff, 0xff, b'T', b'S'];
/// Magic and length.
const EARLY_HEADER: usize = 9;
/// No early payload is larger.
const EARLY_LIMIT: usize = 64 * 1024;

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The server says why.
    #[error("the server says: {0}")]
    Refused(String),
    /// The answer cannot be read with our keys.
    #[error("the server's answer does not belong to its published key")]
    NotAuthentic,
    /// The answer is no answer of this protocol.
    #[error("the server's answer is no Noise message")]
    Malformed,
    /// A defect, or no randomness.
    #[error("the handshake cannot be made: {0}")]
    Internal(snow::Error),
}

/// The initiator's side of a handshake that has begun.
pub(super) struct Initiator {
    state: HandshakeState,
}

impl Initiator {
    /// Begins a handshake; also returns the first message, framed.
    pub(super) fn start(
        machine: &SecretKey,
        server: MachineKey,
        version: u16,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let prologue = format!("{PROLOGUE}{version}");
        let mut state = PROTOCOL
            .parse::<snow::params::NoiseParams>()
            .and_then(|protocol| {
                snow::Builder::new(protocol)
                    .prologue(prologue.as_bytes())?
                    .local_private_key(machine.as_bytes())?
                    .remote_public_key(&server.0)?
                    .build_initiator()
            })
            .map_err(HandshakeError::Internal)?;
        let mut message = [0; 96];
        let length = state.write_message(&[], &mut message).map_err(HandshakeError::Internal)?;
        let mut frame = Vec::with_capacity(2 + HEADER + length);
        frame.extend_from_slice(&version.to_be_bytes());
        frame.push(INITIATION);
        // The message is 96 bytes: ephemeral key, sealed static key, tag.
        frame.extend_from_slice(&(length as u16).to_be_bytes());
        frame.extend_from_slice(&message[..length]);
        Ok((Self { state }, frame))
    }

    /// How many bytes of `received` the server's whole answer takes; `None` if more must come.
    pub(super) fn answer_length(received: &[u8]) -> Option<usize> {
        let (header, rest) = received.split_first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
        (rest.len() >= length).then_some(HEADER + length)
    }

    /// Ends the handshake with the server's answer, framed. `rest` is what came behind it.
    pub(super) fn finish<S>(
        mut self,
        answer: &[u8],
        rest: &[u8],
        inner: S,
    ) -> Result<NoiseStream<S>, HandshakeError> {
        let (header, message) = answer.split_first_chunk::<HEADER>().ok_or(HandshakeError::Malformed)?;
        match header[0] {
            RESPONSE => {}
            ERROR => return Err(HandshakeError::Refused(printable(message))),
            _ => return Err(HandshakeError::Malformed),
        }
        let mut nothing = [0; TAG];
        self.state.read_message(message, &mut nothing).map_err(|_| HandshakeError::NotAuthentic)?;
        if !self.state.is_handshake_finished() {
            return Err(HandshakeError::Malformed);
        }
        let (mut send, mut receive) = self.state.dangerously_get_raw_split();
        let stream = NoiseStream::new(inner, &send, &receive, rest);
        send.zeroize();
        receive.zeroize();
        Ok(stream)
    }
}

/// Foreign text for evidence: short, without control characters.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect::<String>().trim().to_owned()
}

/// One direction: its key, and how many records have passed.
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

    /// Appends a record with `plain` in it.
    fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len() + HEADER;
        out.push(RECORD);
        out.extend_from_slice(&((plain.len() + TAG) as u16).to_be_bytes());
        out.extend_from_slice(plain);
        let nonce = self.nonce()?;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[start..])
            .map_err(|_| io::Error::other("the record cannot be sealed"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    fn open<'a>(&mut self, sealed: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let nonce = self.nonce()?;
        let plain = self.key.open_in_place(nonce, Aad::empty(), sealed);
        plain.map(|plain| &*plain).map_err(|_| invalid("a record of the control connection is not authentic"))
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The bytes inside the channel. What the server sends ahead of HTTP/2 (the early payload) is taken out.
pub(super) struct NoiseStream<S> {
    inner: S,
    receive: Cipher,
    /// Received and not opened yet: at most one frame and one read.
    raw: Vec<u8>,
    /// Opened; read up to `taken`.
    plain: Vec<u8>,
    taken: usize,
    /// Whether what comes first has been looked at.
    early_done: bool,
    send: Cipher,
    /// Sealed; written up to `written`.
    sealed: Vec<u8>,
    written: usize,
}

impl<S> NoiseStream<S> {
    fn new(inner: S, send: &[u8; 32], receive: &[u8; 32], rest: &[u8]) -> Self {
        Self {
            inner,
            receive: Cipher::new(receive),
            raw: rest.to_vec(),
            plain: Vec::new(),
            taken: 0,
            early_done: false,
            send: Cipher::new(send),
            sealed: Vec::new(),
            written: 0,
        }
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
        let plain = self.receive.open(sealed)?;
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

impl<S: AsyncWrite + Unpin> NoiseStream<S> {
    /// Writes what is sealed.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.sealed.len() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.sealed[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.sealed.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            // A record may be empty, which is no end of the stream.
            if this.skip_early()? && this.taken < this.plain.len() {
                let length = out.remaining().min(this.plain.len() - this.taken);
                out.put_slice(&this.plain[this.taken..this.taken + length]);
                this.taken += length;
                return Poll::Ready(Ok(()));
            }
            if this.open_frame()? {
                continue;
            }
            let mut chunk = [0; FRAME];
            let mut buffer = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                let whole = this.raw.is_empty();
                return Poll::Ready(if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
            }
            this.raw.extend_from_slice(buffer.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        let chunk = &data[..data.len().min(PLAIN)];
        this.send.seal(chunk, &mut this.sealed)?;
        // The record is ours now; what the inner stream does not take at once goes with the next call.
        if let Poll::Ready(Err(error)) = this.drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! The responder's side, for tests and for the fake server.

    use super::*;

    /// Answers an initiation; returns the framed answer, and what makes the channel of the server's side. An
    /// initiation for another key is not answered.
    pub(crate) fn respond(server: &SecretKey, frame: &[u8]) -> Option<(Vec<u8>, [u8; 32], [u8; 32])> {
        let version = u16::from_be_bytes([frame[0], frame[1]]);
        assert_eq!((frame[2], &frame[3..5], frame.len()), (INITIATION, &[0, 96][..], 101));
        let prologue = format!("{PROLOGUE}{version}");
        let mut state = snow::Builder::new(PROTOCOL.parse().unwrap())
            .prologue(prologue.as_bytes())
            .unwrap()
            .local_private_key(server.as_bytes())
            .unwrap()
            .build_responder()
            .unwrap();
        let mut buffer = [0; 128];
        assert_eq!(state.read_message(&frame[5..], &mut buffer).ok()?, 0);
        let length = state.write_message(&[], &mut buffer).unwrap();
        let mut answer = vec![RESPONSE, 0, u8::try_from(length).unwrap()];
        answer.extend_from_slice(&buffer[..length]);
        let (first, second) = state.dangerously_get_raw_split();
        Some((answer, first, second))
    }

    /// The server's end of a channel: what it sends is not looked at for an early payload.
    pub(crate) fn server_stream<S>(inner: S, first: &[u8; 32], second: &[u8; 32]) -> NoiseStream<S> {
        let mut stream = NoiseStream::new(inner, second, first, &[]);
        stream.early_done = true;
        stream
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::testing::{respond, server_stream};
    use super::*;

    fn server_key() -> SecretKey {
        SecretKey::from_bytes([9; 32])
    }

    fn pair(buffer: usize) -> (NoiseStream<DuplexStream>, NoiseStream<DuplexStream>) {
        let machine = SecretKey::from_bytes([5; 32]);
        let server = MachineKey(server_key().public_bytes());
        let (initiator, frame) = Initiator::start(&machine, server, 130).unwrap();
        assert_eq!(&frame[..2], &[0, 130]);
        let (answer, first, second) = respond(&server_key(), &frame).unwrap();
        assert_eq!((answer.len(), Initiator::answer_length(&answer)), (51, Some(51)));
        assert_eq!(Initiator::answer_length(&answer[..50]), None);
        let (near, far) = duplex(buffer);
        (initiator.finish(&answer, &[], near).unwrap(), server_stream(far, &first, &second))
    }

    fn block<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn bytes_pass_in_both_directions_over_many_records() {
        block(async {
            let (mut client, mut server) = pair(64 * 1024);
            let sent: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
            client.write_all(&sent).await.unwrap();
            client.flush().await.unwrap();
            let mut got = vec![0; sent.len()];
            server.read_exact(&mut got).await.unwrap();
            assert!(got == sent);
            server.write_all(&sent).await.unwrap();
            server.flush().await.unwrap();
            let mut got = vec![0; sent.len()];
            client.read_exact(&mut got).await.unwrap();
            assert!(got == sent);
        });
    }

    #[test]
    fn the_counter_of_a_record_is_big_endian() {
        let mut cipher = Cipher::new(&[3; 32]);
        let mut out = Vec::new();
        cipher.seal(b"zero", &mut out).unwrap();
        out.clear();
        cipher.seal(b"one", &mut out).unwrap();
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[3; 32]).unwrap());
        let nonce = Nonce::assume_unique_for_key([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(key.open_in_place(nonce, Aad::empty(), &mut out[HEADER..]).unwrap(), b"one");
    }

    #[test]
    fn the_early_payload_is_taken_out_wherever_records_are_cut() {
        block(async {
            let mut early = EARLY.to_vec();
            early.extend_from_slice(&4u32.to_be_bytes());
            early.extend_from_slice(b"{  }after");
            for cut in 0..=early.len() {
                let (mut client, mut server) = pair(64 * 1024);
                let (head, tail) = early.split_at(cut);
                for part in [head, &[][..], tail] {
                    server.write_all(part).await.unwrap();
                    // `write_all` of nothing writes nothing; an empty record is legal all the same.
                    if part.is_empty() {
                        let mut record = Vec::new();
                        server.send.seal(&[], &mut record).unwrap();
                        server.inner.write_all(&record).await.unwrap();
                    }
                    server.flush().await.unwrap();
                }
                let mut got = [0; 5];
                client.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"after", "cut at {cut}");
            }
        });
    }

    #[test]
    fn without_an_early_payload_nothing_is_lost() {
        block(async {
            let (mut client, mut server) = pair(1024);
            for byte in [0u8, 0, 18, 4, 0, 0, 0, 0, 0] {
                server.write_all(&[byte]).await.unwrap();
                server.flush().await.unwrap();
            }
            let mut got = [1; 9];
            client.read_exact(&mut got).await.unwrap();
            assert_eq!(got, [0, 0, 18, 4, 0, 0, 0, 0, 0]);
        });
    }

    #[test]
    fn frames_may_come_byte_by_byte_and_a_changed_one_ends_the_channel() {
        block(async {
            let (mut client, mut server) = pair(1);
            let reader = tokio::spawn(async move {
                let mut got = [0; 11];
                client.read_exact(&mut got).await.map(|_| got)
            });
            server.write_all(b"hello there").await.unwrap();
            server.flush().await.unwrap();
            assert_eq!(&reader.await.unwrap().unwrap(), b"hello there");

            let (mut client, mut server) = pair(1024);
            let mut record = Vec::new();
            server.send.seal(b"hello", &mut record).unwrap();
            record[4] ^= 1;
            server.inner.write_all(&record).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        });
    }

    #[test]
    fn impossible_frames_are_errors_and_a_cut_one_is_no_end() {
        block(async {
            for wrong in [&[RECORD, 0xff, 0xff][..], &[RECORD, 0, 3], &[7, 0, 20]] {
                let (mut client, mut server) = pair(1024);
                server.inner.write_all(wrong).await.unwrap();
                assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
            }
            let (mut client, mut server) = pair(1024);
            server.inner.write_all(&[RECORD, 0]).await.unwrap();
            drop(server);
            assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            let (mut client, server) = pair(1024);
            drop(server);
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        });
    }

    #[test]
    fn a_server_with_another_key_and_a_server_that_refuses_are_told_apart() {
        let start = || {
            Initiator::start(&SecretKey::from_bytes([5; 32]), MachineKey(server_key().public_bytes()), 130)
                .unwrap()
        };
        let (initiator, _) = start();
        let refused = initiator.finish(b"\x03\x00\x09go\x00 away!", &[], ());
        assert!(matches!(refused, Err(HandshakeError::Refused(text)) if text == "go  away!"));
        let (initiator, _) = start();
        let mut junk = vec![RESPONSE, 0, 48];
        junk.extend_from_slice(&[0x55; 48]);
        assert!(matches!(initiator.finish(&junk, &[], ()), Err(HandshakeError::NotAuthentic)));
        let (initiator, _) = start();
        assert!(matches!(initiator.finish(b"HTTP", &[], ()), Err(HandshakeError::Malformed)));
    }
}
