//! What a WireGuard interface is made of, already parsed.

use std::net::SocketAddr;
use std::time::SystemTime;

use adit_tunnel::{DnsConfig, HostPort, NetConfig, Prefix};

use crate::{PresharedKey, PrivateKey, PublicKey};

/// The MTU that fits an Ethernet path for IPv4 and IPv6 endpoints: 1500 − 40 − 8 − 32.
pub const DEFAULT_MTU: u16 = 1420;

/// An interface and its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Our private key.
    pub private_key: PrivateKey,
    /// Our addresses inside the tunnel.
    pub addresses: Vec<Prefix>,
    /// Name resolution inside the tunnel.
    pub dns: DnsConfig,
    /// The largest inner packet, in bytes.
    pub mtu: u16,
    /// The local UDP port; `None` lets the system choose.
    pub listen_port: Option<u16>,
    /// The peers. Where two claim the same prefix, the later one has it, as with `wg`.
    pub peers: Vec<PeerConfig>,
    /// What is known of the wall clock, which the handshake's timestamp depends on.
    pub clock: Option<ClockCheck>,
}

impl Config {
    /// An interface without addresses and peers, with [`DEFAULT_MTU`].
    pub fn new(private_key: PrivateKey) -> Self {
        Self {
            private_key,
            addresses: Vec::new(),
            dns: DnsConfig::default(),
            mtu: DEFAULT_MTU,
            listen_port: None,
            peers: Vec::new(),
            clock: None,
        }
    }

    /// What the packet end must know: addresses, the union of all allowed IPs, DNS and MTU.
    pub fn net_config(&self) -> NetConfig {
        net_config(self, &self.peers)
    }
}

pub(crate) fn net_config<'a>(config: &Config, peers: impl IntoIterator<Item = &'a PeerConfig>) -> NetConfig {
    let mut routes: Vec<Prefix> =
        peers.into_iter().flat_map(|peer| peer.allowed_ips.iter().map(Prefix::network)).collect();
    routes.sort_unstable();
    routes.dedup();
    NetConfig {
        addresses: config.addresses.clone(),
        routes,
        excluded: Vec::new(),
        dns: config.dns.clone(),
        mtu: config.mtu,
    }
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The peer's public key.
    pub public_key: PublicKey,
    /// A symmetric key that both sides hold, if they do.
    pub preshared_key: Option<PresharedKey>,
    /// Where the peer is; `None` for a peer that comes to us.
    pub endpoint: Option<HostPort>,
    /// The inner addresses that belong to the peer, both as destinations and as sources.
    pub allowed_ips: Vec<Prefix>,
    /// Seconds between packets that keep a NAT mapping alive; `None` or 0 for none.
    pub persistent_keepalive: Option<u16>,
}

impl PeerConfig {
    /// A peer without endpoint and prefixes.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            persistent_keepalive: None,
        }
    }
}

/// The wall clock at the start, and the earliest time that it can truly be. A server ignores initiations whose
/// timestamp is older than one that it has seen, without a word; a clock before `not_before` is then the likely reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockCheck {
    /// What the clock says.
    pub now: SystemTime,
    /// The later of the build date and of the last handshake known from earlier runs.
    pub not_before: SystemTime,
}

impl ClockCheck {
    /// Whether the clock is certainly wrong.
    pub fn is_behind(&self) -> bool {
        self.now < self.not_before
    }
}

/// The address that a host and port spell without any resolver.
pub(crate) fn literal(endpoint: &HostPort) -> Option<SocketAddr> {
    Some(SocketAddr::new(endpoint.host.parse().ok()?, endpoint.port))
}
