//! The questions that everything above packets asks of a private network.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use adit_tunnel::Way;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    Capture, CaptureFailure, ConnectFailure, Flow, ListenFailure, Listener, PingFailure, ResolveFailure,
    Status, UdpFailure, UdpFlow, WayFailure,
};

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A private network as its users see it.
///
/// Implemented by the live engine of this process, by the client of a running `up`, by the simulator and by a
/// union of several networks; a user cannot tell them apart.
pub trait Network: Send + Sync + 'static {
    /// Whether the destination is private here. Pure and fast: asked for every system call that `exec` traps.
    fn owns(&self, destination: &Destination) -> bool;

    /// Resolves a name inside the network.
    fn resolve(&self, query: Query) -> BoxFuture<'_, Result<Answer, ResolveFailure>>;

    /// Opens a TCP connection; returns when the target has accepted it or the reason is known.
    fn connect(&self, to: SocketAddr, options: Connect) -> BoxFuture<'_, Result<Flow, ConnectFailure>>;

    /// Opens a UDP endpoint inside the network.
    fn udp(&self, options: Udp) -> BoxFuture<'_, Result<UdpFlow, UdpFailure>>;

    /// Listens for TCP connections from inside the network; port 0 chooses one.
    fn listen(&self, port: u16, options: Listen) -> BoxFuture<'_, Result<Listener, ListenFailure>>;

    /// Asks whether an address answers, without a connection.
    fn ping(&self, to: IpAddr, kind: PingKind) -> BoxFuture<'_, Result<Pong, PingFailure>>;

    /// Asks the far end behind an address on every way that leads there. Networks whose protocol knows one way only answer
    /// that there is no such question.
    fn find_way(&self, _to: IpAddr, _timeout: Duration) -> BoxFuture<'_, Result<Way, WayFailure>> {
        Box::pin(std::future::ready(Err(WayFailure::Unsupported)))
    }

    /// Copies the packets that pass between the network and whoever uses it, inside the tunnel. Networks that see no
    /// packets answer that there is no such thing.
    fn capture(&self) -> BoxFuture<'_, Result<Capture, CaptureFailure>> {
        Box::pin(std::future::ready(Err(CaptureFailure::Unsupported)))
    }

    /// The state of the network, and every change of it.
    fn status(&self) -> watch::Receiver<Status>;
}

/// Where something wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Destination {
    /// An address.
    Address(IpAddr),
    /// A DNS name, without trailing dot.
    Name(String),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A DNS record type (IANA "DNS Parameters").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordType(pub u16);

impl RecordType {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// A name for an address.
    pub const PTR: Self = Self(12);
    /// An IPv6 address.
    pub const AAAA: Self = Self(28);
}

/// A question for the private resolver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The name. A trailing dot means that search domains are not applied.
    pub name: String,
    /// The record type; `None` asks for addresses of both families.
    pub record: Option<RecordType>,
    /// How long to try at most.
    pub timeout: Duration,
}

impl Query {
    /// Asks for the addresses of a name, for at most five seconds.
    pub fn addresses(name: impl Into<String>) -> Self {
        Self { name: name.into(), record: None, timeout: Duration::from_secs(5) }
    }
}

/// The private resolver's answer. A name that exists without records of the type has no addresses and no names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The fully qualified name that answered, after search domains, without trailing dot.
    pub name: String,
    /// Addresses, in the server's order, IPv4 before IPv6 when both were asked.
    pub addresses: Vec<IpAddr>,
    /// Names, for PTR.
    pub names: Vec<String>,
    /// How long the answer may be kept.
    pub ttl: Duration,
    /// The server that answered; `None` if the answer came from configuration.
    pub server: Option<SocketAddr>,
    /// The rule that chose the server, for evidence: `default`, `split:corp.internal`, `search:corp.internal`.
    pub rule: String,
    /// The whole DNS message of the server (RFC 1035 §4), for a caller that speaks DNS itself. Empty when two
    /// questions (A and AAAA) were asked.
    pub message: Vec<u8>,
}

/// Options of [`Network::connect`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Give up after this time with [`ConnectFailure::TimedOut`].
    pub timeout: Duration,
    /// Send TCP keepalives after this much silence (RFC 9293 §3.8.4).
    pub keepalive: Option<Duration>,
}

impl Default for Connect {
    /// Linux's own patience: about 127 s for a connection that nobody answers.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(127), keepalive: None }
    }
}

/// Options of [`Network::udp`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Udp {
    /// The local port; 0 chooses one.
    pub port: u16,
    /// Accept datagrams from this address only, and learn of its ICMP errors.
    pub peer: Option<SocketAddr>,
}

/// Options of [`Network::listen`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Connections that may wait to be accepted; further ones are refused.
    pub backlog: u16,
}

impl Default for Listen {
    fn default() -> Self {
        Self { backlog: 128 }
    }
}

/// How to ask whether an address answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PingKind {
    /// ICMP echo (RFC 792, RFC 4443) with a payload of this many bytes.
    Icmp {
        /// Payload bytes.
        size: u16,
        /// How long to wait for the reply.
        timeout: Duration,
    },
}

/// The reply to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Who answered.
    pub from: IpAddr,
    /// The round-trip time.
    pub rtt: Duration,
}
