use super::super::{KeyMaterial, Parameters, Role};
use super::*;
use crate::{Algorithm, Cipher};
use adit_tunnel::Outbox;
use proptest::prelude::*;
use zeroize::Zeroizing;

const UDP: Destination =
    (LinkId(3), Some(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1194)));
const TCP: Destination = (LinkId(4), None);

fn shape(cipher: Cipher, compression: Compression, fragment: Option<u16>) -> Shape {
    Shape {
        suite: Suite { cipher, auth: Algorithm::Sha1, epoch: false },
        peer_id: true,
        transport: Transport::Udp,
        outside_v6: false,
        compression,
        fragment,
        mssfix: MssFix::Default,
        tun_mtu: 1500,
        envelope: 0,
    }
}

/// Two ends of a path.
struct Path {
    channels: [Channel; 2],
    keys: [DataKeys; 2],
    net: Outbox,
    to: Destination,
    now: Instant,
}

impl Path {
    fn new(shape: Shape) -> Self {
        let keys = |role| {
            let parameters =
                Parameters { role, key_id: 0, peer_id: shape.peer_id.then_some(1), replay_window: 64 };
            DataKeys::new(shape.suite, &KeyMaterial::new(Zeroizing::new([7; 256])), &parameters)
        };
        Self {
            channels: [Channel::new(shape), Channel::new(shape)],
            keys: [keys(Role::Client), keys(Role::Server)],
            net: Outbox::with_capacity(1 << 18, 0),
            to: if shape.transport == Transport::Udp { UDP } else { TCP },
            now: Instant::now(),
        }
    }

    fn send(&mut self, packet: HostPacket<'_>) -> Result<usize, Dropped> {
        self.channels[0].send(&mut self.keys[0], packet, self.to, &mut self.net.net)
    }

    fn send_inner(&mut self, message: &[u8]) {
        self.channels[0].send_inner(&mut self.keys[0], message, self.to, &mut self.net.net).unwrap();
    }

    /// The messages that were sent, without the lengths of a stream.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        self.net.net.drain(|batch| {
            assert_eq!((batch.link, batch.to), self.to);
            if batch.to.is_some() {
                messages.extend(batch.data.chunks(batch.segment).map(<[u8]>::to_vec));
            } else {
                let mut rest = batch.data;
                while let Some((length, tail)) = rest.split_first_chunk::<2>() {
                    let (message, tail) = tail.split_at(usize::from(u16::from_be_bytes(*length)));
                    messages.push(message.to_vec());
                    rest = tail;
                }
            }
        });
        messages
    }

    fn receive(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, Dropped> {
        let mut message = message.to_vec();
        match self.channels[1].receive(self.now, &mut self.keys[1], &mut message)? {
            Inner::Packet(packet) => Ok(Some(packet.to_vec())),
            Inner::Piece => Ok(None),
            other => panic!("{other:?}"),
        }
    }
}

fn ip(length: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| at as u8).collect();
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet
}

/// A SYN with an MSS of 1460 whose checksum is right up to a constant.
fn syn() -> Vec<u8> {
    let mut packet = ip(44);
    packet[9] = 6;
    packet[20..44].fill(0);
    packet[32] = 6 << 4;
    packet[33] = 2;
    packet[40..44].copy_from_slice(&[2, 4, 0x05, 0xb4]);
    packet
}

#[test]
fn pings_and_occ_travel_in_all_framing_and_are_told_apart() {
    for compression in [Compression::None, Compression::Lzo, Compression::Stub, Compression::StubV2] {
        for fragment in [None, Some(1300)] {
            let mut path = Path::new(shape(Cipher::Aes128Cbc, compression, fragment));
            path.send_inner(&PING);
            path.send_inner(&occ(OCC_EXIT));
            path.send_inner(&occ(0)[..16]);
            path.send_inner(b"\x50whatever");
            let expected = [Inner::Ping, Inner::Occ(6), Inner::Other, Inner::Other];
            for (mut message, expected) in path.sent().into_iter().zip(expected) {
                let inner = path.channels[1].receive(path.now, &mut path.keys[1], &mut message);
                assert_eq!(inner, Ok(expected), "{compression:?} {fragment:?}");
            }
            assert_eq!(path.keys[1].traffic().1.packets, 4);
        }
    }
}

