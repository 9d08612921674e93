//! DERP, the relays: packets addressed by node keys over TLS.

mod conn;
pub mod frame;
mod relays;
#[cfg(test)]
mod tests;
mod tls;

pub use conn::DerpError;
pub(crate) use conn::{Conn, Incoming};
pub(crate) use relays::{Context, Relays, Sent};
