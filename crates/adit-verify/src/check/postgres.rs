//! PostgreSQL, by the answer to an SSLRequest (protocol documentation, "Message Formats").

use super::{Evidence, Wire};
use crate::Failure;
use crate::dialer::Stream;

/// Length 8 and the request code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

pub(super) async fn check(stream: &mut dyn Stream, wire: &Wire<'_>) -> Result<Evidence, Failure> {
    wire.send(stream, &SSL_REQUEST).await?;
    let mut answer = wire.receive(stream, |answer| !answer.is_empty()).await?;
    if answer.len() == 1 && matches!(answer[0], b'S' | b'N') {
        wire.linger(stream, &mut answer).await;
    }
    match answer.as_slice() {
        [b'S'] => Ok(tls("offered")),
        [b'N'] => Ok(tls("not offered")),
        // A server that turns us away before it looks at the request answers with an ErrorResponse.
        [b'E', rest @ ..] if error_fields(rest).is_some() => {
            Err(wire.rejected(&error_fields(rest).unwrap_or_default()))
        }
        _ => Err(wire.unexpected(&answer)),
    }
}

fn tls(offered: &str) -> Evidence {
    Evidence::from_iter([("protocol".to_owned(), "postgres".into()), ("tls".to_owned(), offered.into())])
}

/// The message field `M` of an ErrorResponse: a length, then fields of a type byte and a C string.
fn error_fields(rest: &[u8]) -> Option<String> {
    let (length, body) = rest.split_first_chunk::<4>()?;
    if !(5..=16_384).contains(&u32::from_be_bytes(*length)) {
        return None;
    }
    let message = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"M"))?;
    Some(String::from_utf8_lossy(message).into_owned())
}
