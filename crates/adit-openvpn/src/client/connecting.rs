//! From the list of servers to a connection: resolving, calling, the session's reports, the configuration, failures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_tunnel::{Dropped, Event, HostPort, LinkId, LinkSpec, Outbox, Prompt, Unreachable};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::attempt::{Attempt, Step, Wait};
use super::remotes::{Next, State, fits, literal};
use super::up::{Keepalive, Up};
use super::{EAGER, EAGER_PAUSE, OpenVpn};
use crate::auth::Refusal;
use crate::data::{Channel, Shape, Suite};
use crate::error::Cause;
use crate::km::{Lengths, options_string, peer_info, proto};
use crate::message::{Advance, AuthFailure, Info, Message, challenge_response};
use crate::proxy::{self, Proxy, Step as ProxyStep};
use crate::push::{Progress, Pull, PushError, Pushed};
use crate::session::{Carrier, Introduction, Negotiated, NegotiationError, Parts, Report, Session, Stage};
use crate::{Algorithm, Cipher, Remote, Transport, Via, Wrap};

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
/// A server waits for an approval for at most this long.
const MAX_PENDING: Duration = Duration::from_secs(3600);
/// `ping-restart` where neither profile nor server say anything.
const PING_RESTART: Duration = Duration::from_secs(120);

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
        if self.ended || self.up.is_some() || self.asked.is_some() {
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
        let spec = match config.transport {
            // A port that the connection beside holds cannot be had twice.
            Transport::Udp => LinkSpec::Udp { port: config.local_port.filter(|_| self.up.is_none()) },
            Transport::Tcp => LinkSpec::Tcp { to: server },
        };
        let random = self.random.next();
        let proxy = config.via.as_ref().map(|via| Box::new(Proxy::new(via, &config.host, random)));
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
            step: Step::Opening,
        })
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
                let pull = Pull::new(&self.config, Some(attempt.server.ip()));
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

    /// Follows what a session reports while it is an attempt.
    pub(super) fn reports(
        &mut self,
        now: Instant,
        attempt: &mut Attempt,
        out: &mut Outbox,
    ) -> Option<Ending> {
        loop {
            let Step::Session(session, wait) = &mut attempt.step else { return None };
            let report = session.poll_report()?;
            match report {
                Report::Answered => tracing::debug!(server = %attempt.server, "the server answers"),
                Report::Exchanged(options) => {
                    tracing::debug!(%options, tls = session.tls_description(), "keys are exchanged");
                    wait.begin(now, options);
                }
                Report::Message(message) => {
                    if let Some(ending) = self.attempt_message(now, attempt, message, out) {
                        return Some(ending);
                    }
                }
                Report::Failed(NegotiationError::Timeout(stage)) => {
                    let Step::Session(session, _) = &attempt.step else { return None };
                    return Some(Ending::of(self.stalled(session, stage)));
                }
                Report::Failed(error) | Report::KeysOver(error) => {
                    return Some(Ending::of(Cause::of(error)));
                }
                Report::Renewed => {}
            }
        }
    }

    fn attempt_message(
        &mut self,
        now: Instant,
        attempt: &mut Attempt,
        message: Message,
        out: &mut Outbox,
    ) -> Option<Ending> {
        let Step::Session(session, wait) = &mut attempt.step else { return None };
        match message {
            Message::PushReply(text) => {
                return match wait.pull.reply(&text) {
                    Ok(Progress::Complete) => self.configured(now, attempt, out),
                    Ok(_) => None,
                    Err(error) => Some(Ending::of(push_cause(error))),
                };
            }
            Message::AuthFailed(failure) => return Some(self.auth_failed(failure)),
            Message::AuthPending(timeout) => {
                let time = timeout.unwrap_or(self.config.hand_window).min(MAX_PENDING);
                wait.pending.get_or_insert_default();
                wait.pending_timeout = timeout;
                wait.deadline = wait.deadline.max(now + time);
                session.extend(wait.deadline);
            }
            Message::Info(info) => {
                let timeout = wait.pending_timeout;
                match info {
                    Info::Open(url) if is_page(&url) => {
                        wait.pending = Some(url.clone());
                        self.events.push_back(Event::Prompt(Prompt::Open { url, timeout }));
                    }
                    Info::Open(url) => tracing::warn!(?url, "the server names a page that is not of https"),
                    Info::Question { text, echo, response } => {
                        if response {
                            let id = self.prompt(text.clone(), echo);
                            let Step::Session(_, wait) = &mut attempt.step else { return None };
                            wait.question = Some((id, text));
                        } else {
                            tracing::info!(%text, "the server says");
                        }
                    }
                    Info::Other(text) => tracing::debug!(%text, "the server says"),
                }
            }
            Message::Restart(ending) => {
                self.purge(ending.keep_credentials);
                let next = if ending.next_remote { Next::Remote } else { Next::Stay };
                let pause = self.config.retry.pause;
                return Some(Ending { next, pause, ..Ending::of(Cause::Restart(ending.text)) });
            }
            Message::Halt(ending) => {
                return Some(Ending { is_final: true, ..Ending::of(Cause::Halt(ending.text)) });
            }
            Message::Exit => return Some(Ending::of(Cause::Restart(String::new()))),
            Message::PushUpdate(_) => tracing::debug!("an update before the configuration is left out"),
            Message::Unknown(text) => tracing::debug!(%text, "an unknown message"),
        }
        None
    }

    pub(super) fn purge(&mut self, keep: bool) {
        if !keep {
            self.wallet.purge();
        }
    }

    /// What a refusal means for the attempts after it.
    pub(super) fn auth_failed(&mut self, failure: AuthFailure) -> Ending {
        let stay = |cause, pause| Ending { next: Next::Stay, pause, ..Ending::of(cause) };
        let last = |cause| Ending { is_final: true, ..Ending::of(cause) };
        match failure {
            AuthFailure::Temporary { backoff, advance, reason } => {
                let next = match advance {
                    Advance::Stay => Next::Stay,
                    Advance::Address => Next::Address,
                    Advance::Remote => Next::Remote,
                };
                let pause = backoff.unwrap_or(self.config.retry.pause);
                Ending { next, pause, ..Ending::of(Cause::AuthTemporary(reason)) }
            }
            AuthFailure::Challenge(challenge) => {
                let cause = Cause::Challenge(challenge.text.clone());
                self.wallet.challenged(challenge);
                stay(cause, Duration::ZERO)
            }
            AuthFailure::Session(reason) => match self.wallet.refused() {
                Refusal::TryPassword => stay(Cause::AuthSession(reason), Duration::ZERO),
                Refusal::Final => last(Cause::AuthSession(reason)),
            },
            AuthFailure::Refused(reason) => {
                let words = reason.as_deref().unwrap_or_default();
                if words.contains("cipher negotiation failed") {
                    let ours: Vec<_> = self.config.data_ciphers.iter().map(|cipher| cipher.name()).collect();
                    return last(Cause::Cipher(format!("{words}; we offer {}", ours.join(", "))));
                }
                match self.wallet.refused() {
                    Refusal::TryPassword => stay(Cause::AuthFailed(reason), Duration::ZERO),
                    Refusal::Final => last(Cause::AuthFailed(reason)),
                }
            }
        }
    }

    /// The configuration is complete: packets can pass.
    fn configured(&mut self, now: Instant, attempt: &mut Attempt, out: &mut Outbox) -> Option<Ending> {
        let remote = self.config.remotes.get(attempt.remote)?;
        let Step::Session(session, wait) = &mut attempt.step else { return None };
        let nothing = Pushed::default();
        let pushed = wait.pull.pushed().unwrap_or(&nothing);
        let cipher = match agreed_cipher(&self.config, pushed, &wait.options) {
            Ok(cipher) => cipher,
            Err(words) => return Some(Ending::of(Cause::Cipher(words))),
        };
        let net = match wait.pull.net_config() {
            Ok(net) => net,
            Err(error) => return Some(Ending::of(push_cause(error))),
        };
        let suite = Suite {
            cipher,
            auth: self.config.auth.unwrap_or(Algorithm::Sha1),
            epoch: pushed.flags.aead_epoch,
        };
        let negotiated = Negotiated {
            suite,
            peer_id: pushed.peer_id,
            exporter: pushed.flags.tls_ekm,
            dynamic: pushed.flags.dyn_tls_crypt,
            replay_window: self.config.replay_window,
        };
        if let Err(error) = session.establish(now, negotiated) {
            return Some(Ending::of(Cause::of(error)));
        }
        let shape = Shape {
            suite,
            peer_id: pushed.peer_id.is_some_and(|id| id < 0x00ff_ffff),
            transport: remote.transport,
            outside_v6: attempt.server.is_ipv6(),
            compression: pushed.compression.unwrap_or(self.config.compression),
            fragment: remote.fragment,
            mssfix: remote.mssfix,
            tun_mtu: net.mtu,
        };
        let keepalive = Keepalive {
            ping: pushed.ping.or(self.config.ping),
            restart: pushed.ping_restart.or(self.config.ping_restart).or(Some(PING_RESTART)),
            exit: pushed.ping_exit.or(self.config.ping_exit),
            inactive: pushed.inactive.or(self.config.inactive),
            session: pushed.session_timeout.or(self.config.session_timeout),
        };
        let (exit_in_tls, exit_notify) =
            (pushed.flags.cc_exit, pushed.exit_notify.unwrap_or(remote.exit_notify));
        let step = std::mem::replace(&mut attempt.step, Step::Opening);
        let Step::Session(session, wait) = step else { return None };
        let channel = Channel::new(shape);
        let mut up = Up::new(now, *session, channel, wait.pull, attempt.remote, keepalive);
        up.exit_in_tls = exit_in_tls;
        up.exit_notify = exit_notify;
        let _ = up.handle_timeout(now, &mut out.net);
        self.up = Some(Box::new(up));
        self.take_token();
        self.tell_notices();
        self.publish(net);
        tracing::info!(server = %attempt.server, %cipher, "connected");
        self.events.push_back(Event::Up);
        None
    }

    /// Uses the token of the last push from now on.
    pub(super) fn take_token(&mut self) {
        let Some(up) = &mut self.up else { return };
        let Some(pushed) = up.pull.pushed() else { return };
        let Some(token) = &pushed.auth_token else { return };
        let username = pushed.auth_token_user.as_ref().and_then(|user| {
            let bytes = STANDARD.decode(user.as_str()).ok()?;
            String::from_utf8(bytes).ok()
        });
        let login = self.wallet.set_token(username, token.as_str());
        let introduction = up.session.introduction_mut();
        (introduction.username, introduction.password) = (login.username, login.password);
        self.wallet.token_in_use();
    }

    /// Logs what a push has that people should know.
    pub(super) fn tell_notices(&mut self) {
        let Some(up) = &mut self.up else { return };
        for notice in up.pull.take_notices() {
            if notice.kind.is_refusal() {
                tracing::warn!("{notice}");
            } else {
                tracing::info!("{notice}");
            }
        }
    }

    /// Tells the other end its addresses, routes and DNS, if they are new.
    pub(super) fn publish(&mut self, net: adit_tunnel::NetConfig) {
        if self.net.as_ref() != Some(&net) {
            self.net = Some(net.clone());
            self.events.push_back(Event::Configured(net));
        }
    }

    /// An attempt of a line failed.
    pub(super) fn line_failed(&mut self, now: Instant, at: usize, ending: Ending, seen: Vec<String>) {
        let Some(line) = self.lines.get_mut(at) else { return };
        let remote = line.remote();
        if let State::Trying(attempt) = std::mem::replace(&mut line.state, State::Parked) {
            self.events.push_back(Event::CloseLink(attempt.link));
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
            Some(pause) => line.state = State::Waiting(now + pause.max(ending.pause)),
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
        self.events.push_back(Event::Down(error));
        self.begin_attempts(now);
    }

    /// What is known about an attempt that failed.
    pub(super) fn evidence(&self, now: Instant, attempt: &Attempt, cause: &Cause) -> Vec<String> {
        let mut seen = Vec::new();
        let time = now.saturating_duration_since(attempt.started).as_secs();
        if let Some(session) = attempt.session() {
            let counts = session.seen();
            if !attempt.is_answered() {
                let sent = session.resets_sent();
                seen.push(format!("{sent} packets sent to {} in {time} s, no valid answer", attempt.server));
            }
            if counts.unauthentic > 0 {
                seen.push(format!("{} packets came that do not match our key", counts.unauthentic));
            }
            if counts.bare > 0 {
                seen.push(
                    "the server answers without protection: it has neither tls-auth nor tls-crypt".to_owned(),
                );
            }
            if counts.malformed > 0 {
                seen.push(format!("{} packets came that are not of OpenVPN", counts.malformed));
            }
            if let Some(theirs) = session.peer_time() {
                let unix = self.config.clock.unix + now.saturating_duration_since(self.config.clock.instant);
                let apart = i64::from(theirs) - unix.as_secs() as i64;
                if apart.abs() > 60 {
                    seen.push(format!("the server's clock differs from this machine's by {apart} s"));
                }
            }
            if let Some(tls) = session.tls_description() {
                seen.push(format!("TLS: {tls}"));
            }
            if attempt.is_answered() && !matches!(cause, Cause::Tls(_)) {
                seen.extend(self.stage_evidence(session));
            }
            if let (true, Cause::Tls(rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(_))) =
                (session.tls_description().is_none(), cause)
            {
                seen.push(self.sessions.offer());
            }
            if matches!(cause, Cause::AuthFailed(_)) && !self.wallet.has_credentials() {
                seen.push("we sent no user: the server refuses the client itself".to_owned());
            }
        } else {
            seen.push(format!("no link to {} after {time} s", attempt.server));
        }
        if let Some(remote) = self.config.remotes.get(attempt.remote)
            && attempt.session().is_some_and(|session| session.heard().is_none())
        {
            seen.push(match &remote.wrap {
                Wrap::None => "the control channel is not protected: the server must have neither tls-auth nor tls-crypt",
                Wrap::Auth { .. } => "we use tls-auth: a server with another key, direction or `auth` stays silent",
                Wrap::Crypt(_) => "we use tls-crypt: a server with another key stays silent",
                Wrap::CryptV2 { .. } => "we use tls-crypt-v2: a server that did not issue our client key stays silent",
            }.to_owned());
        }
        seen
    }

    /// What the end or the silence at a stage may mean.
    fn stage_evidence(&self, session: &Session) -> Option<String> {
        let certificate = if self.config.tls.identity.is_some() {
            "a server that does not accept our certificate says nothing before version 2.7"
        } else {
            "the profile has no certificate: a server that wants one says nothing"
        };
        match session.stage() {
            Stage::Handshake if session.tls_description().is_none() => Some(format!(
                "the server does not answer our first message of TLS; {}",
                self.sessions.offer()
            )),
            Stage::Handshake => Some(format!("TLS is not finished; {certificate}")),
            Stage::Exchange if self.wallet.has_credentials() => {
                Some(format!("TLS is finished on our side, and the server does not answer; {certificate}"))
            }
            Stage::Exchange => Some(format!(
                "TLS is finished on our side, and the server does not answer; {certificate}, and so does one that \
                 wants a user, of which we sent none"
            )),
            Stage::Calling | Stage::Done => None,
        }
    }

    /// Why a server that has not answered has not.
    pub(super) fn silence(&self, attempt: &Attempt) -> Cause {
        if let (Step::Proxy, Some(proxy)) = (&attempt.step, &attempt.proxy) {
            return proxy.closed("it does not answer");
        }
        match attempt.session() {
            Some(session) if session.seen().unauthentic > 0 || session.seen().bare > 0 => Cause::WrapMismatch,
            Some(session) if session.seen().malformed > 0 => {
                Cause::Protocol("its packets are of another kind".to_owned())
            }
            None if self.is_tcp(attempt.remote) => Cause::ConnectTimeout,
            Some(_) if self.is_tcp(attempt.remote) => {
                Cause::Protocol("it takes the connection and does not answer".to_owned())
            }
            _ => Cause::Silent,
        }
    }

    /// What keeps an attempt waiting. A person who is asked already is no failure.
    fn suspicion(&self, attempt: &Attempt) -> Option<Cause> {
        if !attempt.is_answered() {
            return Some(self.silence(attempt));
        }
        let Step::Session(session, wait) = &attempt.step else { return None };
        match session.stage() {
            Stage::Done if wait.pending.is_some() || wait.question.is_some() => None,
            Stage::Done => Some(Cause::PushTimeout),
            stage => Some(self.stalled(session, stage)),
        }
    }

    /// Why a negotiation does not come to its end.
    fn stalled(&self, session: &Session, stage: Stage) -> Cause {
        // A server that wants a user drops a message without one and says nothing. With TLS 1.3, one that does not
        // accept our certificate looks the same from here.
        if stage == Stage::Exchange && session.is_tls_12() && !self.wallet.has_credentials() {
            return Cause::CredentialsMissing;
        }
        // The first packets passed in both directions, and ours is not large.
        if stage == Stage::Handshake && session.tls_description().is_none() {
            return Cause::TlsRefused;
        }
        Cause::TlsTimeout(stage)
    }

    /// What it means that the server ends a stream before the configuration has come.
    pub(super) fn ended_at(&self, session: &Session) -> Cause {
        match session.stage() {
            Stage::Calling => Cause::Closed,
            stage => match self.stalled(session, stage) {
                Cause::CredentialsMissing => Cause::CredentialsMissing,
                _ => Cause::Ended { stage, hello: session.tls_description().is_some() },
            },
        }
    }

    /// Lets time pass for an attempt. Returns how it ended, if it did.
    pub(super) fn attempt_timeout(
        &mut self,
        now: Instant,
        attempt: &mut Attempt,
        out: &mut Outbox,
    ) -> Option<Ending> {
        if !attempt.is_answered() {
            if now >= attempt.deadline {
                let cause = self.silence(attempt);
                return Some(Ending::of(cause));
            }
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

    /// The answer to a question of a session.
    pub(super) fn answer_in_session(&mut self, now: Instant, id: u64, text: &str, out: &mut Outbox) {
        for line in &mut self.lines {
            if let State::Trying(attempt) = &mut line.state
                && let Step::Session(session, wait) = &mut attempt.step
                && wait.question.as_ref().is_some_and(|(asked, _)| *asked == id)
            {
                wait.question = None;
                session.say(&challenge_response(text.trim_end_matches(['\r', '\n'])));
                session.transmit(now, &mut out.net);
            }
        }
    }
}

/// A server that the profile's way does not lead to.
fn impossible(remote: &Remote) -> Option<Cause> {
    match (&remote.via, remote.transport) {
        (Some(Via::Http { .. }), Transport::Udp) => {
            Some(Cause::HttpProxy("it carries TCP alone, and the server is called over UDP".to_owned()))
        }
        (Some(Via::Socks { .. }), Transport::Udp) => {
            Some(Cause::SocksProxy("UDP through SOCKS is not supported; use a `remote` with tcp".to_owned()))
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

/// Whether a server may have it shown to a person as the page to open.
fn is_page(url: &str) -> bool {
    url.starts_with("https://") && url.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a push that cannot be used means for the connection.
pub(super) fn push_cause(error: PushError) -> Cause {
    match error {
        PushError::Cipher { .. } => Cause::Cipher(error.to_string()),
        PushError::ProtocolFlag { .. } => Cause::PushUnsupported(error.to_string()),
        PushError::NoAddress => Cause::NoAddress,
        PushError::NotUpdatable { .. } => Cause::Restart(error.to_string()),
        PushError::Rejected { .. }
        | PushError::Broken { .. }
        | PushError::Address { .. }
        | PushError::TooLong { .. } => Cause::PushInvalid(error.to_string()),
    }
}

/// The cipher of the data channel.
fn agreed_cipher(config: &crate::Config, pushed: &Pushed, options: &str) -> Result<Cipher, String> {
    let ours = || config.data_ciphers.iter().map(|cipher| cipher.name()).collect::<Vec<_>>().join(", ");
    if let Some(cipher) = pushed.cipher {
        let allowed = config.data_ciphers.contains(&cipher) || config.fallback_cipher == Some(cipher);
        return if allowed {
            Ok(cipher)
        } else {
            Err(format!("the server chose {cipher}, we offer {}", ours()))
        };
    }
    let stated = options.split(',').find_map(|option| option.strip_prefix("cipher "));
    let theirs = stated.and_then(Cipher::from_name);
    match (theirs, config.fallback_cipher) {
        (Some(theirs), _) if config.data_ciphers.contains(&theirs) => Ok(theirs),
        (_, Some(fallback)) => Ok(fallback),
        _ => Err(format!(
            "the server negotiates none and has {}, we offer {}",
            stated.unwrap_or("an unknown one"),
            ours()
        )),
    }
}
