//! The messages, as pure functions over bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_path::{ConnectFailure, Destination, ResolveFailure};

use crate::fronts::dial::DialFailure;
use crate::fronts::target::{Target, TargetError};

/// The protocol's version (RFC 1928 §3).
pub(super) const VERSION: u8 = 5;
/// The version of the user name and password exchange (RFC 1929 §2).
pub(super) const AUTH_VERSION: u8 = 1;
/// No authentication (RFC 1928 §3).
pub(super) const NO_AUTH: u8 = 0x00;
/// User name and password (RFC 1928 §3).
pub(super) const PASSWORD: u8 = 0x02;
/// None of the offered methods (RFC 1928 §3).
pub(super) const NO_METHOD: u8 = 0xff;

const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

/// What a parser says of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The message has at least this many bytes, which is more than there are. Never fewer than it has.
    Needs(usize),
    /// The message, which takes all the bytes.
    Done(T),
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// Another version.
    #[error("version {0} is not spoken here")]
    Version(u8),
    /// More bytes than the message has.
    #[error("bytes after the message")]
    Trailing,
    /// The client offers no acceptable method.
    #[error("the client offers no acceptable authentication method")]
    NoMethod,
    /// Wrong user name or password.
    #[error("wrong user name or password")]
    Credentials,
    /// An unknown command.
    #[error("command {0} is not supported")]
    Command(u8),
    /// An unknown address type.
    #[error("address type {0} is not supported")]
    AddressType(u8),
    /// The host is neither an address nor a name.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A fragment of a datagram; reassembly is optional (RFC 1928 §7) and not done.
    #[error("fragmented datagrams are not supported")]
    Fragment,
    /// A datagram that is too short for its header.
    #[error("a truncated datagram")]
    Truncated,
}

/// What a client wants (RFC 1928 §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A TCP connection to the target.
    Connect(Target),
    /// A UDP association; the client expects to send from this address, zeros where it does not know.
    Associate(Address),
}

/// The address of a request or datagram. Unlike a [`Target`] it may have port 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The host.
    pub host: Destination,
    /// The port.
    pub port: u16,
}

/// The reply codes (RFC 1928 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// Done.
    Succeeded = 0,
    /// None of the other codes fits.
    GeneralFailure = 1,
    /// A policy forbids it.
    NotAllowed = 2,
    /// No route, or the tunnel is down.
    NetworkUnreachable = 3,
    /// The host does not exist or does not answer.
    HostUnreachable = 4,
    /// The target answered with RST.
    Refused = 5,
    /// A router dropped the packet because its time to live ran out.
    TtlExpired = 6,
    /// BIND and unknown commands.
    CommandNotSupported = 7,
    /// An unknown address type.
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// Writes the reply with the bound address.
    pub fn encode(self, bound: SocketAddr) -> Vec<u8> {
        let mut bytes = vec![VERSION, self as u8, 0];
        push_address(&mut bytes, bound);
        bytes
    }
}

impl From<&DialFailure> for Reply {
    fn from(failure: &DialFailure) -> Self {
        match failure {
            DialFailure::Connect(failure) => failure.into(),
            DialFailure::Resolve(ResolveFailure::Down(_) | ResolveFailure::Closed) => {
                Self::NetworkUnreachable
            }
            DialFailure::Resolve(_) | DialFailure::NoAddress(_) => Self::HostUnreachable,
            DialFailure::NotReady => Self::NetworkUnreachable,
            DialFailure::Outside(error) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused => Self::Refused,
                std::io::ErrorKind::NetworkUnreachable => Self::NetworkUnreachable,
                std::io::ErrorKind::PermissionDenied => Self::NotAllowed,
                _ => Self::HostUnreachable,
            },
        }
    }
}

impl From<&ConnectFailure> for Reply {
    fn from(failure: &ConnectFailure) -> Self {
        match failure {
            ConnectFailure::Refused => Self::Refused,
            ConnectFailure::Reset | ConnectFailure::Exhausted(_) => Self::GeneralFailure,
            ConnectFailure::TimedOut(_) => Self::HostUnreachable,
            ConnectFailure::Denied(_) => Self::NotAllowed,
            ConnectFailure::NoRoute(_) | ConnectFailure::Down(_) | ConnectFailure::Closed => {
                Self::NetworkUnreachable
            }
            ConnectFailure::Unreachable { from, kind, code } => unreachable_reply(*from, *kind, *code),
        }
    }
}

/// The reply for an ICMP error (RFC 792; RFC 4443 §3.1, §3.3).
fn unreachable_reply(from: IpAddr, kind: u8, code: u8) -> Reply {
    match (from.is_ipv4(), kind, code) {
        (true, 3, 0 | 6 | 11) | (false, 1, 0 | 5) => Reply::NetworkUnreachable,
        (true, 3, 3) | (false, 1, 4) => Reply::Refused,
        (true, 3, 9 | 10 | 13) | (false, 1, 1) => Reply::NotAllowed,
        (true, 11, _) | (false, 3, _) => Reply::TtlExpired,
        _ => Reply::HostUnreachable,
    }
}

