//! MagicDNS: a small DNS server (RFC 1035) for the names of the tailnet, at its service address inside the tunnel.
//!
//! The private resolver, and programs behind a TUN device, ask it as they ask any other server; the answer never leaves
//! this machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_tunnel::{is_under, reverse_address};

use crate::netmap::{NodeId, State};

/// Where the server is.
pub(crate) const SERVICE_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 100);
/// Its IPv6 address; here it only signs what the node says itself.
pub(crate) const SERVICE_V6: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53);
/// Reverse names of the addresses of tailnets; of the first, only those that are routed are asked for.
pub(crate) const REVERSE: [&str; 2] = ["100.in-addr.arpa", "0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"];
/// Answers may be kept for 5 s, that there is none for 10.
const TTL: u32 = 5;
const NEGATIVE_TTL: u32 = 10;
const HEADER: usize = 12;
/// Without EDNS a response is not longer (RFC 1035 §4.2.1).
const MAX_RESPONSE: usize = 512;

const A: u16 = 1;
const SOA: u16 = 6;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const ANY: u16 = 255;
const IN: u16 = 1;

mod rcode {
    pub(super) const NO_ERROR: u8 = 0;
    pub(super) const FORMAT: u8 = 1;
    pub(super) const NO_SUCH_NAME: u8 = 3;
    pub(super) const NOT_IMPLEMENTED: u8 = 4;
    pub(super) const REFUSED: u8 = 5;
}

/// Who has a name or address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Ourselves,
    Peer(NodeId),
}

/// The index of names.
#[derive(Debug, Default)]
pub(crate) struct MagicDns {
    names: BTreeMap<String, Owner>,
    addresses: BTreeMap<IpAddr, Owner>,
    records: BTreeMap<String, Vec<IpAddr>>,
    /// Suffixes that have no other server.
    zones: Vec<String>,
}

/// An answer before it is written.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Addresses(Vec<IpAddr>),
    Name(String),
    /// The name exists, and has no such records.
    Nothing,
    NoSuchName,
    Refused,
}

impl MagicDns {
    /// Makes the index of a netmap.
    pub(crate) fn configure(&mut self, state: &State) {
        *self = Self::default();
        let ours = state.node.iter().map(|node| (&node.name, &node.addresses, Owner::Ourselves));
        let theirs = state.peers.values().map(|peer| (&peer.name, &peer.addresses, Owner::Peer(peer.id)));
        for (name, addresses, owner) in ours.chain(theirs) {
            if !name.is_empty() {
                self.names.insert(name.clone(), owner);
            }
            for address in addresses {
                self.addresses.insert(address.address(), owner);
            }
        }
        for record in &state.dns.records {
            self.records.entry(record.name.clone()).or_default().push(record.address);
        }
        self.zones.extend(state.suffix().map(str::to_owned));
        self.zones.extend(REVERSE.map(str::to_owned));
        let own = state.dns.routes.iter().filter(|route| route.resolvers.is_empty());
        self.zones.extend(own.map(|route| route.suffix.clone()));
    }

    /// The response to a query; `None` if the bytes are none.
    pub(crate) fn respond(&self, state: &State, query: &[u8]) -> Option<Vec<u8>> {
        let header = query.first_chunk::<HEADER>()?;
        let [id_high, id_low, flags, _, 0, 1, ..] = *header else {
            // No query, or not one question.
            let [id_high, id_low, flags, ..] = *header;
            let is_query = flags & 0x80 == 0;
            return is_query.then(|| head([id_high, id_low], flags, rcode::FORMAT, 0, 0, 0));
        };
        if flags & 0x80 != 0 {
            return None;
        }
        let id = [id_high, id_low];
        if flags & 0x78 != 0 {
            return Some(head(id, flags, rcode::NOT_IMPLEMENTED, 0, 0, 0));
        }
        let Some((name, len)) = read_name(query.get(HEADER..)?) else {
            return Some(head(id, flags, rcode::FORMAT, 0, 0, 0));
        };
        let question = query.get(HEADER..HEADER + len + 4)?;
        let &[type_high, type_low, class_high, class_low] = question.last_chunk::<4>()?;
        let kind = u16::from_be_bytes([type_high, type_low]);
        let answer = match u16::from_be_bytes([class_high, class_low]) {
            IN => self.answer(state, &name, kind),
            _ => Answer::Refused,
        };
        Some(write(id, flags, question, &answer))
    }

