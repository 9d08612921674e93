//! One connection to one server: the control channel with its negotiations, and the keys of the data channel.
//!
//! A session begins when its carrier is open and ends with it. It knows nothing of remotes, retries and questions to
//! people; it tells its owner what happened as [`Report`]s.

mod carrier;
mod negotiation;
mod slots;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_tunnel::{Dropped, NetQueue};

use crate::data::{Channel, DataKeys, Inner, KeyMaterial, Parameters, Role, Suite};
use crate::km::{DATA_KEYS_LABEL, DYNAMIC_TLS_CRYPT_LABEL, Randoms, derive_keys};
use crate::message::Message;
use crate::tls::Sessions;
use crate::wire::{Control, First, Opcode, SessionId, next_key_id};
use crate::wrap::{Side, Wrapper};
use crate::{Clock, Wrap};

pub(crate) use self::carrier::Carrier;
use self::negotiation::Negotiation;
pub use self::negotiation::Stage;
pub(crate) use self::negotiation::{Introduction, NegotiationError};
use self::slots::Slots;

/// The longest control packet that we send, as a datagram without IP and UDP headers. Servers since 2.6 take 1250
/// bytes with them.
const MAX_CONTROL: usize = 1200;
/// The first byte and the session id, which every control packet begins with.
const HEAD: usize = 9;
/// Negotiations that are kept: the one under way, the last that was completed, and the one before, which has late
/// packets to acknowledge.
const MAX_NEGOTIATIONS: usize = 3;

/// What a session is made with.
pub(crate) struct Parts<'a> {
    pub(crate) carrier: Carrier,
    pub(crate) session_id: SessionId,
    pub(crate) wrap: &'a Wrap,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) clock: Clock,
    pub(crate) introduction: Introduction,
    pub(crate) timing: Timing,
}

/// The times of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) tls_timeout: Duration,
    pub(crate) hand_window: Duration,
    pub(crate) tran_window: Duration,
    /// Zero: never by ourselves.
    pub(crate) reneg_interval: Duration,
    pub(crate) reneg_bytes: Option<u64>,
    pub(crate) reneg_packets: Option<u64>,
}

/// What the server's configuration says about the channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    pub(crate) suite: Suite,
    pub(crate) peer_id: Option<u32>,
    /// Keys come from the exporter of TLS.
    pub(crate) exporter: bool,
    /// Renegotiations have a tls-crypt key of their own.
    pub(crate) dynamic: bool,
    pub(crate) replay_window: u32,
}

/// What happened to a session.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    /// The server answered for the first time.
    Answered,
    /// The first exchange of keys is done; this is the server's options string.
    Exchanged(String),
    /// A control message came.
    Message(Message),
    /// A renegotiation is done.
    Renewed,
    /// The first negotiation failed.
    Failed(NegotiationError),
    /// No new keys could be agreed on, and the old ones are over.
    KeysOver(NegotiationError),
}

/// What was counted, for evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Control packets that did not pass the protection.
    pub(crate) unauthentic: u32,
    /// Packets that are none of this protocol.
    pub(crate) malformed: u32,
    /// Answers to our first packet that have no protection, where we have one.
    pub(crate) bare: u32,
}

/// A connection.
pub(crate) struct Session {
    carrier: Carrier,
    ours: SessionId,
    theirs: Option<SessionId>,
    wrap: Wrap,
    wrapper: Wrapper,
    /// Of renegotiations, with dynamic tls-crypt.
    later: Option<Wrapper>,
    sessions: Arc<Sessions>,
    clock: Clock,
    introduction: Introduction,
    timing: Timing,
    /// Oldest first; the last may be under way.
    negotiations: VecDeque<Negotiation>,
    negotiated: Option<Negotiated>,
    slots: Slots,
    /// A renegotiation failed; the keys are over at this time.
    over: Option<(Instant, NegotiationError)>,
    /// When the last packet of the server came that passed the protection.
    heard: Option<Instant>,
    seen: Seen,
    reports: VecDeque<Report>,
    packet: Vec<u8>,
}

