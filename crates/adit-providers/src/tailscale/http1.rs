//! As much of HTTP/1.1 as fetching the server's key and switching protocols takes (RFC 9112).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// No head of an answer is larger.
const HEAD_LIMIT: usize = 16 * 1024;
/// No body is larger.
const BODY_LIMIT: usize = 64 * 1024;
const HEADERS: usize = 64;

/// The head of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The status code.
    pub(super) status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a header; `name` is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Sends a request without a body and reads the head of the answer; also returns what came behind it.
pub(super) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &str,
) -> io::Result<(Head, Vec<u8>)> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut received = Vec::new();
    loop {
        if let Some((head, length)) = head(&received)? {
            return Ok((head, received.split_off(length)));
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The head of the answer and how many bytes it takes, with interim answers before it; `None` if it is not all here.
fn head(received: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut skipped = 0;
    while let Some((head, length)) = parse(&received[skipped..])? {
        skipped += length;
        // An interim answer is followed by the real one.
        if head.status == 101 || !(100..200).contains(&head.status) {
            return Ok(Some((head, skipped)));
        }
    }
    if received.len() > HEAD_LIMIT {
        return Err(invalid("the head of the answer is too large"));
    }
    Ok(None)
}

fn parse(received: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(received) {
        Ok(httparse::Status::Complete(length)) => {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers =
                response.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h.value))).collect();
            Ok(Some((Head { status: response.code.unwrap_or(0), headers }, length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(invalid("the answer is no HTTP/1.1")),
    }
}

/// Reads the body that belongs to `head`; `rest` is what is here of it. What is over the limit is an error.
pub(super) async fn body(
    stream: &mut (impl AsyncRead + Unpin),
    head: &Head,
    mut rest: Vec<u8>,
) -> io::Result<Vec<u8>> {
    let mut ended = false;
    loop {
        if let Some(body) = whole(head, &rest, ended)? {
            return Ok(body);
        }
        ended = stream.read_buf(&mut rest).await? == 0;
    }
}

/// The body that belongs to `head`, if all of it is in `rest`. `ended` tells that no more comes.
fn whole(head: &Head, rest: &[u8], ended: bool) -> io::Result<Option<Vec<u8>>> {
    let coding = head.header("transfer-encoding").unwrap_or_default();
    let body = if coding.to_ascii_lowercase().contains("chunked") {
        dechunked(rest)?
    } else if let Some(length) = head.header("content-length") {
        let length = length.trim().parse::<usize>();
        let length = length.map_err(|_| invalid("the length of the answer is no number"))?;
        rest.get(..length).map(<[u8]>::to_vec)
    } else {
        ended.then(|| rest.to_vec())
    };
    match body {
        Some(body) if body.len() <= BODY_LIMIT => Ok(Some(body)),
        None if ended => Err(io::ErrorKind::UnexpectedEof.into()),
        None if rest.len() <= BODY_LIMIT => Ok(None),
        _ => Err(invalid("the answer is too large")),
    }
}

/// Status and body of the answer that these bytes are, after which the connection ended; how the requests to a control
/// server and to the API read them.
///
/// # Errors
///
/// They are no whole answer, or one that is too large.
pub fn answer(received: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let (head, length) = head(received)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let body = whole(&head, &received[length..], true)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((head.status, body))
}

/// The content of chunks (RFC 9112 §7.1); `None` if the last has not come.
fn dechunked(mut bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(invalid("the answer has a wrong chunk")),
        };
        if size == 0 {
            return Ok(Some(body));
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= BODY_LIMIT);
        let size = size.ok_or_else(|| invalid("the answer has a chunk that is too large"))?;
        let Some(rest) = bytes.get(start..) else { return Ok(None) };
        let (Some(chunk), Some(after)) = (rest.get(..size), rest.get(size + 2..)) else { return Ok(None) };
        body.extend_from_slice(chunk);
        bytes = after;
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &'static [u8], piece: usize) -> io::Result<(u16, Vec<u8>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = tokio::io::duplex(piece);
            let server = tokio::spawn(async move {
                let mut request = [0; 4];
                far.read_exact(&mut request).await?;
                far.write_all(answer).await
            });
            let (head, rest) = exchange(&mut near, "GET ").await?;
            let body = body(&mut near, &head, rest).await?;
            server.await.unwrap()?;
            Ok((head.status, body))
        })
    }

    #[test]
    fn bodies_end_by_length_by_chunks_or_with_the_connection() {
        for piece in [4, 7, 4096] {
            for answer in [
                &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nhello",
            ] {
                assert_eq!(read(answer, piece).unwrap(), (200, b"hello".to_vec()));
            }
        }
    }

    #[test]
    fn answers_that_are_cut_or_nonsense_are_errors() {
        for wrong in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffff\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"",
        ] {
            assert!(read(wrong, 4096).is_err());
        }
    }
}
