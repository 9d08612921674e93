//! Who says that a destination cannot be reached: the kernel keeps only an error number of it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ConnectFailure;

/// ICMP destination unreachable (RFC 792) and time exceeded, and those of ICMPv6 (RFC 4443 §3).
const ERRORS_V4: [u8; 2] = [3, 11];
const ERRORS_V6: [u8; 2] = [1, 3];
/// Messages that are looked through: a busy machine may get many.
const MOST: usize = 64;

/// Collects ICMP errors while a connection is made.
#[derive(Debug)]
pub(super) struct Witness {
    socket: Socket,
    to: IpAddr,
}

impl Witness {
    /// `None` where raw sockets are not allowed (`CAP_NET_RAW`).
    pub(super) fn of(to: IpAddr) -> Option<Self> {
        let to = to.to_canonical();
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, to })
    }

    /// The first error that came about the destination.
    pub(super) fn testimony(&self) -> Option<ConnectFailure> {
        let mut buffer = [0; 576];
        for _ in 0..MOST {
            let (len, _, from) = match recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok(received) => received,
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
            let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
            if let (Some(from), Some((kind, code))) = (from, error_about(self.to, &buffer[..len.min(576)])) {
                return Some(ConnectFailure::Unreachable { from, kind, code });
            }
        }
        None
    }
}

/// Type and code of an ICMP error about a packet to `to`. A raw socket of IPv4 gives the IP header too (raw(7)).
fn error_about(to: IpAddr, packet: &[u8]) -> Option<(u8, u8)> {
    let (errors, message) = match to {
        IpAddr::V4(_) => (ERRORS_V4, packet.get(usize::from(packet.first()? & 15) * 4..)?),
        IpAddr::V6(_) => (ERRORS_V6, packet),
    };
    let (kind, code) = (*message.first()?, *message.get(1)?);
    let quoted = message.get(8..)?;
    let about: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::from(<[u8; 4]>::try_from(quoted.get(16..20)?).ok()?).into(),
        IpAddr::V6(_) => Ipv6Addr::from(<[u8; 16]>::try_from(quoted.get(24..40)?).ok()?).into(),
    };
    (errors.contains(&kind) && about == to).then_some((kind, code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_counts_when_it_quotes_a_packet_to_the_destination() {
        let to: IpAddr = "10.77.1.67".parse().unwrap();
        let mut packet = vec![0x45; 20];
        packet.extend([3, 1, 0, 0, 0, 0, 0, 0]);
        packet.extend([0x45; 16]);
        packet.extend([10, 77, 1, 67]);
        assert_eq!(error_about(to, &packet), Some((3, 1)));
        assert_eq!(error_about("10.77.1.68".parse().unwrap(), &packet), None);
        packet[20] = 0;
        assert_eq!(error_about(to, &packet), None, "an echo reply is no error");
        for len in 0..packet.len() {
            assert_eq!(error_about(to, &packet[..len]), None);
        }
        let to: IpAddr = "fd77::9".parse().unwrap();
        let mut packet = vec![1, 3, 0, 0, 0, 0, 0, 0];
        packet.extend([0; 24]);
        packet.extend("fd77::9".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(error_about(to, &packet), Some((1, 3)));
    }
}