impl Session {
    /// Begins a session: the first packet leaves with the next [`transmit`](Self::transmit).
    pub(crate) fn new(now: Instant, parts: Parts<'_>) -> Result<Self, rustls::Error> {
        let unix = unix_seconds(parts.clock, now);
        let mut this = Self {
            carrier: parts.carrier,
            ours: parts.session_id,
            theirs: None,
            wrap: parts.wrap.clone(),
            wrapper: Wrapper::new(parts.wrap, Side::Client, unix),
            later: None,
            sessions: parts.sessions,
            clock: parts.clock,
            introduction: parts.introduction,
            timing: parts.timing,
            negotiations: VecDeque::new(),
            negotiated: None,
            slots: Slots::new(parts.timing.tran_window),
            over: None,
            heard: None,
            seen: Seen::default(),
            reports: VecDeque::new(),
            packet: Vec::new(),
        };
        let reset = match &this.wrap {
            Wrap::CryptV2 { .. } => Opcode::HardResetClientV3,
            _ => Opcode::HardResetClientV2,
        };
        this.begin(now, 0, reset)?;
        Ok(this)
    }

    /// Where its packets go.
    pub(crate) fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Where its packets go, to be changed when the server moved.
    pub(crate) fn carrier_mut(&mut self) -> &mut Carrier {
        &mut self.carrier
    }

