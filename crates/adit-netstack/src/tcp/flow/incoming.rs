//! What comes from the network: segments (RFC 9293 §3.10.7, RFC 5961), and ICMP errors about ours.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_tunnel::view::{TcpView, tcp_flag};

use super::{Flow, MAX_HEADERS, Phase};
use crate::CloseReason;
use crate::emit::Bare;
use crate::tcp::header::room;
use crate::tcp::options::{MAX_BLOCKS, Options};
use crate::tcp::receiver::Agreed;
use crate::tcp::sender::{Ack, Sender, SenderConfig, TICK};

/// The smallest path MTU that is believed (Linux `min_pmtu`; RFC 8200 §5).
const MIN_MTU: (u16, u16) = (552, 1280);
/// The least that a peer may say that it takes: with less, headers would be most of what travels.
const MIN_MSS: u16 = 64;
/// What a SYN without the option says (RFC 9293 §3.7.1).
const DEFAULT_MSS: (u16, u16) = (536, 1220);
/// Initial congestion window in segments (RFC 6928).
const INITIAL_WINDOW: u16 = 10;
/// Segments that make no sense are answered once in this time (Linux `tcp_invalid_ratelimit`; RFC 5961 §7).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(500);

/// One segment, its numbers made offsets.
#[derive(Clone, Copy)]
struct Segment<'a> {
    flags: u8,
    /// Offset of its first byte in the peer's direction; before 0 in segments of old.
    start: i64,
    payload: &'a [u8],
    options: Options,
}

impl Segment<'_> {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn is_bare(&self) -> bool {
        self.payload.is_empty() && !self.has(tcp_flag::FIN)
    }

    /// Offset behind its last byte, the FIN included.
    fn end(&self) -> i64 {
        self.start + self.payload.len() as i64 + i64::from(self.has(tcp_flag::FIN))
    }
}

impl Flow {
    /// Takes a segment of this connection. `reply` gets what cannot wait for [`poll_transmit`](Self::poll_transmit).
    pub(crate) fn handle_segment(&mut self, now: Instant, tcp: &TcpView<'_>, reply: &mut dyn FnMut(&[u8])) {
        if self.over || self.reset_due {
            return;
        }
        self.heard = now;
        match self.phase {
            Phase::Calling => self.handle_answer(now, tcp, reply),
            Phase::Answering if self.is_repeated_syn(tcp) => {
                if tcp.flags() & tcp_flag::ACK == 0 {
                    self.syn.due = now;
                } else if tcp.acknowledgment() == self.send_next() {
                    // Both have called each other (RFC 9293 §3.5, figure 8).
                    self.establish(now, u64::from(tcp.window()));
                    self.receiver.acknowledge_now();
                }
            }
            Phase::Answering | Phase::Open => self.handle_numbered(now, tcp, reply),
        }
        self.update();
        if self.orphan && self.receiver.unread() > 0 {
            // Nobody will read it (RFC 9293 §3.6.1, RFC 2525 §2.17).
            self.abort();
        }
    }

    fn is_repeated_syn(&self, tcp: &TcpView<'_>) -> bool {
        let kind = tcp.flags() & (tcp_flag::SYN | tcp_flag::RST);
        kind == tcp_flag::SYN && tcp.sequence() == self.peer.sequence
    }

    /// SYN-SENT (RFC 9293 §3.10.7.3).
    fn handle_answer(&mut self, now: Instant, tcp: &TcpView<'_>, reply: &mut dyn FnMut(&[u8])) {
        let flags = tcp.flags();
        let answers = flags & tcp_flag::ACK != 0 && self.syn.count > 0;
        if answers && tcp.acknowledgment() != self.send_next() {
            if flags & tcp_flag::RST == 0 {
                self.reply_reset(tcp, reply);
            }
            return;
        }
        if flags & tcp_flag::RST != 0 {
            if answers {
                self.end(CloseReason::Refused);
            }
            return;
        }
        if flags & tcp_flag::SYN == 0 {
            return;
        }
        self.learn_peer(now, tcp);
        if answers {
            self.establish(now, u64::from(tcp.window()));
            self.receiver.acknowledge_now();
        } else {
            // Both call each other: the same SYN again, with an acknowledgment.
            self.phase = Phase::Answering;
            self.syn.due = now;
        }
    }

