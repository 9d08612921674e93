//! The packet filter: what peers may send to us.
//!
//! Rules allow; what no rule allows is dropped, but for answers to what we sent.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use adit_tunnel::Prefix;
use adit_tunnel::view::{IpView, protocol, tcp_flag};

use crate::netmap::{Addresses, FilterRule, State};
use crate::tsmp::{self, Reject, RejectReason};

const SCTP: u8 = 132;
/// Outgoing UDP flows that are remembered: groups, and entries in each. A new flow takes the oldest place of its group.
const GROUPS: usize = 1024;
const WAYS: usize = 4;

/// The filter.
#[derive(Debug)]
pub(crate) struct Filter {
    rules: Vec<Rule>,
    local: Vec<Prefix>,
    shields_up: bool,
    flows: Box<[[Entry; WAYS]]>,
    clock: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    flow: Option<Flow>,
    used: u64,
}

/// A flow as we send it: protocol, our end, the far end.
type Flow = (u8, SocketAddr, SocketAddr);

#[derive(Debug)]
struct Rule {
    protocols: Vec<u8>,
    sources: Vec<Span>,
    targets: Vec<(Span, u16, u16)>,
}

/// Addresses of one family from the first to the last.
#[derive(Clone, Copy, Debug)]
struct Span(IpAddr, IpAddr);

impl Span {
    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.0.is_ipv4() && self.0 <= address && address <= self.1
    }

    fn of_prefix(prefix: Prefix) -> Self {
        let first = prefix.network().address();
        let host = |width: u32| width.saturating_sub(prefix.length().into());
        let last = match first {
            IpAddr::V4(ip) => {
                IpAddr::from((ip.to_bits() | u32::MAX.checked_shr(32 - host(32)).unwrap_or(0)).to_be_bytes())
            }
            IpAddr::V6(ip) => IpAddr::from(
                (ip.to_bits() | u128::MAX.checked_shr(128 - host(128)).unwrap_or(0)).to_be_bytes(),
            ),
        };
        Self(first, last)
    }
}

impl Filter {
    /// Lets nothing in.
    pub(crate) fn new(shields_up: bool) -> Self {
        let flows = vec![[Entry::default(); WAYS]; GROUPS].into_boxed_slice();
        Self { rules: Vec::new(), local: Vec::new(), shields_up, flows, clock: 0 }
    }

    /// Takes the rules and our addresses from a netmap.
    pub(crate) fn configure(&mut self, state: &State) {
        self.local = state.node.as_ref().map(|node| node.addresses.clone()).unwrap_or_default();
        self.rules = state.rules().map(|rule| compile(rule, state)).collect();
    }

    /// A packet leaves: what answers it may come in.
    pub(crate) fn note_outgoing(&mut self, ip: &IpView<'_>) {
        if !matches!(ip.protocol(), protocol::UDP | SCTP) {
            return;
        }
        let Some((source, target)) = ports(ip) else { return };
        let flow =
            (ip.protocol(), SocketAddr::new(ip.source(), source), SocketAddr::new(ip.destination(), target));
        self.clock += 1;
        let (clock, group) = (self.clock, Self::group(&flow));
        let Some(group) = self.flows.get_mut(group) else { return };
        let known = group.iter().position(|entry| entry.flow == Some(flow));
        let oldest = || group.iter().enumerate().min_by_key(|(_, entry)| entry.used).map(|(at, _)| at);
        if let Some(entry) = known.or_else(oldest).and_then(|at| group.get_mut(at)) {
            *entry = Entry { flow: Some(flow), used: clock };
        }
    }

    fn group(flow: &Flow) -> usize {
        let mut hasher = DefaultHasher::new();
        flow.hash(&mut hasher);
        usize::try_from(hasher.finish() % GROUPS as u64).unwrap_or(0)
    }

    fn is_answer(&self, number: u8, ours: SocketAddr, theirs: SocketAddr) -> bool {
        let flow = (number, ours, theirs);
        self.flows.get(Self::group(&flow)).is_some_and(|group| group.iter().any(|e| e.flow == Some(flow)))
    }

    /// Whether a packet of a peer may come in. A `jailed` peer may only answer.
    pub(crate) fn admits(&self, ip: &IpView<'_>, jailed: bool) -> bool {
        let (source, target, number) = (ip.source(), ip.destination(), ip.protocol());
        if target.is_multicast() || is_link_local(target) {
            return false;
        }
        if !self.local.iter().any(|prefix| prefix.contains(target)) {
            return false;
        }
        // A later fragment has no ports; without its first, which was judged, it is nothing.
        if ip.is_fragment() && ip.payload().len() < 8 {
            return false;
        }
        let closed = jailed || self.shields_up;
        match number {
            tsmp::PROTOCOL => true,
            protocol::ICMP | protocol::ICMPV6 => {
                is_icmp_answer(ip) || !closed && self.matches(number, source, target, None)
            }
            protocol::TCP => match ip.tcp() {
                // Only what begins a connection is judged; anything else without one meets a reset.
                Some(tcp) => {
                    tcp.flags() & (tcp_flag::SYN | tcp_flag::ACK) != tcp_flag::SYN
                        || !closed && self.matches(number, source, target, Some(tcp.destination_port()))
                }
                None => ip.is_fragment(),
            },
            protocol::UDP | SCTP => match ports(ip) {
                Some((from, to)) => {
                    self.is_answer(number, SocketAddr::new(target, to), SocketAddr::new(source, from))
                        || !closed && self.matches(number, source, target, Some(to))
                }
                None => ip.is_fragment(),
            },
            _ => !closed && self.matches_all_ports(number, source, target),
        }
    }

