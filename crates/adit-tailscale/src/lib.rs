//! The data side of a Tailscale node as a [`Tunnel`](adit_tunnel::Tunnel): relays (DERP), path discovery (disco, STUN),
//! WireGuard sessions with the peers of the netmap, the packet filter, names of the tailnet.
//!
//! This crate is *not* a client by itself: registration and the map poll are another's, who hands over what the
//! control server says as [`netmap::Update`] and hears of what the server must know as [`Report`].

mod config;
mod keys;
pub mod netmap;

pub use config::{Command, Config, Control, Endpoint, EndpointKind, NetInfo, Path, Proxy, Report};
pub use keys::{DiscoKey, Keys, NodeKey, ParseKeyError, SecretKey};
