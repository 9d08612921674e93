//! The reliability layer below TLS: numbered packets, acknowledgements, retransmissions, delivery in order.
//!
//! One [`Reliable`] belongs to one negotiation (one key id). It knows nothing of protection or sockets: it says what to
//! put into the next packet ([`poll_transmit`](Reliable::poll_transmit)) and takes what came out of one.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use adit_tunnel::Dropped;

use crate::wire::{Acks, Control, Opcode, SessionId};

/// Unacknowledged packets that may be under way, as in the reference.
pub const SEND_WINDOW: usize = 6;
/// Ids beyond the next expected one that are kept, as in the reference.
pub const RECEIVE_WINDOW: u32 = 12;
/// Acknowledgements in one of our packets. Implementations that are not the reference refuse more (SoftEther).
pub const ACKS_SENT: usize = 4;
/// Bytes of TLS that may wait for the send window.
const MAX_QUEUED: usize = 256 * 1024;
/// Later packets that are acknowledged before a missing one is taken for lost.
const EARLY_RETRANSMIT: u8 = 3;
/// The shortest retransmission timeout.
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
/// The longest, except for resets.
const MAX_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest for a packet that begins a session: a server that comes back is noticed within this time.
const MAX_RESET_TIMEOUT: Duration = Duration::from_secs(1);

/// What the next packet holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The kind.
    pub opcode: Opcode,
    /// Its id; `None` for a mere acknowledgement.
    pub id: Option<u32>,
    /// What it acknowledges.
    pub acks: Acks,
    /// Bytes of TLS.
    pub payload: Vec<u8>,
}

impl Outgoing {
    /// The body of the packet; `peer` is the session whose packets it acknowledges.
    pub fn body(&self, peer: Option<SessionId>) -> Vec<u8> {
        let mut body = Vec::with_capacity(Control::overhead(ACKS_SENT, true) + self.payload.len());
        let peer = if self.acks.is_empty() { None } else { peer };
        Control { acks: self.acks, peer, id: self.id, payload: &self.payload }.write(&mut body);
        body
    }
}

/// A packet that came, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The kind.
    pub opcode: Opcode,
    /// Bytes of TLS; of a reset, parameters.
    pub payload: Vec<u8>,
}

#[derive(Debug)]
struct InFlight {
    id: u32,
    opcode: Opcode,
    payload: Vec<u8>,
    /// When it was sent last; `None` before the first time.
    sent: Option<Instant>,
    due: Instant,
    timeout: Duration,
    transmissions: u32,
    acknowledged_later: u8,
}

/// The state of one negotiation.
#[derive(Debug)]
pub struct Reliable {
    first_timeout: Duration,
    smoothed: Option<Duration>,
    next_id: u32,
    in_flight: VecDeque<InFlight>,
    queued: VecDeque<u8>,
    /// What the packet with id 1 is sent as, where it is special.
    second: Option<Opcode>,
    expected: u32,
    early: BTreeMap<u32, Incoming>,
    ready: VecDeque<Incoming>,
    acks: VecDeque<u32>,
    heard: bool,
}

impl Reliable {
    /// A negotiation that begins with a packet of kind `reset`. `timeout` is the first retransmission timeout, until
    /// a round trip was measured, and its limit.
    pub fn new(now: Instant, reset: Opcode, timeout: Duration) -> Self {
        let mut this = Self {
            first_timeout: timeout.max(MIN_TIMEOUT),
            smoothed: None,
            next_id: 0,
            in_flight: VecDeque::new(),
            queued: VecDeque::new(),
            second: None,
            expected: 0,
            early: BTreeMap::new(),
            ready: VecDeque::new(),
            acks: VecDeque::new(),
            heard: false,
        };
        this.enqueue(now, reset, Vec::new());
        this
    }

    /// The packet with id 1 is of this kind, also when it has nothing else to say, and in every retransmission.
    pub fn set_second(&mut self, opcode: Opcode) {
        self.second = Some(opcode);
    }

    /// Whether the second packet has an opcode of its own.
    pub fn has_second(&self) -> bool {
        self.second.is_some()
    }

    /// Whether anything of the far end has been taken.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// How often the first packet has been sent, while it is not acknowledged.
    pub fn resets_sent(&self) -> u32 {
        self.in_flight.front().filter(|packet| packet.id == 0).map_or(0, |packet| packet.transmissions)
    }

    /// How often the oldest packet has been sent that is not acknowledged.
    pub fn repeated(&self) -> u32 {
        self.in_flight.front().map_or(0, |packet| packet.transmissions)
    }

