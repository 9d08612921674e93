//! Connections of a [`Network`](crate::Network), in terms of file descriptors: whoever implements the network
//! moves the bytes between its flow and a descriptor that it is handed, so that a byte crosses one relay only,
//! and a descriptor can travel to another process.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram as StdUnixDatagram, UnixStream as StdUnixStream};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{UnixDatagram, UnixStream};
use tokio::sync::mpsc;

use crate::{BoxFuture, ConnectFailure};

/// The implementation's side of a connected [`Flow`]. Dropping it without [`attach`](Self::attach) resets the
/// connection.
pub trait FlowHandle: Send {
    /// Moves bytes between the connection and `socket` (a connected stream socket) until both directions have
    /// ended: end of stream is carried as half-close both ways, a reset as a reset where the socket can show
    /// one (`SO_LINGER` 0 on TCP).
    fn attach(self: Box<Self>, socket: OwnedFd) -> io::Result<()>;
}

/// A TCP connection that the target has accepted.
pub struct Flow {
    local: SocketAddr,
    peer: SocketAddr,
    handle: Box<dyn FlowHandle>,
}

impl Flow {
    /// Wraps an implementation's connection.
    pub fn new(local: SocketAddr, peer: SocketAddr, handle: Box<dyn FlowHandle>) -> Self {
        Self { local, peer, handle }
    }

    /// Our address inside the network.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The target's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Hands over a descriptor: the network itself moves the bytes between it and the connection.
    pub fn attach(self, socket: OwnedFd) -> io::Result<()> {
        self.handle.attach(socket)
    }

    /// The connection as a tokio stream. Must be called within a tokio runtime with I/O enabled.
    pub fn into_stream(self) -> io::Result<FlowStream> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let stream = FlowStream { local: self.local, peer: self.peer, inner: UnixStream::from_std(ours)? };
        self.handle.attach(theirs.into())?;
        Ok(stream)
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("local", &self.local).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A TCP connection as `AsyncRead` and `AsyncWrite`. Shutting down the writer half-closes the connection.
#[derive(Debug)]
pub struct FlowStream {
    local: SocketAddr,
    peer: SocketAddr,
    inner: UnixStream,
}

impl FlowStream {
    /// Our address inside the network.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The target's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl AsyncRead for FlowStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for FlowStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A UDP endpoint inside the network: one end of a `SOCK_SEQPACKET` pair whose other end the network serves.
///
/// One message is one datagram behind a header: a byte 4 or 6, the port (big-endian), the address (4 or 16
/// bytes). Towards the network the header names the destination, from it the source.
///
/// From the network a message can also be a report that datagrams do not arrive ([`UdpMessage::Unreachable`]): its
/// header has the byte 0x14 or 0x16 and names the destination; the ICMP type and code follow. [`split`](Self::split)
/// passes over reports, [`parse`](Self::parse) tells them.
#[derive(Debug)]
pub struct UdpFlow {
    local: SocketAddr,
    socket: OwnedFd,
}

/// Marks the header of a report.
const REPORT: u8 = 0x10;

/// A message from the network to the owner of a [`UdpFlow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpMessage<'a> {
    /// A datagram.
    Datagram {
        /// Its source.
        address: SocketAddr,
        /// The payload.
        payload: &'a [u8],
    },
    /// A router or the target says that datagrams to `to` do not arrive.
    Unreachable {
        /// The destination.
        to: SocketAddr,
        /// The ICMP type (RFC 792, RFC 4443).
        kind: u8,
        /// The ICMP code.
        code: u8,
    },
}

impl UdpFlow {
    /// The longest header.
    pub const MAX_HEADER: usize = 19;

