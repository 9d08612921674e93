//! Datagrams on WireGuard's link.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{Event, HostPacket, LinkId, NetInput, Outbox, Tunnel};
use adit_wireguard::{Config, PeerConfig, PresharedKey, PrivateKey, WireGuard};

use super::pieces;

/// Gives datagrams to an interface that has called its peer. Who has no key makes no session and no packet.
pub fn wireguard_datagram(bytes: &[u8]) {
    let mut now = Instant::now();
    let peer = PrivateKey::from_bytes([2; 32]).public_key();
    let mut config = Config::new(PrivateKey::from_bytes([1; 32]));
    config.addresses = vec!["10.0.0.2/32".parse().expect("a prefix")];
    let mut other = PeerConfig::new(peer);
    other.preshared_key = Some(PresharedKey::from_bytes([3; 32]));
    other.allowed_ips = vec!["10.0.0.0/24".parse().expect("a prefix")];
    config.peers = vec![other];
    let mut tunnel = WireGuard::new(config, 1, now);
    let mut out = Outbox::with_capacity(1 << 16, 1 << 16);
    let local: SocketAddr = "127.0.0.1:51820".parse().expect("an address");
    let from: SocketAddr = "127.0.0.1:51821".parse().expect("an address");
    tunnel.handle_timeout(now, &mut out);
    let _ = tunnel.handle_net(now, NetInput::Opened { link: LinkId(0), local }, &mut out);
    for piece in pieces(bytes) {
        now += Duration::from_millis(100);
        let mut datagram = piece.to_vec();
        // A sender that knows our public key gets past mac1, but not further; without it, it gets an error here.
        let _ = tunnel.handle_net(
            now,
            NetInput::Datagram { link: LinkId(0), from, data: &mut datagram },
            &mut out,
        );
        assert!(out.host.is_empty(), "no packet comes out without a session");
        out.net.drain(|_| ());
        // The same bytes from inside: a packet of ours, whose route may be missing.
        let _ = tunnel.handle_packet(now, HostPacket::new(piece), &mut out);
        out.net.drain(|_| ());
        tunnel.handle_timeout(now, &mut out);
        out.net.drain(|_| ());
        while let Some(event) = tunnel.poll_event() {
            assert!(!matches!(event, Event::Up), "nobody is up: {event:?}");
        }
        assert!(
            tunnel.poll_timeout().is_none_or(|deadline| deadline.at > now),
            "a timeout that was handled is over: {:?}",
            tunnel.poll_timeout()
        );
    }
}
