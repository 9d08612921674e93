//! What is spoken behind a port: the checks of the `tls` and `app` stages. None needs a credential.

mod banner;
mod dns;
mod http;
mod postgres;
mod tls;

use std::io;
use std::time::Duration;

use adit_path::Destination;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

pub use dns::question as dns_question;
pub(crate) use dns::{DnsReply, read_answer};
pub use tls::Trust;
pub(crate) use tls::connect as connect_tls;

use crate::catalogue::Words;
use crate::dialer::Stream;
use crate::{Check, Context, Failure, Stage};

/// What a check observed.
pub(crate) type Evidence = Map<String, Value>;

/// How many bytes of an unexpected answer are shown.
const SHOWN: usize = 80;

/// The largest answer that a check reads.
const MAX_ANSWER: usize = 16 * 1024;

/// Asks whether the protocol of `check` is spoken on `stream`.
pub(crate) async fn check(
    check: Check,
    stream: &mut dyn Stream,
    context: &Context,
    limit: Duration,
) -> Result<Evidence, Failure> {
    let wire = Wire { protocol: check.protocol(), context, limit };
    let work = async {
        match check {
            Check::Postgres => postgres::check(stream, &wire).await,
            Check::MySql => banner::mysql(stream, &wire).await,
            Check::Ssh => banner::ssh(stream, &wire).await,
            Check::Smtp => banner::smtp(stream, &wire).await,
            Check::Redis => banner::redis(stream, &wire).await,
            // The handshake is the `tls` stage; there is nothing more to ask.
            Check::Tls => Ok(Evidence::new()),
        }
    };
    timeout(limit, work).await.unwrap_or_else(|_| Err(wire.silent()))
}

/// Asks for `path` over HTTP/1.1.
pub(crate) async fn check_http(
    stream: &mut dyn Stream,
    host: &Destination,
    port: u16,
    path: &str,
    status: &std::ops::RangeInclusive<u16>,
    context: &Context,
    limit: Duration,
) -> Result<Evidence, Failure> {
    let wire = Wire { protocol: "HTTP", context, limit };
    let request = http::Request { host, port, path, status };
    timeout(limit, http::check(stream, &request, &wire)).await.unwrap_or_else(|_| Err(wire.silent()))
}

/// What the checks share: reading with limits, and the failures in the words of one protocol.
struct Wire<'a> {
    protocol: &'static str,
    context: &'a Context,
    limit: Duration,
}

impl Wire<'_> {
    async fn send(&self, stream: &mut dyn Stream, bytes: &[u8]) -> Result<(), Failure> {
        stream.write_all(bytes).await.map_err(|error| self.broken(&error))?;
        stream.flush().await.map_err(|error| self.broken(&error))
    }

    /// Reads until `enough` is content; end of stream before that is `app.closed`.
    async fn receive(
        &self,
        stream: &mut dyn Stream,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, Failure> {
        let mut answer = Vec::new();
        while !enough(&answer) && answer.len() < MAX_ANSWER {
            let mut chunk = [0; 2048];
            let read = stream.read(&mut chunk).await.map_err(|error| self.broken(&error))?;
            if read == 0 {
                return Err(if answer.is_empty() { self.closed() } else { self.unexpected(&answer) });
            }
            answer.extend_from_slice(&chunk[..read]);
        }
        Ok(answer)
    }

    /// What else arrives soon: an answer of one byte is only that if nothing follows.
    async fn linger(&self, stream: &mut dyn Stream, answer: &mut Vec<u8>) {
        let mut chunk = [0; SHOWN];
        if let Ok(Ok(read)) = timeout(Duration::from_millis(50), stream.read(&mut chunk)).await {
            answer.extend_from_slice(&chunk[..read]);
        }
    }

    fn words(&self) -> Words {
        self.context.words.clone().with("protocol", self.protocol)
    }

    fn failure(&self, class: &str) -> Failure {
        Failure::of(class, &self.words()).at(Stage::App)
    }

    fn unexpected(&self, answer: &[u8]) -> Failure {
        let mut failure =
            self.failure("app.protocol").seen(format!("the answer begins with {}", show(answer)));
        if let Some(protocol) = guess(answer) {
            failure = failure.seen(format!("that looks like {protocol}"));
        }
        failure
    }

    fn rejected(&self, reason: &str) -> Failure {
        self.failure("app.rejected").seen(format!("it says: {}", show(reason.as_bytes())))
    }

    fn closed(&self) -> Failure {
        self.failure("app.closed").seen("the connection was closed before a byte of an answer came")
    }

    fn silent(&self) -> Failure {
        let limit = crate::failure::seconds(self.limit);
        Failure::of("app.silent", &self.words().with("duration", &limit))
            .at(Stage::App)
            .seen(format!("no answer within {limit} after the connection was accepted"))
    }

    fn broken(&self, error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Failure::of("target.reset", &self.words()).at(Stage::App).seen(error.to_string())
            }
            // A TLS session reports what is wrong with records as invalid data.
            _ => self.failure("app.closed").seen(error.to_string()),
        }
    }
}

/// Bytes for people: escaped, cut to [`SHOWN`], in quotes.
pub(crate) fn show(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN)];
    let more = if bytes.len() > SHOWN { "…" } else { "" };
    format!("\"{}\"{more}", cut.escape_ascii())
}

/// The protocol that an answer belongs to, by its first bytes.
fn guess(answer: &[u8]) -> Option<&'static str> {
    let starts = |prefix: &[u8]| answer.starts_with(prefix);
    if starts(b"SSH-") {
        Some("SSH")
    } else if starts(b"HTTP/") || starts(b"<!DOCTYPE") || starts(b"<html") {
        Some("HTTP")
    } else if starts(b"220") || starts(b"554 ") {
        Some("SMTP or FTP")
    } else if starts(b"+OK") {
        Some("POP3")
    } else if starts(b"* OK") {
        Some("IMAP")
    } else if starts(b"+PONG") || starts(b"-ERR") || starts(b"-NOAUTH") {
        Some("Redis")
    } else if answer.len() > 5 && answer[3] == 0 && (answer[4] == 10 || answer[4] == 0xff) {
        Some("MySQL")
    } else if starts(&[0x15, 0x03]) || starts(&[0x16, 0x03]) {
        Some("TLS")
    } else {
        None
    }
}
