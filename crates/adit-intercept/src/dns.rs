//! The DNS front: what is decided of a message that a program sends to its name server.
//!
//! Private names are answered from inside the network; everything else goes to the server that the program meant,
//! byte for byte. A private name never goes there, whatever the state of the network (RFC 1035 messages, RFC
//! 6891 sizes, RFC 2308 negative answers).

use std::net::IpAddr;

use adit_path::{Answer, Destination, ResolveFailure};
use adit_tunnel::NameScope;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// What is known of names when a message is judged.
pub struct Knowledge<'a> {
    /// Whether the network answers for a name or address.
    pub owns: &'a dyn Fn(&Destination) -> bool,
    /// Whose a name is by the network's configuration.
    pub scope: &'a dyn Fn(&str) -> NameScope,
    /// The search domains of the program's own `resolv.conf`.
    pub own_search: &'a [String],
}

impl std::fmt::Debug for Knowledge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Knowledge").field("own_search", &self.own_search).finish_non_exhaustive()
    }
}

/// What is to be done with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It concerns no private name: on to the server that the program meant.
    Forward,
    /// The network is asked.
    Ask {
        /// The name; with a trailing dot if search domains are not to be applied.
        name: String,
        /// The record type (IANA "DNS Parameters").
        record: u16,
        /// When the program's own server is asked after all.
        fallback: Fallback,
    },
    /// This is the answer.
    Reply(Vec<u8>),
    /// It is no question.
    Drop,
}

/// When a name that the network was asked for goes on to the program's own server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Never: the name is private.
    Never,
    /// If the network says that there is no such name: a single label may be a neighbour in the sandbox.
    IfUnknown,
    /// Whenever the network has no answer: it is asked first, by courtesy.
    IfUnanswered,
}

/// The size that a program takes over UDP without saying so (RFC 1035 §4.2.1).
const CLASSIC_LIMIT: usize = 512;
/// A DNS header (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// Judges a message.
pub fn judge(message: &[u8], knowledge: &Knowledge<'_>) -> Verdict {
    let Ok(query) = Message::from_vec(message) else {
        // What cannot be read could hide a private name.
        return header_only(message, ResponseCode::FormErr).map_or(Verdict::Drop, Verdict::Reply);
    };
    if query.metadata.message_type != MessageType::Query {
        return Verdict::Drop;
    }
    let [question] = query.queries.as_slice() else {
        return reply_code(message, ResponseCode::FormErr).map_or(Verdict::Drop, Verdict::Reply);
    };
    let name = question.name().to_ascii();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let code = |code| reply_code(message, code).map_or(Verdict::Drop, Verdict::Reply);
    let ask = |name, fallback| match query.metadata.op_code {
        OpCode::Query if question.query_class() == DNSClass::IN => {
            Verdict::Ask { name, record: question.query_type().into(), fallback }
        }
        _ => code(ResponseCode::NotImp),
    };
    if is_owned(&name, question.name(), knowledge) {
        return match name.contains('.') {
            true => ask(format!("{name}."), Fallback::Never),
            // The network's search domains apply.
            false => ask(name, Fallback::IfUnknown),
        };
    }
    // The program's resolver has appended a search domain to a private name: there is no such name, and the
    // server need not learn of it.
    let appended = knowledge
        .own_search
        .iter()
        .filter_map(|domain| name.strip_suffix(domain.as_str())?.strip_suffix('.'));
    for bare in appended {
        if bare.contains('.') && (knowledge.owns)(&Destination::Name(bare.to_owned())) {
            return code(ResponseCode::NXDomain);
        }
    }
    match (knowledge.scope)(&name) {
        NameScope::Either => ask(format!("{name}."), Fallback::IfUnanswered),
        NameScope::Private | NameScope::Public => Verdict::Forward,
    }
}

fn is_owned(text: &str, name: &Name, knowledge: &Knowledge<'_>) -> bool {
    if text.is_empty() {
        return false;
    }
    let owned = (knowledge.owns)(&Destination::Name(text.to_owned()));
    if owned || (knowledge.scope)(text) == NameScope::Private {
        return true;
    }
    // A reverse name belongs to whom the address belongs (RFC 1035 §3.5, RFC 3596 §2.5).
    let reverse = text.ends_with(".in-addr.arpa") || text.ends_with(".ip6.arpa");
    let address = reverse.then(|| name.parse_arpa_name().ok()).flatten();
    address.is_some_and(|net| (knowledge.owns)(&Destination::Address(net.addr())))
}

