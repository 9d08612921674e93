//! TCP behind a boundary: a [`Flow`] is one connection, driven by segments and deadlines; who owns flows,
//! finds them and pays for their memory is the [`Stack`](crate::Stack).
//!
//! The two halves of a connection do not know each other: [`sender`] decides which bytes leave when, [`receiver`]
//! puts together what arrives and decides when to say so. Both speak of offsets in a stream, 64 bits wide; sequence
//! numbers exist only in the flow.

mod clock;
mod flow;
mod header;
pub(crate) mod options;
mod receiver;
mod ring;
mod sender;
mod time_wait;

use std::net::{IpAddr, SocketAddr};

pub(crate) use flow::{Buffers, Flow, FlowConfig, MAX_HEADERS};
pub(crate) use time_wait::TimeWait;

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
