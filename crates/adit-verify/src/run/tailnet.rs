//! What the map of a tailnet says about a failure: who is not there, who is offline, who should have carried the packet.

use std::net::IpAddr;
use std::time::Duration;

use adit_path::{Destination, Status};
use adit_tunnel::{PeerStatus, Prefix, is_under};
use tokio::time::{Instant, sleep};

use super::{Missed, Run};
use crate::catalogue::Words;
use crate::provider::{MISSING_EXIT, MISSING_PEER};
use crate::{Failure, Probe, Stage};

/// Names that are offered in place of one that nobody has.
const NEAREST: usize = 3;
/// How alike such a name must be (Jaro-Winkler).
const ALIKE: f64 = 0.7;
/// Hosts behind a router that are asked whether it forwards at all.
const WITNESSES: usize = 4;

/// Whoever carries packets to an address, and by which of its prefixes.
fn carrier(peers: &[PeerStatus], address: IpAddr) -> Option<(&PeerStatus, Prefix)> {
    let own = |peer: &PeerStatus| peer.addresses.iter().map(|own| Prefix::host(*own)).collect::<Vec<_>>();
    let prefixes = |peer: &PeerStatus| [own(peer), peer.prefixes.clone()].concat();
    let all = peers.iter().filter(|peer| !peer.expired);
    let all = all.flat_map(|peer| prefixes(peer).into_iter().map(move |prefix| (peer, prefix)));
    all.filter(|(_, prefix)| prefix.contains(address)).max_by_key(|(_, prefix)| prefix.length())
}