#[test]
fn a_connection_that_begins_is_clamped_on_the_way_out_and_on_the_way_in() {
    let shape = shape(Cipher::Aes256Gcm, Compression::None, None);
    let mss = |packet: &[u8]| u16::from_be_bytes([packet[42], packet[43]]);
    // Out: the far end has no clamp.
    let mut path = Path::new(shape);
    path.channels[1] = Channel::new(Shape { mssfix: MssFix::Off, ..shape });
    path.send(HostPacket::new(&syn())).unwrap();
    let message = path.sent().remove(0);
    assert_eq!(mss(&path.receive(&message).unwrap().unwrap()), 1400);
    // In: we have none.
    path.channels.reverse();
    path.send(HostPacket::new(&syn())).unwrap();
    let message = path.sent().remove(0);
    assert_eq!(mss(&path.receive(&message).unwrap().unwrap()), 1400);
}

#[test]
fn a_super_segment_is_cut_and_goes_whole_or_not_at_all() {
    let shape = shape(Cipher::Aes256Gcm, Compression::Lzo, None);
    let mut path = Path::new(shape);
    let mut packet = ip(40 + 10 * 1000);
    packet[9] = 6;
    packet[32] = 5 << 4;
    packet[33] = 0x10;
    let sent = path.send(HostPacket::segmented(&packet, 1000)).unwrap();
    assert_eq!(sent, 10 * (1040 + 25));
    let messages = path.sent();
    let lengths: Vec<_> =
        messages.iter().map(|message| path.receive(message).unwrap().unwrap().len()).collect();
    assert_eq!(lengths, [1040; 10]);
    path.net = Outbox::with_capacity(9 * 1065, 0);
    assert_eq!(path.send(HostPacket::segmented(&packet, 1000)), Err(Dropped::Backpressure));
    assert!(path.sent().is_empty());
    assert_eq!(path.send(HostPacket::new(&ip(1501))), Err(Dropped::TooBig));
}

#[test]
fn no_message_is_larger_than_fragment_says() {
    for cipher in [Cipher::Aes256Gcm, Cipher::Aes256Cbc] {
        for limit in [576, 1200, 1300] {
            let mut path = Path::new(shape(cipher, Compression::Lzo, Some(limit)));
            for length in [20, 500, 1100, 1240, 1274, 1275, 1276, 1300, 1500] {
                let packet = ip(length);
                path.send(HostPacket::new(&packet)).unwrap();
                let messages = path.sent();
                assert!(messages.iter().all(|message| message.len() <= usize::from(limit)));
                let whole = length < path.channels[0].shape.largest_payload(usize::from(limit)) - 4;
                assert_eq!(messages.len() == 1, whole, "{length} at {limit}");
                let mut received: Vec<_> =
                    messages.iter().rev().map(|message| path.receive(message).unwrap()).collect();
                assert_eq!(received.pop().unwrap(), Some(packet), "{length} at {limit}");
                assert!(received.iter().all(Option::is_none));
            }
        }
    }
}

#[test]
fn an_authentic_message_in_wrong_framing_is_counted_and_dropped() {
    let mut path = Path::new(shape(Cipher::Aes256Gcm, Compression::None, None));
    path.channels[1] = Channel::new(shape(Cipher::Aes256Gcm, Compression::Lzo, None));
    path.send(HostPacket::new(&ip(100))).unwrap();
    let message = path.sent().remove(0);
    assert_eq!(path.receive(&message), Err(Dropped::Malformed));
    assert_eq!(path.keys[1].traffic().1.packets, 1);
}

proptest! {
    #[test]
    fn packets_arrive_as_they_were_whatever_is_agreed(
        cipher in prop::sample::select(Cipher::ALL.to_vec()), epoch in any::<bool>(), peer_id in any::<bool>(),
        tcp in any::<bool>(), fragment in proptest::option::of(400u16..1500),
        compression in prop::sample::select(vec![
            Compression::None, Compression::Lzo, Compression::Stub, Compression::StubV2,
        ]),
        lengths in proptest::collection::vec(20usize..=1500, 1..6),
    ) {
        let shape = Shape {
            suite: Suite { cipher, auth: Algorithm::Sha256, epoch },
            peer_id,
            transport: if tcp { Transport::Tcp } else { Transport::Udp },
            ..shape(cipher, compression, fragment)
        };
        let mut path = Path::new(shape);
        for length in lengths {
            let packet = ip(length);
            let sent = path.send(HostPacket::new(&packet)).unwrap();
            let messages = path.sent();
            prop_assert!(tcp || fragment.is_some() || sent <= length + shape.overhead());
            let mut received = Vec::new();
            for message in &messages {
                received.extend(path.receive(message).unwrap());
            }
            prop_assert_eq!(received, [packet]);
        }
    }
}
