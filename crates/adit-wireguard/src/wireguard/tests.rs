//! Two interfaces that exchange datagrams by hand, on the real clock.

use std::net::IpAddr;

use adit_tunnel::{Checksum, LinkId};

use super::*;
use crate::{PresharedKey, PrivateKey};

/// An interface with what it has said so far.
struct Side {
    wg: WireGuard,
    out: Outbox,
    address: SocketAddr,
    events: Vec<Event<WireGuardError>>,
}

impl Side {
    fn new(config: Config, address: &str, now: Instant) -> Self {
        let mut wg = WireGuard::new(config, 7, now);
        let (mut out, address) = (Outbox::default(), address.parse().unwrap());
        wg.handle_net(now, NetInput::Opened { link: LinkId(0), local: address }, &mut out).unwrap();
        let mut side = Self { wg, out, address, events: Vec::new() };
        side.gather();
        side
    }

    fn gather(&mut self) {
        while let Some(event) = self.wg.poll_event() {
            self.events.push(event);
        }
    }

    fn sent(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut all = Vec::new();
        self.out.net.drain(|t| {
            all.extend(t.data.chunks(t.segment).map(|datagram| (t.to.unwrap(), datagram.to_vec())));
        });
        all
    }

    fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        self.out.host.drain(|packet| all.push(packet.bytes().to_vec()));
        all
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Result<(), Dropped> {
        let data = &mut datagram.to_vec()[..];
        let done = self.wg.handle_net(now, NetInput::Datagram { link: LinkId(0), from, data }, &mut self.out);
        self.gather();
        done
    }

    fn classes(&self) -> Vec<&'static str> {
        use adit_tunnel::TunnelError;
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Down(error) | Event::Failed(error) => Some(error.class()),
                Event::Up => Some("up"),
                _ => None,
            })
            .collect()
    }
}

/// Carries datagrams to and fro until nothing moves.
fn settle(now: Instant, a: &mut Side, b: &mut Side) {
    for _ in 0..10 {
        let (from_a, from_b) = (a.sent(), b.sent());
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        for (to, datagram) in from_a {
            assert_eq!(to, b.address);
            let _ = b.receive(now, a.address, &datagram);
        }
        for (to, datagram) in from_b {
            assert_eq!(to, a.address);
            let _ = a.receive(now, b.address, &datagram);
        }
    }
    panic!("the two never fall silent");
}

fn key(n: u8) -> PrivateKey {
    PrivateKey::from_bytes([n; 32])
}

fn peer(n: u8, allowed: &[&str], endpoint: Option<&str>) -> PeerConfig {
    let endpoint = endpoint.map(|text| {
        let (host, port) = text.rsplit_once(':').unwrap();
        HostPort { host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().unwrap() }
    });
    let allowed_ips = allowed.iter().map(|text| text.parse().unwrap()).collect();
    PeerConfig { endpoint, allowed_ips, ..PeerConfig::new(key(n).public_key()) }
}

fn config(n: u8, peers: Vec<PeerConfig>) -> Config {
    Config { peers, ..Config::new(key(n)) }
}

const CLIENT: &str = "192.0.2.1:1000";
const SERVER: &str = "192.0.2.2:2000";

fn pair(now: Instant) -> (Side, Side) {
    let client = config(1, vec![peer(2, &["10.0.0.0/24", "fd00::/64"], Some(SERVER))]);
    let server = config(2, vec![peer(1, &["10.0.0.1/32", "fd00::1/128"], None)]);
    (Side::new(client, CLIENT, now), Side::new(server, SERVER, now))
}

/// A UDP packet.
fn packet(source: &str, destination: &str, payload: usize) -> Vec<u8> {
    let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let length = (8 + payload) as u16;
    let mut udp = [1000u16.to_be_bytes(), 2000u16.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    udp.resize(length.into(), 0xaa);
    let sum = Checksum::pseudo_header(source, destination, 17, udp.len()).bytes(&udp).finish();
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            [header, source.octets().to_vec(), destination.octets().to_vec()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
            header[4..6].copy_from_slice(&length.to_be_bytes());
            [header, source.octets().to_vec(), destination.octets().to_vec()].concat()
        }
        _ => panic!("two families"),
    };
    packet.extend(udp);
    packet
}

