//! TCP flows of the netstack: connecting, listening, and the sockets that carry them.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use adit_netstack::{CloseReason, FlowEvent, FlowId, ListenerId, OpenError, PendingId, TcpOptions};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::commands::Ticket;
use super::handles::{HeldFlow, HeldIncoming};
use super::stack_end::{Gone, Ready, StackEnd};
use super::stream::{Stream, Turn};
use super::token::Source;
use crate::{Connect, ConnectFailure, Flow, Incoming, Listen, ListenFailure, Listener};

pub(super) type FlowReply = oneshot::Sender<Result<Flow, ConnectFailure>>;

/// Who owns a flow.
#[derive(Debug)]
pub(super) enum Owner {
    /// Somebody waits for it.
    Opening { asked: Option<(Ticket, Instant, Duration)>, reply: FlowReply },
    /// A [`Flow`] that carries nothing yet; what happens meanwhile is kept.
    Held { peer_shut: bool, closed: Option<CloseReason> },
    /// A socket.
    Attached(usize),
    /// The private resolver.
    Exchange(u64),
}

impl StackEnd {
    pub(super) fn connect(
        &mut self,
        now: Instant,
        ticket: Ticket,
        to: SocketAddr,
        options: &Connect,
        asked: Instant,
        reply: FlowReply,
    ) {
        if reply.is_closed() {
            return;
        }
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let failure = if !self.ownership.owns_address(to.ip()) {
            ConnectFailure::NoRoute(to.ip())
        } else if let Some(why) = self.denied(to.ip()) {
            ConnectFailure::Denied(why)
        } else {
            let tcp = TcpOptions { keepalive: options.keepalive, ..TcpOptions::default() };
            match self.stack.tcp_connect(now, to, tcp) {
                Ok(flow) => {
                    let asked = Some((ticket, asked + options.timeout, options.timeout));
                    self.tickets.insert(ticket, flow);
                    if let Some((_, at, _)) = asked {
                        self.timers.insert((at, ticket), flow);
                    }
                    self.flows.insert(flow, Owner::Opening { asked, reply });
                    return;
                }
                Err(error) => open_failure(&error),
            }
        };
        // An asker that no longer waits needs no answer.
        let _ = reply.send(Err(failure));
    }

    pub(super) fn listen(
        &mut self,
        port: u16,
        options: Listen,
        reply: oneshot::Sender<Result<Listener, ListenFailure>>,
    ) {
        // Listeners whose owner is gone free their port now at the latest.
        let gone: Vec<ListenerId> =
            self.listeners.iter().filter(|(_, (_, queue))| queue.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.unlisten(id);
        }
        let result = match self.listen_on(port) {
            Ok((id, port)) => {
                let (queue, incoming) = mpsc::channel(usize::from(options.backlog.max(1)));
                self.listeners.insert(id, (port, queue));
                Ok(Listener::new(port, incoming))
            }
            Err(OpenError::PortInUse(port)) => Err(ListenFailure::PortInUse(port)),
            Err(error) => Err(ListenFailure::Exhausted(exhausted(&error))),
        };
        let _ = reply.send(result);
    }

    /// Listens on `port`, or for 0 on one of the dynamic ports (RFC 6335 §6) that is free.
    fn listen_on(&mut self, port: u16) -> Result<(ListenerId, u16), OpenError> {
        const FIRST: u16 = 49_152;
        if port != 0 {
            return Ok((self.stack.tcp_listen(port)?, port));
        }
        for _ in FIRST..=u16::MAX {
            self.next_port = self.next_port.wrapping_add(1);
            let port = self.next_port | FIRST;
            match self.stack.tcp_listen(port) {
                Err(OpenError::PortInUse(_)) => {}
                other => return Ok((other?, port)),
            }
        }
        Err(OpenError::NoPort)
    }