    /// When the server was heard last.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen
    }

    /// The server's clock, in seconds since 1970, where the protection shows it.
    pub(crate) fn peer_time(&self) -> Option<u32> {
        self.wrapper.peer_time()
    }

    /// How far the first negotiation is, or the one under way.
    pub(crate) fn stage(&self) -> Stage {
        self.negotiations.back().map_or(Stage::Calling, |last| last.stage)
    }

    /// How often the first packet was sent without an answer.
    pub(crate) fn resets_sent(&self) -> u32 {
        self.negotiations.back().map_or(0, |last| last.reliable.resets_sent())
    }

    /// Whether a renegotiation is under way.
    pub(crate) fn is_renegotiating(&self) -> bool {
        self.negotiations.back().is_some_and(|last| last.key_id != 0 && last.stage != Stage::Done)
    }

    /// When keys were agreed on last.
    pub(crate) fn last_negotiation(&self) -> Option<Instant> {
        self.negotiations.iter().rev().find(|done| done.stage == Stage::Done).map(|done| done.started)
    }

    /// Version and suite of TLS.
    pub(crate) fn tls_description(&self) -> Option<String> {
        self.negotiations.back().and_then(|last| last.tls.description())
    }

    /// How often the oldest control packet has been sent that the server does not acknowledge.
    pub(crate) fn repeated(&self) -> u32 {
        self.negotiations.back().map_or(0, |last| last.reliable.repeated())
    }

    /// Whether our first packet carries a wrapped key.
    pub(crate) fn has_wrapped_key(&self) -> bool {
        matches!(self.wrap, Wrap::CryptV2 { .. })
    }

    /// Whether the server, which keeps nothing of a first packet, wanted our wrapped key again.
    pub(crate) fn wrapped_key_was_wanted(&self) -> bool {
        self.negotiations.back().is_some_and(|last| last.reliable.has_second())
    }

    /// Whether TLS is of version 1.2, in which a finished handshake means that our certificate was accepted.
    pub(crate) fn is_tls_12(&self) -> bool {
        self.negotiations.back().is_some_and(|last| last.tls.is_12())
    }

    /// What is said in later exchanges.
    pub(crate) fn introduction_mut(&mut self) -> &mut Introduction {
        &mut self.introduction
    }

    /// The next thing that happened.
    pub(crate) fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// Gives the first negotiation more time: the server waits for somebody.
    pub(crate) fn extend(&mut self, until: Instant) {
        if let Some(last) = self.negotiations.back_mut() {
            last.deadline = last.deadline.max(until);
        }
    }

    /// Takes a control packet.
    pub(crate) fn handle_control(&mut self, now: Instant, packet: &mut [u8]) -> Result<(), Dropped> {
        let first = packet.first().and_then(|byte| First::parse(*byte)).ok_or(Dropped::Malformed);
        let first = first.inspect_err(|_| self.seen.malformed += 1)?;
        let wrapper = match (&mut self.later, first.key_id) {
            (Some(later), 1..) => later,
            _ => &mut self.wrapper,
        };
        // Looked at before it is opened in place. One that is too short for the protection may have none.
        let bare = first.opcode == Opcode::HardResetServerV2
            && packet.len() < wrapper.overhead()
            && packet.get(HEAD..).and_then(|body| Control::parse(first.opcode, body).ok()?.peer)
                == Some(self.ours);
        let opened = wrapper.unwrap(packet).inspect_err(|dropped| {
            let seen = &mut self.seen;
            let count = match dropped {
                Dropped::Malformed if bare => &mut seen.bare,
                Dropped::Unauthentic => &mut seen.unauthentic,
                _ => &mut seen.malformed,
            };
            *count = count.saturating_add(1);
        })?;
        let control = Control::parse(first.opcode, opened.body)?;
        if control.peer.is_some_and(|peer| peer != self.ours) {
            return Err(Dropped::Unexpected);
        }
        match self.theirs {
            Some(theirs) if theirs != opened.session => return Err(Dropped::Unexpected),
            Some(_) => {}
            // Who acknowledges our reset has seen it: without protection, that is all there is to go by. It need not be
            // a reset: where the first one is lost, many servers repeat it without the acknowledgement.
            None if first.key_id == 0 && control.peer.is_some() && opened.session != [0; 8] => {
                self.theirs = Some(opened.session);
                self.reports.push_back(Report::Answered);
            }
            None => return Err(Dropped::Unexpected),
        }
        self.heard = Some(now);
        if first.opcode == Opcode::SoftReset {
            self.soft_reset(now, first.key_id);
        }
        let negotiation = self
            .negotiations
            .iter_mut()
            .find(|negotiation| negotiation.key_id == first.key_id)
            .ok_or(Dropped::Unexpected)?;
        let taken = negotiation.handle(now, first.opcode, &control);
        self.pump(now);
        taken
    }

    /// Takes a data packet apart where it lies.
    pub(crate) fn receive<'a>(
        &mut self,
        now: Instant,
        channel: &'a mut Channel,
        message: &'a mut [u8],
    ) -> Result<Inner<'a>, Dropped> {
        let key_id = message.first().ok_or(Dropped::Malformed)? & 7;
        if self.slots.opening(key_id).is_none() {
            self.install_early(now, key_id);
        }
        let keys = self.slots.opening(key_id).ok_or(Dropped::Unexpected)?;
        let before = keys.traffic().1.packets;
        let outcome = channel.receive(now, keys, message);
        // What is authentic is a sign of life, whatever is in it.
        if keys.traffic().1.packets != before {
            self.heard = Some(now);
            self.slots.opened(now, key_id);
        }
        outcome
    }

    /// The key that seals data.
    pub(crate) fn sealing(&mut self) -> Option<&mut DataKeys> {
        self.slots.sealing()
    }

    /// The server's configuration is known: makes the first keys.
    pub(crate) fn establish(&mut self, now: Instant, negotiated: Negotiated) -> Result<(), NegotiationError> {
        self.negotiated = Some(negotiated);
        let Some(first) = self.negotiations.iter().find(|negotiation| negotiation.key_id == 0) else {
            return Ok(());
        };
        if negotiated.dynamic {
            let key = first.tls.export(DYNAMIC_TLS_CRYPT_LABEL).map_err(NegotiationError::Tls)?;
            let unix = unix_seconds(self.clock, now);
            self.later = Some(Wrapper::dynamic(&key, &self.wrap, Side::Client, unix));
        }
        self.install(now, 0)
    }

    /// Says something to the server in the newest session of TLS that is complete.
    pub(crate) fn say(&mut self, message: &[u8]) {
        let Some(done) = self.negotiations.iter_mut().rev().find(|done| done.stage == Stage::Done) else {
            return;
        };
        if let Err(error) = done.say(message) {
            tracing::debug!(?error, "a control message cannot be sent");
        }
    }

    /// Begins a renegotiation, unless one is under way.
    pub(crate) fn renegotiate(&mut self, now: Instant) {
        let Some(last) = self.negotiations.back() else { return };
        if last.stage != Stage::Done || self.negotiated.is_none() || self.over.is_some() {
            return;
        }
        let key_id = next_key_id(last.key_id);
        if let Err(error) = self.begin(now, key_id, Opcode::SoftReset) {
            tracing::warn!(%error, "a renegotiation cannot begin");
        }
    }

    /// Sends what waits for an answer again at once.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.negotiations.iter_mut().for_each(|negotiation| negotiation.reliable.hurry(now));
    }

    /// Sends what is due on the control channel.
    pub(crate) fn transmit(&mut self, now: Instant, out: &mut NetQueue) {
        let wrapped: &[u8] = match &self.wrap {
            Wrap::CryptV2 { wrapped, .. } => wrapped,
            _ => &[],
        };
        for negotiation in &mut self.negotiations {
            let wrapper = match (&mut self.later, negotiation.key_id) {
                (Some(later), 1..) => later,
                _ => &mut self.wrapper,
            };
            let room = MAX_CONTROL - wrapper.overhead();
            // Asked first: an id that is drawn must be sent, some servers want them without gaps.
            while self.carrier.takes(MAX_CONTROL, out) {
                let Some(outgoing) = negotiation.reliable.poll_transmit(now, room, wrapped.len()) else {
                    break;
                };
                let first = First { opcode: outgoing.opcode, key_id: negotiation.key_id };
                self.packet.clear();
                wrapper.wrap(first, &self.ours, &outgoing.body(self.theirs), &mut self.packet);
                if outgoing.opcode.has_wrapped_key() {
                    self.packet.extend_from_slice(wrapped);
                }
                self.carrier.send(&self.packet, out);
            }
        }
    }

    /// When something must be done at the latest, and why.
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let retransmissions =
            self.negotiations.iter().filter_map(|negotiation| negotiation.reliable.poll_timeout()).min();
        let under_way = self.negotiations.back().filter(|last| last.stage != Stage::Done);
        [
            retransmissions.map(|at| (at, "retransmit a control packet")),
            under_way.map(|last| (last.deadline, "the end of the hand-window")),
            self.slots.poll_timeout().map(|at| (at, "change keys")),
            self.over.as_ref().map(|(at, _)| (*at, "the end of the keys")),
            self.renegotiation_due().map(|at| (at, "renegotiate")),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// Does what the time asks for.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.slots.handle_timeout(now);
        if let Some(last) = self.negotiations.back()
            && last.stage != Stage::Done
            && now >= last.deadline
        {
            let error = NegotiationError::Timeout(last.stage);
            self.negotiation_failed(error);
        }
        if self.over.as_ref().is_some_and(|(at, _)| now >= *at)
            && let Some((_, error)) = self.over.take()
        {
            self.reports.push_back(Report::KeysOver(error));
        }
        if self.renegotiation_due().is_some_and(|at| now >= at) || self.keys_are_used() {
            self.renegotiate(now);
        }
    }

    /// When we begin a renegotiation.
    fn renegotiation_due(&self) -> Option<Instant> {
        let last = self.negotiations.back().filter(|last| last.stage == Stage::Done)?;
        let wanted =
            !self.timing.reneg_interval.is_zero() && self.negotiated.is_some() && self.over.is_none();
        wanted.then(|| last.started + self.timing.reneg_interval)
    }

    /// Whether the key has done what it may, by its cipher or by the profile.
    pub(crate) fn keys_are_used(&self) -> bool {
        let Some(keys) = self.slots.newest() else { return false };
        let (sent, received) = keys.traffic();
        let is_over = |limit: Option<u64>, used: u64| limit.is_some_and(|limit| limit > 0 && used >= limit);
        keys.needs_renegotiation()
            || is_over(self.timing.reneg_bytes, sent.bytes + received.bytes)
            || is_over(self.timing.reneg_packets, sent.packets + received.packets)
    }

    /// Begins a negotiation.
    fn begin(&mut self, now: Instant, key_id: u8, reset: Opcode) -> Result<(), rustls::Error> {
        let unix = self.clock.unix + now.saturating_duration_since(self.clock.instant);
        let tls = self.sessions.begin(unix)?;
        let randoms = Randoms::draw().map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        let Timing { tls_timeout, hand_window, .. } = self.timing;
        let negotiation = Negotiation::new(now, key_id, reset, tls, randoms, tls_timeout, hand_window);
        if self.negotiations.len() == MAX_NEGOTIATIONS {
            self.negotiations.pop_front();
        }
        self.slots.advance(now);
        self.negotiations.push_back(negotiation);
        self.pump(now);
        Ok(())
    }

    /// The server begins a renegotiation, or answers to ours, or both begin at once: then they are one.
    fn soft_reset(&mut self, now: Instant, key_id: u8) {
        let expected = self.negotiations.back().is_some_and(|last| next_key_id(last.key_id) == key_id);
        if expected && key_id != 0 {
            self.renegotiate(now);
        }
    }

    fn pump(&mut self, now: Instant) {
        let mut done = None;
        let mut failed = None;
        for negotiation in &mut self.negotiations {
            let before = negotiation.stage;
            let reports = &mut self.reports;
            let mut messages = Vec::new();
            let outcome = negotiation.pump(&self.introduction, |message| messages.push(message));
            if before != Stage::Done && negotiation.stage == Stage::Done {
                done = Some(negotiation.key_id);
                if negotiation.key_id == 0 {
                    let options = negotiation.theirs.as_ref().map(|theirs| theirs.options.clone());
                    reports.push_back(Report::Exchanged(options.unwrap_or_default()));
                }
            }
            reports.extend(messages.into_iter().map(Report::Message));
            if let Err(error) = outcome {
                failed = Some((negotiation.key_id, error));
            }
        }
        if let Some((key_id, error)) = failed {
            if self.negotiations.back().is_some_and(|last| last.key_id == key_id) {
                self.negotiation_failed(error);
            } else {
                tracing::debug!(?error, "a session of TLS that is over failed");
            }
        }
        if let Some(key_id @ 1..) = done {
            match self.install(now, key_id) {
                Ok(()) => self.reports.push_back(Report::Renewed),
                Err(error) => self.negotiation_failed(error),
            }
        }
    }

    /// A server may seal with a new key before its message of key method 2 has left: where keys come from TLS, ours are
    /// ready by then.
    fn install_early(&mut self, now: Instant, key_id: u8) {
        let under_way = self
            .negotiations
            .back()
            .is_some_and(|last| last.key_id == key_id && key_id != 0 && last.stage == Stage::Exchange);
        if under_way
            && self.negotiated.is_some_and(|negotiated| negotiated.exporter)
            && let Err(error) = self.install(now, key_id)
        {
            tracing::debug!(?error, "no keys before the exchange is over");
        }
    }

    fn install(&mut self, now: Instant, key_id: u8) -> Result<(), NegotiationError> {
        let (Some(negotiated), Some(theirs)) = (self.negotiated, self.theirs) else { return Ok(()) };
        if self.slots.opening(key_id).is_some() {
            return Ok(());
        }
        let Some(done) = self.negotiations.iter().find(|negotiation| negotiation.key_id == key_id) else {
            return Ok(());
        };
        let material = match (&done.theirs, negotiated.exporter) {
            (_, true) => KeyMaterial::new(done.tls.export(DATA_KEYS_LABEL).map_err(NegotiationError::Tls)?),
            (Some(message), false) => derive_keys(&done.randoms, &message.randoms, &self.ours, &theirs),
            (None, false) => return Ok(()),
        };
        let Negotiated { suite, peer_id, replay_window, .. } = negotiated;
        let parameters = Parameters { role: Role::Client, key_id, peer_id, replay_window };
        self.slots.install(now, DataKeys::new(suite, &material, &parameters));
        Ok(())
    }

    /// The negotiation under way failed. The keys before go on until their end.
    fn negotiation_failed(&mut self, error: NegotiationError) {
        let Some(failed) = self.negotiations.back_mut() else { return };
        // It is over: nothing of it is pumped or timed again.
        failed.deadline += Duration::from_secs(1 << 30);
        if failed.key_id == 0 || self.negotiated.is_none() {
            self.reports.push_back(Report::Failed(error));
        } else if self.over.is_none() {
            let end = failed.started + self.timing.tran_window;
            tracing::warn!(?error, "a renegotiation failed; the keys before last for now");
            self.over = Some((end, error));
        }
    }
}

fn unix_seconds(clock: Clock, now: Instant) -> u32 {
    let unix = clock.unix + now.saturating_duration_since(clock.instant);
    u32::try_from(unix.as_secs()).unwrap_or(u32::MAX)
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("carrier", &self.carrier)
            .field("stage", &self.stage())
            .field("wrapper", &self.wrapper)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}
