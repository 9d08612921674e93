//! Connections that peers ask for: SYNs are held until the owner decides.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_tunnel::Dropped;
use adit_tunnel::view::{IpView, TcpView, tcp_flag};

use super::Stack;
use crate::emit::Bare;
use crate::tcp::{Flow, MAX_HEADERS, Tuple};
use crate::{FlowId, ListenerId, OpenError, PendingId, StackEvent, TcpOptions};

/// SYNs held at once. More wait at their senders, who try again.
const MAX_PENDING: usize = 256;
/// A peer has given up after this long (Linux sends its last SYN after 63 s, and waits 64 more).
const PENDING_LIFETIME: Duration = Duration::from_secs(127);

/// Ports on which connections are awaited, and the connections asked for.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    ports: BTreeMap<u16, ListenerId>,
    pending: Vec<Pending>,
    count: u64,
}

#[derive(Debug)]
struct Pending {
    id: PendingId,
    listener: ListenerId,
    tuple: Tuple,
    since: Instant,
    /// The IP and TCP headers of the SYN.
    syn: [u8; MAX_HEADERS],
    syn_len: usize,
}

impl Listeners {
    fn take(&mut self, id: PendingId) -> Option<Pending> {
        let at = self.pending.iter().position(|pending| pending.id == id)?;
        Some(self.pending.swap_remove(at))
    }

    fn next_id(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

impl Pending {
    fn syn(&self) -> &[u8] {
        &self.syn[..self.syn_len]
    }

    /// Keeps the headers of a SYN, which end where its data, if any, begins.
    fn store(&mut self, ip: &IpView<'_>, tcp: &TcpView<'_>, now: Instant) -> Result<(), Dropped> {
        let len = ip.header_len() + tcp.header_len();
        let headers = self.syn.get_mut(..len).ok_or(Dropped::Malformed)?;
        headers.copy_from_slice(&ip.bytes()[..len]);
        let total = if ip.is_v4() { (2, len) } else { (4, len - 40) };
        self.syn[total.0..total.0 + 2].copy_from_slice(&(total.1 as u16).to_be_bytes());
        (self.syn_len, self.since) = (len, now);
        Ok(())
    }

    fn reset(&self) -> Option<Bare> {
        let tcp = IpView::parse(self.syn()).ok()?.tcp()?;
        Some(Bare::reset(self.tuple.local, self.tuple.peer, &tcp))
    }
}

impl Stack {
    /// A segment that belongs to no connection.
    pub(super) fn handle_stranger(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        ip: &IpView<'_>,
        tcp: &TcpView<'_>,
    ) -> Result<(), Dropped> {
        let kind = tcp.flags() & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN);
        let held = self.listeners.pending.iter().position(|pending| pending.tuple == *tuple);
        match (kind, held) {
            (tcp_flag::SYN, Some(at)) => {
                // Sent again, or a new attempt with the same ports: the last one counts.
                return self.listeners.pending[at].store(ip, tcp, now);
            }
            (_, Some(at)) if kind & tcp_flag::RST != 0 => {
                self.listeners.pending.swap_remove(at);
                return Ok(());
            }
            (tcp_flag::SYN, None) => {
                if let Some(&listener) = self.listeners.ports.get(&tuple.local_port) {
                    return self.hold(now, listener, *tuple, ip, tcp);
                }
            }
            _ => {}
        }
        if kind & tcp_flag::RST == 0 {
            Bare::reset(tuple.local, tuple.peer, tcp).send(&mut self.backlog);
        }
        Err(Dropped::Unexpected)
    }

    fn hold(
        &mut self,
        now: Instant,
        listener: ListenerId,
        tuple: Tuple,
        ip: &IpView<'_>,
        tcp: &TcpView<'_>,
    ) -> Result<(), Dropped> {
        if self.listeners.pending.len() >= MAX_PENDING {
            self.listeners.pending.retain(|pending| pending.since + PENDING_LIFETIME > now);
        }
        if self.listeners.pending.len() >= MAX_PENDING || self.events.len() >= super::MAX_EVENTS {
            return Err(Dropped::Backpressure);
        }
        let id = PendingId(self.listeners.next_id());
        let mut pending = Pending { id, listener, tuple, since: now, syn: [0; MAX_HEADERS], syn_len: 0 };
        pending.store(ip, tcp, now)?;
        self.listeners.pending.push(pending);
        let event = StackEvent::Incoming { listener, pending: id, local: tuple.local(), peer: tuple.peer() };
        self.push_event(event);
        Ok(())
    }

    /// Awaits connections on `port` of all our addresses.
    ///
    /// # Errors
    /// [`OpenError::PortInUse`].
    pub fn tcp_listen(&mut self, port: u16) -> Result<ListenerId, OpenError> {
        if port == 0 || self.listeners.ports.contains_key(&port) {
            return Err(OpenError::PortInUse(port));
        }
        let id = ListenerId(self.listeners.next_id());
        self.listeners.ports.insert(port, id);
        Ok(id)
    }

    /// Awaits no more connections; those asked for and not decided on are refused.
    pub fn tcp_unlisten(&mut self, id: ListenerId) {
        self.listeners.ports.retain(|_, listener| *listener != id);
        let Self { listeners, backlog, .. } = self;
        listeners.pending.retain(|pending| {
            if pending.listener == id
                && let Some(reset) = pending.reset()
            {
                reset.send(backlog);
            }
            pending.listener != id
        });
    }

    /// Accepts a connection; [`FlowEvent::Connected`](crate::FlowEvent::Connected) follows when the handshake is complete.
    ///
    /// # Errors
    /// [`OpenError::Gone`], or [`OpenError::OverBudget`], after which the peer gets RST.
    pub fn tcp_accept(&mut self, now: Instant, id: PendingId) -> Result<FlowId, OpenError> {
        let pending = self.listeners.take(id).ok_or(OpenError::Gone)?;
        let (config, buffers) =
            self.flow_config(&pending.tuple, TcpOptions::default()).inspect_err(|_| {
                if let Some(reset) = pending.reset() {
                    reset.send(&mut self.backlog);
                }
            })?;
        let flow = Flow::accept(pending.tuple, &config, buffers, now, pending.syn());
        Ok(self.tcp.insert(flow))
    }

    /// Answers a connection that a peer asks for with RST.
    pub fn tcp_refuse(&mut self, _now: Instant, id: PendingId) {
        if let Some(reset) = self.listeners.take(id).and_then(|pending| pending.reset()) {
            reset.send(&mut self.backlog);
        }
    }

    /// Answers nothing, as if the host were not there. The peer's next SYN asks again.
    pub fn tcp_ignore(&mut self, id: PendingId) {
        self.listeners.take(id);
    }
}