/// The reply to `query` that says what the network answered, of at most `limit` bytes.
pub fn reply(query: &[u8], answer: &Answer, limit: usize) -> Option<Vec<u8>> {
    let reply = adopt(query, &answer.message).or_else(|| build(query, answer))?;
    if reply.len() <= limit { Some(reply) } else { truncated(query) }
}

/// The reply to `query` when the network could not answer. A failure to reach the servers is `SERVFAIL`, never
/// an answer that a program could keep.
pub fn reply_failure(query: &[u8], failure: &ResolveFailure) -> Option<Vec<u8>> {
    reply_code(
        query,
        match failure {
            ResolveFailure::NoSuchName { .. } | ResolveFailure::BadName { .. } => ResponseCode::NXDomain,
            ResolveFailure::Silent { .. }
            | ResolveFailure::Failed { .. }
            | ResolveFailure::NoServer { .. }
            | ResolveFailure::ServerUnrouted { .. }
            | ResolveFailure::AnswerUnrouted { .. }
            | ResolveFailure::Down(_)
            | ResolveFailure::Exhausted(_)
            | ResolveFailure::Closed => ResponseCode::ServFail,
        },
    )
}

/// The size that the sender of `query` takes over UDP (RFC 6891 §6.2.3).
pub fn udp_limit(query: &[u8]) -> usize {
    let edns = Message::from_vec(query).ok().and_then(|query| query.edns);
    edns.map_or(CLASSIC_LIMIT, |edns| usize::from(edns.max_payload()).max(CLASSIC_LIMIT))
}

/// The server's own message, if it answers the very question: with the id and the spelling of the query.
fn adopt(query: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let question = question_bytes(query)?;
    let answered = question_bytes(message)?;
    if !question.eq_ignore_ascii_case(answered) {
        return None;
    }
    let mut reply = message.to_vec();
    reply[..2].copy_from_slice(query.get(..2)?);
    reply[HEADER..HEADER + question.len()].copy_from_slice(question);
    Some(reply)
}

/// The only question of a message: name, type and class. A compressed name is none.
fn question_bytes(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut end = HEADER;
    loop {
        match usize::from(*message.get(end)?) {
            0 => break,
            label @ 1..=63 => end += 1 + label,
            _ => return None,
        }
    }
    message.get(HEADER..end + 5)
}

fn build(query: &[u8], answer: &Answer) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?;
    let ttl = u32::try_from(answer.ttl.as_secs()).unwrap_or(u32::MAX);
    let mut reply = response(&query, ResponseCode::NoError);
    let mut owner = question.name().clone();
    let full = Name::from_ascii(format!("{}.", answer.name.trim_end_matches('.'))).ok()?;
    if !answer.name.is_empty() && full != owner {
        reply.add_answer(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(full.clone()))));
        owner = full;
    }
    let record = question.query_type();
    for address in &answer.addresses {
        let data = match (address, record) {
            (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => RData::A(A(*ip)),
            (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => RData::AAAA(AAAA(*ip)),
            _ => continue,
        };
        reply.add_answer(Record::from_rdata(owner.clone(), ttl, data));
    }
    for name in answer.names.iter().filter(|_| record == RecordType::PTR) {
        if let Ok(name) = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))) {
            reply.add_answer(Record::from_rdata(owner.clone(), ttl, RData::PTR(PTR(name))));
        }
    }
    reply.to_vec().ok()
}

/// A reply without records.
fn reply_code(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    response(&query, code).to_vec().ok()
}

fn truncated(query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let mut reply = response(&query, ResponseCode::NoError);
    reply.metadata.truncation = true;
    reply.to_vec().ok()
}

fn response(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(query.queries.iter().map(Query::clone));
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        reply.set_edns(edns);
    }
    reply
}

