//! A connection on which packets pass: pings, silence, idle time, the exit.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{Dropped, Fault, HostPacket, LinkId, NetQueue, Outbox};

use super::attempt::Relay;
use crate::data::{Channel, Destination, Inner, OCC_EXIT, PING, occ};
use crate::error::Cause;
use crate::push::{Pull, Refusals};
use crate::session::Session;

/// What asks a server for its options string: its answer proves that it knows our session.
const OCC_REQUEST: u8 = 0;
const OCC_REPLY: u8 = 1;
/// What we sent has had no answer for this time: the server is asked.
const ASK_AFTER: Duration = Duration::from_millis(2000);
/// Questions follow each other at this distance.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A server that used to answer such questions and has not for this time is called anew, beside the connection.
const CALL_AFTER: Duration = Duration::from_millis(4000);
/// The same for one that does not answer them: this much more than the distance of its pings.
const CALL_AFTER_PING: Duration = Duration::from_secs(4);
/// The network below says that nobody listens there: the same.
const CALL_AFTER_REFUSAL: Duration = Duration::from_millis(500);
/// How often a goodbye is told in the data channel where it cannot be told in TLS.
const GOODBYES: u8 = 2;
/// Questions that are asked at the beginning, to know whether the server answers them.
const FIRST_QUESTIONS: u32 = 3;

/// So many packets that came before are told, if they are this part of all.
const REPEATED: u64 = 50;
const REPEATED_PART: u64 = 200;

/// A packet that was in pieces or compressed may exceed the MTU inside by this much.
const SLACK: usize = 128;

/// The times that profile and server agreed on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keepalive {
    pub(crate) ping: Option<Duration>,
    pub(crate) restart: Option<Duration>,
    pub(crate) exit: Option<Duration>,
    pub(crate) inactive: Option<(Duration, u64)>,
    pub(crate) session: Option<Duration>,
}

impl Keepalive {
    /// Zero turns a timer off.
    fn without_zeros(self) -> Self {
        let on = |time: Option<Duration>| time.filter(|time| !time.is_zero());
        Self {
            ping: on(self.ping),
            restart: on(self.restart),
            exit: on(self.exit),
            inactive: self.inactive.filter(|(time, _)| !time.is_zero()),
            session: on(self.session),
        }
    }
}

/// What the passing of time did to a connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It goes on.
    Fine,
    /// It must be made anew.
    Lost(Cause),
    /// It has ended as the options want.
    Over(Cause),
}

/// A connection that is up.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) session: Session,
    pub(crate) channel: Channel,
    pub(crate) pull: Pull,
    /// What of the server's pushes was refused.
    pub(crate) refusals: Refusals,
    pub(crate) remote: usize,
    /// The proxy that relays our datagrams.
    pub(crate) relay: Option<Relay>,
    pub(crate) since: Instant,
    pub(crate) keepalive: Keepalive,
    /// The server may frame packets as we do not, and nothing that it sent in the data channel has made sense yet.
    pub(crate) doubtful_framing: bool,
    /// The exit is told inside TLS.
    pub(crate) exit_in_tls: bool,
    /// How often the exit is told otherwise.
    pub(crate) exit_notify: u8,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Packets that came before, or too late.
    repeated: u64,
    /// Data packets that were taken.
    taken: u64,
    last_sent: Instant,
    /// The first packet since the server was heard.
    unanswered: Option<Instant>,
    /// When the server is asked next, and how often it was.
    ask: Option<Instant>,
    asked: u32,
    /// It answers questions.
    answers: bool,
    /// When the network said that nobody listens.
    refused: Option<Instant>,
    /// Bytes of packets, and when they are looked at for `inactive`.
    payload: u64,
    inactive_at: Option<(Instant, u64)>,
}

impl Up {
    pub(crate) fn new(
        now: Instant,
        session: Session,
        channel: Channel,
        pull: Pull,
        remote: usize,
        keepalive: Keepalive,
    ) -> Self {
        let keepalive = keepalive.without_zeros();
        Self {
            session,
            channel,
            pull,
            refusals: Refusals::default(),
            remote,
            relay: None,
            since: now,
            doubtful_framing: false,
            exit_in_tls: false,
            exit_notify: 0,
            sent: 0,
            received: 0,
            repeated: 0,
            taken: 0,
            last_sent: now,
            unanswered: None,
            ask: Some(now),
            asked: 0,
            answers: false,
            refused: None,
            payload: 0,
            inactive_at: keepalive.inactive.map(|(time, _)| (now + time, 0)),
            keepalive,
        }
    }

