//! TSMP, the messages between nodes inside the tunnel (IP protocol 99): reject, ping, pong.

use std::net::{IpAddr, SocketAddr};

use adit_tunnel::Checksum;
use adit_tunnel::view::{IpView, protocol};

/// The IP protocol number ("any private encryption scheme").
pub const PROTOCOL: u8 = 99;

/// Why a peer does not let a connection in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// Its packet filter, which is the tailnet's access policy.
    Acl,
    /// It takes no connections at all.
    ShieldsUp,
    /// It does not forward for others.
    IpForwarding,
    /// A firewall of its machine.
    HostFirewall,
    /// A reason with this letter.
    Other(u8),
}

impl RejectReason {
    /// Type and code of the ICMP error that says the same (RFC 792, RFC 1812 §5.2.7.1), or of ICMPv6 (RFC 4443 §3.1).
    fn icmp(self, v4: bool) -> [u8; 2] {
        match (self, v4) {
            // Host administratively prohibited; of ICMPv6, "failed ingress policy" is nearest.
            (Self::ShieldsUp, true) => [3, 10],
            (Self::ShieldsUp, false) => [1, 5],
            // Network unreachable; no route.
            (Self::IpForwarding, true) => [3, 0],
            (Self::IpForwarding, false) => [1, 0],
            // Communication administratively prohibited.
            (Self::Acl | Self::HostFirewall | Self::Other(_), true) => [3, 13],
            (Self::Acl | Self::HostFirewall | Self::Other(_), false) => [1, 1],
        }
    }

    fn letter(self) -> u8 {
        match self {
            Self::Acl => b'A',
            Self::ShieldsUp => b'S',
            Self::IpForwarding => b'F',
            Self::HostFirewall => b'W',
            Self::Other(letter) => letter,
        }
    }

    fn of(letter: u8) -> Self {
        match letter {
            b'A' => Self::Acl,
            b'S' => Self::ShieldsUp,
            b'F' => Self::IpForwarding,
            b'W' => Self::HostFirewall,
            other => Self::Other(other),
        }
    }
}

/// A connection that a peer does not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The protocol of the connection.
    pub protocol: u8,
    /// Why.
    pub reason: RejectReason,
    /// Our end.
    pub source: SocketAddr,
    /// What was to be reached.
    pub target: SocketAddr,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A connection of ours was rejected.
    Reject(Reject),
    /// To be answered with the same eight bytes.
    Ping([u8; 8]),
    /// An answer.
    Pong([u8; 8]),
    /// Something else, to be ignored.
    Unknown,
}

/// Reads the message inside an IP packet of [`PROTOCOL`].
pub fn parse(ip: &IpView<'_>) -> Option<Message> {
    let (kind, body) = ip.payload().split_first()?;
    match kind {
        b'!' => {
            let &[protocol, reason, ..] = body.first_chunk::<2>()?;
            let port = |at: usize| body.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
            Some(Message::Reject(Reject {
                protocol,
                reason: RejectReason::of(reason),
                source: SocketAddr::new(ip.destination(), port(2)?),
                target: SocketAddr::new(ip.source(), port(4)?),
            }))
        }
        b'p' => Some(Message::Ping(*body.first_chunk()?)),
        b'o' => Some(Message::Pong(*body.first_chunk()?)),
        _ => Some(Message::Unknown),
    }
}

/// Length of an answer to a ping, with the longer IP header.
pub(crate) const PONG_LEN: usize = 40 + 11;

/// Writes the packet that answers a ping; returns its length. There is no peer API here, so its port is 0.
pub(crate) fn write_pong(
    data: &[u8; 8],
    from: IpAddr,
    to: IpAddr,
    out: &mut [u8; PONG_LEN],
) -> Option<usize> {
    let mut message = [0; 11];
    message[0] = b'o';
    message[1..9].copy_from_slice(data);
    write_packet(PROTOCOL, from, to, &message, out)
}

/// Length of a rejection, with the longer IP header.
pub(crate) const REJECT_LEN: usize = 40 + 7;

/// Writes the packet that tells a peer that its connection is not let in; returns its length.
pub(crate) fn write_reject(reject: &Reject, out: &mut [u8; REJECT_LEN]) -> Option<usize> {
    let mut message = [b'!', reject.protocol, reject.reason.letter(), 0, 0, 0, 0];
    message[3..5].copy_from_slice(&reject.source.port().to_be_bytes());
    message[5..7].copy_from_slice(&reject.target.port().to_be_bytes());
    write_packet(PROTOCOL, reject.target.ip(), reject.source.ip(), &message, out)
}

/// Length of an ICMP error about a rejected connection, with the longer IP headers.
pub(crate) const ICMP_LEN: usize = 40 + 8 + 40 + 8;

/// Writes what a firewall would say in place of the peer: destination unreachable. The netstack and programs know it;
/// TSMP they do not.
pub(crate) fn write_icmp(reject: &Reject, sequence: u32, out: &mut [u8; ICMP_LEN]) -> Option<usize> {
    let Reject { protocol, reason, source, target } = *reject;
    write_unreachable(target.ip(), reason.icmp(source.is_ipv4()), protocol, [source, target], sequence, out)
}

