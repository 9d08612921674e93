//! A TCP/IP stack as the packet end of a tunnel: TCP, UDP and ICMP flows in, IP packets out.
//!
//! The stack opens no socket, reads no clock and draws no randomness: packets, the time and a seed are
//! arguments. One [`Stack`] serves the addresses that a tunnel was given.
//!
//! After any call that takes `now`, the owner calls [`Stack::poll_transmit`], then [`Stack::poll_event`] until
//! `None`, then arms a timer for [`Stack::poll_timeout`].
//!
//! What happens to one packet does not depend on how many flows there are: a keyed hash leads from addresses
//! and ports to the flow, only flows that have work are run, and a heap orders their deadlines.
//! Outgoing TCP data leaves as super-segments ([`HostPacket::segment`](adit_tunnel::HostPacket::segment)) of up
//! to 64 KiB, which are cut where they are sealed; incoming ones are taken whole.
//!
//! [`dns`] is the private resolver, a machine of its own that asks through the stack's flows.

mod api;
mod datagrams;
pub mod dns;
mod emit;
mod fragments;
mod hash;
mod memory;
mod stack;
mod tcp;
mod timers;

pub use api::{
    Budget, CloseReason, CongestionControl, FlowEvent, FlowId, ListenerId, OpenError, PendingId, PingError,
    PingId, Pong, StackConfig, StackEvent, TcpOptions, UdpId,
};
pub use stack::{Stack, StackStats};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
