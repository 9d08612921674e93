//! An HTTP/1.1 server (RFC 9112): `/`, `/healthz` and `/blob?bytes=N`, with persistent connections.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Duplex;

/// The largest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// The largest blob, in bytes.
const MAX_BLOB: u64 = 1 << 30;

const CHUNK: usize = 64 * 1024;

/// Serves one connection; returns when either side ends it.
///
/// # Errors
///
/// The connection broke.
pub async fn http(mut stream: impl Duplex, name: &str) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read_request(&mut stream, &mut buffer).await? else { return Ok(()) };
        let (status, kind, body) = answer(&request, name);
        let length = body.length();
        let connection = if request.keep_alive { "keep-alive" } else { "close" };
        let head = format!(
            "HTTP/1.1 {status}\r\nServer: adit-demo\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        if request.method != "HEAD" {
            match body {
                Body::Text(text) => stream.write_all(text.as_bytes()).await?,
                Body::Blob(bytes) => write_blob(&mut stream, bytes).await?,
            }
        }
        stream.flush().await?;
        if !request.keep_alive {
            return stream.shutdown().await;
        }
    }
}

struct Request {
    method: String,
    path: String,
    keep_alive: bool,
    valid: bool,
}

/// Reads a head; `None` at the end of the stream. What was read beyond it stays in `buffer`.
async fn read_request(stream: &mut impl Duplex, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(buffer) {
            Ok(httparse::Status::Complete(length)) => {
                let request = understand(&parsed);
                buffer.drain(..length);
                return Ok(Some(request));
            }
            Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD => {}
            Ok(httparse::Status::Partial) | Err(_) => return Ok(Some(Request::invalid())),
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

impl Request {
    fn invalid() -> Self {
        Self { method: String::new(), path: String::new(), keep_alive: false, valid: false }
    }
}

fn understand(parsed: &httparse::Request<'_, '_>) -> Request {
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).to_ascii_lowercase())
    };
    let close = header("connection").is_some_and(|value| value.contains("close"));
    // A body would have to be read before the next head; this server needs none and hangs up instead.
    let has_body =
        header("transfer-encoding").is_some() || header("content-length").is_some_and(|value| value != "0");
    Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: parsed.path.unwrap_or_default().to_owned(),
        keep_alive: parsed.version == Some(1) && !close && !has_body,
        valid: true,
    }
}

enum Body {
    Text(String),
    Blob(u64),
}

impl Body {
    fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Blob(bytes) => *bytes,
        }
    }
}

fn answer(request: &Request, name: &str) -> (&'static str, &'static str, Body) {
    const TEXT: &str = "text/plain; charset=utf-8";
    let text = |status, text: &str| (status, TEXT, Body::Text(text.to_owned()));
    if !request.valid {
        return text("400 Bad Request", "this is not an HTTP request\n");
    }
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return text("405 Method Not Allowed", "only GET and HEAD are served here\n");
    }
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    match path {
        "/" => text("200 OK", &format!("Hello from {name}, inside the private network.\n")),
        "/healthz" => text("200 OK", "ok\n"),
        "/blob" => {
            let bytes = query.split('&').find_map(|pair| pair.strip_prefix("bytes="));
            match bytes.unwrap_or("65536").parse() {
                Ok(bytes) if bytes <= MAX_BLOB => ("200 OK", "application/octet-stream", Body::Blob(bytes)),
                _ => text("400 Bad Request", "bytes is a number up to 1073741824\n"),
            }
        }
        _ => text("404 Not Found", "there are /, /healthz and /blob?bytes=N\n"),
    }
}

/// Byte `n` of a blob is `n * 167 mod 251`, so that a shifted or doubled piece shows.
async fn write_blob(stream: &mut impl Duplex, bytes: u64) -> io::Result<()> {
    let pattern: Vec<u8> = (0..251 * 512u32).map(|n| (n * 167 % 251) as u8).collect();
    let mut left = bytes;
    let mut at = 0;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK).min(pattern.len() - at);
        stream.write_all(&pattern[at..at + length]).await?;
        at = (at + length) % pattern.len();
        left -= length as u64;
    }
    Ok(())
}
