//! `struct sockaddr` as bytes of a program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The longest address the kernel takes (`struct sockaddr_storage`).
pub const MAX_LEN: usize = 128;

/// A parsed `struct sockaddr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SockAddr {
    /// An Internet address. A v4-mapped IPv6 address (RFC 4291 §2.5.5.2) is given as IPv4.
    Inet {
        /// Where to.
        to: SocketAddr,
        /// Whether it was written as `AF_INET6`.
        six: bool,
    },
    /// A path in the file system; abstract and unnamed addresses have none.
    Unix {
        /// The path without its terminator.
        path: Vec<u8>,
    },
    /// `AF_UNSPEC`: dissolves the association of a socket.
    Unspecified {
        /// What the bytes mean to `sendto(2)` on an IPv4 UDP socket, which takes `AF_UNSPEC` for `AF_INET`.
        as_inet: Option<SocketAddrV4>,
    },
    /// Another family, which does not reach the Internet.
    Other(u16),
    /// Too short for its family: the kernel answers `EINVAL`.
    Short,
}

impl SockAddr {
    /// Reads an address. Bytes beyond the structure are ignored, as the kernel does.
    pub fn parse(bytes: &[u8]) -> Self {
        let Some((family, _)) = bytes.split_first_chunk::<2>() else { return Self::Short };
        let family = u16::from_ne_bytes(*family);
        match i32::from(family) {
            libc::AF_INET => match inet(bytes) {
                Some(to) => Self::Inet { to: to.into(), six: false },
                None => Self::Short,
            },
            libc::AF_INET6 => match inet6(bytes) {
                Some(to) => Self::Inet { to: unmap(to.into()), six: true },
                None => Self::Short,
            },
            libc::AF_UNIX => Self::Unix { path: unix(&bytes[2..]) },
            libc::AF_UNSPEC => Self::Unspecified { as_inet: inet(bytes) },
            _ => Self::Other(family),
        }
    }
}

/// The IPv4 address within a v4-mapped IPv6 address; any other address as it is.
pub fn unmap(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// Writes an address as `AF_INET`, or as `AF_INET6` (an IPv4 address becomes v4-mapped) when `six`.
pub fn write(address: SocketAddr, six: bool) -> Vec<u8> {
    let address = match address {
        SocketAddr::V4(v4) if six => SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()),
        address => address,
    };
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_ne_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn inet(bytes: &[u8]) -> Option<SocketAddrV4> {
    let bytes: &[u8; 16] = bytes.first_chunk()?;
    let ip = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
    Some(SocketAddrV4::new(ip, u16::from_be_bytes([bytes[2], bytes[3]])))
}

fn inet6(bytes: &[u8]) -> Option<SocketAddrV6> {
    // RFC 2133 had no scope, and the kernel still takes that length.
    let start: &[u8; 24] = bytes.first_chunk()?;
    let ip: [u8; 16] = *start[8..].first_chunk()?;
    let flow = u32::from_ne_bytes(*start[4..].first_chunk()?);
    let scope =
        bytes.get(24..).and_then(|rest| rest.first_chunk()).map_or(0, |scope| u32::from_ne_bytes(*scope));
    Some(SocketAddrV6::new(Ipv6Addr::from(ip), u16::from_be_bytes([start[2], start[3]]), flow, scope))
}

fn unix(path: &[u8]) -> Vec<u8> {
    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
    path[..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_come_back_as_written() {
        for text in ["10.77.0.5:5432", "[fd77::5]:443"] {
            let address: SocketAddr = text.parse().expect("an address");
            let parsed = SockAddr::parse(&write(address, address.is_ipv6()));
            assert_eq!(parsed, SockAddr::Inet { to: address, six: address.is_ipv6() });
        }
    }

    #[test]
    fn a_v4_mapped_address_is_seen_as_ipv4() {
        let address: SocketAddr = "10.77.0.5:80".parse().expect("an address");
        let bytes = write(address, true);
        assert_eq!(bytes.len(), 28);
        assert_eq!(SockAddr::parse(&bytes), SockAddr::Inet { to: address, six: true });
    }

    #[test]
    fn a_structure_shorter_than_its_family_wants_is_short() {
        let bytes = write("10.77.0.5:80".parse().expect("an address"), false);
        assert_eq!(SockAddr::parse(&bytes[..15]), SockAddr::Short);
        assert_eq!(SockAddr::parse(&bytes[..1]), SockAddr::Short);
        let bytes = write("[fd77::5]:80".parse().expect("an address"), true);
        assert_eq!(SockAddr::parse(&bytes[..23]), SockAddr::Short);
        assert!(matches!(SockAddr::parse(&bytes[..24]), SockAddr::Inet { .. }));
    }

    #[test]
    fn an_unspecified_family_still_shows_what_sendto_would_make_of_it() {
        let mut bytes = write("10.77.0.5:80".parse().expect("an address"), false);
        bytes[..2].copy_from_slice(&(libc::AF_UNSPEC as u16).to_ne_bytes());
        let SockAddr::Unspecified { as_inet: Some(to) } = SockAddr::parse(&bytes) else {
            panic!("unspecified")
        };
        assert_eq!(to.to_string(), "10.77.0.5:80");
    }

    #[test]
    fn a_unix_path_ends_at_its_terminator_and_an_abstract_name_is_no_path() {
        let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        bytes.extend(b"/run/nscd/socket\0garbage");
        assert_eq!(SockAddr::parse(&bytes), SockAddr::Unix { path: b"/run/nscd/socket".to_vec() });
        let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
        bytes.extend(b"\0abstract");
        assert_eq!(SockAddr::parse(&bytes), SockAddr::Unix { path: Vec::new() });
    }
}
