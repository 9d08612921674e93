//! Protocols in which the server introduces itself, or answers one line.

use super::{Evidence, Wire, show};
use crate::Failure;
use crate::dialer::Stream;

/// The server's identification string (RFC 4253 §4.2); other lines may come before it.
pub(super) async fn ssh(stream: &mut dyn Stream, wire: &Wire<'_>) -> Result<Evidence, Failure> {
    let is_version = |line: &[u8]| line.starts_with(b"SSH-");
    let complete = |answer: &[u8]| answer.split(|byte| *byte == b'\n').any(is_version);
    // A server of another protocol that speaks first never completes a version line: what it said decides.
    let answer = first_line_or(stream, wire, complete).await?;
    match answer.split(|byte| *byte == b'\n').find(|line| is_version(line)) {
        Some(line) => Ok(banner("ssh", line)),
        None => Err(wire.unexpected(&answer)),
    }
}

/// The greeting 220 (RFC 5321 §4.2); 421 and 554 are the server's refusal.
pub(super) async fn smtp(stream: &mut dyn Stream, wire: &Wire<'_>) -> Result<Evidence, Failure> {
    let answer = first_line_or(stream, wire, |_| false).await?;
    let line = first_line(&answer);
    match line.get(..3) {
        Some(b"220") => Ok(banner("smtp", line)),
        Some(b"421" | b"554") => Err(wire.rejected(&String::from_utf8_lossy(line))),
        _ => Err(wire.unexpected(&answer)),
    }
}

/// The initial handshake packet (protocol version 10) or an error packet.
pub(super) async fn mysql(stream: &mut dyn Stream, wire: &Wire<'_>) -> Result<Evidence, Failure> {
    let length =
        |answer: &[u8]| answer.first_chunk::<4>().map(|[a, b, c, _]| u32::from_le_bytes([*a, *b, *c, 0]));
    let answer = wire
        .receive(stream, |answer| match length(answer) {
            Some(length) if (1..4096).contains(&length) && answer[3] == 0 => {
                answer.len() >= 4 + length as usize
            }
            Some(_) => true,
            None => false,
        })
        .await?;
    match (length(&answer), answer.get(3..5)) {
        (Some(1..4096), Some([0, 10])) => {
            let version = answer[5..].split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(banner("mysql", version))
        }
        (Some(1..4096), Some([0, 0xff])) => {
            Err(wire.rejected(&String::from_utf8_lossy(answer.get(7..).unwrap_or_default())))
        }
        _ => Err(wire.unexpected(&answer)),
    }
}

/// PING; a server that wants a password first says so, and is Redis too.
pub(super) async fn redis(stream: &mut dyn Stream, wire: &Wire<'_>) -> Result<Evidence, Failure> {
    wire.send(stream, b"PING\r\n").await?;
    let answer = first_line_or(stream, wire, |_| false).await?;
    let line = first_line(&answer);
    if line == b"+PONG" {
        return Ok(banner("redis", line));
    }
    if line.starts_with(b"-NOAUTH") || line.starts_with(b"-LOADING") {
        return Ok(banner("redis", line));
    }
    if line.starts_with(b"-DENIED") || line.starts_with(b"-ERR max") {
        return Err(wire.rejected(&String::from_utf8_lossy(line)));
    }
    Err(wire.unexpected(&answer))
}

/// Reads a line, or until `complete` is content.
async fn first_line_or(
    stream: &mut dyn Stream,
    wire: &Wire<'_>,
    complete: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, Failure> {
    let mut answer = wire.receive(stream, |answer| answer.contains(&b'\n') || answer.len() >= 256).await?;
    // RFC 4253 allows lines before the one that counts; give them one more moment.
    for _ in 0..8 {
        if complete(&answer) || answer.len() >= 4096 {
            break;
        }
        let before = answer.len();
        wire.linger(stream, &mut answer).await;
        if answer.len() == before {
            break;
        }
    }
    Ok(answer)
}

fn first_line(answer: &[u8]) -> &[u8] {
    answer.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end()
}

fn banner(protocol: &str, line: &[u8]) -> Evidence {
    Evidence::from_iter([
        ("protocol".to_owned(), protocol.into()),
        ("seen".to_owned(), show(line.trim_ascii_end()).into()),
    ])
}