/// The methods that a client offers: `VER NMETHODS METHODS` (RFC 1928 §3).
pub fn parse_greeting(bytes: &[u8]) -> Result<Parsed<Vec<u8>>, SocksError> {
    let mut reader = Reader::new(bytes, VERSION)?;
    let methods = reader.counted().map(<[u8]>::to_vec);
    reader.finish(methods)
}

/// A user name and password: `VER ULEN UNAME PLEN PASSWD` (RFC 1929 §2).
pub fn parse_credentials(bytes: &[u8]) -> Result<Parsed<(Vec<u8>, Vec<u8>)>, SocksError> {
    let mut reader = Reader::new(bytes, AUTH_VERSION)?;
    let user = reader.counted().map(<[u8]>::to_vec);
    let password = user.and_then(|user| Some((user, reader.counted()?.to_vec())));
    reader.finish(password)
}

/// A request: `VER CMD RSV ATYP DST.ADDR DST.PORT` (RFC 1928 §4).
pub fn parse_request(bytes: &[u8]) -> Result<Parsed<Command>, SocksError> {
    let mut reader = Reader::new(bytes, VERSION)?;
    let Some(&[command, _reserved]) = reader.take(2) else { return reader.finish(None) };
    if !matches!(command, 1 | 3) {
        return Err(SocksError::Command(command));
    }
    let address = reader.address()?;
    match (reader.finish(address)?, command) {
        (Parsed::Needs(total), _) => Ok(Parsed::Needs(total)),
        (Parsed::Done(address), 3) => Ok(Parsed::Done(Command::Associate(address))),
        (Parsed::Done(Address { port: 0, .. }), _) => Err(TargetError::BadPort("0".to_owned()).into()),
        (Parsed::Done(Address { host, port }), _) => {
            Ok(Parsed::Done(Command::Connect(Target { host, port })))
        }
    }
}

/// A datagram of a client: `RSV FRAG ATYP DST.ADDR DST.PORT DATA` (RFC 1928 §7).
pub fn parse_datagram(bytes: &[u8]) -> Result<(Address, &[u8]), SocksError> {
    let mut reader = Reader { bytes, at: 0, needs: 0 };
    let Some(&[_, _, fragment]) = reader.take(3) else { return Err(SocksError::Truncated) };
    if fragment != 0 {
        return Err(SocksError::Fragment);
    }
    let address = reader.address()?.ok_or(SocksError::Truncated)?;
    Ok((address, &bytes[reader.at..]))
}

/// Writes the header of a datagram for the client.
pub(super) fn write_datagram_header(bytes: &mut Vec<u8>, from: SocketAddr) {
    bytes.extend([0, 0, 0]);
    push_address(bytes, from);
}

