//! One peer of an interface: its session, its endpoint, what waits for it, and what is wrong with it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{Deadline, Fault, LinkId, NetQueue, Unreachable};

use crate::endpoint::Endpoint;
use crate::error::{Cause, Observations};
use crate::peer::{HANDSHAKE_LEN, OVERHEAD, Peer, Timeout};
use crate::staged::Staged;
use crate::symptoms::Symptoms;
use crate::{PeerConfig, PublicKey};

/// Without an answer for this long (three initiations), a peer counts as silent.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(15);
/// A name with several addresses gets its next address tried after this time (RFC 8305 speaks of 250 ms for TCP; a
/// handshake here costs the server a Diffie-Hellman).
const NEXT_CANDIDATE_AFTER: Duration = Duration::from_secs(1);

/// What the network says of an address is repeated with every try; older words than this are forgotten.
const REFUSAL_HOLDS: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) config: PeerConfig,
    pub(crate) peer: Peer,
    pub(crate) endpoint: Endpoint,
    pub(crate) staged: Staged,
    pub(crate) trouble: Option<Trouble>,
    /// Whether there has been a session.
    pub(crate) was_up: bool,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) last_received: Option<Instant>,
    /// What was last said to be wrong, until the peer answers again.
    pub(crate) reported: Option<Cause>,
    pub(crate) symptoms: Symptoms,
}

/// An exchange of handshakes that has not been answered yet.
#[derive(Debug)]
pub(crate) struct Trouble {
    since: Instant,
    initiations: u32,
    pub(crate) bad_responses: u32,
    pub(crate) cookie: bool,
    /// What the network said of which address, and when; at most one entry per candidate.
    refusals: Vec<(SocketAddr, Unreachable, Instant)>,
    next_candidate: Option<Instant>,
    judge_at: Option<Instant>,
}

impl Trouble {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            initiations: 0,
            bad_responses: 0,
            cookie: false,
            refusals: Vec::new(),
            next_candidate: None,
            judge_at: Some(now + SILENT_AFTER),
        }
    }
}

impl Member {
    pub(crate) fn new(config: PeerConfig, mut peer: Peer) -> Self {
        peer.set_keepalive(keepalive(&config));
        let endpoint = Endpoint::new(config.endpoint.clone());
        Self {
            config,
            peer,
            endpoint,
            staged: Staged::default(),
            trouble: None,
            was_up: false,
            received: 0,
            sent: 0,
            last_received: None,
            reported: None,
            symptoms: Symptoms::default(),
        }
    }

    /// Takes over settings that do not touch the session.
    pub(crate) fn reconfigure(&mut self, config: PeerConfig) {
        if config.endpoint != self.config.endpoint {
            let current = self.endpoint.current();
            self.endpoint = Endpoint::new(config.endpoint.clone());
            if let (None, Some(current)) = (&config.endpoint, current) {
                self.endpoint.learn(current);
            }
        }
        self.peer.set_keepalive(keepalive(&config));
        self.config = config;
    }

    /// Whether packets pass, as far as is known.
    pub(crate) fn is_healthy(&self) -> bool {
        self.peer.is_ready() && self.reported.is_none()
    }

    /// Starts a handshake, if there is an address for it and none is under way (or `again`).
    pub(crate) fn initiate(&mut self, now: Instant, again: bool, net: &mut NetQueue) {
        if self.endpoint.current().is_none() {
            return;
        }
        let mut message = [0; HANDSHAKE_LEN];
        let len = self.peer.initiate(now, again, &mut message);
        if len > 0 {
            self.send_initiation(now, &message[..len], net);
        }
    }

    fn send_initiation(&mut self, now: Instant, message: &[u8], net: &mut NetQueue) {
        let trouble = self.trouble.get_or_insert_with(|| Trouble::new(now));
        trouble.initiations += 1;
        let untried = self.endpoint.candidates().len().saturating_sub(trouble.initiations as usize);
        trouble.next_candidate = (!self.was_up && untried > 0).then(|| now + NEXT_CANDIDATE_AFTER);
        self.send(message, net);
    }

