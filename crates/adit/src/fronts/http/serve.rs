//! The server's side of an HTTP proxy connection.

use std::io;
use std::time::Duration;

use adit_path::{ConnectFailure, ResolveFailure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::body::{ChunkScanner, Framing};
use super::head::{Head, HeadError, MAX_HEAD, ResponseHead, Route, parse_request, parse_response};
use crate::fronts::Credentials;
use crate::fronts::accept::linger;
use crate::fronts::dial::{DialFailure, Dialer, Stream};

/// How long a client may take over a head, and how long a kept connection may rest.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
/// How long a target may take before its answer begins.
const ANSWER_PATIENCE: Duration = Duration::from_secs(300);
const BUFFER: usize = 16 * 1024;

/// Serves the requests of one connection.
pub(crate) async fn serve(
    mut client: TcpStream,
    dialer: &Dialer,
    credentials: Option<&Credentials>,
) -> io::Result<()> {
    loop {
        let head = match timeout(HEAD_PATIENCE, read_head(&mut client)).await {
            Ok(Ok(Some(Ok(head)))) => head,
            Ok(Ok(Some(Err(error)))) => return refuse(client, &Answer::bad_request(&error)).await,
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        };
        if let Some(credentials) = credentials
            && !head.authorization.as_deref().is_some_and(|value| credentials.admit_basic(value))
        {
            return refuse(client, &Answer::unauthorized()).await;
        }
        let dialled = match dialer.dial(&head.target).await {
            Ok(dialled) => dialled,
            Err(failure) => {
                tracing::debug!(target = %head.target, %failure, "a proxied connection was not made");
                return refuse(client, &Answer::unreachable(&head, &failure)).await;
            }
        };
        match head.route {
            Route::Tunnel => {
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                return dialled.relay(client).await;
            }
            Route::Plain { head: request, framing, is_head } => {
                let target = dialled.into_stream()?;
                let exchange = Exchange { request, framing, is_head, keep_alive: head.keep_alive };
                match exchange.run(&mut client, target).await? {
                    Ok(true) => {}
                    Ok(false) => return linger(client).await,
                    Err(answer) => return refuse(client, &answer).await,
                }
            }
        }
    }
}

/// Reads exactly one head: what follows it may belong to a tunnel's target. `None` at the end of the stream.
async fn read_head(client: &mut TcpStream) -> io::Result<Option<Result<Head, HeadError>>> {
    let mut bytes = Vec::new();
    loop {
        let have = bytes.len();
        bytes.resize(have + BUFFER, 0);
        let seen = client.peek(&mut bytes[have..]).await?;
        if seen == 0 {
            return Ok(None);
        }
        bytes.truncate(have + seen);
        let parsed = parse_request(&bytes);
        let used = match &parsed {
            Ok(Some((_, used))) => *used,
            Ok(None) | Err(_) => bytes.len(),
        };
        client.read_exact(&mut bytes[have..used.max(have)]).await?;
        match parsed {
            Ok(Some((head, _))) => return Ok(Some(Ok(head))),
            Ok(None) => {}
            Err(error) => return Ok(Some(Err(error))),
        }
    }
}

/// A plain request on its way.
struct Exchange {
    request: Vec<u8>,
    framing: Framing,
    is_head: bool,
    keep_alive: bool,
}

impl Exchange {
    /// Sends the request and brings back the response. Whether the client's connection can go on, or what to
    /// tell it while nothing of a response has been sent.
    async fn run(self, client: &mut TcpStream, target: Box<dyn Stream>) -> io::Result<Result<bool, Answer>> {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_target, mut to_target) = tokio::io::split(target);
        let upload = async {
            to_target.write_all(&self.request).await?;
            send_body(&mut from_client, &mut to_target, self.framing).await?;
            to_target.flush().await
        };
        let download = self.download(&mut from_target, &mut to_client);
        tokio::pin!(upload, download);
        let mut uploaded = None;
        let outcome = loop {
            tokio::select! {
                // A target that closes early may have answered all the same.
                sent = &mut upload, if uploaded.is_none() => uploaded = Some(sent.is_ok()),
                outcome = &mut download => break outcome?,
            }
        };
        Ok(outcome.map(|complete| complete && self.keep_alive && uploaded == Some(true)))
    }

    /// Brings the response to the client. Whether its end was marked, so that the connection can go on.
    async fn download(
        &self,
        target: &mut (impl AsyncRead + Unpin),
        client: &mut WriteHalf<'_>,
    ) -> io::Result<Result<bool, Answer>> {
        let mut bytes = Vec::new();
        let head = loop {
            let head = match timeout(ANSWER_PATIENCE, read_response(target, &mut bytes, self.is_head)).await {
                Ok(Ok(head)) => head,
                Ok(Err(answer)) => return Ok(Err(answer)),
                Err(_) => return Ok(Err(Answer::silent())),
            };
            match head.status {
                101 => return Ok(Err(Answer::broken("the target switched protocols unasked"))),
                100..200 => {
                    client.write_all(&head.lines).await?;
                    client.write_all(b"\r\n").await?;
                }
                _ => break head,
            }
        };
        let marked = head.framing != Framing::UntilClose;
        let connection = if marked && self.keep_alive { "keep-alive" } else { "close" };
        let mut lines = head.lines;
        lines.extend_from_slice(format!("Connection: {connection}\r\n\r\n").as_bytes());
        client.write_all(&lines).await?;
        relay_body(&bytes, target, client, head.framing).await.map(|complete| Ok(marked && complete))
    }
}

