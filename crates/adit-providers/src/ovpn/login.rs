//! User and password, and questions beside them.

use adit_openvpn::{Challenge, Credentials};
use zeroize::Zeroizing;

use super::lex::Directive;
use super::read::{Content, Reading, shown};
use crate::{Problem, Secret, placeholder};

/// What a profile says about logging in.
#[derive(Debug, Default)]
pub(super) struct Login {
    /// `auth-user-pass` stands in the profile.
    pub(super) wanted: bool,
    /// What the profile itself gives.
    pub(super) found: Option<UserPass>,
    pub(super) challenge: Option<Challenge>,
    pub(super) nocache: bool,
    pub(super) federate: bool,
    pub(super) push_peer_info: bool,
    pub(super) peer_info: Vec<(String, String)>,
    /// `setenv CLIENT_CERT 0`: the server wants no certificate.
    pub(super) no_certificate: bool,
    pub(super) friendly: Option<String>,
    /// `setenv GENERIC_CONFIG`: a profile of Access Server for all of its users.
    pub(super) generic: bool,
}

/// The two lines of a file for `auth-user-pass`; the second may be missing.
#[derive(Clone)]
pub struct UserPass {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for UserPass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserPass")
            .field("username", &self.username)
            .field("password", &self.password.is_some())
            .finish()
    }
}

impl UserPass {
    /// Reads two lines, user and password. Line ends and the spaces before them are no part of a user name; of the
    /// password only the line end is not.
    ///
    /// # Errors
    ///
    /// It is empty, not UTF-8, or a placeholder.
    pub fn parse(secret: &Secret) -> Result<Self, Problem> {
        let bad = |why: &str| {
            Problem::new("ovpn.creds.missing", format!("user and password cannot be read: {why}"))
                .fix("write two lines: the user name, then the password")
        };
        let text = std::str::from_utf8(secret.expose()).map_err(|_| bad("they are not UTF-8"))?;
        let mut lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
        let username = lines.next().unwrap_or("").trim();
        if username.is_empty() {
            return Err(bad("the first line is empty"));
        }
        let password = lines.next().map(|line| line.strip_suffix('\r').unwrap_or(line));
        let password = password.filter(|line| !line.is_empty());
        for value in std::iter::once(username).chain(password) {
            // Passwords may hold anything; only what is nothing but a template is one.
            if let Some(found) = placeholder(value).filter(|found| found.len() == value.len()) {
                return Err(Problem::new(
                    "credential.placeholder",
                    format!("user and password hold the placeholder `{}`", shown(found)),
                )
                .fix(
                    "the template was not filled in: check the name of the secret and where it is available",
                ));
            }
        }
        Ok(Self {
            username: username.to_owned(),
            password: password.map(|password| Zeroizing::new(password.to_owned())),
        })
    }

    /// Both, where there are both.
    pub fn complete(self) -> Option<Credentials> {
        Some(Credentials { username: self.username, password: self.password? })
    }
}

/// The user and password of a proxy.
pub(super) fn of_proxy(at: &Directive, content: &Content, reading: &mut Reading<'_>) -> Option<Credentials> {
    match UserPass::parse(&content.bytes) {
        Ok(UserPass { username, password }) => {
            Some(Credentials { username, password: password.unwrap_or_default() })
        }
        Err(problem) => {
            reading.problems.push(at.problem(None, problem));
            None
        }
    }
}

impl Login {
    /// Takes a directive, if it is about logging in.
    pub(super) fn apply(&mut self, at: &Directive, reading: &mut Reading<'_>) -> bool {
        match at.name.text.as_str() {
            "auth-user-pass" => self.user_pass(at, reading),
            "auth-retry" => match at.arg(0) {
                Some("none" | "nointeract" | "interact") => {}
                _ => reading.wrong(
                    at,
                    Some(0),
                    "auth-retry is none, nointeract or interact",
                    "delete the line",
                ),
            },
            "static-challenge" => self.challenge(at, reading),
            "auth-nocache" => self.nocache = true,
            "auth-federate" => self.federate = true,
            "push-peer-info" => self.push_peer_info = true,
            "setenv" => self.setenv(at, reading),
            _ => return false,
        }
        true
    }

