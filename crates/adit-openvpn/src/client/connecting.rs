//! From the list of servers to a session: resolving, calling, proxies, failures and what follows them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{Dropped, Event, HostPort, LinkId, LinkSpec, Outbox, Unreachable};

use super::attempt::{Attempt, Relay, Step, Wait};
use super::remotes::{Next, State, fits, literal};
use super::{EAGER, EAGER_PAUSE, OpenVpn};
use crate::error::Cause;
use crate::km::{Lengths, options_string, peer_info, proto};
use crate::proxy::{self, Proxy, Step as ProxyStep};
use crate::push::Pull;
use crate::session::{Carrier, Introduction, Parts, Session, Stage};
use crate::wire::First;
use crate::{Remote, Transport, Via};

/// What is announced: all that works.
const PROTO: u32 = proto::DATA_V2
    | proto::REQUEST_PUSH
    | proto::TLS_KEY_EXPORT
    | proto::AUTH_PENDING
    | proto::CC_EXIT
    | proto::AUTH_FAIL_TEMP
    | proto::DYNAMIC_TLS_CRYPT
    | proto::EPOCH
    | proto::DNS_V2
    | proto::PUSH_UPDATE;

/// A server that was agreed on keys with and does not acknowledge a packet sent so often does not know us any more.
const FORGOTTEN: u32 = 6;

/// How an attempt ended.
pub(super) struct Ending {
    pub(super) cause: Cause,
    pub(super) next: Next,
    /// Wait at least this long.
    pub(super) pause: Duration,
    /// Say it, and stop.
    pub(super) is_final: bool,
}

impl Ending {
    pub(super) fn of(cause: Cause) -> Self {
        Self { cause, next: Next::Address, pause: Duration::ZERO, is_final: false }
    }
}

impl OpenVpn {
    /// Lets every line whose time has come do its next step.
    pub(super) fn begin_attempts(&mut self, now: Instant) {
        if self.ended || self.up.is_some() || self.asked.is_some() || !self.unresolved.is_empty() {
            return;
        }
        if let Some(question) = self.wallet.question() {
            self.asked = Some(self.prompt(question.text, question.echo));
            return;
        }
        for at in 0..self.lines.len() {
            if let Some(line) = self.lines.get(at)
                && let State::Waiting(start) = line.state
                && now >= start
            {
                self.begin_attempt(now, at);
            }
        }
    }

    fn begin_attempt(&mut self, now: Instant, at: usize) {
        let Some(line) = self.lines.get_mut(at) else { return };
        if let Some(address) = line.address() {
            let remote = line.remote();
            if let Some(attempt) = self.call(now, remote, address)
                && let Some(line) = self.lines.get_mut(at)
            {
                line.state = State::Trying(Box::new(attempt));
            }
            return;
        }
        let Some(remote) = self.config.remotes.get(line.remote()) else { return };
        if let Some(cause) = impossible(remote) {
            let ending = Ending { next: Next::Remote, ..Ending::of(cause) };
            return self.line_failed(now, at, ending, Vec::new());
        }
        // A proxy resolves the server's name itself.
        let mut name = remote.via.as_ref().map_or(&remote.host, proxy::address).clone();
        if let Some(address) = literal(&name) {
            return self.resolved(now, &name, &[address], Some(at));
        }
        if remote.random_hostname && remote.via.is_none() {
            name.host = format!("{:012x}.{}", self.random.next() >> 16, name.host);
        }
        line.state = State::Resolving(name.clone());
        self.events.push_back(Event::Resolve(name));
    }

    /// Takes the addresses of a name for the lines that asked for it, or for one line.
    pub(super) fn resolved(
        &mut self,
        now: Instant,
        name: &HostPort,
        found: &[SocketAddr],
        only: Option<usize>,
    ) {
        for at in 0..self.lines.len() {
            let Some(line) = self.lines.get_mut(at) else { return };
            let asked = matches!(&line.state, State::Resolving(asked) if asked == name);
            if only.is_some_and(|only| only != at) || (only.is_none() && !asked) {
                continue;
            }
            let Some(remote) = self.config.remotes.get(line.remote()) else { continue };
            line.resolved(
                found.iter().copied().filter(|address| remote.via.is_some() || fits(remote, address)),
            );
            line.state = State::Waiting(now);
            if line.address().is_none() {
                let cause = if found.is_empty() { Cause::Dns } else { Cause::Family };
                self.line_failed(now, at, Ending { next: Next::Remote, ..Ending::of(cause) }, Vec::new());
            } else {
                self.begin_attempts(now);
            }
        }
    }

    /// Opens a link to a server.
    pub(super) fn call(&mut self, now: Instant, remote: usize, server: SocketAddr) -> Option<Attempt> {
        let config = self.config.remotes.get(remote)?;
        let spec = match (config.transport, &config.via) {
            (Transport::Udp, None) => self.datagrams(config),
            (Transport::Tcp, _) | (_, Some(_)) => LinkSpec::Tcp { to: server },
        };
        let random = self.random.next();
        let proxy = config.via.as_ref().map(|via| Box::new(Proxy::new(via, config, random)));
        let connect_timeout = config.connect_timeout;
        let link = self.open_link(spec);
        tracing::debug!(%server, "calling");
        Some(Attempt {
            link,
            server,
            remote,
            started: now,
            deadline: now + connect_timeout,
            reported: false,
            beside: self.up.is_some(),
            released: None,
            unreachable: 0,
            proxy,
            relay: None,
            step: Step::Opening,
        })
    }

