//! The data side of a Tailscale node as a [`Tunnel`](adit_tunnel::Tunnel): relays (DERP), path discovery (disco, STUN),
//! WireGuard sessions with the peers of the netmap, the packet filter, names of the tailnet.
//!
//! This crate is *not* a client by itself: registration and the map poll are another's, who hands over what the
//! control server says as [`netmap::Update`] and hears of what the server must know as [`Report`].
//!
//! Hidden inputs are those of [`adit_wireguard::Peer`], and inside rustls the randomness of TLS and the time by which
//! certificates are judged.

mod config;
pub mod derp;
pub mod disco;
mod error;
mod filter;
mod keys;
mod magicdns;
mod masquerade;
mod names;
mod netcheck;
pub mod netmap;
mod node;
mod paths;
mod reporting;
mod routes;
mod seal;
pub mod stun;
pub mod tsmp;

pub use config::{AcceptRoutes, Command, Config, Control, Endpoint, EndpointKind, NetInfo, Proxy, Report};
pub use error::Problem;
pub use keys::{DiscoKey, Keys, NodeKey, ParseKeyError, SecretKey};
pub use node::Tailscale;
pub use reporting::Reporting;
pub use seal::Shared;
