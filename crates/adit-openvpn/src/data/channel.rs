//! Everything between an IP packet and the message on the link: mssfix, compression framing, fragments, encryption.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use adit_tunnel::{Dropped, HostPacket, LinkId, NetQueue, Segment, clamp_mss};

use super::fragment::{self, Cut, Reassembly};
use super::mss::Clamp;
use super::{DataKeys, Suite};
use crate::{Compression, MssFix, Transport};

/// What a ping consists of.
pub const PING: [u8; 16] =
    [0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48];
/// How a message of the options consistency check begins; its kind follows.
const OCC: [u8; 16] =
    [0x28, 0x7f, 0x34, 0x6b, 0xd4, 0xef, 0x7a, 0x81, 0x2d, 0x56, 0xb8, 0xd3, 0xaf, 0xc5, 0x45, 0x9c];
/// The kind of an OCC message that says goodbye.
pub const OCC_EXIT: u8 = 6;
/// A peer's packet may exceed the MTU inside by this much: not every peer counts alike.
const SLACK: usize = 128;
/// The bytes of length before a message on a stream.
const LENGTH: usize = 2;

/// How packets travel, as profile and server agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The cipher and its layout.
    pub suite: Suite,
    /// Whether the server pushed a peer-id.
    pub peer_id: bool,
    /// The carrier.
    pub transport: Transport,
    /// Whether the server's address is of IPv6.
    pub outside_v6: bool,
    /// The framing of compression.
    pub compression: Compression,
    /// `fragment`: the largest message on UDP, in bytes.
    pub fragment: Option<u16>,
    /// `mssfix`.
    pub mssfix: MssFix,
    /// The MTU inside.
    pub tun_mtu: u16,
    /// The bytes that a proxy wants before each datagram.
    pub envelope: u16,
}

impl Shape {
    /// The bytes that a packet grows by on its way, at most: headers, framing, encryption and its padding, without the
    /// headers of IP, UDP and TCP.
    pub fn overhead(&self) -> usize {
        let stream = if self.transport == Transport::Tcp { LENGTH } else { 0 };
        let padding = if self.suite.cipher.is_aead() { 0 } else { super::BLOCK - 1 };
        let framing = self.compression.overhead() + self.fragment.map_or(0, |_| fragment::HEADER);
        // Without a payload, a block of CBC holds packet id and padding already.
        let sealed = self.suite.sealed_len(self.peer_id, 0);
        let empty = if self.suite.cipher.is_aead() { sealed } else { sealed - super::BLOCK + 5 };
        stream + usize::from(self.envelope) + empty + padding + framing
    }
}

/// Where messages go: a link, and on UDP an address.
pub type Destination = (LinkId, Option<SocketAddr>);

/// What a message held.
#[derive(Debug, PartialEq, Eq)]
pub enum Inner<'a> {
    /// An IP packet, by its first four bits.
    Packet(&'a [u8]),
    /// A sign of life.
    Ping,
    /// A message of the options consistency check, by kind; [`OCC_EXIT`] is the one to act upon.
    Occ(u8),
    /// A piece of a packet whose other pieces are still missing.
    Piece,
    /// Something else, to be ignored: it is authentic, and a sign of life like the others.
    Other,
}

/// The path of packets. It outlives keys: a renegotiation changes none of this.
#[derive(Debug)]
pub struct Channel {
    shape: Shape,
    /// What is put before each datagram.
    envelope: Option<Arc<[u8]>>,
    clamp: Option<Clamp>,
    reassembly: Option<Reassembly>,
    /// The sequence number of the next packet in pieces.
    sequence: u8,
    /// For packets that are cut into pieces, and for what the peer compressed.
    scratch: Box<[u8]>,
}

impl Channel {
    /// A path of this shape. All memory that it ever needs is taken here.
    pub fn new(shape: Shape) -> Self {
        // Datagrams alone can be too large.
        let shape = match shape.transport {
            Transport::Udp => shape,
            Transport::Tcp => Shape { fragment: None, ..shape },
        };
        let limit = usize::from(shape.tun_mtu) + SLACK;
        Self {
            shape,
            envelope: None,
            clamp: Clamp::new(&shape),
            reassembly: shape.fragment.map(|_| Reassembly::new(limit)),
            sequence: 0,
            scratch: vec![0; limit].into_boxed_slice(),
        }
    }

    /// The same path through a proxy that wants these bytes before each datagram. Incoming ones are taken without.
    pub fn through(shape: Shape, envelope: Arc<[u8]>) -> Self {
        let length = u16::try_from(envelope.len()).unwrap_or(u16::MAX);
        Self { envelope: Some(envelope), ..Self::new(Shape { envelope: length, ..shape }) }
    }

