//! Control messages: text inside TLS after the exchange of keys, each ended by a zero byte.

mod auth;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use auth::{Advance, AuthFailure, DynamicChallenge};

/// The longest message that is taken.
const MAX_MESSAGE: usize = 64 * 1024;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The configuration, or a part of it: the options behind `PUSH_REPLY,`.
    PushReply(String),
    /// A change of it: the options behind `PUSH_UPDATE,`.
    PushUpdate(String),
    /// The credentials are refused, or something more is wanted.
    AuthFailed(AuthFailure),
    /// Somebody has to approve; the server waits this long, where it says.
    AuthPending(Option<Duration>),
    /// What has to be done for that.
    Info(Info),
    /// Connect again.
    Restart(Ending),
    /// Go, and do not come back.
    Halt(Ending),
    /// The server ends the session.
    Exit,
    /// Anything else.
    Unknown(String),
}

/// What a person has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// Open a page (`WEB_AUTH`, `OPEN_URL`).
    Open(String),
    /// Answer a question (`CR_TEXT`), with [`challenge_response`].
    Question {
        /// Whether the answer may be shown while it is typed.
        echo: bool,
        /// Whether an answer is wanted at all.
        response: bool,
        /// The question.
        text: String,
    },
    /// Anything else.
    Other(String),
}

/// How a server ends a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The password and the token stay valid (`P`).
    pub keep_credentials: bool,
    /// The next server is to be tried (`N`).
    pub next_remote: bool,
    /// Words for people.
    pub text: String,
}

/// Cuts a stream of TLS into messages.
#[derive(Debug, Default)]
pub struct Splitter {
    partial: Vec<u8>,
    /// A message that was too long is being skipped.
    skipping: bool,
}

impl Splitter {
    /// Takes bytes and hands out every message that they complete; messages above 64 KiB are left out.
    pub fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(Message)) {
        while let Some(at) = bytes.iter().position(|byte| *byte == 0) {
            let (head, tail) = bytes.split_at(at);
            self.keep(head);
            if !std::mem::take(&mut self.skipping) {
                let text = printable(&self.partial);
                let text = text.trim_matches(['\r', '\n']);
                if !text.is_empty() {
                    take(Message::parse(text));
                }
            }
            self.partial.clear();
            bytes = tail.split_first().map_or(&[], |(_, rest)| rest);
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.partial.len() + bytes.len() > MAX_MESSAGE {
            self.skipping = true;
        }
        if self.skipping {
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }
}

/// Text for people and logs: what would move a terminal's cursor is replaced.
fn printable(bytes: &[u8]) -> String {
    let plain = |c: char| !c.is_control() || matches!(c, '\t' | '\r' | '\n');
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if plain(c) { c } else { char::REPLACEMENT_CHARACTER })
        .collect()
}

impl Message {
    /// Reads a message.
    pub fn parse(text: &str) -> Self {
        let (word, rest) = match text.split_once(',') {
            Some((word, rest)) => (word, Some(rest)),
            None => (text, None),
        };
        let some = || rest.unwrap_or_default().to_owned();
        match word {
            "PUSH_REPLY" => Self::PushReply(some()),
            "PUSH_UPDATE" => Self::PushUpdate(some()),
            "AUTH_FAILED" => Self::AuthFailed(AuthFailure::parse(rest)),
            "AUTH_PENDING" => Self::AuthPending(pending_timeout(rest.unwrap_or_default())),
            "INFO_PRE" | "INFO" => Self::Info(Info::parse(rest.unwrap_or_default())),
            "RESTART" => Self::Restart(Ending::parse(rest.unwrap_or_default())),
            "HALT" => Self::Halt(Ending::parse(rest.unwrap_or_default())),
            "EXIT" => Self::Exit,
            _ => Self::Unknown(text.to_owned()),
        }
    }
}

/// `timeout n` among keywords, of which unknown ones are passed over.
fn pending_timeout(text: &str) -> Option<Duration> {
    text.split(',')
        .find_map(|keyword| keyword.trim().strip_prefix("timeout "))
        .and_then(|seconds| seconds.trim().parse().ok())
        .map(Duration::from_secs)
}

impl Info {
    fn parse(text: &str) -> Self {
        let (word, rest) = text.split_once(':').unwrap_or((text, ""));
        match word {
            "OPEN_URL" => Self::Open(rest.to_owned()),
            "WEB_AUTH" => {
                let (_flags, url) = rest.split_once(':').unwrap_or(("", rest));
                Self::Open(url.to_owned())
            }
            "CR_TEXT" => {
                let (flags, text) = rest.split_once(':').unwrap_or(("", rest));
                let has = |flag| flags.split(',').any(|given| given == flag);
                Self::Question { echo: has("E"), response: has("R"), text: text.to_owned() }
            }
            _ => Self::Other(text.to_owned()),
        }
    }
}

