//! `AUTH_FAILED` in all its forms.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The longest pause that a server may ask for.
const MAX_BACKOFF: Duration = Duration::from_secs(600);

/// Why a server does not let us in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    /// User or password are wrong, or something else in the server's words.
    Refused(Option<String>),
    /// The token that stood for the password is over (`SESSION`).
    Session(Option<String>),
    /// The server cannot tell for now (`TEMP`).
    Temporary {
        /// How long to wait.
        backoff: Option<Duration>,
        /// Whom to ask then.
        advance: Advance,
        /// Its words.
        reason: Option<String>,
    },
    /// Something more is to be sent with another attempt (`CRV1`).
    Challenge(DynamicChallenge),
}

/// Which server an attempt after a temporary failure goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Advance {
    /// The same address.
    Stay,
    /// The next address of the same server.
    #[default]
    Address,
    /// The next server.
    Remote,
}

/// A question of the server whose answer takes the place of the password in another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicChallenge {
    /// An answer is wanted (`R`).
    pub response: bool,
    /// It may be shown while it is typed (`E`).
    pub echo: bool,
    /// What the server knows the question by.
    pub state: String,
    /// The user to send with the answer, where the server says.
    pub username: Option<String>,
    /// The question.
    pub text: String,
}

impl AuthFailure {
    /// Reads what stands behind `AUTH_FAILED,`.
    pub(super) fn parse(rest: Option<&str>) -> Self {
        let Some(rest) = rest.map(str::trim) else { return Self::Refused(None) };
        let words = |text: &str| {
            let text = text.trim_start_matches(':').trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        if let Some(challenge) = rest.strip_prefix("CRV1:") {
            return DynamicChallenge::parse(challenge)
                .map_or_else(|| Self::Refused(words(rest)), Self::Challenge);
        }
        // A word that only begins like a keyword is a reason.
        let keyword = |word| {
            rest.strip_prefix(word).filter(|tail| tail.is_empty() || tail.starts_with([':', '[', ',']))
        };
        if let Some(tail) = keyword("SESSION") {
            return Self::Session(words(tail));
        }
        if let Some(tail) = keyword("TEMP") {
            let parameters = tail.strip_prefix('[').and_then(|tail| tail.split_once(']'));
            let (parameters, tail) = parameters.unwrap_or(("", tail));
            let (mut backoff, mut advance) = (None, Advance::default());
            for parameter in parameters.split(',') {
                match parameter.trim().split_once(' ') {
                    Some(("backoff", seconds)) => {
                        let seconds = seconds.trim().parse().ok();
                        backoff = seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_BACKOFF));
                    }
                    Some(("advance", whom)) => {
                        advance = match whom.trim() {
                            "no" => Advance::Stay,
                            "remote" => Advance::Remote,
                            _ => Advance::Address,
                        };
                    }
                    _ => {}
                }
            }
            return Self::Temporary { backoff, advance, reason: words(tail) };
        }
        Self::Refused(words(rest))
    }
}

impl DynamicChallenge {
    /// Reads `flags:state:base64 user:text`.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(4, ':');
        let (flags, state, user, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let has = |flag| flags.split(',').any(|given| given == flag);
        let username = STANDARD.decode(user).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        Some(Self {
            response: has("R"),
            echo: has("E"),
            state: state.to_owned(),
            username: username.filter(|name| !name.is_empty()),
            text: text.to_owned(),
        })
    }

    /// The password of the attempt that carries the answer.
    pub fn password(&self, answer: &str) -> String {
        format!("CRV1::{}::{answer}", self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_quoted_and_keywords_are_not_guessed() {
        let refused = |text: &str| AuthFailure::Refused(Some(text.to_owned()));
        assert_eq!(AuthFailure::parse(None), AuthFailure::Refused(None));
        assert_eq!(AuthFailure::parse(Some("")), AuthFailure::Refused(None));
        assert_eq!(AuthFailure::parse(Some("LICENSE: over")), refused("LICENSE: over"));
        assert_eq!(AuthFailure::parse(Some("SESSIONS are full")), refused("SESSIONS are full"));
        assert_eq!(AuthFailure::parse(Some("SESSION")), AuthFailure::Session(None));
        assert_eq!(
            AuthFailure::parse(Some("SESSION:token expired")),
            AuthFailure::Session(Some("token expired".into()))
        );
    }

    #[test]
    fn temporary_failures_say_when_and_whom_to_try() {
        let temporary = |text| match AuthFailure::parse(Some(text)) {
            AuthFailure::Temporary { backoff, advance, reason } => {
                (backoff.map(|backoff| backoff.as_secs()), advance, reason.unwrap_or_default())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(temporary("TEMP"), (None, Advance::Address, String::new()));
        assert_eq!(temporary("TEMP:later"), (None, Advance::Address, "later".to_owned()));
        assert_eq!(
            temporary("TEMP[backoff 3,advance no,colour blue]:database down"),
            (Some(3), Advance::Stay, "database down".to_owned())
        );
        assert_eq!(temporary("TEMP[advance remote]"), (None, Advance::Remote, String::new()));
        assert_eq!(temporary("TEMP[backoff 99999999]").0, Some(600));
        assert_eq!(temporary("TEMP[backoff -1]").0, None);
    }

    #[test]
    fn a_dynamic_challenge_may_hold_colons_in_its_text() {
        let AuthFailure::Challenge(challenge) = AuthFailure::parse(Some("CRV1:R,E:st/ate+=:Y3I=:Code: now"))
        else {
            panic!("no challenge");
        };
        assert!(challenge.response && challenge.echo);
        assert_eq!((challenge.username.as_deref(), &challenge.text[..]), (Some("cr"), "Code: now"));
        assert_eq!(challenge.password("123"), "CRV1::st/ate+=::123");
        assert!(matches!(AuthFailure::parse(Some("CRV1:R")), AuthFailure::Refused(Some(_))));
    }
}
