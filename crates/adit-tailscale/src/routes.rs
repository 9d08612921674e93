//! Which peer a packet belongs to, and what the packet end is told of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_tunnel::{DnsConfig, DnsRoute, NetConfig, Prefix, PrefixTable};

use crate::AcceptRoutes;
use crate::magicdns::{REVERSE, SERVICE_V4};
use crate::netmap::{NodeId, Peer, Resolver, State};

/// The MTU inside the tunnel, as every node of a tailnet has it.
pub(crate) const MTU: u16 = 1280;
/// The ranges of tailnet addresses: 100.64.0.0/10 and fd7a:115c:a1e0::/48.
const RANGES: [&str; 2] = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"];

/// What the user wants of routes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) accept_routes: AcceptRoutes,
    pub(crate) accept_dns: bool,
    pub(crate) exit_node: Option<String>,
    pub(crate) keep_out: Vec<Prefix>,
}

impl Policy {
    /// Whether a peer is the exit node.
    pub(crate) fn is_exit(&self, peer: &Peer) -> bool {
        let Some(wanted) = self.exit_node.as_deref().map(|wanted| wanted.trim_end_matches('.')) else {
            return false;
        };
        let first = peer.name.split('.').next();
        let by_name = wanted.eq_ignore_ascii_case(&peer.name)
            || first.is_some_and(|first| !first.is_empty() && wanted.eq_ignore_ascii_case(first));
        let by_address = || {
            let address: Option<IpAddr> = wanted.parse().ok();
            address.is_some_and(|address| peer.addresses.iter().any(|prefix| prefix.address() == address))
        };
        !wanted.is_empty() && (by_name || wanted == peer.stable_id || by_address())
    }

    /// The prefixes of a peer that are used.
    pub(crate) fn used<'a>(&'a self, peer: &'a Peer) -> impl Iterator<Item = Prefix> + 'a {
        let exit = self.is_exit(peer);
        peer.allowed_ips.iter().map(Prefix::network).filter(move |prefix| match prefix {
            prefix if prefix.is_default() => exit,
            prefix if is_own(peer, prefix) => true,
            prefix => self.accept_routes.takes(prefix) && self.refusal(prefix).is_none(),
        })
    }

    /// Whether a peer may be an exit node: it offers to be one, and an administrator has approved that.
    pub(crate) fn offers_exit(peer: &Peer) -> bool {
        peer.allowed_ips.iter().any(Prefix::is_default)
    }

    /// Why a route or resolver is not accepted, whoever offers it.
    pub(crate) fn refusal(&self, prefix: &Prefix) -> Option<&'static str> {
        let address = prefix.address();
        let local = match address {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
        };
        // A wider prefix than the machine's own network is for the rest of it; an equal or narrower one would take it over.
        let inside = |own: &&Prefix| own.contains(address) && own.length() <= prefix.length();
        match address {
            _ if local => Some("it is this machine's own, or its link's"),
            _ if address.is_multicast() => Some("it is multicast"),
            _ if self.keep_out.iter().find(inside).is_some() => Some("it is a network of this machine"),
            _ => None,
        }
    }

    /// Routes of peers that are not accepted.
    pub(crate) fn refused<'a>(&'a self, peer: &'a Peer) -> impl Iterator<Item = (Prefix, &'static str)> + 'a {
        let offered = peer.allowed_ips.iter().map(Prefix::network);
        offered
            .filter(|prefix| {
                !prefix.is_default() && !is_own(peer, prefix) && self.accept_routes.takes(prefix)
            })
            .filter_map(|prefix| Some((prefix, self.refusal(&prefix)?)))
    }
}

/// Whether a prefix is an address of the peer itself.
fn is_own(peer: &Peer, prefix: &Prefix) -> bool {
    let single = prefix.length() == Prefix::host(prefix.address()).length();
    let known = |own: &Prefix| own.address() == prefix.address();
    single && (peer.addresses.iter().any(known) || ranges().any(|range| range.contains(prefix.address())))
}

