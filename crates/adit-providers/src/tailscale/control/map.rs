//! The long poll: one request whose answer never ends, with a message for everything that changes.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use tokio::time::{Instant, timeout_at};

use super::super::error::ControlError;
use super::super::wire::MapRequest;
use super::{About, Control, bounded};

/// No message is larger on the wire.
const WIRE_LIMIT: usize = 64 << 20;
/// No message is larger when it is unpacked.
const LIMIT: usize = 256 << 20;
/// Of the message's length.
const PREFIX: usize = 4;
/// Servers send a sign of life every minute.
const SILENCE: Duration = Duration::from_secs(120);

/// How the messages of a stream are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// Each is a frame of zstd (RFC 8878).
    #[default]
    Zstd,
    /// Plain JSON.
    None,
}

/// The messages of the control server, one after the other.
#[derive(Debug)]
pub struct MapStream {
    body: RecvStream,
    /// Received and not handed out yet.
    buffer: Vec<u8>,
    packing: Packing,
    /// When the last bytes came.
    heard: Instant,
}

impl Control {
    /// Begins the long poll. While it lives, the node is online.
    pub(in crate::tailscale) async fn map(
        &self,
        about: &About<'_>,
        packing: Packing,
    ) -> Result<MapStream, ControlError> {
        let compress = if packing == Packing::Zstd { "zstd" } else { "" };
        let request = MapRequest { stream: true, keep_alive: true, compress, ..about.request() };
        let exchange = async {
            let answer = self.post("/machine/map", about.keys.node_key(), &request).await?;
            self.checked(answer).await
        };
        let body = bounded(exchange, &self.reach.control).await?;
        Ok(MapStream { body, buffer: Vec::new(), packing, heard: Instant::now() })
    }
}

impl MapStream {
    /// The next message, as JSON; `None` when the server has ended the stream, which is nothing unusual. Nothing is
    /// lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// Silence, a lost connection, or a message that is none.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ControlError> {
        loop {
            if let Some(message) = self.message()? {
                return self.unpacked(message).map(Some);
            }
            let chunk = timeout_at(self.heard + SILENCE, self.body.data()).await.map_err(|_| {
                ControlError::later("ts.netmap.timeout", "the control server is silent")
                    .seen(format!("no message and no sign of life for {SILENCE:?}"))
            })?;
            match chunk {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(broken("the stream ends inside a message")),
                Some(Ok(chunk)) => self.received(&chunk),
                Some(Err(error)) => {
                    let error = error.to_string();
                    return Err(ControlError::later(
                        "ts.control.tcp",
                        "the stream of the control server ended",
                    )
                    .seen(error));
                }
            }
        }
    }

    fn received(&mut self, chunk: &Bytes) {
        // Only a closed connection refuses it, and the next read says so.
        let _ = self.body.flow_control().release_capacity(chunk.len());
        self.buffer.extend_from_slice(chunk);
        self.heard = Instant::now();
    }

    /// Takes a whole message out of the buffer.
    fn message(&mut self) -> Result<Option<Vec<u8>>, ControlError> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
        // Little-endian, unlike everything else of the protocol.
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > WIRE_LIMIT {
            return Err(broken("a message is too large"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let after = self.buffer.split_off(PREFIX + length);
        let mut message = std::mem::replace(&mut self.buffer, after);
        message.drain(..PREFIX);
        Ok(Some(message))
    }

    fn unpacked(&self, message: Vec<u8>) -> Result<Vec<u8>, ControlError> {
        match self.packing {
            Packing::None => Ok(message),
            Packing::Zstd => unpack(&message, LIMIT).ok_or_else(|| broken("a message cannot be unpacked")),
        }
    }
}

fn broken(what: &str) -> ControlError {
    ControlError::later("ts.control.protocol", format!("the stream of the control server is damaged: {what}"))
}

/// Unpacks one frame; `None` if it is damaged or larger than `limit`.
pub(super) fn unpack(mut packed: &[u8], limit: usize) -> Option<Vec<u8>> {
    const STEP: usize = 1 << 20;
    let mut decoder = FrameDecoder::new();
    decoder.init(&mut packed).ok()?;
    let mut unpacked = Vec::new();
    while !decoder.is_finished() {
        decoder.decode_blocks(&mut packed, BlockDecodingStrategy::UptoBytes(STEP)).ok()?;
        if unpacked.len() + decoder.can_collect() > limit {
            return None;
        }
        decoder.collect_to_writer(&mut unpacked).ok()?;
    }
    decoder.collect_to_writer(&mut unpacked).ok()?;
    (unpacked.len() <= limit).then_some(unpacked)
}
