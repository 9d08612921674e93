//! Connections that rest after their end (RFC 9293 §3.6.1).

use std::time::Instant;

use adit_tunnel::view::{TcpView, tcp_flag};

use super::Tuple;
use super::clock::{Clock, Recent};
use super::flow::MAX_HEADERS;
use super::header::Header;
use super::options::{MAX_OPTIONS, Options, Timestamps};

/// What is remembered of a connection in TIME-WAIT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeWait {
    /// The next sequence number that we would send.
    pub(super) send_next: u32,
    /// The next sequence number that we would receive.
    pub(super) receive_next: u32,
    /// With timestamps: our clock and the peer's.
    pub(super) clocks: Option<(Clock, Recent)>,
}

impl TimeWait {
    /// Whether a segment opens another connection between the same ports: a SYN that is surely newer than what has gone
    /// before (RFC 9293 §3.10.7.4, RFC 6191).
    pub(crate) fn yields_to(&self, now: Instant, tcp: &TcpView<'_>) -> bool {
        let is_syn = tcp.flags() & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN;
        let is_beyond = tcp.sequence().wrapping_sub(self.receive_next) as i32 > 0;
        let is_later = || {
            let ((_, recent), timestamps) = self.clocks.zip(Options::parse(tcp.options()).timestamps)?;
            Some(recent.is_before(now, timestamps.value))
        };
        is_syn && (is_beyond || is_later() == Some(true))
    }

    /// Hands the acknowledgment that answers a segment to `reply`, if it needs one. RST is ignored (RFC 1337), and a bare
    /// acknowledgment asks for nothing.
    pub(crate) fn answer(
        &self,
        now: Instant,
        tuple: &Tuple,
        tcp: &TcpView<'_>,
        reply: &mut dyn FnMut(&[u8]),
    ) {
        let asks = !tcp.payload().is_empty() || tcp.flags() & (tcp_flag::FIN | tcp_flag::SYN) != 0;
        if !asks || tcp.flags() & tcp_flag::RST != 0 {
            return;
        }
        let timestamps =
            self.clocks.map(|(clock, recent)| Timestamps { value: clock.value(now), echo: recent.value() });
        let mut options = [0; MAX_OPTIONS];
        let len = Options { timestamps, ..Options::default() }.write(&mut options);
        let header = Header {
            sequence: self.send_next,
            acknowledgment: self.receive_next,
            flags: tcp_flag::ACK,
            window: 0,
            options: &options[..len],
        };
        let mut packet = [0; MAX_HEADERS];
        let packet = &mut packet[..header.len(tuple)];
        header.finish(tuple, packet);
        reply(packet);
    }
}
