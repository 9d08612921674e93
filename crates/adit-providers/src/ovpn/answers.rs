//! Who answers the questions of a server that stand beside the password.

use std::time::Duration;

use zeroize::Zeroizing;

use super::totp::Totp;
use crate::source::run;
use crate::{Problem, Secret};

/// The variable that holds the question while a command answers it.
const QUESTION: &str = "ADIT_QUESTION";

/// Where answers come from.
#[derive(Debug, Default)]
pub enum Answers {
    /// From nobody: a person has to.
    #[default]
    Nobody,
    /// Always the same.
    Fixed(Secret),
    /// A shell command, each time anew; it finds the question in `ADIT_QUESTION` and prints the answer.
    Command(String),
    /// One-time codes by time.
    Totp(Totp),
    /// Whoever sits there.
    Person(Ask),
}

/// Asks a person; the second argument tells whether the answer may be shown. Blocks until there is one.
pub type Ask = fn(&str, bool) -> std::io::Result<Zeroizing<String>>;

impl Answers {
    /// The answer to a question; `echo` tells whether it may be shown while it is typed, and `unix` is the time since 1970-01-01T00:00:00Z. `None` if there is nobody to answer.
    /// A command blocks until it has ended.
    ///
    /// # Errors
    ///
    /// The command fails, or what it says is no text.
    pub fn answer(
        &self,
        question: &str,
        echo: bool,
        unix: Duration,
    ) -> Result<Option<Zeroizing<String>>, Problem> {
        let text = |secret: &Secret| secret.expose_text().map(|text| Zeroizing::new(text.to_owned()));
        match self {
            Self::Nobody => Ok(None),
            Self::Fixed(secret) => Ok(text(secret)),
            Self::Totp(totp) => Ok(Some(totp.code(unix))),
            Self::Person(ask) => ask(question, echo).map(Some).map_err(|error| {
                Problem::new("ovpn.auth.challenge", "nobody answered the server's question")
                    .seen(error.to_string())
            }),
            Self::Command(command) => {
                let secret = run(command, &[(QUESTION, question)], "the answer to the server's question")?;
                text(&secret).filter(|answer| !answer.is_empty()).map(Some).ok_or_else(|| {
                    Problem::new(
                        "credential.missing",
                        "the command printed no answer to the server's question",
                    )
                    .fix("run the command by itself and see what it prints")
                })
            }
        }
    }

    /// Whether the answer is the same each time, so that it can be given before it is asked for.
    pub fn fixed(&self) -> Option<&Secret> {
        match self {
            Self::Fixed(secret) => Some(secret),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_sees_the_question_and_prints_the_answer() {
        let answers = Answers::Command("printf '%s!\n' \"$ADIT_QUESTION\"".to_owned());
        assert_eq!(
            answers.answer("Enter $(PIN)", true, Duration::ZERO).unwrap().unwrap().as_str(),
            "Enter $(PIN)!"
        );
        let silent = Answers::Command("true".to_owned()).answer("PIN", true, Duration::ZERO).unwrap_err();
        assert_eq!(silent.class, "credential.missing");
        assert!(Answers::Command("exit 3".to_owned()).answer("PIN", true, Duration::ZERO).is_err());
        assert!(Answers::Nobody.answer("PIN", true, Duration::ZERO).unwrap().is_none());
        let fixed = Answers::Fixed(Secret::new(b"1234\n".to_vec()));
        assert_eq!(fixed.answer("PIN", true, Duration::ZERO).unwrap().unwrap().as_str(), "1234");
    }
}
