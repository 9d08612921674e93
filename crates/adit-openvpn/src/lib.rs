//! OpenVPN as a [`Tunnel`](adit_tunnel::Tunnel): a pure state machine over rustls and ring.
//!
//! Compatible with OpenVPN 2.4 and later; no code of it is used. The crate opens no socket, resolves no name, reads
//! no file and no clock: an `.ovpn` file becomes a [`Config`] elsewhere. One input is hidden inside rustls and ring: the
//! randomness of TLS and of the keys.

mod auth;
mod client;
mod config;
pub mod data;
mod error;
pub mod km;
pub mod mac;
pub mod message;
mod proxy;
pub mod push;
mod random;
pub mod reliable;
mod session;
pub mod tls;
mod trust;
pub mod wire;
pub mod wrap;

pub use client::{Command, ConfigError, OpenVpn};
pub use config::{
    Algorithm, Challenge, Cipher, Clock, Compression, Config, Credentials, Direction, Identity, KeyUsage,
    MssFix, NameCheck, PullFilter, PullVerdict, Remote, Retry, RouteName, RouteOption, StaticKey, TlsConfig,
    TlsVersion, Transport, Trust, Via, Wrap,
};
pub use error::{Cause, OpenVpnError};
pub use session::Stage;
pub use trust::{CertificateInfo, CertificateRole, CrlProblem, ServerVerifier, TrustError};