#[test]
fn two_interfaces_agree_and_exchange_packets_of_both_families() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    settle(now, &mut client, &mut server);
    assert_eq!((client.classes(), server.classes()), (vec!["up"], vec!["up"]));
    for (ours, theirs) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let request = packet(ours, theirs, 100);
        client.wg.handle_packet(now, HostPacket::new(&request), &mut client.out).unwrap();
        settle(now, &mut client, &mut server);
        assert_eq!(server.packets(), [request]);
        let reply = packet(theirs, ours, 50);
        server.wg.handle_packet(now, HostPacket::new(&reply), &mut server.out).unwrap();
        settle(now, &mut client, &mut server);
        assert_eq!(client.packets(), [reply]);
    }
    let status = &client.wg.peers(now)[0];
    assert_eq!(status.endpoint, Some(server.address));
    assert_eq!(status.name, key(2).public_key().to_string());
    assert!(status.handshake_age.is_some() && status.received > 0 && status.sent > 0);
}

#[test]
fn packets_wait_for_the_session_and_a_super_segment_is_cut() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    let large = packet("10.0.0.1", "10.0.0.2", 3000);
    client.wg.handle_packet(now, HostPacket::segmented(&large, 1000), &mut client.out).unwrap();
    assert!(server.packets().is_empty());
    settle(now, &mut client, &mut server);
    assert_eq!(server.packets().iter().map(Vec::len).collect::<Vec<_>>(), [1028; 3]);
}

#[test]
fn what_has_no_route_is_too_big_or_does_not_parse_is_dropped_with_the_reason() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    settle(now, &mut client, &mut server);
    let mut give = |packet: HostPacket<'_>| client.wg.handle_packet(now, packet, &mut client.out).err();
    assert_eq!(give(HostPacket::new(&packet("10.0.0.1", "192.168.0.1", 1))), Some(Dropped::NoRoute));
    assert_eq!(give(HostPacket::new(&packet("10.0.0.1", "10.0.0.2", 1400))), Some(Dropped::TooBig));
    assert_eq!(
        give(HostPacket::segmented(&packet("10.0.0.1", "10.0.0.2", 9000), 1400)),
        Some(Dropped::TooBig)
    );
    assert_eq!(give(HostPacket::new(b"\x45")), Some(Dropped::Malformed));
}

#[test]
fn a_packet_with_a_source_that_is_not_the_peers_is_refused() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    settle(now, &mut client, &mut server);
    let forged = packet("10.0.0.77", "10.0.0.2", 10);
    client.wg.handle_packet(now, HostPacket::new(&forged), &mut client.out).unwrap();
    let (_, datagram) = client.sent().remove(0);
    assert_eq!(server.receive(now, client.address, &datagram), Err(Dropped::SourceNotAllowed));
    assert!(server.packets().is_empty());
}

#[test]
fn a_replayed_and_a_damaged_datagram_are_refused() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    settle(now, &mut client, &mut server);
    client
        .wg
        .handle_packet(now, HostPacket::new(&packet("10.0.0.1", "10.0.0.2", 10)), &mut client.out)
        .unwrap();
    let (_, datagram) = client.sent().remove(0);
    let mut damaged = datagram.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(server.receive(now, client.address, &damaged), Err(Dropped::Unauthentic));
    assert_eq!(server.receive(now, client.address, &datagram), Ok(()));
    assert_eq!(server.receive(now, client.address, &datagram), Err(Dropped::Replayed));
    assert_eq!(server.packets().len(), 1);
}

#[test]
fn an_authenticated_packet_from_another_address_moves_the_peer_and_a_forged_one_does_not() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    settle(now, &mut client, &mut server);
    let elsewhere: SocketAddr = "198.51.100.9:9".parse().unwrap();
    client
        .wg
        .handle_packet(now, HostPacket::new(&packet("10.0.0.1", "10.0.0.2", 10)), &mut client.out)
        .unwrap();
    let (_, datagram) = client.sent().remove(0);
    let mut forged = datagram.clone();
    *forged.last_mut().unwrap() ^= 1;
    let _ = server.receive(now, "203.0.113.1:1".parse().unwrap(), &forged);
    assert_eq!(server.wg.peers(now)[0].endpoint, Some(client.address));
    server.receive(now, elsewhere, &datagram).unwrap();
    assert_eq!(server.wg.peers(now)[0].endpoint, Some(elsewhere));
}