    /// Makes an endpoint and the descriptor that the network must serve.
    pub fn pair(local: SocketAddr) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Self { local, socket: ours }, theirs))
    }

    /// Wraps a descriptor that came from elsewhere, for example from the daemon.
    pub fn from_fd(local: SocketAddr, socket: OwnedFd) -> Self {
        Self { local, socket }
    }

    /// Our address inside the network.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The descriptor, for a caller with an event loop of its own.
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// The endpoint for use in a tokio runtime with I/O enabled.
    pub fn into_socket(self) -> io::Result<UdpSocket> {
        // Sequenced packets through the datagram type: the system calls are the same, and end of file shows.
        let socket = StdUnixDatagram::from(self.socket);
        socket.set_nonblocking(true)?;
        Ok(UdpSocket { local: self.local, socket: UnixDatagram::from_std(socket)? })
    }

    /// Writes the header for `address`; returns its length.
    pub fn write_header(address: SocketAddr, header: &mut [u8; Self::MAX_HEADER]) -> usize {
        header[1..3].copy_from_slice(&address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => {
                header[0] = 4;
                header[3..7].copy_from_slice(&ip.octets());
                7
            }
            IpAddr::V6(ip) => {
                header[0] = 6;
                header[3..19].copy_from_slice(&ip.octets());
                19
            }
        }
    }

    /// Writes a report that datagrams to `to` do not arrive, with the ICMP type and code; returns its length.
    pub fn write_unreachable(
        to: SocketAddr,
        kind: u8,
        code: u8,
        message: &mut [u8; Self::MAX_HEADER + 2],
    ) -> usize {
        let mut header = [0; Self::MAX_HEADER];
        let len = Self::write_header(to, &mut header);
        header[0] |= REPORT;
        message[..len].copy_from_slice(&header[..len]);
        message[len] = kind;
        message[len + 1] = code;
        len + 2
    }

    /// Reads a message of the network; `None` if it is malformed.
    pub fn parse(message: &[u8]) -> Option<UdpMessage<'_>> {
        let (&family, rest) = message.split_first()?;
        let (address, payload) = Self::split_at_address(family & !REPORT, rest)?;
        if family & REPORT == 0 {
            return Some(UdpMessage::Datagram { address, payload });
        }
        let &[kind, code] = payload else { return None };
        Some(UdpMessage::Unreachable { to: address, kind, code })
    }

    /// Splits a message into its address and payload; `None` if it is a report or malformed.
    pub fn split(message: &[u8]) -> Option<(SocketAddr, &[u8])> {
        let (&family, rest) = message.split_first()?;
        Self::split_at_address(family, rest)
    }

    fn split_at_address(family: u8, rest: &[u8]) -> Option<(SocketAddr, &[u8])> {
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        match family {
            4 => {
                let (ip, payload) = rest.split_first_chunk::<4>()?;
                Some((SocketAddr::from((Ipv4Addr::from(*ip), port)), payload))
            }
            6 => {
                let (ip, payload) = rest.split_first_chunk::<16>()?;
                Some((SocketAddr::from((Ipv6Addr::from(*ip), port)), payload))
            }
            _ => None,
        }
    }
}

/// A [`UdpFlow`] with asynchronous methods.
#[derive(Debug)]
pub struct UdpSocket {
    local: SocketAddr,
    socket: UnixDatagram,
}

impl UdpSocket {
    /// Our address inside the network.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends one datagram.
    pub async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        let mut header = [0; UdpFlow::MAX_HEADER];
        let len = UdpFlow::write_header(to, &mut header);
        let parts = [io::IoSlice::new(&header[..len]), io::IoSlice::new(payload)];
        self.socket
            .async_io(Interest::WRITABLE, || {
                let mut control = rustix::net::SendAncillaryBuffer::default();
                rustix::net::sendmsg(&self.socket, &parts, &mut control, rustix::net::SendFlags::NOSIGNAL)
                    .map(drop)
                    .map_err(io::Error::from)
            })
            .await
    }

    /// Receives the next message, datagram or report, into `message`, which needs room for the header
    /// ([`UdpFlow::MAX_HEADER`]) too. `UnexpectedEof` means that the network closed the endpoint.
    pub async fn recv<'m>(&self, message: &'m mut [u8]) -> io::Result<UdpMessage<'m>> {
        let len = self.socket.recv(message).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        UdpFlow::parse(&message[..len]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Receives one datagram into `buffer`; returns its length and source. A longer datagram is cut.
    /// `UnexpectedEof` means that the network closed the endpoint.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut message = vec![0; UdpFlow::MAX_HEADER + buffer.len()];
        loop {
            let len = self.socket.recv(&mut message).await?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((from, payload)) = UdpFlow::split(&message[..len]) else { continue };
            let len = payload.len().min(buffer.len());
            buffer[..len].copy_from_slice(&payload[..len]);
            return Ok((len, from));
        }
    }
}

