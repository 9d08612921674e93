//! The way through a proxy: HTTP CONNECT and SOCKS 5, before the first packet; and around each datagram that one relays.

mod digest;
mod http;
mod socks;

use std::net::SocketAddr;

use adit_tunnel::HostPort;

pub(crate) use self::http::HttpConnect;
pub(crate) use self::socks::{SocksConnect, datagram_header, open_datagram};
use crate::error::Cause;
use crate::{Credentials, Remote, Via};

/// A conversation with a proxy.
#[derive(Debug)]
pub(crate) enum Proxy {
    Http(HttpConnect),
    Socks(SocksConnect),
}

/// How far a conversation has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// These bytes are to be sent, and more must come.
    Send(Vec<u8>),
    /// More must come.
    Wait,
    /// Everything behind this many of the bytes that came last is the server's.
    Done(usize),
    /// Datagrams are relayed from here; an address that is none means the proxy's own.
    Relay(SocketAddr),
    /// The request must be repeated on a new connection: it carries credentials then.
    Reconnect,
}

/// Why a proxy does not let us through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its user or password is wrong or missing, or it wants them in a way that we have not: asking again is of no use,
    /// and may lock an account.
    Login(String),
    /// Anything else, in words.
    Other(String),
}

impl From<String> for Refusal {
    fn from(words: String) -> Self {
        Self::Other(words)
    }
}

impl From<&str> for Refusal {
    fn from(words: &str) -> Self {
        Self::Other(words.to_owned())
    }
}

impl Proxy {
    /// A conversation that ends at a server. `random` makes it different from others.
    pub(crate) fn new(via: &Via, remote: &Remote, random: u64) -> Self {
        let server = &remote.host;
        match via {
            Via::Http { credentials, digest_only, headers, .. } => Self::Http(HttpConnect::new(
                server,
                credentials.clone(),
                *digest_only,
                headers.clone(),
                random,
            )),
            Via::Socks { credentials, .. } => {
                Self::Socks(SocksConnect::new(server, remote.transport, credentials.clone()))
            }
        }
    }

    /// What is sent first on a new connection.
    pub(crate) fn begin(&mut self) -> Vec<u8> {
        match self {
            Self::Http(http) => http.begin(),
            Self::Socks(socks) => socks.begin(),
        }
    }

    /// Takes what the proxy says.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<Step, Cause> {
        match self {
            Self::Http(http) => http.push(data).map_err(|refusal| match refusal {
                Refusal::Login(words) => Cause::ProxyLogin { http: true, words },
                Refusal::Other(words) => Cause::HttpProxy(words),
            }),
            Self::Socks(socks) => socks.push(data).map_err(|refusal| match refusal {
                Refusal::Login(words) => Cause::ProxyLogin { http: false, words },
                Refusal::Other(words) => Cause::SocksProxy(words),
            }),
        }
    }

    /// What it means that the proxy ends the conversation, or does not begin it.
    pub(crate) fn closed(&self, words: &str) -> Cause {
        let words = words.to_owned();
        match self {
            Self::Http(_) => Cause::HttpProxy(words),
            Self::Socks(_) => Cause::SocksProxy(words),
        }
    }
}

/// The proxy of a way.
pub(crate) fn address(via: &Via) -> &HostPort {
    match via {
        Via::Http { proxy, .. } | Via::Socks { proxy, .. } => proxy,
    }
}

/// Credentials as both kinds of proxies read them.
fn pair(credentials: &Credentials) -> (&str, &str) {
    (&credentials.username, &credentials.password)
}