#[test]
fn the_later_of_two_peers_with_one_prefix_has_it() {
    let now = Instant::now();
    let peers =
        vec![peer(2, &["10.0.0.0/24"], Some(SERVER)), peer(3, &["10.0.0.0/24"], Some("192.0.2.3:3000"))];
    let mut client = Side::new(config(1, peers), CLIENT, now);
    let mut third = Side::new(config(3, vec![peer(1, &["10.0.0.1/32"], None)]), "192.0.2.3:3000", now);
    client.out.net.drain(|_| ());
    client.wg.handle_command(now, Command::Rehandshake(Some(key(3).public_key())), &mut client.out);
    settle(now, &mut client, &mut third);
    let request = packet("10.0.0.1", "10.0.0.5", 10);
    client.wg.handle_packet(now, HostPacket::new(&request), &mut client.out).unwrap();
    settle(now, &mut client, &mut third);
    assert_eq!(third.packets(), [request]);
}

#[test]
fn different_preshared_keys_are_told_from_silence() {
    let now = Instant::now();
    let mut to_server = peer(2, &["10.0.0.0/24"], Some(SERVER));
    to_server.preshared_key = Some(PresharedKey::from_bytes([9; 32]));
    let mut client = Side::new(config(1, vec![to_server]), CLIENT, now);
    let mut server = Side::new(config(2, vec![peer(1, &["10.0.0.1/32"], None)]), SERVER, now);
    settle(now, &mut client, &mut server);
    assert_eq!(client.classes(), ["wg.psk.mismatch"]);
}

#[test]
fn a_refused_port_is_reported_at_once_and_recovery_too() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    let to = server.address;
    let lost = client.sent();
    let why = Unreachable::Port;
    client.wg.handle_net(now, NetInput::Unreachable { link: LinkId(0), to, why }, &mut client.out).unwrap();
    client.gather();
    assert_eq!(client.classes(), ["wg.udp.refused"]);
    for (_, datagram) in lost {
        server.receive(now, client.address, &datagram).unwrap();
    }
    settle(now, &mut client, &mut server);
    assert_eq!(client.classes(), ["wg.udp.refused", "up"]);
}

#[test]
fn an_unreachable_family_falls_back_to_the_other_and_is_named_when_there_is_none() {
    let now = Instant::now();
    let start = |addresses: &[SocketAddr]| {
        let mut client =
            Side::new(config(1, vec![peer(2, &["10.0.0.0/24"], Some("vpn.example:2000"))]), CLIENT, now);
        let Some(Event::Resolve(host)) =
            client.events.iter().find(|event| matches!(event, Event::Resolve(_))).cloned()
        else {
            panic!("no question for the name")
        };
        client.wg.handle_net(now, NetInput::Resolved { host: &host, addresses }, &mut client.out).unwrap();
        client.gather();
        client
    };
    let (v6, v4): (SocketAddr, SocketAddr) =
        ("[2001:db8::1]:2000".parse().unwrap(), "192.0.2.2:2000".parse().unwrap());
    let unreachable = |client: &mut Side, to| {
        let input = NetInput::Unreachable { link: LinkId(0), to, why: Unreachable::Network };
        client.wg.handle_net(now, input, &mut client.out).unwrap();
        client.gather();
    };
    let mut both = start(&[v6, v4]);
    assert_eq!(both.sent()[0].0, v6);
    unreachable(&mut both, v6);
    assert_eq!(both.sent()[0].0, v4);
    assert!(both.classes().is_empty());
    let mut only = start(&[v6]);
    unreachable(&mut only, v6);
    assert_eq!(only.classes(), ["wg.endpoint.family"]);
    let none = start(&[]);
    assert_eq!(none.classes(), ["wg.endpoint.dns"]);
}