fn ranges() -> impl Iterator<Item = Prefix> {
    RANGES.iter().filter_map(|text| text.parse().ok())
}

/// The prefixes of all peers with a value for each, in an order in which the table takes them fast.
pub(crate) fn table(
    peers: &BTreeMap<NodeId, Peer>,
    policy: &Policy,
    value: impl Fn(NodeId) -> Option<u32>,
) -> PrefixTable<u32> {
    let usable = peers.values().filter(|peer| !peer.expired);
    let mut entries: Vec<(Prefix, u32)> = usable
        .filter_map(|peer| Some((peer, value(peer.id)?)))
        .flat_map(|(peer, value)| policy.used(peer).map(move |prefix| (prefix, value)))
        .collect();
    // Stable: of equal prefixes the first is that of the lowest node, and it stays.
    entries.sort_by_key(|(prefix, _)| *prefix);
    entries.dedup_by_key(|(prefix, _)| *prefix);
    let mut table = PrefixTable::default();
    for (prefix, value) in entries {
        table.insert(prefix, value);
    }
    table
}

/// What the packet end is told.
pub(crate) fn net_config(state: &State, policy: &Policy) -> NetConfig {
    let Some(node) = &state.node else { return NetConfig::default() };
    let mut routes: Vec<Prefix> = vec![Prefix::host(SERVICE_V4.into())];
    let taken = |range: &Prefix| policy.keep_out.iter().any(|own| own.overlaps(range));
    let whole: Vec<Prefix> = ranges()
        .filter(|range| node.addresses.iter().any(|own| range.contains(own.address())) && !taken(range))
        .collect();
    routes.extend(&whole);
    for peer in state.peers.values().filter(|peer| !peer.expired) {
        let covered = |prefix: &Prefix| whole.iter().any(|range| range.contains(prefix.address()));
        routes.extend(policy.used(peer).filter(|prefix| prefix.is_default() || !covered(prefix)));
    }
    if policy.exit_node.is_some() {
        // Also while the exit node is gone: nothing then leaks past it.
        routes.extend(["0.0.0.0/0", "::/0"].iter().filter_map(|text| text.parse::<Prefix>().ok()));
    }
    routes.sort();
    routes.dedup();
    let dns = dns(state, policy, &routes);
    // What a wide route covers of the machine's own networks stays outside.
    let covered = |own: &&Prefix| routes.iter().any(|route| route.covers(own));
    let excluded = policy.keep_out.iter().map(Prefix::network).collect::<Vec<_>>();
    let excluded = excluded.iter().filter(covered).copied().collect();
    NetConfig { addresses: node.addresses.clone(), routes, excluded, dns, mtu: MTU }
}

/// Servers inside the tunnel for names of the tailnet; other names stay with the machine's own resolver.
fn dns(state: &State, policy: &Policy, routes: &[Prefix]) -> DnsConfig {
    let service = || vec![IpAddr::from(SERVICE_V4)];
    let inside = |resolvers: &[Resolver]| -> Vec<IpAddr> {
        let plain = resolvers.iter().filter_map(|resolver| match resolver {
            Resolver::Plain(address) if address.port() == 53 => Some(address.ip()),
            _ => None,
        });
        let routed = |ip: &IpAddr| routes.iter().any(|route| route.contains(*ip));
        plain.filter(routed).filter(|ip| policy.refusal(&Prefix::host(*ip)).is_none()).collect()
    };
    let mut list: Vec<DnsRoute> = Vec::new();
    let mut add = |suffix: &str, servers: Vec<IpAddr>| {
        if !suffix.is_empty() && !list.iter().any(|route| route.suffix == suffix) {
            list.push(DnsRoute { suffix: suffix.to_owned(), servers });
        }
    };
    // Names of the tailnet itself come first: no rule takes them over.
    if let Some(suffix) = state.suffix() {
        add(suffix, service());
    }
    for suffix in REVERSE {
        add(suffix, service());
    }
    if !policy.accept_dns {
        let search = state.suffix().map(str::to_owned).into_iter().collect();
        return DnsConfig { servers: Vec::new(), search, routes: list };
    }
    for route in &state.dns.routes {
        if route.resolvers.is_empty() {
            add(&route.suffix, service());
            continue;
        }
        let servers = inside(&route.resolvers);
        if !servers.is_empty() {
            add(&route.suffix, servers);
        } else if route.resolvers.iter().all(is_private) {
            // No route leads there. The names are private all the same: our own service refuses to answer them, where
            // the machine's resolver would hear of them.
            add(&route.suffix, service());
        }
        // A public resolver for some names is no secret of the tailnet: the machine's own answers the same.
    }
    for record in &state.dns.records {
        let covered = state.suffix().is_some_and(|suffix| adit_tunnel::is_under(&record.name, suffix));
        if !covered {
            add(&record.name, service());
        }
    }
    let mut search = if state.dns.magic { state.dns.search.clone() } else { Vec::new() };
    if let Some(suffix) = state.suffix()
        && !search.iter().any(|domain| domain == suffix)
    {
        search.insert(0, suffix.to_owned());
    }
    DnsConfig { servers: inside(&state.dns.resolvers), search, routes: list }
}

