//! The receiving half of a connection: reassembly, the window, and when to acknowledge.
//!
//! Offsets count payload bytes from 0. Bytes lie at their place in the ring whenever they arrive, so that reassembly
//! moves none: it is a list of ranges.

mod reassembly;

use std::time::{Duration, Instant};

use reassembly::Reassembly;

use super::FlowConfig;
use super::options::{MAX_SHIFT, Options, max_blocks};
use super::ring::Ring;

/// How long an acknowledgment may wait for company (what Linux takes; RFC 9293 §3.8.6.3 allows 500 ms).
const ACK_DELAY: Duration = Duration::from_millis(40);
/// A connection's first segments, and those after a pause, are acknowledged at once: the sender's window is small.
const QUICK_ACKS: u8 = 16;
/// What the owner reads is measured over this long at least.
const SHORTEST_ROUND: Duration = Duration::from_millis(1);
/// What counts as a pause.
const PAUSE: Duration = Duration::from_secs(1);

/// The receiving half of one connection.
#[derive(Debug)]
pub(super) struct Receiver {
    ring: Ring,
    /// Bytes that the window may span. Where windows are shifted, it is a unit less than the ring: a window is rounded up
    /// where it would shrink.
    size: u32,
    /// Bytes that the window may ever span.
    largest: u32,
    /// Where a queue on the way is known: what the peer may have under way beyond what the path itself holds, and
    /// what it holds. In bytes.
    narrow: Option<(u32, u32)>,
    /// What the owner has read, and when, at the beginning of a round trip.
    round: (u64, Instant),
    /// The shift up to which windows can tell the size.
    reach: u8,
    /// By how many bits the windows that we tell are shifted.
    shift: u8,
    /// What the peer puts into a segment at the most.
    mss: u32,
    sack: bool,
    timestamps: bool,
    reassembly: Reassembly,
    /// Where the stream ends, once the peer has said so.
    fin: Option<u64>,
    /// Right edge of the window that the peer was told. It never moves back.
    edge: u64,
    /// What the last acknowledgment said, the FIN included.
    told: u64,
    due: Due,
    /// Segments since the last acknowledgment.
    segments: u8,
    quick: u8,
    /// When data came last.
    heard: Option<Instant>,
    /// Bytes that came twice, and that the peer has not been told of (RFC 2883).
    duplicate: Option<(u64, u64)>,
}

/// When an acknowledgment leaves by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Nothing waits for one.
    Never,
    /// Unless something carries it before.
    At(Instant),
    Now,
}

/// What the handshake has brought about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    /// Windows that we tell are shifted.
    pub(super) scaled: bool,
    pub(super) sack: bool,
    pub(super) timestamps: bool,
}

impl Receiver {
    /// A receiver at offset 0 of a peer that puts `mss` bytes into a segment.
    pub(super) fn new(now: Instant, ring: Ring, config: &FlowConfig, mss: u16) -> Self {
        let largest = u32::try_from(config.max_buffer.max(ring.limit())).unwrap_or(u32::MAX);
        let mut receiver = Self {
            ring,
            size: 0,
            largest,
            narrow: None,
            round: (0, now),
            reach: 0,
            shift: 0,
            mss: u32::from(mss),
            sack: false,
            timestamps: false,
            reassembly: Reassembly::default(),
            fin: None,
            edge: 0,
            told: 0,
            due: Due::Never,
            segments: 0,
            quick: QUICK_ACKS,
            heard: None,
            duplicate: None,
        };
        receiver.reach = receiver.scale();
        receiver.set_queue(config.queue);
        receiver
    }

    /// The memory, for another connection.
    pub(super) fn into_ring(self) -> Ring {
        self.ring
    }

    /// Bytes that the buffer may take.
    pub(super) fn limit(&self) -> usize {
        self.ring.limit()
    }

    /// The buffer, if there is nothing in it.
    pub(super) fn idle_ring(&mut self) -> Option<&mut Ring> {
        (self.unread() == 0 && !self.reassembly.has_gap()).then_some(&mut self.ring)
    }

    /// Bytes of memory that the buffer has taken.
    pub(super) fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// The shift that covers the largest window (RFC 7323 §2.3), and whose unit is little beside the buffer.
    pub(super) fn scale(&self) -> u8 {
        let covers = (0..MAX_SHIFT).find(|shift| u32::from(u16::MAX) << shift >= self.largest);
        covers.unwrap_or(MAX_SHIFT).min((self.ring.limit() / 16).max(1).ilog2() as u8)
    }

    /// The window of a SYN, which is not shifted (RFC 7323 §2.2).
    pub(super) fn first_window(&mut self) -> u16 {
        let window = u16::try_from(self.size).unwrap_or(u16::MAX);
        self.edge = self.edge.max(u64::from(window));
        window
    }

    /// The handshake is over.
    pub(super) fn establish(&mut self, agreed: Agreed) {
        self.shift = if agreed.scaled { self.scale() } else { 0 };
        self.reach = self.shift;
        self.set_size();
        (self.sack, self.timestamps) = (agreed.sack, agreed.timestamps);
    }

