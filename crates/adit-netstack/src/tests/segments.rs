use std::net::IpAddr;

use adit_tunnel::view::{IpView, tcp_flag};
use adit_tunnel::{HostPacket, Outbox};

use super::SECOND;
use crate::testing::{Link, Pair, net_config, pattern};
use crate::{CloseReason, FlowEvent, StackEvent};

/// The value of the MSS option of a packet, whose first option it is.
fn mss(packet: &[u8]) -> Option<u16> {
    let options = IpView::parse(packet).unwrap().tcp().unwrap().options();
    (options.first() == Some(&2)).then(|| u16::from_be_bytes([options[2], options[3]]))
}

#[test]
fn the_advertised_mss_is_what_the_tunnel_takes() {
    for (to, expected) in [("10.0.0.2:80", 1380), ("[fd00::2]:80", 1360)] {
        let mut pair = Pair::new(1, Link::CLEAN);
        pair.ends[0].record = true;
        pair.ends[1].record = true;
        pair.connect(to.parse().unwrap());
        assert_eq!(mss(&pair.ends[0].wire[0]), Some(expected), "SYN");
        assert_eq!(mss(&pair.ends[1].wire[0]), Some(expected), "SYN-ACK");
        assert!(
            pair.ends[0].wire.iter().all(|packet| IpView::parse(packet).unwrap().transport_checksum_ok())
        );
    }
}

#[test]
fn segments_are_as_large_as_the_smaller_side_allows() {
    for (ours, theirs, largest) in [(1420, 1300, 1300), (1300, 1420, 1300), (1280, 1280, 1280)] {
        for to in ["10.0.0.2:80", "[fd00::2]:80"] {
            let mut pair = Pair::new(2, Link::CLEAN);
            pair.ends[0].stack.configure(pair.now, &net_config(1, ours));
            pair.ends[1].stack.configure(pair.now, &net_config(2, theirs));
            let (client, server, _) = pair.connect(to.parse().unwrap());
            pair.ends[0].record = true;
            let data = pattern(200_000);
            assert!(pair.transfer(0, (client, server), &data, 60 * SECOND) == data);
            assert_eq!(pair.ends[0].wire.iter().map(Vec::len).max(), Some(largest), "{to}");
        }
    }
}

#[test]
fn bulk_data_leaves_in_super_segments_of_whole_segments() {
    for to in ["10.0.0.2:80", "[fd00::2]:80"] {
        let mut pair = Pair::new(3, Link::CLEAN);
        let (client, server, _) = pair.connect(to.parse().unwrap());
        let data = pattern(2_000_000);
        pair.transfer(0, (client, server), &data, 60 * SECOND);
        pair.write(0, client, &data);
        let mut sizes = Vec::new();
        pair.ends[0].stack.poll_transmit(pair.now, &mut |packet| {
            let payload = IpView::parse(packet.bytes()).unwrap().tcp().unwrap().payload().len();
            assert!(packet.segments().unwrap().all(|segment| segment.len() <= 1420));
            sizes.push((payload, packet.segment()));
            true
        });
        let (payload, segment) = sizes[0];
        assert!(payload > 60_000 && payload % usize::from(segment.unwrap()) == 0, "{sizes:?}");
    }
}