    /// An RST that forgets nothing: the connection goes on.
    fn reply_reset(&self, tcp: &TcpView<'_>, reply: &mut dyn FnMut(&[u8])) {
        let reset = Bare::reset(self.tuple.local, self.tuple.peer, tcp);
        let mut packet = [0; MAX_HEADERS];
        let packet = &mut packet[..reset.len()];
        reset.write(packet);
        reply(packet);
    }

    /// Takes what the peer's SYN says. Data that comes with it is not acknowledged, so it comes again.
    pub(super) fn learn_peer(&mut self, now: Instant, tcp: &TcpView<'_>) {
        let options = Options::parse(tcp.options());
        let default = if self.tuple.local.is_ipv4() { DEFAULT_MSS.0 } else { DEFAULT_MSS.1 };
        self.peer.sequence = tcp.sequence();
        self.peer.mss = options.mss.filter(|&mss| mss != 0).unwrap_or(default).max(MIN_MSS);
        self.peer.shift = options.window_scale;
        self.peer.sack = options.sack_permitted;
        self.peer.timestamps = options.timestamps.is_some();
        if let Some(timestamps) = options.timestamps {
            self.recent.set(now, timestamps.value);
        }
    }

    /// The handshake is over; `window` is what the peer takes from our first byte.
    fn establish(&mut self, now: Instant, window: u64) {
        self.phase = Phase::Open;
        (self.window, self.max_window, self.window_from) = (window, window, (-1, 0));
        self.receiver.establish(Agreed {
            scaled: self.peer.shift.is_some(),
            sack: self.peer.sack,
            timestamps: self.peer.timestamps,
        });
        let config = SenderConfig {
            mss: self.mss(),
            least: self.mss_for(room(self.tuple.local, self.least_mtu())),
            control: self.congestion,
            sack: self.peer.sack,
            // One lost SYN may have been the tunnel's own handshake; two are a sign (RFC 5681 §3.1).
            initial_window: if self.syn.count > 2 { 1 } else { INITIAL_WINDOW },
            window,
            handshake: (self.syn.count == 1).then(|| now.saturating_duration_since(self.syn.sent)),
        };
        self.sender = Some(Box::new(Sender::new(&config, now)));
    }

    /// SYN-RECEIVED and what follows (RFC 9293 §3.10.7.4).
    fn handle_numbered(&mut self, now: Instant, tcp: &TcpView<'_>, reply: &mut dyn FnMut(&[u8])) {
        let next = self.receiver.acknowledgment();
        let ahead = tcp.sequence().wrapping_sub(self.receive_wire(next)) as i32;
        let segment = Segment {
            flags: tcp.flags(),
            start: next as i64 + i64::from(ahead),
            payload: tcp.payload(),
            options: Options::parse(tcp.options()),
        };
        if !self.is_recent(now, &segment) || !self.is_in_window(now, &segment) {
            return;
        }
        if segment.has(tcp_flag::RST) {
            self.handle_reset(now, &segment);
        } else if segment.has(tcp_flag::SYN) {
            self.challenge(now);
        } else if segment.has(tcp_flag::ACK) {
            if self.phase == Phase::Answering && !self.is_answered(now, tcp, reply) {
                return;
            }
            self.note_timestamp(now, &segment);
            if self.handle_acknowledgment(now, tcp, &segment) && !segment.is_bare() {
                self.handle_data(now, &segment, reply);
            }
        }
    }

    /// Whether a segment may be newer than what has come before (PAWS, RFC 7323 §5). Reordering within a path makes data
    /// look old; only what is older than that would be from a former turn of the sequence numbers, is discarded.
    fn is_recent(&mut self, now: Instant, segment: &Segment<'_>) -> bool {
        let Some(timestamps) = segment.options.timestamps.filter(|_| self.peer.timestamps) else {
            return true;
        };
        let srtt = self.sender.as_ref().and_then(|sender| sender.srtt()).unwrap_or_default();
        if segment.has(tcp_flag::RST) || !self.recent.is_older(now, timestamps.value, 2 * srtt) {
            return true;
        }
        if !segment.is_bare() {
            self.challenge(now);
        }
        false
    }

