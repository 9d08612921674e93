//! An authoritative DNS server for one zone (RFC 1035), over UDP and TCP.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use adit_path::UdpSocket;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Duplex;

/// How long answers may be kept, in seconds.
const TTL: u32 = 60;

/// The largest answer over UDP without EDNS (RFC 1035 §4.2.1).
const MAX_UDP: usize = 512;

/// Names under one origin, and their addresses. Reverse names follow from them.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: String,
    names: BTreeMap<String, Vec<IpAddr>>,
}

impl Zone {
    /// An empty zone; `origin` is a domain without trailing dot, in lower case.
    pub fn new(origin: &str) -> Self {
        Self { origin: origin.to_owned(), names: BTreeMap::new() }
    }

    /// Adds a name of the zone, without trailing dot.
    pub fn name(mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.names.insert(name.to_ascii_lowercase(), addresses.into_iter().collect());
        self
    }

    /// The answer to a DNS message; `None` if it is no question, and nobody must be answered.
    pub fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(message).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.authoritative = true;
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        let [query] = question.queries.as_slice() else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return answer.to_vec().ok();
        };
        answer.add_query(query.clone());
        answer.metadata.response_code = if question.metadata.op_code == OpCode::Query {
            self.look_up(query.name(), query.query_type(), &mut answer)
        } else {
            ResponseCode::NotImp
        };
        answer.to_vec().ok()
    }

    fn look_up(&self, name: &Name, record: RecordType, answer: &mut Message) -> ResponseCode {
        let text = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        if text.ends_with(".arpa") {
            return self.look_up_reverse(name, &text, record, answer);
        }
        if text != self.origin && !text.ends_with(&format!(".{}", self.origin)) {
            return ResponseCode::Refused;
        }
        let Some(addresses) = self.names.get(&text) else {
            let below = format!(".{text}");
            let exists = text == self.origin || self.names.keys().any(|name| name.ends_with(&below));
            return if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        };
        for address in addresses {
            let data = match (address, record) {
                (IpAddr::V4(address), RecordType::A | RecordType::ANY) => RData::A(A(*address)),
                (IpAddr::V6(address), RecordType::AAAA | RecordType::ANY) => RData::AAAA(AAAA(*address)),
                _ => continue,
            };
            answer.add_answer(Record::from_rdata(name.clone(), TTL, data));
        }
        ResponseCode::NoError
    }

    fn look_up_reverse(
        &self,
        name: &Name,
        text: &str,
        record: RecordType,
        answer: &mut Message,
    ) -> ResponseCode {
        let found = self
            .names
            .iter()
            .find(|(_, addresses)| addresses.iter().any(|address| reverse(*address) == text));
        let Some((target, _)) = found else { return ResponseCode::NXDomain };
        if matches!(record, RecordType::PTR | RecordType::ANY) {
            let Ok(target) = Name::from_ascii(format!("{target}.")) else { return ResponseCode::ServFail };
            answer.add_answer(Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target))));
        }
        ResponseCode::NoError
    }
}

/// The name under which an address is looked up (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

/// Serves a UDP endpoint until the network closes it.
///
/// # Errors
///
/// The endpoint broke.
pub async fn dns_udp(socket: &UdpSocket, zone: &Zone) -> io::Result<()> {
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(mut answer) = zone.answer(&buffer[..length]) else { continue };
        if answer.len() > MAX_UDP {
            answer = truncated(&answer);
        }
        socket.send_to(&answer, from).await?;
    }
}

/// The same answer without records and with TC set: the client asks again over TCP.
fn truncated(answer: &[u8]) -> Vec<u8> {
    let Ok(message) = Message::from_vec(answer) else { return Vec::new() };
    message.truncate().to_vec().unwrap_or_default()
}

/// Serves one TCP connection: messages behind a length of two bytes (RFC 1035 §4.2.2).
///
/// # Errors
///
/// The connection broke.
pub async fn dns_tcp(mut stream: impl Duplex, zone: &Zone) -> io::Result<()> {
    loop {
        let length = match stream.read_u16().await {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await?;
        let Some(answer) = zone.answer(&message) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[length.to_be_bytes().as_slice(), answer.as_slice()].concat()).await?;
    }
}
