//! An IP packet on its way between the packet end and a tunnel.

/// An IP packet, or a TCP/UDP super-segment that stands for many.
///
/// A super-segment is one IP header, one transport header and more payload than fits into a packet;
/// whoever seals it cuts it every `segment` payload bytes ([`segments`](Self::segments)). Lengths and checksums
/// of a super-segment need not be right: the cut computes them, also when the payload fits into one packet.
/// The bytes of a plain packet are final.
#[derive(Clone, Copy, Debug)]
pub struct HostPacket<'a> {
    bytes: &'a [u8],
    segment: Option<u16>,
}

impl<'a> HostPacket<'a> {
    /// A single packet.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, segment: None }
    }

    /// A super-segment whose payload is to be cut every `segment` bytes.
    pub fn segmented(bytes: &'a [u8], segment: u16) -> Self {
        Self { bytes, segment: Some(segment) }
    }

    /// The IP header, the transport header and the payload.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Payload bytes per packet, if this stands for more than one.
    pub fn segment(&self) -> Option<u16> {
        self.segment
    }
}