    fn user_pass(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        self.wanted = true;
        if at.block.is_none() && matches!(at.arg(0), None | Some("stdin" | "[inline]")) {
            return;
        }
        let before = reading.problems.len();
        let Some(content) = reading.content(at, 0, "user and password", true) else {
            // Others may give them: --auth-user-pass. A file that is not there is no reason to stop.
            for problem in reading.problems.split_off(before) {
                match problem.class {
                    "ovpn.file.missing" => {
                        reading.warnings.push(Problem { class: "ovpn.config.odd", ..problem })
                    }
                    _ => reading.problems.push(problem),
                }
            }
            return;
        };
        match UserPass::parse(&content.bytes) {
            Ok(found) => self.found = Some(found),
            Err(_) if content.bytes.is_blank() => {}
            Err(problem) => reading.problems.push(at.problem(None, problem)),
        }
    }

    fn challenge(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let echo = match at.arg(1) {
            Some("0") => false,
            Some("1") => true,
            _ => {
                return reading.wrong(
                    at,
                    Some(1),
                    "the echo of a question is 0 or 1",
                    "write static-challenge \"TEXT\" 1",
                );
            }
        };
        let concat = match at.arg(2) {
            None | Some("scrv1") => false,
            Some("concat") => true,
            Some(_) => {
                return reading.wrong(
                    at,
                    Some(2),
                    "the form of an answer is scrv1 or concat",
                    "delete the word",
                );
            }
        };
        let text = at.arg(0).unwrap_or("").chars().filter(|c| !c.is_control()).take(512).collect();
        self.challenge = Some(Challenge { text, echo, concat, answer: None });
    }

    fn setenv(&mut self, at: &Directive, reading: &mut Reading<'_>) {
        let (name, value) = (at.arg(0).unwrap_or(""), at.arg(1).unwrap_or(""));
        match name {
            "opt" | "FORWARD_COMPATIBLE" => {}
            "GENERIC_CONFIG" => self.generic = true,
            "CLIENT_CERT" => self.no_certificate = value == "0",
            "PUSH_PEER_INFO" => self.push_peer_info = true,
            "FRIENDLY_NAME" => self.friendly = Some(shown(value)),
            _ if name.starts_with("UV_") || name == "IV_GUI_VER" => {
                let fits = name.len() <= 64
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                    && value.len() <= 512
                    && !value.chars().any(char::is_control);
                if fits && self.peer_info.len() < 64 {
                    self.peer_info.push((name.to_owned(), value.to_owned()));
                } else {
                    reading.wrong(
                        at,
                        Some(0),
                        "this cannot be sent as peer information",
                        "shorten it, or delete the line",
                    );
                }
            }
            _ if name.starts_with("OVPN_ACCESS_SERVER_") => {
                reading.metadata.push(format!("{name}={}", shown(value)));
            }
            _ => reading.not_done(at, "it is for scripts, which are never run"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<UserPass, Problem> {
        UserPass::parse(&Secret::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn two_lines_are_user_and_password_and_one_is_the_user() {
        for (text, user, password) in [
            ("alice\nhunter2\n", "alice", Some("hunter2")),
            ("alice \r\nhunter2\r\n", "alice", Some("hunter2")),
            ("\u{feff}alice\n pass word ", "alice", Some(" pass word ")),
            ("alice\npa$$\nmore\n", "alice", Some("pa$$")),
            ("alice", "alice", None),
            ("alice\n\n", "alice", None),
        ] {
            let found = parse(text).unwrap();
            let said = found.password.as_ref().map(|password| password.as_str());
            assert_eq!((found.username.as_str(), said), (user, password), "{text:?}");
            assert!(!format!("{found:?}").contains("hunter2"));
        }
        for (text, class) in [
            ("", "ovpn.creds.missing"),
            ("\nhunter2", "ovpn.creds.missing"),
            ("$USER\nx", "credential.placeholder"),
            ("alice\n{{ secrets.PASSWORD }}", "credential.placeholder"),
        ] {
            assert_eq!(parse(text).unwrap_err().class, class, "{text:?}");
        }
    }
}
