//! The connections with the regions of the map: the home region always, others while they are needed.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_tunnel::{Deadline, Event, LinkId, LinkSpec, NetQueue};

use super::tls::Tls;
use super::{Conn, DerpError, frame};
use crate::names::{Lookup, Names};
use crate::netmap::{DerpRegion, RegionId};
use crate::{NodeKey, Problem, Proxy};

/// A region that nothing was sent to or came from for this long is left, unless it is home.
const IDLE: Duration = Duration::from_secs(60);
/// The first wait before another attempt; it doubles up to the last.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Bytes that wait for a connection that is being made.
const MAX_PENDING: usize = 64 * 1024;
/// The first link of a relay; lower numbers are other links.
const FIRST_LINK: u32 = 16;

/// What connections need of the node.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) net: &'a mut NetQueue,
    pub(crate) events: &'a mut VecDeque<Event<Problem>>,
    pub(crate) names: &'a mut Names,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way, or waits for the connection.
    Yes,
    /// There is no room.
    Full,
    /// The map has no such region.
    NoRegion,
}

#[derive(Debug)]
enum State {
    Idle,
    Resolving,
    Connected(Box<Conn>),
    /// The connection is in the hands of the node, which works on what came.
    Taken,
    Waiting(Instant),
}

#[derive(Debug)]
struct Relay {
    region: DerpRegion,
    state: State,
    /// Which of the addresses of the region is next.
    attempt: usize,
    failures: u32,
    error: Option<DerpError>,
    used: Instant,
    /// Whole frames for when the connection is there.
    pending: Vec<u8>,
}

/// The relays.
#[derive(Debug)]
pub(crate) struct Relays {
    relays: BTreeMap<RegionId, Relay>,
    links: BTreeMap<LinkId, RegionId>,
    home: Option<RegionId>,
    next_link: u32,
    tls: Tls,
    proxy: Option<Proxy>,
    plain: bool,
}

impl Relays {
    pub(crate) fn new(roots: &Arc<rustls::RootCertStore>, proxy: Option<Proxy>, plain: bool) -> Self {
        Self {
            relays: BTreeMap::new(),
            links: BTreeMap::new(),
            home: None,
            next_link: FIRST_LINK,
            tls: Tls::new(roots),
            proxy,
            plain,
        }
    }

