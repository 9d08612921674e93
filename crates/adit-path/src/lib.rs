//! The packet path and the boundary above it.
//!
//! [`Network`] is the one trait that everything above packets asks: exec, proxies, forwards,
//! verification, the library. This crate knows no protocol and no credential.

mod capture;
mod driver;
mod engine;
mod failure;
mod flow;
mod network;
mod ownership;
mod status;
mod system;
mod tun;
mod union;

pub use adit_netstack::Budget;
pub use capture::{Capture, CaptureFailure, Captured, FILE_HEADER, Packets, SNAP};
pub use engine::{CommandError, End, Engine, EngineOptions, StackOptions};
pub use failure::{ConnectFailure, ListenFailure, PingFailure, ResolveFailure, UdpFailure, WayFailure};
pub use flow::{
    Flow, FlowHandle, FlowStream, Incoming, IncomingHandle, Listener, UdpFlow, UdpMessage, UdpSocket,
};
pub use network::{
    Answer, BoxFuture, Connect, Destination, Listen, Network, PingKind, Pong, Query, RecordType, Udp,
};
pub use ownership::Ownership;
pub use status::{Counters, Phase, Status};
pub use tun::{TunError, TunOptions, repair_tun};
pub use union::Union;