#[test]
fn coalesced_segments_are_taken_whole_and_acknowledged_once() {
    let mut pair = Pair::new(4, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    let data = pattern(500_000);
    pair.transfer(0, (client, server), &data, 60 * SECOND);
    pair.run(SECOND);
    pair.write(0, client, &data[..40_000]);
    let mut outbox = Outbox::default();
    pair.ends[0].stack.poll_transmit(pair.now, &mut |packet| {
        for segment in packet.segments().unwrap() {
            let mut slot = outbox.host.reserve(segment.len()).unwrap();
            segment.write(&mut slot);
            slot.commit(segment.len());
        }
        true
    });
    assert_eq!(outbox.host.len(), 1, "the segments were merged");
    outbox.host.drain(|packet| pair.ends[1].stack.handle_packet(pair.now, packet).unwrap());
    let mut received = Vec::new();
    pair.read(1, server, &mut received);
    // The rest leaves a little later, at the pace of the path.
    assert!(received.len() > 10 * 1368 && data.starts_with(&received), "{}", received.len());
    let mut replies = 0;
    pair.ends[1].stack.poll_transmit(pair.now, &mut |_| {
        replies += 1;
        true
    });
    assert_eq!(replies, 1, "at once, without the delay of a lone segment");
}

/// An ICMP error of either family that quotes the start of `packet`.
fn icmp_error(packet: &[u8], from: IpAddr, (kind, code): (u8, u8), rest: u32) -> Vec<u8> {
    let ip = IpView::parse(packet).unwrap();
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(&packet[..ip.header_len() + 8]);
    crate::emit::fill_icmp_checksum(&mut message, from, ip.source());
    let mut error = vec![0; crate::emit::ip_header_len(from)];
    error.extend(message);
    crate::emit::fill_ip_header(&mut error, from, ip.source(), if ip.is_v4() { 1 } else { 58 });
    error
}

#[test]
fn an_icmp_error_ends_a_handshake_but_not_a_connection() {
    for (to, from, kind) in [("10.0.0.9:80", "10.0.0.254", (3, 1)), ("[fd00::9]:80", "fd00::fe", (1, 3))] {
        let mut pair = Pair::new(5, Link::CLEAN);
        pair.ends[0].record = true;
        let flow = super::connect(&mut pair, to);
        pair.exchange();
        let error = icmp_error(&pair.ends[0].wire[0], from.parse().unwrap(), kind, 0);
        let mut forged = pair.ends[0].wire[0].clone();
        let sequence = IpView::parse(&forged).unwrap().header_len() + 4;
        forged[sequence] ^= 0x40;
        let forged = icmp_error(&forged, from.parse().unwrap(), kind, 0);
        pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&forged)).unwrap();
        pair.exchange();
        assert_eq!(pair.take_events(0), [], "a sequence number that was never sent");
        pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&error)).unwrap();
        pair.exchange();
        let reason = CloseReason::Unreachable { from: from.parse().unwrap(), kind: kind.0, code: kind.1 };
        assert_eq!(pair.take_events(0), [StackEvent::Tcp(flow, FlowEvent::Closed(reason))]);
    }
    let mut pair = Pair::new(6, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.ends[0].record = true;
    pair.write(0, client, b"x");
    pair.exchange();
    let error = icmp_error(&pair.ends[0].wire[0], "10.0.0.254".parse().unwrap(), (3, 1), 0);
    pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&error)).unwrap();
    let data = pattern(10_000);
    let received = pair.transfer(0, (client, server), &data, 10 * SECOND);
    assert_eq!(received[..1], *b"x");
}

#[test]
fn packet_too_big_makes_segments_smaller_and_sends_again() {
    for (to, from, kind) in [("10.0.0.2:80", "10.0.0.254", (3, 4)), ("[fd00::2]:80", "fd00::fe", (2, 0))] {
        let mut pair = Pair::new(7, Link::CLEAN);
        let (client, server, _) = pair.connect(to.parse().unwrap());
        pair.transfer(0, (client, server), &pattern(100_000), 10 * SECOND);
        pair.run(SECOND);
        pair.ends[0].record = true;
        pair.link.lost = 1000;
        pair.write(0, client, &pattern(50_000));
        pair.exchange();
        pair.link.lost = 0;
        let error = icmp_error(&pair.ends[0].wire[0], from.parse().unwrap(), kind, 1300);
        pair.ends[0].wire.clear();
        pair.ends[0].stack.handle_packet(pair.now, HostPacket::new(&error)).unwrap();
        let began = pair.now;
        let mut received = Vec::new();
        while received.len() < 50_000 {
            assert!(pair.step(began + SECOND / 2), "without waiting for the retransmission timer");
            pair.read(1, server, &mut received);
        }
        assert!(received == pattern(50_000));
        assert_eq!(pair.ends[0].wire.iter().map(Vec::len).max(), Some(1300));
    }
}

#[test]
fn only_the_last_packet_of_a_stream_ends_it() {
    let mut pair = Pair::new(8, Link::CLEAN);
    let (client, server, _) = pair.connect("10.0.0.2:80".parse().unwrap());
    pair.transfer(0, (client, server), &pattern(300_000), 10 * SECOND);
    pair.ends[0].record = true;
    pair.write(0, client, &pattern(30_000));
    pair.ends[0].stack.tcp_shutdown(pair.now, client);
    pair.run(SECOND);
    let fins: Vec<bool> = (pair.ends[0].wire.iter())
        .map(|packet| IpView::parse(packet).unwrap().tcp().unwrap())
        .filter(|tcp| !tcp.payload().is_empty() || tcp.flags() & tcp_flag::FIN != 0)
        .map(|tcp| tcp.flags() & tcp_flag::FIN != 0)
        .collect();
    assert!(fins.len() > 20 && fins[fins.len() - 1] && !fins[..fins.len() - 1].contains(&true), "{fins:?}");
}