    /// The same path with another MTU inside.
    pub fn with_mtu(&self, tun_mtu: u16) -> Self {
        let shape = Shape { tun_mtu, ..self.shape };
        match &self.envelope {
            Some(envelope) => Self::through(shape, Arc::clone(envelope)),
            None => Self::new(shape),
        }
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Seals a packet, or all packets of a super-segment, into `net`: all or none. TCP connections that begin are
    /// clamped on the way. Returns how many bytes were committed.
    ///
    /// # Errors
    /// [`Dropped::TooBig`] beyond the MTU inside, [`Dropped::Backpressure`] if `net` is full, and those of
    /// [`HostPacket::segments`] and [`DataKeys::seal`].
    pub fn send(
        &mut self,
        keys: &mut DataKeys,
        packet: HostPacket<'_>,
        to: Destination,
        net: &mut NetQueue,
    ) -> Result<usize, Dropped> {
        if packet.largest()? > usize::from(self.shape.tun_mtu) {
            return Err(Dropped::TooBig);
        }
        let segments = packet.segments()?;
        let need = segments.clone().map(|segment| self.message_len(keys, segment.len())).sum::<usize>();
        if net.free() < need {
            return Err(Dropped::Backpressure);
        }
        let mut sent = 0;
        for segment in segments {
            let plain = Plain { length: segment.len(), first: None, source: Source::Segment(segment) };
            sent += self.message(keys, plain, to, net)?;
        }
        Ok(sent)
    }

    /// Seals a message that is no packet: [`PING`], or what [`occ`] makes. Returns how many bytes were committed.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_inner(
        &mut self,
        keys: &mut DataKeys,
        message: &[u8],
        to: Destination,
        net: &mut NetQueue,
    ) -> Result<usize, Dropped> {
        let first = message.first().copied();
        let plain = Plain { length: message.len(), first, source: Source::Bytes(message) };
        self.message(keys, plain, to, net)
    }

    /// Opens a message (on a stream: without its length) where it lies and takes the framing off. The key is that of
    /// the message's key id. Packets of TCP connections that begin are clamped.
    ///
    /// # Errors
    /// Those of [`DataKeys::open`]; and [`Dropped::Malformed`] and [`Dropped::TooBig`] for an authentic message whose
    /// framing is wrong or whose packet is too large, which [`DataKeys::traffic`] counts nevertheless.
    pub fn receive<'a>(
        &'a mut self,
        now: Instant,
        keys: &mut DataKeys,
        message: &'a mut [u8],
    ) -> Result<Inner<'a>, Dropped> {
        let payload = keys.open(message)?;
        let payload = match &mut self.reassembly {
            None => payload,
            Some(reassembly) => match reassembly.take(now, payload)? {
                Some(whole) => whole,
                None => return Ok(Inner::Piece),
            },
        };
        let packet = self.shape.compression.unframe(payload, &mut self.scratch)?;
        match packet.first().map(|first| first >> 4) {
            Some(4 | 6) => {
                if let Some(clamp) = self.clamp {
                    clamp_mss(packet, clamp.v4, clamp.v6);
                }
                Ok(Inner::Packet(packet))
            }
            _ if *packet == PING => Ok(Inner::Ping),
            _ => Ok(match packet.strip_prefix(&OCC) {
                Some([kind, ..]) => Inner::Occ(*kind),
                _ => Inner::Other,
            }),
        }
    }

    /// The space that a packet of `length` bytes needs in the queue, at most.
    fn message_len(&self, keys: &DataKeys, length: usize) -> usize {
        let framed = length + self.shape.compression.overhead();
        let head = LENGTH.max(usize::from(self.shape.envelope));
        match self.cut(framed) {
            Some(cut) => cut.count * (head + keys.sealed_len(fragment::HEADER + cut.size)),
            None => head + keys.sealed_len(fragment::HEADER + framed),
        }
    }

    /// How a framed packet of this length is to be cut. `None` leaves it whole.
    fn cut(&self, framed: usize) -> Option<Cut> {
        let largest = self.shape.largest_payload(usize::from(self.shape.fragment?));
        let largest = largest.saturating_sub(fragment::HEADER);
        (framed > largest).then(|| Cut::new(framed, largest))?
    }

    fn message(
        &mut self,
        keys: &mut DataKeys,
        plain: Plain<'_>,
        to: Destination,
        net: &mut NetQueue,
    ) -> Result<usize, Dropped> {
        let framed = plain.framed_len(self.shape.compression);
        if let Some(cut) = self.cut(framed) {
            return self.pieces(keys, plain, cut, to, net);
        }
        let envelope = self.envelope.as_deref().unwrap_or_default();
        let prefix = if to.1.is_none() { LENGTH } else { envelope.len() };
        let fragment = self.shape.fragment.map_or(0, |_| fragment::HEADER);
        let total = prefix + keys.sealed_len(fragment + framed);
        let mut slot = net.reserve(to.0, to.1, total).ok_or(Dropped::Backpressure)?;
        let message = slot.get_mut(prefix..).ok_or(Dropped::TooBig)?;
        let payload = message.get_mut(keys.head()..).ok_or(Dropped::TooBig)?;
        let payload = payload.get_mut(..fragment + framed).ok_or(Dropped::TooBig)?;
        let (header, framed_part) = payload.split_at_mut(fragment);
        header.fill(0);
        plain.write(framed_part, self.shape.compression, self.clamp)?;
        let sealed = keys.seal(message, fragment + framed)?;
        match to.1 {
            None => write_length(&mut slot, sealed)?,
            Some(_) => put(&mut slot, envelope)?,
        }
        slot.commit(prefix + sealed);
        Ok(prefix + sealed)
    }

    /// Sends a packet in pieces: it is framed as a whole first.
    fn pieces(
        &mut self,
        keys: &mut DataKeys,
        plain: Plain<'_>,
        cut: Cut,
        to: Destination,
        net: &mut NetQueue,
    ) -> Result<usize, Dropped> {
        let framed = plain.framed_len(self.shape.compression);
        let envelope = self.envelope.as_deref().unwrap_or_default();
        let scratch = self.scratch.get_mut(..framed).ok_or(Dropped::TooBig)?;
        plain.write(scratch, self.shape.compression, self.clamp)?;
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let mut sent = 0;
        for (piece, bytes) in scratch.chunks(cut.size).enumerate() {
            let payload = fragment::HEADER + bytes.len();
            let total = envelope.len() + keys.sealed_len(payload);
            let mut slot = net.reserve(to.0, to.1, total).ok_or(Dropped::Backpressure)?;
            put(&mut slot, envelope)?;
            let message = slot.get_mut(envelope.len()..).ok_or(Dropped::TooBig)?;
            let body = message.get_mut(keys.head()..).ok_or(Dropped::TooBig)?;
            let (header, body) = body.split_at_mut_checked(fragment::HEADER).ok_or(Dropped::TooBig)?;
            header.copy_from_slice(&cut.header(sequence, piece));
            body.get_mut(..bytes.len()).ok_or(Dropped::TooBig)?.copy_from_slice(bytes);
            let sealed = envelope.len() + keys.seal(message, payload)?;
            slot.commit(sealed);
            sent += sealed;
        }
        Ok(sent)
    }
}

