//! The server's end of the control protocol's secure channel: the answer to a handshake, and records as a stream.

use std::io;

use adit_tailscale::SecretKey;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::net::TcpStream;

const PROTOCOL: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
const INITIATION: [u8; 3] = [1, 0, 96];
const RESPONSE: u8 = 2;
const RECORD: u8 = 4;
const TAG: usize = 16;
/// The most that a record carries.
const PLAIN: usize = 4096 - 3 - TAG;
/// Between the channel and who speaks through it.
const BUFFER: usize = 64 * 1024;

/// The keys of a channel, from the client and to it, and the client's machine key.
pub(super) struct Agreed {
    from_client: [u8; 32],
    to_client: [u8; 32],
    pub(super) machine: [u8; 32],
}

/// Answers an initiation, framed with its version; `None` where it is none for this key.
pub(super) fn respond(server: &SecretKey, frame: &[u8]) -> Option<(Vec<u8>, Agreed)> {
    let (version, frame) = frame.split_first_chunk::<2>()?;
    let message = frame.strip_prefix(&INITIATION)?;
    let prologue = format!("Tailscale Control Protocol v{}", u16::from_be_bytes(*version));
    let mut state = snow::Builder::new(PROTOCOL.parse().ok()?)
        .prologue(prologue.as_bytes())
        .ok()?
        .local_private_key(server.as_bytes())
        .ok()?
        .build_responder()
        .ok()?;
    let mut buffer = [0; 128];
    state.read_message(message, &mut buffer).ok()?;
    let machine = state.get_remote_static()?.try_into().ok()?;
    let length = state.write_message(&[], &mut buffer).ok()?;
    let mut answer = vec![RESPONSE, 0, u8::try_from(length).ok()?];
    answer.extend_from_slice(buffer.get(..length)?);
    let (from_client, to_client) = state.dangerously_get_raw_split();
    Some((answer, Agreed { from_client, to_client, machine }))
}

/// Carries bytes through the channel; what is returned is its plain side. `received` is what came behind the handshake.
pub(super) fn carry(stream: TcpStream, received: Vec<u8>, agreed: &Agreed) -> io::Result<DuplexStream> {
    let (near, far) = duplex(BUFFER);
    let (mut sealed_in, mut sealed_out) = stream.into_split();
    let (mut plain_in, mut plain_out) = split(far);
    let (opening, sealing) = (key(&agreed.from_client)?, key(&agreed.to_client)?);
    tokio::spawn(async move {
        let mut rest = received;
        for counter in 0u64.. {
            let Ok(record) = open(&mut sealed_in, &mut rest, &opening, counter).await else { break };
            if plain_out.write_all(&record).await.is_err() {
                break;
            }
        }
        // The end of one direction is the end of the channel.
        let _ = plain_out.shutdown().await;
    });
    tokio::spawn(async move {
        let mut plain = vec![0; PLAIN];
        for counter in 0u64.. {
            let length = match plain_in.read(&mut plain).await {
                Ok(length) if length > 0 => length,
                _ => break,
            };
            let mut record = plain.get(..length).unwrap_or_default().to_vec();
            if sealing.seal_in_place_append_tag(nonce(counter), Aad::empty(), &mut record).is_err() {
                break;
            }
            let mut frame = vec![RECORD];
            frame.extend_from_slice(&(record.len() as u16).to_be_bytes());
            frame.extend_from_slice(&record);
            if sealed_out.write_all(&frame).await.is_err() {
                break;
            }
        }
    });
    Ok(near)
}

/// The next record, opened.
async fn open(
    stream: &mut (impl AsyncRead + Unpin),
    rest: &mut Vec<u8>,
    key: &LessSafeKey,
    counter: u64,
) -> io::Result<Vec<u8>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    loop {
        if let Some(([kind, high, low], body)) = rest.split_first_chunk::<3>() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if *kind != RECORD {
                return Err(invalid());
            }
            if let Some(sealed) = body.get(..length) {
                let mut record = sealed.to_vec();
                let plain = key
                    .open_in_place(nonce(counter), Aad::empty(), &mut record)
                    .map_err(|_| invalid())?
                    .len();
                record.truncate(plain);
                rest.drain(..3 + length);
                return Ok(record);
            }
        }
        if stream.read_buf(rest).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn key(bytes: &[u8; 32]) -> io::Result<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(LessSafeKey::new(key))
}

/// The one deviation of this protocol from Noise: the counter is big-endian.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
