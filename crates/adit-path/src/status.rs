//! The state of a network, for `status`, for verification and for whoever waits.

use std::net::SocketAddr;
use std::time::Duration;

use adit_tunnel::{Fault, HostPort, NetConfig, OwnName, PeerStatus, Prompt};
use serde::{Deserialize, Serialize};

/// Where a network is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Endpoint names are being resolved and links opened.
    #[default]
    Starting,
    /// The handshake has begun.
    Connecting,
    /// Packets pass.
    Up,
    /// Packets passed, and do not for now; flows are kept.
    Reconnecting,
    /// The tunnel has given up.
    Failed,
    /// The network was shut down.
    Closed,
}

/// The state of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where the network is in its life.
    pub phase: Phase,
    /// Why it is not up, where that is known.
    pub fault: Option<Fault>,
    /// What people should know although the network works.
    #[serde(default)]
    pub warnings: Vec<Fault>,
    /// What the network waits for that only a person can do.
    pub prompt: Option<Prompt>,
    /// Addresses, routes and DNS, once known.
    pub config: Option<NetConfig>,
    /// How long ago the first of them came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<Duration>,
    /// What the network calls this machine, where it gives names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnName>,
    /// The far ends.
    pub peers: Vec<PeerStatus>,
    /// Names of the outside that were resolved, with what they resolved to.
    pub resolved: Vec<(HostPort, Vec<SocketAddr>)>,
    /// How often the network came up.
    pub ups: u64,
    /// How long it has been in this phase.
    pub since: Duration,
    /// What passed.
    pub counters: Counters,
}

/// What passed through a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Datagrams received from the network below.
    pub net_received: u64,
    /// Datagrams sent to the network below.
    pub net_sent: u64,
    /// Bytes received from the network below.
    pub net_received_bytes: u64,
    /// Bytes sent to the network below.
    pub net_sent_bytes: u64,
    /// Packets from inside the tunnel to the packet end.
    pub host_received: u64,
    /// Packets from the packet end into the tunnel.
    pub host_sent: u64,
    /// Open TCP flows.
    pub tcp_flows: u64,
    /// Open UDP endpoints.
    pub udp_flows: u64,
    /// Dropped packets, by reason.
    pub dropped: Vec<(String, u64)>,
}
