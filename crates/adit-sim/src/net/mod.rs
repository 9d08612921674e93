//! An internet in virtual time: nodes that run a [`Tunnel`](adit_tunnel::Tunnel), the links and NATs between
//! them, and a clock that jumps from one event to the next.
//!
//! Everything follows from the seed: events at one instant happen in the order in which they were made, and nodes
//! are served in the order in which they were added. (What boringtun draws for its ephemeral keys is random, so
//! bytes differ from run to run; their number and size do not.)

mod link;
mod nat;
mod packet;
mod relay;
mod seed;
mod server;
mod stack;
mod world;

pub use link::{Fate, Link, Pipe};
pub use nat::{Nat, NatKind};
pub use packet::udp_packet;
pub use relay::{Bottleneck, Relay};
pub use seed::{Rng, each_seed};
pub use server::{Served, Server};
pub use world::{Inbox, NodeId, PacketEnd, Sent, World};
