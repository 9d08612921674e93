//! What is called differently from one protocol to the next.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a node of a tailnet says itself comes from these addresses, which are nobody's.
const TAILNET_SERVICE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 100)),
    IpAddr::V6(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53)),
];
/// No node takes packets to everywhere, where one was asked for.
pub(crate) const MISSING_EXIT: &str = "ts.exit.none";
/// No node has the address, or the name.
pub(crate) const MISSING_PEER: &str = "ts.peer.unknown";

/// The words and failure classes of a provider, where a general one would say less.
#[derive(Debug)]
pub(crate) struct Provider {
    /// Why there is no stage of authentication; `None` where there is one.
    pub(crate) no_auth: Option<&'static str>,
    /// The server does not answer.
    pub(crate) silent: &'static str,
    /// The server's name does not resolve.
    pub(crate) unresolved: &'static str,
    /// There is no address inside.
    pub(crate) no_address: &'static str,
    /// Our address inside is one of this machine's networks too.
    pub(crate) address_clash: &'static str,
    /// A route of the tunnel is one of this machine's networks too.
    pub(crate) route_clash: &'static str,
    /// No route of the tunnel covers a destination.
    pub(crate) no_route: &'static str,
    /// A router inside says that a destination cannot be reached.
    pub(crate) unreachable: &'static str,
    /// What an ICMP error, by its sender, type and code, means more precisely.
    pub(crate) icmp: fn(from: IpAddr, kind: u8, code: u8) -> Option<&'static str>,
    /// The DNS servers of a domain do not answer.
    pub(crate) dns_silent: &'static str,
    /// No route of the tunnel covers its own DNS server.
    pub(crate) dns_unrouted: &'static str,
    /// The network has no DNS server.
    pub(crate) no_dns: &'static str,
    /// The far end is not there, where a coordination server says so.
    pub(crate) offline: Option<&'static str>,
    /// Large packets are lost.
    pub(crate) mtu: &'static str,
    /// Somebody must sign in or approve.
    pub(crate) pending: &'static str,
    /// Somebody must answer a question.
    pub(crate) challenge: &'static str,
    /// What being up has proved already, where no far end needs to be there for it.
    pub(crate) proof: Option<&'static str>,
    /// The policy denies a connection. Where there is a class for it, a coordination server spreads names, routes and
    /// permissions, and what is missing may still be on its way.
    pub(crate) denied: Option<&'static str>,
}

const WIREGUARD: Provider = Provider {
    no_auth: Some("the handshake of WireGuard is its authentication"),
    silent: "wg.silent",
    unresolved: "wg.endpoint.dns",
    no_address: "wg.address.missing",
    address_clash: "wg.address.clash",
    route_clash: "wg.allowedips.clash",
    no_route: "wg.allowedips.client",
    unreachable: "wg.icmp.unreach",
    icmp: |_, _, _| None,
    dns_silent: "dns.silent",
    dns_unrouted: "wg.dns",
    no_dns: "dns.no_server",
    offline: None,
    mtu: "wg.mtu",
    pending: "tunnel.down",
    challenge: "tunnel.down",
    proof: None,
    denied: None,
};

const OPENVPN: Provider = Provider {
    no_auth: Some("the handshake of OpenVPN contains it"),
    silent: "ovpn.udp.silent",
    unresolved: "ovpn.remote.dns",
    no_address: "ovpn.push.timeout",
    address_clash: "ovpn.addr.clash",
    route_clash: "ovpn.addr.clash",
    no_route: "ovpn.route.none",
    unreachable: "target.unreachable",
    icmp: |_, _, _| None,
    dns_silent: "dns.silent",
    dns_unrouted: "dns.unrouted",
    no_dns: "ovpn.dns.none",
    offline: None,
    mtu: "ovpn.mtu",
    pending: "ovpn.auth.pending",
    challenge: "ovpn.auth.challenge",
    proof: None,
    denied: None,
};

