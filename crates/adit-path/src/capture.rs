//! Copies of the packets inside a private network, as a capture file takes them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram as StdUnixDatagram;
use std::time::{Duration, SystemTime};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};
use tokio::net::UnixDatagram;

/// The longest packet that is copied whole.
pub const SNAP: usize = 65_535;
/// Microseconds since 1970, little-endian, and how many packets before this one found no room.
const HEAD: usize = 12;

/// The beginning of a capture file of the classic format ("pcap", draft-ietf-opsawg-pcap): microseconds, raw IP
/// packets (LINKTYPE_RAW, 101).
pub const FILE_HEADER: [u8; 24] = {
    let mut header = [0; 24];
    let fields: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, SNAP as u32, 101];
    let mut at = 0;
    while at < 24 {
        header[at] = fields[at / 4].to_le_bytes()[at % 4];
        at += 1;
    }
    header
};

/// Why packets cannot be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CaptureFailure {
    /// This kind of network does not see packets.
    #[error("the packets of this network cannot be seen here")]
    Unsupported,
    /// A budget is used up.
    #[error("out of {0}")]
    Exhausted(String),
    /// The network was shut down, or the daemon is gone.
    #[error("the network was closed")]
    Closed,
}

/// The receiving end. Dropping it ends the copying.
#[derive(Debug)]
pub struct Capture(OwnedFd);

/// A copied packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When it passed, since 1970.
    pub at: Duration,
    /// How many packets passed uncopied since the one before: whoever reads was too slow.
    pub missed: u32,
    /// The packet, from its IP header on.
    pub packet: Vec<u8>,
}

impl Captured {
    /// As a record of a capture file, behind [`FILE_HEADER`].
    pub fn write(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.packet.len()).unwrap_or(u32::MAX);
        // The format ends in 2106.
        let seconds = u32::try_from(self.at.as_secs()).unwrap_or(u32::MAX);
        for field in [seconds, self.at.subsec_micros(), length, length] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.packet);
    }
}

impl Capture {
    /// From the descriptor that [`into_fd`](Self::into_fd) gave, possibly of another process.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The descriptor; it can travel to another process.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The packets. Must be called within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// The descriptor is no socket of this kind.
    pub fn packets(self) -> io::Result<Packets> {
        // Sequenced packets through the datagram type: the system calls are the same, and end of file shows.
        let socket = StdUnixDatagram::from(self.0);
        socket.set_nonblocking(true)?;
        Ok(Packets { socket: UnixDatagram::from_std(socket)?, buffer: vec![0; HEAD + SNAP] })
    }
}

/// The packets of a [`Capture`].
#[derive(Debug)]
pub struct Packets {
    socket: UnixDatagram,
    buffer: Vec<u8>,
}

impl Packets {
    /// The next packet; `None` once the network is gone.
    ///
    /// # Errors
    /// Of the system.
    pub async fn next(&mut self) -> io::Result<Option<Captured>> {
        loop {
            let length = match self.socket.recv(&mut self.buffer).await {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            };
            let Some(message) = self.buffer.get(..length).filter(|message| !message.is_empty()) else {
                return Ok(None);
            };
            if let Some(captured) = parse(message) {
                return Ok(Some(captured));
            }
        }
    }
}

fn parse(message: &[u8]) -> Option<Captured> {
    let (micros, rest) = message.split_first_chunk()?;
    let (missed, packet) = rest.split_first_chunk()?;
    let at = Duration::from_micros(u64::from_le_bytes(*micros));
    Some(Captured { at, missed: u32::from_le_bytes(*missed), packet: packet.to_vec() })
}

/// The driver's end: one message for each packet, and none that waits.
#[derive(Debug)]
pub(crate) struct Tap {
    socket: StdUnixDatagram,
    missed: u32,
}

impl Tap {
    /// Both ends.
    pub(crate) fn pair() -> io::Result<(Self, Capture)> {
        let (near, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Self { socket: near.into(), missed: 0 }, Capture(far)))
    }

    /// Copies a packet that lies behind [`HEAD`] bytes of room in `message`. Returns whether anybody reads.
    fn send(&mut self, at: Duration, message: &mut [u8]) -> bool {
        let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        message[..8].copy_from_slice(&micros.to_le_bytes());
        message[8..HEAD].copy_from_slice(&self.missed.to_le_bytes());
        match self.socket.send(message) {
            Ok(_) => self.missed = 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.missed += 1,
            Err(_) => return false,
        }
        true
    }
}

/// Everybody who sees the packets of one network.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    taps: Vec<Tap>,
    message: Vec<u8>,
}

impl Taps {
    /// How many may look on at once.
    const LIMIT: usize = 4;

    /// Takes one more. False if there are too many.
    pub(crate) fn add(&mut self, tap: Tap) -> bool {
        let room = self.taps.len() < Self::LIMIT;
        if room {
            self.taps.push(tap);
        }
        room
    }

    /// Copies a packet for whoever looks on. Costs a comparison where nobody does.
    pub(crate) fn see(&mut self, packet: adit_tunnel::HostPacket<'_>) {
        if self.taps.is_empty() {
            return;
        }
        // A super-segment is told as the packets that leave.
        let Ok(segments) = packet.segments() else { return };
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for segment in segments {
            self.message.resize(HEAD + segment.len(), 0);
            segment.write(&mut self.message[HEAD..]);
            let Self { taps, message } = self;
            taps.retain_mut(|tap| tap.send(at, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::HostPacket;

    use super::*;

    #[tokio::test]
    async fn packets_are_copied_with_what_was_missed_until_nobody_reads() {
        let mut taps = Taps::default();
        let (tap, capture) = Tap::pair().unwrap();
        assert!(taps.add(tap));
        let packet = [0x45; 40];
        // More than a socket holds.
        for _ in 0..20_000 {
            taps.see(HostPacket::new(&packet));
        }
        let mut packets = capture.packets().unwrap();
        let first = packets.next().await.unwrap().unwrap();
        assert_eq!((first.missed, first.packet.as_slice()), (0, &packet[..]));
        let mut file = FILE_HEADER.to_vec();
        first.write(&mut file);
        assert_eq!(file.len(), 24 + 16 + 40);
        assert_eq!(file[..4], 0xa1b2_c3d4u32.to_le_bytes());

        let mut copied = 1;
        while let Ok(Ok(Some(_))) = tokio::time::timeout(Duration::ZERO, packets.next()).await {
            copied += 1;
        }
        taps.see(HostPacket::new(&packet));
        let next = packets.next().await.unwrap().unwrap();
        assert_eq!(next.missed + copied, 20_000, "what was not copied is counted");

        drop(packets);
        taps.see(HostPacket::new(&packet));
        assert!(taps.taps.is_empty());
    }

    #[tokio::test]
    async fn the_end_of_the_network_is_the_end_of_the_capture() {
        let (tap, capture) = Tap::pair().unwrap();
        let mut packets = capture.packets().unwrap();
        drop(tap);
        assert_eq!(packets.next().await.unwrap(), None);
    }
}
