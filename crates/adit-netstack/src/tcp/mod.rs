//! TCP behind a boundary: a [`Flow`] is one connection, driven by segments and deadlines; who owns flows,
//! finds them and pays for their memory is the [`Stack`](crate::Stack).
//!
//! The engine behind [`Flow`] is smoltcp's socket. Nothing outside this module knows that, so that another
//! engine can take its place.

mod flow;
mod mss;
mod port;
#[allow(dead_code, unused_imports, reason = "the engine that drives it is not here yet")]
mod sender;

use std::net::{IpAddr, SocketAddr};

pub(crate) use flow::{Buffers, Flow, FlowConfig, MAX_HEADERS, TimeWait};

/// The addresses and ports of a connection, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    pub(crate) local: IpAddr,
    pub(crate) peer: IpAddr,
    pub(crate) local_port: u16,
    pub(crate) peer_port: u16,
}

impl Tuple {
    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local, self.local_port)
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.peer, self.peer_port)
    }
}

/// What [`Flow::poll_transmit`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    /// Length of the packet.
    pub(crate) len: usize,
    /// Payload bytes per packet on the wire, if it stands for more than one.
    pub(crate) segment: Option<u16>,
}
