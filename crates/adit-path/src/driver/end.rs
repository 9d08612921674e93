//! The packet end: whoever produces and consumes the IP packets of the private network. A closed set.

use std::net::IpAddr;
use std::time::Instant;

use adit_tunnel::{Deadline, Dropped, HostPacket, NetConfig, Prefix};
use mio::event::Event;

use super::commands::{Notice, Request};
use super::stack_end::{Gone, StackEnd};
use crate::tun::{TunEnd, TunError};

/// A packet end.
pub(crate) enum End {
    /// The netstack with its flows.
    Stack(Box<StackEnd>),
    /// A TUN device; flows are the kernel's.
    Tun(Box<TunEnd>),
}

impl End {
    /// Takes the addresses, routes and DNS of the private network. `endpoints` are the far ends outside.
    pub(crate) fn configure(
        &mut self,
        now: Instant,
        config: &NetConfig,
        endpoints: &[IpAddr],
    ) -> Result<(), TunError> {
        match self {
            Self::Stack(stack) => {
                stack.configure(now, config);
                Ok(())
            }
            Self::Tun(tun) => tun.configure(config, endpoints),
        }
    }

    /// A datagram is about to be sent to an address outside that none was sent to before.
    pub(crate) fn protect(&mut self, endpoint: IpAddr) {
        if let Self::Tun(tun) = self {
            tun.protect(endpoint);
        }
    }

    /// The machine's own DNS servers, where its resolver is led into the tunnel and must not be asked for names
    /// outside; none elsewhere.
    pub(crate) fn outside_servers(&self) -> Vec<IpAddr> {
        match self {
            Self::Stack(_) => Vec::new(),
            Self::Tun(tun) => tun.outside_servers(),
        }
    }

    pub(crate) fn network_changed(&mut self) {
        if let Self::Tun(tun) = self {
            tun.network_changed();
        }
    }

    pub(crate) fn handle_packet(&mut self, now: Instant, packet: HostPacket<'_>) -> Result<(), Dropped> {
        match self {
            Self::Stack(stack) => stack.handle_packet(now, packet),
            Self::Tun(tun) => tun.handle_packet(packet),
        }
    }

    /// Hands out packets for the tunnel until `send` returns `false`. Returns whether there may be more at once.
    pub(crate) fn transmit(&mut self, now: Instant, send: &mut dyn FnMut(HostPacket<'_>) -> bool) -> bool {
        match self {
            Self::Stack(stack) => {
                stack.transmit(now, send);
                false
            }
            Self::Tun(tun) => tun.transmit(send),
        }
    }

    /// Lets flows with work move bytes, then says whether any has more.
    pub(crate) fn run(&mut self, now: Instant) -> bool {
        match self {
            Self::Stack(stack) => stack.run(now),
            Self::Tun(_) => false,
        }
    }

    pub(crate) fn request(&mut self, now: Instant, request: Request) {
        match self {
            Self::Stack(stack) => stack.request(now, request),
            // The engine asks the kernel instead.
            Self::Tun(_) => request.fail(&Gone::Closed),
        }
    }

    pub(crate) fn notice(&mut self, now: Instant, notice: Notice) {
        match self {
            Self::Stack(stack) => stack.notice(now, notice),
            Self::Tun(_) => {}
        }
    }

    /// The queue on the way to some destinations is known to be so long, in packets.
    pub(crate) fn set_queue(&mut self, to: &[Prefix], packets: Option<u16>) {
        match self {
            Self::Stack(stack) => stack.stack.set_queue(to, packets),
            // The kernel's connections see no more than what is lost.
            Self::Tun(_) => {}
        }
    }

    /// Packets pass again.
    pub(crate) fn nudge(&mut self, now: Instant) {
        match self {
            Self::Stack(stack) => stack.nudge(now),
            // The kernel's connections go by their own timers.
            Self::Tun(_) => {}
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Stack(stack) => stack.handle_timeout(now),
            Self::Tun(_) => {}
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Deadline> {
        match self {
            Self::Stack(stack) => stack.poll_timeout(),
            Self::Tun(_) => None,
        }
    }

    pub(crate) fn stream_ready(&mut self, key: usize, event: &Event) {
        if let Self::Stack(stack) = self {
            stack.stream_ready(key, event);
        }
    }

    pub(crate) fn datagrams_ready(&mut self, key: usize, event: &Event) {
        if let Self::Stack(stack) = self {
            stack.datagrams_ready(key, event);
        }
    }

    pub(crate) fn device_ready(&mut self) {
        if let Self::Tun(tun) = self {
            tun.ready();
        }
    }

    pub(crate) fn take_drops(&mut self, take: impl FnMut(Dropped)) {
        if let Self::Stack(stack) = self {
            stack.take_drops(take);
        }
    }

    /// Open TCP flows and UDP endpoints; a TUN device does not see them.
    pub(crate) fn counts(&self) -> (u64, u64) {
        match self {
            Self::Stack(stack) => stack.counts(),
            Self::Tun(_) => (0, 0),
        }
    }

    /// The tunnel has given up, or the network is shut down. A device stays in the first case: its routes keep private
    /// packets from finding another way.
    pub(crate) fn close(&mut self, now: Instant, gone: &Gone) {
        match (self, gone) {
            (Self::Stack(stack), gone) => stack.close(now, gone),
            (Self::Tun(tun), Gone::Closed) => {
                if let Err(error) = tun.close() {
                    tracing::error!(%error, "not everything was put back; the next start repairs it");
                }
            }
            (Self::Tun(_), Gone::Down(_)) => {}
        }
    }
}
