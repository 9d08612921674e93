//! A UDP link: up to one socket per address family, batched by segmentation offload (`UDP_SEGMENT`, `UDP_GRO`).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use adit_tunnel::{Transmit, Unreachable};
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use rustix::io::Errno;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::token::Source;

/// Datagram buffers of one receive call.
pub(crate) const BATCH: usize = quinn_udp::BATCH_SIZE;
/// The size of one buffer: the kernel merges at most this much.
const BUFFER: usize = 64 * 1024;
/// Buffers per call while the kernel merges: about as many datagrams as a turn of the loop should handle.
const MERGED: usize = 4;
/// What is asked for as socket buffers; the system grants what its limits allow.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// The buffers that datagrams are received into, one for the whole loop. Pages are allocated as they are used.
pub(crate) struct Arena {
    bytes: Vec<u8>,
    meta: [RecvMeta; BATCH],
    /// How many buffers the next call offers.
    width: usize,
}

impl Arena {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BATCH * BUFFER], meta: [RecvMeta::default(); BATCH], width: MERGED }
    }

    /// One buffer, for a stream.
    pub(crate) fn scratch(&mut self) -> &mut [u8] {
        &mut self.bytes[..BUFFER]
    }

    /// Hands every datagram of the last receive call to `take`.
    pub(crate) fn datagrams(&mut self, received: usize, mut take: impl FnMut(SocketAddr, &mut [u8])) {
        for (meta, buffer) in self.meta.iter().zip(self.bytes.chunks_exact_mut(BUFFER)).take(received) {
            let stride = meta.stride.max(1);
            for datagram in buffer[..meta.len.min(BUFFER)].chunks_mut(stride) {
                take(meta.addr, datagram);
            }
        }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The socket took this many bytes and is full if they are not all.
    Taken(usize),
    /// The system says that the destination cannot be reached.
    Unreachable(Unreachable),
    /// The datagrams are lost for another reason, as the network may lose any.
    Lost,
}

#[derive(Debug)]
struct Half {
    socket: UdpSocket,
    state: UdpSocketState,
    readable: bool,
    writable: bool,
    failed: bool,
}

/// The sockets of a link.
#[derive(Debug)]
pub(crate) struct UdpLink {
    v4: Option<Half>,
    v6: Option<Half>,
    control: Vec<u8>,
}

impl UdpLink {
    /// Binds the sockets. A family that the machine does not have is left out; an error means that neither works.
    pub(crate) fn open(port: Option<u16>) -> io::Result<Self> {
        let v4 = Half::open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.unwrap_or(0))));
        let same = v4.as_ref().ok().and_then(|half| half.socket.local_addr().ok()).map(|local| local.port());
        let v6 = match (port, same) {
            (None, Some(chosen)) => Half::open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, chosen)))
                .or_else(|_| Half::open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))),
            (port, _) => Half::open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port.unwrap_or(0)))),
        };
        let (v4, v6) = match (v4, v6) {
            // A port that is taken in one family is taken: half a link would lose the other family silently.
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(error);
            }
            (Err(error), Err(_)) => return Err(error),
            (v4, v6) => (v4.ok(), v6.ok()),
        };
        Ok(Self { v4, v6, control: nix::cmsg_space!([u8; 256]) })
    }

    /// The local address, of IPv4 if there is one.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.halves().find_map(|half| half.socket.local_addr().ok())
    }

    pub(crate) fn register(&self, registry: &Registry, key: usize) -> io::Result<()> {
        let token = |v6: bool| Source::Link(key << 1 | usize::from(v6)).token();
        for (half, v6) in [(&self.v4, false), (&self.v6, true)] {
            if let Some(half) = half {
                let interest = Interest::READABLE | Interest::WRITABLE;
                registry.register(&mut SourceFd(&half.socket.as_raw_fd()), token(v6), interest)?;
            }
        }
        Ok(())
    }

    pub(crate) fn deregister(&self, registry: &Registry) {
        for half in self.halves() {
            // Closing the descriptor, which follows, removes it from the poll set too.
            let _ = registry.deregister(&mut SourceFd(&half.socket.as_raw_fd()));
        }
    }

    /// Notes an edge.
    pub(crate) fn ready(&mut self, v6: bool, readable: bool, writable: bool, failed: bool) {
        if let Some(half) = if v6 { &mut self.v6 } else { &mut self.v4 } {
            half.readable |= readable;
            half.writable |= writable;
            half.failed |= failed;
        }
    }

    /// Whether a receive call may find something.
    pub(crate) fn readable(&self) -> bool {
        self.halves().any(|half| half.readable || half.failed)
    }

    /// Receives once into `arena`; returns how many of its buffers are filled. `None`: nothing is there now.
    pub(crate) fn receive(
        &mut self,
        arena: &mut Arena,
        lost: &mut dyn FnMut(SocketAddr, Unreachable),
    ) -> Option<usize> {
        let Self { v4, v6, control } = self;
        for half in [v4, v6].into_iter().flatten() {
            if std::mem::take(&mut half.failed) {
                half.errors(control, lost);
            }
            if !half.readable {
                continue;
            }
            match half.receive(arena) {
                Ok(received) => return Some(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => half.readable = false,
                // An ICMP error that was pending, not a property of this call.
                Err(_) => half.errors(control, lost),
            }
        }
        None
    }

    /// Sends a batch of datagrams.
    pub(crate) fn send(
        &mut self,
        to: SocketAddr,
        transmit: &Transmit<'_>,
        lost: &mut dyn FnMut(SocketAddr, Unreachable),
    ) -> Sent {
        let half = if to.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let Some(half) = half else { return Sent::Unreachable(Unreachable::Network) };
        if !half.writable {
            return Sent::Taken(0);
        }
        half.send(to, transmit, &mut self.control, lost)
    }

    fn halves(&self) -> impl Iterator<Item = &Half> {
        [&self.v4, &self.v6].into_iter().flatten()
    }
}

