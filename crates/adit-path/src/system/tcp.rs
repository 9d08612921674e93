//! TCP by the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::sync::mpsc;

use super::icmp::Witness;
use super::{on_thread, relay};
use crate::{
    BoxFuture, Connect, ConnectFailure, Flow, FlowHandle, Incoming, IncomingHandle, Listen, ListenFailure,
    Listener,
};

/// How often a listener's thread looks whether its owner is still there.
const CHECK: Duration = Duration::from_millis(250);

/// A connection of the kernel.
struct SystemFlow {
    stream: Option<TcpStream>,
}

impl FlowHandle for SystemFlow {
    fn attach(mut self: Box<Self>, socket: OwnedFd) -> io::Result<()> {
        match self.stream.take() {
            Some(stream) => relay::start(stream.into(), socket),
            None => Ok(()),
        }
    }
}

impl Drop for SystemFlow {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            // Nobody carries the connection: its peer sees a reset.
            let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
    }
}

fn flow(stream: TcpStream) -> io::Result<Flow> {
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    stream.set_nodelay(true)?;
    Ok(Flow::new(local, peer, Box::new(SystemFlow { stream: Some(stream) })))
}

pub(crate) async fn connect(to: SocketAddr, options: Connect) -> Result<Flow, ConnectFailure> {
    let timeout = options.timeout;
    let work = move || {
        let witness = Witness::of(to.ip());
        let connected = TcpStream::connect_timeout(&to, timeout).and_then(|stream| {
            if let Some(idle) = options.keepalive {
                SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
            }
            flow(stream)
        });
        connected.map_err(|error| match (failure(&error, to.ip(), timeout), witness) {
            (ConnectFailure::NoRoute(address), Some(witness)) => {
                witness.testimony().unwrap_or(ConnectFailure::NoRoute(address))
            }
            (failure, _) => failure,
        })
    };
    on_thread("adit-connect", work, |error| Err(ConnectFailure::Exhausted(error.to_string()))).await
}

fn failure(error: &io::Error, to: IpAddr, timeout: Duration) -> ConnectFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        io::ErrorKind::ConnectionReset => ConnectFailure::Reset,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ConnectFailure::TimedOut(timeout),
        _ => match Errno::from_io_error(error) {
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
                ConnectFailure::NoRoute(to)
            }
            Some(Errno::PERM | Errno::ACCESS) => ConnectFailure::Denied(error.to_string()),
            _ => ConnectFailure::Exhausted(error.to_string()),
        },
    }
}

/// Listens on the tunnel's own addresses only.
pub(crate) fn listen(addresses: &[IpAddr], port: u16, options: Listen) -> Result<Listener, ListenFailure> {
    let (queue, incoming) = mpsc::channel(usize::from(options.backlog.max(1)));
    let mut chosen = port;
    for address in addresses {
        let listener =
            bind(SocketAddr::new(*address, chosen), options.backlog).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => ListenFailure::PortInUse(chosen),
                _ => ListenFailure::Exhausted(error.to_string()),
            })?;
        if let Ok(local) = listener.local_addr() {
            chosen = local.port();
        }
        let queue = queue.clone();
        thread::Builder::new()
            .name("adit-listen".to_owned())
            .spawn(move || accept(&listener, &queue))
            .map_err(|error| ListenFailure::Exhausted(error.to_string()))?;
    }
    Ok(Listener::new(chosen, incoming))
}

fn bind(local: SocketAddr, backlog: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    socket.listen(i32::from(backlog.max(1)))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Hands on connections, which the kernel has accepted, until the owner is gone.
fn accept(listener: &TcpListener, queue: &mpsc::Sender<Incoming>) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let check = Timespec { tv_sec: 0, tv_nsec: CHECK.as_nanos() as i64 };
    while !queue.is_closed() {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        // Errors of the wait show at the accept.
        let _ = poll(&mut fds, Some(&check));
        let Ok((stream, peer)) = listener.accept() else { continue };
        let Ok(local) = stream.local_addr() else { continue };
        let handle = SystemIncoming { stream: Some(stream) };
        // Dropping the handle, which an error holds, resets the connection.
        let _ = queue.try_send(Incoming::new(local, peer, Box::new(handle)));
    }
}

struct SystemIncoming {
    stream: Option<TcpStream>,
}

impl IncomingHandle for SystemIncoming {
    fn accept(mut self: Box<Self>) -> BoxFuture<'static, Result<Flow, ConnectFailure>> {
        let result = match self.stream.take() {
            Some(stream) => flow(stream).map_err(|_| ConnectFailure::Reset),
            None => Err(ConnectFailure::Closed),
        };
        Box::pin(async { result })
    }

    fn refuse(self: Box<Self>) {
        // Dropping it does so, as far as the kernel lets us: the connection is reset.
    }

    fn ignore(self: Box<Self>) {
        // The kernel has answered already; a reset is the nearest thing to silence.
    }
}

impl Drop for SystemIncoming {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
    }
}
