//! A TCP link: a byte stream for a codec inside the tunnel, with a bounded backlog.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use socket2::SockRef;

use super::token::Source;

/// Bytes that the system may keep unsent for a connection, and that a turn of the loop gives it. More would only be a
/// queue of our own under somebody else's congestion control: flows inside the tunnel would see it as delay. Whoever has
/// more to send keeps it and is told when there is room again.
pub(crate) const UNSENT: usize = 64 * 1024;

/// A connection, or one being made.
#[derive(Debug)]
pub(crate) struct TcpLink {
    stream: TcpStream,
    connected: bool,
    readable: bool,
    writable: bool,
    /// What the socket did not take: less than the loop gives in a turn, since nothing follows until it is gone.
    backlog: Vec<u8>,
    /// Why nothing can be sent any more. What the far end said before is still to be read.
    broken: Option<io::ErrorKind>,
}

/// What a connection attempt came to.
#[derive(Debug)]
pub(crate) enum Opening {
    Waiting,
    Opened(SocketAddr),
    Failed(io::Error),
}

impl TcpLink {
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        // Frames of a tunnel are complete as they are written; waiting for more only adds delay.
        let _ = stream.set_nodelay(true);
        // Best effort too: without it the socket's own buffer is the queue.
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT as u32);
        Ok(Self {
            stream,
            connected: false,
            readable: false,
            writable: false,
            backlog: Vec::new(),
            broken: None,
        })
    }

    pub(crate) fn register(&mut self, registry: &Registry, key: usize) -> io::Result<()> {
        let token = Source::Link(key << 1).token();
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) {
        // Closing the descriptor, which follows, removes it from the poll set too.
        let _ = registry.deregister(&mut self.stream);
    }

    /// Notes an edge.
    pub(crate) fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    pub(crate) fn readable(&self) -> bool {
        self.readable && self.connected
    }

    /// Whether the connection came about since the last call.
    pub(crate) fn opening(&mut self) -> Opening {
        if self.connected || !(self.writable || self.readable) {
            return Opening::Waiting;
        }
        match self.stream.take_error() {
            Ok(Some(error)) | Err(error) => return Opening::Failed(error),
            Ok(None) => {}
        }
        match (self.stream.peer_addr(), self.stream.local_addr()) {
            (Ok(_), Ok(local)) => {
                self.connected = true;
                Opening::Opened(local)
            }
            (Err(error), _) if error.kind() == io::ErrorKind::NotConnected => Opening::Waiting,
            (Err(error), _) | (_, Err(error)) => Opening::Failed(error),
        }
    }

    /// Reads once; 0 is the end of the stream, `WouldBlock` that nothing is there now.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (self.stream.read(buffer), self.broken) {
            // The end of a connection that broke while something was sent is no orderly end.
            (Ok(0) | Err(_), Some(kind)) => Err(kind.into()),
            (Err(error), None) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Err(error)
            }
            (result, _) => result,
        }
    }

    /// Takes bytes: sends what the socket takes and keeps the rest.
    pub(crate) fn send(&mut self, data: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        let written = if self.is_full() || !self.connected { 0 } else { self.write(data) };
        self.backlog.extend_from_slice(&data[written..]);
    }

    /// Sends what the socket takes of what was kept. Returns whether that made room.
    pub(crate) fn flush(&mut self) -> bool {
        if !self.is_full() || !self.connected || !self.writable {
            return false;
        }
        let mut backlog = std::mem::take(&mut self.backlog);
        let written = self.write(&backlog);
        backlog.drain(..written);
        self.backlog = backlog;
        !self.is_full()
    }

    /// Bytes that wait for the socket.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// Whether something waits for the socket; nothing more should be given to it.
    pub(crate) fn is_full(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Writes what the socket takes. A connection that broke takes everything: nothing of it can arrive.
    fn write(&mut self, data: &[u8]) -> usize {
        let mut written = 0;
        while written < data.len() {
            match self.stream.write(&data[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    return written;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The reader tells of it, after what came before.
                    self.broken = Some(error.kind());
                    self.readable = true;
                    return data.len();
                }
            }
        }
        written
    }
}