    /// Sends to where the peer is. A message that finds no space is lost, as on any network.
    pub(crate) fn send(&mut self, message: &[u8], net: &mut NetQueue) {
        let Some(to) = self.endpoint.current() else { return };
        if let Some(mut slot) = net.reserve(LINK, Some(to), message.len()) {
            slot.copy_from_slice(message);
            slot.commit(message.len());
            self.sent += message.len() as u64;
        }
    }

    /// What the session seems to suffer from.
    pub(crate) fn symptom(&self) -> Option<Fault> {
        self.symptoms.judge(keepalive(&self.config))
    }

    /// Sends what waited for the session.
    pub(crate) fn flush(&mut self, now: Instant, net: &mut NetQueue) {
        let (Some(to), true) = (self.endpoint.current(), self.peer.is_ready()) else { return };
        let (peer, sent) = (&mut self.peer, &mut self.sent);
        self.staged.flush(|packet| {
            let Some(mut slot) = net.reserve(LINK, Some(to), packet.len() + OVERHEAD) else { return false };
            if let Ok(len) = peer.seal(now, packet, &mut slot) {
                slot.commit(len);
                *sent += len as u64;
            }
            true
        });
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, net: &mut NetQueue) {
        self.endpoint.handle_timeout(now);
        if self.endpoint.current().is_none() {
            return;
        }
        let mut message = [0; HANDSHAKE_LEN];
        loop {
            match self.peer.handle_timeout(now, &mut message) {
                Timeout::Initiation(len) => {
                    let age = self.peer.established().map(|at| now.saturating_duration_since(at));
                    self.symptoms.renewing(now, age);
                    self.before_another_try(now);
                    self.send_initiation(now, &message[..len], net);
                    break;
                }
                Timeout::Keepalive(len) => {
                    self.symptoms.sent(now);
                    self.send(&message[..len], net);
                }
                Timeout::GaveUp => {
                    let wanted = !self.was_up || !self.staged.is_empty() || keepalive(&self.config).is_some();
                    self.staged.clear();
                    if wanted {
                        self.before_another_try(now);
                        self.initiate(now, false, net);
                    } else {
                        self.trouble = None;
                    }
                    break;
                }
                Timeout::Idle => break,
            }
        }
        let due = |at: &mut Option<Instant>| at.take_if(|at| now >= *at).is_some();
        if self.trouble.as_mut().is_some_and(|trouble| due(&mut trouble.next_candidate))
            && self.endpoint.rotate()
        {
            self.initiate(now, true, net);
        }
        if self.trouble.as_mut().is_some_and(|trouble| due(&mut trouble.judge_at)) {
            self.endpoint.resolve_again(now);
            if let (Some(heard), Some(trouble)) = (self.last_received, &mut self.trouble)
                && now < heard + SILENT_AFTER
            {
                trouble.judge_at = Some(heard + SILENT_AFTER);
            }
        }
        if !self.staged.is_empty() {
            self.flush(now, net);
        }
    }

    /// The address that did not answer gives way to the next; after a while the name is asked for again.
    fn before_another_try(&mut self, now: Instant) {
        let Some(trouble) = &self.trouble else { return };
        if now >= trouble.since + SILENT_AFTER {
            self.endpoint.resolve_again(now);
            self.endpoint.forget_roaming();
        }
        self.endpoint.rotate();
    }

