//! The client as a [`Tunnel`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{
    Deadline, Dropped, Event, Fault, HostPacket, LinkId, NetInput, Outbox, PeerStatus, Tunnel, Unreachable,
};

use super::attempt::{Attempt, Step};
use super::connecting::Ending;
use super::dialogue::{pings, push_cause};
use super::remotes::{State, title};
use super::up::Verdict;
use super::{Command, OpenVpn};
use crate::error::{Cause, OpenVpnError};
use crate::message::{AuthFailure, Message};
use crate::proxy;
use crate::push::Progress;
use crate::session::Report;
use crate::wire::First;

/// Between the answer to a call beside a silent connection and giving that up.
const HESITATION: Duration = Duration::from_millis(250);
/// Between such calls.
const CALL_AGAIN: Duration = Duration::from_secs(1);

/// Where an attempt is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Line(usize),
    Spare,
}

impl OpenVpn {
    fn place(&self, link: LinkId) -> Option<Place> {
        let uses = |attempt: &Attempt| attempt.links().any(|used| used == link);
        if self.spare.as_deref().is_some_and(uses) {
            return Some(Place::Spare);
        }
        let is = |state: &State| matches!(state, State::Trying(attempt) if uses(attempt));
        self.lines.iter().position(|line| is(&line.state)).map(Place::Line)
    }

    fn attempt(&self, place: Place) -> Option<&Attempt> {
        match place {
            Place::Spare => self.spare.as_deref(),
            Place::Line(at) => match &self.lines.get(at)?.state {
                State::Trying(attempt) => Some(attempt),
                _ => None,
            },
        }
    }

    fn take(&mut self, place: Place) -> Option<Box<Attempt>> {
        match place {
            Place::Spare => self.spare.take(),
            Place::Line(at) => match std::mem::replace(&mut self.lines.get_mut(at)?.state, State::Parked) {
                State::Trying(attempt) => Some(attempt),
                other => {
                    self.lines.get_mut(at)?.state = other;
                    None
                }
            },
        }
    }

    /// Runs `work` on an attempt and follows what came of it.
    fn with_attempt<R>(
        &mut self,
        now: Instant,
        place: Place,
        work: impl FnOnce(&mut Self, &mut Attempt) -> (R, Option<Ending>),
    ) -> Option<R> {
        let mut attempt = self.take(place)?;
        let (result, ending) = work(self, &mut attempt);
        if self.up.as_ref().is_some_and(|up| up.link() == attempt.link) {
            // It has become the connection: its line rests.
            self.connected(place);
        } else if let Some(ending) = ending {
            let seen = self.evidence(now, &attempt, &ending.cause);
            match place {
                Place::Spare => {
                    self.close_links(attempt.links());
                    self.spare_after = Some(now + CALL_AGAIN);
                }
                Place::Line(at) => {
                    if let Some(line) = self.lines.get_mut(at) {
                        line.state = State::Trying(attempt);
                    }
                    self.line_failed(now, at, ending, seen);
                }
            }
        } else if !self.ended {
            let answered = attempt.is_answered();
            match place {
                Place::Spare => {
                    self.spare = Some(attempt);
                    if answered {
                        // What it said on the connection may still wait to be read.
                        self.adopt_at.get_or_insert(now + HESITATION);
                    }
                }
                Place::Line(at) => {
                    if let Some(line) = self.lines.get_mut(at) {
                        line.state = State::Trying(attempt);
                    }
                    if answered {
                        self.won(at);
                    }
                }
            }
        } else {
            self.close_links(attempt.links());
        }
        Some(result)
    }

    /// A line has reached a server: the others rest.
    fn won(&mut self, at: usize) {
        for other in 0..self.lines.len() {
            if other != at {
                self.park(other);
            }
        }
    }

    fn connected(&mut self, place: Place) {
        for at in 0..self.lines.len() {
            if place != Place::Line(at) {
                self.park(at);
            }
        }
        if let Place::Line(at) = place
            && let Some(line) = self.lines.get_mut(at)
        {
            line.reached();
        }
    }

