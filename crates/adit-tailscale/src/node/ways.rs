//! Which way leads to a peer: it is asked for pongs on all of them, and the best answer is told, with what stands in the way of
//! a direct one.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_tunnel::{Deadline, Event, NetQueue, NoWay, Way};

use super::discovery::Via;
use super::peer::Member;
use super::{Socket, Tailscale};

/// Questions that may wait.
const MAX_ASKS: usize = 64;
/// After an answer through a relay, a direct one is waited for this long.
const DIRECT_AFTER_RELAY: Duration = Duration::from_millis(500);
/// A question that nobody has answered is repeated after this time.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// Addresses that are quoted.
const MAX_QUOTED: usize = 4;

/// Somebody waits to hear which way leads to a peer.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    token: u64,
    /// The peer.
    index: u32,
    until: Instant,
    /// When to ask once more: a peer that has not heard of us yet drops our pings.
    again: Instant,
    relayed: Option<(String, Duration)>,
}

impl Tailscale {
    /// Asks the peer behind an address for pongs on every way there is.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        to: IpAddr,
        timeout: Duration,
        token: u64,
        net: &mut NetQueue,
    ) -> Result<(), NoWay> {
        let index = *self.table.lookup(to).ok_or(NoWay::NoRoute)?;
        if self.asks.len() >= MAX_ASKS {
            return Err(NoWay::Busy);
        }
        let again = now + ASK_AGAIN;
        self.asks.push(Ask { token, index, until: now + timeout, again, relayed: None });
        self.ping_all_ways(now, index, token, net);
        if self.is_open() && self.members.get(&index).is_some_and(|member| !member.disco.is_zero()) {
            self.call(now, index, net);
        }
        Ok(())
    }

    fn ping_all_ways(&mut self, now: Instant, index: u32, token: u64, net: &mut NetQueue) {
        if let Some(packet) = self.ping_packet(now, index, None, Some(token)) {
            self.send_relayed(now, index, packet.bytes(), net);
        }
        let Some(member) = self.members.get_mut(&index) else { return };
        let best = member.paths.route(now).direct;
        // A search leaves out what was asked a moment ago; somebody who asks wants to know now.
        member.paths.search(now);
        let mut addresses: Vec<_> = member.paths.candidates().collect();
        if let Some(best) = best.filter(|best| !addresses.contains(best)) {
            addresses.push(best);
        }
        for address in addresses {
            self.ping(now, index, address, Some(token), net);
        }
        self.active.insert(index);
    }

    /// A pong answers a question.
    pub(super) fn answered(&mut self, now: Instant, token: u64, via: Via, rtt: Duration) {
        let Some(at) = self.asks.iter().position(|ask| ask.token == token) else { return };
        match via {
            Via::Direct(from) => {
                let ask = self.asks.swap_remove(at);
                let way = Way {
                    peer: self.peer_name(ask.index),
                    endpoint: Some(from),
                    rtt: Some(rtt),
                    ..Way::default()
                };
                self.events.push_back(Event::Way { token, way });
            }
            Via::Relay(region, _) => {
                let name = self.region_name(region);
                if let Some(ask) = self.asks.get_mut(at) {
                    ask.relayed.get_or_insert((name, rtt));
                    ask.until = ask.until.min(now + DIRECT_AFTER_RELAY);
                }
            }
        }
    }

    /// Repeats questions, and tells what is known of the ways that nobody answered on.
    pub(super) fn go_on_asking(&mut self, now: Instant, net: &mut NetQueue) {
        let due = |ask: &&mut Ask| ask.relayed.is_none() && now >= ask.again && now < ask.until;
        let due: Vec<_> = self
            .asks
            .iter_mut()
            .filter(due)
            .map(|ask| {
                ask.again = now + ASK_AGAIN;
                (ask.index, ask.token)
            })
            .collect();
        for (index, token) in due {
            self.ping_all_ways(now, index, token, net);
        }
        while let Some(at) = self.asks.iter().position(|ask| now >= ask.until) {
            let ask = self.asks.swap_remove(at);
            let obstacles = match self.members.get(&ask.index) {
                Some(member) => self.obstacles(member),
                None => vec!["the peer has left the network meanwhile".to_owned()],
            };
            let (relay, rtt) = ask.relayed.unzip();
            let way = Way { peer: self.peer_name(ask.index), endpoint: None, relay, rtt, obstacles };
            self.events.push_back(Event::Way { token: ask.token, way });
        }
    }

    pub(super) fn asks_timeout(&self) -> Option<Deadline> {
        let next = |ask: &Ask| if ask.relayed.is_none() { ask.until.min(ask.again) } else { ask.until };
        let at = self.asks.iter().map(next).min()?;
        Some(Deadline { at, why: "a way is waited for" })
    }

    fn peer_name(&self, index: u32) -> String {
        self.members.get(&index).map(Member::label).unwrap_or_default()
    }

    /// Why a peer does not answer directly, as far as it can be told from here.
    fn obstacles(&self, member: &Member) -> Vec<String> {
        if let Some(fixed) = member.fixed {
            return vec![format!("the peer speaks WireGuard only, at {fixed}, and answers no such question")];
        }
        if member.disco.is_zero() {
            return vec!["the peer has told no key for the discovery of paths".to_owned()];
        }
        match self.socket {
            Socket::Off => return vec!["UDP is switched off for this node (udp = false)".to_owned()],
            Socket::Opening | Socket::Lost { .. } => {
                return vec!["this machine gives no UDP socket at present".to_owned()];
            }
            Socket::Open { .. } => {}
        }
        let mut found = Vec::new();
        if self.info.udp == Some(false) {
            found.push("no STUN server answers: UDP seems to be blocked here".to_owned());
        }
        let tried: Vec<SocketAddr> = member.paths.candidates().collect();
        if tried.is_empty() {
            found.push("the peer has told no address where it may be found".to_owned());
        } else {
            let quoted: Vec<_> = tried.iter().take(MAX_QUOTED).map(SocketAddr::to_string).collect();
            let more = match tried.len().saturating_sub(MAX_QUOTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            found.push(format!("the peer does not answer at {}{more}", quoted.join(", ")));
        }
        if self.check.mapping_varies() == Some(true) {
            found.push("the NAT here shows each destination another port (a hard NAT)".to_owned());
        }
        if let Some(address) = many_ports(&tried) {
            found.push(format!(
                "the NAT of the peer seems to show each destination another port: it names several of {address}"
            ));
        }
        found
    }
}

/// A public address that is named with several ports.
fn many_ports(addresses: &[SocketAddr]) -> Option<IpAddr> {
    let again = |(at, address): (usize, &SocketAddr)| {
        addresses.iter().take(at).any(|other| other.ip() == address.ip()).then(|| address.ip())
    };
    addresses.iter().enumerate().filter_map(again).find(is_public)
}

fn is_public(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_private() && !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unique_local() && !ip.is_unicast_link_local(),
    }
}
