//! DNS messages: writing a query, reading a reply.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

/// A reply fits into a datagram of this size without fragments (DNS Flag Day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// A chain of aliases longer than this is not followed.
const MAX_ALIASES: usize = 16;

/// What a server's reply says about one question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    /// The response code's mnemonic, unless it is NOERROR or NXDOMAIN.
    pub(super) error: Option<String>,
    /// NXDOMAIN.
    pub(super) no_such_name: bool,
    /// The reply did not fit into the datagram.
    pub(super) truncated: bool,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) names: Vec<String>,
    /// There is a record of the type asked for.
    pub(super) found: bool,
    /// How long to keep it; `None` if not at all (a negative answer without SOA, RFC 2308 §5).
    pub(super) ttl: Option<Duration>,
    pub(super) message: Vec<u8>,
}

impl Reply {
    pub(super) fn is_negative(&self) -> bool {
        !self.found
    }
}

/// Writes a query; `None` if the text is no DNS name (RFC 1035 §2.3.4).
pub(super) fn query(id: u16, name: &str, record: u16) -> Option<Vec<u8>> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, RecordType::from(record)));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    message.set_edns(edns);
    message.to_vec().ok()
}

/// Reads a reply to `(id, name, record)`; `None` if the bytes are no reply to that question (RFC 5452 §4.2).
pub(super) fn reply(bytes: &[u8], id: u16, name: &str, record: u16) -> Option<Reply> {
    let message = Message::from_vec(bytes).ok()?;
    let meta = &message.metadata;
    let [question] = message.queries.as_slice() else { return None };
    let ours = meta.id == id
        && meta.message_type == MessageType::Response
        && u16::from(question.query_type()) == record
        && question.query_class() == DNSClass::IN
        && text(question.name()) == name;
    if !ours {
        return None;
    }
    let mut reply = Reply { truncated: meta.truncation, message: bytes.to_vec(), ..Reply::default() };
    match meta.response_code {
        ResponseCode::NoError => read_answers(&message, name, question.query_type(), &mut reply),
        ResponseCode::NXDomain => reply.no_such_name = true,
        code => reply.error = Some(mnemonic(code)),
    }
    if reply.is_negative() && reply.error.is_none() {
        reply.ttl = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(Duration::from_secs(record.ttl.min(soa.minimum).into())),
            _ => None,
        });
    }
    Some(reply)
}

/// Follows aliases from the question's name through the answer section (RFC 1034 §3.6.2).
fn read_answers(message: &Message, name: &str, record_type: RecordType, reply: &mut Reply) {
    let mut owner = name.to_owned();
    let mut ttl = u32::MAX;
    for _ in 0..MAX_ALIASES {
        let mut alias = None;
        for record in message.answers.iter().filter(|record| text(&record.name) == owner) {
            match &record.data {
                RData::A(a) => reply.addresses.push(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => reply.addresses.push(IpAddr::V6(aaaa.0)),
                RData::PTR(ptr) => reply.names.push(text(&ptr.0)),
                RData::CNAME(cname) => alias = Some(text(&cname.0)),
                _ => {}
            }
            reply.found |= record.record_type() == record_type;
            ttl = ttl.min(record.ttl);
        }
        match alias {
            Some(next) if reply.is_negative() => owner = next,
            _ => break,
        }
    }
    if ttl != u32::MAX {
        reply.ttl = Some(Duration::from_secs(ttl.into()));
    }
}

/// A name in lower case without trailing dot.
fn text(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn mnemonic(code: ResponseCode) -> String {
    match code {
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => format!("RCODE {}", u16::from(other)),
    }
}
