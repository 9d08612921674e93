//! The laboratory: virtual time, links, NATs, scripted networks, in-process servers.

pub mod measure;
pub mod net;
pub mod openvpn;
mod scripted;
pub mod services;
pub mod tailnet;

pub use scripted::{Host, ScriptedNetwork, Serve, Service};
