//! The secure channel of the control protocol (ts2021): `Noise_IK_25519_ChaChaPoly_BLAKE2s` (the Noise Protocol
//! Framework, §7.5), framed, with one deviation: the nonces of transport records are big-endian.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use adit_tailscale::SecretKey;
use snow::HandshakeState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize as _;

use super::keys::MachineKey;
use super::records::{FRAME, HEADER, Opener, Sealer, TAG};

const PROTOCOL: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &str = "Tailscale Control Protocol v";
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const ERROR: u8 = 3;

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

/// The bytes inside the channel, without what the server says ahead of HTTP/2.
pub(super) struct NoiseStream<S> {
    inner: S,
    opener: Opener,
    sealer: Sealer,
    /// Sealed; written up to `written`.
    sealed: Vec<u8>,
    written: usize,
}

impl<S> NoiseStream<S> {
    fn new(inner: S, send: &[u8; 32], receive: &[u8; 32], rest: &[u8]) -> Self {
        let mut opener = Opener::new(receive);
        opener.receive(rest);
        Self { inner, opener, sealer: Sealer::new(send), sealed: Vec::new(), written: 0 }
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
            if let Some(plain) = this.opener.read(out.remaining())? {
                out.put_slice(plain);
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; FRAME];
            let mut buffer = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                let whole = this.opener.is_between_records();
                return Poll::Ready(if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
            }
            this.opener.receive(buffer.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        let taken = this.sealer.seal(data, &mut this.sealed)?;
        // The record is ours now; what the inner stream does not take at once goes with the next call.
        if let Poll::Ready(Err(error)) = this.drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
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

    /// The server's end of a channel.
    pub(crate) fn server_stream<S>(inner: S, first: &[u8; 32], second: &[u8; 32]) -> NoiseStream<S> {
        NoiseStream::new(inner, second, first, &[])
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::super::records::{EARLY, RECORD};
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
                        server.sealer.seal(&[], &mut record).unwrap();
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
            server.sealer.seal(b"hello", &mut record).unwrap();
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