    pub(super) fn incoming(
        &mut self,
        now: Instant,
        listener: ListenerId,
        pending: PendingId,
        local: SocketAddr,
        peer: SocketAddr,
    ) {
        let Some((_, queue)) = self.listeners.get(&listener) else {
            return self.stack.tcp_refuse(now, pending);
        };
        let handle = HeldIncoming::new(pending, self.mailbox.clone());
        match queue.try_send(Incoming::new(local, peer, Box::new(handle))) {
            Ok(()) => {}
            // Dropping the handle, which the error holds, refuses the connection.
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Closed(_)) => self.unlisten(listener),
        }
    }

    pub(super) fn accept(&mut self, now: Instant, pending: PendingId, reply: FlowReply) {
        match self.stack.tcp_accept(now, pending) {
            Ok(flow) => {
                self.flows.insert(flow, Owner::Opening { asked: None, reply });
            }
            Err(error) => drop(reply.send(Err(open_failure(&error)))),
        }
    }

    /// Follows what the stack says of a flow.
    pub(super) fn flow_event(&mut self, now: Instant, flow: FlowId, event: FlowEvent) {
        let Some(owner) = self.flows.get_mut(&flow) else { return };
        match (owner, event) {
            (Owner::Opening { .. }, FlowEvent::Connected) => self.connected(flow),
            (Owner::Opening { .. }, FlowEvent::Closed(reason)) => self.not_connected(flow, reason),
            (Owner::Held { peer_shut, .. }, FlowEvent::PeerShut) => *peer_shut = true,
            (Owner::Held { closed, .. }, FlowEvent::Closed(reason)) => *closed = Some(reason),
            (Owner::Attached(key), event) => {
                let key = *key;
                let Some(stream) = self.streams.get_mut(key) else { return };
                match event {
                    FlowEvent::PeerShut => stream.peer_shut(),
                    FlowEvent::Closed(reason) => stream.closed(reason),
                    FlowEvent::Connected | FlowEvent::Readable | FlowEvent::Writable => {}
                }
                self.queue_stream(key);
            }
            (Owner::Exchange(exchange), event) => {
                let exchange = *exchange;
                self.exchange_event(now, exchange, flow, event);
            }
            (
                Owner::Opening { .. } | Owner::Held { .. },
                FlowEvent::Connected | FlowEvent::Readable | FlowEvent::Writable | FlowEvent::PeerShut,
            ) => {}
        }
    }

    fn connected(&mut self, flow: FlowId) {
        let held = Owner::Held { peer_shut: false, closed: None };
        let Some(Owner::Opening { asked, reply }) = self.flows.insert(flow, held) else { return };
        self.forget_asked(asked);
        let Some((local, peer)) = self.stack.tcp_addresses(flow) else {
            self.flows.remove(&flow);
            return;
        };
        let handle = HeldFlow::new(flow, self.mailbox.clone());
        // If the asker is gone, dropping the handle resets the connection.
        let _ = reply.send(Ok(Flow::new(local, peer, Box::new(handle))));
    }

    fn not_connected(&mut self, flow: FlowId, reason: CloseReason) {
        if let Some(Owner::Opening { asked, reply }) = self.flows.remove(&flow) {
            let timeout = asked.map_or(Duration::ZERO, |(_, _, timeout)| timeout);
            self.forget_asked(asked);
            let _ = reply.send(Err(close_failure(reason, timeout)));
        }
        self.stack.tcp_release(flow);
    }

    fn forget_asked(&mut self, asked: Option<(Ticket, Instant, Duration)>) {
        if let Some((ticket, at, _)) = asked {
            self.tickets.remove(&ticket);
            self.timers.remove(&(at, ticket));
        }
    }

    /// Gives up connections whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((&(at, _), &flow)) = self.timers.first_key_value() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            if let Some(Owner::Opening { asked, reply }) = self.flows.remove(&flow) {
                let timeout = asked.map_or(Duration::ZERO, |(_, _, timeout)| timeout);
                self.forget_asked(asked);
                let _ = reply.send(Err(ConnectFailure::TimedOut(timeout)));
                self.stack.tcp_abort(now, flow);
                self.stack.tcp_release(flow);
            }
        }
    }

    pub(super) fn cancel(&mut self, now: Instant, ticket: Ticket) {
        match self.tickets.get(&ticket) {
            Some(flow) => self.abort(now, *flow),
            None => self.names.cancel(ticket),
        }
    }

    /// Resets a flow on behalf of its owner.
    pub(super) fn abort(&mut self, now: Instant, flow: FlowId) {
        match self.flows.remove(&flow) {
            Some(Owner::Opening { asked, .. }) => self.forget_asked(asked),
            Some(Owner::Held { .. } | Owner::Exchange(_)) => {}
            Some(Owner::Attached(key)) => {
                if let Some(stream) = self.remove_stream(key) {
                    stream.reset();
                }
            }
            None => return,
        }
        self.stack.tcp_abort(now, flow);
        self.stack.tcp_release(flow);
    }

    pub(super) fn attach(&mut self, now: Instant, flow: FlowId, socket: OwnedFd) {
        let Some(Owner::Held { peer_shut, closed }) = self.flows.get(&flow) else { return };
        let (peer_shut, closed) = (*peer_shut, *closed);
        let token = Source::Stream(self.streams.next_key()).token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.registry.register(&mut SourceFd(&socket.as_raw_fd()), token, interest) {
            tracing::warn!(%error, "a socket cannot be polled; its connection is reset");
            return self.abort(now, flow);
        }
        let mut stream = Stream::new(socket, flow);
        if peer_shut {
            stream.peer_shut();
        }
        if let Some(reason) = closed {
            stream.closed(reason);
        }
        let key = self.streams.insert(stream);
        self.flows.insert(flow, Owner::Attached(key));
        self.queue_stream(key);
    }

    pub(crate) fn stream_ready(&mut self, key: usize, event: &Event) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.ready(event);
            self.queue_stream(key);
        }
    }

    pub(super) fn run_stream(&mut self, now: Instant, key: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.queued = false;
        let flow = stream.flow;
        match stream.turn(&mut self.stack, now) {
            Turn::Idle => {}
            Turn::More => self.queue_stream(key),
            Turn::Done => {
                self.flows.remove(&flow);
                self.remove_stream(key);
                self.stack.tcp_release(flow);
            }
            Turn::FlowFailed => {
                self.flows.remove(&flow);
                if let Some(stream) = self.remove_stream(key) {
                    stream.reset();
                }
                self.stack.tcp_release(flow);
            }
            Turn::SocketFailed => {
                self.flows.remove(&flow);
                self.remove_stream(key);
                self.stack.tcp_abort(now, flow);
                self.stack.tcp_release(flow);
            }
        }
    }

    pub(super) fn close_flows(&mut self, now: Instant, gone: &Gone) {
        for (flow, owner) in std::mem::take(&mut self.flows) {
            if let Owner::Opening { reply, .. } = owner {
                let _ = reply.send(Err(gone.into()));
            }
            self.stack.tcp_abort(now, flow);
            self.stack.tcp_release(flow);
        }
        self.tickets.clear();
        self.timers.clear();
        for stream in self.streams.drain() {
            let _ = self.registry.deregister(&mut SourceFd(&stream.socket().as_raw_fd()));
            stream.reset();
        }
    }

    fn unlisten(&mut self, id: ListenerId) {
        self.listeners.remove(&id);
        self.stack.tcp_unlisten(id);
    }

    fn queue_stream(&mut self, key: usize) {
        if let Some(stream) = self.streams.get_mut(key)
            && !std::mem::replace(&mut stream.queued, true)
        {
            self.ready.push_back(Ready::Stream(key));
        }
    }

    fn remove_stream(&mut self, key: usize) -> Option<Stream> {
        let stream = self.streams.remove(key)?;
        // Another process may hold the same socket, so that closing it would not end the registration.
        let _ = self.registry.deregister(&mut SourceFd(&stream.socket().as_raw_fd()));
        Some(stream)
    }
}

