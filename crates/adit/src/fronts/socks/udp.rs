//! UDP associations (RFC 1928 §7).

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_path::{Destination, Udp, UdpSocket as InsideSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::message::{self, Address, Reply};
use crate::fronts::dial::{DialFailure, Dialer};

/// The largest datagram with its header.
const MAX_DATAGRAM: usize = 65_535;
/// Names that an association remembers.
const MAX_NAMES: usize = 64;
/// How long it remembers them.
const NAME_LIFETIME: Duration = Duration::from_secs(30);
/// Names that are being resolved at once; datagrams for further ones are dropped.
const MAX_RESOLVING: usize = 8;

/// Serves an association for as long as the client keeps its TCP connection.
pub(super) async fn associate(mut client: TcpStream, dialer: &Dialer, _from: Address) -> io::Result<()> {
    let (local, peer) = (client.local_addr()?, client.peer_addr()?);
    let relay = match Association::bind(local.ip(), peer.ip(), dialer).await {
        Ok(relay) => relay,
        Err(error) => {
            tracing::debug!(%error, "a UDP association was not made");
            let nowhere = SocketAddr::new(local.ip(), 0);
            return client.write_all(&Reply::GeneralFailure.encode(nowhere)).await;
        }
    };
    client.write_all(&Reply::Succeeded.encode(relay.socket.local_addr()?)).await?;
    let mut byte = [0];
    tokio::select! {
        outcome = relay.run() => outcome,
        // The client says nothing more on this connection; its end is the association's.
        _ = client.read(&mut byte) => Ok(()),
    }
}

struct Association {
    dialer: Dialer,
    /// Towards the client.
    socket: UdpSocket,
    /// The host that may use it.
    host: IpAddr,
    /// The client's own port, once it has sent something.
    client: Option<SocketAddr>,
    inside: Option<InsideSocket>,
    outside: [Option<UdpSocket>; 2],
    names: HashMap<Destination, (Instant, Option<IpAddr>)>,
    resolving: JoinSet<Resolution>,
}

type Resolution = (Destination, Result<Vec<IpAddr>, DialFailure>, Vec<u8>, u16);

enum Came {
    FromClient(usize, SocketAddr),
    FromTarget(usize, SocketAddr),
    Resolved(Resolution),
    Nothing,
}

impl Association {
    async fn bind(local: IpAddr, host: IpAddr, dialer: &Dialer) -> io::Result<Self> {
        Ok(Self {
            dialer: dialer.clone(),
            socket: UdpSocket::bind((local, 0)).await?,
            host,
            client: None,
            inside: None,
            outside: [None, None],
            names: HashMap::new(),
            resolving: JoinSet::new(),
        })
    }

    async fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        let mut out = Vec::new();
        loop {
            match self.next(&mut buffer).await? {
                Came::FromClient(len, from) => {
                    if from.ip() != self.host || self.client.is_some_and(|client| client != from) {
                        continue;
                    }
                    self.client = Some(from);
                    match message::parse_datagram(&buffer[..len]) {
                        Ok((address, payload)) => self.forward(address, payload).await,
                        Err(error) => tracing::debug!(%error, "a datagram of a SOCKS client was dropped"),
                    }
                }
                Came::FromTarget(len, from) => {
                    let Some(client) = self.client else { continue };
                    out.clear();
                    message::write_datagram_header(&mut out, from);
                    out.extend_from_slice(&buffer[..len]);
                    // Datagrams may be lost; the association goes on.
                    let _lost = self.socket.send_to(&out, client).await;
                }
                Came::Resolved((name, found, payload, port)) => {
                    if let Err(failure) = &found {
                        tracing::debug!(%name, %failure, "a datagram of a SOCKS client was dropped");
                    }
                    let address = found.ok().and_then(|addresses| addresses.first().copied());
                    if self.names.len() >= MAX_NAMES {
                        self.names.clear();
                    }
                    self.names.insert(name, (Instant::now() + NAME_LIFETIME, address));
                    if let Some(address) = address {
                        self.send(SocketAddr::new(address, port), &payload).await;
                    }
                }
                Came::Nothing => {}
            }
        }
    }

    async fn next(&mut self, buffer: &mut [u8]) -> io::Result<Came> {
        let ready = tokio::select! {
            ready = self.socket.readable() => ready.map(|()| &self.socket)?,
            Some(outside) = readable(self.outside[0].as_ref()) => outside?,
            Some(outside) = readable(self.outside[1].as_ref()) => outside?,
            came = receive_inside(self.inside.as_ref(), buffer) => {
                return match came {
                    Ok((len, from)) => Ok(Came::FromTarget(len, from)),
                    Err(error) => {
                        tracing::debug!(%error, "the endpoint inside was closed");
                        self.inside = None;
                        Ok(Came::Nothing)
                    }
                };
            }
            Some(done) = self.resolving.join_next() => {
                return done.map(Came::Resolved).map_err(io::Error::other);
            }
        };
        let from_client = std::ptr::eq(ready, &self.socket);
        match ready.try_recv_from(buffer) {
            Ok((len, from)) if from_client => Ok(Came::FromClient(len, from)),
            Ok((len, from)) => Ok(Came::FromTarget(len, from)),
            // Nothing there after all, or an ICMP error for an earlier datagram.
            Err(_) => Ok(Came::Nothing),
        }
    }

    async fn forward(&mut self, address: Address, payload: &[u8]) {
        let name = match address.host {
            Destination::Address(ip) => return self.send(SocketAddr::new(ip, address.port), payload).await,
            name @ Destination::Name(_) => name,
        };
        match self.names.get(&name) {
            Some((until, known)) if *until > Instant::now() => {
                if let Some(ip) = *known {
                    self.send(SocketAddr::new(ip, address.port), payload).await;
                }
            }
            _ if self.resolving.len() >= MAX_RESOLVING => {
                tracing::debug!(%name, "a datagram was dropped: too many names are being resolved");
            }
            _ => {
                let (dialer, payload) = (self.dialer.clone(), payload.to_vec());
                self.resolving.spawn(async move {
                    let found = dialer.resolve(&name).await;
                    (name, found, payload, address.port)
                });
            }
        }
    }

    async fn send(&mut self, to: SocketAddr, payload: &[u8]) {
        let network = self.dialer.network();
        let sent = if network.owns(&Destination::Address(to.ip())) {
            self.send_inside(to, payload).await
        } else if network.status().borrow().config.is_some() {
            self.send_outside(to, payload).await
        } else {
            Err(io::Error::other("the private network is not configured yet"))
        };
        if let Err(error) = sent {
            tracing::debug!(%to, %error, "a datagram of a SOCKS client was dropped");
        }
    }

    async fn send_inside(&mut self, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let socket = match &mut self.inside {
            Some(socket) => socket,
            empty => {
                let flow = self.dialer.network().udp(Udp::default()).await.map_err(io::Error::other)?;
                empty.insert(flow.into_socket()?)
            }
        };
        socket.send_to(payload, to).await
    }

    async fn send_outside(&mut self, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let (slot, any): (_, IpAddr) = match to {
            SocketAddr::V4(_) => (&mut self.outside[0], [0; 4].into()),
            SocketAddr::V6(_) => (&mut self.outside[1], [0; 16].into()),
        };
        let socket = match slot {
            Some(socket) => socket,
            empty => empty.insert(UdpSocket::bind((any, 0)).await?),
        };
        socket.send_to(payload, to).await.map(drop)
    }
}

/// Waits until the socket, if there is one, has something to read.
async fn readable(socket: Option<&UdpSocket>) -> Option<io::Result<&UdpSocket>> {
    let socket = socket?;
    Some(socket.readable().await.map(|()| socket))
}

async fn receive_inside(socket: Option<&InsideSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => pending().await,
    }
}