#[test]
fn an_overloaded_interface_answers_with_cookies_and_a_cookie_opens_the_door() {
    let now = Instant::now();
    let (mut client, mut server) = pair(now);
    let (_, first) = client.sent().remove(0);
    // The same initiation over and over: valid, replayed, and counted.
    for _ in 0..=HANDSHAKES_PER_SECOND {
        let _ = server.receive(now, "203.0.113.7:7".parse().unwrap(), &first);
    }
    server.out.net.drain(|_| ());
    client.wg.handle_command(now, Command::Rehandshake(None), &mut client.out);
    settle(now, &mut client, &mut server);
    assert!(client.classes().is_empty(), "a cookie is no session");
    client.wg.handle_command(now, Command::Rehandshake(None), &mut client.out);
    settle(now, &mut client, &mut server);
    assert_eq!(client.classes(), ["up"]);
}

#[test]
fn a_peer_that_answers_with_cookies_only_does_not_know_our_key() {
    let now = Instant::now();
    let (mut known, mut server) = pair(now);
    let (_, first) = known.sent().remove(0);
    for _ in 0..=HANDSHAKES_PER_SECOND {
        let _ = server.receive(now, "203.0.113.7:7".parse().unwrap(), &first);
    }
    server.out.net.drain(|_| ());
    let stranger = config(9, vec![peer(2, &["10.0.0.0/24"], Some(SERVER))]);
    let mut stranger = Side::new(stranger, "192.0.2.9:9", now);
    for (_, initiation) in stranger.sent() {
        let _ = server.receive(now, stranger.address, &initiation);
    }
    for (_, cookie) in server.sent() {
        stranger.receive(now, server.address, &cookie).unwrap();
    }
    stranger.wg.handle_timeout(now + Duration::from_secs(16), &mut stranger.out);
    stranger.gather();
    assert_eq!(stranger.classes(), ["wg.ourkey.unknown"]);
    let Some(Event::Down(error)) = stranger.events.last() else { panic!() };
    let evidence = adit_tunnel::TunnelError::evidence(error);
    assert!(evidence.iter().any(|line| line.contains("sent a cookie")), "{evidence:?}");
}

#[test]
fn a_port_in_use_is_final_and_a_lost_socket_is_opened_again() {
    let now = Instant::now();
    let mut wg = WireGuard::new(Config { listen_port: Some(51820), ..config(1, Vec::new()) }, 7, now);
    let mut out = Outbox::default();
    let closed = |error| NetInput::Closed { link: LinkId(0), error: Some(error) };
    wg.handle_net(now, closed(std::io::ErrorKind::AddrInUse), &mut out).unwrap();
    let failed = std::iter::from_fn(|| wg.poll_event()).any(|event| matches!(event, Event::Failed(_)));
    assert!(failed && wg.poll_timeout().is_none());

    let mut side = Side::new(config(1, Vec::new()), CLIENT, now);
    side.wg.handle_net(now, closed(std::io::ErrorKind::NetworkDown), &mut side.out).unwrap();
    let again = side.wg.poll_timeout().unwrap().at;
    side.events.clear();
    side.wg.handle_timeout(again, &mut side.out);
    side.gather();
    assert!(side.events.iter().any(|event| matches!(event, Event::OpenLink(..))));
}

#[test]
fn hostile_datagrams_meet_a_typed_drop() {
    use proptest::prelude::*;
    let now = Instant::now();
    let (client, server) = pair(now);
    let mut sides = (client, server);
    settle(now, &mut sides.0, &mut sides.1);
    let server = std::cell::RefCell::new(sides.1);
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    proptest!(|(kind in 0u8..6, index in any::<bool>(), mut bytes in bytes)| {
        let mut server = server.borrow_mut();
        if bytes.len() >= 8 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            if index {
                let ours = *server.wg.members.keys().next().unwrap();
                bytes[4..8].copy_from_slice(&(ours << 8).to_le_bytes());
            }
        }
        prop_assert!(server.receive(now, "203.0.113.7:7".parse().unwrap(), &bytes).is_err());
        prop_assert!(server.packets().is_empty());
    });
}