/// The first label of a name.
fn label(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

fn names<'a>(peers: impl Iterator<Item = &'a PeerStatus>) -> String {
    peers.take(8).map(|peer| peer.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The names of nodes that a name may have been meant for, the likeliest first.
fn alike(wanted: &str, peers: &[PeerStatus]) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = peers
        .iter()
        .map(|peer| label(&peer.name))
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(NEAREST).map(|(_, name)| name.to_owned()).collect()
}

/// What is wrong with the exit node that was asked for, if anything is.
fn exit_fault(status: &Status) -> Option<(String, Vec<String>)> {
    let wanted = status.own.as_ref()?.exit_node.clone()?;
    let in_use = status.peers.iter().find(|peer| peer.prefixes.iter().any(Prefix::is_default));
    let mut seen = Vec::new();
    match in_use {
        Some(peer) if peer.online != Some(false) => return None,
        Some(peer) => seen.push(format!("the control server has no connection with {}", peer.name)),
        None => {
            let bare = wanted.trim_end_matches('.');
            let named =
                |name: &str| name.eq_ignore_ascii_case(bare) || label(name).eq_ignore_ascii_case(bare);
            let addressed = |peer: &PeerStatus| bare.parse().is_ok_and(|ip| peer.addresses.contains(&ip));
            let meant = status.peers.iter().find(|peer| named(&peer.name) || addressed(peer));
            seen.push(match meant {
                Some(peer) if peer.expired => format!("the key of {} has expired", peer.name),
                Some(peer) => {
                    format!("{} does not offer to be an exit node, or nobody has approved it", peer.name)
                }
                None => format!("no node that this one sees has the name, address or ID {wanted}"),
            });
        }
    }
    let others = status.peers.iter().filter(|peer| {
        peer.offers_exit && peer.online != Some(false) && in_use.is_none_or(|used| used.name != peer.name)
    });
    let others = names(others);
    seen.push(match others.is_empty() {
        true => "no other node offers to be one".to_owned(),
        false => format!("these nodes offer to be one: {others}"),
    });
    Some((wanted, seen))
}

impl Run<'_> {
    /// Whoever asked for an exit node has it, or hears that it is not there: without it no public address is reached, and
    /// programs would find that out one by one.
    pub(super) async fn exit_node(&self) -> Result<(), Missed> {
        let began = Instant::now();
        let mut provisional = 0;
        while let Some((wanted, seen)) = exit_fault(&self.fresh_status()) {
            let mut failure = Failure::of(MISSING_EXIT, &self.context().words.with("peer", wanted));
            failure.evidence = seen;
            if self.unsettled().is_zero() {
                return Err(self.missed(failure, provisional + 1, provisional, began));
            }
            provisional += 1;
            self.provisional(Stage::Address, None, &failure);
            self.not_yet(Stage::Address, None, failure);
            sleep(Duration::from_secs(1).min(self.unsettled())).await;
        }
        Ok(())
    }

    /// Looks what the map of the tailnet knows about each failure.
    pub(super) async fn refine_tailnet(&self) {
        let Some(offline) = self.own().offline else { return };
        let failures = self.log().failures.clone();
        for (index, old) in failures {
            match old.class.as_str() {
                "target.silent" => self.blame_carrier(index, &old, offline).await,
                "dns.nxdomain" => self.unknown_name(index, &old),
                class if class == MISSING_PEER => self.unknown_address(index, &old).await,
                class if class == MISSING_EXIT && old.stage != Some(Stage::Address) => {
                    if let Some((wanted, seen)) = exit_fault(&self.fresh_status()) {
                        self.exchange(index, &old, MISSING_EXIT, &self.words("peer", &wanted), &seen);
                    }
                }
                "ts.dns.split" => self.blame_carrier_of_resolver(index, &old),
                _ => {}
            }
        }
    }

    /// The name that a target stands for.
    fn name_of(&self, index: usize) -> Option<String> {
        let target = self.plan.targets.get(index)?;
        match (target.host(), &target.probe) {
            (Some(Destination::Name(name)), _) => Some(name),
            (_, Probe::Dns { server: None, name }) => Some(name.clone()),
            _ => None,
        }
    }

    fn words(&self, name: &'static str, value: &str) -> Words {
        self.context().words.with(name, value)
    }

    /// A silent host has a node that carries its packets: itself, a router, or the exit node.
    async fn blame_carrier(&self, index: usize, old: &Failure, offline: &str) {
        let hosts = self.silent_hosts(index, old, &[]).await;
        let peers = self.fresh_status().peers;
        let carriers: Vec<_> =
            hosts.iter().filter_map(|host| Some((*host, carrier(&peers, *host)?))).collect();
        let gone = carriers.iter().find(|(_, (peer, _))| peer.online == Some(false));
        if let Some((host, (peer, prefix))) = gone {
            let class = if prefix.is_default() { MISSING_EXIT } else { offline };
            let mut seen = vec![format!("the coordination server has no connection with {}", peer.name)];
            if !peer.addresses.contains(host) {
                seen.push(format!("{} leads to {host}, by its route {prefix}", peer.name));
            }
            self.exchange(index, old, class, &self.words("peer", &peer.name), &seen);
            return;
        }
        // A node that is there, and does not take this connection: its firewall, or a service that hangs.
        if let Some((host, (peer, _))) =
            carriers.iter().find(|(host, (peer, _))| peer.addresses.contains(host))
        {
            let seen = match self.echoes(*host, 16).await {
                Some(rtt) => format!("{} answers echoes in {:.1} ms", peer.name, rtt.as_secs_f64() * 1e3),
                None => format!("{} does not answer echoes either", peer.name),
            };
            return self.amend(index, old, &[seen]);
        }
        let router = carriers.iter().find(|(host, (peer, prefix))| {
            !prefix.is_default() && !peer.addresses.contains(host) && !peer.addresses.is_empty()
        });
        if let Some((host, (peer, prefix))) = router {
            self.blame_router(index, old, *host, peer, *prefix).await;
        }
    }

    /// A router answers, and what is behind it does not: it does not forward, if nothing else behind it answers either.
    async fn blame_router(
        &self,
        index: usize,
        old: &Failure,
        host: IpAddr,
        peer: &PeerStatus,
        prefix: Prefix,
    ) {
        let mut answers = false;
        for address in peer.addresses.iter().take(2) {
            answers = answers || self.echoes(*address, 16).await.is_some();
        }
        let leads = format!("{} leads to {host}, by its route {prefix}", peer.name);
        if !answers {
            let silent = format!("{} does not answer echoes either", peer.name);
            return self.amend(index, old, &[leads, silent]);
        }
        let status = self.fresh_status();
        let servers =
            status.config.iter().flat_map(|config| &config.dns.routes).flat_map(|route| &route.servers);
        let mut witnesses = vec![host];
        for server in servers.filter(|server| prefix.contains(**server)) {
            if !witnesses.contains(server) && witnesses.len() < WITNESSES {
                witnesses.push(*server);
            }
        }
        for witness in &witnesses {
            if self.echoes(*witness, 16).await.is_some() {
                let seen = format!("behind it, {witness} answers echoes");
                return self.amend(index, old, &[leads, seen]);
            }
        }
        let asked: Vec<_> = witnesses.iter().map(IpAddr::to_string).collect();
        let seen = format!("it answers echoes itself, and behind it nobody does: asked {}", asked.join(", "));
        let words = match self.plan.targets.get(index) {
            Some(target) => self.words("peer", &peer.name).with("target", target),
            None => self.words("peer", &peer.name),
        };
        self.exchange(index, old, "ts.subnet.forward", &words, &[leads, seen]);
    }

    /// The resolver of a domain is silent: whoever leads to it may be why.
    fn blame_carrier_of_resolver(&self, index: usize, old: &Failure) {
        let Some(name) = self.name_of(index) else { return };
        let status = self.fresh_status();
        let routes = status.config.iter().flat_map(|config| &config.dns.routes);
        let route =
            routes.filter(|route| is_under(&name, &route.suffix)).max_by_key(|route| route.suffix.len());
        let seen: Vec<_> = route
            .iter()
            .flat_map(|route| &route.servers)
            .filter_map(|server| match carrier(&status.peers, *server) {
                None => Some(format!("no node leads to the resolver {server}")),
                Some((peer, _)) if peer.online == Some(false) => {
                    Some(format!("{} leads to the resolver {server}, and is offline", peer.name))
                }
                Some((peer, _)) if peer.addresses.contains(server) => None,
                Some((peer, _)) => Some(format!("{} leads to the resolver {server}", peer.name)),
            })
            .collect();
        self.amend(index, old, &seen);
    }

    /// A name that no node has, below the domain of the tailnet's own names.
    fn unknown_name(&self, index: usize, old: &Failure) {
        let Some(name) = self.name_of(index) else { return };
        let status = self.fresh_status();
        let own = status.own.as_ref().map(|own| own.name.to_ascii_lowercase()).unwrap_or_default();
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let short = match own.split_once('.') {
            Some((_, domain)) if is_under(&name, domain) => {
                name.strip_suffix(domain).and_then(|name| name.strip_suffix('.')).unwrap_or(&name)
            }
            _ if !name.contains('.') => name.as_str(),
            _ => return,
        };
        let near = alike(short, &status.peers);
        let mut words = self.words("host", &name);
        if !near.is_empty() {
            words = words.with("near", format!("; it has {}", near.join(", ")));
        }
        let seen = format!("{} nodes are visible to this one", status.peers.len());
        self.exchange(index, old, MISSING_PEER, &words, &[seen]);
    }

    /// An address in the tailnet's range that no node has: the node may be one whose key has expired.
    async fn unknown_address(&self, index: usize, old: &Failure) {
        let hosts = self.silent_hosts(index, old, &[]).await;
        let peers = self.fresh_status().peers;
        let expired = peers
            .iter()
            .find(|peer| peer.expired && peer.addresses.iter().any(|address| hosts.contains(address)));
        if let Some(peer) = expired {
            let seen = format!("the control server says that the key of {} is no longer valid", peer.name);
            self.exchange(index, old, "ts.peer.expired", &self.words("peer", &peer.name), &[seen]);
        }
    }
}
