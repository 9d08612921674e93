//! A TCP link: a byte stream for a codec inside the tunnel, with a bounded backlog.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry};

use super::token::Source;

/// Bytes that may wait for the socket. More would only be a queue of our own under somebody else's congestion
/// control; the tunnel keeps the rest and is told when there is room again.
pub(crate) const BACKLOG: usize = 64 * 1024;

/// A connection, or one being made.
#[derive(Debug)]
pub(crate) struct TcpLink {
    stream: TcpStream,
    connected: bool,
    readable: bool,
    writable: bool,
    backlog: Vec<u8>,
    /// The tunnel was refused space and waits to hear of it.
    pub(crate) refused: bool,
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
        Ok(Self {
            stream,
            connected: false,
            readable: false,
            writable: false,
            backlog: Vec::new(),
            refused: false,
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
        let result = self.stream.read(buffer);
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.readable = false;
        }
        result
    }

    /// Takes bytes, sending what the socket takes and keeping the rest. The caller stops when
    /// [`is_full`](Self::is_full).
    pub(crate) fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let written = if self.backlog.is_empty() && self.connected { self.write(data)? } else { 0 };
        self.backlog.extend_from_slice(&data[written..]);
        Ok(())
    }

    /// Sends from the backlog what the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.backlog.is_empty() || !self.connected || !self.writable {
            return Ok(());
        }
        let backlog = std::mem::take(&mut self.backlog);
        let written = self.write(&backlog);
        self.backlog = backlog;
        self.backlog.drain(..written?);
        Ok(())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.backlog.len() >= BACKLOG
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < data.len() {
            match self.stream.write(&data[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}
