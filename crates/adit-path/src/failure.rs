//! Why a question to a [`Network`](crate::Network) failed. Typed where it happens; failure classes, `errno`
//! values and proxy reply codes are made from these, never from text.

use std::net::IpAddr;
use std::time::Duration;

use adit_tunnel::{Fault, NoWay};
use serde::{Deserialize, Serialize};

/// Why a TCP connection was not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ConnectFailure {
    /// The target answered with RST: nothing listens there.
    #[error("the target refused the connection")]
    Refused,
    /// The connection was reset while it was being made.
    #[error("the target reset the connection")]
    Reset,
    /// Nothing came back in time.
    #[error("the target did not answer within {0:?}")]
    TimedOut(Duration),
    /// A router or the target said that it cannot be reached.
    #[error("{from} says that the target cannot be reached (ICMP type {kind} code {code})")]
    Unreachable {
        /// Who said so.
        from: IpAddr,
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
    },
    /// No route of the network covers the address.
    #[error("no route of the private network covers {0}")]
    NoRoute(IpAddr),
    /// A policy forbids the destination.
    #[error("{0}")]
    Denied(String),
    /// The tunnel is down.
    #[error("the tunnel is down: {}", .0.summary)]
    Down(Fault),
    /// No memory or no free local port within the budgets.
    #[error("out of {0}")]
    Exhausted(String),
    /// The network was shut down, or the daemon is gone.
    #[error("the network was closed")]
    Closed,
}

/// Why a name was not resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ResolveFailure {
    /// The server says that the name does not exist (NXDOMAIN, RFC 2308).
    #[error("{server} says that {name} does not exist")]
    NoSuchName {
        /// The name asked for.
        name: String,
        /// Who said so.
        server: IpAddr,
    },
    /// No server answered.
    #[error("no answer for {name} from {} within {after:?}", list(servers))]
    Silent {
        /// The name asked for.
        name: String,
        /// Who was asked.
        servers: Vec<IpAddr>,
        /// For how long.
        after: Duration,
    },
    /// The server answered with an error code (SERVFAIL, REFUSED, …).
    #[error("{server} answered {name} with {code}")]
    Failed {
        /// The name asked for.
        name: String,
        /// Who said so.
        server: IpAddr,
        /// The response code's mnemonic.
        code: String,
    },
    /// The network has no DNS server for the name.
    #[error("the private network has no DNS server for {name}")]
    NoServer {
        /// The name asked for.
        name: String,
    },
    /// The server's address is outside the tunnel's routes.
    #[error("the DNS server {server} is outside the tunnel's routes")]
    ServerUnrouted {
        /// The server.
        server: IpAddr,
    },
    /// The answer names an address outside the tunnel's routes.
    #[error("{name} resolves to {address}, which is outside the tunnel's routes")]
    AnswerUnrouted {
        /// The name asked for.
        name: String,
        /// The address.
        address: IpAddr,
    },
    /// A budget is used up.
    #[error("out of {0}")]
    Exhausted(String),
    /// The text is no DNS name.
    #[error("`{name}` is not a DNS name")]
    BadName {
        /// The text.
        name: String,
    },
    /// The tunnel is down.
    #[error("the tunnel is down: {}", .0.summary)]
    Down(Fault),
    /// The network was shut down, or the daemon is gone.
    #[error("the network was closed")]
    Closed,
}

/// Why a UDP endpoint was not opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum UdpFailure {
    /// The local port is taken.
    #[error("port {0} is in use")]
    PortInUse(u16),
    /// The network has no address of the family.
    #[error("no route of the private network covers {0}")]
    NoRoute(IpAddr),
    /// A policy forbids the destination.
    #[error("{0}")]
    Denied(String),
    /// A budget is used up.
    #[error("out of {0}")]
    Exhausted(String),
    /// The system refused a socket.
    #[error("a socket could not be made: {0}")]
    System(String),
    /// The network was shut down, or the daemon is gone.
    #[error("the network was closed")]
    Closed,
}

/// Why a port cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ListenFailure {
    /// The port is taken.
    #[error("port {0} is in use")]
    PortInUse(u16),
    /// A budget is used up.
    #[error("out of {0}")]
    Exhausted(String),
    /// The network was shut down, or the daemon is gone.
    #[error("the network was closed")]
    Closed,
}

/// Why a ping got no reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum PingFailure {
    /// Nothing came back in time.
    #[error("no reply within {0:?}")]
    TimedOut(Duration),
    /// A router or the target said that it cannot be reached.
    #[error("{from} says that the target cannot be reached (ICMP type {kind} code {code})")]
    Unreachable {
        /// Who said so.
        from: IpAddr,
        /// The ICMP type.
        kind: u8,
        /// The ICMP code.
        code: u8,
    },
    /// No route of the network covers the address.
    #[error("no route of the private network covers {0}")]
    NoRoute(IpAddr),
    /// The tunnel is down.
    #[error("the tunnel is down: {}", .0.summary)]
    Down(Fault),
    /// A budget is used up.
    #[error("out of {0}")]
    Exhausted(String),
    /// The network was shut down, or the daemon is gone.
    #[error("the network was closed")]
    Closed,
}

/// Why nobody was asked for the way to an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum WayFailure {
    /// The protocol knows one way only.
    #[error("the network's protocol knows one way to each host, and cannot ask for it")]
    Unsupported,
    /// No route of the network covers the address.
    #[error("no route of the private network covers {0}")]
    NoRoute(IpAddr),
    /// A budget is used up.
    #[error("out of {0}")]
    Exhausted(String),
    /// The network was shut down, or the daemon is gone.
    #[error("the network was closed")]
    Closed,
}

impl WayFailure {
    /// What a tunnel says of an address.
    pub(crate) fn of(why: NoWay, to: IpAddr) -> Self {
        match why {
            NoWay::Unsupported => Self::Unsupported,
            NoWay::NoRoute => Self::NoRoute(to),
            NoWay::Busy => Self::busy(),
        }
    }

    /// Too many such questions wait.
    pub(crate) fn busy() -> Self {
        Self::Exhausted("questions for ways".to_owned())
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}