    /// The link of a server that is called with datagrams.
    fn datagrams(&self, remote: &Remote) -> LinkSpec {
        // A port that the connection beside holds cannot be had twice.
        LinkSpec::Udp { port: remote.local_port.filter(|_| self.up.is_none()) }
    }

    fn open_link(&mut self, spec: LinkSpec) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link = self.next_link.wrapping_add(1);
        self.events.push_back(Event::OpenLink(link, spec));
        link
    }

    /// The link of an attempt is open: a proxy is asked, or the session begins.
    pub(super) fn opened(&mut self, now: Instant, attempt: &mut Attempt, out: &mut Outbox) {
        match &mut attempt.proxy {
            Some(proxy) => {
                let request = proxy.begin();
                attempt.step = Step::Proxy;
                send_raw(attempt.link, &request, out);
            }
            None => self.begin_session(now, attempt, out),
        }
    }

    /// Takes what a proxy says. Returns how many of the bytes are not the server's, and how the attempt ended.
    pub(super) fn proxy_says(
        &mut self,
        now: Instant,
        attempt: &mut Attempt,
        data: &[u8],
        out: &mut Outbox,
    ) -> (usize, Option<Ending>) {
        let Some(proxy) = &mut attempt.proxy else { return (0, None) };
        match proxy.push(data) {
            Ok(ProxyStep::Wait) => {}
            Ok(ProxyStep::Send(bytes)) => send_raw(attempt.link, &bytes, out),
            Ok(ProxyStep::Done(used)) => {
                self.begin_session(now, attempt, out);
                return (used, None);
            }
            Ok(ProxyStep::Relay(at)) => {
                let Some(remote) = self.config.remotes.get(attempt.remote) else { return (0, None) };
                let datagrams = self.datagrams(remote);
                attempt.relay = Some(Relay { stream: attempt.link, proxy: attempt.server });
                // A proxy that names no address means its own.
                let ip = Some(at.ip()).filter(|ip| !ip.is_unspecified()).unwrap_or(attempt.server.ip());
                attempt.server = SocketAddr::new(ip, at.port());
                attempt.proxy = None;
                attempt.link = self.open_link(datagrams);
                attempt.step = Step::Opening;
            }
            Ok(ProxyStep::Reconnect) => {
                self.events.push_back(Event::CloseLink(attempt.link));
                attempt.link = self.open_link(LinkSpec::Tcp { to: attempt.server });
                attempt.step = Step::Opening;
            }
            Err(cause) => return (data.len(), Some(Ending::of(cause))),
        }
        (data.len(), None)
    }

    fn begin_session(&mut self, now: Instant, attempt: &mut Attempt, out: &mut Outbox) {
        let Some(remote) = self.config.remotes.get(attempt.remote) else { return };
        let login = self.wallet.login();
        let parts = Parts {
            carrier: Carrier {
                link: attempt.link,
                server: attempt.server,
                stream: remote.transport == Transport::Tcp,
                envelope: attempt.relay.map(|_| proxy::datagram_header(&remote.host).into()),
            },
            session_id: self.random.session_id(),
            wrap: &remote.wrap,
            sessions: self.sessions.clone(),
            clock: self.config.clock,
            introduction: Introduction {
                options: options_string(&self.config, remote),
                peer_info: peer_info(&self.config, PROTO),
                username: login.username,
                password: login.password,
                lengths: if self.config.wide_strings { Lengths::Wide } else { Lengths::Short },
            },
            timing: self.timing(),
        };
        match Session::new(now, parts) {
            Ok(mut session) => {
                session.transmit(now, &mut out.net);
                let pull = Pull::new(&self.config, remote, Some(attempt.server.ip()));
                let wait = Wait::new(now + self.config.hand_window, pull);
                attempt.step = Step::Session(Box::new(session), Box::new(wait));
            }
            Err(error) => tracing::error!(%error, "no session can be made"),
        }
    }

    /// Takes a control packet of an attempt.
    pub(super) fn attempt_packet(
        &mut self,
        now: Instant,
        attempt: &mut Attempt,
        packet: &mut [u8],
        out: &mut Outbox,
    ) -> Result<Option<Ending>, Dropped> {
        if packet.first().and_then(|byte| First::parse(*byte)).is_some_and(|first| first.opcode.is_data()) {
            // It overtook the configuration.
            return Err(Dropped::NotReady);
        }
        let Step::Session(session, _) = &mut attempt.step else { return Err(Dropped::Unexpected) };
        let taken = session.handle_control(now, packet);
        attempt.transmit(now, &mut out.net);
        let ending = self.reports(now, attempt, out);
        match ending {
            Some(ending) => Ok(Some(ending)),
            None if attempt.session().is_some_and(|session| session.seen().bare > 0) => {
                Ok(Some(Ending { pause: self.config.retry.pause, ..Ending::of(Cause::WrapMismatch) }))
            }
            None => taken.map(|()| None),
        }
    }

    /// An attempt of a line failed.
    pub(super) fn line_failed(&mut self, now: Instant, at: usize, ending: Ending, seen: Vec<String>) {
        let Some(line) = self.lines.get_mut(at) else { return };
        let remote = line.remote();
        if let State::Trying(attempt) = std::mem::replace(&mut line.state, State::Parked) {
            self.close_links(attempt.links());
        }
        let hopeless = ending.cause.is_hopeless() && self.was_up.is_none();
        let error = self.error(remote, ending.cause, seen);
        tracing::info!(%error, "an attempt failed");
        if ending.is_final {
            return self.fail(error);
        }
        let Some(line) = self.lines.get_mut(at) else { return };
        let mut retry = self.config.retry;
        if self.was_up.is_some_and(|ended| now < ended + EAGER) {
            retry.max_pause = retry.max_pause.min(EAGER_PAUSE);
            retry.rounds = None;
        }
        match line.advance(ending.next, hopeless, &retry) {
            Some(pause) => {
                line.not_before = now + ending.pause;
                line.state = State::Waiting(now + pause.max(ending.pause));
            }
            None => line.state = State::Parked,
        }
        // The lines that gave way to this one go on.
        let over = self.lines.iter().all(|line| matches!(line.state, State::Parked));
        for other in 0..self.lines.len() {
            if other != at
                && let Some(line) = self.lines.get_mut(other)
                && matches!(line.state, State::Parked)
                && line.may_go_on()
            {
                line.state = State::Waiting(now);
            }
        }
        let over = over && self.lines.iter().all(|line| matches!(line.state, State::Parked));
        if over {
            return self.fail(error);
        }
        // A question is the first half of a login: it is asked next, and is a failure only if nobody answers.
        if !matches!(error.cause, Cause::Challenge(_)) {
            self.events.push_back(Event::Down(error));
        }
        self.begin_attempts(now);
    }

    /// Lets time pass for an attempt. Returns how it ended, if it did.
    pub(super) fn attempt_timeout(
        &mut self,
        now: Instant,
        attempt: &mut Attempt,
        out: &mut Outbox,
    ) -> Option<Ending> {
        if !attempt.is_answered() && now >= attempt.deadline {
            return Some(Ending::of(self.silence(attempt)));
        }
        if !attempt.reported && !attempt.beside && now >= attempt.started + super::attempt::PATIENCE {
            attempt.reported = true;
            if let Some(cause) = self.suspicion(attempt) {
                let seen = self.evidence(now, attempt, &cause);
                let error = self.error(attempt.remote, cause, seen);
                self.events.push_back(Event::Down(error));
            }
        }
        let Step::Session(session, wait) = &mut attempt.step else { return None };
        session.handle_timeout(now);
        if wait.take_request(now) {
            session.say(b"PUSH_REQUEST\0");
        }
        if wait.request.is_some() && now >= wait.deadline {
            let cause = match (&wait.question, &wait.pending) {
                (Some((_, text)), _) => Cause::Challenge(text.clone()),
                (None, Some(url)) => Cause::Pending(url.clone()),
                (None, None) => Cause::PushTimeout,
            };
            return Some(Ending::of(cause));
        }
        if session.stage() == Stage::Done && session.repeated() >= FORGOTTEN {
            let pause = self.config.retry.pause;
            return Some(Ending { next: Next::Stay, pause, ..Ending::of(Cause::PushTimeout) });
        }
        attempt.released = None;
        attempt.transmit(now, &mut out.net);
        self.reports(now, attempt, out)
    }

    /// The network below says that an attempt's datagrams do not arrive. Anybody can forge that, so it only shortens
    /// the wait.
    pub(super) fn attempt_unreachable(&mut self, attempt: &mut Attempt, why: Unreachable) -> Option<Ending> {
        if attempt.is_answered() {
            return None;
        }
        attempt.unreachable += 1;
        let cause = match why {
            Unreachable::Port => Cause::Refused,
            why => Cause::Unreachable(why),
        };
        (attempt.unreachable >= 2).then(|| Ending { pause: self.config.retry.pause, ..Ending::of(cause) })
    }
}

/// A server that the profile's way does not lead to.
fn impossible(remote: &Remote) -> Option<Cause> {
    match (&remote.via, remote.transport) {
        (Some(Via::Http { .. }), Transport::Udp) => {
            Some(Cause::HttpProxy("it carries TCP alone, and the server is called over UDP".to_owned()))
        }
        _ => None,
    }
}

/// Sends bytes that are no packet. What is not taken leaves the attempt to its deadline.
fn send_raw(link: LinkId, bytes: &[u8], out: &mut Outbox) {
    if let Some(mut slot) = out.net.reserve(link, None, bytes.len()) {
        slot.copy_from_slice(bytes);
        slot.commit(bytes.len());
    }
}
