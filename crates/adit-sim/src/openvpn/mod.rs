//! A small OpenVPN server: the far end of scenarios, and of `adit demo --provider openvpn`.
//!
//! It is written on the codecs of `adit-openvpn` from the server's side, and is a [`Tunnel`](adit_tunnel::Tunnel) like
//! the client: it runs in virtual time and behind a socket of the system. What it says to whom and when is a
//! [`Script`], so that it can misbehave in every way that a test wants. UDP only.

mod config;
mod connection;
mod identity;
mod negotiation;
mod server;

pub use config::{Act, Script, ServerConfig, ServerWrap, Step};
pub use identity::{ClientTrust, ServerIdentity};
pub use server::{OpenVpnServer, Seen, ServerCommand, ServerError};