    fn packet(
        &mut self,
        now: Instant,
        link: LinkId,
        from: Option<SocketAddr>,
        data: &mut [u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        if let Some(up) = &mut self.up
            && up.link() == link
        {
            let data = match up.relay {
                Some(_) => proxy::open_datagram(data)?,
                None => data,
            };
            return self.up_packet(now, from, data, out);
        }
        let place = self.place(link).ok_or(Dropped::Unexpected)?;
        let outcome = self.with_attempt(now, place, |this, attempt| {
            if from.is_some_and(|from| from != attempt.server) {
                return (Err(Dropped::Unexpected), None);
            }
            let data = match attempt.relay.map(|_| proxy::open_datagram(data)) {
                Some(Ok(datagram)) => datagram,
                Some(Err(dropped)) => return (Err(dropped), None),
                None => data,
            };
            match this.attempt_packet(now, attempt, data, out) {
                Ok(ending) => (Ok(()), ending),
                Err(dropped) => (Err(dropped), None),
            }
        });
        outcome.unwrap_or(Err(Dropped::Unexpected))
    }

    fn up_packet(
        &mut self,
        now: Instant,
        from: Option<SocketAddr>,
        data: &mut [u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let Some(up) = &mut self.up else { return Err(Dropped::Unexpected) };
        let elsewhere = from.filter(|from| *from != up.session.carrier().server);
        if elsewhere.is_some() && !self.config.float {
            return Err(Dropped::Unexpected);
        }
        let first = data.first().and_then(|byte| First::parse(*byte)).ok_or(Dropped::Malformed)?;
        let outcome = if first.opcode.is_data() {
            let outcome = up.receive(now, data, out);
            if outcome == Err(Dropped::Unauthentic) && up.session.carrier().stream {
                // What follows in the stream cannot be trusted either.
                let cause = Cause::Protocol("a packet of the stream does not authenticate".to_owned());
                self.lost(now, cause, false);
                return Err(Dropped::Unauthentic);
            }
            if outcome == Ok(true) {
                self.lost(now, Cause::Restart(String::new()), false);
                return Ok(());
            }
            outcome.map(|_| ())
        } else {
            up.received += data.len() as u64;
            let taken = up.session.handle_control(now, data);
            if taken.is_ok() {
                up.heard();
            }
            up.session.transmit(now, &mut out.net);
            taken
        };
        if let (Ok(()), Some(from)) = (outcome, elsewhere) {
            tracing::info!(%from, "the server moved");
            up.moved(from);
        }
        if outcome.is_ok() && self.spare.is_some() {
            // The connection lives: the call beside it is over.
            self.drop_spare();
        }
        if !first.opcode.is_data() {
            self.up_reports(now, out);
        }
        outcome
    }

    /// Follows what the session of the connection reports.
    fn up_reports(&mut self, now: Instant, out: &mut Outbox) {
        while let Some(up) = &mut self.up
            && let Some(report) = up.session.poll_report()
        {
            match report {
                Report::Message(message) => self.up_message(now, message, out),
                Report::Renewed => tracing::debug!("keys are renewed"),
                Report::KeysOver(_) | Report::Failed(_) => self.lost(now, Cause::Renegotiation, false),
                Report::Answered | Report::Exchanged(_) => {}
            }
        }
    }

    fn up_message(&mut self, now: Instant, message: Message, _out: &mut Outbox) {
        match message {
            Message::PushReply(text) => self.pushed_again(now, &text, false),
            Message::PushUpdate(text) => self.pushed_again(now, &text, true),
            Message::Restart(ending) => {
                self.purge(ending.keep_credentials);
                self.lost(now, Cause::Restart(ending.text), ending.next_remote);
            }
            Message::Halt(ending) => {
                let remote = self.up.as_ref().map_or(0, |up| up.remote);
                let error = self.error(remote, Cause::Halt(ending.text), Vec::new());
                self.fail(error);
            }
            Message::Exit => self.lost(now, Cause::Restart(String::new()), false),
            Message::AuthFailed(failure) => self.refused_while_up(now, failure),
            other => tracing::debug!(?other, "the server says"),
        }
    }

    /// The server pushes again: a token, or an update of the network.
    fn pushed_again(&mut self, now: Instant, text: &str, update: bool) {
        let Some(up) = &mut self.up else { return };
        tracing::debug!(update, bytes = text.len(), "the server pushes again");
        match if update { up.pull.update(text) } else { up.pull.reply(text) } {
            Ok(Progress::Token) => self.take_token(),
            Ok(Progress::Updated) => match up.pull.net_config() {
                Ok(net) => {
                    if let Some(pushed) = up.pull.pushed() {
                        let (ping, restart) = pings(pushed, &self.config);
                        up.set_pings(ping, restart);
                    }
                    up.set_mtu(net.mtu);
                    self.publish(net);
                }
                Err(error) => self.lost(now, push_cause(error), false),
            },
            Ok(Progress::Partial | Progress::Complete | Progress::Unchanged) => {}
            Err(error) if update => self.lost(now, push_cause(error), false),
            Err(error) => tracing::warn!(%error, "a later push is left out"),
        }
        self.tell_notices();
    }

    fn refused_while_up(&mut self, now: Instant, failure: AuthFailure) {
        let remote = self.up.as_ref().map_or(0, |up| up.remote);
        let ending = self.auth_failed(failure);
        if ending.is_final {
            let error = self.error(remote, ending.cause, Vec::new());
            return self.fail(error);
        }
        self.lost(now, ending.cause, false);
        for line in &mut self.lines {
            if let State::Waiting(at) = &mut line.state {
                *at += ending.pause;
            }
        }
    }

    fn stream(
        &mut self,
        now: Instant,
        link: LinkId,
        data: &mut [u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let mut data = data;
        if let Some(place) = self.place(link) {
            let used = self.with_attempt(now, place, |this, attempt| match attempt.step {
                Step::Proxy => this.proxy_says(now, attempt, data, out),
                _ => (0, None),
            });
            data = data.split_at_mut_checked(used.unwrap_or_default()).map_or(&mut [], |(_, rest)| rest);
        }
        if data.is_empty() {
            return Ok(());
        }
        if self.is_relays(link) {
            // A proxy has nothing to say once it relays.
            return Err(Dropped::Unexpected);
        }
        let mut framer = self.framers.remove(&link).unwrap_or_default();
        let mut outcome = Ok(());
        let framed = framer.push(data, |packet| {
            if let Err(dropped) = self.packet(now, link, None, packet, out) {
                outcome = Err(dropped);
            }
        });
        let lives = self.up.as_ref().is_some_and(|up| up.link() == link) || self.place(link).is_some();
        if lives {
            self.framers.insert(link, framer);
        }
        if let Err(error) = framed {
            let cause = Cause::Protocol(error.to_string());
            self.link_ended(now, link, cause);
            return Err(Dropped::Malformed);
        }
        outcome
    }

    /// Whether a proxy was asked on this stream to relay datagrams.
    fn is_relays(&self, link: LinkId) -> bool {
        let attempt = self.place(link).and_then(|place| self.attempt(place));
        let relays = [attempt.and_then(|attempt| attempt.relay), self.up.as_ref().and_then(|up| up.relay)];
        relays.into_iter().flatten().any(|relay| relay.stream == link)
    }

    /// A link is of no use any more.
    fn link_ended(&mut self, now: Instant, link: LinkId, cause: Cause) {
        if self.up.as_ref().is_some_and(|up| up.links().any(|used| used == link)) {
            return self.lost(now, cause, false);
        }
        if let Some(place) = self.place(link) {
            self.with_attempt(now, place, |_, _| ((), Some(Ending::of(cause))));
        }
    }

    fn closed(&mut self, now: Instant, link: LinkId, error: Option<std::io::ErrorKind>) {
        use std::io::ErrorKind;
        if self.is_relays(link) {
            let cause = Cause::SocksProxy("it has stopped to relay our datagrams".to_owned());
            return self.link_ended(now, link, cause);
        }
        let attempt = self.place(link).and_then(|place| self.attempt(place));
        if let Some(Attempt { step: Step::Proxy | Step::Opening, proxy: Some(proxy), .. }) = attempt {
            let words = match error {
                Some(ErrorKind::ConnectionRefused) => "nothing listens on its port".to_owned(),
                Some(kind) => kind.to_string(),
                None => "it closed the connection without an answer".to_owned(),
            };
            let cause = proxy.closed(&words);
            return self.link_ended(now, link, cause);
        }
        let session = attempt.and_then(|attempt| attempt.session());
        let cause = match error {
            Some(ErrorKind::ConnectionRefused) => Cause::Refused,
            Some(ErrorKind::TimedOut) => Cause::ConnectTimeout,
            Some(ErrorKind::HostUnreachable) => Cause::Unreachable(Unreachable::Host),
            Some(ErrorKind::NetworkUnreachable) => Cause::Unreachable(Unreachable::Network),
            Some(ErrorKind::PermissionDenied) => Cause::Unreachable(Unreachable::Prohibited),
            None | Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                session.map_or(Cause::Link(ErrorKind::ConnectionReset), |session| self.ended_at(session))
            }
            Some(kind) => Cause::Link(kind),
        };
        self.link_ended(now, link, cause);
    }

    fn unreachable(&mut self, now: Instant, link: LinkId, to: SocketAddr, why: Unreachable) {
        if let Some(up) = &mut self.up
            && up.link() == link
        {
            if up.session.carrier().server == to && why == Unreachable::Port {
                up.refused(now);
            }
            return;
        }
        if let Some(place) = self.place(link) {
            self.with_attempt(now, place, |this, attempt| {
                let ending = if attempt.server == to { this.attempt_unreachable(attempt, why) } else { None };
                ((), ending)
            });
        }
    }

    /// When a silent server is called beside the connection.
    fn call_beside_at(&self) -> Option<Instant> {
        let at = self.up.as_ref().filter(|_| self.spare.is_none())?.call_at()?;
        Some(self.spare_after.map_or(at, |after| at.max(after)))
    }

    /// Calls a silent server beside the connection.
    fn call_beside(&mut self, now: Instant) {
        let Some(up) = &self.up else { return };
        let (remote, server) = (up.remote, up.called());
        // An attempt that must be answered by somebody is not begun on suspicion.
        if self.wallet.question().is_none() {
            tracing::info!(%server, "the server is silent and is called anew");
            self.spare = self.call(now, remote, server).map(Box::new);
        }
        self.spare_after = Some(now + CALL_AGAIN);
    }

    fn deadlines(&self) -> impl Iterator<Item = (Instant, &'static str)> {
        let up = self.up.as_ref();
        let resting = self.up.is_some() || self.asked.is_some() || !self.unresolved.is_empty();
        let lines = self.lines.iter().filter_map(move |line| match &line.state {
            State::Waiting(_) if resting => None,
            State::Waiting(at) => Some((*at, "the next attempt")),
            State::Trying(attempt) => attempt.poll_timeout(),
            State::Resolving(_) | State::Parked => None,
        });
        let spare = self.spare.as_ref().and_then(|spare| spare.poll_timeout());
        lines
            .chain(spare)
            .chain(up.and_then(|up| up.poll_timeout()))
            .chain(self.call_beside_at().map(|at| (at, "call a silent server")))
            .chain(self.adopt_at.map(|at| (at, "leave a connection that the server does not know")))
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Tunnel for OpenVpn {
    type Command = Command;
    type Error = OpenVpnError;

    fn handle_net(&mut self, now: Instant, input: NetInput<'_>, out: &mut Outbox) -> Result<(), Dropped> {
        if self.ended {
            return Err(Dropped::Unexpected);
        }
        match input {
            NetInput::Datagram { link, from, data } => {
                self.packet(now, link, Some(canonical(from)), data, out)?
            }
            NetInput::Stream { link, data } => self.stream(now, link, data, out)?,
            NetInput::Opened { link, .. } => {
                let place = self.place(link).ok_or(Dropped::Unexpected)?;
                self.with_attempt(now, place, |this, attempt| {
                    if matches!(attempt.step, Step::Opening) {
                        this.opened(now, attempt, out);
                    }
                    ((), None)
                });
            }
            NetInput::Closed { link, error } => self.closed(now, link, error),
            NetInput::Writable { link } => {
                if let Some(up) = &mut self.up
                    && up.link() == link
                {
                    up.session.transmit(now, &mut out.net);
                }
            }
            NetInput::Unreachable { link, to, why } => self.unreachable(now, link, canonical(to), why),
            NetInput::Resolved { host, addresses } => {
                self.route_resolved(now, host, addresses);
                self.resolved(now, host, addresses, None);
            }
            NetInput::NetworkChanged => self.network_changed(now, out),
        }
        Ok(())
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        packet: HostPacket<'_>,
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let up = self.up.as_mut().ok_or(Dropped::NotReady)?;
        up.send(now, packet, &mut out.net)?;
        if up.session.keys_are_used() {
            up.session.renegotiate(now);
            up.session.transmit(now, &mut out.net);
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        if self.ended {
            return;
        }
        if let Some(up) = &mut self.up {
            let verdict = up.handle_timeout(now, &mut out.net);
            up.session.transmit(now, &mut out.net);
            let remote = up.remote;
            match verdict {
                Verdict::Fine => {}
                Verdict::Lost(cause) => self.lost(now, cause, false),
                Verdict::Over(cause) => {
                    let error = self.error(remote, cause, Vec::new());
                    self.fail(error);
                }
            }
            self.up_reports(now, out);
        }
        if self.call_beside_at().is_some_and(|at| now >= at) {
            self.call_beside(now);
        }
        if self.adopt_at.is_some_and(|at| now >= at) {
            // The server is there, and does not know the connection.
            self.lost(now, Cause::Restarted, false);
        }
        let places = (0..self.lines.len()).map(Place::Line).chain([Place::Spare]);
        for place in places {
            self.with_attempt(now, place, |this, attempt| ((), this.attempt_timeout(now, attempt, out)));
        }
        self.begin_attempts(now);
    }

    fn handle_command(&mut self, now: Instant, command: Command, out: &mut Outbox) {
        if self.ended {
            return;
        }
        match command {
            Command::NetworkChanged => self.network_changed(now, out),
            Command::Answer { id, text } => {
                if self.asked == Some(id) {
                    self.asked = None;
                    self.wallet.answer(&text);
                    self.begin_attempts(now);
                } else {
                    self.answer_in_session(now, id, &text, out);
                }
            }
            Command::Decline { id, why } if id == self.next_question => {
                let cause = Cause::Challenge(self.question.clone());
                self.fail(self.error(0, cause, vec![why]));
            }
            Command::Decline { .. } => {}
            Command::Exit => self.exit(now, out),
        }
    }

    fn close(&mut self, now: Instant, out: &mut Outbox) {
        if !self.ended {
            self.exit(now, out);
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        if self.ended {
            return None;
        }
        self.deadlines().min_by_key(|(at, _)| *at).map(|(at, why)| Deadline { at, why })
    }

    fn poll_event(&mut self) -> Option<Event<OpenVpnError>> {
        self.events.pop_front()
    }

    fn warnings(&self) -> Vec<Fault> {
        let Some(up) = &self.up else { return Vec::new() };
        up.refusals.warning(up.pull.counts().0).into_iter().chain(up.repetitions()).collect()
    }

    fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let Some(up) = &self.up else { return Vec::new() };
        vec![PeerStatus {
            name: self.config.remotes.get(up.remote).map(title).unwrap_or_default(),
            endpoint: Some(up.session.carrier().server),
            prefixes: self.net.as_ref().map(|net| net.routes.clone()).unwrap_or_default(),
            handshake_age: up.session.last_negotiation().map(|at| now.saturating_duration_since(at)),
            received: up.received,
            sent: up.sent,
            ..PeerStatus::default()
        }]
    }
}
