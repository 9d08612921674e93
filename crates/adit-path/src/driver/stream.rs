//! Attached stream sockets: bytes move straight between a socket and the ring buffers of its flow.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use adit_netstack::{CloseReason, FlowId, Stack};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recvmsg,
    sendmsg, shutdown, sockopt,
};

/// Bytes that one flow may move per direction before the next one has its turn.
const QUANTUM: usize = 128 * 1024;
/// After this silence the kernel probes an attached TCP socket, so that one whose owner is gone is noticed.
const KEEPALIVE: Duration = Duration::from_secs(75);

/// A socket that carries a flow.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    pub(crate) flow: FlowId,
    is_tcp: bool,
    readable: bool,
    writable: bool,
    /// The peer of the socket has ended its side, or the whole of it: read to the end.
    hung_up: bool,
    failed: bool,
    /// The socket's end of stream was passed on.
    ended: bool,
    /// The flow's end of stream has arrived.
    peer_shut: bool,
    /// The flow's end of stream was passed on.
    shut: bool,
    closed: Option<CloseReason>,
    /// The stream is in the ready queue.
    pub(crate) queued: bool,
}

/// What a turn of a stream came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Waits for an event.
    Idle,
    /// Has more to move.
    More,
    /// Both directions have ended; the stack finishes the rest by itself.
    Done,
    /// The socket failed: the flow must be reset.
    SocketFailed,
    /// The flow was reset and everything before it is delivered.
    FlowFailed,
}

impl Stream {
    pub(crate) fn new(socket: OwnedFd, flow: FlowId) -> Self {
        let is_tcp =
            matches!(sockopt::socket_domain(&socket), Ok(AddressFamily::INET | AddressFamily::INET6));
        if is_tcp {
            // Best effort: without it only a socket whose owner vanished silently would linger.
            let _ = sockopt::set_tcp_keepidle(&socket, KEEPALIVE);
            let _ = sockopt::set_socket_keepalive(&socket, true);
            let _ = sockopt::set_tcp_nodelay(&socket, true);
        }
        Self {
            socket,
            flow,
            is_tcp,
            readable: true,
            writable: true,
            hung_up: false,
            failed: false,
            ended: false,
            peer_shut: false,
            shut: false,
            closed: None,
            queued: false,
        }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Notes an edge of the socket.
    pub(crate) fn ready(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable();
        self.writable |= event.is_writable();
        self.hung_up |= event.is_read_closed();
        self.failed |= event.is_error();
        self.readable |= self.hung_up | self.failed;
    }

    /// The flow's end of stream has arrived.
    pub(crate) fn peer_shut(&mut self) {
        self.peer_shut = true;
    }

    /// The flow is over.
    pub(crate) fn closed(&mut self, reason: CloseReason) {
        self.closed = Some(reason);
        self.peer_shut |= reason == CloseReason::Finished;
    }

    /// Moves what can be moved, within a quantum per direction.
    pub(crate) fn turn(&mut self, stack: &mut Stack, now: Instant) -> Turn {
        let out = self.fill_socket(stack, now);
        let into = self.fill_flow(stack, now);
        let (Ok(out), Ok(into)) = (out, into) else { return Turn::SocketFailed };
        if self.drained(stack) {
            match self.closed {
                None | Some(CloseReason::Finished) => {}
                Some(_) => return Turn::FlowFailed,
            }
            if self.peer_shut && !self.shut {
                self.shut = true;
                // The socket may be gone already; the next read or write tells.
                let _ = shutdown(&self.socket, Shutdown::Write);
            }
        }
        if self.shut && (self.ended || self.closed.is_some()) {
            return Turn::Done;
        }
        if out || into { Turn::More } else { Turn::Idle }
    }

    fn drained(&self, stack: &mut Stack) -> bool {
        stack.tcp_recv_data(self.flow).iter().all(|part| part.is_empty())
    }

    /// From the flow to the socket. `Ok(true)`: the quantum is used up.
    fn fill_socket(&mut self, stack: &mut Stack, now: Instant) -> Result<bool, Errno> {
        let mut moved = 0;
        while self.writable && moved < QUANTUM {
            let [first, second] = stack.tcp_recv_data(self.flow);
            let offered = first.len() + second.len();
            if offered == 0 {
                return Ok(false);
            }
            let parts = [IoSlice::new(first), IoSlice::new(second)];
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.socket, &parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(n) => {
                    stack.tcp_consumed(now, self.flow, n);
                    moved += n;
                    // A short write means that the socket is full; room makes an edge.
                    self.writable = n == offered;
                }
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.writable)
    }

    /// From the socket to the flow. `Ok(true)`: the quantum is used up.
    fn fill_flow(&mut self, stack: &mut Stack, now: Instant) -> Result<bool, Errno> {
        let mut moved = 0;
        while self.readable && !self.ended && self.closed.is_none() && moved < QUANTUM {
            let [first, second] = stack.tcp_send_space(self.flow);
            let space = first.len() + second.len();
            if space == 0 {
                // The flow's next `Writable` continues. A socket error must not wait for it.
                return if self.failed { Err(Errno::CONNRESET) } else { Ok(false) };
            }
            let mut parts = [IoSliceMut::new(first), IoSliceMut::new(second)];
            let mut control = RecvAncillaryBuffer::default();
            match recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::DONTWAIT) {
                Ok(message) if message.bytes == 0 => {
                    self.ended = true;
                    stack.tcp_shutdown(now, self.flow);
                }
                Ok(message) => {
                    stack.tcp_sent(now, self.flow, message.bytes);
                    moved += message.bytes;
                    // A short read means that the socket is empty; more makes an edge. Not so the end of the
                    // stream, which may have been announced together with what was just read.
                    if message.bytes < space && !self.hung_up && !self.failed {
                        self.readable = false;
                    }
                }
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    if self.failed {
                        return Err(Errno::CONNRESET);
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.readable && !self.ended && self.closed.is_none())
    }

    /// Closes the socket so that its peer sees a reset, where the socket can show one.
    pub(crate) fn reset(self) {
        if self.is_tcp {
            let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }
}