impl Half {
    fn open(local: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        // Best effort: the default holds a few hundred datagrams, less than a round trip at a gigabit.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        state.enable_transport_errors(UdpSockRef::from(&socket))?;
        // The tunnel's packets may be larger than the path outside: they are fragmented there, as the kernel's own
        // tunnels do, instead of being lost.
        if local.is_ipv4() {
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
        } else {
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT)?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6DontFrag, &false)?;
        }
        Ok(Self { socket, state, readable: true, writable: true, failed: false })
    }

    fn receive(&mut self, arena: &mut Arena) -> io::Result<usize> {
        let width = arena.width;
        let mut chunks = arena.bytes.chunks_exact_mut(BUFFER);
        let mut buffers: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let received =
            self.state.recv(UdpSockRef::from(&self.socket), &mut buffers[..width], &mut arena.meta)?;
        // Where the kernel does not merge, a buffer holds one datagram, and more buffers make up for it.
        let bytes: usize = arena.meta[..received].iter().map(|meta| meta.len).sum();
        arena.width = if bytes > 4096 * received { MERGED } else { BATCH };
        if received < width {
            // Nothing was left when the call returned; the next datagram makes an edge.
            self.readable = false;
        }
        Ok(received)
    }

    fn send(
        &mut self,
        to: SocketAddr,
        transmit: &Transmit<'_>,
        control: &mut [u8],
        lost: &mut dyn FnMut(SocketAddr, Unreachable),
    ) -> Sent {
        let whole = transmit.data.len();
        let mut taken = 0;
        let mut retried = false;
        while taken < whole {
            let rest = &transmit.data[taken..];
            let segments = if self.state.max_gso_segments() > 1 { rest.len() } else { transmit.segment };
            let contents = &rest[..segments.min(rest.len())];
            let datagrams = quinn_udp::Transmit {
                destination: to,
                ecn: None,
                contents,
                segment_size: (contents.len() > transmit.segment).then_some(transmit.segment),
                src_ip: None,
            };
            match self.state.try_send(UdpSockRef::from(&self.socket), &datagrams) {
                Ok(()) => {
                    taken += contents.len();
                    retried = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Sent::Taken(taken);
                }
                // The kernel or a driver does not segment (after which `max_gso_segments` is 1), or the pending
                // ICMP error of an earlier datagram was reported here: once more.
                Err(_) if !retried => {
                    retried = true;
                    self.errors(control, lost);
                }
                Err(error) => match unreachable(Errno::from_io_error(&error)) {
                    Some(why) => return Sent::Unreachable(why),
                    None if contents.len() > transmit.segment => {
                        return self.send_singly(to, transmit, taken);
                    }
                    None => return Sent::Lost,
                },
            }
        }
        Sent::Taken(whole)
    }

    /// For a batch that the path does not take segmented, for example because a datagram exceeds its MTU.
    fn send_singly(&mut self, to: SocketAddr, transmit: &Transmit<'_>, mut taken: usize) -> Sent {
        while taken < transmit.data.len() {
            let rest = &transmit.data[taken..];
            let contents = &rest[..transmit.segment.min(rest.len())];
            match self.socket.send_to(contents, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Sent::Taken(taken);
                }
                Ok(_) | Err(_) => taken += contents.len(),
            }
        }
        Sent::Taken(taken)
    }

    /// Empties the queue of ICMP errors (`IP_RECVERR`, ip(7)).
    fn errors(&mut self, control: &mut [u8], lost: &mut dyn FnMut(SocketAddr, Unreachable)) {
        // Bounded, because whoever sends ICMP fast enough must not keep the loop here.
        for _ in 0..64 {
            let mut payload = [0u8; 1];
            let mut parts = [IoSliceMut::new(&mut payload)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let Ok(message) =
                recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut *control), flags)
            else {
                return;
            };
            let to = message.address.as_ref().and_then(|address| {
                address
                    .as_sockaddr_in()
                    .map(|v4| SocketAddr::from((v4.ip(), v4.port())))
                    .or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
            });
            let Ok(controls) = message.cmsgs() else { continue };
            let why = controls.into_iter().find_map(|control| match control {
                ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                    unreachable(Some(Errno::from_raw_os_error(error.ee_errno as i32)))
                }
                _ => None,
            });
            if let (Some(to), Some(why)) = (to, why) {
                lost(canonical(to), why);
            }
        }
        self.failed = true;
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}