    fn answer(&self, state: &State, name: &str, kind: u16) -> Answer {
        if let Some(address) = reverse_address(name) {
            let owner = self.addresses.get(&address).map(|owner| owner_name(state, *owner));
            return match owner {
                Some(name) if matches!(kind, PTR | ANY) && !name.is_empty() => Answer::Name(name.to_owned()),
                Some(_) => Answer::Nothing,
                None if self.has_zone(name) => Answer::NoSuchName,
                None => Answer::Refused,
            };
        }
        let found = match (self.records.get(name), self.names.get(name)) {
            (Some(records), _) => Some(records.clone()),
            (None, Some(owner)) => Some(owner_addresses(state, *owner)),
            (None, None) => self.via(name).map(|address| vec![address]),
        };
        let Some(mut addresses) = found else {
            // A name above one that exists does exist (RFC 8020).
            let above = self.names.keys().chain(self.records.keys()).any(|below| is_under(below, name));
            return match (above, self.has_zone(name)) {
                (true, _) => Answer::Nothing,
                (false, true) => Answer::NoSuchName,
                (false, false) => Answer::Refused,
            };
        };
        addresses.retain(|address| match kind {
            A => address.is_ipv4(),
            AAAA => address.is_ipv6(),
            kind => kind == ANY,
        });
        if addresses.is_empty() { Answer::Nothing } else { Answer::Addresses(addresses) }
    }

    fn has_zone(&self, name: &str) -> bool {
        self.zones.iter().any(|zone| is_under(name, zone))
    }

    /// The address of `10-1-2-3-via-7` in the tailnet's domain: 10.1.2.3 at site 7, behind a subnet router (4via6).
    fn via(&self, name: &str) -> Option<IpAddr> {
        let (label, rest) = name.split_once('.').unwrap_or((name, ""));
        if !self.zones.iter().any(|zone| zone == rest) {
            return None;
        }
        let (address, site) = label.split_once("-via-")?;
        let address: Ipv4Addr = address.replace('-', ".").parse().ok()?;
        let [a, b, c, d] = address.octets();
        let [e, f] = site.parse::<u16>().ok()?.to_be_bytes();
        Some(Ipv6Addr::from([0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 0x0b, 0x1a, 0, 0, e, f, a, b, c, d]).into())
    }
}

fn owner_name(state: &State, owner: Owner) -> &str {
    match owner {
        Owner::Ourselves => state.node.as_ref().map(|node| node.name.as_str()),
        Owner::Peer(id) => state.peers.get(&id).map(|peer| peer.name.as_str()),
    }
    .unwrap_or_default()
}

/// IPv4 first.
fn owner_addresses(state: &State, owner: Owner) -> Vec<IpAddr> {
    let prefixes = match owner {
        Owner::Ourselves => state.node.as_ref().map(|node| &node.addresses),
        Owner::Peer(id) => state.peers.get(&id).map(|peer| &peer.addresses),
    };
    let mut addresses: Vec<IpAddr> = prefixes.into_iter().flatten().map(|prefix| prefix.address()).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

/// A name without compression, in lower case, and its length on the wire.
fn read_name(bytes: &[u8]) -> Option<(String, usize)> {
    let (mut name, mut at) = (String::new(), 0);
    loop {
        let len = usize::from(*bytes.get(at)?);
        let label = bytes.get(at + 1..at + 1 + len)?;
        at += 1 + len;
        if len == 0 {
            return Some((name, at));
        }
        if len > 63 || at > 254 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        // A dot or a byte beyond ASCII inside a label is part of no name here.
        let plain = label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())).filter(|_| plain));
        if !plain {
            name.push('\u{fffd}');
        }
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| (1..=63).contains(&label.len())) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}

fn head(id: [u8; 2], flags: u8, code: u8, questions: u8, answers: u8, authorities: u8) -> Vec<u8> {
    // Response, authoritative, recursion desired as asked; recursion available, since that is what clients look for.
    let mut out = id.to_vec();
    out.extend([0x84 | flags & 1, 0x80 | code, 0, questions, 0, answers, 0, authorities, 0, 0]);
    out
}

