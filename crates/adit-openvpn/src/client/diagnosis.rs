//! What is known and what is likely about an attempt that waits or has failed.

use std::time::Instant;

use super::OpenVpn;
use super::attempt::{Attempt, Step};
use crate::Wrap;
use crate::error::Cause;
use crate::session::{Session, Stage};

/// A packet that was sent so often and is not acknowledged was not lost by chance.
const CERTAIN: u32 = 4;

impl OpenVpn {
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
            "a server that does not accept our certificate says nothing over UDP, and before version 2.7 nothing at all"
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
    pub(super) fn suspicion(&self, attempt: &Attempt) -> Option<Cause> {
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
    pub(super) fn stalled(&self, session: &Session, stage: Stage) -> Cause {
        // A server that wants a user drops a message without one and says nothing. With TLS 1.3, one that does not
        // accept our certificate looks the same from here.
        if stage == Stage::Exchange && session.is_tls_12() && !self.wallet.has_credentials() {
            return Cause::CredentialsMissing;
        }
        // The first packets passed in both directions, and ours is not large. A server that fails at it does not even
        // acknowledge it.
        let unheard = session.tls_description().is_none() && session.repeated() >= CERTAIN;
        if stage == Stage::Handshake && unheard {
            // The second packet has the wrapped key with it, and only then the server asks its own rules about it.
            return if session.wrapped_key_was_wanted() {
                Cause::WrappedKeyRefused
            } else {
                Cause::TlsRefused
            };
        }
        Cause::TlsTimeout(stage)
    }

    /// What it means that the server ends a stream before the configuration has come.
    pub(super) fn ended_at(&self, session: &Session) -> Cause {
        match session.stage() {
            // A stream needs no reset without state: what follows the connection is the wrapped key.
            Stage::Calling if session.has_wrapped_key() => Cause::WrappedKeyRefused,
            Stage::Calling => Cause::Closed,
            stage => match self.stalled(session, stage) {
                Cause::CredentialsMissing => Cause::CredentialsMissing,
                _ => Cause::Ended { stage, hello: session.tls_description().is_some() },
            },
        }
    }
}