/// Whether a resolver is in a network that the public one does not know.
fn is_private(resolver: &Resolver) -> bool {
    match resolver {
        Resolver::Plain(address) => match address.ip() {
            IpAddr::V4(ip) => {
                ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_tailnet(address.ip())
            }
            IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
        },
        Resolver::Other(_) => false,
    }
}

pub(crate) fn is_tailnet(ip: IpAddr) -> bool {
    ranges().any(|range| range.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::{self, Dns, ExtraRecord, SelfNode, Update};

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn state() -> State {
        let peer = |id: i64, name: &str, addresses: &[&str], more: &[&str]| Peer {
            id: NodeId(id),
            name: format!("{name}.tail.example"),
            stable_id: format!("n{id}"),
            addresses: prefixes(addresses),
            allowed_ips: prefixes(&[addresses, more].concat()),
            ..Peer::default()
        };
        let mut update = Update {
            node: Some(SelfNode {
                name: "me.tail.example".into(),
                addresses: prefixes(&["100.64.0.1/32"]),
                ..SelfNode::default()
            }),
            ..Update::default()
        };
        update.peers.full = vec![
            peer(2, "router", &["100.64.0.2/32"], &["10.20.0.0/16", "127.0.0.0/8", "172.17.0.0/16"]),
            peer(3, "exit", &["100.64.0.3/32"], &["0.0.0.0/0", "::/0"]),
            peer(4, "other", &["192.0.2.4/32"], &["10.20.0.0/16"]),
        ];
        let plain = |text: &str| Resolver::Plain(text.parse().unwrap());
        update.dns = Some(Dns {
            resolvers: vec![plain("1.1.1.1:53")],
            routes: vec![
                netmap::DnsRoute { suffix: "corp.example".into(), resolvers: vec![plain("10.20.0.53:53")] },
                netmap::DnsRoute { suffix: "public.example".into(), resolvers: vec![plain("9.9.9.9:53")] },
                netmap::DnsRoute { suffix: "none.example".into(), resolvers: Vec::new() },
            ],
            search: vec!["tail.example".into()],
            magic: true,
            records: vec![ExtraRecord { name: "db.internal".into(), address: "10.20.0.7".parse().unwrap() }],
        });
        let mut state = State::default();
        state.apply(update);
        state
    }

    fn policy() -> Policy {
        Policy {
            accept_routes: AcceptRoutes::All,
            accept_dns: true,
            exit_node: None,
            keep_out: prefixes(&["172.17.0.0/16"]),
        }
    }

    #[test]
    fn subnet_routes_are_used_when_wanted_and_those_of_the_machine_never() {
        let (state, mut policy) = (state(), policy());
        let lookup = |policy: &Policy, ip: &str| {
            let table = table(&state.peers, policy, |id| u32::try_from(id.0).ok());
            table.lookup(ip.parse().unwrap()).copied()
        };
        assert_eq!(lookup(&policy, "10.20.9.9"), Some(2), "the lowest node wins");
        assert_eq!(lookup(&policy, "127.0.0.1"), None);
        assert_eq!(lookup(&policy, "172.17.0.5"), None);
        assert_eq!(lookup(&policy, "192.0.2.4"), Some(4));
        assert_eq!(lookup(&policy, "8.8.8.8"), None, "no exit node was chosen");
        let refused: Vec<_> =
            state.peers.values().flat_map(|peer| policy.refused(peer)).map(|(p, _)| p).collect();
        assert_eq!(refused, prefixes(&["127.0.0.0/8", "172.17.0.0/16"]));
        policy.accept_routes = AcceptRoutes::None;
        assert_eq!(lookup(&policy, "10.20.9.9"), None);
        assert_eq!(lookup(&policy, "100.64.0.2"), Some(2));
        for exit in ["exit", "EXIT.tail.example.", "100.64.0.3", "n3"] {
            policy.exit_node = Some(exit.to_owned());
            assert_eq!(lookup(&policy, "8.8.8.8"), Some(3), "{exit}");
        }
    }

    #[test]
    fn the_packet_end_routes_the_tailnet_and_asks_inside_for_private_names_only() {
        let config = net_config(&state(), &policy());
        let routes = ["10.20.0.0/16", "100.64.0.0/10", "100.100.100.100/32", "192.0.2.4/32"];
        assert_eq!(config.routes, prefixes(&routes));
        assert_eq!((config.mtu, config.dns.servers.len()), (1280, 0));
        assert_eq!(config.dns.search, ["tail.example"]);
        let server = |suffix: &str| {
            let rule = config.dns.routes.iter().find(|rule| rule.suffix == suffix)?;
            rule.servers.first().map(ToString::to_string)
        };
        let service = Some("100.100.100.100".to_owned());
        assert_eq!(server("tail.example"), service);
        assert_eq!(server("none.example"), service);
        assert_eq!(server("db.internal"), service);
        assert_eq!(server("corp.example"), Some("10.20.0.53".to_owned()));
        assert_eq!(server("public.example"), None);
    }

    #[test]
    fn names_whose_resolver_no_route_leads_to_stay_inside() {
        let policy = Policy { accept_routes: AcceptRoutes::None, ..policy() };
        let config = net_config(&state(), &policy);
        let rule = |suffix: &str| config.dns.routes.iter().find(|rule| rule.suffix == suffix);
        assert_eq!(rule("corp.example").unwrap().servers, [IpAddr::from(SERVICE_V4)]);
        assert!(rule("public.example").is_none());
    }

    #[test]
    fn of_a_tailnets_dns_only_the_names_of_nodes_may_be_wanted() {
        let config = net_config(&state(), &Policy { accept_dns: false, ..policy() });
        let suffixes: Vec<&str> = config.dns.routes.iter().map(|rule| rule.suffix.as_str()).collect();
        assert_eq!(
            (config.dns.servers.len(), suffixes),
            (0, ["tail.example"].into_iter().chain(REVERSE).collect())
        );
        assert_eq!(config.dns.search, ["tail.example"]);
    }

    #[test]
    fn routes_outside_the_wanted_ones_are_not_used() {
        let within =
            |text: &str| Policy { accept_routes: AcceptRoutes::Within(prefixes(&[text])), ..policy() };
        let routes = |policy: &Policy| net_config(&state(), policy).routes;
        let route: Prefix = "10.20.0.0/16".parse().unwrap();
        assert!(routes(&within("10.0.0.0/8")).contains(&route));
        assert!(!routes(&within("10.20.0.0/17")).contains(&route));
    }

    #[test]
    fn an_exit_node_that_is_gone_is_a_black_hole() {
        let mut state = state();
        let policy = Policy { exit_node: Some("gone".into()), ..policy() };
        assert!(net_config(&state, &policy).routes.iter().any(Prefix::is_default));
        state.peers.clear();
        let table = table(&state.peers, &policy, |_| Some(1));
        assert_eq!(table.lookup("8.8.8.8".parse().unwrap()), None);
    }
}
