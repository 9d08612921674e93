//! IP packets: the checked views, the cut into segments, and coalescing.

use adit_tunnel::view::{IpView, addresses, protocol};
use adit_tunnel::{HostPacket, Outbox};

/// Views a packet, cuts it by a segment size from the first two bytes, and coalesces the pieces again.
pub fn ip_packet(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first_chunk::<2>() else { return };
    if let Ok(ip) = IpView::parse(bytes) {
        view(&ip);
    }
    let segment = u16::from_be_bytes(*size).max(1);
    cut(HostPacket::segmented(bytes, segment));
}

fn view(ip: &IpView<'_>) {
    assert_eq!(ip.header_len() + ip.payload().len(), ip.bytes().len(), "headers and payload are the packet");
    assert_eq!(addresses(ip.bytes()), Some((ip.source(), ip.destination())));
    assert_eq!(ip.is_v4(), ip.source().is_ipv4());
    if let Some(tcp) = ip.tcp() {
        assert_eq!(
            tcp.header_len() + tcp.payload().len(),
            ip.payload().len(),
            "a TCP segment fills its packet"
        );
        assert_eq!(tcp.options().len() + 20, tcp.header_len());
    }
    if let Some(udp) = ip.udp() {
        assert!(udp.payload().len() + 8 <= ip.payload().len(), "a datagram lies inside its packet");
    }
    let _ = ip.transport_checksum_ok();
}

/// Every piece is a packet with right checksums, and together they carry the payload in order.
fn cut(packet: HostPacket<'_>) {
    // A cut multiplies headers: what a driver would never queue is not worth the time here.
    let (Ok(segments), Ok(largest)) = (packet.segments(), packet.largest()) else { return };
    if segments.len() > 1024 {
        return;
    }
    let mut out = Outbox::with_capacity(0, 4 << 20);
    let mut pieces = Vec::new();
    let mut is_tcp = false;
    for segment in segments {
        let Some(mut slot) = out.host.reserve(segment.len()) else { return };
        let length = segment.write(&mut slot);
        assert!(length == segment.len() && length <= largest, "a piece is as long as it said");
        // A length that does not fit into its header's field cannot be stated; it is cut far smaller in life.
        let Ok(ip) = IpView::parse(&slot[..length]) else { return };
        view(&ip);
        if ip.bytes().len() == length {
            assert!(ip.transport_checksum_ok(), "the cut computes checksums");
        }
        is_tcp = ip.protocol() == protocol::TCP;
        pieces.extend_from_slice(payload(&ip));
        slot.commit(length);
    }
    if is_tcp {
        let mut merged = Vec::new();
        out.host.drain(|packet| {
            let Ok(ip) = IpView::parse_unsized(packet.bytes()) else { panic!("a merged packet is a packet") };
            merged.extend_from_slice(payload(&ip));
        });
        assert!(merged == pieces, "coalescing loses, doubles and reorders nothing");
    }
}

fn payload<'a>(ip: &IpView<'a>) -> &'a [u8] {
    match (ip.tcp(), ip.udp()) {
        (Some(tcp), _) => tcp.payload(),
        (_, Some(udp)) => udp.payload(),
        _ => ip.payload(),
    }
}
