//! Exposing: a server of this machine, reachable for peers at our address inside the network.
//!
//! The server is dialled before the peer's connection is answered, so the peer sees what the server does: a
//! connection, a refusal, or silence. Only ports that were named are exposed, and never adit's own.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use adit_path::{Incoming, Listen, Listener, Network, Udp, UdpSocket as InsideSocket};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::datagrams::{self, Datagrams};
use super::listen::{FrontError, OwnPorts, Protocol, primary_address};
use super::target;

/// How long a server of this machine may take to accept.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections at a time that are being made.
const CONNECTIONS: usize = 256;

/// A port to expose, as it is written: `PORT[/udp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExposeSpec {
    /// The port, inside and here.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl FromStr for ExposeSpec {
    type Err = FrontError;

    fn from_str(text: &str) -> Result<Self, FrontError> {
        let (port, protocol) = match text.split_once('/') {
            Some((port, "udp")) => (port, Protocol::Udp),
            Some((port, "tcp")) => (port, Protocol::Tcp),
            Some((_, other)) => {
                let why = format!("`/{other}` is neither /tcp nor /udp");
                return Err(FrontError::Spec { spec: text.to_owned(), why });
            }
            None => (text, Protocol::Tcp),
        };
        let port = target::parse_port(port).map_err(|error| FrontError::spec(text, error))?;
        Ok(Self { port, protocol })
    }
}

impl fmt::Display for ExposeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// An exposed port.
#[derive(Debug)]
pub struct Expose {
    spec: ExposeSpec,
    own: OwnPorts,
    front: Front,
}

#[derive(Debug)]
enum Front {
    Tcp(Listener),
    Udp(InsideSocket),
}

impl Expose {
    /// Listens inside the network.
    pub async fn bind(network: &dyn Network, spec: ExposeSpec, own: OwnPorts) -> Result<Self, FrontError> {
        let ExposeSpec { port, protocol } = spec;
        if own.contains(protocol, port) {
            return Err(FrontError::OwnPort(port));
        }
        let front = match protocol {
            Protocol::Tcp => {
                let listening = network.listen(port, Listen::default()).await;
                Front::Tcp(listening.map_err(|failure| FrontError::listen(port, &failure))?)
            }
            Protocol::Udp => {
                let flow = network.udp(Udp { port, peer: None }).await;
                let flow = flow.map_err(|failure| FrontError::udp(port, &failure))?;
                let failed = |error: io::Error| FrontError::Expose { port, failure: error.to_string() };
                Front::Udp(flow.into_socket().map_err(failed)?)
            }
        };
        Ok(Self { spec, own, front })
    }

    /// What is exposed.
    pub fn spec(&self) -> ExposeSpec {
        self.spec
    }

    /// Serves until the network or the future ends.
    pub async fn run(self) {
        let (port, own) = (self.spec.port, self.own);
        match self.front {
            Front::Tcp(listener) => serve(listener, port, own).await,
            Front::Udp(socket) => {
                datagrams::relay(Datagrams::Inside(socket), || async move {
                    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                    Ok((Datagrams::Machine(socket), to))
                })
                .await;
            }
        }
    }
}

async fn serve(mut listener: Listener, port: u16, own: OwnPorts) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    while let Some(incoming) = listener.next().await {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        // A forward or proxy may have come to this port since it was exposed.
        if own.contains(Protocol::Tcp, port) {
            incoming.refuse();
            continue;
        }
        tasks.spawn(async move {
            answer(incoming, port).await;
            drop(permit);
        });
    }
}

/// Dials the server, then answers the peer as the server did.
async fn answer(incoming: Incoming, port: u16) {
    let peer = incoming.peer();
    let server = match dial(port).await {
        Reached::Server(server) => server,
        Reached::Nobody => return incoming.refuse(),
        Reached::Silence => return incoming.ignore(),
    };
    let attached = async {
        let flow = incoming.accept().await.map_err(io::Error::other)?;
        server.set_nodelay(true)?;
        flow.attach(server.into_std()?.into())
    };
    if let Err(error) = attached.await {
        tracing::debug!(%peer, port, %error, "a peer's connection to an exposed port broke");
    }
}

enum Reached {
    Server(TcpStream),
    Nobody,
    Silence,
}

/// Dials a server of this machine, on loopback first and then where it would face the network.
async fn dial(port: u16) -> Reached {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut outcome = Reached::Nobody;
    for address in loopback.into_iter().chain(primary_address()) {
        match timeout(PATIENCE, TcpStream::connect((address, port))).await {
            Ok(Ok(server)) => return Reached::Server(server),
            Ok(Err(_)) => {}
            Err(_) => outcome = Reached::Silence,
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_with_their_protocol() {
        assert_eq!("3000".parse::<ExposeSpec>().unwrap().to_string(), "3000/tcp");
        assert_eq!("53/udp".parse::<ExposeSpec>().unwrap().to_string(), "53/udp");
        for text in ["", "0", "x", "65536", "80/sctp", "all"] {
            assert!(matches!(text.parse::<ExposeSpec>(), Err(FrontError::Spec { .. })), "{text}");
        }
    }
}
