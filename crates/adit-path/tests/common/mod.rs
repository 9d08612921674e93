//! Two engines on one machine: a server and a client of one WireGuard network, over loopback.

#![allow(dead_code, unreachable_pub, reason = "every test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_path::{Connect, Engine, EngineOptions, Flow, FlowStream, Listen, Listener, Network, Phase};
use adit_tunnel::{DnsConfig, HostPort};
use adit_wireguard::{Config, PeerConfig, PrivateKey, WireGuard};

/// The server's address inside.
pub const SERVER: &str = "10.77.0.1";
/// The client's address inside.
pub const CLIENT: &str = "10.77.0.2";
/// How long anything may take before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server and a client that is connected to it.
pub struct Pair {
    pub server: Arc<Engine<WireGuard>>,
    pub client: Arc<Engine<WireGuard>>,
}

pub fn key(n: u8) -> PrivateKey {
    PrivateKey::from_bytes([n; 32])
}

/// A UDP port that nobody uses.
pub fn free_port() -> u16 {
    UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

pub fn server_config(port: u16) -> Config {
    let mut peer = PeerConfig::new(key(2).public_key());
    peer.allowed_ips = vec!["10.77.0.2/32".parse().unwrap()];
    let mut config = Config::new(key(1));
    config.addresses = vec!["10.77.0.1/24".parse().unwrap()];
    config.listen_port = Some(port);
    config.peers = vec![peer];
    config
}

pub fn client_config(port: u16) -> Config {
    let mut peer = PeerConfig::new(key(1).public_key());
    peer.allowed_ips = vec!["10.77.0.0/24".parse().unwrap()];
    peer.endpoint = Some(HostPort { host: "127.0.0.1".to_owned(), port });
    let mut config = Config::new(key(2));
    config.addresses = vec!["10.77.0.2/32".parse().unwrap()];
    config.peers = vec![peer];
    config.dns = DnsConfig {
        servers: vec![SERVER.parse().unwrap()],
        search: vec!["corp.internal".to_owned()],
        routes: Vec::new(),
    };
    config
}

pub fn start(config: Config) -> Arc<Engine<WireGuard>> {
    start_with(config, EngineOptions::default())
}

pub fn start_with(config: Config, options: EngineOptions) -> Arc<Engine<WireGuard>> {
    let tunnel = WireGuard::new(config, 7, Instant::now());
    Arc::new(Engine::start(tunnel, options).unwrap())
}

/// A pair whose client is up.
pub async fn pair() -> Pair {
    let port = free_port();
    let server = start(server_config(port));
    // Its socket is open when its configuration is known; an earlier datagram would be lost for five seconds.
    within(server.status().wait_for(|status| status.config.is_some())).await.unwrap();
    let pair = Pair { server, client: start(client_config(port)) };
    wait_for(&*pair.client, Phase::Up).await;
    pair
}

pub async fn wait_for(network: &dyn Network, phase: Phase) {
    let mut status = network.status();
    within(status.wait_for(|status| status.phase == phase)).await.unwrap();
}

/// Fails the test when the future takes too long.
pub async fn within<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("within the test's patience")
}

pub fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

/// Listens on the server, and connects to it from the client: the two ends.
pub async fn connected(pair: &Pair, port: u16) -> (Flow, Flow, Listener) {
    let mut listener = within(pair.server.listen(port, Listen::default())).await.unwrap();
    let connect = pair.client.connect(at(SERVER, listener.port()), Connect::default());
    let (client, server) = within(async { tokio::join!(connect, listener.accept()) }).await;
    (client.unwrap(), server.unwrap(), listener)
}

/// The two ends as streams.
pub async fn streams(pair: &Pair, port: u16) -> (FlowStream, FlowStream) {
    let (client, server, _listener) = connected(pair, port).await;
    (client.into_stream().unwrap(), server.into_stream().unwrap())
}
