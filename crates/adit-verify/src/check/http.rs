//! HTTP/1.1 (RFC 9112): one request, the status line of the answer.

use std::ops::RangeInclusive;

use adit_path::Destination;

use super::{Evidence, Wire};
use crate::Failure;
use crate::dialer::Stream;

pub(super) struct Request<'a> {
    pub(super) host: &'a Destination,
    pub(super) port: u16,
    pub(super) path: &'a str,
    pub(super) status: &'a RangeInclusive<u16>,
}

pub(super) async fn check(
    stream: &mut dyn Stream,
    request: &Request<'_>,
    wire: &Wire<'_>,
) -> Result<Evidence, Failure> {
    let host = match request.host {
        Destination::Address(address) if address.is_ipv6() => format!("[{address}]"),
        host => host.to_string(),
    };
    let port = if matches!(request.port, 80 | 443) { String::new() } else { format!(":{}", request.port) };
    let text = format!(
        "GET {} HTTP/1.1\r\nHost: {host}{port}\r\nUser-Agent: adit/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        request.path,
        env!("CARGO_PKG_VERSION"),
    );
    wire.send(stream, text.as_bytes()).await?;
    let answer = wire
        .receive(stream, |answer| {
            // Whatever does not begin like HTTP is known for wrong after its first bytes.
            let prefix = answer.len().min(5);
            answer[..prefix] != b"HTTP/"[..prefix] || answer.windows(4).any(|window| window == b"\r\n\r\n")
        })
        .await?;
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    let status = match response.parse(&answer) {
        Ok(_) => response.code,
        Err(_) => None,
    };
    let Some(status) = status else { return Err(wire.unexpected(&answer)) };
    if request.status.contains(&status) {
        return Ok(Evidence::from_iter([
            ("protocol".to_owned(), "http".into()),
            ("status".to_owned(), status.into()),
        ]));
    }
    Err(rejected(&response, status, request.status, wire))
}

fn rejected(
    response: &httparse::Response<'_, '_>,
    status: u16,
    expected: &RangeInclusive<u16>,
    wire: &Wire<'_>,
) -> Failure {
    let expected = match (expected.start(), expected.end()) {
        (low, high) if low == high => low.to_string(),
        (low, high) => format!("{low}-{high}"),
    };
    let words = wire.words().with("status", status).with("expected", expected);
    let failure = Failure::of("app.http_status", &words)
        .at(crate::Stage::App)
        .seen(format!("HTTP status {status} {}", response.reason.unwrap_or_default()).trim_end().to_owned());
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(super::show(found.value))
    };
    match (header("location"), header("server")) {
        (Some(location), _) => failure.seen(format!("it points to {location}")),
        (None, Some(server)) => failure.seen(format!("the server calls itself {server}")),
        (None, None) => failure,
    }
}
