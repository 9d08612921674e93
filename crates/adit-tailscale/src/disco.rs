//! Disco, the messages of path discovery: boxes between two disco keys.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use adit_tunnel::Dropped;

use crate::seal::{NONCE, TAG};
use crate::{DiscoKey, NodeKey, Shared};

const MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
/// What stands before the box: magic and the sender's key.
const CLEAR: usize = MAGIC.len() + 32;
/// An IPv6 or mapped IPv4 address and a port.
const ADDRESS: usize = 18;
/// As many endpoints are sent to a peer at most.
pub const MAX_ENDPOINTS: usize = 20;
/// The longest message that is written.
const MAX: usize = CLEAR + NONCE + TAG + 2 + MAX_ENDPOINTS * ADDRESS;

const PING: u8 = 1;
const PONG: u8 = 2;
const CALL_ME_MAYBE: u8 = 3;

/// The number of a ping, which its pong repeats.
pub type Transaction = [u8; 12];

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// To be answered on the path that it came by.
    Ping {
        /// Its number.
        transaction: Transaction,
        /// The node that sends it, which must be the one with the disco key. Older nodes do not say.
        node: Option<NodeKey>,
    },
    /// An answer.
    Pong {
        /// The ping's number.
        transaction: Transaction,
        /// Where the ping came from, as its receiver saw it.
        seen: SocketAddr,
    },
    /// The sender may be found at these places, and sends pings from there now.
    CallMeMaybe(Endpoints<'a>),
    /// Something else, such as a message about relays of peers, to be ignored.
    Unknown,
}

/// The endpoints of a [`Message::CallMeMaybe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints<'a>(&'a [u8]);

impl Iterator for Endpoints<'_> {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        let (address, rest) = self.0.split_first_chunk::<ADDRESS>()?;
        self.0 = rest;
        read_address(address)
    }
}

/// Who sends a message, if the packet is one.
pub fn sender(packet: &[u8]) -> Option<DiscoKey> {
    packet.strip_prefix(&MAGIC)?.first_chunk().copied().map(DiscoKey)
}

/// Opens a packet with what we share with its [`sender`].
///
/// # Errors
/// [`Dropped::Unauthentic`] if the box does not open, [`Dropped::Malformed`] if its content is cut off.
pub fn open<'a>(shared: &Shared, packet: &'a mut [u8]) -> Result<Message<'a>, Dropped> {
    let sealed = packet.get_mut(CLEAR..).ok_or(Dropped::Malformed)?;
    let text: &[u8] = shared.open(sealed).ok_or(Dropped::Unauthentic)?;
    parse(text).ok_or(Dropped::Malformed)
}

/// Reads the text of an opened message; `None` if it is cut off.
pub fn parse(text: &[u8]) -> Option<Message<'_>> {
    let (&[kind, version], body) = text.split_first_chunk::<2>()?;
    match kind {
        _ if version != 0 => Some(Message::Unknown),
        PING => {
            let (transaction, rest) = body.split_first_chunk()?;
            // What follows the key is padding that probes the MTU.
            Some(Message::Ping { transaction: *transaction, node: rest.first_chunk().copied().map(NodeKey) })
        }
        PONG => {
            let (transaction, rest) = body.split_first_chunk()?;
            Some(Message::Pong { transaction: *transaction, seen: read_address(rest.first_chunk()?)? })
        }
        CALL_ME_MAYBE => Some(Message::CallMeMaybe(Endpoints(body))),
        _ => Some(Message::Unknown),
    }
}

/// A sealed message, without an allocation.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    bytes: [u8; MAX],
    len: usize,
}

impl Packet {
    /// The bytes for the wire.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn new(ours: DiscoKey, nonce: [u8; NONCE], kind: u8) -> Self {
        let mut packet = Self { bytes: [0; MAX], len: 0 };
        packet.put(&MAGIC);
        packet.put(&ours.0);
        packet.put(&nonce);
        packet.put(&[0; TAG]);
        packet.put(&[kind, 0]);
        packet
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn seal(mut self, shared: &Shared) -> Self {
        let text = CLEAR + NONCE + TAG;
        let nonce = self.bytes.get(CLEAR..).and_then(|bytes| bytes.first_chunk::<NONCE>()).copied();
        if let (Some(nonce), Some(body)) = (nonce, self.bytes.get_mut(text..self.len))
            && let Some(tag) = shared.seal(&nonce, body)
        {
            self.bytes[text - TAG..text].copy_from_slice(&tag);
        }
        self
    }

