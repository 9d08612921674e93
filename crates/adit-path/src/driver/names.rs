//! The private resolver over endpoints and flows of the stack.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use adit_netstack::dns::{Action, DnsAnswer, DnsFailure, QueryId, Question, Resolver};
use adit_netstack::{FlowEvent, FlowId, TcpOptions, UdpId};
use adit_tunnel::{Deadline, NetConfig};
use tokio::sync::oneshot;

use super::commands::Ticket;
use super::flows::Owner;
use super::stack_end::{Endpoint, Gone, StackEnd};
use crate::{Answer, Query, ResolveFailure};

type Reply = oneshot::Sender<Result<Answer, ResolveFailure>>;

/// The longest DNS message (RFC 1035 §4.2.2).
const MAX_MESSAGE: usize = 65_535;

/// A conversation with a server.
#[derive(Debug)]
enum Exchange {
    Udp(UdpId),
    Tcp { flow: FlowId, to: SocketAddr, outgoing: Vec<u8>, sent: usize, incoming: Vec<u8> },
}

/// The resolver and its questions.
pub(super) struct Names {
    resolver: Resolver,
    askers: HashMap<QueryId, (Ticket, Reply)>,
    tickets: HashMap<Ticket, QueryId>,
    exchanges: HashMap<u64, Exchange>,
}