/// Writes an ICMP error of `from` with this type and code, about a packet between `ends`, ours first; returns its length.
/// `sequence` is that of a TCP segment.
pub(crate) fn write_unreachable(
    from: IpAddr,
    kind: [u8; 2],
    number: u8,
    ends: [SocketAddr; 2],
    sequence: u32,
    out: &mut [u8; ICMP_LEN],
) -> Option<usize> {
    let [ours, target] = ends;
    let mut ports = [0; 8];
    ports[..2].copy_from_slice(&ours.port().to_be_bytes());
    ports[2..4].copy_from_slice(&target.port().to_be_bytes());
    match number {
        protocol::TCP => ports[4..].copy_from_slice(&sequence.to_be_bytes()),
        protocol::UDP => ports[5] = 8,
        _ => {}
    }
    let mut message = [0; 8 + 40 + 8];
    let mut quoted = [0; 48];
    let quoted_len = write_packet(number, ours.ip(), target.ip(), &ports, &mut quoted)?;
    let number = if ours.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
    message[..2].copy_from_slice(&kind);
    message.get_mut(8..8 + quoted_len)?.copy_from_slice(quoted.get(..quoted_len)?);
    let message = message.get_mut(..8 + quoted_len)?;
    let sum = match number {
        protocol::ICMP => Checksum::new(),
        _ => Checksum::pseudo_header(from, ours.ip(), number, message.len()),
    };
    let sum = sum.bytes(message).finish();
    message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
    write_packet(number, from, ours.ip(), message, out)
}

/// Writes an IP packet; `None` if the families differ or it does not fit.
pub(crate) fn write_packet(
    number: u8,
    from: IpAddr,
    to: IpAddr,
    payload: &[u8],
    out: &mut [u8],
) -> Option<usize> {
    let header = if from.is_ipv4() { 20 } else { 40 };
    let len = header + payload.len();
    let out = out.get_mut(..len)?;
    let (head, body) = out.split_at_mut(header);
    body.copy_from_slice(payload);
    head.fill(0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            head[0] = 0x45;
            head[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
            head[6] = 0x40;
            (head[8], head[9]) = (64, number);
            head[12..16].copy_from_slice(&from.octets());
            head[16..].copy_from_slice(&to.octets());
            let sum = Checksum::new().bytes(head).finish();
            head[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            head[0] = 0x60;
            head[4..6].copy_from_slice(&u16::try_from(payload.len()).ok()?.to_be_bytes());
            (head[6], head[7]) = (number, 64);
            head[8..24].copy_from_slice(&from.octets());
            head[24..].copy_from_slice(&to.octets());
        }
        _ => return None,
    }
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(from: &str, to: &str, message: &[u8]) -> Vec<u8> {
        let mut out = [0; 100];
        let len =
            write_packet(PROTOCOL, from.parse().unwrap(), to.parse().unwrap(), message, &mut out).unwrap();
        out[..len].to_vec()
    }

    #[test]
    fn a_reject_names_both_ends_and_becomes_an_icmp_error_about_them() {
        for (peer, us) in [("100.64.0.2", "100.64.0.1"), ("fd7a:115c:a1e0::2", "fd7a:115c:a1e0::1")] {
            let bytes = packet(peer, us, b"!\x06A\x12\x34\x15\x38");
            let Some(Message::Reject(reject)) = parse(&IpView::parse(&bytes).unwrap()) else {
                panic!("no reject")
            };
            assert_eq!((reject.protocol, reject.reason), (6, RejectReason::Acl));
            assert_eq!(reject.source, SocketAddr::new(us.parse().unwrap(), 0x1234));
            assert_eq!(reject.target, SocketAddr::new(peer.parse().unwrap(), 5432));
            let mut written = [0; REJECT_LEN];
            let len = write_reject(&reject, &mut written).unwrap();
            assert_eq!(written[..len], bytes, "what is written reads back");
            let mut out = [0; ICMP_LEN];
            let len = write_icmp(&reject, 7, &mut out).unwrap();
            let ip = IpView::parse(&out[..len]).unwrap();
            assert_eq!((ip.source().to_string(), ip.destination().to_string()), (peer.into(), us.into()));
            let quoted = IpView::parse_unsized(&ip.payload()[8..]).unwrap();
            assert_eq!((quoted.source().to_string(), quoted.protocol()), (us.into(), 6));
            assert_eq!(quoted.payload()[..8], [0x12, 0x34, 0x15, 0x38, 0, 0, 0, 7]);
        }
    }

    #[test]
    fn a_ping_is_answered_and_what_is_cut_off_is_nothing() {
        let bytes = packet("100.64.0.2", "100.64.0.1", b"p12345678");
        assert_eq!(parse(&IpView::parse(&bytes).unwrap()), Some(Message::Ping(*b"12345678")));
        let mut out = [0; PONG_LEN];
        let (from, to) = ("100.64.0.1".parse().unwrap(), "100.64.0.2".parse().unwrap());
        let len = write_pong(b"12345678", from, to, &mut out).unwrap();
        assert_eq!(parse(&IpView::parse(&out[..len]).unwrap()), Some(Message::Pong(*b"12345678")));
        for cut in [&b""[..], b"p1234567", b"!\x06A\x12\x34\x15", b"!"] {
            let bytes = packet("100.64.0.2", "100.64.0.1", cut);
            assert_eq!(parse(&IpView::parse(&bytes).unwrap()), None);
        }
        let bytes = packet("100.64.0.2", "100.64.0.1", b"a and a key");
        assert_eq!(parse(&IpView::parse(&bytes).unwrap()), Some(Message::Unknown));
    }
}
