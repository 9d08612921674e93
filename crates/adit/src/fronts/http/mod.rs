//! The HTTP proxy (RFC 9110, RFC 9112): CONNECT, and plain requests in absolute form.

mod body;
mod head;
mod serve;

pub use body::{BodyError, ChunkScanner, Framing};
pub use head::{Head, HeadError, MAX_HEAD, ResponseHead, Route, parse_request, parse_response};
pub(super) use serve::serve;