    /// RFC 9293 §3.10.7.4, first step. What is too old or too far ahead gets an acknowledgment that says where we are.
    fn is_in_window(&mut self, now: Instant, segment: &Segment<'_>) -> bool {
        let next = self.receiver.acknowledgment() as i64;
        // To a peer that computes the edge otherwise, it may lie a unit further.
        let (edge, tolerance) = self.receiver.edge();
        // Retransmissions may overtake our acknowledgments: what they acknowledge counts nevertheless.
        let oldest = self.receiver.told() as i64;
        if segment.end() >= oldest && segment.start <= (edge + tolerance) as i64 {
            return true;
        }
        if segment.has(tcp_flag::RST) {
            return false;
        }
        if segment.has(tcp_flag::SYN) {
            self.challenge(now);
        } else if !segment.is_bare() {
            if segment.start < next {
                // Tells that it came twice.
                self.receiver.take(now, segment.start, segment.payload, false);
            }
            self.receiver.acknowledge_now();
        } else if segment.start == next - 1 {
            // A keepalive or a window probe asks for this.
            self.receiver.acknowledge_now();
        } else {
            self.challenge(now);
        }
        false
    }

    /// An acknowledgment that says where we are, not too often.
    fn challenge(&mut self, now: Instant) {
        if self.challenged.is_none_or(|at| now.saturating_duration_since(at) >= CHALLENGE_INTERVAL) {
            self.challenged = Some(now);
            self.receiver.acknowledge_now();
        }
    }

    /// An RST counts only with exactly the next number: others can be guessed (RFC 5961 §3.2).
    fn handle_reset(&mut self, now: Instant, segment: &Segment<'_>) {
        if segment.start != self.receiver.acknowledgment() as i64 {
            return self.challenge(now);
        }
        let refused = self.phase == Phase::Answering && self.active;
        self.end(if refused { CloseReason::Refused } else { CloseReason::Reset });
    }

    /// SYN-RECEIVED: whether the segment acknowledges our SYN, which ends the handshake.
    fn is_answered(&mut self, now: Instant, tcp: &TcpView<'_>, reply: &mut dyn FnMut(&[u8])) -> bool {
        let answered = self.syn.count > 0 && tcp.acknowledgment() == self.send_next();
        if answered {
            self.establish(now, u64::from(tcp.window()) << self.peer.shift.unwrap_or(0));
        } else {
            self.reply_reset(tcp, reply);
        }
        answered
    }

    /// RFC 7323 §4.3: the timestamp that we echo is that of the segment which the last acknowledgment waited for.
    fn note_timestamp(&mut self, now: Instant, segment: &Segment<'_>) {
        if let Some(timestamps) = segment.options.timestamps.filter(|_| self.peer.timestamps)
            && segment.start <= self.receiver.told() as i64
        {
            self.recent.advance(now, timestamps.value);
        }
    }

    /// Takes what a segment says about our data. `false` if it speaks of what we have never sent.
    fn handle_acknowledgment(&mut self, now: Instant, tcp: &TcpView<'_>, segment: &Segment<'_>) -> bool {
        let echo = segment.options.timestamps.and_then(|timestamps| self.clock.when(timestamps.echo, now));
        if let Some(sent) = echo.filter(|_| !segment.payload.is_empty()) {
            let trip = now.saturating_duration_since(sent).saturating_sub(TICK);
            self.echoed = Some(self.echoed.map_or(trip, |shortest| shortest.min(trip)));
        }
        let Some(sender) = &self.sender else { return false };
        let (oldest, next) = (sender.unacknowledged(), sender.next());
        let offset = |number: u32| {
            let ahead = number.wrapping_sub(self.send_wire(oldest)) as i32;
            oldest.checked_add_signed(i64::from(ahead))
        };
        let Some(acknowledged) = offset(tcp.acknowledgment()).filter(|&to| to <= next) else {
            self.challenge(now);
            return false;
        };
        if acknowledged < oldest {
            // Older than the largest window: not from this connection (RFC 5961 §5.2).
            if acknowledged + self.max_window < oldest {
                self.challenge(now);
                return false;
            }
            return true;
        }
        let mut blocks = [(0, 0); MAX_BLOCKS];
        let mut count = 0;
        for &(from, to) in segment.options.blocks() {
            if let (Some(from), Some(to)) = (offset(from), offset(to))
                && let Some(place) = blocks.get_mut(count)
            {
                *place = (from, to);
                count += 1;
            }
        }
        let blocks = blocks.get(..count).unwrap_or_default();
        let (duplicate, sacked) = split_duplicate(blocks, acknowledged);
        let window = self.newer_window(tcp, segment, acknowledged, oldest);
        let ack = Ack { acknowledged, window, sacked, duplicate, echo, bare: segment.is_bare() };
        if let Some(sender) = &mut self.sender {
            sender.handle_ack(now, &ack);
            let to = sender.unacknowledged().min(self.written);
            self.send.advance(to, to == self.written);
        }
        true
    }

