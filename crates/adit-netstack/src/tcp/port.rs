//! smoltcp's view of the stack: a device that holds one packet on its way in and room for one on its way out.

use std::num::NonZeroUsize;

use adit_tunnel::MAX_PACKET;
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// A device of two borrowed fields and no queue.
pub(crate) struct Port<'a> {
    input: Option<&'a [u8]>,
    output: &'a mut [u8],
    written: usize,
    segment: u16,
}

impl<'a> Port<'a> {
    /// `segment` is what a packet on the wire may carry.
    pub(crate) fn new(input: Option<&'a [u8]>, output: &'a mut [u8], segment: u16) -> Self {
        Self { input, output, written: 0, segment }
    }

    /// Length of the packet that was written; 0 if none was.
    pub(crate) fn written(&self) -> usize {
        self.written
    }
}

impl Device for Port<'_> {
    type RxToken<'b>
        = Packet<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Room<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: Instant) -> Option<(Packet<'_>, Room<'_>)> {
        let input = self.input.take()?;
        Some((Packet(input), Room { output: self.output, written: &mut self.written }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_>> {
        Some(Room { output: self.output, written: &mut self.written })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::ignored();
        // The stack verifies what comes in, unless a coalesced packet was verified before; a TCP checksum that
        // goes out is computed for the packets that are cut.
        checksum.ipv4 = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        // Not the tunnel's: segments are bounded by the peer's maximum segment size, which takes the tunnel's
        // MTU into account before smoltcp sees it.
        capabilities.max_transmission_unit = MAX_PACKET;
        capabilities.checksum = checksum;
        capabilities.segmentation.tcpv4 = super_segment(self.segment, 40);
        capabilities.segmentation.tcpv6 = super_segment(self.segment, 60);
        capabilities
    }
}

/// The largest packet of whole segments.
fn super_segment(segment: u16, headers: usize) -> Option<NonZeroUsize> {
    let segment = usize::from(segment.max(1));
    NonZeroUsize::new(headers + (MAX_PACKET - headers) / segment * segment)
}

pub(crate) struct Packet<'a>(&'a [u8]);

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

pub(crate) struct Room<'a> {
    output: &'a mut [u8],
    written: &'a mut usize,
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        match self.output.get_mut(..len) {
            Some(output) => {
                *self.written = len;
                fill(output)
            }
            // Only an acknowledgment or a reset answers a segment at once, and those have room.
            None => fill(&mut vec![0; len]),
        }
    }
}
