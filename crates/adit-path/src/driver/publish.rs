//! What the world outside the loop knows of it.

use std::net::SocketAddr;
use std::time::Instant;

use adit_tunnel::{Dropped, Fault, HostPacket, HostPort, NetConfig, PeerStatus};
use tokio::sync::watch;

use super::links::Traffic;
use crate::{Counters, Phase, Status};

/// Names of the outside that are remembered.
const MAX_RESOLVED: usize = 64;

/// Keeps the state of the network and publishes every change of it.
#[derive(Debug)]
pub(crate) struct Publisher {
    sender: watch::Sender<Status>,
    phase: Phase,
    since: Instant,
    fault: Option<Fault>,
    config: Option<NetConfig>,
    resolved: Vec<(HostPort, Vec<SocketAddr>)>,
    ups: u64,
    host_received: u64,
    host_sent: u64,
    dropped: [u64; Dropped::ALL.len()],
    due: bool,
}

impl Publisher {
    pub(crate) fn new(now: Instant) -> (Self, watch::Receiver<Status>) {
        let (sender, receiver) = watch::channel(Status::default());
        let publisher = Self {
            sender,
            phase: Phase::Starting,
            since: now,
            fault: None,
            config: None,
            resolved: Vec::new(),
            ups: 0,
            host_received: 0,
            host_sent: 0,
            dropped: [0; Dropped::ALL.len()],
            due: false,
        };
        (publisher, receiver)
    }

    pub(crate) fn drop(&mut self, reason: Dropped) {
        self.dropped[reason.index()] += 1;
    }

    pub(crate) fn host_received(&mut self, packet: HostPacket<'_>) {
        self.host_received += packets(packet);
    }

    pub(crate) fn host_sent(&mut self, packet: HostPacket<'_>) {
        self.host_sent += packets(packet);
    }

    /// The first datagram that leaves begins the handshake.
    pub(crate) fn sent(&mut self, now: Instant, traffic: &Traffic) {
        if self.phase == Phase::Starting && traffic.sent > 0 {
            self.enter(now, Phase::Connecting);
        }
    }

    pub(crate) fn configured(&mut self, config: NetConfig) {
        self.config = Some(config);
        self.due = true;
    }

    pub(crate) fn resolved(&mut self, name: &HostPort, addresses: &[SocketAddr]) {
        self.resolved.retain(|(known, _)| known != name);
        if self.resolved.len() >= MAX_RESOLVED {
            self.resolved.remove(0);
        }
        self.resolved.push((name.clone(), addresses.to_vec()));
        self.due = true;
    }

    pub(crate) fn up(&mut self, now: Instant) {
        self.ups += 1;
        self.fault = None;
        self.enter(now, Phase::Up);
    }

    pub(crate) fn down(&mut self, now: Instant, fault: Fault) {
        self.fault = Some(fault);
        self.enter(now, if self.ups > 0 { Phase::Reconnecting } else { Phase::Connecting });
    }

    pub(crate) fn failed(&mut self, now: Instant, fault: Fault) {
        self.fault = Some(fault);
        self.enter(now, Phase::Failed);
    }

    pub(crate) fn closed(&mut self, now: Instant) {
        self.enter(now, Phase::Closed);
    }

    /// The loop is no more, in order or not.
    pub(crate) fn ended(&self) {
        self.sender.send_if_modified(|status| {
            let open = status.phase != Phase::Closed;
            status.phase = Phase::Closed;
            open
        });
    }

    /// Whether a change was not published yet.
    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    pub(crate) fn publish(
        &mut self,
        now: Instant,
        peers: Vec<PeerStatus>,
        traffic: &Traffic,
        (tcp_flows, udp_flows): (u64, u64),
    ) {
        self.due = false;
        let mut dropped: Vec<(String, u64)> = Dropped::ALL
            .iter()
            .map(|reason| (reason.to_string(), self.dropped[reason.index()]))
            .filter(|(_, count)| *count > 0)
            .collect();
        if traffic.lost > 0 {
            dropped.push(("the system did not send the datagram".to_owned(), traffic.lost));
        }
        self.sender.send_replace(Status {
            phase: self.phase,
            fault: self.fault.clone(),
            config: self.config.clone(),
            peers,
            resolved: self.resolved.clone(),
            ups: self.ups,
            since: now - self.since,
            counters: Counters {
                net_received: traffic.received,
                net_sent: traffic.sent,
                net_received_bytes: traffic.received_bytes,
                net_sent_bytes: traffic.sent_bytes,
                host_received: self.host_received,
                host_sent: self.host_sent,
                tcp_flows,
                udp_flows,
                dropped,
            },
        });
    }

    fn enter(&mut self, now: Instant, phase: Phase) {
        self.due = true;
        if self.phase != phase {
            tracing::info!(?phase, fault = self.fault.as_ref().map(|fault| fault.class.as_str()), "network");
            self.phase = phase;
            self.since = now;
        }
    }
}

/// How many packets a super-segment stands for, by its payload alone.
fn packets(packet: HostPacket<'_>) -> u64 {
    match packet.segment() {
        Some(segment) => packet.bytes().len().div_ceil(usize::from(segment.max(1))) as u64,
        None => 1,
    }
}
