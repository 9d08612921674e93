//! The embedded network as a WireGuard peer.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use adit_path::EngineOptions;
use adit_tunnel::{DnsConfig, HostPort, Prefix};
use adit_wireguard::{Config, PeerConfig, PresharedKey, PrivateKey, WireGuard};

use super::{API, DATABASE, DOMAIN, GATEWAY, MEMBER, free_port, random};
use crate::Failure;
use crate::config::Provider;
use crate::session::Session;

/// Starts the server; returns it, the configuration of its member and where it listens.
pub(super) fn start() -> Result<(Session, Config, HostPort), Failure> {
    let made = free_port().and_then(|port| Ok((port, configs(port)?)));
    let (port, (server, member)) = made.map_err(|error| super::failed(&error))?;
    let endpoint = HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port };
    let seed = u64::from_le_bytes(random().map_err(|error| super::failed(&error))?);
    let tunnel = WireGuard::new(server, seed, Instant::now());
    let server = Session::of(tunnel, Provider::WireGuard, None, EngineOptions::default())?;
    Ok((server, member, endpoint))
}

/// Both ends of one tunnel, with fresh keys.
fn configs(port: u16) -> io::Result<(Config, Config)> {
    let host = |address: Ipv4Addr| Prefix::host(IpAddr::V4(address));
    let lan = Prefix::new(IpAddr::V4(GATEWAY), 24).map(|prefix| prefix.network());
    let mut server = Config::new(PrivateKey::from_bytes(random()?));
    let mut member = Config::new(PrivateKey::from_bytes(random()?));
    let preshared = PresharedKey::from_bytes(random()?);

    server.listen_port = Some(port);
    server.addresses = vec![host(GATEWAY), host(DATABASE), host(API)];
    server.peers = vec![PeerConfig {
        preshared_key: Some(preshared.clone()),
        allowed_ips: vec![host(MEMBER)],
        ..PeerConfig::new(member.private_key.public_key())
    }];
    member.addresses = vec![host(MEMBER)];
    member.dns = DnsConfig {
        servers: vec![IpAddr::V4(GATEWAY)],
        search: vec![DOMAIN.to_owned()],
        ..DnsConfig::default()
    };
    member.peers = vec![PeerConfig {
        preshared_key: Some(preshared),
        endpoint: Some(HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port }),
        allowed_ips: lan.into_iter().collect(),
        ..PeerConfig::new(server.private_key.public_key())
    }];
    Ok((server, member))
}
