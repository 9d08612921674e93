//! DNS messages for a target that names its server (RFC 1035 §4).

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

/// A question for the A records of a name, with recursion desired; `None` if the text is no DNS name.
pub fn question(id: u16, name: &str, ipv6: bool) -> Option<Vec<u8>> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let record = if ipv6 { RecordType::AAAA } else { RecordType::A };
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record));
    message.to_vec().ok()
}

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DnsReply {
    /// Addresses; none means that the name has none of this family.
    Addresses(Vec<IpAddr>),
    /// NXDOMAIN.
    NoSuchName,
    /// Another error.
    Failed(String),
    /// No answer to the question.
    Unexpected,
}

/// Reads the answer to the question with this id.
pub(crate) fn read_answer(id: u16, message: &[u8]) -> DnsReply {
    let Ok(message) = Message::from_vec(message) else { return DnsReply::Unexpected };
    if message.metadata.id != id || message.metadata.message_type != MessageType::Response {
        return DnsReply::Unexpected;
    }
    match message.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return DnsReply::NoSuchName,
        code => return DnsReply::Failed(format!("{code:?}").to_ascii_uppercase()),
    }
    let addresses = message.answers.iter().filter_map(|record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    });
    DnsReply::Addresses(addresses.collect())
}