impl Ending {
    /// Reads `[flags]text`.
    fn parse(text: &str) -> Self {
        let flagged = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (flags, text) = flagged.unwrap_or(("", text));
        Self {
            keep_credentials: flags.contains('P'),
            next_remote: flags.contains('N'),
            text: text.trim_start_matches(':').trim().to_owned(),
        }
    }
}

/// The control message that answers [`Info::Question`], with its terminator.
pub fn challenge_response(answer: &str) -> Vec<u8> {
    let mut message = format!("CR_RESPONSE,{}", STANDARD.encode(answer)).into_bytes();
    message.push(0);
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_cut_at_zero_bytes_wherever_the_stream_is() {
        let stream = b"AUTH_PENDING,timeout 300\0INFO_PRE,OPEN_URL:https://x/?a=1:2\r\n\0\0EXIT\0RESTART";
        let expected = [
            Message::AuthPending(Some(Duration::from_secs(300))),
            Message::Info(Info::Open("https://x/?a=1:2".to_owned())),
            Message::Exit,
        ];
        for cut in 0..=stream.len() {
            let (head, tail) = stream.split_at(cut);
            let (mut splitter, mut seen) = (Splitter::default(), Vec::new());
            splitter.push(head, |message| seen.push(message));
            splitter.push(tail, |message| seen.push(message));
            assert_eq!(seen, expected, "cut at {cut}");
        }
    }

    #[test]
    fn control_characters_of_a_message_reach_nobody() {
        let mut seen = Vec::new();
        Splitter::default().push(b"HALT,\x1b[2Jgone\x07\0", |message| seen.push(message));
        let text = "\u{fffd}[2Jgone\u{fffd}".to_owned();
        assert_eq!(seen, [Message::Halt(Ending { text, ..Ending::default() })]);
    }

    #[test]
    fn a_message_that_never_ends_takes_no_memory_and_the_next_one_is_read() {
        let mut splitter = Splitter::default();
        for _ in 0..100 {
            splitter.push(&[b'A'; 1000], |_| panic!("not a message"));
        }
        assert_eq!(splitter.partial.capacity(), 0);
        let mut seen = Vec::new();
        splitter.push(b"A\0EXIT\0", |message| seen.push(message));
        assert_eq!(seen, [Message::Exit]);
    }

    #[test]
    fn the_dialects_of_pending_authentication_are_read() {
        let info = |text: &str| match Message::parse(text) {
            Message::Info(info) => info,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            info("INFO_PRE,WEB_AUTH:hidden,external:https://idp/x"),
            Info::Open("https://idp/x".to_owned())
        );
        assert_eq!(info("INFO_PRE,WEB_AUTH::https://idp/x"), Info::Open("https://idp/x".to_owned()));
        assert_eq!(
            info("INFO_PRE,CR_TEXT:E,R:Your code: now"),
            Info::Question { echo: true, response: true, text: "Your code: now".to_owned() }
        );
        assert_eq!(Message::parse("AUTH_PENDING"), Message::AuthPending(None));
        assert_eq!(Message::parse("AUTH_PENDING,new 1,timeout x"), Message::AuthPending(None));
        assert_eq!(challenge_response("123456"), b"CR_RESPONSE,MTIzNDU2\0");
    }

    #[test]
    fn endings_carry_flags_and_words() {
        let ending = |text: &str| match Message::parse(text) {
            Message::Restart(ending) | Message::Halt(ending) => ending,
            other => panic!("{other:?}"),
        };
        assert_eq!(ending("RESTART"), Ending::default());
        let both = ending("RESTART,[P,N]maintenance");
        assert!(both.keep_credentials && both.next_remote && both.text == "maintenance");
        assert!(ending("HALT,[P]:bye").keep_credentials);
        assert_eq!(ending("HALT,client was disconnected").text, "client was disconnected");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(
            word in prop_oneof!["AUTH_FAILED", "INFO_PRE", "AUTH_PENDING", "RESTART", "HALT", ".*"],
            rest in "[\\[\\]:,A-Za-z0-9 ]{0,60}",
        ) {
            let _ = Message::parse(&format!("{word},{rest}"));
        }
    }
}
