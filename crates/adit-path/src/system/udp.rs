//! UDP by the kernel, behind the descriptor of a [`UdpFlow`].

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use super::own_address;
use crate::{Udp, UdpFailure, UdpFlow};

/// Opens an endpoint on the tunnel's own address.
pub(crate) fn open(addresses: &[IpAddr], options: &Udp) -> Result<UdpFlow, UdpFailure> {
    let like = options.peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    let own = own_address(addresses, like).or_else(|| addresses.first().copied());
    let own = own.ok_or(UdpFailure::NoRoute(like))?;
    let system = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => UdpFailure::PortInUse(options.port),
        _ => UdpFailure::System(error.to_string()),
    };
    let socket = UdpSocket::bind((own, options.port)).map_err(system)?;
    if let Some(peer) = options.peer {
        // Datagrams of others are dropped by the kernel, and ICMP errors of this one are told.
        socket.connect(peer).map_err(system)?;
    }
    let local = socket.local_addr().map_err(system)?;
    let (flow, ours) = UdpFlow::pair(local).map_err(system)?;
    let peer = options.peer;
    thread::Builder::new()
        .name("adit-udp".to_owned())
        .spawn(move || relay(&socket, peer, &ours))
        .map_err(system)?;
    Ok(flow)
}

fn relay(socket: &UdpSocket, peer: Option<SocketAddr>, ours: &OwnedFd) {
    let mut buffer = vec![0; 64 * 1024 + UdpFlow::MAX_HEADER];
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(ours, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        let [inside, outside] = fds.map(|fd| !fd.revents().is_empty());
        if inside {
            match recv_from(socket, &mut buffer) {
                Ok((len, from)) => forward(ours, from, &buffer[..len]),
                Err(error) => {
                    if let (io::ErrorKind::ConnectionRefused, Some(peer)) = (error.kind(), peer) {
                        report(ours, peer);
                    }
                }
            }
        }
        if outside {
            match recv(ours, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return,
                Ok((len, _)) => {
                    let Some((to, payload)) = UdpFlow::split(&buffer[..len]) else { continue };
                    let sent = match peer {
                        Some(peer) if peer == to => socket.send(payload),
                        Some(_) => continue,
                        None => socket.send_to(payload, to),
                    };
                    if let (Err(error), Some(peer)) = (sent, peer)
                        && error.kind() == io::ErrorKind::ConnectionRefused
                    {
                        report(ours, peer);
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

fn recv_from(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    let (len, from) = socket.recv_from(buffer)?;
    Ok((len, from))
}

fn forward(ours: &OwnedFd, from: SocketAddr, payload: &[u8]) {
    let mut header = [0; UdpFlow::MAX_HEADER];
    let len = UdpFlow::write_header(from, &mut header);
    let parts = [IoSlice::new(&header[..len]), IoSlice::new(payload)];
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // An owner that does not read loses datagrams, as UDP does.
    let _ = sendmsg(ours, &parts, &mut SendAncillaryBuffer::default(), flags);
}

/// The kernel tells a refused datagram without the ICMP message: port unreachable (RFC 792, RFC 4443 §3.1).
fn report(ours: &OwnedFd, peer: SocketAddr) {
    let (kind, code) = if peer.is_ipv4() { (3, 3) } else { (1, 4) };
    let mut message = [0; UdpFlow::MAX_HEADER + 2];
    let len = UdpFlow::write_unreachable(peer, kind, code, &mut message);
    let parts = [IoSlice::new(&message[..len])];
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = sendmsg(ours, &parts, &mut SendAncillaryBuffer::default(), flags);
}