    pub(crate) fn link(&self) -> LinkId {
        self.session.carrier().link
    }

    /// What is open for it.
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkId> {
        std::iter::once(self.link()).chain(self.relay.map(|relay| relay.stream))
    }

    /// The address that was called: of a relay, that of its proxy.
    pub(crate) fn called(&self) -> SocketAddr {
        self.relay.map_or(self.session.carrier().server, |relay| relay.proxy)
    }

    fn destination(&self) -> Destination {
        let carrier = self.session.carrier();
        (carrier.link, (!carrier.stream).then_some(carrier.server))
    }

    /// Seals a packet of the other end.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        net: &mut NetQueue,
    ) -> Result<(), Dropped> {
        let to = self.destination();
        let keys = self.session.sealing().ok_or(Dropped::NotReady)?;
        let sent = self.channel.send(keys, packet, to, net)?;
        self.payload += packet.bytes().len() as u64;
        self.has_sent(now, sent);
        if self.unanswered.is_none() {
            self.unanswered = Some(now);
            self.ask = self.ask.or(Some(now + ASK_AFTER));
        }
        Ok(())
    }

    fn send_inner(&mut self, now: Instant, message: &[u8], net: &mut NetQueue) {
        let to = self.destination();
        let Some(keys) = self.session.sealing() else { return };
        // One that is not taken is repeated by the next timer.
        if let Ok(sent) = self.channel.send_inner(keys, message, to, net) {
            self.has_sent(now, sent);
        }
    }

    fn has_sent(&mut self, now: Instant, bytes: usize) {
        self.sent += bytes as u64;
        self.last_sent = now;
    }

    /// Takes a data packet. The server's wish to end the connection is returned.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        message: &mut [u8],
        out: &mut Outbox,
    ) -> Result<bool, Dropped> {
        // Taken before anything is opened, so that nothing that counts as received is lost.
        let room = message.len().max(usize::from(self.channel.shape().tun_mtu) + SLACK);
        let mut slot = out.host.reserve(room).ok_or(Dropped::Backpressure)?;
        self.received += message.len() as u64;
        let taken = self.session.receive(now, &mut self.channel, message);
        self.repeated += u64::from(taken == Err(Dropped::Replayed));
        let inner = taken?;
        self.taken += 1;
        let mut exit = false;
        self.doubtful_framing &= matches!(inner, Inner::Other | Inner::Piece);
        match inner {
            Inner::Packet(packet) => {
                let room = slot.get_mut(..packet.len()).ok_or(Dropped::TooBig)?;
                room.copy_from_slice(packet);
                let len = packet.len();
                slot.commit(len);
                self.payload += len as u64;
            }
            Inner::Occ(OCC_REPLY) => self.answers = true,
            Inner::Occ(OCC_EXIT) => exit = true,
            Inner::Ping | Inner::Piece | Inner::Other | Inner::Occ(_) => {}
        }
        self.heard();
        Ok(exit)
    }

    /// What people should know of a connection that gets many packets twice. A few of them are nobody's business.
    pub(crate) fn repetitions(&self) -> Option<Fault> {
        let least = REPEATED.max(self.taken / REPEATED_PART);
        (self.repeated >= least).then(|| Fault {
            class: "ovpn.replay".to_owned(),
            summary: format!("{} packets came twice or too late and were dropped", self.repeated),
            evidence: vec![format!("{} packets came once and in time", self.taken)],
        })
    }

    /// The server changed its pings and ours (`keepalive`).
    pub(crate) fn set_pings(&mut self, ping: Option<Duration>, restart: Option<Duration>) {
        self.keepalive = Keepalive { ping, restart, ..self.keepalive }.without_zeros();
    }

    /// The server changed the MTU inside.
    pub(crate) fn set_mtu(&mut self, mtu: u16) {
        if self.channel.shape().tun_mtu != mtu {
            self.channel = self.channel.with_mtu(mtu);
        }
    }

    /// The server was heard, on whichever channel.
    pub(crate) fn heard(&mut self) {
        self.unanswered = None;
        self.refused = None;
        if self.answers || (self.asked >= FIRST_QUESTIONS && !self.doubtful_framing) {
            self.ask = None;
            self.asked = self.asked.max(FIRST_QUESTIONS);
        }
    }

    /// The network below says that nobody listens at the server's address.
    pub(crate) fn refused(&mut self, now: Instant) {
        self.refused.get_or_insert(now);
        self.unanswered.get_or_insert(now);
        self.ask = Some(now);
    }

    /// Our own network changed: the server must learn our new address, and we whether it still hears us.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        self.unanswered.get_or_insert(now);
        self.ask = Some(now);
        self.last_sent = self.last_sent.checked_sub(Duration::from_secs(3600)).unwrap_or(self.last_sent);
    }

    /// The server's new address, proven by an authentic packet.
    pub(crate) fn moved(&mut self, server: SocketAddr) {
        self.session.carrier_mut().server = server;
    }

    /// When the server has been silent so long that it is called anew.
    pub(crate) fn call_at(&self) -> Option<Instant> {
        let since = self.unanswered?;
        let heard = self.session.heard().unwrap_or(self.since);
        let patient = match (self.answers, self.keepalive.ping) {
            (true, _) => Some(since + CALL_AFTER),
            (false, Some(ping)) => Some((heard + ping * 2).max(since) + CALL_AFTER_PING),
            (false, None) => None,
        };
        let refused = self.refused.map(|at| at + CALL_AFTER_REFUSAL);
        [patient, refused].into_iter().flatten().min()
    }

    fn ping_at(&self) -> Option<Instant> {
        self.keepalive.ping.map(|ping| self.last_sent + ping)
    }

    fn silence_ends(&self, limit: Option<Duration>) -> Option<Instant> {
        let heard = self.session.heard().unwrap_or(self.since).max(self.since);
        limit.map(|limit| heard + limit)
    }

    /// When something must be done at the latest, and why.
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [
            self.session.poll_timeout(),
            self.ping_at().map(|at| (at, "ping")),
            self.ask.map(|at| (at, "ask a silent server")),
            self.silence_ends(self.keepalive.restart).map(|at| (at, "ping-restart")),
            self.silence_ends(self.keepalive.exit).map(|at| (at, "ping-exit")),
            self.inactive_at.map(|(at, _)| (at, "inactive")),
            self.keepalive.session.map(|time| (self.since + time, "session-timeout")),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(at, _)| *at)
    }

    /// Does what the time asks for.
    pub(crate) fn handle_timeout(&mut self, now: Instant, net: &mut NetQueue) -> Verdict {
        self.session.handle_timeout(now);
        if self.ask.is_some_and(|at| now >= at) {
            if self.doubtful_framing && self.asked >= FIRST_QUESTIONS {
                return Verdict::Over(Cause::Framing);
            }
            self.asked = self.asked.saturating_add(1);
            self.send_inner(now, &occ(OCC_REQUEST), net);
            let more = self.unanswered.is_some()
                || self.doubtful_framing
                || (!self.answers && self.asked < FIRST_QUESTIONS);
            self.ask = more.then(|| now + ASK_AGAIN);
        }
        if self.ping_at().is_some_and(|at| now >= at) {
            self.send_inner(now, &PING, net);
            // Also where it was not taken: there is no use in trying without a pause.
            self.last_sent = now;
        }
        let is_over = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if is_over(self.silence_ends(self.keepalive.exit)) {
            return Verdict::Over(Cause::Inactive("ping-exit"));
        }
        if is_over(self.silence_ends(self.keepalive.restart)) {
            return Verdict::Lost(Cause::Silence(self.keepalive.restart.unwrap_or_default()));
        }
        if is_over(self.keepalive.session.map(|time| self.since + time)) {
            return Verdict::Over(Cause::Inactive("session-timeout"));
        }
        if let (Some((at, before)), Some((time, least))) = (self.inactive_at, self.keepalive.inactive)
            && now >= at
        {
            if self.payload - before < least.max(1) {
                return Verdict::Over(Cause::Inactive("inactive"));
            }
            self.inactive_at = Some((now + time, self.payload));
        }
        Verdict::Fine
    }

    /// Tells the server that we go.
    pub(crate) fn say_goodbye(&mut self, now: Instant, net: &mut NetQueue) {
        let renegotiates = self.session.is_renegotiating();
        if self.exit_in_tls && !renegotiates {
            self.session.say(b"EXIT\0");
            self.session.transmit(now, net);
        }
        // The end of a stream tells enough.
        if self.session.carrier().stream {
            return;
        }
        // Nobody stays to repeat what is lost, and a server that has begun a renegotiation, which we may not know,
        // reads nothing of the session of TLS before it. In the data channel it hears us at any time.
        let again = match (self.exit_in_tls, renegotiates) {
            (true, true) => GOODBYES,
            (true, false) => 1,
            (false, _) => 0,
        };
        for _ in 0..self.exit_notify.max(again) {
            self.send_inner(now, &occ(OCC_EXIT), net);
        }
    }
}