/// A reply to a message whose question cannot be read: its header with the code.
fn header_only(message: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let mut reply = message.get(..HEADER)?.to_vec();
    let is_response = reply[2] & 0x80 != 0;
    if is_response {
        return None;
    }
    // QR set, opcode and RD kept; RA set; no records.
    reply[2] = (reply[2] & 0x79) | 0x80;
    reply[3] = 0x80 | code.low();
    reply[4..].fill(0);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn query(name: &str, record: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 0x1234;
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), record));
        message.to_vec().expect("a message")
    }

    fn owns(destination: &Destination) -> bool {
        match destination {
            Destination::Name(name) => name.ends_with(".internal"),
            Destination::Address(ip) => ip.to_string().starts_with("10.77."),
        }
    }

    fn scope(name: &str) -> NameScope {
        match name {
            "either.example" => NameScope::Either,
            name if !name.contains('.') => NameScope::Private,
            _ => NameScope::Public,
        }
    }

    fn judged(name: &str, record: RecordType) -> Verdict {
        let own_search = ["svc.cluster.local".to_owned()];
        judge(&query(name, record), &Knowledge { owns: &owns, scope: &scope, own_search: &own_search })
    }

    fn ask(name: &str, record: u16, fallback: Fallback) -> Verdict {
        Verdict::Ask { name: name.to_owned(), record, fallback }
    }

    #[test]
    fn private_names_are_asked_inside_and_public_ones_go_on() {
        assert_eq!(judged("DB.internal.", RecordType::A), ask("db.internal.", 1, Fallback::Never));
        assert_eq!(
            judged("_pg._tcp.db.internal.", RecordType::SRV),
            ask("_pg._tcp.db.internal.", 33, Fallback::Never)
        );
        assert_eq!(judged("example.com.", RecordType::A), Verdict::Forward);
        assert_eq!(
            judged("either.example.", RecordType::A),
            ask("either.example.", 1, Fallback::IfUnanswered)
        );
        assert_eq!(judged("notinternal.", RecordType::A), ask("notinternal", 1, Fallback::IfUnknown));
        assert_eq!(judged(".", RecordType::NS), Verdict::Forward);
    }

    #[test]
    fn reverse_names_belong_to_whom_the_address_belongs() {
        assert_eq!(
            judged("5.0.77.10.in-addr.arpa.", RecordType::PTR),
            ask("5.0.77.10.in-addr.arpa.", 12, Fallback::Never)
        );
        assert_eq!(judged("8.8.8.8.in-addr.arpa.", RecordType::PTR), Verdict::Forward);
    }

    #[test]
    fn a_private_name_with_a_search_domain_appended_stays_here() {
        let Verdict::Reply(reply) = judged("db.internal.svc.cluster.local.", RecordType::A) else {
            panic!("a reply")
        };
        let reply = Message::from_vec(&reply).expect("a message");
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(judged("api.svc.cluster.local.", RecordType::A), Verdict::Forward);
    }

    #[test]
    fn what_cannot_be_read_is_answered_and_not_forwarded() {
        let knowledge = Knowledge { owns: &owns, scope: &scope, own_search: &[] };
        let mut garbled = query("db.internal.", RecordType::A);
        garbled[HEADER] = 0x7f;
        let Verdict::Reply(reply) = judge(&garbled, &knowledge) else { panic!("a reply") };
        assert_eq!(&reply[..2], &[0x12, 0x34]);
        assert_eq!(reply[3] & 0x0f, 1, "FORMERR");
        assert_eq!(judge(&garbled[..5], &knowledge), Verdict::Drop);
        let mut response = query("db.internal.", RecordType::A);
        response[2] |= 0x80;
        assert_eq!(judge(&response, &knowledge), Verdict::Drop);
    }

    #[test]
    fn a_short_name_is_answered_through_an_alias() {
        let answer = Answer {
            name: "db.internal".to_owned(),
            addresses: vec!["10.77.0.5".parse().expect("v4"), "fd77::5".parse().expect("v6")],
            ttl: Duration::from_secs(60),
            ..Answer::default()
        };
        let reply = reply(&query("db.", RecordType::A), &answer, 512).expect("a reply");
        let reply = Message::from_vec(&reply).expect("a message");
        assert_eq!(reply.metadata.id, 0x1234);
        let records: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(records, ["db.internal.", "10.77.0.5"]);
    }

    #[test]
    fn the_servers_own_message_keeps_its_records_and_takes_our_id_and_spelling() {
        let mut message = Message::from_vec(&query("db.internal.", RecordType::TXT)).expect("a message");
        message.metadata.message_type = MessageType::Response;
        message.metadata.id = 7;
        let answer = Answer { message: message.to_vec().expect("a message"), ..Answer::default() };
        let asked = query("dB.InterNal.", RecordType::TXT);
        let reply = reply(&asked, &answer, 512).expect("a reply");
        assert_eq!(question_bytes(&reply), question_bytes(&asked));
        assert_eq!(&reply[..2], &asked[..2]);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_cut_to_its_question() {
        let answer = Answer {
            name: "db.internal".to_owned(),
            addresses: (0..100).map(|last| IpAddr::from([10, 77, 0, last])).collect(),
            ..Answer::default()
        };
        let asked = query("db.internal.", RecordType::A);
        let short =
            Message::from_vec(&reply(&asked, &answer, udp_limit(&asked)).expect("a reply")).expect("dns");
        assert!(short.metadata.truncation && short.answers.is_empty());
        let long = Message::from_vec(&reply(&asked, &answer, 65_535).expect("a reply")).expect("dns");
        assert_eq!(long.answers.len(), 100);
    }
}