    /// What to tell a peer whose packet was not admitted: only about a connection that it begins with one of our addresses.
    pub(crate) fn rejection(&self, ip: &IpView<'_>, jailed: bool) -> Option<Reject> {
        let tcp = ip.tcp()?;
        let begins = tcp.flags() & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN;
        let ours = self.local.iter().any(|prefix| prefix.contains(ip.destination()));
        (begins && ours).then(|| Reject {
            protocol: protocol::TCP,
            reason: if jailed || self.shields_up { RejectReason::ShieldsUp } else { RejectReason::Acl },
            source: SocketAddr::new(ip.source(), tcp.source_port()),
            target: SocketAddr::new(ip.destination(), tcp.destination_port()),
        })
    }

    fn rules(&self, number: u8, source: IpAddr) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| {
            rule.protocols.contains(&number) && rule.sources.iter().any(|span| span.contains(source))
        })
    }

    fn matches(&self, number: u8, source: IpAddr, target: IpAddr, port: Option<u16>) -> bool {
        self.rules(number, source).any(|rule| {
            rule.targets.iter().any(|(span, first, last)| {
                span.contains(target) && port.is_none_or(|port| (*first..=*last).contains(&port))
            })
        })
    }

    fn matches_all_ports(&self, number: u8, source: IpAddr, target: IpAddr) -> bool {
        self.rules(number, source).any(|rule| {
            rule.targets
                .iter()
                .any(|(span, first, last)| span.contains(target) && (*first, *last) == (0, u16::MAX))
        })
    }
}

fn compile(rule: &FilterRule, state: &State) -> Rule {
    let protocols = match rule.protocols.as_slice() {
        [] => vec![protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6],
        named => named.to_vec(),
    };
    let sources = rule.sources.iter().flat_map(|source| spans(source, state)).collect();
    let targets = rule.targets.iter().flat_map(|target| {
        spans(&target.addresses, state).into_iter().map(|span| (span, target.first, target.last))
    });
    Rule { protocols, sources, targets: targets.collect() }
}

fn spans(addresses: &Addresses, state: &State) -> Vec<Span> {
    match addresses {
        Addresses::Any => vec![
            Span(IpAddr::from([0; 4]), IpAddr::from([255; 4])),
            Span(IpAddr::from([0; 16]), IpAddr::from([255; 16])),
        ],
        Addresses::Prefix(prefix) => vec![Span::of_prefix(*prefix)],
        Addresses::Range(first, last) => vec![Span(*first, *last)],
        Addresses::Capability(name) => state
            .peers
            .values()
            .filter(|peer| peer.capabilities.contains(name))
            .flat_map(|peer| peer.addresses.iter().copied().map(Span::of_prefix))
            .collect(),
    }
}

