//! Credentials and profiles: wg-quick files, OpenVPN profiles, secrets, the state store; the control side of a Tailscale
//! node.
//!
//! This crate reads files, the environment and descriptors, and never touches a packet. The only network that it speaks
//! to are Tailscale's control server and API. The parsers are pure functions over text, so that they can be fuzzed.

pub mod ovpn;
mod permissions;
mod problem;
mod secret;
mod source;
mod state;
pub mod tailscale;
pub mod wgquick;

pub use permissions::{Exposure, exposure};
pub use problem::{Place, Problem, Problems};
pub use secret::{Secret, SecretKey, placeholder};
pub use source::{Opened, Reader, SecretSource, SourceError};
pub use state::StateDir;
