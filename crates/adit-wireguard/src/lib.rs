//! WireGuard as a [`Tunnel`](adit_tunnel::Tunnel): a pure state machine over boringtun.
//!
//! [`Peer`] is one session and the only type that names boringtun; [`WireGuard`] is an interface: peers, cryptokey
//! routing, roaming, endpoints by name, and the inference of what is wrong when a peer is silent.
//!
//! This crate is *not* a device and *not* a parser: it opens no socket, resolves no name, reads no file. A
//! wg-quick file becomes a [`Config`] elsewhere. Two inputs are hidden, both inside boringtun: the randomness of
//! ephemeral keys, and the clock (see [`Peer`]).

mod config;
mod endpoint;
mod error;
mod keys;
mod member;
mod peer;
mod staged;
mod symptoms;
mod wireguard;

pub use config::{ClockCheck, Config, DEFAULT_MTU, PeerConfig};
pub use error::{Cause, Observations, WireGuardError};
pub use keys::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use peer::{
    HANDSHAKE_LEN, Limiter, OVERHEAD, OpenError, Opened, Peer, PeerKeys, REJECT_AFTER_TIME, REKEY_TIMEOUT,
    Timeout, Verdict, message_type,
};
pub use staged::Staged;
pub use wireguard::{Command, WireGuard};