    /// The peer's window, if the segment is not older than the one that told it last (RFC 9293 §3.10.7.4).
    fn newer_window(
        &mut self,
        tcp: &TcpView<'_>,
        segment: &Segment<'_>,
        acknowledged: u64,
        oldest: u64,
    ) -> Option<u64> {
        let window = u64::from(tcp.window()) << self.peer.shift.unwrap_or(0);
        let (start, heard) = self.window_from;
        // With equal numbers only a larger window is surely a newer one.
        let is_newer = acknowledged > oldest
            || segment.start > start
            || (segment.start == start && acknowledged >= heard && window > self.window);
        is_newer.then(|| {
            self.window_from = (segment.start, acknowledged);
            self.window = window;
            self.max_window = self.max_window.max(window);
            window
        })
    }

    fn handle_data(&mut self, now: Instant, segment: &Segment<'_>, reply: &mut dyn FnMut(&[u8])) {
        if self.receiver.is_finished() {
            // After its FIN a peer has nothing to say but that again.
            return self.receiver.acknowledge_now();
        }
        if self.receiver.must_tell_first() {
            self.reply_acknowledgment(now, reply);
        }
        self.receiver.take(now, segment.start, segment.payload, segment.has(tcp_flag::FIN));
    }

    /// An ICMP error about a segment of ours (RFC 5927 §4.1: believed only if `sequence` is in flight).
    /// It ends a handshake; an established connection outlives it.
    pub(crate) fn handle_unreachable(&mut self, from: IpAddr, kind: u8, code: u8, sequence: u32) {
        if self.in_flight(sequence) && self.phase == Phase::Calling {
            self.end(CloseReason::Unreachable { from, kind, code });
        }
    }

    /// ICMP "packet too big" about a segment of ours: smaller packets from here on, and what is in flight again.
    pub(crate) fn handle_too_big(&mut self, now: Instant, mtu: u16, sequence: u32) {
        let room = room(self.tuple.local, mtu.max(self.least_mtu()));
        if self.in_flight(sequence) && room < self.room {
            self.set_room(now, room);
        }
    }

    fn least_mtu(&self) -> u16 {
        if self.tuple.local.is_ipv4() { MIN_MTU.0 } else { MIN_MTU.1 }
    }

    fn in_flight(&self, sequence: u32) -> bool {
        let oldest = match &self.sender {
            Some(sender) => self.send_wire(sender.unacknowledged()),
            None => self.sequence,
        };
        !self.over && sequence.wrapping_sub(oldest) <= self.send_next().wrapping_sub(oldest)
    }
}

/// The block that tells of bytes which came twice (RFC 2883 §4), and the others.
fn split_duplicate(blocks: &[(u64, u64)], acknowledged: u64) -> (Option<(u64, u64)>, &[(u64, u64)]) {
    match blocks {
        [first, rest @ ..] if first.1 <= acknowledged => (Some(*first), rest),
        [first, second, ..] if second.0 <= first.0 && first.1 <= second.1 => {
            (Some(*first), blocks.get(1..).unwrap_or_default())
        }
        _ => (None, blocks),
    }
}