/// What an error number says of the destination; `None` if it says nothing of it.
fn unreachable(errno: Option<Errno>) -> Option<Unreachable> {
    match errno? {
        Errno::CONNREFUSED => Some(Unreachable::Port),
        Errno::HOSTUNREACH | Errno::HOSTDOWN => Some(Unreachable::Host),
        Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => {
            Some(Unreachable::Network)
        }
        Errno::PERM | Errno::ACCESS => Some(Unreachable::Prohibited),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_tunnel::LinkId;

    use super::*;

    fn wait(link: &UdpLink, until: impl Fn(&mio::event::Event) -> bool) -> mio::Events {
        let mut poll = mio::Poll::new().unwrap();
        link.register(poll.registry(), 0).unwrap();
        let mut events = mio::Events::with_capacity(8);
        while !events.iter().any(&until) {
            poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
            assert!(!events.is_empty(), "no event within five seconds");
        }
        events
    }

    fn send(link: &mut UdpLink, to: SocketAddr, segment: usize, data: &[u8]) -> Sent {
        let transmit = Transmit { link: LinkId(0), to: Some(to), segment, data };
        link.send(to, &transmit, &mut |_, _| {})
    }

    #[test]
    fn a_batch_arrives_as_the_datagrams_it_stands_for() {
        for host in ["127.0.0.1", "::1"] {
            let mut a = UdpLink::open(None).unwrap();
            let mut b = UdpLink::open(None).unwrap();
            let Some(half) = (if host == "::1" { &b.v6 } else { &b.v4 }) else { continue };
            let to = SocketAddr::new(host.parse().unwrap(), half.socket.local_addr().unwrap().port());
            let data: Vec<u8> = (0..2500u32).map(|i| i as u8).collect();
            assert_eq!(send(&mut a, to, 1000, &data), Sent::Taken(2500));
            wait(&b, mio::event::Event::is_readable);
            let mut arena = Arena::new();
            let mut lens = Vec::new();
            let mut bytes = Vec::new();
            while bytes.len() < data.len() {
                let received = b.receive(&mut arena, &mut |_, _| {}).expect("all three were sent");
                arena.datagrams(received, |_, datagram| {
                    lens.push(datagram.len());
                    bytes.extend_from_slice(datagram);
                });
            }
            assert_eq!((lens, bytes == data), (vec![1000, 1000, 500], true));
        }
    }

    #[test]
    fn a_closed_port_is_reported_with_the_destination() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut link = UdpLink::open(None).unwrap();
        assert_eq!(send(&mut link, closed, 10, &[0; 10]), Sent::Taken(10));
        wait(&link, mio::event::Event::is_error);
        link.ready(false, true, true, true);
        let mut reports = Vec::new();
        link.receive(&mut Arena::new(), &mut |to, why| reports.push((to, why)));
        assert_eq!(reports, [(closed, Unreachable::Port)]);
    }

    #[test]
    fn a_datagram_behind_a_pending_error_is_still_sent() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let open = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut link = UdpLink::open(None).unwrap();
        send(&mut link, closed, 10, &[0; 10]);
        wait(&link, mio::event::Event::is_error);
        let transmit =
            Transmit { link: LinkId(0), to: Some(open.local_addr().unwrap()), segment: 4, data: b"abcdef" };
        let mut reports = Vec::new();
        let sent = link.send(open.local_addr().unwrap(), &transmit, &mut |to, why| reports.push((to, why)));
        assert_eq!((sent, reports), (Sent::Taken(6), vec![(closed, Unreachable::Port)]));
        let mut buffer = [0; 16];
        assert_eq!(open.recv(&mut buffer).unwrap(), 4);
        assert_eq!(open.recv(&mut buffer).unwrap(), 2);
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let error = UdpLink::open(Some(taken.local_addr().unwrap().port())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
