//! What a node is made with, what it can be told, and what it tells its control side.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_tunnel::{HostPort, Prefix, Prompt};

use crate::netmap::{RegionId, Update};
use crate::{Keys, Problem, SecretKey};

/// What the data side of a node is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our keys.
    pub keys: Keys,
    /// The trust anchors for certificates of DERP servers.
    pub roots: Arc<rustls::RootCertStore>,
    /// The local UDP port; `None` lets the system choose.
    pub port: Option<u16>,
    /// Whether UDP is tried at all. Without it everything goes through DERP.
    pub udp: bool,
    /// Addresses of this machine, as candidates for peers on the same network.
    pub local_addresses: Vec<IpAddr>,
    /// Prefixes of the machine's own networks: no route or resolver of the tailnet is accepted there.
    pub keep_out: Vec<Prefix>,
    /// Which subnet routes of peers are used.
    pub accept_routes: AcceptRoutes,
    /// Whether resolvers, search domains and records of the tailnet are used. Names of nodes are answered anyway.
    pub accept_dns: bool,
    /// The exit node to use, by name, address or `StableID`.
    pub exit_node: Option<String>,
    /// Whether nobody may connect to us, whatever the packet filter says.
    pub shields_up: bool,
    /// The proxy on the way to DERP servers, where one is needed.
    pub proxy: Option<Proxy>,
    /// Whether DERP servers on loopback and private addresses are spoken to without TLS.
    pub plain_derp: bool,
}

/// Which subnet routes of peers are used. Addresses of the peers themselves always are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AcceptRoutes {
    /// None.
    None,
    /// All that are not refused for other reasons.
    #[default]
    All,
    /// Those inside these prefixes.
    Within(Vec<Prefix>),
}

impl AcceptRoutes {
    /// Whether a subnet route is used.
    pub(crate) fn takes(&self, prefix: &Prefix) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Within(wanted) => wanted.iter().any(|wanted| wanted.covers(prefix)),
        }
    }
}

/// An HTTP proxy that takes `CONNECT`.
#[derive(Clone)]
pub struct Proxy {
    /// Where it listens.
    pub at: HostPort,
    /// The value of `Proxy-Authorization`, if it wants one.
    pub authorization: Option<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("at", &self.at).finish_non_exhaustive()
    }
}

/// What a running node can be told.
#[derive(Clone, Debug)]
pub enum Command {
    /// A message of the control server.
    Netmap(Box<Update>),
    /// The control side's state, as far as the owner of the tunnel must hear of it.
    Control(Control),
    /// Our node key was replaced, and the server has accepted the new one.
    NodeKey(SecretKey),
    /// The addresses of this machine.
    LocalAddresses(Vec<IpAddr>),
    /// Use this exit node, or none.
    ExitNode(Option<String>),
    /// The machine's network changed.
    NetworkChanged,
}

/// What the owner of the tunnel must hear of the control side.
#[derive(Clone, Debug, PartialEq)]
pub enum Control {
    /// Someone must sign in or approve.
    Prompt(Prompt),
    /// The control server is connected.
    Connected,
    /// The control server cannot be reached for now. Packets go on passing, if they did.
    Lost(Problem),
    /// The server says that this node is no member for now, so that no peer takes its packets. [`Connected`] is the end
    /// of it.
    ///
    /// [`Connected`]: Control::Connected
    Excluded(Problem),
    /// What people should know although the node works, in place of what was said before.
    Warnings(Vec<Problem>),
    /// Nothing but a new start helps: the node is no part of the tailnet.
    Failed(Problem),
}

/// What the control side must hear of the data side.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Where we can be found: for `MapRequest.Endpoints`. Follows [`Command::Netmap`] with a DERP map at the latest when
    /// STUN has answered or has had its time.
    Endpoints(Vec<Endpoint>),
    /// How we are connected: for `Hostinfo.NetInfo`. A peer reaches us through `preferred_derp` only after the server
    /// knows it.
    NetInfo(NetInfo),
    /// Our home relay is connected (again), or was lost.
    Home {
        /// The region.
        region: RegionId,
        /// Whether it is connected.
        connected: bool,
    },
    /// A relay says that something is wrong, such as that another process uses our key; an empty text is the end of it.
    DerpHealth {
        /// The region.
        region: RegionId,
        /// What it says.
        text: String,
    },
}

/// A place where we may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: SocketAddr,
    /// How it is known.
    pub kind: EndpointKind,
}

/// How an endpoint is known (`MapRequest.EndpointTypes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointKind {
    /// An address of this machine.
    Local,
    /// What a STUN server saw.
    Stun,
    /// What a STUN server saw, with the local port, behind a NAT that shows every destination another port.
    Stun4LocalPort,
}

impl EndpointKind {
    /// The number in `MapRequest.EndpointTypes`.
    pub fn number(self) -> u8 {
        match self {
            Self::Local => 1,
            Self::Stun => 2,
            Self::Stun4LocalPort => 4,
        }
    }
}

/// How we are connected (`tailcfg.NetInfo`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetInfo {
    /// Our home region.
    pub preferred_derp: RegionId,
    /// Whether UDP passes; `None` if that is not known.
    pub udp: Option<bool>,
    /// Whether IPv6 passes.
    pub ipv6: Option<bool>,
    /// Whether destinations see different addresses of us: a NAT that is hard to pass.
    pub mapping_varies: Option<bool>,
    /// The best round trip of each region and family (4 or 6).
    pub latencies: Vec<(RegionId, u8, Duration)>,
}
