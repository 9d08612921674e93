//! Local forwards: a port of this machine that is a service inside the network.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use adit_path::{ConnectFailure, Destination, Network, Udp};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::accept;
use super::datagrams::{self, Datagrams};
use super::dial::Dialer;
use super::listen::{self, FrontError, Protocol};
use super::target::{self, Target};

/// How long reaching the target may take.
const BUDGET: Duration = Duration::from_secs(30);
/// Connections at a time that are being made.
const CONNECTIONS: usize = 256;

/// What a forward does, as it is written: `[ADDR:]L:HOST:PORT[/udp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardSpec {
    /// Where it listens; port 0 chooses one.
    pub listen: SocketAddr,
    /// Where it leads.
    pub to: Target,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl FromStr for ForwardSpec {
    type Err = FrontError;

    /// Reads `[ADDR:]L:HOST:PORT[/udp]`. Without `ADDR` it listens on 127.0.0.1; without `L` on the port of the
    /// target. IPv6 addresses stand in brackets.
    fn from_str(text: &str) -> Result<Self, FrontError> {
        let wrong = |why: String| FrontError::Spec { spec: text.to_owned(), why };
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some((rest, "tcp")) => (rest, Protocol::Tcp),
            Some((_, other)) => return Err(wrong(format!("`/{other}` is neither /tcp nor /udp"))),
            None => (text, Protocol::Tcp),
        };
        let parts = split(rest).map_err(wrong)?;
        let (address, local, host, port) = match parts[..] {
            [host, port] => (None, None, host, port),
            [local, host, port] => (None, Some(local), host, port),
            [address, local, host, port] => (Some(address), Some(local), host, port),
            _ => return Err(wrong("write [ADDR:]L:HOST:PORT[/udp], like 5432:db.internal:5432".to_owned())),
        };
        let port = target::parse_port(port).map_err(|error| FrontError::spec(text, error))?;
        let to = Target::new(host, port).map_err(|error| FrontError::spec(text, error))?;
        let local = match local {
            None => port,
            Some("0") => 0,
            Some(local) => target::parse_port(local).map_err(|error| FrontError::spec(text, error))?,
        };
        let ip = match address.map(|address| address.trim_matches(['[', ']'])) {
            None | Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(address) => {
                address.parse().map_err(|_| wrong(format!("`{address}` is no address of this machine")))?
            }
        };
        Ok(Self { listen: SocketAddr::new(ip, local), to, protocol })
    }
}

/// Splits at the colons outside brackets.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let end = match rest.strip_prefix('[') {
            Some(inside) => inside.find(']').ok_or("a bracket is not closed")? + 2,
            None => rest.find(':').unwrap_or(rest.len()),
        };
        let (part, tail) = rest.split_at(end);
        parts.push(part);
        match tail.strip_prefix(':') {
            Some(tail) => rest = tail,
            None if tail.is_empty() => return Ok(parts),
            None => return Err(format!("`{tail}` follows a bracket")),
        }
    }
}

impl fmt::Display for ForwardSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.listen, self.to)?;
        if self.protocol == Protocol::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

/// A forward's listener.
#[derive(Debug)]
pub struct Forward {
    spec: ForwardSpec,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Forward {
    /// Listens. A chosen port shows in [`Self::spec`].
    pub async fn bind(mut spec: ForwardSpec) -> Result<Self, FrontError> {
        let socket = match spec.protocol {
            Protocol::Tcp => Socket::Tcp(listen::tcp(spec.listen, false).await?),
            Protocol::Udp => Socket::Udp(listen::udp(spec.listen).await?),
        };
        let bound = match &socket {
            Socket::Tcp(listener) => listener.local_addr(),
            Socket::Udp(socket) => socket.local_addr(),
        };
        spec.listen = bound.map_err(|error| FrontError::Io { address: spec.listen, error })?;
        Ok(Self { spec, socket })
    }

    /// What it does.
    pub fn spec(&self) -> &ForwardSpec {
        &self.spec
    }

    /// Serves until the future is dropped.
    pub async fn run(self, network: Arc<dyn Network>) {
        let dialer = Dialer::new(network, BUDGET);
        let to = self.spec.to;
        match self.socket {
            Socket::Tcp(listener) => {
                accept::run(listener, CONNECTIONS, move |client, from| {
                    let (dialer, to) = (dialer.clone(), to.clone());
                    async move {
                        if let Err(error) = connect(client, &dialer, &to).await {
                            tracing::debug!(%from, %to, %error, "a forwarded connection broke");
                        }
                    }
                })
                .await;
            }
            Socket::Udp(socket) => {
                datagrams::relay(Datagrams::Machine(socket), move || open(dialer.clone(), to.clone())).await;
            }
        }
    }
}

/// Connects an accepted client to the target. What the target does to the connection the client sees as a
/// reset: the kernel has accepted it already.
async fn connect(client: TcpStream, dialer: &Dialer, to: &Target) -> io::Result<()> {
    client.set_nodelay(true)?;
    match dialer.dial(to).await {
        Ok(dialled) => dialled.relay(client).await,
        Err(failure) => {
            tracing::warn!(%to, %failure, "a forwarded connection was not made");
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            Ok(())
        }
    }
}

/// Opens the endpoint of one UDP client.
async fn open(dialer: Dialer, to: Target) -> io::Result<(Datagrams, SocketAddr)> {
    let addresses = dialer.resolve(&to.host).await.map_err(io::Error::other)?;
    let owned = |address: &&IpAddr| dialer.network().owns(&Destination::Address(**address));
    let Some(address) = addresses.iter().find(owned) else {
        let first = addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        return Err(io::Error::other(ConnectFailure::NoRoute(first)));
    };
    let peer = SocketAddr::new(*address, to.port);
    let flow = dialer.network().udp(Udp { port: 0, peer: Some(peer) }).await.map_err(io::Error::other)?;
    Ok((Datagrams::Inside(flow.into_socket()?), peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_in_every_form() {
        for (text, shown) in [
            ("5432:db.internal:5432", "127.0.0.1:5432:db.internal:5432"),
            ("db.internal:5432", "127.0.0.1:5432:db.internal:5432"),
            ("0:10.8.0.1:53/udp", "127.0.0.1:0:10.8.0.1:53/udp"),
            ("127.0.0.2:80:api.internal:8080/tcp", "127.0.0.2:80:api.internal:8080"),
            ("localhost:80:api:8080", "127.0.0.1:80:api:8080"),
            ("[::1]:80:[fd00::1]:8080", "[::1]:80:[fd00::1]:8080"),
        ] {
            let spec: ForwardSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), shown, "{text}");
            assert_eq!(spec.to_string().parse::<ForwardSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, why) in [
            ("", "write [ADDR:]L:HOST:PORT"),
            ("5432", "write [ADDR:]L:HOST:PORT"),
            ("1:2:3:4:5", "write [ADDR:]L:HOST:PORT"),
            ("x:db:5432", "`x` is not a port"),
            ("5432:db:0", "`0` is not a port"),
            ("5432:db:5432/icmp", "`/icmp` is neither"),
            ("5432:d b:5432", "`d b` is neither an IP address nor a host name"),
            ("5432::5432", "`` is neither"),
            ("nowhere:5432:db:5432", "`nowhere` is no address of this machine"),
            ("[::1:80:db:5432", "a bracket is not closed"),
            ("[::1]x:80:db:5432", "`x:80:db:5432` follows a bracket"),
        ] {
            let error = text.parse::<ForwardSpec>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(text), "{text}: {error}");
        }
    }
}