    fn set_size(&mut self) {
        let room = u32::try_from(self.ring.limit()).unwrap_or(u32::MAX);
        // No more than a window can tell.
        self.size = room.saturating_sub((1 << self.reach) - 1).min(u32::from(u16::MAX) << self.reach);
        if let Some((queue, path)) = self.narrow {
            self.size = self.size.min(queue.saturating_add(path));
        }
    }

    /// Takes what is known of the narrowest queue on the way, in packets. The peer may fill two thirds of it: there are others
    /// who send.
    pub(super) fn set_queue(&mut self, packets: Option<u16>) {
        let path = self.narrow.map_or(0, |(_, path)| path);
        self.narrow = packets.map(|packets| (u32::from(packets) * 2 / 3 * self.mss, path));
        self.set_size();
    }

    /// The buffer that it has, if the path needs a larger one: the owner reads more than a quarter of a window in a round trip,
    /// so that a peer which doubles what is under way would soon wait for the window, and wrongly take it for the path.
    pub(super) fn needs_more(&mut self, now: Instant, rtt: Duration, shortest: Duration) -> Option<usize> {
        let (read, since) = self.round;
        let elapsed = now.saturating_duration_since(since);
        if elapsed < rtt.max(SHORTEST_ROUND) || self.shift == 0 {
            return None;
        }
        self.round = (self.ring.start(), now);
        let rate = (self.ring.start() - read) as f64 / elapsed.as_secs_f64();
        if let Some((_, path)) = &mut self.narrow {
            // What comes in the shortest round trip is what a path without a queue holds. A pause is forgotten slowly.
            *path = ((rate * shortest.as_secs_f64()) as u32).max(*path / 4 * 3);
            self.set_size();
        }
        let per_rtt = rate * rtt.as_secs_f64();
        let is_wide = self.narrow.is_none_or(|(queue, path)| queue.saturating_add(path) > self.size);
        (is_wide && 4.0 * per_rtt > f64::from(self.size)).then(|| self.ring.limit())
    }

    /// The buffer may take `limit` bytes from here on.
    pub(super) fn raise(&mut self, limit: usize) {
        self.ring.raise(limit);
        self.set_size();
    }

    /// Everything before it has arrived; one more than the stream is long after its end.
    pub(super) fn acknowledgment(&self) -> u64 {
        self.reassembly.next() + u64::from(self.is_finished())
    }

    /// What the last acknowledgment said.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// Right edge of the window that the peer was told, and what it may differ by to a peer that computes otherwise.
    pub(super) fn edge(&self) -> (u64, u64) {
        (self.edge, 1 << self.shift)
    }

    /// The peer has ended its direction, and everything before the end is here.
    pub(super) fn is_finished(&self) -> bool {
        self.fin == Some(self.reassembly.next())
    }

    /// Bytes that can be read.
    pub(super) fn unread(&self) -> usize {
        (self.reassembly.next() - self.ring.start()) as usize
    }

    /// Bytes that can be read, in up to two pieces.
    pub(super) fn data(&self) -> [&[u8]; 2] {
        self.ring.slices(self.ring.start(), self.reassembly.next())
    }

    /// Forgets the first `n` readable bytes.
    pub(super) fn consume(&mut self, n: usize) {
        let to = self.ring.start() + n.min(self.unread()) as u64;
        let is_empty = to == self.reassembly.next() && !self.reassembly.has_gap();
        self.ring.advance(to, is_empty);
    }

    /// Takes the data of a segment, and its FIN, if that comes right behind. `start` may lie before the stream's beginning
    /// in segments of old.
    pub(super) fn take(&mut self, now: Instant, start: i64, payload: &[u8], fin: bool) {
        let is_batch = payload.len() > self.mss as usize;
        let end = start + payload.len() as i64;
        let next = self.reassembly.next() as i64;
        let had_gap = self.reassembly.has_gap();
        if start < next && !payload.is_empty() {
            self.set_duplicate(start.max(0) as u64, end.min(next).max(0) as u64);
        }
        // Beyond the end there is nothing, and no memory beyond the ring.
        let limit = self.fin.unwrap_or(u64::MAX).min(self.ring.end()) as i64;
        let (from, to) = (start.max(next), end.min(limit));
        let is_new = from < to;
        let taken = is_new && self.store(from as u64, to as u64, &payload[(from - start) as usize..]);
        let is_whole = (next..=limit).contains(&end) && taken == is_new;
        if fin && is_whole && end >= self.reassembly.furthest() as i64 && self.fin.is_none() {
            self.fin = Some(end as u64);
        }
        let in_order = start == next && taken && !had_gap && !self.reassembly.has_gap();
        if in_order && !fin && end == to {
            self.schedule(now, is_batch);
        } else {
            self.due = Due::Now;
        }
        self.heard = Some(now);
    }