/// An OCC message without content, of this kind.
pub fn occ(kind: u8) -> [u8; 17] {
    let mut message = [kind; 17];
    message[..16].copy_from_slice(&OCC);
    message
}

/// Writes what comes before a message.
fn put(slot: &mut [u8], envelope: &[u8]) -> Result<(), Dropped> {
    slot.get_mut(..envelope.len()).ok_or(Dropped::TooBig)?.copy_from_slice(envelope);
    Ok(())
}

fn write_length(slot: &mut [u8], sealed: usize) -> Result<(), Dropped> {
    let length = u16::try_from(sealed).map_err(|_| Dropped::TooBig)?;
    *slot.first_chunk_mut::<LENGTH>().ok_or(Dropped::TooBig)? = length.to_be_bytes();
    Ok(())
}

/// What is to be sent, before any framing.
struct Plain<'a> {
    length: usize,
    /// The first byte of what may begin like framing; packets never do.
    first: Option<u8>,
    source: Source<'a>,
}

enum Source<'a> {
    Segment(Segment<'a>),
    Bytes(&'a [u8]),
}

impl Plain<'_> {
    fn framed_len(&self, compression: Compression) -> usize {
        let (before, after) = compression.space(self.first);
        before + self.length + after
    }

    /// Writes packet and framing to `slot`, which is [`framed_len`](Self::framed_len) long.
    fn write(&self, slot: &mut [u8], compression: Compression, clamp: Option<Clamp>) -> Result<(), Dropped> {
        let (before, _) = compression.space(self.first);
        let packet = slot.get_mut(before..before + self.length).ok_or(Dropped::TooBig)?;
        match &self.source {
            Source::Segment(segment) => {
                segment.write(packet);
                if let Some(clamp) = clamp {
                    clamp_mss(packet, clamp.v4, clamp.v6);
                }
            }
            Source::Bytes(bytes) => packet.copy_from_slice(bytes),
        }
        compression.frame(slot, self.length)
    }
}

#[cfg(test)]
mod tests;
