//! The node and its relays.

use std::time::Instant;

use adit_tunnel::{Dropped, Event, LinkId, NetQueue, Outbox};

use super::discovery::Via;
use super::{Phase, Tailscale};
use crate::derp::{DerpError, Incoming};
use crate::netmap::RegionId;
use crate::{NodeKey, Problem, Report, disco};

/// After this many failures in a row a relay counts as out of reach.
const FAILURES: u32 = 3;

impl Tailscale {
    /// Takes a piece of the stream of a relay.
    pub(super) fn stream(
        &mut self,
        now: Instant,
        link: LinkId,
        data: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let (id, mut conn) = self.relays.take(link).ok_or(Dropped::Unexpected)?;
        let mut failed = conn.receive(now, data, &mut out.net).err();
        let (mut result, mut restarting) = (Ok(()), None);
        // What came before a failure still counts.
        loop {
            match conn.next(now, &self.keys, &mut self.random) {
                Ok(None) => break,
                Ok(Some(Incoming::Packet(from, data))) => {
                    result = result.and(self.relayed(now, id, from, data, out));
                }
                Ok(Some(Incoming::Ready)) => {
                    tracing::debug!(region = id.0, "connected with the relay");
                    self.relays.ready(&mut conn, id, &mut out.net);
                }
                Ok(Some(Incoming::PeerGone(key))) => self.peer_gone(id, key),
                Ok(Some(Incoming::Health(text))) => {
                    self.standing.relay(self.region_name(id), id, &text);
                    self.report(Report::DerpHealth { region: id, text });
                }
                Ok(Some(Incoming::Restarting(after))) => restarting = Some(after),
                Err(error) => {
                    failed.get_or_insert(error);
                    break;
                }
            }
        }
        conn.flush(&mut out.net);
        self.relays.put_back(now, id, conn);
        let (relays, mut cx) = self.relays(now, &mut out.net);
        match (failed, restarting) {
            (Some(error), _) => relays.fail(&mut cx, id, error),
            (None, Some(after)) => relays.restarting(&mut cx, id, after),
            (None, None) => {}
        }
        self.evaluate(now);
        result
    }

    /// A packet came through a relay.
    fn relayed(
        &mut self,
        now: Instant,
        region: RegionId,
        from: NodeKey,
        data: &mut [u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let index = *self.by_key.get(&from).ok_or(Dropped::Unexpected)?;
        if let Some(member) = self.members.get_mut(&index) {
            member.heard_at = Some(region);
        }
        let via = Via::Relay(region, from);
        match disco::sender(data) {
            Some(_) => self.discovered(now, via, data, out),
            None => self.wireguard(now, via, data, out),
        }
    }

    fn peer_gone(&mut self, region: RegionId, key: NodeKey) {
        let member = self.by_key.get(&key).and_then(|index| self.members.get_mut(index));
        if let Some(member) = member
            && member.heard_at == Some(region)
        {
            member.heard_at = None;
        }
    }

    pub(super) fn relay_closed(
        &mut self,
        now: Instant,
        link: LinkId,
        error: Option<std::io::ErrorKind>,
        net: &mut NetQueue,
    ) {
        if let Some(id) = self.relays.region(link) {
            let (relays, mut cx) = self.relays(now, net);
            relays.fail(&mut cx, id, DerpError::Link(error));
            self.evaluate(now);
        }
    }

    /// Says whether packets pass, where that is another thing than was said last.
    pub(super) fn evaluate(&mut self, now: Instant) {
        let home = self.relays.home();
        let connected = home.is_some_and(|home| self.relays.is_connected(home));
        if let Some(region) = home
            && self.home_connected != connected
        {
            self.home_connected = connected;
            self.report(Report::Home { region, connected });
        }
        if self.is_excluded() {
            return;
        }
        let member = self.state.node.is_some();
        let direct = || self.active.iter().any(|index| self.has_trusted_path(*index, now));
        let without = self.state.regions.is_empty() && self.is_open();
        match self.phase {
            Phase::Failed => {}
            Phase::Up if member && !connected && !without => {
                let problem = self.relay_problem().filter(|_| !direct());
                if let Some(problem) = problem {
                    self.phase = Phase::Down;
                    self.events.push_back(Event::Down(problem));
                }
            }
            Phase::Starting | Phase::Down if member && (connected || without) => {
                self.phase = Phase::Up;
                self.events.push_back(Event::Up);
            }
            Phase::Starting if member => {
                if let Some(problem) = self.relay_problem() {
                    self.phase = Phase::Down;
                    self.events.push_back(Event::Down(problem));
                }
            }
            Phase::Starting | Phase::Up | Phase::Down => {}
        }
    }

    fn has_trusted_path(&self, index: u32, now: Instant) -> bool {
        self.members.get(&index).is_some_and(|member| member.paths.trusted(now).is_some())
    }

    /// What is wrong with our home relay, once it has failed often enough.
    fn relay_problem(&self) -> Option<Problem> {
        let (failures, error, region) = self.relays.home_error()?;
        if failures < FAILURES {
            return None;
        }
        let hosts: Vec<&str> = region.nodes.iter().map(|node| node.host.as_str()).collect();
        let mut evidence = vec![format!(
            "{failures} attempts in a row to reach the relays of region {} ({}) failed",
            region.code,
            hosts.join(", ")
        )];
        evidence.extend(error.map(|error| format!("the last attempt: {error}")));
        evidence.extend(self.check.udp().map(|udp| match udp {
            true => "STUN answers come in over UDP".to_owned(),
            false => "no STUN answer came over UDP".to_owned(),
        }));
        Some(Problem {
            class: "ts.derp.unreachable",
            summary: format!("no relay of the tailnet can be reached (region {})", region.code),
            evidence,
        })
    }
}
