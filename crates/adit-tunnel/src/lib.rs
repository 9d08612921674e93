//! The vocabulary of tunnels: what a VPN protocol must offer ([`Tunnel`]), where it writes what it
//! produces ([`Outbox`]), and the words both sides share ([`Prefix`], [`NetConfig`], [`Dropped`]).
//!
//! This crate is *not* a runtime. It opens no socket, reads no clock, holds no lock and draws no
//! randomness: whatever is not an argument does not exist. That is what makes a protocol built on it
//! fuzzable, and what lets ten virtual minutes of packet loss run in a tenth of a second.
//!
//! ```text
//!            handle_net                    handle_packet
//!  links ───────────────▶ ┌──────────┐ ◀─────────────── packet end
//!                         │  Tunnel  │                  (netstack or TUN)
//!  links ◀── Outbox::net ─└──────────┘─ Outbox::host ──▶
//! ```

mod checksum;
mod coalesce;
mod config;
mod contract;
mod cut;
mod host;
mod mss;
mod names;
mod outbox;
mod packet_queue;
mod prefix;
#[cfg(test)]
mod testing;
mod time;
pub mod view;

pub use checksum::Checksum;
pub use config::{DnsConfig, DnsRoute, NetConfig};
pub use contract::{
    Deadline, Dropped, Event, Fault, HostPort, LinkId, LinkSpec, NetInput, NoWay, OwnName, PeerStatus,
    Prompt, Tunnel, TunnelError, Unreachable, Way,
};
pub use cut::{Segment, Segments};
pub use host::HostPacket;
pub use mss::clamp_mss;
pub use names::{NameScope, is_under, reverse_address};
pub use outbox::{MAX_DATAGRAM, MAX_PACKET, NetQueue, NetSlot, Outbox, Transmit};
pub use packet_queue::{PacketQueue, PacketSlot};
pub use prefix::{ParsePrefixError, Prefix, PrefixTable};
pub use time::rfc3339;
