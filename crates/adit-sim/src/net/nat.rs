//! Network address translation in its four classic kinds (RFC 3489 §5; in the words of RFC 4787: mapping and
//! filtering behaviour).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How a NAT maps and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// Endpoint-independent mapping and filtering: whoever knows the outer address reaches the inner one.
    FullCone,
    /// Address-dependent filtering: only hosts that were sent to may answer.
    Restricted,
    /// Address- and port-dependent filtering: only the very endpoints that were sent to may answer.
    PortRestricted,
    /// Address- and port-dependent mapping and filtering: every destination sees another outer port.
    Symmetric,
}

/// A NAT in front of a node.
#[derive(Clone, Debug)]
pub struct Nat {
    kind: NatKind,
    outer: IpAddr,
    /// A mapping without outbound traffic for this long is forgotten.
    timeout: Duration,
    next_port: u16,
    mappings: Vec<Mapping>,
}

#[derive(Clone, Debug)]
struct Mapping {
    inner: SocketAddr,
    port: u16,
    /// The destination, where the kind maps per destination.
    only_for: Option<SocketAddr>,
    /// Where was sent to, and when last.
    sent: Vec<(SocketAddr, Instant)>,
    used: Instant,
}

impl Nat {
    /// A NAT with one outer address. RFC 4787 asks for 2 minutes; many home routers forget after 30 s.
    pub fn new(kind: NatKind, outer: IpAddr, timeout: Duration) -> Self {
        Self { kind, outer, timeout, next_port: 20_000, mappings: Vec::new() }
    }

    /// The outer address.
    pub fn outer(&self) -> IpAddr {
        self.outer
    }

    /// Forgets all mappings, as after a reboot of the router; new ones get new ports.
    pub fn rebind(&mut self) {
        self.mappings.clear();
    }

    /// Translates the source of a datagram on its way out.
    pub fn outbound(&mut self, now: Instant, inner: SocketAddr, to: SocketAddr) -> SocketAddr {
        self.expire(now);
        let only_for = (self.kind == NatKind::Symmetric).then_some(to);
        let known =
            self.mappings.iter().position(|mapping| mapping.inner == inner && mapping.only_for == only_for);
        let at = known.unwrap_or_else(|| {
            let port = self.next_port;
            self.next_port = self.next_port.wrapping_add(1).max(1024);
            self.mappings.push(Mapping { inner, port, only_for, sent: Vec::new(), used: now });
            self.mappings.len() - 1
        });
        let mapping = &mut self.mappings[at];
        mapping.used = now;
        match mapping.sent.iter_mut().find(|(destination, _)| *destination == to) {
            Some((_, used)) => *used = now,
            None => mapping.sent.push((to, now)),
        }
        SocketAddr::new(self.outer, mapping.port)
    }

    /// Translates the destination of a datagram on its way in; `None` filters it.
    pub fn inbound(&mut self, now: Instant, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        self.expire(now);
        let mapping = self.mappings.iter().find(|mapping| mapping.port == port)?;
        let passes = match self.kind {
            NatKind::FullCone => true,
            NatKind::Restricted => mapping.sent.iter().any(|(to, _)| to.ip() == from.ip()),
            NatKind::PortRestricted | NatKind::Symmetric => mapping.sent.iter().any(|(to, _)| *to == from),
        };
        passes.then_some(mapping.inner)
    }

    fn expire(&mut self, now: Instant) {
        let timeout = self.timeout;
        self.mappings.retain(|mapping| now < mapping.used + timeout);
        for mapping in &mut self.mappings {
            mapping.sent.retain(|(_, used)| now < *used + timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn the_four_kinds_differ_in_who_may_answer_and_in_the_ports_they_show() {
        let (inner, to) = (at("10.0.0.2:5"), at("203.0.113.1:1"));
        let (same_host, other) = (at("203.0.113.1:2"), at("203.0.113.2:1"));
        for (kind, by_host, by_other, one_port) in [
            (NatKind::FullCone, true, true, true),
            (NatKind::Restricted, true, false, true),
            (NatKind::PortRestricted, false, false, true),
            (NatKind::Symmetric, false, false, false),
        ] {
            let (mut nat, now) = (Nat::new(kind, "192.0.2.1".parse().unwrap(), TIMEOUT), Instant::now());
            let outer = nat.outbound(now, inner, to);
            assert_eq!(nat.inbound(now, outer.port(), to), Some(inner), "{kind:?}");
            assert_eq!(nat.inbound(now, outer.port(), same_host).is_some(), by_host, "{kind:?}");
            assert_eq!(nat.inbound(now, outer.port(), other).is_some(), by_other, "{kind:?}");
            assert_eq!(nat.outbound(now, inner, other) == outer, one_port, "{kind:?}");
        }
    }

    #[test]
    fn a_mapping_lives_on_outbound_traffic_only_and_a_reboot_gives_another_port() {
        let (inner, to) = (at("10.0.0.2:5"), at("203.0.113.1:1"));
        let (mut nat, mut now) =
            (Nat::new(NatKind::PortRestricted, "192.0.2.1".parse().unwrap(), TIMEOUT), Instant::now());
        let outer = nat.outbound(now, inner, to);
        now += TIMEOUT / 2;
        assert_eq!(nat.outbound(now, inner, to), outer);
        now += TIMEOUT;
        assert_eq!(nat.inbound(now, outer.port(), to), None);
        let second = nat.outbound(now, inner, to);
        nat.rebind();
        assert_ne!(nat.outbound(now, inner, to), second);
    }
}
