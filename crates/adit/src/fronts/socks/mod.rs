//! SOCKS5 (RFC 1928) with optional user name and password (RFC 1929).

mod message;
mod serve;
mod udp;

pub use message::{
    Address, Command, Parsed, Reply, SocksError, parse_credentials, parse_datagram, parse_greeting,
    parse_request,
};
pub(super) use serve::serve;