fn push_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(IPV4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(IPV6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(address.port().to_be_bytes());
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    needs: usize,
}

impl<'a> Reader<'a> {
    /// Reads the version, which every message begins with.
    fn new(bytes: &'a [u8], version: u8) -> Result<Self, SocksError> {
        let mut reader = Self { bytes, at: 0, needs: 0 };
        match reader.take(1) {
            Some(&[found]) if found != version => Err(SocksError::Version(found)),
            _ => Ok(reader),
        }
    }

    /// The next `count` bytes; `None` once anything was missing.
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        if self.needs > 0 {
            return None;
        }
        match self.bytes.get(self.at..self.at + count) {
            Some(taken) => {
                self.at += count;
                Some(taken)
            }
            None => {
                self.needs = self.at + count;
                None
            }
        }
    }

    /// A byte with a count, and as many bytes.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let count = self.take(1)?[0];
        self.take(count.into())
    }

    fn address(&mut self) -> Result<Option<Address>, SocksError> {
        let Some(&[kind]) = self.take(1) else { return Ok(None) };
        let host = match kind {
            IPV4 => self
                .take(4)
                .and_then(|octets| octets.try_into().ok())
                .map(|octets: [u8; 4]| Destination::Address(Ipv4Addr::from(octets).into())),
            IPV6 => self.take(16).and_then(|octets| octets.try_into().ok()).map(|octets: [u8; 16]| {
                Destination::Address(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
            }),
            DOMAIN => match self.counted() {
                Some(name) => Some(Target::new(&String::from_utf8_lossy(name), 0)?.host),
                None => None,
            },
            other => return Err(SocksError::AddressType(other)),
        };
        let Some(&[high, low]) = self.take(2) else { return Ok(None) };
        Ok(host.map(|host| Address { host, port: u16::from_be_bytes([high, low]) }))
    }

    fn finish<T>(self, value: Option<T>) -> Result<Parsed<T>, SocksError> {
        match value {
            Some(_) if self.at < self.bytes.len() => Err(SocksError::Trailing),
            Some(value) => Ok(Parsed::Done(value)),
            None => Ok(Parsed::Needs(self.needs)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a message the way a server reads it: exactly what the parser asks for.
    fn fed<T: std::fmt::Debug>(
        bytes: &[u8],
        parse: impl Fn(&[u8]) -> Result<Parsed<T>, SocksError>,
    ) -> Result<T, SocksError> {
        let mut have = 0;
        loop {
            match parse(&bytes[..have])? {
                Parsed::Done(value) => {
                    assert_eq!(have, bytes.len(), "the whole message is consumed");
                    return Ok(value);
                }
                Parsed::Needs(total) => {
                    assert!(total > have && total <= bytes.len(), "{total} of {}", bytes.len());
                    have = total;
                }
            }
        }
    }

    #[test]
    fn messages_are_read_without_a_byte_too_many() {
        assert_eq!(fed(&[5, 2, 0, 2], parse_greeting), Ok(vec![0, 2]));
        assert_eq!(fed(&[5, 0], parse_greeting), Ok(vec![]));
        assert_eq!(fed(b"\x01\x02me\x01x", parse_credentials), Ok((b"me".to_vec(), b"x".to_vec())));
        assert_eq!(fed(b"\x01\x00\x00", parse_credentials), Ok((vec![], vec![])));
        for (bytes, target) in [
            (&b"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"[..], "10.0.0.1:80"),
            (b"\x05\x01\x00\x03\x0bdb.internal\x15\x38", "db.internal:5432"),
            (b"\x05\x01\x00\x03\x0810.0.0.1\x00\x50", "10.0.0.1:80"),
            (b"\x05\x01\x00\x04\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50", "[fd00::1]:80"),
            (b"\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01\x00\x50", "10.0.0.1:80"),
        ] {
            assert_eq!(fed(bytes, parse_request), Ok(Command::Connect(Target::parse(target, None).unwrap())));
        }
        let nowhere = Address { host: Destination::Address([0, 0, 0, 0].into()), port: 0 };
        let associate = fed(b"\x05\x03\x00\x01\0\0\0\0\0\0", parse_request);
        assert_eq!(associate, Ok(Command::Associate(nowhere)));
    }

    #[test]
    fn hostile_messages_are_typed_errors() {
        assert_eq!(parse_greeting(&[4]), Err(SocksError::Version(4)));
        assert_eq!(parse_greeting(&[5, 1, 0, 0]), Err(SocksError::Trailing));
        assert_eq!(parse_request(&[5, 2, 0]), Err(SocksError::Command(2)));
        assert_eq!(parse_request(&[5, 1, 0, 9]), Err(SocksError::AddressType(9)));
        for name in [&b""[..], b"a b", b"\xff\xfe", b"a\0", b"a\r\nHost: b"] {
            let mut bytes = vec![5, 1, 0, 3, name.len() as u8];
            bytes.extend(name);
            bytes.extend([0, 80]);
            assert!(matches!(parse_request(&bytes), Err(SocksError::Target(_))), "{name:?}");
        }
        assert!(matches!(parse_request(b"\x05\x01\x00\x01\x0a\0\0\x01\0\0"), Err(SocksError::Target(_))));
    }

    #[test]
    fn datagrams_are_split_from_their_header() {
        let mut bytes = Vec::new();
        write_datagram_header(&mut bytes, "10.0.0.1:53".parse().unwrap());
        bytes.extend(b"data");
        let (address, data) = parse_datagram(&bytes).unwrap();
        assert_eq!((address.host, address.port), (Destination::Address([10, 0, 0, 1].into()), 53));
        assert_eq!(data, b"data");
        for cut in 0..10 {
            assert_eq!(parse_datagram(&bytes[..cut]), Err(SocksError::Truncated), "{cut}");
        }
        bytes[2] = 1;
        assert_eq!(parse_datagram(&bytes), Err(SocksError::Fragment));
    }

    #[test]
    fn replies_carry_the_reason() {
        let icmp =
            |from: &str, kind, code| ConnectFailure::Unreachable { from: from.parse().unwrap(), kind, code };
        for (failure, reply) in [
            (ConnectFailure::Refused, 5),
            (ConnectFailure::TimedOut(std::time::Duration::ZERO), 4),
            (ConnectFailure::NoRoute([10, 0, 0, 1].into()), 3),
            (ConnectFailure::Denied(String::new()), 2),
            (ConnectFailure::Closed, 3),
            (ConnectFailure::Reset, 1),
            (icmp("10.0.0.1", 3, 0), 3),
            (icmp("10.0.0.1", 3, 1), 4),
            (icmp("10.0.0.1", 3, 13), 2),
            (icmp("10.0.0.1", 11, 0), 6),
            (icmp("fd00::1", 1, 4), 5),
            (icmp("fd00::1", 3, 0), 6),
        ] {
            assert_eq!(Reply::from(&failure) as u8, reply, "{failure:?}");
        }
        let bytes = Reply::Refused.encode("0.0.0.0:0".parse().unwrap());
        assert_eq!(bytes, [5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
}
