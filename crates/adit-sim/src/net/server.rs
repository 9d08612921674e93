//! Servers of a [`World`](super::World) that are no tunnels: they take streams and datagrams.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What happens on a stream of a server.
#[derive(Clone, Copy, Debug)]
pub enum Served<'a> {
    /// A connection came in.
    Opened {
        /// Names it.
        stream: u64,
        /// Where it came in.
        at: SocketAddr,
    },
    /// Bytes came.
    Data {
        /// The connection.
        stream: u64,
        /// The bytes; their number carries no meaning.
        data: &'a [u8],
    },
    /// The far end is gone.
    Closed {
        /// The connection.
        stream: u64,
    },
}

/// A server.
pub trait Server {
    /// Takes what happened; `reply` sends bytes on any of its connections after a while, and nothing ends one.
    fn handle(&mut self, now: Instant, served: Served<'_>, reply: &mut dyn FnMut(u64, Duration, Vec<u8>));

    /// Answers a datagram, or does not.
    fn handle_datagram(&mut self, from: SocketAddr, data: &[u8]) -> Option<Vec<u8>>;
}
