//! What is sent as user and password: credentials, tokens that stand for them, and answers to questions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::message::DynamicChallenge;
use crate::{Challenge, Credentials};

/// User and password of one attempt.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: Zeroizing<String>,
}

/// A question that must be answered before the next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) text: String,
    pub(crate) echo: bool,
}

/// What an `AUTH_FAILED` means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A token was refused; the password is tried, once.
    TryPassword,
    /// The password was refused: it is not tried again.
    Final,
}

/// Keeps what there is to log in with.
pub(crate) struct Wallet {
    credentials: Option<Credentials>,
    /// The password is forgotten once a token stands for it.
    forget: bool,
    question: Option<Challenge>,
    /// The answer to the static challenge, good for one attempt.
    answer: Option<Zeroizing<String>>,
    token: Option<Login>,
    /// A challenge of the server, and its answer.
    dynamic: Option<(DynamicChallenge, Option<Zeroizing<String>>)>,
    /// The last attempt used the token.
    used_token: bool,
}

impl Wallet {
    pub(crate) fn new(credentials: Option<Credentials>, question: Option<Challenge>, forget: bool) -> Self {
        let answer = question.as_ref().and_then(|question| question.answer.clone());
        Self { credentials, forget, question, answer, token: None, dynamic: None, used_token: false }
    }

    /// What must be asked before the next attempt.
    pub(crate) fn question(&self) -> Option<Question> {
        if let Some((challenge, answer)) = &self.dynamic {
            let wanted = challenge.response && answer.is_none();
            return wanted.then(|| Question { text: challenge.text.clone(), echo: challenge.echo });
        }
        if self.token.is_some() {
            return None;
        }
        if let Some(credentials) = &self.credentials
            && credentials.password.is_empty()
            && self.forget
        {
            return Some(Question { text: format!("Password of {}", credentials.username), echo: false });
        }
        let question = self.question.as_ref().filter(|_| self.answer.is_none())?;
        Some(Question { text: question.text.clone(), echo: question.echo })
    }

    /// The answer to [`question`](Self::question).
    pub(crate) fn answer(&mut self, text: &str) {
        let text = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
        if let Some((_, answer)) = &mut self.dynamic {
            *answer = Some(text);
        } else if let Some(credentials) = &mut self.credentials
            && credentials.password.is_empty()
            && self.forget
        {
            credentials.password = text;
        } else {
            self.answer = Some(text);
        }
    }

    /// User and password for an attempt; the answers in it are used up.
    pub(crate) fn login(&mut self) -> Login {
        self.used_token = false;
        if let Some((challenge, answer)) = self.dynamic.take() {
            let known = self.credentials.as_ref().map(|credentials| credentials.username.clone());
            let username = challenge.username.clone().or(known).unwrap_or_default();
            let answer = answer.unwrap_or_default();
            return Login { username, password: Zeroizing::new(challenge.password(&answer)) };
        }
        if let Some(token) = &self.token {
            self.used_token = true;
            return token.clone();
        }
        let Some(Credentials { username, password }) = self.credentials.clone() else {
            return Login { username: String::new(), password: Zeroizing::default() };
        };
        let password = match (&self.question, self.answer.take()) {
            (Some(question), Some(answer)) if question.concat => {
                Zeroizing::new(format!("{}{}", *password, *answer))
            }
            (Some(_), Some(answer)) => {
                let encode = |text: &str| STANDARD.encode(text);
                Zeroizing::new(format!("SCRV1:{}:{}", encode(&password), encode(&answer)))
            }
            _ => password,
        };
        Login { username, password }
    }

    /// The server gave a token. `username` goes with it, where it says.
    pub(crate) fn set_token(&mut self, username: Option<String>, token: &str) -> Login {
        let known = || self.credentials.as_ref().map(|credentials| credentials.username.clone());
        let login = Login {
            username: username.or_else(known).unwrap_or_default(),
            password: Zeroizing::new(token.to_owned()),
        };
        self.token = Some(login.clone());
        if self.forget
            && let Some(credentials) = &mut self.credentials
        {
            credentials.password = Zeroizing::default();
        }
        login
    }

    /// The server wants something more with the next attempt.
    pub(crate) fn challenged(&mut self, challenge: DynamicChallenge) {
        self.dynamic = Some((challenge, None));
    }