    /// Puts bytes into their place. `false` if there are too many gaps already.
    fn store(&mut self, from: u64, to: u64, bytes: &[u8]) -> bool {
        if let Some(overlap) = self.reassembly.overlap(from, to) {
            self.set_duplicate(overlap.0, overlap.1);
        }
        if !self.reassembly.add(from, to) {
            return false;
        }
        self.ring.reserve(to);
        self.ring.write(from, bytes.get(..(to - from) as usize).unwrap_or_default());
        true
    }

    fn set_duplicate(&mut self, from: u64, to: u64) {
        // A keepalive may carry a byte that was received before it (RFC 9293 §3.8.4).
        let is_keepalive = to - from <= 1 && to == self.reassembly.next();
        if self.sack && !is_keepalive && from < to {
            self.duplicate = Some((from, to));
        }
    }

    /// New data in order: every second segment, and every batch, is acknowledged (RFC 9293 §3.8.6.3).
    fn schedule(&mut self, now: Instant, is_batch: bool) {
        if self.heard.is_some_and(|heard| now.saturating_duration_since(heard) > PAUSE) {
            self.quick = QUICK_ACKS;
        }
        self.segments = self.segments.saturating_add(if is_batch { 2 } else { 1 });
        if self.segments >= 2 || self.quick > 0 {
            self.quick = self.quick.saturating_sub(1);
            self.due = Due::Now;
        } else if self.due == Due::Never {
            self.due = Due::At(now + ACK_DELAY);
        }
    }

    /// An acknowledgment is owed at once.
    pub(super) fn acknowledge_now(&mut self) {
        self.due = Due::Now;
    }

    /// Whether the peer must hear of the segments so far before the next one: it holds what one acknowledgment can no longer
    /// tell, or the peer counts acknowledgments (RFC 5681 §3.2).
    pub(super) fn must_tell_first(&self) -> bool {
        self.due == Due::Now
            && (self.reassembly.has_gap() || self.duplicate.is_some())
            && (!self.sack
                || self.duplicate.is_some()
                || self.reassembly.untold() >= max_blocks(self.timestamps))
    }

    /// Whether an acknowledgment must leave, with or without data.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self.due {
            Due::Now => true,
            Due::At(at) => at <= now,
            Due::Never => false,
        }
    }

    /// When an acknowledgment must leave.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.due {
            Due::At(at) => Some(at),
            Due::Now | Due::Never => None,
        }
    }

    /// The owner has read so much that a peer which was stopped, or nearly so, must hear of it.
    pub(super) fn opens_window(&self) -> bool {
        let target = self.target();
        let told = self.edge.saturating_sub(self.acknowledgment());
        let step = u64::from(self.size / 2).min(2 * u64::from(self.mss));
        !self.is_finished() && told < u64::from(self.size / 2) && target >= self.edge + step.max(told)
    }

    /// Where the window could end. It does not move by less than a segment (RFC 9293 §3.8.6.2.2).
    fn target(&self) -> u64 {
        let open = self.ring.start() + u64::from(self.size);
        let step = u64::from((self.size / 2).min(self.mss));
        if open >= self.edge + step { open } else { self.edge }
    }

    /// The window that the next acknowledgment tells, shifted; what it tells is kept from here on.
    pub(super) fn tell_window(&mut self) -> u16 {
        let from = self.acknowledgment();
        let target = self.target();
        let mut units = target.saturating_sub(from) >> self.shift;
        if from + (units << self.shift) < self.edge {
            // Rounded down, it would end before what was told.
            units += 1;
        }
        let units = units.min(u64::from(u16::MAX)) as u16;
        self.edge = self.edge.max(from + (u64::from(units) << self.shift));
        self.told = from;
        units
    }

    /// A segment with data of ours carries what [`tell_window`](Self::tell_window) said. A report of gaps does not fit into it
    /// and leaves by itself.
    pub(super) fn told_with_data(&mut self, now: Instant) {
        if self.heard.is_some_and(|heard| now.saturating_duration_since(heard) <= ACK_DELAY) {
            // A dialogue: answers carry acknowledgments.
            self.quick = 0;
        }
        if !self.reassembly.has_gap() && self.duplicate.is_none() {
            self.told_alone();
        }
    }

    /// An acknowledgment has left with everything there is to tell.
    pub(super) fn told_alone(&mut self) {
        self.due = Due::Never;
        self.segments = 0;
        self.duplicate = None;
        self.reassembly.told();
    }

    /// Adds the blocks that the next acknowledgment tells: a duplicate first, then gaps by how recently they changed (RFC 2018
    /// §4, RFC 2883 §4). `wire` makes sequence numbers of offsets.
    pub(super) fn report(&self, options: &mut Options, wire: impl Fn(u64) -> u32) {
        if !self.sack {
            return;
        }
        let mut add = |(from, to): (u64, u64)| options.add_block((wire(from), wire(to)));
        if let Some(duplicate) = self.duplicate {
            add(duplicate);
        }
        self.reassembly.recent(max_blocks(self.timestamps), add);
    }
}
