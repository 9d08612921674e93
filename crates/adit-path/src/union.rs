//! Several networks as one: the longest prefix and the longest suffix decide.

mod datagrams;

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_tunnel::{NameScope, NetConfig, Way, is_under, reverse_address};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::{
    Answer, BoxFuture, Connect, ConnectFailure, Counters, Destination, Flow, Listen, ListenFailure, Listener,
    Network, Phase, PingFailure, PingKind, Pong, Query, ResolveFailure, Status, Udp, UdpFailure, UdpFlow,
    WayFailure,
};

/// Connections that wait in a listener of several networks.
const BACKLOG: usize = 128;

/// Several networks side by side. An address goes to the network with the longest route to it, a name to the one
/// with the longest search domain or split rule above it; between equals the first one wins.
///
/// A name that belongs to one network is never asked of another.
pub struct Union {
    members: Arc<[Member]>,
    status: watch::Sender<Status>,
    watchers: Vec<AbortHandle>,
}

struct Member {
    network: Arc<dyn Network>,
    /// Kept from the start: asking the network for it may wait until it has counted.
    status: watch::Receiver<Status>,
}

impl Union {
    /// Joins networks, the first with the highest rank. Needs a tokio runtime, which serves them from then on.
    pub fn new(members: impl IntoIterator<Item = Arc<dyn Network>>) -> Self {
        let member = |network: Arc<dyn Network>| Member { status: network.status(), network };
        let members: Arc<[Member]> = members.into_iter().map(member).collect();
        let status = watch::Sender::new(merged(&members));
        let watch = |member: &Member| {
            let (members, status, mut own) = (Arc::clone(&members), status.clone(), member.status.clone());
            let task = async move {
                while own.changed().await.is_ok() {
                    status.send_replace(merged(&members));
                }
            };
            tokio::spawn(task).abort_handle()
        };
        let watchers = members.iter().map(watch).collect();
        Self { members, status, watchers }
    }

    fn with_route(&self, to: IpAddr) -> Option<&Arc<dyn Network>> {
        with_route(&self.members, to).map(|at| &self.members[at].network)
    }

    /// The networks that a name is asked of, in order.
    fn with_name(&self, name: &str) -> Vec<&Arc<dyn Network>> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if let Some(address) = reverse_address(&name)
            && let Some(member) = self.with_route(address)
        {
            return vec![member];
        }
        let scoped: Vec<_> = self
            .members
            .iter()
            .map(|member| {
                let status = member.status.borrow();
                let config = status.config.as_ref();
                let scope = config.map_or(NameScope::Public, |config| config.name_scope(&name));
                (scope, config.and_then(|config| suffix(config, &name)), &member.network)
            })
            .collect();
        let of = |wanted: NameScope| scoped.iter().filter(move |(scope, ..)| *scope == wanted);
        match of(NameScope::Private).map(|(_, suffix, _)| *suffix).max() {
            Some(longest) => {
                let owners = of(NameScope::Private).filter(|(_, suffix, _)| *suffix == longest);
                owners.map(|(.., member)| *member).collect()
            }
            None => of(NameScope::Either).map(|(.., member)| *member).collect(),
        }
    }
}

impl Network for Union {
    fn owns(&self, destination: &Destination) -> bool {
        self.members.iter().any(|member| member.network.owns(destination))
    }