    /// The server refused the last attempt.
    pub(crate) fn refused(&mut self) -> Refusal {
        self.dynamic = None;
        let had_token = self.token.take().is_some();
        let has_password = self.credentials.is_some();
        if had_token && self.used_token && has_password { Refusal::TryPassword } else { Refusal::Final }
    }

    /// A renegotiation sends the token from now on, so a refusal concerns it.
    pub(crate) fn token_in_use(&mut self) {
        self.used_token = self.token.is_some();
    }

    /// The server said that the token is over.
    pub(crate) fn purge(&mut self) {
        self.token = None;
    }

    /// Whether there is anything to log in with beside a certificate.
    pub(crate) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet")
            .field("credentials", &self.credentials)
            .field("token", &self.token.is_some())
            .field("challenged", &self.dynamic.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials { username: "alice".into(), password: Zeroizing::new("secret".into()) }
    }

    fn static_challenge(concat: bool) -> Challenge {
        Challenge { text: "Code".into(), echo: true, concat, answer: Some(Zeroizing::new("123".into())) }
    }

    fn sent(wallet: &mut Wallet) -> (String, String) {
        let Login { username, password } = wallet.login();
        (username, password.to_string())
    }

    #[test]
    fn a_static_challenge_goes_with_the_password_once() {
        for (concat, expected) in [(true, "secret123"), (false, "SCRV1:c2VjcmV0:MTIz")] {
            let mut wallet = Wallet::new(Some(credentials()), Some(static_challenge(concat)), false);
            assert_eq!(wallet.question(), None);
            assert_eq!(sent(&mut wallet), ("alice".into(), expected.into()));
            assert_eq!(
                wallet.question(),
                Some(Question { text: "Code".into(), echo: true }),
                "a code is used up"
            );
            wallet.answer("456\n");
            assert_eq!(wallet.question(), None);
            assert!(sent(&mut wallet).1.ends_with(if concat { "456" } else { "NDU2" }));
        }
    }

    #[test]
    fn a_token_takes_the_place_of_the_password_until_it_is_refused() {
        let mut wallet = Wallet::new(Some(credentials()), None, false);
        sent(&mut wallet);
        wallet.set_token(Some("token-user".into()), "SESS");
        assert_eq!(sent(&mut wallet), ("token-user".into(), "SESS".into()));
        assert_eq!(wallet.refused(), Refusal::TryPassword);
        assert_eq!(sent(&mut wallet), ("alice".into(), "secret".into()));
        assert_eq!(wallet.refused(), Refusal::Final, "a wrong password is tried once");
    }

    #[test]
    fn a_dynamic_challenge_replaces_user_and_password_for_one_attempt() {
        let mut wallet = Wallet::new(Some(credentials()), None, false);
        let challenge = DynamicChallenge {
            response: true,
            echo: false,
            state: "st".into(),
            username: Some("cr".into()),
            text: "Code".into(),
        };
        wallet.challenged(challenge.clone());
        assert_eq!(wallet.question(), Some(Question { text: "Code".into(), echo: false }));
        wallet.answer("99");
        assert_eq!((wallet.question(), sent(&mut wallet)), (None, ("cr".into(), "CRV1::st::99".into())));
        assert_eq!(sent(&mut wallet), ("alice".into(), "secret".into()));
        wallet.challenged(DynamicChallenge { response: false, username: None, ..challenge });
        assert_eq!((wallet.question(), sent(&mut wallet)), (None, ("alice".into(), "CRV1::st::".into())));
    }

    #[test]
    fn a_password_that_is_not_to_be_kept_is_asked_for_when_its_token_is_over() {
        let mut wallet = Wallet::new(Some(credentials()), None, true);
        assert_eq!((wallet.question(), sent(&mut wallet).1), (None, "secret".into()));
        wallet.set_token(None, "SESS");
        assert_eq!((wallet.question(), sent(&mut wallet)), (None, ("alice".into(), "SESS".into())));
        assert_eq!(wallet.refused(), Refusal::TryPassword);
        assert_eq!(wallet.question(), Some(Question { text: "Password of alice".into(), echo: false }));
        wallet.answer("again");
        assert_eq!(sent(&mut wallet).1, "again");
    }
}