fn write(id: [u8; 2], flags: u8, question: &[u8], answer: &Answer) -> Vec<u8> {
    let (code, answers, negative) = match answer {
        Answer::Addresses(addresses) => (rcode::NO_ERROR, addresses.len().min(16) as u8, 0),
        Answer::Name(_) => (rcode::NO_ERROR, 1, 0),
        Answer::Nothing => (rcode::NO_ERROR, 0, 1),
        Answer::NoSuchName => (rcode::NO_SUCH_NAME, 0, 1),
        Answer::Refused => (rcode::REFUSED, 0, 0),
    };
    let mut out = head(id, flags, code, 1, answers, negative);
    out.extend_from_slice(question);
    // The name of every record is that of the question, at the end of the header.
    let record = |out: &mut Vec<u8>, kind: u16, ttl: u32, data: &[u8]| {
        out.extend([0xc0, HEADER as u8]);
        out.extend(kind.to_be_bytes());
        out.extend(IN.to_be_bytes());
        out.extend(ttl.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend_from_slice(data);
    };
    match answer {
        Answer::Addresses(addresses) => {
            for address in addresses.iter().take(answers.into()) {
                match address {
                    IpAddr::V4(ip) => record(&mut out, A, TTL, &ip.octets()),
                    IpAddr::V6(ip) => record(&mut out, AAAA, TTL, &ip.octets()),
                }
            }
        }
        Answer::Name(name) => {
            let mut data = Vec::new();
            put_name(&mut data, name);
            record(&mut out, PTR, TTL, &data);
        }
        Answer::Nothing | Answer::NoSuchName => {
            // How long "no" may be kept stands in the SOA (RFC 2308): root, root, five numbers.
            let mut data = vec![0, 0];
            for number in [1, 3600, 600, 86_400, NEGATIVE_TTL] {
                data.extend(number.to_be_bytes());
            }
            record(&mut out, SOA, NEGATIVE_TTL, &data);
        }
        Answer::Refused => {}
    }
    debug_assert!(out.len() <= MAX_RESPONSE + question.len(), "sixteen records are 448 bytes");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::{Dns, DnsRoute, ExtraRecord, Peer, SelfNode, Update};

    fn state() -> State {
        let mut state = State::default();
        let node = SelfNode {
            name: "me.tail.example".into(),
            addresses: vec!["100.64.0.1/32".parse().unwrap(), "fd7a:115c:a1e0::1/128".parse().unwrap()],
            ..SelfNode::default()
        };
        let record = ExtraRecord { name: "db.internal".into(), address: "10.9.8.7".parse().unwrap() };
        let dns = Dns {
            magic: true,
            records: vec![record],
            routes: vec![DnsRoute { suffix: "nobody.example".into(), resolvers: Vec::new() }],
            ..Dns::default()
        };
        let mut update = Update { node: Some(node), dns: Some(dns), ..Update::default() };
        update.peers.full.push(Peer {
            id: NodeId(2),
            name: "db.tail.example".into(),
            addresses: vec!["100.64.0.2/32".parse().unwrap()],
            ..Peer::default()
        });
        state.apply(update);
        state
    }

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        put_name(&mut out, name);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out
    }

    /// Response code, number of answers, and the last bytes.
    fn ask(name: &str, kind: u16) -> (u8, u8, Vec<u8>) {
        let (state, mut dns) = (state(), MagicDns::default());
        dns.configure(&state);
        let response = dns.respond(&state, &query(name, kind)).unwrap();
        assert_eq!(response[..2], [0xab, 0xcd]);
        (response[3] & 15, response[7], response[response.len() - 4..].to_vec())
    }

    #[test]
    fn names_of_nodes_records_and_sites_have_addresses() {
        assert_eq!(ask("DB.tail.Example", A), (0, 1, vec![100, 64, 0, 2]));
        assert_eq!(ask("me.tail.example", AAAA), (0, 1, vec![0, 0, 0, 1]));
        assert_eq!(ask("me.tail.example", ANY).1, 2);
        assert_eq!(ask("db.internal", A), (0, 1, vec![10, 9, 8, 7]));
        assert_eq!(ask("10-1-2-3-via-7.tail.example", AAAA), (0, 1, vec![10, 1, 2, 3]));
        assert_eq!(ask("2.0.64.100.in-addr.arpa", PTR).1, 1);
    }

    #[test]
    fn what_does_not_exist_is_told_from_what_is_not_ours() {
        assert_eq!(ask("gone.tail.example", A).0, rcode::NO_SUCH_NAME);
        assert_eq!(ask("x.nobody.example", A).0, rcode::NO_SUCH_NAME);
        assert_eq!(ask("3.0.64.100.in-addr.arpa", PTR).0, rcode::NO_SUCH_NAME);
        let (code, answers, _) = ask("db.tail.example", AAAA);
        assert_eq!((code, answers), (rcode::NO_ERROR, 0));
        assert_eq!(ask("tail.example", A).0, rcode::NO_ERROR);
        assert_eq!(ask("www.example.com", A).0, rcode::REFUSED);
    }

    #[test]
    fn hostile_queries_end_in_an_error_or_in_silence() {
        let (state, mut dns) = (state(), MagicDns::default());
        dns.configure(&state);
        let good = query("db.tail.example", A);
        for len in 0..good.len() {
            let response = dns.respond(&state, &good[..len]);
            assert!(response.is_none_or(|response| response[3] & 15 == rcode::FORMAT), "{len} bytes");
        }
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(dns.respond(&state, &response), None, "no answer to answers");
        let mut pointer = good.clone();
        (pointer[12], pointer[13]) = (0xc0, 12);
        assert!(dns.respond(&state, &pointer).is_none_or(|response| response[3] & 15 == rcode::FORMAT));
        let mut dotted = good;
        dotted[13] = b'.';
        assert_eq!(dns.respond(&state, &dotted).unwrap()[3] & 15, rcode::NO_SUCH_NAME);
    }
}
