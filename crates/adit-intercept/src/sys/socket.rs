//! Sockets by descriptor, with addresses as bytes.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::{check, count};
use crate::sockaddr::{self, SockAddr};

/// States of `tcp_info.tcpi_state` (`include/net/tcp_states.h`).
pub(crate) const TCP_SYN_SENT: u8 = 2;
const TCP_SYN_RECV: u8 = 3;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;

/// Makes a socket; `kind` may hold `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: the arguments are plain numbers.
    let fd = check(unsafe { libc::socket(domain, kind, protocol) })?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option whose value is a number.
pub(crate) fn set_option(socket: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the value is readable for the call, and the length is its own.
    check(unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t)
    })
    .map(drop)
}

/// Reads an option whose value is a number.
pub(crate) fn option(socket: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let fd = socket.as_fd().as_raw_fd();
    let mut value = 0_i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: value and length are writable for the call, and the length is the value's own.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// The state of a TCP socket.
pub(crate) fn tcp_state(socket: impl AsFd) -> io::Result<u8> {
    let fd = socket.as_fd().as_raw_fd();
    let mut state = 0_u8;
    let mut len = 1;
    // SAFETY: `tcpi_state` is the first byte of the structure, and the kernel writes no more than `len` bytes.
    check(unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut state).cast(), &raw mut len)
    })?;
    Ok(state)
}

/// Whether the handshake of a TCP socket is complete; the peer may have sent its FIN since.
pub(crate) fn has_connected(socket: impl AsFd) -> io::Result<bool> {
    Ok(!matches!(tcp_state(socket)?, TCP_SYN_SENT | TCP_SYN_RECV | TCP_CLOSE | TCP_LISTEN))
}

/// Connects without waiting, whatever the descriptor's own mode is. The mode is switched for the moment: another
/// thread could notice only on a socket that is not connected yet.
pub(crate) fn connect_now(socket: impl AsFd, to: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the arguments are plain numbers.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let blocking = flags & libc::O_NONBLOCK == 0;
    if blocking {
        // SAFETY: the arguments are plain numbers.
        check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    }
    // SAFETY: the address is readable for the call, and the length is its own.
    let result = check(unsafe { libc::connect(fd, to.as_ptr().cast(), to.len() as libc::socklen_t) });
    if blocking {
        // SAFETY: the arguments are plain numbers.
        check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) })?;
    }
    result.map(drop)
}

/// Whether operations on the descriptor wait.
pub(crate) fn is_blocking(socket: impl AsFd) -> io::Result<bool> {
    // SAFETY: the arguments are plain numbers.
    let flags = check(unsafe { libc::fcntl(socket.as_fd().as_raw_fd(), libc::F_GETFL) })?;
    Ok(flags & libc::O_NONBLOCK == 0)
}

/// Dissolves a connection attempt (`AF_UNSPEC`, connect(2)).
pub(crate) fn disconnect(socket: impl AsFd) -> io::Result<()> {
    connect_now(socket, &[0; 16])
}

pub(crate) fn bind(socket: impl AsFd, to: SocketAddr) -> io::Result<()> {
    let bytes = sockaddr::write(to, to.is_ipv6());
    // SAFETY: the address is readable for the call, and the length is its own.
    check(unsafe {
        libc::bind(socket.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len() as libc::socklen_t)
    })
    .map(drop)
}

pub(crate) fn listen(socket: impl AsFd, backlog: i32) -> io::Result<()> {
    // SAFETY: the arguments are plain numbers.
    check(unsafe { libc::listen(socket.as_fd().as_raw_fd(), backlog) }).map(drop)
}

/// The local address of an Internet socket, v4-mapped addresses as IPv4.
pub(crate) fn local(socket: impl AsFd) -> io::Result<SocketAddr> {
    let mut bytes = [0_u8; sockaddr::MAX_LEN];
    let mut len = bytes.len() as libc::socklen_t;
    // SAFETY: the buffer and its length are writable for the call.
    check(unsafe { libc::getsockname(socket.as_fd().as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut len) })?;
    inet(&bytes[..(len as usize).min(bytes.len())])
}

/// The inode of a socket, which names it in `/proc`.
pub(crate) fn inode(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

/// Sends one message without waiting. `to` is empty for a connected socket.
pub(crate) fn send(
    socket: impl AsFd,
    payload: &[u8],
    to: &[u8],
    control: &[u8],
    flags: i32,
) -> io::Result<usize> {
    let mut piece = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: all-zero bytes are a valid value of this plain structure.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    if !to.is_empty() {
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = to.len() as libc::socklen_t;
    }
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = control.len() as _;
    }
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer of the header names a slice that lives across the call, with its own length, and
    // the kernel only reads them.
    count(unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) })
}

/// What [`receive`] received.
#[derive(Debug)]
pub(crate) struct Received {
    /// The length that `recvmsg` returned; beyond the buffer's with `MSG_TRUNC`.
    pub(crate) len: usize,
    pub(crate) from: Option<SocketAddr>,
    pub(crate) control_len: usize,
    pub(crate) flags: i32,
}

/// Receives one message without waiting.
pub(crate) fn receive(
    socket: impl AsFd,
    payload: &mut [u8],
    control: &mut [u8],
    flags: i32,
) -> io::Result<Received> {
    let mut name = [0_u8; sockaddr::MAX_LEN];
    let mut piece = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: all-zero bytes are a valid value of this plain structure.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = name.len() as libc::socklen_t;
    if !control.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len() as _;
    }
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: every pointer of the header names a buffer that lives across the call and is writable, with its
    // own length.
    let len = count(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) })?;
    Ok(Received {
        len,
        from: inet(&name[..(message.msg_namelen as usize).min(name.len())]).ok(),
        control_len: message.msg_controllen as usize,
        flags: message.msg_flags,
    })
}

fn inet(bytes: &[u8]) -> io::Result<SocketAddr> {
    match SockAddr::parse(bytes) {
        SockAddr::Inet { to, .. } => Ok(to),
        _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    }
}