    /// A ping of the node `node`.
    pub fn ping(
        shared: &Shared,
        ours: DiscoKey,
        nonce: [u8; NONCE],
        transaction: &Transaction,
        node: NodeKey,
    ) -> Self {
        let mut packet = Self::new(ours, nonce, PING);
        packet.put(transaction);
        packet.put(&node.0);
        packet.seal(shared)
    }

    /// The answer to a ping that came from `seen`.
    pub fn pong(
        shared: &Shared,
        ours: DiscoKey,
        nonce: [u8; NONCE],
        transaction: &Transaction,
        seen: SocketAddr,
    ) -> Self {
        let mut packet = Self::new(ours, nonce, PONG);
        packet.put(transaction);
        packet.put(&write_address(seen));
        packet.seal(shared)
    }

    /// A call to these endpoints, as many as fit.
    pub fn call_me_maybe(
        shared: &Shared,
        ours: DiscoKey,
        nonce: [u8; NONCE],
        endpoints: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        let mut packet = Self::new(ours, nonce, CALL_ME_MAYBE);
        for endpoint in endpoints.into_iter().take(MAX_ENDPOINTS) {
            packet.put(&write_address(endpoint));
        }
        packet.seal(shared)
    }
}

fn read_address(bytes: &[u8; ADDRESS]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_first_chunk::<16>()?;
    let ip = IpAddr::from(Ipv6Addr::from(*ip)).to_canonical();
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port.first_chunk()?)))
}

fn write_address(address: SocketAddr) -> [u8; ADDRESS] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; ADDRESS];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn pair() -> (Shared, DiscoKey, Shared) {
        let (ours, theirs) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let key = DiscoKey(ours.public_bytes());
        (Shared::new(&ours, &theirs.public_bytes()), key, Shared::new(&theirs, &key.0))
    }

    #[test]
    fn messages_open_as_they_were_sealed() {
        let (sealing, ours, opening) = pair();
        let (nonce, transaction, node) = ([3; 24], [4; 12], NodeKey([5; 32]));
        let mut ping = Packet::ping(&sealing, ours, nonce, &transaction, node).bytes().to_vec();
        assert_eq!(sender(&ping), Some(ours));
        assert_eq!(open(&opening, &mut ping), Ok(Message::Ping { transaction, node: Some(node) }));
        for seen in ["192.0.2.1:7", "[2001:db8::1]:65535"] {
            let seen = seen.parse().unwrap();
            let mut pong = Packet::pong(&sealing, ours, nonce, &transaction, seen).bytes().to_vec();
            assert_eq!(open(&opening, &mut pong), Ok(Message::Pong { transaction, seen }));
        }
        let many: Vec<SocketAddr> = (0..30).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        let mut call = Packet::call_me_maybe(&sealing, ours, nonce, many.clone()).bytes().to_vec();
        let Ok(Message::CallMeMaybe(endpoints)) = open(&opening, &mut call) else { panic!("no call") };
        assert!(endpoints.eq(many.into_iter().take(MAX_ENDPOINTS)));
    }

    #[test]
    fn padding_versions_and_kinds_that_are_not_known_do_no_harm() {
        let transaction = [4; 12];
        let mut text = [&[PING, 0][..], &transaction].concat();
        assert_eq!(parse(&text), Some(Message::Ping { transaction, node: None }));
        text.extend([9; 32 + 700]);
        assert_eq!(parse(&text), Some(Message::Ping { transaction, node: Some(NodeKey([9; 32])) }));
        assert_eq!(parse(&[7, 0, 1, 2, 3]), Some(Message::Unknown));
        assert_eq!(parse(&[PING, 1]), Some(Message::Unknown));
        assert_eq!(parse(&[PONG, 0, 1]), None);
        let (_, ours, opening) = pair();
        for len in 0..CLEAR + NONCE + TAG + 2 {
            let mut packet = [&MAGIC[..], &ours.0, &[0; 60]].concat();
            packet.truncate(len);
            assert!(open(&opening, &mut packet).is_err(), "{len} bytes");
        }
        assert_eq!(sender(b"\x01\0\0\0"), None);
    }
}