pub(super) fn open_failure(error: &OpenError) -> ConnectFailure {
    match error {
        OpenError::NoRoute(address) => ConnectFailure::NoRoute(*address),
        // The peer of an incoming connection gave up before it was accepted.
        OpenError::Gone => ConnectFailure::Reset,
        error => ConnectFailure::Exhausted(exhausted(error)),
    }
}

pub(super) fn exhausted(error: &OpenError) -> String {
    match error {
        OpenError::NoPort => "local ports".to_owned(),
        OpenError::PortInUse(port) => format!("local ports: {port} is in use"),
        OpenError::OverBudget => "memory for flows".to_owned(),
        OpenError::NoRoute(address) => format!("routes to {address}"),
        OpenError::Gone => "waiting connections".to_owned(),
    }
}

fn close_failure(reason: CloseReason, timeout: Duration) -> ConnectFailure {
    match reason {
        CloseReason::Refused => ConnectFailure::Refused,
        CloseReason::Reset => ConnectFailure::Reset,
        CloseReason::TimedOut => ConnectFailure::TimedOut(timeout),
        CloseReason::Unreachable { from, kind, code } => ConnectFailure::Unreachable { from, kind, code },
        CloseReason::Finished | CloseReason::Aborted => ConnectFailure::Closed,
    }
}