/// An echo reply, or an error about a packet of ours (RFC 792, RFC 4443).
fn is_icmp_answer(ip: &IpView<'_>) -> bool {
    match (ip.is_v4(), ip.payload().first()) {
        (true, Some(kind)) => matches!(kind, 0 | 3 | 11 | 12),
        (false, Some(kind)) => matches!(kind, 1..=4 | 129),
        (_, None) => false,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Source and destination port of UDP and SCTP.
fn ports(ip: &IpView<'_>) -> Option<(u16, u16)> {
    if ip.is_fragment() {
        return None;
    }
    let &[a, b, c, d] = ip.payload().first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::{FilterChange, FilterTarget, NodeId, Peer, SelfNode, Update};

    const US: &str = "100.64.0.1";
    const PEER: &str = "100.64.0.2";

    fn packet(number: u8, from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 200];
        let len = tsmp::write_packet(number, from.parse().unwrap(), to.parse().unwrap(), payload, &mut out)
            .unwrap();
        out.truncate(len);
        out
    }

    fn udp(from: &str, from_port: u16, to: &str, to_port: u16) -> Vec<u8> {
        let mut payload = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
        payload.extend([0, 8, 0, 0]);
        packet(protocol::UDP, from, to, &payload)
    }

    fn tcp(port: u16, flags: u8) -> Vec<u8> {
        let mut payload = [1000u16.to_be_bytes(), port.to_be_bytes()].concat();
        payload.extend([0; 16]);
        (payload[12], payload[13]) = (0x50, flags);
        packet(protocol::TCP, PEER, US, &payload)
    }

    fn filter(rules: Vec<FilterRule>) -> Filter {
        let mut state = State::default();
        let node = SelfNode { addresses: vec![format!("{US}/32").parse().unwrap()], ..Default::default() };
        let mut update = Update { node: Some(node), ..Update::default() };
        update.peers.full.push(Peer {
            id: NodeId(2),
            addresses: vec![format!("{PEER}/32").parse().unwrap()],
            capabilities: vec!["db".to_owned()],
            ..Peer::default()
        });
        update.filter.push(FilterChange::Set("base".to_owned(), rules));
        state.apply(update);
        let mut filter = Filter::new(false);
        filter.configure(&state);
        filter
    }

    fn rule(source: Addresses, target: Addresses, first: u16, last: u16) -> FilterRule {
        let targets = vec![FilterTarget { addresses: target, first, last }];
        FilterRule { sources: vec![source], targets, protocols: Vec::new() }
    }

    fn admits(filter: &Filter, bytes: &[u8]) -> bool {
        filter.admits(&IpView::parse(bytes).unwrap(), false)
    }

    #[test]
    fn only_what_a_rule_names_may_begin_a_connection() {
        let filter =
            filter(vec![rule(Addresses::Prefix("100.64.0.0/24".parse().unwrap()), Addresses::Any, 80, 90)]);
        for (bytes, passes) in [
            (tcp(80, tcp_flag::SYN), true),
            (tcp(90, tcp_flag::SYN), true),
            (tcp(91, tcp_flag::SYN), false),
            (tcp(91, tcp_flag::SYN | tcp_flag::ACK), true),
            (tcp(91, tcp_flag::ACK), true),
            (udp(PEER, 5, US, 85), true),
            (udp(PEER, 5, US, 79), false),
            (udp("100.64.1.2", 5, US, 85), false),
            (udp(PEER, 5, "100.64.0.3", 85), false),
            (packet(protocol::ICMP, PEER, US, &[8, 0, 0, 0, 0, 0, 0, 0]), true),
            (packet(47, PEER, US, &[0; 8]), false),
            (packet(tsmp::PROTOCOL, PEER, US, b"p12345678"), true),
        ] {
            assert_eq!(admits(&filter, &bytes), passes, "{bytes:?}");
        }
        let jailed = tcp(80, tcp_flag::SYN);
        assert!(!filter.admits(&IpView::parse(&jailed).unwrap(), true));
    }

    #[test]
    fn without_rules_answers_come_in_and_nothing_else() {
        let mut filter = filter(Vec::new());
        let answer = udp(PEER, 53, US, 4000);
        assert!(!admits(&filter, &answer));
        filter.note_outgoing(&IpView::parse(&udp(US, 4000, PEER, 53)).unwrap());
        assert!(admits(&filter, &answer));
        assert!(!admits(&filter, &udp(PEER, 54, US, 4000)));
        assert!(admits(&filter, &packet(protocol::ICMP, PEER, US, &[0; 8])), "an echo reply");
        assert!(admits(&filter, &packet(protocol::ICMP, PEER, US, &[3, 3, 0, 0, 0, 0, 0, 0])));
        assert!(!admits(&filter, &packet(protocol::ICMP, PEER, US, &[8, 0, 0, 0, 0, 0, 0, 0])));
        // A flood of other flows has an end: the newest are remembered.
        for port in 0..60_000 {
            filter.note_outgoing(&IpView::parse(&udp(US, port, PEER, 7)).unwrap());
        }
        assert!(admits(&filter, &udp(PEER, 7, US, 59_999)));
    }

    #[test]
    fn sources_can_be_ranges_and_capabilities_and_protocols_can_be_named() {
        let range = Addresses::Range("100.64.0.2".parse().unwrap(), "100.64.0.9".parse().unwrap());
        let mut named = rule(range, Addresses::Any, 0, u16::MAX);
        named.protocols = vec![47];
        let filter =
            filter(vec![rule(Addresses::Capability("db".into()), Addresses::Any, 5432, 5432), named]);
        assert!(admits(&filter, &tcp(5432, tcp_flag::SYN)));
        assert!(!admits(&filter, &tcp(22, tcp_flag::SYN)));
        assert!(admits(&filter, &packet(47, PEER, US, &[0; 8])));
        assert!(!admits(&filter, &packet(47, "100.64.0.10", US, &[0; 8])));
    }

    #[test]
    fn spans_of_prefixes_end_where_they_should() {
        for (prefix, first, last) in [
            ("10.0.0.0/8", "10.0.0.0", "10.255.255.255"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.3"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("fd00::/64", "fd00::", "fd00::ffff:ffff:ffff:ffff"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::1/128", "::1", "::1"),
        ] {
            let span = Span::of_prefix(prefix.parse().unwrap());
            assert_eq!(
                (span.0.to_string(), span.1.to_string()),
                (first.to_owned(), last.to_owned()),
                "{prefix}"
            );
        }
    }
}
