//! Attached sockets of datagrams: the network's side of a [`UdpFlow`].

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use adit_netstack::{Stack, UdpId};
use adit_tunnel::Dropped;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg};

use crate::UdpFlow;

/// Datagrams that one endpoint may move per direction before the next one has its turn.
const QUANTUM: usize = 64;

/// A socket that carries a UDP endpoint.
#[derive(Debug)]
pub(crate) struct Datagrams {
    socket: OwnedFd,
    pub(crate) endpoint: UdpId,
    readable: bool,
    writable: bool,
    /// The endpoint is in the ready queue.
    pub(crate) queued: bool,
}

/// What a turn of an endpoint came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Waits for an event.
    Idle,
    /// Has more to move.
    More,
    /// The owner closed the endpoint.
    Done,
}

impl Datagrams {
    pub(crate) fn new(socket: OwnedFd, endpoint: UdpId) -> Self {
        Self { socket, endpoint, readable: true, writable: true, queued: false }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Notes an edge of the socket.
    pub(crate) fn ready(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable();
    }

    /// Moves datagrams both ways, within a quantum per direction. What the stack does not take is lost, as UDP is.
    pub(crate) fn turn(
        &mut self,
        stack: &mut Stack,
        now: Instant,
        scratch: &mut [u8],
        may_send: &mut dyn FnMut(IpAddr) -> bool,
        dropped: &mut dyn FnMut(Dropped),
    ) -> Turn {
        let out = self.fill_socket(stack);
        let mut moved = 0;
        while self.readable && moved < QUANTUM {
            let mut parts = [IoSliceMut::new(scratch)];
            let mut control = RecvAncillaryBuffer::default();
            match recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::DONTWAIT) {
                Ok(message) if message.bytes == 0 => return Turn::Done,
                Ok(message) => {
                    moved += 1;
                    match UdpFlow::split(&scratch[..message.bytes]) {
                        Some((to, _)) if !may_send(to.ip()) => dropped(Dropped::NoRoute),
                        Some((to, payload)) => {
                            if let Err(reason) = stack.udp_send(now, self.endpoint, to, payload) {
                                dropped(reason);
                            }
                        }
                        None => dropped(Dropped::Malformed),
                    }
                }
                Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(_) => return Turn::Done,
            }
        }
        if out || self.readable { Turn::More } else { Turn::Idle }
    }

    /// From the endpoint to the socket. Returns whether the quantum is used up.
    fn fill_socket(&mut self, stack: &mut Stack) -> bool {
        if !self.writable {
            return false;
        }
        let mut moved = 0;
        let Self { socket, writable, .. } = self;
        stack.udp_recv(self.endpoint, &mut |from, payload| {
            // A datagram that is not taken stays with the endpoint.
            let taken = moved < QUANTUM && send(socket, from, payload);
            *writable = taken || moved >= QUANTUM;
            moved += usize::from(taken);
            taken
        });
        self.writable && moved >= QUANTUM
    }

    /// Tells the owner that datagrams to `to` do not arrive.
    pub(crate) fn unreachable(&mut self, to: SocketAddr, kind: u8, code: u8) {
        let mut message = [0; UdpFlow::MAX_HEADER + 2];
        let len = UdpFlow::write_unreachable(to, kind, code, &mut message);
        let parts = [IoSlice::new(&message[..len])];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // An owner that does not read loses reports as it loses datagrams.
        let _ = sendmsg(&self.socket, &parts, &mut SendAncillaryBuffer::default(), flags);
    }
}

/// Sends one datagram to the owner; `false` if the socket is full.
fn send(socket: &OwnedFd, from: SocketAddr, payload: &[u8]) -> bool {
    let mut header = [0; UdpFlow::MAX_HEADER];
    let len = UdpFlow::write_header(from, &mut header);
    let parts = [IoSlice::new(&header[..len]), IoSlice::new(payload)];
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    !matches!(sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), flags), Err(Errno::AGAIN))
}