/// The implementation's side of a connection that a peer asks for. Dropping it refuses the connection.
pub trait IncomingHandle: Send {
    /// Completes the handshake.
    fn accept(self: Box<Self>) -> BoxFuture<'static, Result<Flow, ConnectFailure>>;
    /// Answers with RST.
    fn refuse(self: Box<Self>);
    /// Answers nothing, as if the host were not there.
    fn ignore(self: Box<Self>);
}

/// A connection that a peer asks for: its SYN is held until somebody decides.
pub struct Incoming {
    local: SocketAddr,
    peer: SocketAddr,
    handle: Box<dyn IncomingHandle>,
}

impl Incoming {
    /// Wraps an implementation's pending connection.
    pub fn new(local: SocketAddr, peer: SocketAddr, handle: Box<dyn IncomingHandle>) -> Self {
        Self { local, peer, handle }
    }

    /// The address asked for.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Who asks.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Completes the handshake.
    pub async fn accept(self) -> Result<Flow, ConnectFailure> {
        self.handle.accept().await
    }

    /// Answers with RST.
    pub fn refuse(self) {
        self.handle.refuse();
    }

    /// Answers nothing, as if the host were not there.
    pub fn ignore(self) {
        self.handle.ignore();
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Connections that peers ask for, on one port. Dropping it stops listening.
#[derive(Debug)]
pub struct Listener {
    port: u16,
    incoming: mpsc::Receiver<Incoming>,
}

impl Listener {
    /// Wraps an implementation's queue; the implementation stops listening when the receiver is gone.
    pub fn new(port: u16, incoming: mpsc::Receiver<Incoming>) -> Self {
        Self { port, incoming }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next connection that a peer asks for; `None` when the network was closed.
    pub async fn next(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// Accepts the next connection.
    pub async fn accept(&mut self) -> Result<Flow, ConnectFailure> {
        match self.next().await {
            Some(incoming) => incoming.accept().await,
            None => Err(ConnectFailure::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told_from_a_datagram() {
        for to in ["10.1.2.3:53", "[fd00::1]:53"] {
            let to: SocketAddr = to.parse().unwrap();
            let mut report = [0; UdpFlow::MAX_HEADER + 2];
            let len = UdpFlow::write_unreachable(to, 3, 1, &mut report);
            let parsed = UdpFlow::parse(&report[..len]);
            assert_eq!(parsed, Some(UdpMessage::Unreachable { to, kind: 3, code: 1 }));
            assert_eq!(UdpFlow::split(&report[..len]), None, "whoever reads datagrams passes over reports");

            let mut header = [0; UdpFlow::MAX_HEADER];
            let len = UdpFlow::write_header(to, &mut header);
            let datagram = [&header[..len], b"hello"].concat();
            let parsed = UdpFlow::parse(&datagram);
            assert_eq!(parsed, Some(UdpMessage::Datagram { address: to, payload: b"hello" }));
            assert_eq!(UdpFlow::split(&datagram), Some((to, &b"hello"[..])));
        }
        for bad in [&b""[..], &[4], &[4, 0, 53, 10, 1], &[0x14, 0, 53, 10, 1, 2, 3, 3], &[5; 30]] {
            assert_eq!(UdpFlow::parse(bad), None);
        }
    }
}
