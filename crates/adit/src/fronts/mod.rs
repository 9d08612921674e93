//! The ways into a private network for programs that are not intercepted: proxies, forwards, standard input
//! and output; and the way out of it, to servers of this machine.
//!
//! All of them ask a [`Network`](adit_path::Network) and hand it their sockets, so a byte crosses one relay.
//! They listen on loopback unless told otherwise, and never ask the public about a private name.

mod accept;
mod auth;
mod datagrams;
mod dial;
mod expose;
mod expose_all;
mod forward;
mod http;
mod listen;
mod nc;
mod proxy;
mod socks;
mod target;

#[cfg(test)]
mod tests;

pub use auth::Credentials;
pub use dial::{DialFailure, Dialer, Dialled, Stream};
pub use expose::{Expose, ExposeSpec};
pub use expose_all::{ExposeRule, expose_all};
pub use forward::{Forward, ForwardSpec};
pub use http::{
    BodyError, ChunkScanner, Framing, Head, HeadError, MAX_HEAD, ResponseHead, Route,
    parse_request as parse_http_request, parse_response as parse_http_response,
};
pub use listen::{FrontError, OwnPorts, Owner, Protocol, owner};
pub use nc::{NcError, netcat};
pub use proxy::{DEFAULT_PORT, Proxy, environment};
pub use socks::{
    Address, Command as SocksCommand, Parsed, Reply as SocksReply, SocksError,
    parse_credentials as parse_socks_credentials, parse_datagram as parse_socks_datagram,
    parse_greeting as parse_socks_greeting, parse_request as parse_socks_request,
};
pub use target::{Target, TargetError};