const TAILSCALE: Provider = Provider {
    no_auth: None,
    silent: "ts.netmap.timeout",
    unresolved: "ts.control.dns",
    no_address: "ts.netmap.timeout",
    address_clash: "ts.cgnat.clash",
    route_clash: "ts.cgnat.clash",
    no_route: "ts.subnet.unrouted",
    unreachable: "target.unreachable",
    // What the node makes of the rejections of peers, which have no ICMP of their own, and of packets that no peer takes.
    icmp: |from, kind, code| match (kind, code) {
        (3, 0) | (1, 0) if TAILNET_SERVICE.contains(&from) => Some(MISSING_EXIT),
        (3, 1) | (1, 3) if TAILNET_SERVICE.contains(&from) => Some(MISSING_PEER),
        (3, 13) | (1, 1) => Some("ts.acl.denied"),
        (3, 10) | (1, 5) => Some("ts.shields"),
        (3, 0) | (1, 0) => Some("ts.subnet.forward"),
        _ => None,
    },
    dns_silent: "ts.dns.split",
    dns_unrouted: "ts.dns.split",
    no_dns: "ts.dns.magic",
    offline: Some("ts.peer.offline"),
    mtu: "ts.mtu",
    pending: "ts.login.timeout",
    challenge: "tunnel.down",
    proof: Some("the control server knows the node, and the relay has taken its key"),
    denied: Some("ts.acl.denied"),
};

const OTHER: Provider = Provider {
    no_auth: None,
    silent: "tunnel.down",
    unresolved: "tunnel.down",
    no_address: "tunnel.down",
    address_clash: "wg.address.clash",
    route_clash: "route.clash",
    no_route: "route.none",
    unreachable: "target.unreachable",
    icmp: |_, _, _| None,
    dns_silent: "dns.silent",
    dns_unrouted: "dns.unrouted",
    no_dns: "dns.no_server",
    offline: None,
    mtu: "wg.mtu",
    pending: "tunnel.down",
    challenge: "tunnel.down",
    proof: None,
    denied: None,
};

impl Provider {
    /// By the word in the plan.
    pub(crate) fn of(word: Option<&str>) -> &'static Self {
        match word {
            Some("wireguard") => &WIREGUARD,
            Some("openvpn") => &OPENVPN,
            Some("tailscale") => &TAILSCALE,
            _ => &OTHER,
        }
    }

    /// Whether an answer of a DNS server means that no way leads to the resolver of a domain: a node of a tailnet refuses
    /// such names itself, so that nobody outside hears of them.
    pub(crate) fn knows_no_way(&self, server: IpAddr, code: &str) -> bool {
        self.denied.is_some() && TAILNET_SERVICE.contains(&server) && code == "REFUSED"
    }

    /// The provider's own class for one that the packet path gave, which knows no protocols.
    pub(crate) fn class<'a>(&self, class: &'a str) -> &'a str {
        match class {
            "route.clash" => self.route_clash,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;

    #[test]
    fn every_class_of_a_provider_is_in_the_catalogue() {
        for provider in [&WIREGUARD, &OPENVPN, &TAILSCALE, &OTHER] {
            for class in [
                provider.silent,
                provider.unresolved,
                provider.no_address,
                provider.address_clash,
                provider.route_clash,
                provider.no_route,
                provider.unreachable,
                provider.dns_silent,
                provider.dns_unrouted,
                provider.no_dns,
                provider.mtu,
                provider.pending,
                provider.challenge,
            ] {
                assert!(catalogue::find(class).is_some(), "{class}");
            }
            let optional = [provider.offline, provider.denied];
            assert!(optional.into_iter().flatten().all(|class| catalogue::find(class).is_some()));
        }
    }

    #[test]
    fn the_rejection_of_a_peer_has_its_class() {
        let peer = IpAddr::from([100, 64, 0, 2]);
        for (from, kind, code, class) in [
            (peer, 3, 13, "ts.acl.denied"),
            (peer, 1, 1, "ts.acl.denied"),
            (peer, 3, 10, "ts.shields"),
            (peer, 3, 0, "ts.subnet.forward"),
            (TAILNET_SERVICE[0], 3, 0, MISSING_EXIT),
            (TAILNET_SERVICE[1], 1, 0, MISSING_EXIT),
            (TAILNET_SERVICE[0], 3, 1, MISSING_PEER),
            (TAILNET_SERVICE[1], 1, 3, MISSING_PEER),
        ] {
            assert_eq!((TAILSCALE.icmp)(from, kind, code), Some(class));
            assert!(catalogue::find(class).is_some(), "{class}");
        }
        assert_eq!(((TAILSCALE.icmp)(peer, 3, 1), (WIREGUARD.icmp)(peer, 3, 13)), (None, None));
    }
}
