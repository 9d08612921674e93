//! Echo requests by the kernel (RFC 792, RFC 4443 §4).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::Checksum;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

use super::on_thread;
use crate::{PingFailure, PingKind, Pong};

/// Types of ICMP and of ICMPv6.
const ECHO_REQUEST: (u8, u8) = (8, 128);
const ECHO_REPLY: (u8, u8) = (0, 129);

pub(crate) async fn ping(to: IpAddr, kind: PingKind) -> Result<Pong, PingFailure> {
    let PingKind::Icmp { size, timeout } = kind;
    let work = move || run(to, size, timeout);
    on_thread("adit-ping", work, |error| Err(PingFailure::Exhausted(error.to_string()))).await
}

fn run(to: IpAddr, size: u16, timeout: Duration) -> Result<Pong, PingFailure> {
    let failed = |error: io::Error| match Errno::from_io_error(&error) {
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH) => PingFailure::NoRoute(to),
        Some(Errno::AGAIN) => PingFailure::TimedOut(timeout),
        _ => PingFailure::Exhausted(error.to_string()),
    };
    let token = getrandom::u32().map_err(|error| PingFailure::Exhausted(error.to_string()))?;
    let socket = open(to).map_err(failed)?;
    let request = request(to, token, size);
    let started = Instant::now();
    socket.send_to(&request, &SocketAddr::new(to, 0).into()).map_err(failed)?;
    let mut buffer = [0u8; 2048];
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(PingFailure::TimedOut(timeout));
        }
        socket.set_read_timeout(Some(left)).map_err(failed)?;
        let received = recvfrom(&socket, &mut buffer[..], RecvFlags::empty());
        let (len, _, from) = received.map_err(|error| failed(error.into()))?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
        if from == Some(to) && is_reply(to, &buffer[..len], token) {
            return Ok(Pong { from: to, rtt: started.elapsed() });
        }
    }
}

/// The unprivileged kind where the system allows it (`net.ipv4.ping_group_range`), else a raw socket.
fn open(to: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    Socket::new(domain, Type::DGRAM, Some(protocol))
        .or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)))
}

/// An echo request whose payload begins with `token`: the identifier is the kernel's to choose.
fn request(to: IpAddr, token: u32, size: u16) -> Vec<u8> {
    let kind = if to.is_ipv4() { ECHO_REQUEST.0 } else { ECHO_REQUEST.1 };
    let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 1];
    message.extend_from_slice(&token.to_be_bytes());
    message.resize(8 + usize::from(size).max(4), 0);
    if to.is_ipv4() {
        // Of ICMPv6 the kernel computes it.
        let sum = Checksum::new().bytes(&message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Whether these bytes, perhaps behind an IPv4 header, are the reply to the request with `token`.
fn is_reply(to: IpAddr, bytes: &[u8], token: u32) -> bool {
    let kind = if to.is_ipv4() { ECHO_REPLY.0 } else { ECHO_REPLY.1 };
    let header = match bytes.first() {
        // A raw socket of IPv4 hands out the header too.
        Some(first) if to.is_ipv4() && first >> 4 == 4 => usize::from(first & 15) * 4,
        _ => 0,
    };
    let Some(message) = bytes.get(header..) else { return false };
    message.first() == Some(&kind) && message.get(8..12) == Some(&token.to_be_bytes()[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_told_from_the_request_and_from_other_replies() {
        for to in ["10.0.0.1", "fd00::1"] {
            let to: IpAddr = to.parse().unwrap();
            let mut message = request(to, 7, 56);
            assert_eq!(message.len(), 64);
            assert!(!is_reply(to, &message, 7), "the request itself comes back over loopback");
            message[0] = if to.is_ipv4() { 0 } else { 129 };
            assert!(is_reply(to, &message, 7));
            assert!(!is_reply(to, &message, 8));
            if to.is_ipv4() {
                let header = [&[0x45][..], &[0; 19], &message].concat();
                assert!(is_reply(to, &header, 7));
            }
        }
    }
}