    pub(crate) fn poll_timeout(&self) -> Option<Deadline> {
        let at = |at: Option<Instant>, why| at.map(|at| Deadline { at, why });
        let trouble = self.trouble.as_ref();
        [
            self.peer.poll_timeout().filter(|_| self.endpoint.current().is_some()),
            at(trouble.and_then(|trouble| trouble.next_candidate), "next address"),
            at(trouble.and_then(|trouble| trouble.judge_at), "silence"),
            at(self.endpoint.poll_timeout(), "resolve again"),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    /// An authenticated message came from `from`.
    pub(crate) fn heard(&mut self, now: Instant, from: SocketAddr, len: usize) {
        self.received += len as u64;
        self.last_received = Some(now);
        if self.endpoint.current() != Some(from) {
            tracing::info!(peer = %self.config.public_key, %from, "the peer is at another address");
            self.endpoint.learn(from);
        }
        if self.peer.is_ready() && !self.peer.is_initiating() {
            self.trouble = None;
            self.reported = None;
            self.was_up = true;
        }
    }

    /// The network says that `to` cannot be reached.
    pub(crate) fn unreachable(&mut self, now: Instant, to: SocketAddr, why: Unreachable, net: &mut NetQueue) {
        if self.endpoint.current() != Some(to) {
            return;
        }
        if self.trouble.is_none() {
            // The process there may have restarted and lost the session: asking costs one packet, waiting 15 s.
            self.initiate(now, false, net);
        }
        let Some(trouble) = &mut self.trouble else { return };
        trouble.refusals.retain(|(address, _, _)| *address != to);
        if trouble.refusals.len() <= self.endpoint.candidates().len() {
            trouble.refusals.push((to, why, now));
        }
        if self.refusal(now).is_none() && self.endpoint.rotate() {
            self.initiate(now, true, net);
        }
    }

    /// Why no address can be reached, if the network has lately said so of each.
    fn refusal(&self, now: Instant) -> Option<Cause> {
        let refusals = &self.trouble.as_ref()?.refusals;
        let said = |address: &SocketAddr| {
            let fresh = |(of, _, at): &&(SocketAddr, Unreachable, Instant)| {
                of == address && now < *at + REFUSAL_HOLDS
            };
            refusals.iter().find(fresh).map(|(_, why, _)| *why)
        };
        let candidates = self.endpoint.candidates();
        let whys: Option<Vec<Unreachable>> = match candidates {
            [] => self.endpoint.current().iter().map(said).collect(),
            _ => candidates.iter().map(said).collect(),
        };
        let whys = whys.filter(|whys| !whys.is_empty())?;
        Some(if whys.contains(&Unreachable::Port) {
            Cause::Refused
        } else if whys.contains(&Unreachable::Prohibited) {
            Cause::Prohibited
        } else if whys.contains(&Unreachable::Host) || candidates.iter().any(SocketAddr::is_ipv4) {
            Cause::Unreachable
        } else {
            Cause::EndpointFamily
        })
    }

    /// What must be said about the peer, if it has not been said.
    pub(crate) fn verdict(&self, now: Instant, clock_is_behind: bool) -> Option<Cause> {
        let trouble = self.trouble.as_ref()?;
        let silent = now >= trouble.since + SILENT_AFTER
            && self.last_received.is_none_or(|heard| now >= heard + SILENT_AFTER);
        let cause = match self.refusal(now) {
            _ if trouble.bad_responses > 0 => Cause::PskMismatch,
            _ if self.peer.is_ready() && !silent => return None,
            Some(refused) => refused,
            None if !silent => return None,
            None if self.was_up => Cause::RekeyLost,
            None if clock_is_behind => Cause::Clock,
            None if trouble.cookie => Cause::OurKeyUnknown,
            None => Cause::Silent,
        };
        (self.reported != Some(cause)).then_some(cause)
    }

    pub(crate) fn observations(&self, now: Instant, ours: PublicKey) -> Observations {
        let trouble = self.trouble.as_ref();
        Observations {
            peer: self.config.public_key,
            ours,
            endpoint: self.config.endpoint.clone(),
            address: self.endpoint.current(),
            initiations: trouble.map_or(0, |trouble| trouble.initiations),
            elapsed: trouble.map_or(Duration::ZERO, |trouble| now.saturating_duration_since(trouble.since)),
            bad_responses: trouble.map_or(0, |trouble| trouble.bad_responses),
            cookie: trouble.is_some_and(|trouble| trouble.cookie),
        }
    }
}

fn keepalive(config: &PeerConfig) -> Option<Duration> {
    config
        .persistent_keepalive
        .filter(|&seconds| seconds > 0)
        .map(|seconds| Duration::from_secs(seconds.into()))
}

/// The one link of an interface.
pub(crate) const LINK: LinkId = LinkId(0);
