//! What the world outside the loop knows of it.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use adit_tunnel::{Dropped, Fault, HostPacket, HostPort, NetConfig, OwnName, PeerStatus, Prompt};
use tokio::sync::watch;

use super::links::Traffic;
use crate::capture::Taps;
use crate::{Counters, Phase, Status};

/// Names of the outside that are remembered.
const MAX_RESOLVED: usize = 64;
/// States that may wait to be seen.
const MAX_WAITING: usize = 64;
/// How long the end of the loop waits for its last state to be seen.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Something to publish, and whom to tell that it was.
type Word = (Status, Option<SyncSender<()>>);

/// Keeps the state of the network and publishes every change of it.
///
/// A watch channel makes its sender wait for whoever looks at the value, so that sending is a thread of its own: the
/// loop must not wait for its watchers.
#[derive(Debug)]
pub(crate) struct Publisher {
    words: SyncSender<Word>,
    phase: Phase,
    since: Instant,
    fault: Option<Fault>,
    prompt: Option<Prompt>,
    warnings: Vec<Fault>,
    own: Option<OwnName>,
    config: Option<NetConfig>,
    first_config: Option<Instant>,
    resolved: Vec<(HostPort, Vec<SocketAddr>)>,
    ups: u64,
    host_received: u64,
    host_sent: u64,
    dropped: [u64; Dropped::ALL.len()],
    /// Who sees the packets.
    pub(super) taps: Taps,
    due: bool,
}

impl Publisher {
    pub(crate) fn new(now: Instant) -> io::Result<(Self, watch::Receiver<Status>)> {
        let (sender, receiver) = watch::channel(Status::default());
        let (words, spoken) = sync_channel(MAX_WAITING);
        thread::Builder::new().name("adit-status".to_owned()).spawn(move || speak(&spoken, &sender))?;
        let publisher = Self {
            words,
            phase: Phase::Starting,
            since: now,
            fault: None,
            prompt: None,
            warnings: Vec::new(),
            own: None,
            config: None,
            first_config: None,
            resolved: Vec::new(),
            ups: 0,
            host_received: 0,
            host_sent: 0,
            dropped: [0; Dropped::ALL.len()],
            taps: Taps::default(),
            due: false,
        };
        Ok((publisher, receiver))
    }

    pub(crate) fn drop(&mut self, reason: Dropped) {
        self.dropped[reason.index()] += 1;
    }

    pub(crate) fn host_received(&mut self, packet: HostPacket<'_>) {
        self.host_received += packets(packet);
        self.taps.see(packet);
    }

    pub(crate) fn host_sent(&mut self, packet: HostPacket<'_>) {
        self.host_sent += packets(packet);
        self.taps.see(packet);
    }

    /// The first datagram that leaves begins the handshake.
    pub(crate) fn sent(&mut self, now: Instant, traffic: &Traffic) {
        if self.phase == Phase::Starting && traffic.sent > 0 {
            self.enter(now, Phase::Connecting);
        }
    }

    pub(crate) fn configured(&mut self, now: Instant, config: NetConfig) {
        self.first_config.get_or_insert(now);
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

    pub(crate) fn prompt(&mut self, prompt: Prompt) {
        self.prompt = Some(prompt);
        self.due = true;
    }

    /// What goes with the next state that is published.
    pub(crate) fn told(&mut self, warnings: Vec<Fault>, own: Option<OwnName>) {
        self.warnings = warnings;
        self.own = own;
    }

    pub(crate) fn up(&mut self, now: Instant) {
        self.ups += 1;
        self.fault = None;
        self.prompt = None;
        self.enter(now, Phase::Up);
    }

    pub(crate) fn down(&mut self, now: Instant, fault: Fault) {
        self.fault = Some(fault);
        self.prompt = None;
        self.enter(now, if self.ups > 0 { Phase::Reconnecting } else { Phase::Connecting });
    }

    pub(crate) fn failed(&mut self, now: Instant, fault: Fault) {
        self.fault = Some(fault);
        self.prompt = None;
        self.enter(now, Phase::Failed);
    }

    /// Publishes the end, and waits until it is seen: after it, nobody asks the loop any more.
    pub(crate) fn closed(&mut self, now: Instant, traffic: &Traffic) {
        self.enter(now, Phase::Closed);
        let (done, seen) = sync_channel(1);
        self.publish(now, Vec::new(), traffic, (0, 0), Some(done));
        // A watcher that looks away for longer than this sees it later.
        let _ = seen.recv_timeout(LAST_WORD);
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
        done: Option<SyncSender<()>>,
    ) {
        let mut dropped: Vec<(String, u64)> = Dropped::ALL
            .iter()
            .map(|reason| (reason.to_string(), self.dropped[reason.index()]))
            .filter(|(_, count)| *count > 0)
            .collect();
        if traffic.lost > 0 {
            dropped.push(("the system did not send the datagram".to_owned(), traffic.lost));
        }
        let status = Status {
            phase: self.phase,
            fault: self.fault.clone(),
            prompt: self.prompt.clone(),
            warnings: self.warnings.clone(),
            config: self.config.clone(),
            configured: self.first_config.map(|at| now.saturating_duration_since(at)),
            own: self.own.clone(),
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
        };
        // What finds no room is published with the next turn.
        self.due = self.words.try_send((status, done)).is_err();
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

/// Publishes what the loop says until it is no more, in order or by a panic.
fn speak(words: &Receiver<Word>, sender: &watch::Sender<Status>) {
    while let Ok((status, done)) = words.recv() {
        sender.send_replace(status);
        if let Some(done) = done {
            // Nobody may wait for it any more.
            let _ = done.try_send(());
        }
    }
    sender.send_if_modified(|status| {
        let open = status.phase != Phase::Closed;
        status.phase = Phase::Closed;
        open
    });
}

/// How many packets a super-segment stands for, by its payload alone.
fn packets(packet: HostPacket<'_>) -> u64 {
    match packet.segment() {
        Some(segment) => packet.bytes().len().div_ceil(usize::from(segment.max(1))) as u64,
        None => 1,
    }
}
