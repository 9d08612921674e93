//! UDP endpoints and pings of the netstack.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Instant;

use adit_netstack::{OpenError, PingError, PingId, UdpId};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use tokio::sync::oneshot;

use super::datagrams::{Datagrams, Turn};
use super::flows::exhausted;
use super::stack_end::{Endpoint, Ready, StackEnd};
use super::token::Source;
use crate::{PingFailure, PingKind, Pong, Udp, UdpFailure, UdpFlow};

impl StackEnd {
    pub(super) fn open_udp(&mut self, options: &Udp, reply: oneshot::Sender<Result<UdpFlow, UdpFailure>>) {
        // An asker that is gone has dropped its end of the pair, which closes the endpoint.
        let _ = reply.send(self.open_endpoint(options));
    }

    fn open_endpoint(&mut self, options: &Udp) -> Result<UdpFlow, UdpFailure> {
        let peer = options.peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        if let Some(peer) = peer {
            if !self.ownership.owns_address(peer.ip()) {
                return Err(UdpFailure::NoRoute(peer.ip()));
            }
            if let Some(why) = self.denied(peer.ip()) {
                return Err(UdpFailure::Denied(why));
            }
        }
        let endpoint = self.stack.udp_open(options.port, peer).map_err(|error| match error {
            OpenError::PortInUse(port) => UdpFailure::PortInUse(port),
            OpenError::NoRoute(address) => UdpFailure::NoRoute(address),
            error => UdpFailure::Exhausted(exhausted(&error)),
        })?;
        let unknown = match peer.map(|peer| peer.ip()) {
            Some(IpAddr::V6(_)) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, options.port)),
            _ => SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.port)),
        };
        let local = self.stack.udp_local(endpoint).unwrap_or(unknown);
        self.carry_endpoint(endpoint, local).inspect_err(|_| self.stack.udp_close(endpoint))
    }

    fn carry_endpoint(&mut self, endpoint: UdpId, local: SocketAddr) -> Result<UdpFlow, UdpFailure> {
        let system = |error: std::io::Error| UdpFailure::System(error.to_string());
        let (flow, socket) = UdpFlow::pair(local).map_err(system)?;
        let token = Source::Datagrams(self.datagrams.next_key()).token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut SourceFd(&socket.as_raw_fd()), token, interest).map_err(system)?;
        let key = self.datagrams.insert(Datagrams::new(socket, endpoint));
        self.endpoints.insert(endpoint, Endpoint::Attached(key));
        Ok(flow)
    }

    pub(super) fn endpoint_readable(&mut self, now: Instant, endpoint: UdpId) {
        match self.endpoints.get(&endpoint) {
            Some(Endpoint::Attached(key)) => self.queue_datagrams(*key),
            Some(Endpoint::Exchange(exchange)) => self.exchange_datagrams(now, *exchange, endpoint),
            None => {}
        }
    }

    pub(super) fn endpoint_unreachable(
        &mut self,
        now: Instant,
        endpoint: UdpId,
        to: SocketAddr,
        kind: u8,
        code: u8,
    ) {
        match self.endpoints.get(&endpoint) {
            Some(Endpoint::Attached(key)) => {
                if let Some(datagrams) = self.datagrams.get_mut(*key) {
                    datagrams.unreachable(to, kind, code);
                }
            }
            Some(Endpoint::Exchange(exchange)) => self.exchange_failed(now, *exchange),
            None => {}
        }
    }

    pub(crate) fn datagrams_ready(&mut self, key: usize, event: &Event) {
        if let Some(datagrams) = self.datagrams.get_mut(key) {
            datagrams.ready(event);
            self.queue_datagrams(key);
        }
    }

    pub(super) fn run_datagrams(&mut self, now: Instant, key: usize) {
        let Self { datagrams, stack, scratch, dropped, ownership, allowed, .. } = self;
        let Some(carrier) = datagrams.get_mut(key) else { return };
        carrier.queued = false;
        let mut may_send = |to: IpAddr| {
            ownership.owns_address(to) && allowed.as_ref().is_none_or(|allowed| allowed.lookup(to).is_some())
        };
        match carrier.turn(stack, now, scratch, &mut may_send, &mut |reason| dropped.push(reason)) {
            Turn::Idle => {}
            Turn::More => self.queue_datagrams(key),
            Turn::Done => {
                let endpoint = carrier.endpoint;
                self.endpoints.remove(&endpoint);
                self.stack.udp_close(endpoint);
                if let Some(datagrams) = self.datagrams.remove(key) {
                    let _ = self.registry.deregister(&mut SourceFd(&datagrams.socket().as_raw_fd()));
                }
            }
        }
    }

    /// Ends every endpoint: its owner reads end of file.
    pub(super) fn close_datagrams(&mut self) {
        for (endpoint, _) in std::mem::take(&mut self.endpoints) {
            self.stack.udp_close(endpoint);
        }
        for datagrams in self.datagrams.drain() {
            let _ = self.registry.deregister(&mut SourceFd(&datagrams.socket().as_raw_fd()));
        }
    }

    pub(super) fn ping(
        &mut self,
        now: Instant,
        to: IpAddr,
        kind: PingKind,
        reply: oneshot::Sender<Result<Pong, PingFailure>>,
    ) {
        let PingKind::Icmp { size, timeout } = kind;
        let to = to.to_canonical();
        let failure = if !self.ownership.owns_address(to) {
            PingFailure::NoRoute(to)
        } else {
            match self.stack.ping(now, to, size, timeout) {
                Ok(ping) => {
                    self.pings.insert(ping, (timeout, reply));
                    return;
                }
                Err(OpenError::NoRoute(address)) => PingFailure::NoRoute(address),
                Err(error) => PingFailure::Exhausted(exhausted(&error)),
            }
        };
        let _ = reply.send(Err(failure));
    }

    pub(super) fn pong(&mut self, ping: PingId, result: Result<adit_netstack::Pong, PingError>) {
        let Some((timeout, reply)) = self.pings.remove(&ping) else { return };
        let _ = reply.send(match result {
            Ok(pong) => Ok(Pong { from: pong.from, rtt: pong.rtt }),
            Err(PingError::TimedOut) => Err(PingFailure::TimedOut(timeout)),
            Err(PingError::Unreachable { from, kind, code }) => {
                Err(PingFailure::Unreachable { from, kind, code })
            }
        });
    }

    fn queue_datagrams(&mut self, key: usize) {
        if let Some(datagrams) = self.datagrams.get_mut(key)
            && !std::mem::replace(&mut datagrams.queued, true)
        {
            self.ready.push_back(Ready::Datagrams(key));
        }
    }
}