    /// Takes a map. Connections with regions that stay as they are survive.
    pub(crate) fn set_map(&mut self, cx: &mut Context<'_>, map: &BTreeMap<RegionId, DerpRegion>) {
        let gone: Vec<RegionId> = self
            .relays
            .iter()
            .filter(|(id, relay)| map.get(id) != Some(&relay.region))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.close(cx, id);
            self.relays.remove(&id);
        }
        for (id, region) in map {
            self.relays.entry(*id).or_insert_with(|| Relay {
                region: region.clone(),
                state: State::Idle,
                attempt: 0,
                failures: 0,
                error: None,
                used: cx.now,
                pending: Vec::new(),
            });
        }
        if self.home.is_some_and(|home| !self.relays.contains_key(&home)) {
            self.home = None;
        }
        if let Some(home) = self.home {
            self.open(cx, home);
        }
    }

    /// The home region.
    pub(crate) fn home(&self) -> Option<RegionId> {
        self.home
    }

    /// Makes a region home, and connects.
    pub(crate) fn set_home(&mut self, cx: &mut Context<'_>, home: RegionId) {
        if self.home == Some(home) || !self.relays.contains_key(&home) {
            return;
        }
        self.home = Some(home);
        for (id, relay) in &mut self.relays {
            if let State::Connected(conn) = &mut relay.state {
                conn.set_preferred(*id == home);
                conn.flush(cx.net);
            }
        }
        self.open(cx, home);
    }

    /// Whether the region's relay takes packets now.
    pub(crate) fn is_connected(&self, id: RegionId) -> bool {
        matches!(self.relays.get(&id), Some(Relay { state: State::Connected(conn), .. }) if conn.is_ready())
    }

    /// What the last attempts with home came to, if there is no connection.
    pub(crate) fn home_error(&self) -> Option<(u32, Option<&DerpError>, &DerpRegion)> {
        let relay = self.relays.get(&self.home?)?;
        (relay.failures > 0).then_some((relay.failures, relay.error.as_ref(), &relay.region))
    }

    /// Sends a packet to a node in a region; connects first where that is needed.
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, id: RegionId, to: &NodeKey, packet: &[u8]) -> Sent {
        let Some(relay) = self.relays.get_mut(&id) else { return Sent::NoRegion };
        relay.used = cx.now;
        match &mut relay.state {
            State::Connected(conn) if conn.is_ready() => {
                if conn.queue(cx.now, to, packet) {
                    Sent::Yes
                } else {
                    Sent::Full
                }
            }
            _ if relay.pending.len() + packet.len() > MAX_PENDING => Sent::Full,
            _ => {
                frame::put_packet_header(&mut relay.pending, to, packet.len());
                relay.pending.extend_from_slice(packet);
                self.open(cx, id);
                Sent::Yes
            }
        }
    }

    /// Hands on what was queued for a region.
    pub(crate) fn flush(&mut self, id: RegionId, net: &mut NetQueue) {
        if let Some(Relay { state: State::Connected(conn), .. }) = self.relays.get_mut(&id) {
            conn.flush(net);
        }
    }

    /// Begins to connect, unless that is under way or must wait.
    fn open(&mut self, cx: &mut Context<'_>, id: RegionId) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        match relay.state {
            State::Connected(_) | State::Taken => return,
            State::Waiting(until) if cx.now < until => return,
            State::Idle | State::Resolving | State::Waiting(_) => {}
        }
        let (mut candidates, mut pending) = (Vec::new(), false);
        let nodes = relay.region.nodes.iter().enumerate().filter(|(_, node)| !node.stun_only);
        for (index, node) in nodes {
            let lookup = match &self.proxy {
                Some(proxy) => cx.names.lookup(cx.now, &proxy.at.host, proxy.at.port, cx.events),
                None => cx.names.node(cx.now, node, cx.events),
            };
            match lookup {
                Lookup::Known(addresses) => candidates.extend(addresses.into_iter().map(|ip| (index, ip))),
                Lookup::Pending => pending = true,
            }
        }
        if candidates.is_empty() && pending {
            relay.state = State::Resolving;
            return;
        }
        let chosen = relay.attempt.checked_rem(candidates.len()).and_then(|at| candidates.get(at)).copied();
        let Some((index, ip)) = chosen else { return self.fail(cx, id, DerpError::Unresolved) };
        let Some(node) = relay.region.nodes.get(index) else { return };
        let to = SocketAddr::new(ip, self.proxy.as_ref().map_or(node.derp_port, |proxy| proxy.at.port));
        let plain = self.plain && is_private(ip);
        let link = LinkId(self.next_link);
        self.next_link = self.next_link.wrapping_add(1).max(FIRST_LINK);
        let tls = (!plain).then_some(&self.tls);
        match Conn::new(link, node, tls, self.proxy.as_ref(), cx.now) {
            Ok(mut conn) => {
                conn.set_preferred(self.home == Some(id));
                relay.state = State::Connected(Box::new(conn));
                self.links.insert(link, id);
                cx.events.push_back(Event::OpenLink(link, LinkSpec::Tcp { to }));
            }
            Err(error) => self.fail(cx, id, error),
        }
    }

    fn close(&mut self, cx: &mut Context<'_>, id: RegionId) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        if let State::Connected(conn) = std::mem::replace(&mut relay.state, State::Idle) {
            self.links.remove(&conn.link);
            cx.events.push_back(Event::CloseLink(conn.link));
        }
        relay.pending.clear();
    }

    /// The connection, or the attempt, failed: another follows after a while, if anybody still wants it.
    pub(crate) fn fail(&mut self, cx: &mut Context<'_>, id: RegionId, error: DerpError) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        tracing::info!(region = id.0, %error, "no connection with the relay");
        let was_ready = matches!(&relay.state, State::Connected(conn) if conn.is_ready());
        if was_ready {
            (relay.failures, relay.attempt) = (0, 0);
        }
        relay.failures += 1;
        relay.attempt += 1;
        relay.error = Some(error);
        let wait = FIRST_RETRY * 2u32.saturating_pow(relay.failures.min(6) - 1);
        let pending = std::mem::take(&mut relay.pending);
        self.close(cx, id);
        if let Some(relay) = self.relays.get_mut(&id) {
            // What waited is for the next attempt, as long as there is one soon.
            if relay.failures < 3 {
                relay.pending = pending;
            }
            relay.state = State::Waiting(cx.now + wait.min(LAST_RETRY));
        }
    }

    /// The relay asks us to come back after a while.
    pub(crate) fn restarting(&mut self, cx: &mut Context<'_>, id: RegionId, after: Duration) {
        self.close(cx, id);
        if let Some(relay) = self.relays.get_mut(&id) {
            relay.state = State::Waiting(cx.now + after.min(LAST_RETRY));
        }
    }

    /// The login is done: what waited goes out.
    pub(crate) fn ready(&mut self, conn: &mut Conn, id: RegionId, net: &mut NetQueue) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        (relay.failures, relay.attempt, relay.error) = (0, 0, None);
        conn.set_preferred(self.home == Some(id));
        conn.queue_frames(&std::mem::take(&mut relay.pending));
        conn.flush(net);
    }

    /// Takes a connection out, to work on it; [`put_back`](Self::put_back) must follow.
    pub(crate) fn take(&mut self, link: LinkId) -> Option<(RegionId, Box<Conn>)> {
        let id = *self.links.get(&link)?;
        let relay = self.relays.get_mut(&id)?;
        match std::mem::replace(&mut relay.state, State::Taken) {
            State::Connected(conn) => Some((id, conn)),
            other => {
                relay.state = other;
                None
            }
        }
    }

    /// Puts a connection back. What was sent to its region meanwhile follows.
    pub(crate) fn put_back(&mut self, now: Instant, id: RegionId, mut conn: Box<Conn>) {
        let Some(relay) = self.relays.get_mut(&id).filter(|relay| matches!(relay.state, State::Taken)) else {
            return;
        };
        relay.used = now;
        if conn.is_ready() && !relay.pending.is_empty() {
            conn.queue_frames(&std::mem::take(&mut relay.pending));
        }
        relay.state = State::Connected(conn);
    }

    /// The region of a link.
    pub(crate) fn region(&self, link: LinkId) -> Option<RegionId> {
        self.links.get(&link).copied()
    }

    /// A name was resolved.
    pub(crate) fn resolved(&mut self, cx: &mut Context<'_>) {
        let waiting: Vec<RegionId> = self
            .relays
            .iter()
            .filter(|(_, relay)| matches!(relay.state, State::Resolving))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.open(cx, id);
        }
    }

    /// The machine is in another network: nothing of the old connections works.
    pub(crate) fn network_changed(&mut self, cx: &mut Context<'_>) {
        let ids: Vec<RegionId> = self.relays.keys().copied().collect();
        for id in ids {
            self.close(cx, id);
        }
        if let Some(home) = self.home {
            self.open(cx, home);
        }
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let (now, home) = (cx.now, self.home);
        let mut due = Vec::new();
        for (id, relay) in &self.relays {
            match &relay.state {
                State::Connected(conn) if now >= conn.deadline() => {
                    due.push((*id, Some(DerpError::Timeout(conn.doing()))));
                }
                State::Connected(_) if home != Some(*id) && now >= relay.used + IDLE => due.push((*id, None)),
                State::Waiting(until) if now >= *until => due.push((*id, None)),
                _ => {}
            }
        }
        for (id, error) in due {
            match error {
                Some(error) => self.fail(cx, id, error),
                None => {
                    let wanted = home == Some(id)
                        || self.relays.get(&id).is_some_and(|relay| !relay.pending.is_empty());
                    if wanted {
                        self.open(cx, id);
                    } else {
                        self.close(cx, id);
                    }
                }
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Deadline> {
        self.relays.iter().fold(None, |soonest, (id, relay)| {
            let deadline = match &relay.state {
                State::Connected(conn) => {
                    let dead = Deadline { at: conn.deadline(), why: "relay is silent" };
                    let idle = Deadline { at: relay.used + IDLE, why: "relay is idle" };
                    Deadline::earlier(Some(dead), (self.home != Some(*id)).then_some(idle))
                }
                State::Waiting(until) => Some(Deadline { at: *until, why: "connect with the relay" }),
                State::Idle | State::Resolving | State::Taken => None,
            };
            Deadline::earlier(soonest, deadline)
        })
    }
}

/// Whether an address is this machine's or that of a private network.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
