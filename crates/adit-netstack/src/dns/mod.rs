//! The private resolver: a DNS client (RFC 1035) as a pure state machine.
//!
//! It owns no socket: it says what to send with [`Resolver::poll_action`], and whoever drives it brings back
//! what arrived. It asks only servers inside the tunnel's routes, follows split rules and search domains, and
//! keeps answers for as long as they say.

mod cache;
mod message;
mod resolver;
mod rules;

pub use resolver::Resolver;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The port of every DNS server (RFC 1035 §4.2).
pub const DNS_PORT: u16 = 53;

/// Names a question that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub u64);

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name. A trailing dot means that search domains are not applied.
    pub name: String,
    /// The record type; `None` asks for addresses of both families.
    pub record: Option<u16>,
    /// How long to try at most.
    pub timeout: Duration,
}

/// What the resolver wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send `message` as one datagram to `to`, from a port not used before (RFC 5452 §9.2).
    Udp {
        /// Names the exchange in [`Resolver::handle_message`].
        exchange: u64,
        /// The server.
        to: SocketAddr,
        /// The query.
        message: Vec<u8>,
    },
    /// Send `message` over a new TCP connection to `to`, behind its length (RFC 7766 §8).
    Tcp {
        /// Names the exchange in [`Resolver::handle_message`].
        exchange: u64,
        /// The server.
        to: SocketAddr,
        /// The query, without the length.
        message: Vec<u8>,
    },
    /// The exchange is over; its socket can go.
    Close {
        /// The exchange.
        exchange: u64,
    },
}

/// An answer. A name that exists without records of the type has no addresses and no names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The fully qualified name that answered, after search domains, without trailing dot.
    pub name: String,
    /// Addresses inside the tunnel's routes, IPv4 before IPv6 when both were asked.
    pub addresses: Vec<IpAddr>,
    /// Names, for PTR.
    pub names: Vec<String>,
    /// How long the answer may be kept.
    pub ttl: Duration,
    /// The server that answered.
    pub server: Option<SocketAddr>,
    /// The rule that chose the server: `default`, `split:SUFFIX`, `search:DOMAIN`.
    pub rule: String,
    /// The server's whole message; empty when two questions were asked or addresses were left out.
    pub message: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsFailure {
    /// A server says that the name does not exist (NXDOMAIN).
    NoSuchName {
        /// The name asked for.
        name: String,
        /// Who said so.
        server: IpAddr,
    },
    /// No server answered in time.
    Silent {
        /// The name asked for.
        name: String,
        /// Who was asked.
        servers: Vec<IpAddr>,
        /// For how long.
        after: Duration,
    },
    /// A server answered with an error code.
    Failed {
        /// The name asked for.
        name: String,
        /// Who said so.
        server: IpAddr,
        /// The response code's mnemonic.
        code: String,
    },
    /// There is no server for the name.
    NoServer {
        /// The name asked for.
        name: String,
    },
    /// The server's address is outside the tunnel's routes.
    ServerUnrouted {
        /// The server.
        server: IpAddr,
    },
    /// The answer names only addresses outside the tunnel's routes.
    AnswerUnrouted {
        /// The name asked for.
        name: String,
        /// The first such address.
        address: IpAddr,
    },
    /// The text is no DNS name.
    BadName {
        /// The text.
        name: String,
    },
    /// Too many questions wait already.
    OverBudget,
}