    fn resolve(&self, query: Query) -> BoxFuture<'_, Result<Answer, ResolveFailure>> {
        Box::pin(async move {
            let mut first = None;
            for member in self.with_name(&query.name) {
                match member.resolve(query.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => first = first.or(Some(failure)),
                }
            }
            Err(first.unwrap_or(ResolveFailure::NoServer { name: query.name }))
        })
    }

    fn connect(&self, to: SocketAddr, options: Connect) -> BoxFuture<'_, Result<Flow, ConnectFailure>> {
        Box::pin(async move {
            let member = self.with_route(to.ip()).ok_or(ConnectFailure::NoRoute(to.ip()))?;
            member.connect(to, options).await
        })
    }

    fn udp(&self, options: Udp) -> BoxFuture<'_, Result<UdpFlow, UdpFailure>> {
        Box::pin(async move {
            if let Some(peer) = options.peer {
                let member = self.with_route(peer.ip()).ok_or(UdpFailure::NoRoute(peer.ip()))?;
                return member.udp(options).await;
            }
            datagrams::open(Arc::clone(&self.members), options).await
        })
    }

    /// Peers of every network reach the port.
    fn listen(&self, port: u16, options: Listen) -> BoxFuture<'_, Result<Listener, ListenFailure>> {
        Box::pin(async move {
            let mut listeners = Vec::new();
            let mut port = port;
            for member in self.members.iter() {
                let listener = member.network.listen(port, options.clone()).await?;
                // The first network chooses the port for all.
                port = listener.port();
                listeners.push(listener);
            }
            let (sender, incoming) = mpsc::channel(BACKLOG);
            for mut listener in listeners {
                let sender = sender.clone();
                tokio::spawn(async move {
                    loop {
                        let next = tokio::select! {
                            next = listener.next() => next,
                            () = sender.closed() => None,
                        };
                        let Some(next) = next else { return };
                        if sender.send(next).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Ok(Listener::new(port, incoming))
        })
    }

    fn ping(&self, to: IpAddr, kind: PingKind) -> BoxFuture<'_, Result<Pong, PingFailure>> {
        Box::pin(async move {
            let member = self.with_route(to).ok_or(PingFailure::NoRoute(to))?;
            member.ping(to, kind).await
        })
    }

    fn find_way(&self, to: IpAddr, timeout: Duration) -> BoxFuture<'_, Result<Way, WayFailure>> {
        Box::pin(async move {
            let member = self.with_route(to).ok_or(WayFailure::NoRoute(to))?;
            member.find_way(to, timeout).await
        })
    }

    fn status(&self) -> watch::Receiver<Status> {
        for member in self.members.iter() {
            // The receiver that is kept sees the fresh counters too.
            drop(member.network.status());
        }
        self.status.send_replace(merged(&self.members));
        self.status.subscribe()
    }
}

impl fmt::Debug for Union {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Union").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        for watcher in &self.watchers {
            watcher.abort();
        }
    }
}

/// The position of the network with the longest route to an address.
fn with_route(members: &[Member], to: IpAddr) -> Option<usize> {
    let to = to.to_canonical();
    let length = |member: &Member| {
        let status = member.status.borrow();
        let routes = status.config.iter().flat_map(|config| &config.routes);
        routes.filter(|route| route.contains(to)).map(|route| route.length()).max()
    };
    let owner = |member: &Member| member.network.owns(&Destination::Address(to));
    let owners = members.iter().enumerate().filter(|(_, member)| owner(member));
    owners.min_by_key(|(_, member)| Reverse(length(member))).map(|(at, _)| at)
}

/// The length of the longest search domain or split rule above a name.
fn suffix(config: &NetConfig, name: &str) -> Option<usize> {
    let rules = config.dns.routes.iter().map(|rule| &rule.suffix);
    let above = config.dns.search.iter().chain(rules).filter(|suffix| is_under(name, suffix));
    above.map(String::len).max()
}

/// What the networks together look like: up as soon as one is, with the fault of the first that is not.
fn merged(members: &[Member]) -> Status {
    let mut all = Status { phase: Phase::Closed, ..Status::default() };
    for (at, member) in members.iter().enumerate() {
        let status = member.status.borrow().clone();
        all.phase = match (all.phase, status.phase) {
            (Phase::Up, _) | (_, Phase::Up) => Phase::Up,
            (one, other) => one.min(other),
        };
        all.fault = all.fault.or(status.fault);
        all.prompt = all.prompt.or(status.prompt);
        all.warnings.extend(status.warnings);
        all.own = all.own.or(status.own);
        all.peers.extend(status.peers);
        all.resolved.extend(status.resolved);
        all.ups += status.ups;
        all.since = if at == 0 { status.since } else { all.since.min(status.since) };
        all.configured = all.configured.into_iter().chain(status.configured).min();
        if let Some(config) = status.config {
            join(all.config.get_or_insert_default(), config);
        }
        add(&mut all.counters, status.counters);
    }
    all
}

fn join(all: &mut NetConfig, config: NetConfig) {
    all.mtu = if all.mtu == 0 { config.mtu } else { all.mtu.min(config.mtu) };
    all.addresses.extend(config.addresses);
    all.routes.extend(config.routes);
    all.dns.servers.extend(config.dns.servers);
    all.dns.search.extend(config.dns.search);
    all.dns.routes.extend(config.dns.routes);
}

fn add(all: &mut Counters, counters: Counters) {
    all.net_received += counters.net_received;
    all.net_sent += counters.net_sent;
    all.net_received_bytes += counters.net_received_bytes;
    all.net_sent_bytes += counters.net_sent_bytes;
    all.host_received += counters.host_received;
    all.host_sent += counters.host_sent;
    all.tcp_flows += counters.tcp_flows;
    all.udp_flows += counters.udp_flows;
    for (reason, count) in counters.dropped {
        match all.dropped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sum)) => *sum += count,
            None => all.dropped.push((reason, count)),
        }
    }
}
