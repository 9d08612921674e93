//! What an attempt and the server say to each other once keys are exchanged: logins, questions, the configuration.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_tunnel::{Event, NetConfig, Outbox, Prompt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::OpenVpn;
use super::attempt::{Attempt, Step};
use super::connecting::Ending;
use super::remotes::{Next, State};
use super::up::{Keepalive, Up};
use crate::auth::Refusal;
use crate::data::{Channel, Shape, Suite};
use crate::error::Cause;
use crate::message::{Advance, AuthFailure, Info, Message, challenge_response};
use crate::push::{Ground, Progress, PushError, Pushed};
use crate::session::{Negotiated, NegotiationError, Report};
use crate::{Algorithm, Cipher, Compression};

/// A server waits for an approval for at most this long.
const MAX_PENDING: Duration = Duration::from_secs(3600);
/// `ping-restart` where neither profile nor server say anything.
const PING_RESTART: Duration = Duration::from_secs(120);

impl OpenVpn {
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
        let compression = pushed.compression.unwrap_or(remote.compression);
        if let Some(cause) = other_digest(suite, &wait.options) {
            return Some(Ending::of(cause));
        }
        let frames = frames(pushed, compression, &wait.options);
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
            compression,
            fragment: remote.fragment,
            mssfix: remote.mssfix,
            tun_mtu: net.mtu,
            envelope: 0,
        };
        let (ping, restart) = pings(pushed, &self.config);
        let keepalive = Keepalive {
            ping,
            restart,
            exit: pushed.ping_exit.or(self.config.ping_exit),
            inactive: pushed.inactive.or(self.config.inactive),
            session: pushed.session_timeout.or(self.config.session_timeout),
        };
        let (exit_in_tls, exit_notify) =
            (pushed.flags.cc_exit, pushed.exit_notify.unwrap_or(remote.exit_notify));
        let step = std::mem::replace(&mut attempt.step, Step::Opening);
        let Step::Session(session, wait) = step else { return None };
        let channel = match &session.carrier().envelope {
            Some(envelope) => Channel::through(shape, Arc::clone(envelope)),
            None => Channel::new(shape),
        };
        let mut up = Up::new(now, *session, channel, wait.pull, attempt.remote, keepalive);
        up.relay = attempt.relay;
        up.doubtful_framing = frames;
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

    /// Logs what a push has that people should know, and keeps what was refused.
    pub(super) fn tell_notices(&mut self) {
        let Some(up) = &mut self.up else { return };
        for notice in up.pull.take_notices() {
            if notice.kind.is_refusal() {
                tracing::warn!("{notice}");
                up.refusals.add(notice);
            } else {
                tracing::info!("{notice}");
            }
        }
    }

    /// Tells the other end its addresses, routes and DNS, if they are new.
    pub(super) fn publish(&mut self, net: NetConfig) {
        if self.net.as_ref() != Some(&net) {
            self.net = Some(net.clone());
            self.events.push_back(Event::Configured(net));
        }
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

/// Whether a server may have it shown to a person as the page to open.
fn is_page(url: &str) -> bool {
    url.starts_with("https://") && url.bytes().all(|byte| byte.is_ascii_graphic())
}

/// How often we ping, and the silence after which the connection is made anew.
pub(super) fn pings(pushed: &Pushed, config: &crate::Config) -> (Option<Duration>, Option<Duration>) {
    let restart = pushed.ping_restart.or(config.ping_restart).or(Some(PING_RESTART));
    (pushed.ping.or(config.ping), restart)
}

/// What a push that cannot be used means for the connection.
pub(super) fn push_cause(error: PushError) -> Cause {
    match error {
        PushError::Cipher { .. } => Cause::Cipher(error.to_string()),
        PushError::ProtocolFlag { .. } => Cause::PushUnsupported(error.to_string()),
        PushError::NoAddress => Cause::NoAddress,
        PushError::NotUpdatable { .. } => Cause::Restart(error.to_string()),
        PushError::Address { ground: Ground::Protected(_), .. } => Cause::AddressClash(error.to_string()),
        PushError::Rejected { .. }
        | PushError::Broken { .. }
        | PushError::Address { .. }
        | PushError::TooLong { .. } => Cause::PushInvalid(error.to_string()),
    }
}

/// What the server's options string says about itself. One of another make may state what it was told, or nothing.
fn stated(theirs: &str) -> impl Iterator<Item = &str> {
    let is_known = theirs.starts_with('V');
    theirs.split(',').filter(move |_| is_known)
}

/// Whether the server says that it frames packets, and we were not told to. `compress stub-v2` says so too, where it
/// makes no difference.
fn frames(pushed: &Pushed, ours: Compression, theirs: &str) -> bool {
    let told = pushed.compression.is_some() || ours != Compression::None;
    !told && stated(theirs).any(|option| option == "comp-lzo")
}

/// Whether the server authenticates packets with another digest than we do: none would pass.
fn other_digest(suite: Suite, theirs: &str) -> Option<Cause> {
    let digest = stated(theirs).find_map(|option| option.strip_prefix("auth "))?;
    let is = |one: Algorithm| digest.eq_ignore_ascii_case(one.name());
    let differs = !suite.cipher.is_aead() && Algorithm::ALL.into_iter().any(is) && !is(suite.auth);
    differs.then(|| Cause::Digest { ours: suite.auth.name(), theirs: digest.to_owned() })
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
