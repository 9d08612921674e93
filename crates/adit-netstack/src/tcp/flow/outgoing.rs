//! What leaves: SYNs, data, acknowledgments, probes, resets.

use std::time::{Duration, Instant};

use adit_tunnel::MAX_PACKET;
use adit_tunnel::view::tcp_flag;

use super::{Flow, MAX_HEADERS, Phase};
use crate::CloseReason;
use crate::emit;
use crate::tcp::Out;
use crate::tcp::header::Header;
use crate::tcp::options::{MAX_OPTIONS, Options, Timestamps};
use crate::tcp::sender::{Kind, Segment};

/// How long a SYN waits for its answer: this often a second each, then twice as long every time (Linux 6.5 and later:
/// `tcp_syn_linear_timeouts`).
const LINEAR_SYNS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// A connection that a peer asked for and did not complete is forgotten after this: the time of six SYN-ACKs (Linux
/// `tcp_synack_retries`).
const LONGEST_ANSWER: Duration = Duration::from_secs(63);
/// A peer that does not answer so many retransmissions, or window probes, in a row is gone (Linux `tcp_retries2`: about a
/// quarter of an hour; RFC 9293 §3.8.3 asks for more than 100 s).
const MAX_UNANSWERED: u32 = 15;

impl Flow {
    /// Writes one packet, perhaps a super-segment, to `output`, which must hold the largest IP packet.
    pub(crate) fn poll_transmit(&mut self, now: Instant, output: &mut [u8]) -> Option<Out> {
        if self.over {
            return None;
        }
        let unanswered = self.sender.as_mut().map_or(0, |sender| {
            sender.handle_timeout(now);
            sender.unanswered()
        });
        if unanswered > MAX_UNANSWERED || self.give_up_at().is_some_and(|at| at <= now) {
            self.abort_with(CloseReason::TimedOut);
        }
        if self.reset_due {
            self.over = true;
            return Some(self.write_reset(output));
        }
        match self.phase {
            Phase::Calling | Phase::Answering => self.poll_syn(now, output),
            Phase::Open => self.poll_open(now, output),
        }
    }

    fn poll_syn(&mut self, now: Instant, output: &mut [u8]) -> Option<Out> {
        if self.over || self.syn.due > now {
            return None;
        }
        let answers = self.phase == Phase::Answering;
        if answers && !self.active && now.saturating_duration_since(self.syn.began) >= LONGEST_ANSWER {
            self.abort_with(CloseReason::TimedOut);
            self.over = true;
            return Some(self.write_reset(output));
        }
        let wait = match self.syn.count {
            count if !answers && count < LINEAR_SYNS => FIRST_WAIT,
            count => {
                let doublings = if answers { count } else { count - LINEAR_SYNS + 1 };
                (FIRST_WAIT * (1 << doublings.min(6))).min(LONGEST_WAIT)
            }
        };
        self.syn.count += 1;
        (self.syn.sent, self.syn.due) = (now, now + wait);
        Some(self.write_syn(now, output, answers))
    }

    fn write_syn(&mut self, now: Instant, output: &mut [u8], answers: bool) -> Out {
        let options = Options {
            mss: Some(self.advertised),
            window_scale: (!answers || self.peer.shift.is_some()).then(|| self.receiver.scale()),
            sack_permitted: !answers || self.peer.sack,
            timestamps: (!answers || self.peer.timestamps)
                .then(|| Timestamps { value: self.clock.value(now), echo: self.recent.value() }),
            ..Options::default()
        };
        let mut bytes = [0; MAX_OPTIONS];
        let len = options.write(&mut bytes);
        let header = Header {
            sequence: self.sequence,
            acknowledgment: if answers { self.receive_wire(0) } else { 0 },
            flags: if answers { tcp_flag::SYN | tcp_flag::ACK } else { tcp_flag::SYN },
            window: self.receiver.first_window(),
            options: &bytes[..len],
        };
        self.write_bare(&header, output)
    }

    fn poll_open(&mut self, now: Instant, output: &mut [u8]) -> Option<Out> {
        let available = self.available();
        let most = self.most_payload();
        let was_waiting = self.waits_for_peer();
        let sender = self.sender.as_mut()?;
        if let Some(segment) = sender.poll_transmit(now, available, most) {
            if !was_waiting {
                self.heard = now;
            }
            return Some(self.write_segment(now, &segment, output));
        }
        if self.receiver.is_due(now) || self.receiver.opens_window() {
            let len = self.write_acknowledgment(now, output);
            return Some(Out { len, segment: None });
        }
        if self.keepalive_at().is_some_and(|at| at <= now) {
            self.probed = now;
            let number = self.send_next().wrapping_sub(1);
            return Some(self.write_probe(now, number, output));
        }
        if self.trim_at().is_some_and(|at| at <= now) {
            self.trim();
        }
        // TIME-WAIT: the peer's FIN is acknowledged, and the rest of it needs no buffers.
        self.over = self.closed == Some(CloseReason::Finished);
        None
    }

