//! What the owner of a connection does, and what it is told.

use super::{Events, Flow, ORPHAN_TIMEOUT, Phase};
use crate::{CloseReason, FlowEvent};

impl Flow {
    /// The next thing the owner must know.
    pub(crate) fn poll_event(&mut self) -> Option<FlowEvent> {
        if self.orphan {
            return None;
        }
        Some(match self.events.take()? {
            Events::CONNECTED => FlowEvent::Connected,
            Events::READABLE => FlowEvent::Readable,
            Events::WRITABLE => FlowEvent::Writable,
            Events::PEER_SHUT => FlowEvent::PeerShut,
            _ => FlowEvent::Closed(self.closed?),
        })
    }

    /// Whether [`poll_event`](Self::poll_event) has something to tell.
    pub(crate) fn has_events(&self) -> bool {
        self.events.0 != 0 && !self.orphan
    }

    /// Room for bytes to send: a piece of the ring, and the rest of it behind a wrap.
    pub(crate) fn send_space(&mut self) -> [&mut [u8]; 2] {
        if self.phase != Phase::Open || self.fin || self.closed.is_some() {
            return [&mut [], &mut []];
        }
        self.starved |= self.is_starved();
        let used = (self.written - self.send.start()) as usize;
        if 2 * used >= self.send.capacity() {
            // More than it has: the next size.
            self.send.reserve(self.written + self.send.capacity() as u64 + 1);
        }
        let end = self.send.start() + self.send.capacity() as u64;
        self.send.slices_mut(self.written, end)
    }

    /// Sends the first `n` bytes of [`send_space`](Self::send_space).
    pub(crate) fn sent(&mut self, n: usize) {
        // The connection may have ended since; then bytes go nowhere, as with any socket.
        if self.phase == Phase::Open && !self.fin && self.closed.is_none() {
            let end = self.send.start() + self.send.capacity() as u64;
            self.written = (self.written + n as u64).min(end);
            self.starved |= self.is_starved();
        }
    }

    pub(super) fn is_starved(&self) -> bool {
        self.send.end() - self.written < self.send.limit() as u64 / 3
    }

    /// End of what may be sent, the FIN included.
    pub(super) fn available(&self) -> u64 {
        self.written + u64::from(self.fin)
    }

    /// Received bytes: a piece of the ring, and the rest of it behind a wrap.
    pub(crate) fn recv_data(&mut self) -> [&[u8]; 2] {
        self.receiver.data()
    }

    /// Forgets the first `n` bytes of [`recv_data`](Self::recv_data) and opens the window by as much.
    pub(crate) fn consumed(&mut self, n: usize) {
        self.receiver.consume(n);
        self.unread = self.receiver.unread();
    }

    /// Ends our direction after what was sent before.
    pub(crate) fn shutdown(&mut self) {
        if !self.fin {
            self.fin = true;
            self.passive = self.receiver.is_finished();
        }
    }

    /// Ends the connection with RST.
    pub(crate) fn abort(&mut self) {
        self.abort_with(CloseReason::Aborted);
    }

    pub(super) fn abort_with(&mut self, reason: CloseReason) {
        if self.closed.is_none() {
            self.close_with(reason);
            // A peer that has not answered knows of nothing that could be reset.
            self.over = self.phase == Phase::Calling;
            self.reset_due = !self.over;
        }
    }

    /// The owner goes: what was sent still arrives, unless there is unread data, which the peer must learn of.
    pub(crate) fn release(&mut self) {
        self.orphan = true;
        if self.receiver.unread() > 0 || self.phase != Phase::Open {
            self.abort();
        } else {
            self.timeout = Some(ORPHAN_TIMEOUT);
            self.shutdown();
        }
    }
}