    /// Queues bytes of TLS.
    ///
    /// # Errors
    /// [`Dropped::Backpressure`] if too many wait already.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Dropped> {
        if self.queued.len() + bytes.len() > MAX_QUEUED {
            return Err(Dropped::Backpressure);
        }
        self.queued.extend(bytes);
        Ok(())
    }

    /// Whether everything was sent and acknowledged.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.queued.is_empty()
    }

    /// Takes the body of a packet of this negotiation, whose sender and addressee were checked.
    ///
    /// # Errors
    /// [`Dropped::Unexpected`] for an id that is beyond the window, [`Dropped::Replayed`] for one that came before;
    /// its acknowledgements are taken all the same, and it is acknowledged again.
    pub fn handle(&mut self, now: Instant, opcode: Opcode, control: &Control<'_>) -> Result<(), Dropped> {
        self.acknowledged(now, control.acks.ids());
        let Some(id) = control.id else {
            self.heard |= !control.acks.is_empty();
            return Ok(());
        };
        if id >= self.expected.saturating_add(RECEIVE_WINDOW) {
            return Err(Dropped::Unexpected);
        }
        self.heard = true;
        self.acknowledge(id);
        if id < self.expected || self.early.contains_key(&id) {
            return Err(Dropped::Replayed);
        }
        self.early.insert(id, Incoming { opcode, payload: control.payload.to_vec() });
        while let Some(next) = self.early.remove(&self.expected) {
            self.expected = self.expected.saturating_add(1);
            self.ready.push_back(next);
        }
        Ok(())
    }

    /// The next packet in order.
    pub fn poll_incoming(&mut self) -> Option<Incoming> {
        self.ready.pop_front()
    }

    /// The next packet to send now. `room` is how many bytes the body may have (see [`Control::overhead`]); `extra` is
    /// what the packet with the special kind carries behind its body.
    pub fn poll_transmit(&mut self, now: Instant, room: usize, extra: usize) -> Option<Outgoing> {
        self.fill(now, room.saturating_sub(Control::overhead(ACKS_SENT, true)), extra);
        let due = self.in_flight.iter_mut().find(|packet| packet.due <= now);
        if let Some(packet) = due {
            packet.transmissions += 1;
            packet.acknowledged_later = 0;
            packet.sent = Some(now);
            packet.due = now + packet.timeout;
            let longest = if packet.id == 0 { MAX_RESET_TIMEOUT } else { MAX_TIMEOUT };
            packet.timeout = (packet.timeout * 2).min(longest);
            let (opcode, id, payload) = (packet.opcode, Some(packet.id), packet.payload.clone());
            let mut acks = self.take_acks();
            // A server that keeps nothing of strangers knows us by this acknowledgement alone: it must be in every
            // transmission until the server says more than its reset.
            if acks.is_empty() && id != Some(0) && self.expected == 1 {
                acks.push(0);
            }
            return Some(Outgoing { opcode, id, acks, payload });
        }
        let acks = self.take_acks();
        (!acks.is_empty()).then(|| Outgoing { opcode: Opcode::Ack, id: None, acks, payload: Vec::new() })
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something to say at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.in_flight.iter().map(|packet| packet.due).min()
    }

    /// Sends everything that waits again at once: the path has just proved to work.
    pub fn hurry(&mut self, now: Instant) {
        for packet in &mut self.in_flight {
            packet.due = packet.due.min(now);
        }
    }

    fn enqueue(&mut self, now: Instant, opcode: Opcode, payload: Vec<u8>) {
        let id = self.next_id;
        self.next_id = self.next_id.saturating_add(1);
        self.in_flight.push_back(InFlight {
            id,
            opcode,
            payload,
            sent: None,
            due: now,
            timeout: self.timeout(),
            transmissions: 0,
            acknowledged_later: 0,
        });
    }

    /// Makes packets of what waits, as far as the window allows.
    fn fill(&mut self, now: Instant, room: usize, extra: usize) {
        // What follows the reset waits for its answer: a server makes no state before.
        if !self.heard {
            return;
        }
        while self.in_flight.len() < SEND_WINDOW {
            let special = if self.next_id == 1 { self.second } else { None };
            if self.queued.is_empty() && special.is_none() {
                return;
            }
            let room = if special.is_some() { room.saturating_sub(extra) } else { room };
            let payload: Vec<u8> = self.queued.drain(..room.min(self.queued.len())).collect();
            if payload.is_empty() && special.is_none() {
                return;
            }
            self.enqueue(now, special.unwrap_or(Opcode::Control), payload);
        }
    }

    fn timeout(&self) -> Duration {
        match self.smoothed {
            // Twice the round trip and some more: the far end may have a signature to make.
            Some(rtt) => (rtt * 2 + MIN_TIMEOUT).clamp(MIN_TIMEOUT, self.first_timeout),
            None => self.first_timeout.min(Duration::from_secs(1)),
        }
    }

    fn acknowledge(&mut self, id: u32) {
        if !self.acks.contains(&id) {
            if self.acks.len() >= 2 * RECEIVE_WINDOW as usize {
                self.acks.pop_front();
            }
            self.acks.push_back(id);
        }
    }

    fn take_acks(&mut self) -> Acks {
        let mut acks = Acks::default();
        for id in self.acks.drain(..ACKS_SENT.min(self.acks.len())) {
            acks.push(id);
        }
        acks
    }

    fn acknowledged(&mut self, now: Instant, ids: &[u32]) {
        for id in ids {
            let Some(at) = self.in_flight.iter().position(|packet| packet.id == *id) else { continue };
            let Some(packet) = self.in_flight.get(at).filter(|packet| packet.transmissions > 0) else {
                continue;
            };
            // Which transmission of several was answered cannot be told (Karn's rule, RFC 6298 §3).
            if let (1, Some(sent)) = (packet.transmissions, packet.sent) {
                let sample = now.saturating_duration_since(sent);
                self.smoothed = Some(self.smoothed.map_or(sample, |old| (old * 7 + sample) / 8));
            }
            self.in_flight.remove(at);
            for earlier in self.in_flight.iter_mut().take(at) {
                earlier.acknowledged_later = earlier.acknowledged_later.saturating_add(1);
                if earlier.acknowledged_later >= EARLY_RETRANSMIT {
                    earlier.due = earlier.due.min(now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