/// Reads the head of a response; bytes of the body stay in `bytes`.
async fn read_response(
    target: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    is_head: bool,
) -> Result<ResponseHead, Answer> {
    loop {
        match parse_response(bytes, is_head) {
            Ok(Some((head, used))) => {
                bytes.drain(..used);
                return Ok(head);
            }
            Ok(None) => {}
            Err(error) => return Err(Answer::broken(&format!("the target's answer is not HTTP: {error}"))),
        }
        match target.take(MAX_HEAD as u64).read_buf(bytes).await {
            Ok(0) => return Err(Answer::broken("the target closed the connection without an answer")),
            Ok(_) => {}
            Err(error) => {
                return Err(Answer::broken(&format!("the connection to the target broke: {error}")));
            }
        }
    }
}

/// Sends a request's body, and not a byte more of what the client sends.
async fn send_body(
    client: &mut ReadHalf<'_>,
    target: &mut (impl AsyncWrite + Unpin),
    framing: Framing,
) -> io::Result<()> {
    match framing {
        Framing::Empty | Framing::UntilClose => Ok(()),
        Framing::Length(length) => {
            let copied = tokio::io::copy(&mut client.take(length), target).await?;
            if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        }
        Framing::Chunked => {
            let mut scanner = ChunkScanner::default();
            let mut buffer = vec![0; BUFFER];
            while !scanner.is_done() {
                let seen = client.peek(&mut buffer).await?;
                if seen == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let used = scanner.scan(&buffer[..seen]).map_err(io::Error::other)?;
                client.read_exact(&mut buffer[..used]).await?;
                target.write_all(&buffer[..used]).await?;
            }
            Ok(())
        }
    }
}

