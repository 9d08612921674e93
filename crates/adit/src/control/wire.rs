//! A Unix stream socket that carries messages and descriptors (`SCM_RIGHTS`, unix(7)).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::message::{self, Malformed};

/// Descriptors that may wait for their message; a conversation never needs more at once.
const MAX_DESCRIPTORS: usize = 64;
const CHUNK: usize = 16 * 1024;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other side closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side does not keep to the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The other side said something that does not belong here.
    #[error("a message out of turn")]
    OutOfTurn,
    /// A message must come with a descriptor, and did not.
    #[error("a message came without its descriptor")]
    NoDescriptor,
    /// The other side sends descriptors that nothing asks for.
    #[error("too many descriptors")]
    TooManyDescriptors,
    /// The socket failed.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

/// One connection of the control socket.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), descriptors: VecDeque::new() }
    }

    /// The body of the next message. Safe to cancel: what has arrived stays.
    pub(super) async fn receive(&mut self) -> Result<Vec<u8>, WireError> {
        loop {
            if let Some((body, used)) = message::split(&self.buffer)? {
                let body = body.to_vec();
                self.buffer.drain(..used);
                return Ok(body);
            }
            let (buffer, descriptors, stream) = (&mut self.buffer, &mut self.descriptors, &self.stream);
            let count =
                stream.async_io(Interest::READABLE, || receive_some(stream, buffer, descriptors)).await?;
            if count == 0 {
                return Err(WireError::Closed);
            }
            if self.descriptors.len() > MAX_DESCRIPTORS {
                return Err(WireError::TooManyDescriptors);
            }
        }
    }

    /// The descriptor that came with the message just received.
    pub(super) fn descriptor(&mut self) -> Result<OwnedFd, WireError> {
        self.descriptors.pop_front().ok_or(WireError::NoDescriptor)
    }

    pub(super) async fn send(&self, message: &impl Serialize) -> Result<(), WireError> {
        self.send_all(&message::encode(message)?, None).await
    }

    /// Sends a message with a descriptor.
    pub(super) async fn send_with(
        &self,
        message: &impl Serialize,
        descriptor: BorrowedFd<'_>,
    ) -> Result<(), WireError> {
        self.send_all(&message::encode(message)?, Some(descriptor)).await
    }

    async fn send_all(
        &self,
        mut bytes: &[u8],
        mut descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), WireError> {
        while !bytes.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || send_some(&self.stream, bytes, descriptor))
                .await?;
            descriptor = None;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Sends a short message without waiting, for callers outside a runtime. The kernel takes it at once: a
    /// conversation has at most a few such messages under way, far below a socket's buffer.
    pub(super) fn send_now(
        &self,
        message: &impl Serialize,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let bytes = message::encode(message).map_err(io::Error::other)?;
        let sent = send_some(&self.stream, &bytes, descriptor)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

fn send_some(socket: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no space for a descriptor"));
    }
    let parts = [IoSlice::new(bytes)];
    Ok(rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

fn receive_some(
    socket: impl AsFd,
    buffer: &mut Vec<u8>,
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let held = buffer.len();
    buffer.resize(held + CHUNK, 0);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut buffer[held..])],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    );
    buffer.truncate(held + received.as_ref().map_or(0, |message| message.bytes));
    let received = received?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(received.bytes)
}