    /// Payload of the longest super-segment.
    fn most_payload(&self) -> u32 {
        let headers = emit::ip_header_len(self.tuple.local) + 20 + MAX_OPTIONS;
        let mss = usize::from(self.mss().max(1));
        ((MAX_PACKET - headers) / mss * mss) as u32
    }

    /// The options of every segment after the handshake.
    fn options(&self, now: Instant) -> Options {
        let timestamps = (self.peer.timestamps)
            .then(|| Timestamps { value: self.clock.value(now), echo: self.recent.value() });
        Options { timestamps, ..Options::default() }
    }

    fn write_segment(&mut self, now: Instant, segment: &Segment, output: &mut [u8]) -> Out {
        if segment.kind == Kind::WindowProbe {
            return self.write_probe(now, self.send_wire(segment.start).wrapping_sub(1), output);
        }
        let mut bytes = [0; MAX_OPTIONS];
        let len = self.options(now).write(&mut bytes);
        let end = segment.end.min(self.written);
        let has_fin = segment.end > self.written;
        let mut flags = tcp_flag::ACK;
        if end == self.written && segment.start < end {
            flags |= tcp_flag::PSH;
        }
        if has_fin {
            flags |= tcp_flag::FIN;
        }
        let header = Header {
            sequence: self.send_wire(segment.start),
            acknowledgment: self.receive_wire(self.receiver.acknowledgment()),
            flags,
            window: self.receiver.tell_window(),
            options: &bytes[..len],
        };
        self.receiver.told_with_data(now);
        let headers = header.len(&self.tuple);
        let payload = (end - segment.start.min(end)) as usize;
        let packet = &mut output[..headers + payload];
        let [first, second] = self.send.slices(segment.start.min(end), end);
        packet[headers..headers + first.len()].copy_from_slice(first);
        packet[headers + first.len()..].copy_from_slice(second);
        let mss = match &self.sender {
            Some(sender) if segment.kind != Kind::SizeProbe => sender.mss(),
            _ => u16::MAX,
        };
        if payload > usize::from(mss) {
            header.write(&self.tuple, packet);
            return Out { len: packet.len(), segment: Some(mss) };
        }
        header.finish(&self.tuple, packet);
        Out { len: packet.len(), segment: None }
    }

    /// An empty segment before what the peer expects, which it answers (RFC 9293 §3.8.4, §3.8.6.1).
    fn write_probe(&mut self, now: Instant, sequence: u32, output: &mut [u8]) -> Out {
        let mut bytes = [0; MAX_OPTIONS];
        let len = self.options(now).write(&mut bytes);
        let header = Header {
            sequence,
            acknowledgment: self.receive_wire(self.receiver.acknowledgment()),
            flags: tcp_flag::ACK,
            window: self.receiver.tell_window(),
            options: &bytes[..len],
        };
        self.write_bare(&header, output)
    }

    /// Writes an acknowledgment with everything there is to tell; returns its length.
    fn write_acknowledgment(&mut self, now: Instant, output: &mut [u8]) -> usize {
        let mut options = self.options(now);
        self.receiver.report(&mut options, |offset| self.receive_wire(offset));
        let mut bytes = [0; MAX_OPTIONS];
        let len = options.write(&mut bytes);
        let header = Header {
            sequence: self.send_next(),
            acknowledgment: self.receive_wire(self.receiver.acknowledgment()),
            flags: tcp_flag::ACK,
            window: self.receiver.tell_window(),
            options: &bytes[..len],
        };
        self.receiver.told_alone();
        self.write_bare(&header, output).len
    }

    /// Hands an acknowledgment out at once.
    pub(super) fn reply_acknowledgment(&mut self, now: Instant, reply: &mut dyn FnMut(&[u8])) {
        let mut packet = [0; MAX_HEADERS];
        let len = self.write_acknowledgment(now, &mut packet);
        reply(&packet[..len]);
    }

    fn write_reset(&mut self, output: &mut [u8]) -> Out {
        let header = Header {
            sequence: self.send_next(),
            acknowledgment: self.receive_wire(self.receiver.acknowledgment()),
            flags: tcp_flag::RST | tcp_flag::ACK,
            window: 0,
            options: &[],
        };
        self.write_bare(&header, output)
    }

    fn write_bare(&self, header: &Header<'_>, output: &mut [u8]) -> Out {
        let packet = &mut output[..header.len(&self.tuple)];
        header.finish(&self.tuple, packet);
        Out { len: packet.len(), segment: None }
    }
}
