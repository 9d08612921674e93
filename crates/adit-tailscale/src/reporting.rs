//! A node whose reports go somewhere by themselves.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{
    Deadline, Dropped, Event, Fault, HostPacket, NetInput, NoWay, Outbox, OwnName, PeerStatus, Tunnel,
};

use crate::{Command, Problem, Report, Tailscale};

/// A [`Tailscale`] that hands its reports to `take` as they are made: the driver that owns the tunnel knows nothing of
/// them. `take` must not wait.
pub struct Reporting<F> {
    node: Tailscale,
    take: F,
}

impl<F> std::fmt::Debug for Reporting<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.node.fmt(f)
    }
}

impl<F: FnMut(Report)> Reporting<F> {
    /// Wraps a node.
    pub fn new(node: Tailscale, take: F) -> Self {
        Self { node, take }
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Tailscale) -> T) -> T {
        let result = work(&mut self.node);
        while let Some(report) = self.node.poll_report() {
            (self.take)(report);
        }
        result
    }
}

impl<F: FnMut(Report)> Tunnel for Reporting<F> {
    type Command = Command;
    type Error = Problem;

    fn handle_net(&mut self, now: Instant, input: NetInput<'_>, out: &mut Outbox) -> Result<(), Dropped> {
        self.with(|node| node.handle_net(now, input, out))
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        self.with(|node| node.handle_packet(now, packet, out))
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.with(|node| node.handle_timeout(now, out));
    }

    fn handle_command(&mut self, now: Instant, command: Command, out: &mut Outbox) {
        self.with(|node| node.handle_command(now, command, out));
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.node.poll_timeout()
    }

    fn poll_event(&mut self) -> Option<Event<Problem>> {
        self.node.poll_event()
    }

    fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        self.node.peers(now)
    }

    fn own_name(&self) -> Option<OwnName> {
        self.node.own_name()
    }

    fn find_way(
        &mut self,
        now: Instant,
        to: IpAddr,
        timeout: Duration,
        token: u64,
        out: &mut Outbox,
    ) -> Result<(), NoWay> {
        self.with(|node| node.find_way(now, to, timeout, token, out))
    }

    fn warnings(&self) -> Vec<Fault> {
        self.node.warnings()
    }
}