/// Brings a response's body to the client, `first` being its first bytes; whether it was complete.
async fn relay_body(
    first: &[u8],
    target: &mut (impl AsyncRead + Unpin),
    client: &mut WriteHalf<'_>,
    framing: Framing,
) -> io::Result<bool> {
    let mut body = first.chain(target);
    match framing {
        Framing::Empty => Ok(true),
        Framing::UntilClose => tokio::io::copy(&mut body, client).await.map(|_| true),
        Framing::Length(length) => {
            tokio::io::copy(&mut body.take(length), client).await.map(|copied| copied == length)
        }
        Framing::Chunked => {
            let mut scanner = ChunkScanner::default();
            let mut buffer = vec![0; BUFFER];
            while !scanner.is_done() {
                let read = body.read(&mut buffer).await?;
                let Ok(used) = scanner.scan(&buffer[..read]) else { return Ok(false) };
                client.write_all(&buffer[..used]).await?;
                if read == 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

/// An answer of the proxy itself.
struct Answer {
    status: &'static str,
    /// The error type (RFC 9209 §2.3).
    error: &'static str,
    sentence: String,
}

impl Answer {
    fn bad_request(error: &HeadError) -> Self {
        let status = match error {
            HeadError::TooLong => "431 Request Header Fields Too Large",
            HeadError::Malformed(_)
            | HeadError::NotProxied(_)
            | HeadError::Scheme(_)
            | HeadError::Target(_)
            | HeadError::AmbiguousLength => "400 Bad Request",
        };
        Self { status, error: "http_request_error", sentence: error.to_string() }
    }

    fn unauthorized() -> Self {
        Self {
            status: "407 Proxy Authentication Required",
            error: "http_request_denied",
            sentence: "this proxy wants a user name and password".to_owned(),
        }
    }

    fn unreachable(head: &Head, failure: &DialFailure) -> Self {
        let (status, error) = classify(failure);
        Self { status, error, sentence: format!("{}: {failure}", head.target) }
    }

    fn broken(sentence: &str) -> Self {
        Self { status: "502 Bad Gateway", error: "connection_terminated", sentence: sentence.to_owned() }
    }

    fn silent() -> Self {
        Self {
            status: "504 Gateway Timeout",
            error: "connection_read_timeout",
            sentence: format!("the target did not answer within {ANSWER_PATIENCE:?}"),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let Self { status, error, sentence } = self;
        let challenge =
            if status.starts_with("407") { "Proxy-Authenticate: Basic realm=\"adit\"\r\n" } else { "" };
        format!(
            "HTTP/1.1 {status}\r\nProxy-Status: adit; error={error}\r\n{challenge}\
             Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\nadit: {sentence}\n",
            sentence.len() + "adit: \n".len()
        )
        .into_bytes()
    }
}

/// The status and the error type (RFC 9209 §2.3) of a connection that was not made.
fn classify(failure: &DialFailure) -> (&'static str, &'static str) {
    const BAD: &str = "502 Bad Gateway";
    const LATE: &str = "504 Gateway Timeout";
    match failure {
        DialFailure::Resolve(ResolveFailure::Silent { .. }) => (LATE, "dns_timeout"),
        DialFailure::Resolve(ResolveFailure::Down(_) | ResolveFailure::Closed) | DialFailure::NotReady => {
            (BAD, "destination_unavailable")
        }
        DialFailure::Resolve(_) | DialFailure::NoAddress(_) => (BAD, "dns_error"),
        DialFailure::Connect(failure) => match failure {
            ConnectFailure::Refused => (BAD, "connection_refused"),
            ConnectFailure::Reset => (BAD, "connection_terminated"),
            ConnectFailure::TimedOut(_) => (LATE, "connection_timeout"),
            ConnectFailure::Unreachable { .. } | ConnectFailure::NoRoute(_) => {
                (BAD, "destination_ip_unroutable")
            }
            ConnectFailure::Denied(_) => ("403 Forbidden", "destination_ip_prohibited"),
            ConnectFailure::Exhausted(_) => ("503 Service Unavailable", "connection_limit_reached"),
            ConnectFailure::Down(_) | ConnectFailure::Closed => (BAD, "destination_unavailable"),
        },
        DialFailure::Outside(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => (BAD, "connection_refused"),
            io::ErrorKind::TimedOut => (LATE, "connection_timeout"),
            _ => (BAD, "destination_unavailable"),
        },
    }
}

async fn refuse(mut client: TcpStream, answer: &Answer) -> io::Result<()> {
    client.write_all(&answer.encode()).await?;
    linger(client).await
}