impl Names {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            resolver: Resolver::new(seed),
            askers: HashMap::new(),
            tickets: HashMap::new(),
            exchanges: HashMap::new(),
        }
    }

    pub(super) fn configure(&mut self, config: &NetConfig) {
        self.resolver.configure(config);
    }

    /// Asks; the answer comes when [`StackEnd::run_names`] finds it.
    pub(super) fn query(&mut self, now: Instant, ticket: Ticket, query: &Query, reply: Reply) {
        let question = Question {
            name: query.name.clone(),
            record: query.record.map(|record| record.0),
            timeout: query.timeout,
        };
        let id = self.resolver.query(now, question);
        self.tickets.insert(ticket, id);
        self.askers.insert(id, (ticket, reply));
    }

    pub(super) fn cancel(&mut self, ticket: Ticket) {
        if let Some(id) = self.tickets.remove(&ticket) {
            self.askers.remove(&id);
            self.resolver.cancel(id);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.resolver.handle_timeout(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.resolver.poll_timeout()
    }

    pub(super) fn close(&mut self, gone: &Gone) {
        for (_, (_, reply)) in self.askers.drain() {
            // An asker that no longer waits needs no answer; likewise below.
            let _ = reply.send(Err(gone.into()));
        }
        self.tickets.clear();
        self.exchanges.clear();
    }

    fn answer(&mut self) -> bool {
        let Some((id, result)) = self.resolver.poll_event() else { return false };
        if let Some((ticket, reply)) = self.askers.remove(&id) {
            self.tickets.remove(&ticket);
            let _ = reply.send(result.map(Answer::from).map_err(ResolveFailure::from));
        }
        true
    }
}

impl StackEnd {
    /// Does what the resolver wants done and hands out its answers.
    pub(super) fn run_names(&mut self, now: Instant) {
        loop {
            while let Some(action) = self.names.resolver.poll_action() {
                match action {
                    Action::Udp { exchange, to, message } => {
                        self.exchange_by_udp(now, exchange, to, &message);
                    }
                    Action::Tcp { exchange, to, message } => {
                        self.exchange_by_tcp(now, exchange, to, &message)
                    }
                    Action::Close { exchange } => self.close_exchange(now, exchange),
                }
            }
            if !self.names.answer() {
                return;
            }
        }
    }

    fn exchange_by_udp(&mut self, now: Instant, exchange: u64, to: SocketAddr, message: &[u8]) {
        let Ok(endpoint) = self.stack.udp_open(0, Some(to)) else {
            return self.names.resolver.handle_failure(now, exchange);
        };
        self.endpoints.insert(endpoint, Endpoint::Exchange(exchange));
        self.names.exchanges.insert(exchange, Exchange::Udp(endpoint));
        // A datagram that is lost here is asked again like one that is lost on the way.
        if let Err(reason) = self.stack.udp_send(now, endpoint, to, message) {
            self.dropped.push(reason);
        }
    }

    fn exchange_by_tcp(&mut self, now: Instant, exchange: u64, to: SocketAddr, message: &[u8]) {
        let (Ok(len), Ok(flow)) =
            (u16::try_from(message.len()), self.stack.tcp_connect(now, to, TcpOptions::default()))
        else {
            return self.names.resolver.handle_failure(now, exchange);
        };
        let outgoing = [&len.to_be_bytes()[..], message].concat();
        self.flows.insert(flow, Owner::Exchange(exchange));
        let state = Exchange::Tcp { flow, to, outgoing, sent: 0, incoming: Vec::new() };
        self.names.exchanges.insert(exchange, state);
    }

    fn close_exchange(&mut self, now: Instant, exchange: u64) {
        match self.names.exchanges.remove(&exchange) {
            Some(Exchange::Udp(endpoint)) => {
                self.endpoints.remove(&endpoint);
                self.stack.udp_close(endpoint);
            }
            Some(Exchange::Tcp { flow, .. }) => {
                self.flows.remove(&flow);
                self.stack.tcp_shutdown(now, flow);
                self.stack.tcp_release(flow);
            }
            None => {}
        }
    }

    pub(super) fn exchange_datagrams(&mut self, now: Instant, exchange: u64, endpoint: UdpId) {
        let Self { stack, names, .. } = self;
        stack.udp_recv(endpoint, &mut |from, message| {
            names.resolver.handle_message(now, exchange, from, message);
            true
        });
        self.run_names(now);
    }

    pub(super) fn exchange_failed(&mut self, now: Instant, exchange: u64) {
        self.names.resolver.handle_failure(now, exchange);
        self.run_names(now);
    }

    pub(super) fn exchange_event(&mut self, now: Instant, exchange: u64, flow: FlowId, event: FlowEvent) {
        match event {
            FlowEvent::Connected | FlowEvent::Writable => self.exchange_write(now, exchange),
            FlowEvent::Readable => self.exchange_read(now, exchange),
            FlowEvent::PeerShut => {
                self.exchange_read(now, exchange);
                // Whole messages were handed over; an exchange that is still open got none.
                if self.names.exchanges.contains_key(&exchange) {
                    self.exchange_failed(now, exchange);
                }
            }
            FlowEvent::Closed(_) => {
                if self.names.exchanges.remove(&exchange).is_some() {
                    self.flows.remove(&flow);
                    self.stack.tcp_release(flow);
                    self.exchange_failed(now, exchange);
                }
            }
        }
    }

    fn exchange_write(&mut self, now: Instant, exchange: u64) {
        let Some(Exchange::Tcp { flow, outgoing, sent, .. }) = self.names.exchanges.get_mut(&exchange) else {
            return;
        };
        let mut written = 0;
        for space in self.stack.tcp_send_space(*flow) {
            let rest = &outgoing[*sent + written..];
            let n = space.len().min(rest.len());
            space[..n].copy_from_slice(&rest[..n]);
            written += n;
        }
        *sent += written;
        if written > 0 {
            self.stack.tcp_sent(now, *flow, written);
        }
    }

    fn exchange_read(&mut self, now: Instant, exchange: u64) {
        let Some(Exchange::Tcp { flow, to, incoming, .. }) = self.names.exchanges.get_mut(&exchange) else {
            return;
        };
        let mut taken = 0;
        for part in self.stack.tcp_recv_data(*flow) {
            let room = (2 + MAX_MESSAGE).saturating_sub(incoming.len());
            incoming.extend_from_slice(&part[..part.len().min(room)]);
            taken += part.len();
        }
        self.stack.tcp_consumed(now, *flow, taken);
        let (to, mut messages) = (*to, Vec::new());
        while let Some((len, rest)) = incoming.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes(*len));
            let Some(message) = rest.get(..len) else { break };
            messages.push(message.to_vec());
            incoming.drain(..2 + len);
        }
        for message in messages {
            self.names.resolver.handle_message(now, exchange, to, &message);
        }
        self.run_names(now);
    }
}

impl From<DnsAnswer> for Answer {
    fn from(answer: DnsAnswer) -> Self {
        let DnsAnswer { name, addresses, names, ttl, server, rule, message } = answer;
        Self { name, addresses, names, ttl, server, rule, message }
    }
}

impl From<DnsFailure> for ResolveFailure {
    fn from(failure: DnsFailure) -> Self {
        match failure {
            DnsFailure::NoSuchName { name, server } => Self::NoSuchName { name, server },
            DnsFailure::Silent { name, servers, after } => Self::Silent { name, servers, after },
            DnsFailure::Failed { name, server, code } => Self::Failed { name, server, code },
            DnsFailure::NoServer { name } => Self::NoServer { name },
            DnsFailure::ServerUnrouted { server } => Self::ServerUnrouted { server },
            DnsFailure::AnswerUnrouted { name, address } => Self::AnswerUnrouted { name, address },
            DnsFailure::BadName { name } => Self::BadName { name },
            DnsFailure::OverBudget => {
                Self::Exhausted("questions that the private resolver may hold".to_owned())
            }
        }
    }
}
